"""`faucetd top` as a person has it: on a terminal, and in a script."""

from __future__ import annotations

import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from faucet_client import DatasetSpec, ParquetSource
from faucet_client.testing import LocalDaemon
from tests.cli.conftest import Faucetd, clean_environ, command

ROWS = 4_000
LEAVES_SCREEN = "\x1b[?1049l"
SHOWS_CURSOR = "\x1b[?25h"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalDaemon]:
    """A daemon with a table that is being read."""
    folder = tmp_path_factory.mktemp("table")
    generator = np.random.default_rng(0)
    table = pa.table({name: generator.random(ROWS) for name in ("a", "b", "y")})
    pq.write_table(table, folder / "t.parquet", row_group_size=200)
    with LocalDaemon([folder], workers=1) as daemon:
        spec = DatasetSpec(
            source=ParquetSource(str(folder / "t.parquet")),
            features=["a", "b"],
            labels=["y"],
            sample_percent=100,
            eval_percent=0,
            chunk_rows=200,
            preprocessing="none",
        )
        with daemon.client().open(spec).batches("train", batch_size=100, job="slow") as batches:
            next(batches)
            yield daemon


class Terminal:
    """`faucetd top` on a terminal of 80x24 cells."""

    def __init__(self, address: str) -> None:
        self._ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self._theirs = theirs
        self._before = termios.tcgetattr(theirs)
        self.output = ""
        self.process = subprocess.Popen(
            [*command(), "top", "--interval", "0.1"],
            env={**clean_environ(), "FAUCET_ADDRESS": address, "TERM": "xterm-256color"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def read_until(self, done: Callable[[str], bool], timeout_s: float = 20.0) -> None:
        """Reads what it writes until `done` of what came since the last call, or fails."""
        came = ""
        deadline = time.monotonic() + timeout_s
        while not done(came):
            ready = self._writes(max(deadline - time.monotonic(), 0))
            assert ready, f"not so within {timeout_s} s; it wrote {came[-2000:]!r}"
            came += os.read(self._ours, 65_536).decode(errors="replace")
        self.output += came

    def end(self, timeout_s: float = 15.0) -> int:
        """Reads to its end; its exit code."""
        deadline = time.monotonic() + timeout_s
        while self.process.poll() is None or self._writes(0):
            assert time.monotonic() < deadline, f"it goes on: {self.output[-2000:]!r}"
            if self._writes(0.02):
                self.output += os.read(self._ours, 65_536).decode(errors="replace")
        return self.process.returncode

    def is_as_before(self) -> bool:
        """Whether the terminal's settings are those from before the view."""
        return termios.tcgetattr(self._theirs) == self._before

    def _writes(self, timeout_s: float) -> bool:
        return bool(select.select([self._ours], [], [], timeout_s)[0])

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)


@contextmanager
def terminal(address: str) -> Iterator[Terminal]:
    shown = Terminal(address)
    try:
        yield shown
    finally:
        shown.close()


def test_once_prints_one_plain_picture(faucetd: Faucetd, daemon: LocalDaemon) -> None:
    environ = {"FAUCET_ADDRESS": daemon.address, "TERM": "xterm-256color"}
    done = faucetd("top", "--once", "--interval", "0.1", env=environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    for words in ("memory ", "of 20 chunks in memory", "slow ", "train", "1/1", "· absent"):
        assert words in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_once_can_be_a_picture_in_a_file(
    faucetd: Faucetd, daemon: LocalDaemon, tmp_path: Path
) -> None:
    environ = {"FAUCET_ADDRESS": daemon.address}
    done = faucetd("top", "--once", "--interval", "0.1", "--svg", "top.svg", env=environ)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    picture = (tmp_path / "top.svg").read_text()
    assert picture.startswith("<svg")
    assert "slow" in picture
    assert "url(http" not in picture  # it needs no network


def test_the_live_view_needs_a_terminal(faucetd: Faucetd, daemon: LocalDaemon) -> None:
    done = faucetd("top", env={"FAUCET_ADDRESS": daemon.address})
    assert done.returncode == 2
    assert "--once" in done.stderr


@pytest.mark.parametrize("way", [b"q", b"\x03", signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_ends_well_and_leaves_the_terminal_as_it_was(
    daemon: LocalDaemon, way: bytes | signal.Signals
) -> None:
    with terminal(daemon.address) as shown:
        shown.read_until(lambda came: "slow" in came and "memory" in came)
        assert not shown.is_as_before()
        if isinstance(way, bytes):
            shown.type(way)
        else:
            shown.process.send_signal(way)
        assert shown.end() == 0
        assert shown.is_as_before()
        last = shown.output[shown.output.rindex(LEAVES_SCREEN) :]
        assert SHOWS_CURSOR in shown.output[-200:]
        assert "Traceback" not in last


def test_it_goes_on_when_the_daemon_is_restarted() -> None:
    with LocalDaemon(workers=1) as daemon, terminal(daemon.address) as shown:
        shown.read_until(lambda came: str(daemon.process.pid) in came)
        daemon.kill()
        shown.read_until(lambda came: "not there" in came)
        daemon.restart()
        shown.read_until(lambda came: str(daemon.process.pid) in came)
        shown.type(b"q")
        assert shown.end() == 0


def test_it_can_be_left_while_the_daemon_does_not_answer(daemon: LocalDaemon) -> None:
    with terminal(daemon.address) as shown:
        shown.read_until(lambda came: "slow" in came)
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            shown.type(b"q")
            assert shown.end(timeout_s=8.0) == 0  # before the call that is under way gives up
        finally:
            daemon.process.send_signal(signal.SIGCONT)
