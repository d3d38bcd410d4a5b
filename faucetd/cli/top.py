"""`faucetd top`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from faucet_client.address import Address
from faucet_client.errors import DaemonUnreachable
from faucetd.cli.options import OTHER_ADDRESS, address_option

if TYPE_CHECKING:
    from faucetd.top.frame import View


@click.command()
@address_option
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks.",
)
@click.option("--once", is_flag=True, help="Print one picture, of two looks, and exit.")
@click.option(
    "--svg",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="With --once: write the picture into a file instead.",
)
def top(address: Address, interval_s: float, once: bool, svg: Path | None) -> None:
    """Shows a running daemon live: memory, datasets with a map of their chunks, readers.

    It goes on when the daemon is restarted. q or Ctrl-C ends it; arrows, Page Up and Page Down
    scroll.

    \b
    Of a dataset's split, a map with a cell for each chunk (or for several, if they are many):
      ·        absent: not read yet, or evicted
      +        a worker makes it
      █        in memory; ░▒▓: some of the cell's chunks are
      1-9, *   in memory, and leased by so many readers
      ~        on disk

    \b
    Of a reader:
      EPOCH    2/4: in the second of four; the bar is of this epoch
      ROWS/S   over the last seconds, as it tells at each chunk
      WAITS    share of the time that it waited for data
      BEHIND   by how many epochs another reader of the split is further, at most
      HOLDS    shared memory that it keeps

    \b
    Examples:
      faucetd top
      faucetd top --once
      faucetd top --once --svg top.svg
    """
    if svg is not None and not once:
        raise click.UsageError("--svg needs --once")
    if once:
        _print_once(_look_twice(address, interval_s), svg)
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("the live view needs a terminal; use --once in a script")
    from faucetd.top.app import TopApp

    TopApp(address, interval_s).run()


def _look_twice(address: Address, interval_s: float) -> View:
    from faucetd.top.frame import View
    from faucetd.top.rates import History
    from faucetd.top.watch import Watch

    watch, history = Watch(address), History()
    try:
        history.add(watch.look())
        time.sleep(interval_s)
        look = watch.look()
    except DaemonUnreachable as error:
        raise DaemonUnreachable(f"{error}{OTHER_ADDRESS}") from None
    finally:
        watch.close()
    return View(look.status, history.add(look))


def _print_once(view: View, svg: Path | None) -> None:
    from rich.console import Console

    from faucetd.top.picture import as_svg, print_view

    if svg is None:
        print_view(view, Console(highlight=False))
        return
    try:
        svg.write_text(as_svg(view), encoding="utf-8")
    except OSError as error:
        raise click.ClickException(
            f"the picture cannot be written to {svg}: {error.strerror}; name another file"
        ) from None
