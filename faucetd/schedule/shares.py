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

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from faucetd.schedule.parts import N, Numbers, Part, RowRange, within

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

    def range_at(self, start: N, rows: N, total: int) -> tuple[N, N]:
        """The reader's rows of a chunk that has the positions [start, start + rows) of `total`.

        Returns:
            The first, counted within the chunk, and how many.
        """
        first, mine, before = self._rank_range(start, rows, total)
        skipped, of_worker = self.part.range_at(before, mine)
        return first + skipped, of_worker

    def _rank_rows(self, total: int) -> int:
        least, rest = divmod(total, self.world_size)
        return least + (self.remainder == "pad" and rest > 0)

    def _rank_range(self, start: N, rows: N, total: int) -> tuple[N, N, N]:
        """The rank's rows of a chunk, and how many it has of those before."""
        if self.world_size == 1:
            return start * 0, rows, start
        by_rank = Part(self.rank, self.world_size)
        least, rest = divmod(total, self.world_size)
        if self.remainder == "drop":
            end = least * self.world_size
            begin, stop = within(0, start, end), within(0, start + rows, end)
            first, mine = by_rank.range_at(begin, stop - begin)
            return first, mine, by_rank.rows_before(begin)
        first, mine = by_rank.range_at(start, rows)
        before = by_rank.rows_before(start)
        if self.rank < rest or not rest:
            return first, mine, before
        # It lacks a row, and gets a neighbour's, of the chunk that has the first one of all: that
        # is rank 0's, which lacks none, so there is one.
        lends = (start == 0) & (rows > 0)
        first = first - (lends & (first + mine >= rows))
        return first, mine + lends, before + (start > 0)


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
        self._starts = np.array([start for start, _ in in_order], np.int64)
        self._gone = np.cumsum([0, *(rows for _, rows in in_order)], dtype=np.int64)
        self._gone_in = dict(zip(before, map(rows_in, before.values()), strict=True))

    def of_another(self, shape: Shape) -> Share:
        """What `shape` gets after the same was had."""
        share = copy.copy(self)
        share.shape = shape
        return share

    def rows(self, total: int) -> int:
        """How many rows of an epoch of `total` are the reader's."""
        return self.shape.rows(total - int(self._gone[-1]))

    def of_chunk(self, chunk: int, start: int, rows: int, total: int) -> Ranges:
        """The reader's rows of a chunk that has the positions [start, start + rows) of `total`."""
        one = np.array([[chunk], [start], [rows]], np.int64)
        return self.of_chunks(one[0], one[1], one[2], total)[0]

    def of_chunks(
        self, chunks: Numbers, starts: Numbers, rows: Numbers, total: int
    ) -> list[Ranges]:
        """The same of many: int64 [chunks] each."""
        firsts, counts = self.places(chunks, starts, rows, total)
        many = zip(*(each.tolist() for each in (chunks, rows, firsts, counts)), strict=True)
        return [
            self.at(chunk, of_chunk, RowRange(first, count)) if count else ()
            for chunk, of_chunk, first, count in many
        ]

    def places(
        self, chunks: Numbers, starts: Numbers, rows: Numbers, total: int
    ) -> tuple[Numbers, Numbers]:
        """Which of the rows that are left of each chunk are the reader's: int64 [chunks] each.

        Returns:
            The place of the first among those that were not had before, and how many.
        """
        if self.before:
            starts = starts - self._gone[np.searchsorted(self._starts, starts)]
            gone = [self._gone_in.get(chunk, 0) for chunk in chunks.tolist()]
            rows = rows - np.array(gone, np.int64)
        return self.shape.range_at(starts, rows, total - int(self._gone[-1]))

    def at(self, chunk: int, rows: int, places: RowRange) -> Ranges:
        """The rows at some places of a chunk, of `rows`."""
        before = self.before.get(chunk)
        return _among(_others(before, rows), places) if before else (places,)


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
