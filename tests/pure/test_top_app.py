"""The live view, on a terminal that textual pretends to have: no daemon, statuses given by hand."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from pathlib import Path

from textual.containers import VerticalScroll
from textual.pilot import Pilot

from faucet_client.address import parse_address
from faucet_client.errors import DaemonLost
from faucetd.top.app import Seen, TopApp
from faucetd.top.rates import Look
from tests.pure.test_status_output import READER, STATUS

MANY = tuple(dataclasses.replace(READER, job=f"lr-{n}") for n in range(64))


def on_screen(app: TopApp) -> str:
    """What can be seen now."""
    return "\n".join(
        "".join(part.text for part in strip) for strip in app.screen._compositor.render_strips()
    )


def show(folder: Path, look: Callable[[TopApp, Pilot[None]], Awaitable[None]]) -> None:
    """Runs the view at 80x24 where no daemon is, which it looks for once an hour."""

    async def run() -> None:
        app = TopApp(parse_address(f"unix://{folder}/none.sock"), interval_s=3600.0)
        async with app.run_test(size=(80, 24)) as pilot:
            while "the daemon is not there" not in on_screen(app):
                await pilot.pause(0.01)
            await look(app, pilot)

    asyncio.run(asyncio.wait_for(run(), 60))


async def seen(app: TopApp, pilot: Pilot[None], at_s: float = 1.0) -> None:
    status = dataclasses.replace(STATUS, uptime_s=at_s, readers=MANY)
    app.post_message(Seen(Look(status, at_s)))
    await pilot.pause()
    await pilot.pause()


def test_more_readers_than_fit_are_scrolled_to_while_the_memory_stays_in_sight(
    tmp_path: Path,
) -> None:
    async def look(app: TopApp, pilot: Pilot[None]) -> None:
        await seen(app, pilot)
        assert "lr-0 " in on_screen(app)
        assert "lr-63 " not in on_screen(app)
        await pilot.press("end")
        await pilot.pause(0.5)
        assert "lr-63 " in on_screen(app)
        assert "memory " in on_screen(app)
        scroll = app.query_one(VerticalScroll)
        at = scroll.scroll_offset.y
        await pilot.press("k", "k", "j")
        await pilot.pause()
        assert scroll.scroll_offset.y == at - 1
        await seen(app, pilot, 2.0)  # a new status does not jump back
        assert scroll.scroll_offset.y == at - 1

    show(tmp_path, look)


def test_a_daemon_that_goes_away_is_said_to_and_is_shown_again_when_it_is_back(
    tmp_path: Path,
) -> None:
    async def look(app: TopApp, pilot: Pilot[None]) -> None:
        await seen(app, pilot)
        assert "not there" not in on_screen(app)
        app.post_message(Seen(DaemonLost("it was stopped")))
        await pilot.pause()
        await pilot.pause()
        assert "the daemon is not there: it was stopped" in on_screen(app)
        assert "lr-0 " in on_screen(app)  # as it was
        await seen(app, pilot, 0.5)
        assert "not there" not in on_screen(app)
        assert "up 0 s" in on_screen(app)

    show(tmp_path, look)


def test_it_is_drawn_anew_when_the_terminal_is_resized(tmp_path: Path) -> None:
    async def look(app: TopApp, pilot: Pilot[None]) -> None:
        await seen(app, pilot)
        assert "PROCESS" not in on_screen(app)
        await pilot.resize_terminal(140, 30)
        await pilot.pause()
        assert "PROCESS" in on_screen(app)
        assert {len(line) for line in on_screen(app).splitlines()} == {140}

    show(tmp_path, look)
