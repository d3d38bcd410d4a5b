"""Orders that are kept while things change, so that no decision looks at every chunk.

All go by a chunk's **had**: of the epochs that were begun on its split, how many do not want it
(any more). Wanted by most is had by fewest. But who begins an epoch wants all chunks, which changes
no chunk's had; and a chunk that is granted, or given up, is had by one more. So had never falls,
and an entry of long ago has a bound of today's value: it is looked at again when it comes first.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence

Had = Callable[[int], int]

LOOK = 32
"""Resident chunks that are compared for a grant."""


class Among(Container[int]):
    """The chunks of a set that are inside of another one too, or outside of it. Copies neither."""

    __slots__ = ("_all", "_inside", "_others")

    def __init__(
        self, chunks: Container[int], others: Container[int], *, inside: bool = True
    ) -> None:
        self._all = chunks
        self._others = others
        self._inside = inside

    def __contains__(self, chunk: object) -> bool:
        return chunk in self._all and (chunk in self._others) is self._inside


class LoadOrder:
    """Absent chunks that one reader wants: had by fewest first, then by the reader's own rank."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int]] = []  # had, rank, chunk
        self._listed: set[int] = set()  # the chunks that have an entry, of whatever time

    def begin(self, entries: Iterable[tuple[int, int, int]]) -> None:
        """Begins anew with these: had, rank and number of each chunk."""
        self._heap = list(entries)
        heapq.heapify(self._heap)
        self._listed = {chunk for *_, chunk in self._heap}

    def add(self, had: int, rank: int, chunk: int) -> None:
        """The chunk has become absent."""
        if chunk not in self._listed:
            self._listed.add(chunk)
            heapq.heappush(self._heap, (had, rank, chunk))

    def first(
        self, absent: Container[int], pending: Container[int], had: Had, but: Collection[int]
    ) -> int | None:
        """The first that is still absent and pending, and is not among `but`."""
        heap = self._heap
        skipped = []
        found = None
        while heap:
            was, rank, chunk = heap[0]
            if chunk not in absent or chunk not in pending:
                heapq.heappop(heap)
                self._listed.discard(chunk)
            elif (now := had(chunk)) != was:
                heapq.heapreplace(heap, (now, rank, chunk))
            elif chunk in but:
                skipped.append(heapq.heappop(heap))
            else:
                found = chunk
                break
        for entry in skipped:
            heapq.heappush(heap, entry)
        return found


class Pool:
    """Resident chunks that one reader wants, of which it takes what fewest others want.

    What is wanted by nobody else can be evicted afterwards, and what others want too is still
    there later. It is enough to look at a few: the best of LOOK is among the best of all.
    """

    def __init__(self) -> None:
        self._chunks: list[int] = []
        self._places: dict[int, int] = {}  # by chunk: its index

    def __len__(self) -> int:
        return len(self._chunks)

    def begin(self, chunks: Iterable[int]) -> None:
        """Begins anew with these."""
        self._chunks = list(chunks)
        self._places = {chunk: place for place, chunk in enumerate(self._chunks)}

    def add(self, chunk: int) -> None:
        """The chunk has become resident."""
        self._places[chunk] = len(self._chunks)
        self._chunks.append(chunk)

    def discard(self, chunk: int) -> None:
        """The chunk was granted, given up or evicted, if it was here."""
        place = self._places.pop(chunk, None)
        if place is None:
            return
        last = self._chunks.pop()
        if last != chunk:
            self._chunks[place] = last
            self._places[last] = place

    def best(self, turn: int, wanted: Sequence[int]) -> int | None:
        """Of a few chunks the one `wanted` by fewest; others are looked at with each `turn`."""
        if not self._chunks:
            return None
        begin = turn * LOOK % len(self._chunks)
        few = self._chunks[begin : begin + LOOK]
        if len(few) < LOOK:
            few += self._chunks[: min(LOOK - len(few), begin)]
        return min(few, key=wanted.__getitem__)


class EvictionOrder:
    """Resident chunks of one split that nobody leases: had by most first, then used longest ago."""

    def __init__(self) -> None:
        self._by_had: dict[int, dict[int, None]] = {}  # chunks, those used longest ago first
        self._had: dict[int, int] = {}  # by chunk: where it is among these

    def __len__(self) -> int:
        return len(self._had)

    def add(self, chunk: int, had: int) -> None:
        """Nobody leases the chunk any more, or it has been had by more since it was added."""
        self.discard(chunk)
        self._had[chunk] = had
        self._by_had.setdefault(had, {})[chunk] = None

    def discard(self, chunk: int) -> None:
        """The chunk is leased or evicted, if it was here."""
        had = self._had.pop(chunk, None)
        if had is not None:
            bucket = self._by_had[had]
            del bucket[chunk]
            if not bucket:
                del self._by_had[had]

    def refresh(self, had: Had) -> None:
        """Chunks may have been had by more, and nobody knows which."""
        for chunk, was in list(self._had.items()):
            if had(chunk) != was:
                self.add(chunk, had(chunk))

    def __contains__(self, chunk: int) -> bool:
        return chunk in self._had

    def chunks(self, least_had: int) -> Iterator[int]:
        """In this order, those that were had by `least_had` or more. Add nothing meanwhile."""
        for had in sorted((had for had in self._by_had if had >= least_had), reverse=True):
            yield from self._by_had[had]
