"""Readers and workers that a virtual clock moves.

The scheduler is the daemon's own, or anything else that takes its events and gives its
instructions. Readers do as `faucet_client` does: they have PREFETCH_GRANTS grants under way or
mapped beside the one that they work on, ask for one more when they take one up, and let go of a
segment when they have taken up the next. Workers load one chunk after another. Nothing else takes
time, so what a run shows is what the decisions were worth.
"""

from __future__ import annotations

import heapq
import time
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from benchmarks.simulation.workload import Job, Workload
from faucet_client.feed import PREFETCH_GRANTS
from faucetd.schedule.events import (
    ChunkInfo,
    ChunkLoaded,
    CreditsGiven,
    DatasetAdded,
    Event,
    LeasesReleased,
    ReaderJoined,
    ReaderLeft,
    WorkerIdle,
)
from faucetd.schedule.instructions import (
    AdmitReader,
    Evict,
    Grant,
    Instruction,
    Load,
    RefuseReader,
)

CHUNK_BYTES = 64 * 2**20

DATASET = "simulated"


class Decides(Protocol):
    """Events in, instructions out: the daemon's scheduler, or a rival."""

    def handle(self, event: Event) -> list[Instruction]:
        """What is to be done now."""


@dataclass
class Reading:
    """How a job fared.

    Attributes:
        grants_s: By epoch: when it was granted each chunk, ascending.
        chunks: By epoch: the chunks, in that order.
        started_s: When it asked first.
        finished_s: When it was through.
        waited_s: Seconds for which it had nothing to work on, those before its admission included.
        longest_wait_s: The longest of these waits.
        refusals: How often it asked in vain to be admitted.
    """

    started_s: float
    grants_s: list[array[float]] = field(default_factory=list)
    chunks: list[array[int]] = field(default_factory=list)
    finished_s: float = 0.0
    waited_s: float = 0.0
    longest_wait_s: float = 0.0
    refusals: int = 0


@dataclass
class Run:
    """What a simulation saw.

    Attributes:
        loads: Chunks read from the source.
        peak_chunks: The most that were resident or being loaded at a time.
        readings: By job.
        decisions_ns: Of each event: how long its handling took, in real nanoseconds of this thread.
    """

    loads: int = 0
    peak_chunks: int = 0
    readings: list[Reading] = field(default_factory=list)
    decisions_ns: array[int] = field(default_factory=lambda: array("q"))


class _Reader:
    """A reader at work."""

    def __init__(self, job: Job, reading: Reading, chunks: int) -> None:
        self.job = job
        self.reading = reading
        self.to_come = chunks * job.epochs
        self.mapped: deque[int] = deque()  # leases of grants that it has not taken up yet
        self.lease: int | None = None  # of what it works on, or worked on last
        self.idle_since: float | None = job.start_s


