"""How the rows of a split are dealt to the parts of a job (DataLoader workers, later ranks).

Rows have a position: those of the chunk that was found first come first, then those of the second,
and so on; in a plan that is known from the start that is the order of the chunks. Positions are
dealt in runs
of `stripe_rows` to part 0, 1, …, parts - 1, 0, …: a pure function, so that no part needs to know
of another, each row has exactly one part, and with stripes of a batch only one batch of the whole
epoch is short. Inside a chunk the rows of a part are gathered into one interval, part 0's first:
chunks are permuted, so which rows they are does not matter, and one interval a chunk is all that
anybody has to remember.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


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

    def rows_before(self, position: int) -> int:
        """How many of the first `position` rows belong to this part."""
        rounds, rest = divmod(position, self.stripe_rows * self.parts)
        in_round = min(max(rest - self.part * self.stripe_rows, 0), self.stripe_rows)
        return rounds * self.stripe_rows + in_round

    def range_at(self, start: int, rows: int) -> RowRange:
        """This part's rows of a chunk that has the positions [start, start + rows)."""
        if self.parts == 1:
            return RowRange(0, rows)
        stop = start + rows
        below = self._rows_below(stop) - self._rows_below(start)
        return RowRange(below, self.rows_before(stop) - self.rows_before(start))

    def _rows_below(self, position: int) -> int:
        """How many of the first `position` rows belong to the parts before this one."""
        rounds, rest = divmod(position, self.stripe_rows * self.parts)
        below = self.stripe_rows * self.part
        return rounds * below + min(rest, below)
