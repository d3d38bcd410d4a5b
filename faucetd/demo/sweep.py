"""Runs the trainers of the demo: starts them one after another, kills one, and starts it again.

Invariants:

- One trainer is killed, at a moment that its own reports choose: between two checkpoints of its
  second epoch. Any other end but that of a training is a failure of the demo.
- What a killed process had still written is read before another one is started in its place.
"""

from __future__ import annotations

import queue
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from faucet_client.errors import FaucetError
from faucetd.demo.display import Display
from faucetd.demo.jobs import Job, Resumption
from faucetd.demo.processes import Child, Processes
from faucetd.demo.progress import Batches, EpochEnd, Event, Failure, Resumed, Saved, read_event
from faucetd.demo.rows import rows_given

SILENCE_TIMEOUT_S = 60.0
"""A trainer reports many times a second, once it has imported torch and opened the table."""

OPENING_TIMEOUT_S = 600.0
"""Until then, BigQuery counts the table's rows, which a local server does slowly."""

KILL_EPOCH = 1

KILL_SHARE = 0.1
"""Of an epoch, so much after a checkpoint: half-way to the next one."""

_LOOK_S = 0.5

_DYING_S = 1.0
"""A trainer may tell that the daemon is not there before that has quite ended."""


@dataclass(frozen=True)
class Plan:
    """How the trainings are run.

    Attributes:
        arguments: Of every trainer: where its table is.
        folder: For their checkpoints and row ids.
        epochs: Of each.
        interval_s: Between the starts of two.
        to_kill: The job whose trainer is killed.
        trainer: The module that trains.
    """

    arguments: Sequence[str]
    folder: Path
    epochs: int
    interval_s: float
    to_kill: str
    trainer: str = "faucetd.demo.trainer"


@dataclass
class _Trainer:
    """A process that trains a job, and the last that was heard of it."""

    job: Job
    child: Child
    batches: Batches | None = None
    saved: Saved | None = None
    killed_at_s: float | None = None
    rows_given: int = 0  # until it was killed


class Sweep:
    """The trainings, by one plan.

    Args:
        plan: The plan.
        processes: Starts the trainers, and ends them should this be interrupted.
        daemon: What they cannot do without.
        display: Is told of everything.
    """

    def __init__(self, plan: Plan, processes: Processes, daemon: Child, display: Display) -> None:
        self._plan = plan
        self._processes = processes
        self._daemon = daemon
        self._display = display
        self._reports: queue.SimpleQueue[tuple[_Trainer, Event | None]] = queue.SimpleQueue()
        self._running = 0
        self._heard_s = 0.0  # when a trainer last reported
        self._patience_s = OPENING_TIMEOUT_S
        self._resuming: dict[str, _Trainer] = {}  # by job, what was killed

    def run(self, jobs: Sequence[Job]) -> None:
        """Runs the jobs to their end.

        Raises:
            FaucetError: the daemon or a trainer failed; the message has the end of the log.
        """
        waiting = deque(jobs)
        next_start_s = self._heard_s = time.monotonic()
        while waiting or self._running:
            now_s = time.monotonic()
            if waiting and now_s >= next_start_s:
                self._start(waiting.popleft())
                next_start_s = time.monotonic() + self._plan.interval_s
                continue
            report = self._next_report(next_start_s - now_s if waiting else _LOOK_S)
            if report is None:
                continue
            trainer, event = report
            if event is None:
                self._take_end(trainer)
            else:
                self._take(trainer, event)

    def _next_report(self, timeout_s: float) -> tuple[_Trainer, Event | None] | None:
        """What a trainer has reported, None for its end; or None if nobody has for a while."""
        try:
            report = self._reports.get(timeout=min(timeout_s, _LOOK_S))
        except queue.Empty:
            report = None
        self._check_daemon()
        if report is not None:
            self._heard_s, self._patience_s = time.monotonic(), SILENCE_TIMEOUT_S
        elif time.monotonic() - self._heard_s > self._patience_s:
            raise FaucetError(
                f"no trainer made progress for {self._patience_s:.0f} s; the daemon's "
                f"log:\n{self._daemon.log_tail()}"
            )
        return report

    def _start(self, job: Job) -> None:
        killed = self._resuming.get(job.name)
        name = job.name if killed is None else f"{job.name}-again"
        arguments = [*self._plan.arguments, "--folder", str(self._plan.folder), "--job", job.name]
        arguments += ["--learning-rate", str(job.learning_rate)]
        arguments += ["--epochs", str(self._plan.epochs)]
        child = self._processes.start(name, self._plan.trainer, arguments, piped=True)
        trainer = _Trainer(job, child)
        threading.Thread(target=self._forward, args=(trainer,), daemon=True).start()
        self._running += 1
        if killed is None:
            self._display.started(job)

    def _forward(self, trainer: _Trainer) -> None:
        """Puts what a trainer writes into the queue, and None at its end. Runs in a thread."""
        output = trainer.child.process.stdout
        assert output is not None
        with output:
            for line in output:
                try:
                    self._reports.put((trainer, read_event(line)))
                except ValueError:
                    told = f"it wrote what nobody understands: {line!r}"
                    self._reports.put((trainer, Failure(told)))
        self._reports.put((trainer, None))

    def _take(self, trainer: _Trainer, event: Event) -> None:
        job = trainer.job
        match event:
            case Failure(message):
                self._check_daemon(_DYING_S)
                raise FaucetError(f"the trainer {job.name} failed: {message}")
            case Resumed():
                self._note_resumption(job, event)
            case Batches():
                trainer.batches = event
            case Saved():
                trainer.saved = event
            case EpochEnd():
                job.epochs[event.epoch] = event
        self._display.update(job, event)
        if (
            job.name == self._plan.to_kill
            and job.name not in self._resuming
            and trainer.killed_at_s is None
            and is_moment(trainer.saved, event)
        ):
            trainer.killed_at_s = time.monotonic()
            self._processes.kill(trainer.child)

    def _take_end(self, trainer: _Trainer) -> None:
        self._running -= 1
        job, child = trainer.job, trainer.child
        code = child.process.wait()
        if code != 0 and trainer.killed_at_s is not None and trainer.batches is not None:
            # Now, before the next process writes to the same files.
            trainer.rows_given = rows_given(self._plan.folder, job.name, self._plan.epochs)
            self._resuming[job.name] = trainer
            self._display.killed(job, trainer.batches)
            self._start(job)
        elif code != 0 or len(job.epochs) != self._plan.epochs:
            raise FaucetError(
                f"the trainer {job.name} {child.how_it_ended()}, and its training was not at its "
                f"end; its log:\n{child.log_tail()}"
            )

    def _check_daemon(self, patience_s: float = 0.0) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._daemon.process.wait(patience_s)
            raise FaucetError(
                f"the demo's daemon {self._daemon.how_it_ended()}; its "
                f"log:\n{self._daemon.log_tail()}"
            )

    def _note_resumption(self, job: Job, event: Resumed) -> None:
        killed = self._resuming[job.name]
        assert killed.batches is not None
        assert killed.killed_at_s is not None
        job.resumption = Resumption(
            killed=killed.batches,
            epoch=event.epoch,
            done=event.done,
            rows_again=killed.rows_given - event.rows,
            seconds=time.monotonic() - killed.killed_at_s,
        )


def is_moment(saved: Saved | None, event: Event) -> bool:
    """Whether a trainer is in the midst of its second epoch, and well after a checkpoint of it."""
    return (
        isinstance(event, Batches)
        and saved is not None
        and saved.epoch == event.epoch == KILL_EPOCH
        and event.done - saved.done >= KILL_SHARE * event.total
    )
