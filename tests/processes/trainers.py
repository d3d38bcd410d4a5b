"""Trainers as processes of their own, told what to do step by step; see trainer_script.py."""

from __future__ import annotations

import json
import os
import select
import selectors
import signal
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tests.processes.daemons import WatchedDaemon
from tests.processes.nursery import Nursery
from tests.processes.rows import Ids
from tests.processes.tables import Described

ANSWER_S = 30.0


class Trainer:
    """One trainer.

    Args:
        nursery: Forks it.
        address: The daemon's.
        spec: Fields of the `DatasetSpec`, as specs.py reads them.
        folder: For what it logs and saves.
        name: Of those files, and of the job.
        patience_s: How long it waits for a daemon that went away.
    """

    def __init__(
        self,
        nursery: Nursery,
        address: str,
        spec: dict[str, Any],
        folder: Path,
        name: str,
        patience_s: float,
    ) -> None:
        self.name = name
        self._folder = folder
        self._log = folder / f"{name}.log"
        self._saved = 0
        stdin, self._commands = os.pipe()
        self._answers, stdout = os.pipe()
        with self._log.open("wb") as log:
            self._child = nursery.fork(stdin, stdout, log.fileno())
        os.close(stdin)
        os.close(stdout)
        self.pid = self._child.pid
        self._unread = b""
        self._ready: dict[str, Any] | None = None
        self._write({"address": address, "spec": spec, "patience_s": patience_s})

    @property
    def log(self) -> str:
        """What it wrote to stderr so far."""
        return self._log.read_text(errors="replace")

    def opened(self) -> dict[str, Any]:
        """Waits until it has opened the dataset; the rows of each split, or the error."""
        if self._ready is None:
            self._ready = self.answer()
        return self._ready

    def send(self, command: str, **arguments: Any) -> None:
        """Gives a command without waiting; `answer` gets what comes of it."""
        self.opened()
        self._write({"command": command, **arguments})

    def answer(self, timeout_s: float = ANSWER_S) -> dict[str, Any]:
        """The next answer."""
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(deadline - time.monotonic(), 0)):
                    raise AssertionError(f"{self.name} gave no answer in {timeout_s} s: {self.log}")
                data = os.read(self._answers, 65_536)
                if not data:
                    code = self._child.wait(5.0)
                    raise AssertionError(f"{self.name} ended ({code}): {self.log}")
                self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def has_answered(self) -> bool:
        """Whether an answer is there to be read."""
        ready, _, _ = select.select([self._answers], [], [], 0)
        return bool(ready) or b"\n" in self._unread

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Gives a command and waits for what comes of it."""
        self.send(command, **arguments)
        return self.answer()

    def start(self, batch_size: int, **arguments: Any) -> int:
        """Has it make its iterator; how many batches it will have."""
        started = self.ask("start", batch_size=batch_size, job=self.name, **arguments)
        assert "batches" in started, started
        return int(started["batches"])

    def ids(self) -> Ids:
        """The ids of all rows that it has read since this was asked last."""
        self._saved += 1
        path = self._folder / f"{self.name}-{self._saved}.npy"
        self.ask("save_ids", path=str(path))
        found: Ids = np.load(path)
        return found

    def signal(self, number: signal.Signals) -> None:
        self._child.signal(number)

    def kill(self) -> None:
        """SIGKILLs it, and waits until it is gone."""
        self.signal(signal.SIGKILL)
        self.end()

    def end(self, timeout_s: float = 20.0) -> int:
        """Lets it end by itself; its exit code."""
        self._close_pipes()
        return self._child.wait(timeout_s)

    def _close_pipes(self) -> None:
        if self._commands >= 0:
            os.close(self._commands)
            os.close(self._answers)
            self._commands = self._answers = -1

    def _write(self, line: dict[str, Any]) -> None:
        os.write(self._commands, json.dumps(line).encode() + b"\n")


class StartTrainer(Protocol):
    """Starts a trainer; `changes` are fields of the table's spec."""

    def __call__(
        self, daemon: WatchedDaemon, table: Described, *, patience_s: float = ..., **changes: Any
    ) -> Trainer: ...
