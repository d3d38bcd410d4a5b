from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from faucetd.demo import processes
from faucetd.demo.interrupts import Interrupts
from faucetd.demo.processes import Child, Processes

TALKS = "print('ready', flush=True); import time; time.sleep(600)"


def start(children: Processes, folder: Path, code: str, name: str = "child") -> Child:
    """Starts a module with this code, and returns when it has said something."""
    (folder / f"{name}_module.py").write_text(code)
    child = children.start(name, f"{name}_module", [], piped=True)
    assert child.process.stdout is not None
    assert child.process.stdout.readline() == b"ready\n"
    return child


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Processes]:
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with Interrupts() as interrupts:
        yield Processes(tmp_path, environ, interrupts)


def close(child: Child) -> None:
    assert child.process.stdout is not None
    child.process.stdout.close()


def test_no_child_outlives_the_block_though_the_block_fails(
    children: Processes, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt), children:
        child = start(children, tmp_path, TALKS)
        assert child.process.poll() is None
        raise KeyboardInterrupt
    assert child.process.returncode == -signal.SIGTERM
    close(child)


def test_what_a_child_left_in_its_group_is_ended_with_it(
    children: Processes, tmp_path: Path
) -> None:
    code = (
        "import subprocess\n"
        "grandchild = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(tmp_path / 'grandchild')!r}, 'w').write(str(grandchild.pid))\n"
    )
    with children:
        child = start(children, tmp_path, code + TALKS)
        grandchild = psutil.Process(int((tmp_path / "grandchild").read_text()))
    psutil.wait_procs([grandchild], timeout=10)
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE
    close(child)


def test_a_child_that_does_not_want_to_end_is_killed(
    children: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "STOP_TIMEOUT_S", 0.1)
    with children:
        stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        child = start(children, tmp_path, stubborn + TALKS)
    assert child.process.returncode == -signal.SIGKILL
    close(child)


def test_the_last_started_child_is_ended_first(children: Processes, tmp_path: Path) -> None:
    def code(name: str) -> str:
        return (
            "import os, signal\n"
            "def end(*_):\n"
            f"    open({str(tmp_path / 'ends')!r}, 'a').write('{name} ')\n"
            "    os._exit(0)\n"
            "signal.signal(signal.SIGTERM, end)\n"
        )

    with children:
        started = [start(children, tmp_path, code(n) + TALKS, n) for n in ("daemon", "trainer")]
    assert (tmp_path / "ends").read_text().split() == ["trainer", "daemon"]
    for child in started:
        close(child)


def test_the_log_has_what_a_child_complained_of(children: Processes, tmp_path: Path) -> None:
    with children:
        (tmp_path / "broken.py").write_text("raise SystemExit('no such table')")
        child = children.start("broken", "broken", [])
        child.process.wait()
        assert child.log_tail() == "no such table"


def test_only_the_first_signal_interrupts_and_the_old_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    cleaned = False
    with pytest.raises(KeyboardInterrupt), Interrupts():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGINT)  # an impatient second one: the cleaning goes on
            cleaned = True
    assert cleaned
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_is_held_together_is_interrupted_at_its_end() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts, interrupts.held():
        signal.raise_signal(signal.SIGINT)
        steps.append("held")
    assert steps == ["held"]


def test_no_signal_interrupts_the_cleaning_up() -> None:
    with Interrupts() as interrupts:
        interrupts.ignore()
        signal.raise_signal(signal.SIGINT)
        with interrupts.held():
            signal.raise_signal(signal.SIGTERM)


def test_an_interrupt_during_the_start_of_a_child_still_ends_it(
    children: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def interrupted_popen(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        started.append(popen(*args, **kwargs))
        signal.raise_signal(signal.SIGINT)
        return started[0]

    (tmp_path / "sleeps.py").write_text("import time; time.sleep(600)")
    with pytest.raises(KeyboardInterrupt), children:
        monkeypatch.setattr("faucetd.demo.processes.subprocess.Popen", interrupted_popen)
        children.start("child", "sleeps", [])
    assert started[0].returncode == -signal.SIGTERM


def test_a_child_does_not_get_the_terminals_ctrl_c(children: Processes, tmp_path: Path) -> None:
    with children:
        child = start(children, tmp_path, TALKS)
        assert os.getpgid(child.process.pid) != os.getpgrp()
    close(child)
