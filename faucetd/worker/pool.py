"""The daemon's side of its workers: starts them, talks to them, replaces the dead.

Workers are fresh interpreters, never forks: the daemon's loop and its gRPC threads would not
survive one. Each has one socket to the daemon, does one task at a time, and is killed by the
kernel should the daemon die (see process.py).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Protocol

from faucetd.worker import wire
from faucetd.worker.messages import (
    Allow,
    CheckSnapshot,
    FromWorker,
    LoadChunk,
    Open,
    Ready,
    Task,
)

_log = logging.getLogger(__name__)

START_TIMEOUT_S = 120.0
"""A worker imports torch; on a cold disk that takes long, but not for ever."""

WAREHOUSE = "warehouse"
"""Tells a worker that a warehouse is likely to be read."""

MALLOC = {"MALLOC_ARENA_MAX": "1"}
"""For workers, where the daemon's environment does not say: glibc otherwise gives each of the
threads that read streams a heap of its own, and keeps there what messages have left. One heap takes
a quarter less memory, and no more time (benchmarks/NOTES.md)."""

HOPELESS_STARTS = 4
"""Failed starts in a row after which nobody should wait for a worker any more."""

RESPAWN_DELAYS_S = (0.0, 0.1, 0.5, 2.0, 5.0)
"""Before the n-th start in a row that never became ready: a worker that cannot start at all must
not keep a core busy."""


_STATES: dict[type[Task], str] = {
    Open: "opening",
    CheckSnapshot: "opening",
    LoadChunk: "loading",
}
"""What a worker does, as the status has it."""


class PoolListener(Protocol):
    """Who is told what the workers do. All calls come from the event loop."""

    def worker_ready(self, worker: int) -> None: ...

    def worker_said(self, worker: int, message: FromWorker, fds: list[int]) -> None:
        """Takes over the descriptors."""
        ...

    def worker_died(self, worker: int, story: str) -> None: ...

    def workers_cannot_start(self, story: str) -> None:
        """Several starts in a row have failed; the pool goes on trying."""
        ...


@dataclass
class _Worker:
    number: int
    process: subprocess.Popen[bytes]
    sock: socket.socket
    pidfd: int
    ready: bool = False
    task: str = "starting"
    start_timer: asyncio.TimerHandle | None = field(default=None)


class WorkerPool:
    """A fixed number of worker processes.

    Args:
        size: How many.
        listener: Is told what they do.
        reads_warehouse: Whether a warehouse is likely to be read: workers then import its
            libraries while they have nothing to do, not when the first dataset is waited for.
    """

    def __init__(self, size: int, listener: PoolListener, *, reads_warehouse: bool = False) -> None:
        self._size = size
        self._listener = listener
        self._options = [WAREHOUSE] if reads_warehouse else []
        self._workers: dict[int, _Worker] = {}
        self._next = 1
        self._failed_starts = 0
        self._stopping = False

    def start(self) -> None:
        """Starts all workers; each reports by `worker_ready`."""
        for _ in range(self._size):
            self._spawn()

    def stop(self) -> None:
        """Kills all workers and waits for them. What they were doing is lost, and nothing else."""
        self._stopping = True
        for worker in list(self._workers.values()):
            worker.process.kill()
            self._forget(worker)

    def give(self, worker: int, task: Task) -> None:
        """Gives a ready worker something to do."""
        state = self._workers[worker]
        state.task = _STATES[type(task)]
        _log.debug("worker %d begins %s", state.process.pid, state.task)
        self._send(state, task)

    def answer(self, worker: int, allowed: bool) -> None:
        """Answers the worker's `ExtraBytes`."""
        self._send(self._workers[worker], Allow(allowed))

    def done(self, worker: int) -> None:
        """The worker's task has ended."""
        if worker in self._workers:
            state = self._workers[worker]
            _log.debug("worker %d ends %s", state.process.pid, state.task)
            state.task = "idle"

    def states(self) -> list[tuple[int, str]]:
        """The pid of each worker, and what it does."""
        return [(worker.process.pid, worker.task) for worker in self._workers.values()]

    def _send(self, worker: _Worker, message: Task | Allow) -> None:
        try:
            wire.send(worker.sock, message)
        except OSError as error:  # it is dying; its pidfd says so presently
            _log.info("worker %d does not take a message: %s", worker.process.pid, error)

    def _spawn(self) -> None:
        ours, theirs = wire.make_pair()
        with theirs:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "faucetd.worker.process",
                    str(theirs.fileno()),
                    str(os.getpid()),
                    *self._options,
                ],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env=MALLOC | os.environ,
            )
        ours.setblocking(False)
        worker = _Worker(self._next, process, ours, os.pidfd_open(process.pid))
        self._next += 1
        self._workers[worker.number] = worker
        loop = asyncio.get_running_loop()
        loop.add_reader(ours.fileno(), self._on_packet, worker)
        loop.add_reader(worker.pidfd, self._on_exit, worker)
        worker.start_timer = loop.call_later(START_TIMEOUT_S, process.kill)

    def _on_packet(self, worker: _Worker) -> None:
        try:
            received = wire.receive_from_worker(worker.sock)
        except BlockingIOError:
            return
        if received is None:  # its end is closed; its pidfd says when it is gone
            asyncio.get_running_loop().remove_reader(worker.sock.fileno())
            return
        message, fds = received
        if isinstance(message, Ready):
            worker.ready = True
            worker.task = "idle"
            self._failed_starts = 0
            if worker.start_timer is not None:
                worker.start_timer.cancel()
            self._listener.worker_ready(worker.number)
            return
        self._listener.worker_said(worker.number, message, fds)

    def _on_exit(self, worker: _Worker) -> None:
        while worker.number in self._workers:  # what it said before it died still counts
            try:
                received = wire.receive_from_worker(worker.sock)
            except BlockingIOError:
                break
            if received is None:
                break
            message, fds = received
            if not isinstance(message, Ready):
                self._listener.worker_said(worker.number, message, fds)
        self._forget(worker)
        story = _how_it_ended(worker.process.returncode)
        _log.warning("worker %d %s while %s", worker.process.pid, story, worker.task)
        if not worker.ready:
            self._failed_starts += 1
        if not self._stopping:
            delay_s = RESPAWN_DELAYS_S[min(self._failed_starts, len(RESPAWN_DELAYS_S) - 1)]
            asyncio.get_running_loop().call_later(delay_s, self._respawn)
        self._listener.worker_died(worker.number, story)
        if self._failed_starts >= HOPELESS_STARTS:
            self._listener.workers_cannot_start(story)

    def _respawn(self) -> None:
        if not self._stopping and len(self._workers) < self._size:
            self._spawn()

    def _forget(self, worker: _Worker) -> None:
        loop = asyncio.get_running_loop()
        if worker.start_timer is not None:
            worker.start_timer.cancel()
        loop.remove_reader(worker.sock.fileno())
        loop.remove_reader(worker.pidfd)
        worker.sock.close()
        os.close(worker.pidfd)
        worker.process.wait()
        self._workers.pop(worker.number, None)


def _how_it_ended(returncode: int) -> str:
    if returncode < 0:
        return f"was killed by signal {-returncode}"
    return f"exited with {returncode}"
