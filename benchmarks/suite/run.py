"""One run: one contender, one setting, its processes started, measured and ended.

The trainers go through each phase together: all are told to begin when all are ready for it. Their
common rate in a phase is all their rows over the time from the first one's start to the last one's
end. Memory is measured while all stand still in the middle of an epoch.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.suite import processes
from benchmarks.suite.registry import Contender
from benchmarks.suite.tables import Table
from benchmarks.suite.task import Task

ROOT = Path(__file__).parents[2]
_TOLERANCE = 1e-4
"""Of a sum of features in float32, relative to the sum of their magnitudes."""

_LOG_TAIL = 4_000


class RunFailed(Exception):
    """A contender did not do what it was to do; the message is what it had to say."""


@dataclass(frozen=True)
class Setting:
    """What a run is of.

    Attributes:
        table: Which.
        batch_size: Rows a batch.
        trainers: Processes that read at once.
        warm_epochs: Epochs after the first that are timed.
        step: "sum", or "none" for a loader alone.
        idle: Trainers more that are started, and only stand there.
    """

    table: Table
    batch_size: int
    trainers: int
    warm_epochs: int = 2
    step: str = "sum"
    idle: int = 0


@dataclass(frozen=True)
class Phase:
    """One phase of a run, all trainers together.

    Attributes:
        rows: Rows that all trainers got.
        seconds: From the first one's start to the last one's end.
        cpu_s: Processor time of all processes.
        read_bytes: Bytes that all processes read.
        missing, repeated: Rows, over all trainers and epochs.
        sums_right: Whether the features were those of the table.
        next_us: Percentiles of `next()`, of each trainer: p50, p90, p99, p100.
    """

    rows: int
    seconds: float
    cpu_s: float
    read_bytes: int
    missing: int
    repeated: int
    sums_right: bool
    next_us: tuple[dict[str, float], ...]

    @property
    def rows_per_s(self) -> float:
        """Of all trainers together."""
        return self.rows / self.seconds

    @property
    def cpu_us_per_row(self) -> float:
        """Of all processes, in microseconds."""
        return self.cpu_s * 1e6 / self.rows

    @property
    def exact(self) -> bool:
        """Whether each trainer saw each row once an epoch, and its right values."""
        return self.missing == self.repeated == 0 and self.sums_right


@dataclass(frozen=True)
class Run:
    """What a run has shown.

    Attributes:
        contender: Its name.
        cold: The first epoch, with all that comes before it but imports.
        warm: The epochs after it.
        last: The epoch in whose middle memory was measured; it is checked, not timed.
        idle_bytes: Memory of all processes once the trainers had imported what they need.
        memory_bytes: Memory in the middle of an epoch.
        processes: How many there were then.
    """

    contender: str
    cold: Phase
    warm: Phase
    last: Phase
    idle_bytes: int
    memory_bytes: int
    processes: int

    @property
    def exact(self) -> bool:
        """Whether each trainer saw each row once in each epoch."""
        return self.cold.exact and self.warm.exact and self.last.exact


class Child:
    """A contender's process, seen from the run."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                command,
                env=environment,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def _listen(self) -> None:
        assert self._process.stdout is not None, "it is a pipe"
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def tell(self, words: dict[str, Any]) -> None:
        """Sends it one line.

        Raises:
            RunFailed: it has ended.
        """
        assert self._process.stdin is not None, "it is a pipe"
        try:
            self._process.stdin.write(json.dumps(words) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise RunFailed(f"it ended before it was told to; its log:\n{self._tail()}") from None

    def hear(self, event: str, deadline: float) -> dict[str, Any]:
        """Waits for its next line, which must be of that event.

        Raises:
            RunFailed: it failed, ended, or is late.
        """
        try:
            line = self._lines.get(timeout=max(deadline - time.monotonic(), 0.001))
        except queue.Empty:
            raise RunFailed(f"no {event!r} in time; its log:\n{self._tail()}") from None
        if line is None:
            raise RunFailed(f"it ended before {event!r}; its log:\n{self._tail()}")
        heard: dict[str, Any] = json.loads(line)
        if heard["event"] != event:
            raise RunFailed(heard.get("error", f"{heard} instead of {event!r}"))
        return heard

    def end(self, patience_s: float = 10.0) -> None:
        """Waits for its end, which closing its input brings about; kills it if it is late."""
        for pipe in (self._process.stdin,):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-_LOG_TAIL:]


