"""What was not taken over as it was, counted a column.

Nothing changes silently: what a column loses on its way into float32 is counted here, and the
daemon adds it up and shows it.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class ColumnCounts:
    """Values of one source column, in the rows that were kept.

    Attributes:
        nulls: Had no value: NaN in features, labels and weights. Of ragged features, null lists
            and null elements.
        rounded: Integers beyond 2^24 that float32 cannot hold exactly.
        overflowed: Finite float64 values beyond float32's largest; they became infinite.
        not_finite: Were NaN or infinite in the source. As they are, they stay so; preprocessed,
            they count as missing. Of a VECTOR, rows of which any number is so, or is null.
        imputed: Were missing, and were replaced as the spec says.
        clipped: Were outside the spec's range, and were put at its end.
        unseen: Are none of the values that a spec lists.
    """

    nulls: int = 0
    rounded: int = 0
    overflowed: int = 0
    not_finite: int = 0
    imputed: int = 0
    clipped: int = 0
    unseen: int = 0

    def __add__(self, other: ColumnCounts) -> ColumnCounts:
        return ColumnCounts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


NOTHING = ColumnCounts()


class Tally:
    """Adds up counts by source column."""

    def __init__(self) -> None:
        self._columns: dict[str, ColumnCounts] = {}

    def add(self, source: str, counts: ColumnCounts) -> None:
        """Adds what a further part of a column lost."""
        if counts != NOTHING:
            self._columns[source] = self._columns.get(source, NOTHING) + counts

    def result(self) -> dict[str, ColumnCounts]:
        """The columns that have anything to tell."""
        return dict(self._columns)
