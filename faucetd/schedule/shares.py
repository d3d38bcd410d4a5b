"""Which rows of each chunk a reader gets: those of its rank, and of these its worker's. Pure.

Invariants:

- Shares of the ranks of a job are disjoint, but for padding, and all of the same size: with
  `remainder="drop"` ⌊N / W⌋ of N rows, so that up to W - 1 rows of an epoch are nobody's; with
  `"pad"` ⌈N / W⌉, for which a rank that lacks a row gets one of another.
- A share is a pure function of a chunk's position (parts.py) and of what was had before, so no rank
  needs to know of another.
- What was had **before** are rows that a job had in this epoch when it had another number of ranks.
  They belong to nobody now; the others are dealt as if they were the whole epoch.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

from faucetd.schedule.parts import Part, RowRange

Remainder = Literal["drop", "pad"]

Ranges = tuple[RowRange, ...]
"""Rows of a chunk: ascending, disjoint, none empty."""


@dataclass(frozen=True)
class Shape:
    """Who a reader is among those of its job.

    Attributes:
        rank: Of `world_size` ranks.
        world_size: How many ranks share each epoch.
        remainder: What becomes of rows that cannot be dealt evenly.
        part: The DataLoader worker's share of the rank's rows.
    """

    rank: int = 0
    world_size: int = 1
    remainder: Remainder = "drop"
    part: Part = field(default_factory=Part)

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"no such rank: {self}")

    def rows(self, total: int) -> int:
        """How many of `total` rows are the reader's."""
        return self.part.rows_before(self._rank_rows(total))

    def range_at(self, start: int, rows: int, total: int) -> RowRange:
        """The reader's rows of a chunk that has the positions [start, start + rows) of `total`."""
        mine, before = self._rank_range(start, rows, total)
        of_worker = self.part.range_at(before, mine.rows)
        return RowRange(mine.first + of_worker.first, of_worker.rows)

    def _rank_rows(self, total: int) -> int:
        least, rest = divmod(total, self.world_size)
        return least + (self.remainder == "pad" and rest > 0)

    def _rank_range(self, start: int, rows: int, total: int) -> tuple[RowRange, int]:
        """The rank's rows of a chunk, and how many it has of those before."""
        if self.world_size == 1:
            return RowRange(0, rows), start
        by_rank = Part(self.rank, self.world_size)
        least, rest = divmod(total, self.world_size)
        if self.remainder == "drop":
            end = least * self.world_size
            start, stop = min(start, end), min(start + rows, end)
            return by_rank.range_at(start, stop - start), by_rank.rows_before(start)
        mine, before = by_rank.range_at(start, rows), by_rank.rows_before(start)
        if self.rank < rest or not rest:
            return mine, before
        # It lacks a row, and gets a neighbour's, of the chunk that has the first one of all: that
        # is rank 0's, which lacks none, so there is one.
        if start > 0 or rows == 0:
            return mine, before + (start > 0)
        if mine.first + mine.rows < rows:
            return RowRange(mine.first, mine.rows + 1), before
        return RowRange(mine.first - 1, mine.rows + 1), before


@dataclass(frozen=True)
class Earlier:
    """What one reader of a job had in an epoch, when the job had another number of ranks.

    Attributes:
        shape: Who it was.
        had: Chunks whose rows it had, all that were its own.
        partly: Rows that it had of other chunks.
    """

    shape: Shape
    had: frozenset[int]
    partly: Mapping[int, Ranges]


class Share:
    """What a reader gets in an epoch.

    Args:
        shape: Who it is.
        before: What was had before of each chunk; see the module's docstring.
        starts: The position of each chunk's first row; of those in `before` at least.
    """

    def __init__(
        self, shape: Shape, before: Mapping[int, Ranges], starts: Mapping[int, int] | Sequence[int]
    ) -> None:
        self.shape = shape
        self.before = before
        in_order = sorted((starts[chunk], rows_in(ranges)) for chunk, ranges in before.items())
        self._starts = [start for start, _ in in_order]
        self._gone = list(accumulate((rows for _, rows in in_order), initial=0))

    def rows(self, total: int) -> int:
        """How many rows of an epoch of `total` are the reader's."""
        return self.shape.rows(total - self._gone[-1])

    def of_chunk(self, chunk: int, start: int, rows: int, total: int) -> Ranges:
        """The reader's rows of a chunk that has the positions [start, start + rows) of `total`."""
        before = self.before.get(chunk, ())
        start -= self._gone[bisect_left(self._starts, start)]
        mine = self.shape.range_at(start, rows - rows_in(before), total - self._gone[-1])
        if not before:
            return (mine,) if mine.rows else ()
        return _among(_others(before, rows), mine)


def rows_in(ranges: Ranges) -> int:
    """How many rows these are."""
    return sum(each.rows for each in ranges)


def union(*several: Ranges) -> Ranges:
    """The rows that are in any."""
    found: list[RowRange] = []
    for first, rows in sorted(each for ranges in several for each in ranges if each.rows):
        stop = first + rows
        if found and found[-1].first + found[-1].rows >= first:
            last = found.pop()
            first, stop = last.first, max(last.first + last.rows, stop)
        found.append(RowRange(first, stop - first))
    return tuple(found)


def _others(ranges: Ranges, rows: int) -> Ranges:
    """The rows of [0, rows) that are in none of `ranges`."""
    found, position = [], 0
    for first, count in ranges:
        if first > position:
            found.append(RowRange(position, first - position))
        position = first + count
    if position < rows:
        found.append(RowRange(position, rows - position))
    return tuple(found)


def _among(ranges: Ranges, wanted: RowRange) -> Ranges:
    """The rows that have the places `wanted` if those of `ranges` are numbered through."""
    found, place = [], 0
    stop = wanted.first + wanted.rows
    for first, rows in ranges:
        begin, end = max(wanted.first, place), min(stop, place + rows)
        if begin < end:
            found.append(RowRange(first + begin - place, end - begin))
        place += rows
    return tuple(found)
