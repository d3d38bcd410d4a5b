"""How the demo runs its trainers: real processes, which say what trainers would, and die so."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from faucet_client.errors import FaucetError
from faucetd.demo import sweep
from faucetd.demo.interrupts import Interrupts
from faucetd.demo.jobs import Job
from faucetd.demo.processes import Child, Processes
from faucetd.demo.progress import Batches, Event, Resumed
from faucetd.demo.sweep import Plan, Sweep
from tests.processes.leaks import is_alive
from tests.processes.waiting import eventually_gone

SCRIPT = """
import argparse, os, signal, sys, time
from pathlib import Path
import numpy as np
from faucetd.demo.progress import *

parser = argparse.ArgumentParser()
for name in ("--folder", "--job", "--learning-rate", "--epochs", "--way"):
    parser.add_argument(name)
given = parser.parse_args()
job, way = given.job, given.way
checkpoint = Path(given.folder, job + ".pt")

def epoch(number):
    write_event(EpochEnd(number, 100, 1.0, 0.0, 0.9))

def batch(done, epoch=1):
    write_event(Batches(epoch, done, 100, 0.5))

def log(rows, epoch):
    Path(given.folder, f"{job}-train-{epoch}.ids").write_bytes(np.arange(rows).tobytes())

"""

TRAINS_ON = """
if checkpoint.exists():
    write_event(Resumed(1, 20, 3_000))
    log(7, 1)  # of what it is given now
    batch(21)
else:
    epoch(0)
    log(2_500, 0)
    batch(20)
    checkpoint.touch()
    write_event(Saved(1, 20))
    log(1_200, 1)
    batch(30)
    if job == "b":
        time.sleep(600)
epoch(1)
"""
"""Job b waits for its kill in its second epoch, after its checkpoint."""


class Recorder:
    """A display that remembers."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str | Event]] = []
        self.starts_s: list[float] = []

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def started(self, job: Job) -> None:
        self.starts_s.append(time.monotonic())
        self.told.append((job.name, "started"))

    def update(self, job: Job, event: Event) -> None:
        self.told.append((job.name, event))

    def killed(self, job: Job, last: Batches) -> None:
        self.told.append((job.name, "killed"))
        assert last.done == 30

    def of(self, job: str) -> list[str | Event]:
        return [told for name, told in self.told if name == job]


class Stage:
    """A folder, processes, and a daemon that is none: it only lives, or does not."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.folder = folder
        self.processes = processes
        (folder / "lives.py").write_text("import time; time.sleep(600)")
        self.daemon = processes.start("daemon", "lives", [])
        self.display = Recorder()
        self.jobs = [Job("a", 0.1), Job("b", 0.01)]

    def run(self, script: str, *, interval_s: float = 0.0, to_kill: str = "b") -> None:
        (self.folder / "trains.py").write_text(SCRIPT + script)
        plan = Plan(["--way", "x"], self.folder, 2, interval_s, to_kill, trainer="trains")
        Sweep(plan, self.processes, self.daemon, self.display).run(self.jobs)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    environ = {**os.environ, "PYTHONPATH": path}
    with Interrupts() as interrupts, Processes(tmp_path, environ, interrupts) as processes:
        yield Stage(tmp_path, processes)


def test_a_trainer_is_killed_after_a_checkpoint_and_another_process_goes_on(stage: Stage) -> None:
    stage.run(TRAINS_ON)
    assert [sorted(job.epochs) for job in stage.jobs] == [[0, 1], [0, 1]]
    told = stage.display.of("b")
    assert (
        told.index("killed")
        < told.index(Resumed(1, 20, 3_000))
        < told.index(Batches(1, 21, 100, 0.5))
    )
    assert "killed" not in stage.display.of("a")
    first, second = stage.jobs
    assert first.resumption is None
    found = second.resumption
    assert found is not None
    assert found.killed == Batches(1, 30, 100, 0.5)
    assert (found.epoch, found.done) == (1, 20)
    # What it had been given until its death, less what the checkpoint's model had.
    assert found.rows_again == 2_500 + 1_200 - 3_000
    assert found.seconds > 0


def test_trainers_start_one_after_another(stage: Stage) -> None:
    stage.run("epoch(0); epoch(1)", interval_s=0.3)
    first_s, second_s = stage.display.starts_s
    assert second_s - first_s >= 0.3


def test_who_ends_before_the_kill_is_no_failure(stage: Stage) -> None:
    stage.run("epoch(0); epoch(1)")
    assert [job.resumption for job in stage.jobs] == [None, None]


@pytest.mark.parametrize("job", ["a", "b"])
def test_a_trainer_that_somebody_else_kills_is_a_failure(stage: Stage, job: str) -> None:
    script = (
        f"epoch(0)\nbatch(3)\nif job == {job!r}: os.kill(os.getpid(), signal.SIGKILL)\nepoch(1)"
    )
    with pytest.raises(FaucetError, match=f"the trainer {job} was killed by SIGKILL"):
        stage.run(script)


def test_a_trainer_that_dies_again_after_its_kill_is_a_failure(stage: Stage) -> None:
    dies = TRAINS_ON.replace("batch(21)", "os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(FaucetError, match="the trainer b was killed by SIGKILL"):
        stage.run(dies)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("epoch(0)", "a ended with code 0, and its training was not at its end"),
        ("sys.exit('no such column')", "(?s)a ended with code 1.*no such column"),
        ("write_event(Failure('no such table'))", "a failed: no such table"),
        ("print('hello', flush=True)", "a failed: it wrote what nobody understands"),
    ],
)
def test_a_trainer_that_does_not_train_is_a_failure(stage: Stage, script: str, told: str) -> None:
    if "Failure" in script or "print" in script:
        script += "\ntime.sleep(600)"
    with pytest.raises(FaucetError, match=told):
        stage.run(f"if job == 'b': time.sleep(600)\n{script}")


def test_a_daemon_that_dies_is_told_of_and_not_the_trainers_that_miss_it(stage: Stage) -> None:
    pid = stage.daemon.process.pid
    script = f"os.kill({pid}, signal.SIGKILL); write_event(Failure('lost')); time.sleep(600)"
    with pytest.raises(FaucetError, match="the demo's daemon was killed by SIGKILL"):
        stage.run(script)


def test_trainers_that_say_nothing_are_a_failure(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "SILENCE_TIMEOUT_S", 0.5)
    with pytest.raises(FaucetError, match="no trainer made progress for 0 s"):
        stage.run("epoch(0); time.sleep(600)")


def test_a_killed_child_is_gone_with_what_it_started(stage: Stage) -> None:
    (stage.folder / "parent.py").write_text(
        "import subprocess, sys\n"
        "print(subprocess.Popen(['sleep', '600']).pid, flush=True)\n"
        "import time; time.sleep(600)\n"
    )
    child: Child = stage.processes.start("parent", "parent", [], piped=True)
    assert child.process.stdout is not None
    with child.process.stdout as output:
        grandchild = int(output.readline())
    stage.processes.kill(child)
    assert child.process.returncode == -signal.SIGKILL
    assert child.how_it_ended() == "was killed by SIGKILL"
    eventually_gone(lambda: is_alive(grandchild))
