"""The demo as a person runs it, and what it leaves behind when it is disturbed: nothing."""

from __future__ import annotations

import os
import pty
import re
import signal
import struct
import subprocess
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import ioctl
from pathlib import Path

import psutil
import pytest

from tests.cli.conftest import clean_environ, command

pytestmark = pytest.mark.timeout(240)

SHOWS_CURSOR = "\x1b[?25h"


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder for temporary files, with a path short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="t-") as path:
        yield Path(path)


@contextmanager
def running_demo(
    folder: Path, *arguments: str, config: str = "/no/such/file"
) -> Iterator[subprocess.Popen[str]]:
    """A demo whose output is read line by line; it is killed if the test fails."""
    demo = subprocess.Popen(
        [*command(), "demo", *arguments],
        env={**clean_environ(), "TMPDIR": str(folder), "FAUCETD_CONFIG": config},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield demo
    finally:
        demo.kill()
        for process in processes_of(folder):
            process.kill()
        demo.communicate()


def processes_of(folder: Path) -> list[psutil.Process]:
    """Processes that were told of `folder`, by argument or by environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            told = [*process.cmdline(), *process.environ().values()]
            if process.pid != os.getpid() and any(str(folder) in word for word in told):
                found.append(process)
    return found


def child_of(demo: subprocess.Popen[str], word: str) -> psutil.Process:
    """The child process of the demo that has this word among its arguments."""
    deadline = time.monotonic() + 10
    # One that was just started has no arguments for a moment.
    while not (found := [p for p in psutil.Process(demo.pid).children() if word in p.cmdline()]):
        assert time.monotonic() < deadline, f"no child has {word!r}"
        time.sleep(0.01)
    [child] = found
    return child


def read_until(demo: subprocess.Popen[str], text: str) -> None:
    assert demo.stdout is not None
    for line in demo.stdout:
        if text in line:
            return
    assert demo.stderr is not None
    pytest.fail(f"the demo ended before it said {text!r}: {demo.stderr.read()}")


def assert_nothing_is_left(folder: Path) -> None:
    left = [
        process.as_dict(["pid", "ppid", "cmdline", "status"]) for process in processes_of(folder)
    ]
    assert left == []
    assert list(folder.iterdir()) == []


FEW = ("--rows", "60000", "--interval", "0.1")
"""Enough for a kill in mid-epoch."""


def test_four_trainers_learn_from_a_table_that_is_read_once_though_one_is_killed(
    folder: Path,
) -> None:
    with running_demo(folder) as demo:
        output, errors = demo.communicate()
    assert (demo.returncode, errors) == (0, "")
    assert "\x1b" not in output
    happened = [output.index(f"learning rate 0.01: {what}") for what in LIFE]
    assert happened == sorted(happened)
    assert "Read once, rows exact." in output
    assert "read the table once: 327,346 rows" in output
    said = " ".join(output.split())
    assert "In each of 12 epochs, each row id of the table came once: 261,873 to train" in said
    killed = re.search(r"checkpoint of epoch 2, batch (\d+): the ([\d,]+) rows since then", said)
    assert killed is not None
    assert int(killed[2].replace(",", "")) > 0
    rows = re.findall(
        r"│ +(\*?) ?0\.\d+ │ (0\.\d+)  (0\.\d+)  (0\.\d+) │.+│ +3 × 261,873 │", output
    )
    assert [star for star, *_ in rows] == ["", "*", "", ""]
    # The delay of the departure alone has 0.8977.
    assert max(float(last_auc) for *_, last_auc in rows) > 0.9
    assert_nothing_is_left(folder)


LIFE = (
    "started",
    "epoch 1 done",
    "killed (SIGKILL) at epoch 2",
    "goes on from its checkpoint, epoch 2",
    "epoch 2 done",
    "epoch 3 done",
)
"""Of the job that is killed."""


@pytest.mark.parametrize(
    "moment",
    ["Writing", "Training on", "rate 0.01: started", "epoch 1 done", "killed (SIGKILL)", "goes on"],
)
def test_ctrl_c_ends_everything(folder: Path, moment: str) -> None:
    with running_demo(folder, *FEW) as demo:
        read_until(demo, moment)
        demo.send_signal(signal.SIGINT)
        _, errors = demo.communicate(timeout=60)
        assert demo.returncode == 130
        assert "Traceback" not in errors
        assert_nothing_is_left(folder)


@pytest.mark.parametrize("moment", ["Training on", "killed (SIGKILL)"])
def test_a_daemon_that_dies_ends_the_demo_with_the_reason(folder: Path, moment: str) -> None:
    with running_demo(folder, *FEW) as demo:
        read_until(demo, moment)
        child_of(demo, "serve").kill()
        _, errors = demo.communicate(timeout=120)
        assert demo.returncode == 1
        assert errors.startswith("faucetd: the demo's daemon was killed by SIGKILL; its log:")
        assert "Traceback" not in errors
        assert_nothing_is_left(folder)


def test_a_trainer_that_dies_unplanned_ends_the_demo_with_the_reason(folder: Path) -> None:
    with running_demo(folder, *FEW) as demo:
        read_until(demo, "rate 0.1: started")
        child_of(demo, "lr-0.1").kill()
        _, errors = demo.communicate(timeout=120)
        assert demo.returncode == 1
        assert errors.startswith("faucetd: the trainer lr-0.1 was killed by SIGKILL, and its")
        assert "Traceback" not in errors
        assert_nothing_is_left(folder)


class Screen:
    """A demo on a terminal of 80x24 cells, and what it wrote so far."""

    def __init__(self, folder: Path) -> None:
        self._ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.written = ""
        self.process = subprocess.Popen(
            [*command(), "demo", *FEW],
            env={**clean_environ(), "TMPDIR": str(folder), "FAUCETD_CONFIG": "/no/such/file"}
            | {"TERM": "xterm-256color"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            preexec_fn=_own_terminal,
        )
        os.close(theirs)

    def read(self) -> bool:
        """Reads some more; False at the end."""
        try:
            came = os.read(self._ours, 65_536)
        except OSError:  # so a terminal ends that nobody has open any more
            return False
        self.written += came.decode(errors="replace")
        return bool(came)

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


def _own_terminal() -> None:
    """Makes standard input the terminal whose Ctrl-C this process gets."""
    os.setsid()
    ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def screen(folder: Path) -> Iterator[Screen]:
    screen = Screen(folder)
    try:
        yield screen
    finally:
        screen.close()
        for process in processes_of(folder):
            process.kill()


def test_on_a_terminal_the_map_is_shown_and_the_kill_and_the_verdict(
    screen: Screen, folder: Path
) -> None:
    while screen.read():
        pass
    assert screen.process.wait() == 0
    assert re.search(r"train [\d,]+ rows: (\d+) of \1 chunks in memory", screen.written)
    for words in ("absent", "killed", "resumed", "Read once, rows exact."):
        assert words in screen.written
    assert screen.written.rindex(SHOWS_CURSOR) > screen.written.rindex("chunks in memory")
    assert_nothing_is_left(folder)


def test_ctrl_c_on_a_terminal_brings_the_cursor_back(screen: Screen, folder: Path) -> None:
    while "chunks in memory" not in screen.written:
        assert screen.read(), screen.written
    screen.type(b"\x03")
    while screen.read():
        pass
    assert screen.process.wait() == 130
    assert SHOWS_CURSOR in screen.written
    assert "Traceback" not in screen.written
    assert_nothing_is_left(folder)
