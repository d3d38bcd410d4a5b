"""The live view on a terminal: keys, scrolling and resizing are textual's."""

from __future__ import annotations

import asyncio
import signal
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.events import Resize
from textual.message import Message
from textual.widgets import Static

from faucet_client.address import Address
from faucet_client.errors import FaucetError
from faucetd.top.frame import View, body, header, legend
from faucetd.top.rates import History, Look
from faucetd.top.watch import Watch, Watcher

LEAVING_S = 1.0
"""How long quitting waits for a call that is under way."""


class Seen(Message):
    """What the watcher saw."""

    def __init__(self, found: Look | FaucetError) -> None:
        super().__init__()
        self.found = found


class TopApp(App[None]):
    """Shows a daemon until somebody quits.

    Args:
        address: The daemon's.
        interval_s: Between two looks.
    """

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { layout: vertical; background: ansi_default; color: ansi_default; }
    #header, #footer, #gone { height: auto; background: ansi_default; }
    #header { margin-bottom: 1; }
    #gone { display: none; }
    .stale { text-style: dim; }
    VerticalScroll { height: 1fr; scrollbar-size-vertical: 1; background: ansi_default; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,escape,ctrl+c", "quit", "quit", priority=True),
        Binding("j", "scroll(1)", show=False),
        Binding("k", "scroll(-1)", show=False),
    ]

    def __init__(self, address: Address, interval_s: float) -> None:
        super().__init__(ansi_color=True)
        self._address = address
        self._history = History()
        self._view: View | None = None
        self._width = 80
        self._watcher = Watcher(
            Watch(address), interval_s, lambda found: self.post_message(Seen(found))
        )

    def compose(self) -> ComposeResult:
        """The header, what scrolls, and the line at the end."""
        yield Static(id="header")
        yield Static(id="gone")
        with VerticalScroll():
            yield Static(id="body")
        yield Static(id="footer")

    def on_mount(self) -> None:
        """Begins to look."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.exit)
        self.query_one(VerticalScroll).focus()
        self._say_gone(f"looking for the daemon at {self._address} …")
        self._watcher.start()

    def on_unmount(self) -> None:
        """Ends the looking."""
        self._watcher.end(LEAVING_S)

    def on_seen(self, message: Seen) -> None:
        """Shows the daemon as it is, or as it was and that it is not there."""
        if isinstance(message.found, FaucetError):
            self._say_gone(f"the daemon is not there: {message.found}")
            return
        self.query_one("#gone").display = False
        self.query_one("#body").remove_class("stale")
        self._view = View(message.found.status, self._history.add(message.found))
        self._draw()

    def on_resize(self, event: Resize) -> None:
        """Draws again, for the new size."""
        self._width = event.size.width
        self._draw()

    def action_scroll(self, lines: int) -> None:
        """Scrolls by lines."""
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)

    def _draw(self) -> None:
        footer = Text.assemble(("q", "bold"), " quit  ", ("↑↓", "bold"), " scroll    ")
        self.query_one("#footer", Static).update(footer.append_text(legend()))
        if self._view is None:
            return
        width = self._width - 1  # the scrollbar's
        self.query_one("#header", Static).update(header(self._view, width))
        self.query_one("#body", Static).update(body(self._view, width))

    def _say_gone(self, text: str) -> None:
        gone = self.query_one("#gone", Static)
        gone.update(Text(text, "bold yellow"))
        gone.display = True
        self.query_one("#body").add_class("stale")
