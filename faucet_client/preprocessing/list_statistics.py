"""What must be known of a column of lists, in parts that can be merged; as in `statistics.py`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from faucet_client.errors import ColumnError
from faucet_client.preprocessing.categories import CATEGORY_LIMIT, CategoryStatistics
from faucet_client.preprocessing.columns import kind_of, vectors
from faucet_client.preprocessing.lists import lists_of


@dataclass(frozen=True)
class VectorStatistics:
    """All that is known of a column of lists of numbers that all have one length.

    Attributes:
        rows: All rows.
        nulls: Those that lack a number: null, empty, or with a null or NaN in the list.
        infinite: Of the others, those with an infinite number.
        width: The length of all lists; None where no row has one.
    """

    rows: int
    nulls: int
    infinite: int
    width: int | None

    @classmethod
    def of(cls, name: str, column: Any) -> VectorStatistics:
        """The statistics of one part of a column.

        Raises:
            ColumnError: it is not of lists of numbers, or they have different lengths.
        """
        lists = lists_of(name, column)
        widths = np.unique(lists.lengths[lists.lengths > 0]).tolist()
        if len(widths) > 1:
            raise _uneven(widths[0], widths[-1], f'column "{name}": ')
        width = widths[0] if widths else lists.width
        if width is None:
            return cls(len(lists), len(lists), 0, None)
        values, there = vectors(name, lists, width)
        complete = there.all(axis=1)
        infinite = complete & np.isinf(values).any(axis=1)
        return cls(len(lists), int((~complete).sum()), int(infinite.sum()), width)

    def merge(self, other: VectorStatistics) -> VectorStatistics:
        """The statistics of both parts' rows.

        Raises:
            ColumnError: the lists have different lengths.
        """
        widths = sorted({width for width in (self.width, other.width) if width is not None})
        if len(widths) > 1:
            raise _uneven(widths[0], widths[1])
        return VectorStatistics(
            self.rows + other.rows,
            self.nulls + other.nulls,
            self.infinite + other.infinite,
            widths[0] if widths else None,
        )


@dataclass(frozen=True)
class ListStatistics:
    """All that is known of a column of lists of text or of whole numbers.

    Attributes:
        rows: All rows.
        nulls: Those that are null.
        elements: Of the lists' elements, as of rows of a column.
    """

    rows: int
    nulls: int
    elements: CategoryStatistics

    @classmethod
    def of(cls, name: str, column: Any, limit: int = CATEGORY_LIMIT) -> ListStatistics:
        """The statistics of one part of a column.

        Raises:
            ColumnError: it is not of lists of text or of whole numbers.
        """
        lists = lists_of(name, column)
        kind = kind_of(name, lists.elements)
        if kind not in ("text", "numbers"):
            raise ColumnError(
                f'column "{name}" has lists of {kind}, and only those of text or whole numbers can '
                "be categories: make such of it in the source's query, or leave it out "
                "(exclude_features)"
            )
        count = CategoryStatistics.of_text if kind == "text" else CategoryStatistics.of_integers
        return cls(len(lists), lists.nulls, count(name, lists.elements, limit))

    def merge(self, other: ListStatistics) -> ListStatistics:
        """The statistics of both parts' rows.

        Raises:
            SpecError: they are of other things, or were taken with different limits.
        """
        one, two = sorted((self.elements, other.elements), key=lambda each: each.kind)
        if one.kind != two.kind and not (one.count and two.count):
            # Of the part without any value nobody could tell of what it would be.
            known = one if one.count else two
            elements = replace(known, rows=one.rows + two.rows, nulls=one.nulls + two.nulls)
        else:
            elements = one.merge(two)
        return ListStatistics(self.rows + other.rows, self.nulls + other.nulls, elements)


def _uneven(one: int, other: int, where: str = "") -> ColumnError:
    return ColumnError(
        f"{where}it has lists of {one:,} and of {other:,} elements, and VECTOR is for lists of one "
        "length: cut or fill them in the source's query, or make such rows null"
    )
