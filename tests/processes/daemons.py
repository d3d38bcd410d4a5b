"""Daemons for the tests, and what they say of themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from faucet_client.status import DatasetStatus, ReaderStatus, Status
from faucet_client.testing import LocalDaemon
from tests.processes.waiting import eventually


class WatchedDaemon(LocalDaemon):
    """Remembers which processes it was, over its restarts."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]  # LocalDaemon's own
        self.pids = [self.process.pid]

    def restart(self, **settings: str) -> None:
        """Starts a daemon again, with other settings perhaps."""
        self._environment |= {f"FAUCETD_{name.upper()}": each for name, each in settings.items()}
        super().restart()
        self.pids.append(self.process.pid)


class StartDaemon(Protocol):
    """Starts a daemon."""

    def __call__(
        self, memory_budget: str = ..., workers: int = ..., **settings: str
    ) -> WatchedDaemon: ...


def dataset_of(daemon: WatchedDaemon) -> DatasetStatus:
    """The only dataset's status."""
    (dataset,) = daemon.client().status().datasets
    return dataset


def reader_of(status: Status, job: str) -> ReaderStatus | None:
    """The live reader of a job, if there is one."""
    return next((reader for reader in status.readers if reader.job == job), None)


def is_idle(status: Status) -> bool:
    """Whether no reader, no lease and no load is left."""
    return (
        not status.readers
        and status.memory.leased_bytes == 0
        and all(worker.state == "idle" for worker in status.workers)
    )


def wait_idle(read_status: Callable[[], Status], timeout_s: float = 10.0) -> None:
    """Waits until nothing is done or held any more."""
    eventually(lambda: is_idle(read_status()), timeout_s)
