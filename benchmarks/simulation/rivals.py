"""What others do: every reader has an order of its own, over a cache of the chunks used last.

Both rivals are spared what costs memory: a chunk may be evicted while somebody works on it, and no
reader is ever refused. They take the scheduler's events and give its instructions.
"""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Callable

from benchmarks.simulation.machine import CHUNK_BYTES
from faucetd.schedule.events import (
    ChunkLoaded,
    CreditsGiven,
    DatasetAdded,
    Event,
    LeasesReleased,
    ReaderJoined,
    ReaderLeft,
    WorkerIdle,
)
from faucetd.schedule.instructions import AdmitReader, Evict, Grant, Instruction, Load, SegmentId
from faucetd.schedule.parts import RowRange


class _Cursor:
    """A reader: the chunks of its epoch in its order, and how far it is."""

    def __init__(self, event: ReaderJoined) -> None:
        self.event = event
        self.credits = event.credits
        self.epoch = event.first_epoch
        self.order: list[int] = []
        self.position = 0


class OwnOrders:
    """A shuffled order for each reader and epoch; who waits longest is loaded for first."""

    def __init__(self, capacity_chunks: int) -> None:
        self._capacity_chunks = capacity_chunks
        self._chunks = 0
        self._cached: OrderedDict[int, None] = OrderedDict()  # the chunk used last comes last
        self._loading: dict[int, int] = {}  # by worker: the chunk
        self._wanted: OrderedDict[int, list[_Cursor]] = OrderedDict()  # absent; first come first
        self._idle: deque[int] = deque()
        self._readers: dict[int, _Cursor] = {}
        self._leases = 0
        self._out: list[Instruction] = []

    def handle(self, event: Event) -> list[Instruction]:
        """What is to be done now."""
        self._out = []
        match event:
            case DatasetAdded():
                self._chunks = len(event.chunks)
            case WorkerIdle():
                self._idle.append(event.worker)
            case ChunkLoaded():
                chunk = self._loading.pop(event.worker)
                self._cached[chunk] = None
                for cursor in self._wanted.pop(chunk, []):
                    self._advance(cursor)
            case ReaderJoined():
                cursor = self._readers[event.reader] = _Cursor(event)
                cursor.order = self.order(cursor)
                self._out.append(AdmitReader(event.reader, self._chunks, 2**62, self._chunks))
                self._advance(cursor)
            case CreditsGiven():
                cursor = self._readers[event.reader]
                waits = not cursor.credits
                cursor.credits += event.grants
                if waits:
                    self._advance(cursor)
            case ReaderLeft():
                del self._readers[event.reader]
            case LeasesReleased():
                pass
        self._load()
        return self._out

    def order(self, cursor: _Cursor) -> list[int]:
        """The chunks of the reader's epoch, in the order in which it reads them."""
        order = list(range(self._chunks))
        seed = f"{cursor.event.seed}/{cursor.epoch}"
        random.Random(seed).shuffle(order)  # noqa: S311  # a simulation, no secret
        return order

    def used(self, chunk: int) -> None:
        """A chunk was granted."""
        self._cached.move_to_end(chunk)

    def _advance(self, cursor: _Cursor) -> None:
        """Grants what the reader can take, until it must wait for a chunk."""
        while cursor.credits and cursor.epoch < cursor.event.first_epoch + cursor.event.epochs:
            chunk = cursor.order[cursor.position]
            if chunk not in self._cached:
                self._wanted.setdefault(chunk, []).append(cursor)
                return
            self.used(chunk)
            self._leases += 1
            cursor.credits -= 1
            self._out.append(
                Grant(
                    self._leases,
                    cursor.event.reader,
                    SegmentId(cursor.event.dataset, chunk, "train"),
                    cursor.epoch,
                    (RowRange(0, 1),),
                )
            )
            cursor.position += 1
            if cursor.position == len(cursor.order):
                cursor.position = 0
                cursor.epoch += 1
                cursor.order = self.order(cursor)

    def _load(self) -> None:
        under_way = set(self._loading.values())
        for chunk in [c for c in self._wanted if c not in under_way][: len(self._idle)]:
            if len(self._cached) + len(self._loading) >= self._capacity_chunks:
                if not self._cached:
                    return
                victim, _ = self._cached.popitem(last=False)
                self._out.append(Evict(SegmentId("", victim, "train")))
            worker = self._idle.popleft()
            self._loading[worker] = chunk
            self._out.append(Load(worker, "", chunk, ("train",), CHUNK_BYTES))


class CircularScan(OwnOrders):
    """One direction for all: who joins begins where the last grant was, and wraps round."""

    def __init__(self, capacity_chunks: int) -> None:
        super().__init__(capacity_chunks)
        self._position = 0

    def order(self, cursor: _Cursor) -> list[int]:  # noqa: ARG002  # all take the same
        """From the chunk that somebody was granted last, round to it again."""
        return [(self._position + n) % self._chunks for n in range(self._chunks)]

    def used(self, chunk: int) -> None:
        """Where the scan is now."""
        super().used(chunk)
        self._position = chunk


RIVALS: dict[str, Callable[[int], OwnOrders]] = {
    "LRU": OwnOrders,
    "circular": CircularScan,
}
