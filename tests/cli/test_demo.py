"""The demo as a person runs it, and what it leaves behind when it is disturbed: nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.cli.conftest import clean_environ, command

pytestmark = pytest.mark.timeout(240)


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


def test_four_trainers_learn_from_a_table_that_is_read_once(folder: Path) -> None:
    with running_demo(folder) as demo:
        output, errors = demo.communicate()
    assert (demo.returncode, errors) == (0, "")
    assert "read the table once: 327,346 rows" in output
    assert "\x1b" not in output
    rows = re.findall(r"│ +(0\.\d+) │ +(0\.\d+) │ +(0\.\d+) │ +([\d,]+) │ +([\d.]+) s │", output)
    assert len(rows) == 4
    best = max(float(last_auc) for _, _, last_auc, _, _ in rows)
    # The delay of the departure alone has 0.8977.
    assert best > 0.9
    assert_nothing_is_left(folder)


@pytest.mark.parametrize("moment", ["Training on", "epoch 1 done"])
def test_ctrl_c_ends_everything(folder: Path, moment: str) -> None:
    with running_demo(folder) as demo:
        read_until(demo, moment)
        demo.send_signal(signal.SIGINT)
        _, errors = demo.communicate(timeout=60)
        assert demo.returncode == 130
        assert "Traceback" not in errors
        assert_nothing_is_left(folder)


def test_a_daemon_that_dies_ends_the_demo_with_the_reason(folder: Path) -> None:
    with running_demo(folder) as demo:
        read_until(demo, "Training on")
        [daemon] = [p for p in psutil.Process(demo.pid).children() if "serve" in p.cmdline()]
        daemon.kill()
        _, errors = demo.communicate(timeout=120)
        assert demo.returncode == 1
        assert errors.startswith("faucetd: the ")
        assert "Traceback" not in errors
        assert_nothing_is_left(folder)