class Runner:
    """Starts contenders' processes.

    Args:
        python: Gives the interpreter of an environment by its name, "" for the project's own.
        folder: For logs and what contenders leave behind.
        cores: Processors that contenders may count on.
        timeout_s: For each phase.
    """

    def __init__(
        self,
        python: Callable[[str], Path],
        folder: Path,
        cores: int = os.cpu_count() or 1,
        timeout_s: float = 600.0,
    ) -> None:
        self._python = python
        self._folder = folder
        self._cores = cores
        self._timeout_s = timeout_s

    def convert(self, contender: Contender, table: Table, batch_size: int, folder: Path) -> float:
        """Has a contender make its own copy of the table; the processor seconds that took.

        Raises:
            RunFailed: it could not.
        """
        mark = uuid.uuid4().hex
        task = self._task(Setting(table, batch_size, 1), folder, {})
        child = self._child(contender, "convert", mark, self._folder / f"{contender.name}.log")
        try:
            child.tell(task.to_wire())
            child.hear("converted", time.monotonic() + self._timeout_s)
            return processes.usage(mark).cpu_s
        finally:
            child.end()
            processes.end_all(mark)

    def run(
        self,
        contender: Contender,
        setting: Setting,
        converted: Path | None = None,
        settings: dict[str, Any] | None = None,
    ) -> Run:
        """One run.

        Args:
            contender: Whose.
            setting: Of what.
            converted: Its own copy of the table, if it needs one.
            settings: What its server is told beyond its task.

        Raises:
            RunFailed: it failed; the message says how.
        """
        mark = uuid.uuid4().hex
        log = self._folder / f"{contender.name}.log"
        task = self._task(setting, converted, settings or {})
        children: list[Child] = []
        try:
            if contender.serves:
                server = self._child(contender, "serve", mark, log)
                children.append(server)
                server.tell(task.to_wire())
                ready = server.hear("ready", time.monotonic() + self._timeout_s)
                task = dataclasses.replace(task, address=ready["address"])
            trainers = []
            for rank in range(setting.trainers + setting.idle):
                trainer = self._child(contender, "train", mark, log)
                children.append(trainer)
                trainers.append(trainer)
                trainer.tell(dataclasses.replace(task, rank=rank).to_wire())
            return self._measured(contender, setting, mark, trainers)
        finally:
            for child in reversed(children):
                child.end()
            processes.end_all(mark)

    def _measured(
        self, contender: Contender, setting: Setting, mark: str, trainers: list[Child]
    ) -> Run:
        self._all("ready", trainers)
        idle = processes.memory(mark)
        trainers = trainers[: setting.trainers]
        heard: dict[str, list[dict[str, Any]]] = {}
        used: dict[str, processes.Usage] = {}
        for name in ("cold", "warm", "last"):
            before = processes.usage(mark)
            self._tell_all(trainers)
            if name == "last":
                self._all("paused", trainers)
                held = processes.memory(mark)
                self._tell_all(trainers)
            heard[name] = self._all(name, trainers)
            used[name] = processes.usage(mark).since(before)
        self._tell_all(trainers)
        waits = [closed["next_us"] for closed in self._all("closed", trainers)]
        cold, warm, last = (
            _phase(heard[name], used[name], setting, [each[name] for each in waits])
            for name in ("cold", "warm", "last")
        )
        return Run(contender.name, cold, warm, last, idle.total, held.total, held.processes)

    def _tell_all(self, trainers: list[Child]) -> None:
        for trainer in trainers:
            trainer.tell({"go": True})

    def _all(self, event: str, trainers: list[Child]) -> list[dict[str, Any]]:
        deadline = time.monotonic() + self._timeout_s
        return [trainer.hear(event, deadline) for trainer in trainers]

    def _task(self, setting: Setting, converted: Path | None, settings: dict[str, Any]) -> Task:
        table = setting.table
        return Task(
            kind=table.kind,
            table=table.folder,
            rows=table.rows,
            width=table.width,
            batch_size=setting.batch_size,
            trainers=setting.trainers,
            warm_epochs=setting.warm_epochs,
            cores=self._cores,
            step=setting.step,
            converted="" if converted is None else str(converted),
            scratch=str(self._folder),
            address=settings,
        )

    def _child(self, contender: Contender, role: str, mark: str, log: Path) -> Child:
        here = role == "serve" and contender.serves_here
        python = self._python("" if here else contender.environment)
        path = os.pathsep.join((str(ROOT), str(ROOT / "protos")))
        environment = os.environ | {processes.MARK: mark, "PYTHONPATH": path}
        command = [str(python), "-m", "benchmarks.suite.program", contender.module, role]
        return Child(command, environment, log)


def _phase(
    heard: list[dict[str, Any]],
    used: processes.Usage,
    setting: Setting,
    waits: list[dict[str, float]],
) -> Phase:
    epochs = [epoch for each in heard for epoch in each["epochs"]]
    table = setting.table
    return Phase(
        rows=sum(epoch["rows"] for epoch in epochs),
        seconds=(
            max(epoch["end_ns"] for epoch in epochs) - min(epoch["start_ns"] for epoch in epochs)
        )
        / 1e9,
        cpu_s=used.cpu_s,
        read_bytes=used.read_bytes,
        missing=sum(epoch["missing"] for epoch in epochs),
        repeated=sum(epoch["repeated"] for epoch in epochs),
        sums_right=setting.step == "none"
        or all(
            abs(epoch["feature_sum"] - table.feature_sum) <= _TOLERANCE * table.feature_scale
            for epoch in epochs
        ),
        next_us=tuple(waits),
    )