class Machine:
    """Runs a workload on a scheduler. One run a machine."""

    def __init__(self, workload: Workload, scheduler: Decides) -> None:
        self._workload = workload
        self._scheduler = scheduler
        self._now_s = 0.0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._entries = 0
        self._events: deque[Event] = deque()
        self._readers = [
            _Reader(job, Reading(job.start_s), workload.chunks) for job in workload.jobs
        ]
        self._refused: deque[int] = deque()
        self._made: dict[int, int] = {}  # by worker: the chunk that it loaded last
        self._present = 0  # chunks that are resident or being loaded
        self._run = Run(readings=[reader.reading for reader in self._readers])

    def run(self) -> Run:
        """Lets the clock run until every job is through."""
        self._send(DatasetAdded(DATASET, plan(self._workload)))
        for worker in range(self._workload.workers):
            self._send(WorkerIdle(worker))
        for number, reader in enumerate(self._readers):
            self._at(reader.job.start_s, partial(self._join, number))
        while self._agenda:
            self._now_s, _, happens = heapq.heappop(self._agenda)
            happens()
            while self._events:
                self._handle(self._events.popleft())
        stuck = [number for number, reader in enumerate(self._readers) if reader.to_come]
        if stuck:
            raise RuntimeError(f"readers {stuck} are never given what they want")
        return self._run

    def _at(self, time_s: float, happens: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (time_s, self._entries, happens))
        self._entries += 1

    def _send(self, event: Event) -> None:
        self._events.append(event)

    def _handle(self, event: Event) -> None:
        began = time.thread_time_ns()
        instructions = self._scheduler.handle(event)
        self._run.decisions_ns.append(time.thread_time_ns() - began)
        for instruction in instructions:
            match instruction:
                case Grant():
                    self._granted(instruction)
                case Load():
                    self._load(instruction)
                case Evict():
                    self._present -= 1
                case RefuseReader():
                    self._readers[instruction.reader].reading.refusals += 1
                    self._refused.append(instruction.reader)
                case AdmitReader():
                    pass
                case _:
                    raise RuntimeError(f"nothing fails here, and yet: {instruction}")
        self._run.peak_chunks = max(self._run.peak_chunks, self._present)

    # Workers.

    def _load(self, load: Load) -> None:
        self._run.loads += 1
        self._present += 1
        before = self._made.get(load.worker)
        follows = before is not None and before + 1 == load.chunk
        same_lane = load.chunk % self._workload.lane_chunks != 0
        takes_s = self._workload.load_s + (0 if follows and same_lane else self._workload.seek_s)
        self._at(self._now_s + takes_s, partial(self._loaded, load))

    def _loaded(self, load: Load) -> None:
        self._made[load.worker] = load.chunk
        self._send(ChunkLoaded(load.worker, {"train": CHUNK_BYTES}))
        self._send(WorkerIdle(load.worker))

    # Readers.

    def _join(self, number: int) -> None:
        job = self._readers[number].job
        self._send(
            ReaderJoined(
                number, DATASET, "train", 0, job.epochs, credits=PREFETCH_GRANTS, seed=number
            )
        )

    def _granted(self, grant: Grant) -> None:
        reader = self._readers[grant.reader]
        while len(reader.reading.grants_s) <= grant.epoch:
            reader.reading.grants_s.append(array("d"))
            reader.reading.chunks.append(array("l"))
        reader.reading.grants_s[grant.epoch].append(self._now_s)
        reader.reading.chunks[grant.epoch].append(grant.segment.chunk)
        reader.mapped.append(grant.lease)
        if reader.idle_since is not None:
            self._take_up(grant.reader)

    def _take_up(self, number: int) -> None:
        reader = self._readers[number]
        assert reader.idle_since is not None
        waited_s = self._now_s - reader.idle_since
        reader.reading.waited_s += waited_s
        reader.reading.longest_wait_s = max(reader.reading.longest_wait_s, waited_s)
        reader.idle_since = None
        before, reader.lease = reader.lease, reader.mapped.popleft()
        self._send(CreditsGiven(number, 1))
        if before is not None:
            self._send(LeasesReleased((before,)))
        self._at(self._now_s + reader.job.chunk_s, partial(self._through, number))

    def _through(self, number: int) -> None:
        """The reader has seen the last row of what it worked on."""
        reader = self._readers[number]
        reader.to_come -= 1
        reader.idle_since = self._now_s
        if reader.mapped:
            self._take_up(number)
        elif not reader.to_come:
            assert reader.lease is not None
            reader.reading.finished_s = self._now_s
            self._send(ReaderLeft(number))
            self._send(LeasesReleased((reader.lease,)))
            refused, self._refused = self._refused, deque()
            for other in refused:
                self._join(other)


def plan(workload: Workload) -> tuple[ChunkInfo, ...]:
    """The dataset's plan, as the scheduler is told it."""
    return tuple(
        ChunkInfo(
            lane=number // workload.lane_chunks,
            rows={"train": 1},
            nbytes={"train": CHUNK_BYTES},
        )
        for number in range(workload.chunks)
    )
