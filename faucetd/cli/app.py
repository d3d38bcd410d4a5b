"""The group of commands, and what happens to their errors."""

from __future__ import annotations

import click

from faucet_client._version import __version__
from faucet_client.errors import FaucetError
from faucetd.cli import exits
from faucetd.cli.config import check_config, config
from faucetd.cli.demo import demo
from faucetd.cli.health import health
from faucetd.cli.inspect import drop, profile, status
from faucetd.cli.serve import serve
from faucetd.cli.top import top
from faucetd.cli.version import version


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="faucetd", message="%(prog)s %(version)s")
def faucetd() -> None:
    """Serves shuffled mini-batches of a table to training processes, through shared memory.

    One daemon runs beside the trainers of a machine. It reads each chunk of a table once, and all
    trainers map the same memory.

    \b
    A first look, with real data and four trainers:
      faucetd demo

    \b
    A daemon that may read the files under /data:
      faucetd serve --allowed-roots /data --memory-budget 4GiB

    \b
    What it does, from another terminal:
      faucetd top

    Exit codes: 0 well, 1 failed, 2 wrong usage, 75 another daemon serves the address, 78 wrong
    settings.
    """


for command in (serve, demo, status, top, profile, health, drop, check_config, config, version):
    faucetd.add_command(command)


def run() -> int:
    """Runs the command line of this process, and returns its exit code."""
    try:
        # Without click's own ending, so that errors of ours are met here, in one place.
        code = faucetd.main(prog_name="faucetd", standalone_mode=False)
        return code if isinstance(code, int) else exits.OK
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return exits.INTERRUPTED
    except FaucetError as error:
        click.echo(f"faucetd: {error}", err=True)
        return exits.exit_code(error)
