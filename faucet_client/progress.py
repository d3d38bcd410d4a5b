"""How far a reader is in its epoch: what makes its state, and what it goes on from.

Invariants:

- A reader hands out the rows of the grants in the order in which they came, so how many rows it has
  handed out tells which: `state` costs nothing while batches are handed out.
- The order of a chunk's rows is a function of seed, epoch and chunk (`turned`), and of the rows
  themselves. So a chunk of which some rows were had is granted again as a whole, and as many rows
  are left out.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import NamedTuple

from faucet_client.state import Partly, Ranges, ReaderState


class _Taken(NamedTuple):
    """A grant of this epoch: its rows in the order in which they are handed out."""

    chunk: int
    ranges: Ranges
    left_out: int


class Progress:
    """One reader's.

    Args:
        state: What it goes on from.
        first_epoch_rows: Its rows of that epoch, those included that it had.
        rows_per_epoch: Its rows of each other epoch.
    """

    def __init__(self, state: ReaderState, first_epoch_rows: int, rows_per_epoch: int) -> None:
        self._first = state
        self._first_epoch_rows = first_epoch_rows
        self._rows_per_epoch = rows_per_epoch
        self._begun = state
        self._taken: list[_Taken] = []

    def begin(self, epoch: int) -> None:
        """The reader begins an epoch, or goes on with its first one."""
        self._begun = self.beginning_of(epoch)
        self._taken = []

    def first_batch(self, epoch: int) -> int:
        """The number of the first batch to come of an epoch that is to begin."""
        return self.beginning_of(epoch).batch

    def rows_to_come(self, epoch: int) -> int:
        """Rows to come of an epoch that is to begin."""
        if epoch == self._first.epoch:
            return self._first_epoch_rows - self._first.rows
        return self._rows_per_epoch

    def left_out(self, chunk: int) -> int:
        """Rows of the chunk that were had, and are left out when it is granted again."""
        partly = self._begun.partly.get(chunk)
        return 0 if partly is None else partly.rows

    def take(self, chunk: int, ranges: Ranges) -> Ranges:
        """Notes a grant, whose rows are handed out in the order of `ranges`; those that are left.

        May be called before the rows of grants before it were handed out.
        """
        left_out = self.left_out(chunk)
        self._taken.append(_Taken(chunk, ranges, left_out))
        return _split(ranges, left_out)[1]

    def state(self, batches: int, rows: int) -> ReaderState:
        """The state after so many batches and rows of this epoch, counted since it was begun."""
        begun = self._begun
        if rows == 0:
            return begun
        had, partly = set(begun.had), dict(begun.partly)
        left = rows
        for chunk, ranges, left_out in self._taken:
            count = sum(size for _, size in ranges) - left_out
            if count <= left:
                had.add(chunk)
                partly.pop(chunk, None)
                left -= count
            else:
                if left:
                    handed = left_out + left
                    partly[chunk] = Partly(handed, _ascending(_split(ranges, handed)[0]))
                break
        return replace(
            begun,
            batch=begun.batch + batches,
            rows=begun.rows + rows,
            had=frozenset(had),
            partly=partly,
        )

    def beginning_of(self, epoch: int) -> ReaderState:
        """The state in which an epoch begins."""
        if epoch == self._first.epoch:
            return self._first
        return replace(
            self._first, epoch=epoch, batch=0, rows=0, had=frozenset(), partly={}, before={}
        )


def turned(ranges: Ranges, seed: int, epoch: int, chunk: int) -> Ranges:
    """The rows from one on that varies with seed and epoch, then those before it."""
    of_chunk = random.Random(f"{seed}/{epoch}/{chunk}")  # noqa: S311  # a shuffle, no secret
    before, after = _split(ranges, of_chunk.randrange(sum(rows for _, rows in ranges)))
    return after + before


def _split(ranges: Ranges, rows: int) -> tuple[Ranges, Ranges]:
    """The first `rows` rows, and the others."""
    before, after = [], []
    for first, count in ranges:
        taken = min(rows, count)
        rows -= taken
        if taken:
            before.append((first, taken))
        if taken < count:
            after.append((first + taken, count - taken))
    return tuple(before), tuple(after)


def _ascending(ranges: Ranges) -> Ranges:
    """The same rows, ascending, with no gapless neighbours."""
    found: list[tuple[int, int]] = []
    for first, rows in sorted(ranges):
        if found and sum(found[-1]) == first:
            found[-1] = (found[-1][0], found[-1][1] + rows)
        else:
            found.append((first, rows))
    return tuple(found)
