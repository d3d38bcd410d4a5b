"""How the rows of a split are dealt to the parts of a job (DataLoader workers, later ranks).

Rows have a position: those of the chunk that was found first come first, then those of the second,
and so on; in a plan that is known from the start that is the order of the chunks. Positions are
dealt in runs
of `stripe_rows` to part 0, 1, …, parts - 1, 0, …: a pure function, so that no part needs to know
of another, each row has exactly one part, and with stripes of a batch only one batch of the whole
epoch is short. Inside a chunk the rows of a part are gathered into one interval, part 0's first:
chunks are permuted, so which rows they are does not matter, and one interval a chunk is all that
anybody has to remember.

The arithmetic takes one chunk, or arrays of many: a plan has tens of thousands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]

N = TypeVar("N", int, Numbers)


class RowRange(NamedTuple):
    """Rows [first, first + rows) of a segment."""

    first: int
    rows: int


@dataclass(frozen=True)
class Part:
    """Part number `part` of `parts`, dealt in runs of `stripe_rows`."""

    part: int = 0
    parts: int = 1
    stripe_rows: int = 1

    def __post_init__(self) -> None:
        if not (0 <= self.part < self.parts and self.stripe_rows >= 1):
            raise ValueError(f"no such part: {self}")

    def rows_before(self, position: N) -> N:
        """How many of the first `position` rows belong to this part."""
        run = self.stripe_rows * self.parts
        in_round = within(0, position % run - self.part * self.stripe_rows, self.stripe_rows)
        return position // run * self.stripe_rows + in_round

    def range_at(self, start: N, rows: N) -> tuple[N, N]:
        """This part's rows of a chunk that has the positions [start, start + rows).

        Returns:
            The first, counted within the chunk, and how many.
        """
        if self.parts == 1:
            return start * 0, rows
        stop = start + rows
        below = self._rows_below(stop) - self._rows_below(start)
        return below, self.rows_before(stop) - self.rows_before(start)

    def _rows_below(self, position: N) -> N:
        """How many of the first `position` rows belong to the parts before this one."""
        run = self.stripe_rows * self.parts
        below = self.stripe_rows * self.part
        return position // run * below + within(0, position % run, below)


def within(least: int, number: N, most: int) -> N:
    """The nearest number from `least` to `most`."""
    if isinstance(number, int):
        return min(max(number, least), most)
    return np.clip(number, least, most)
