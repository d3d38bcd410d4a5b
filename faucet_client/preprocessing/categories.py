"""How often each category of a column occurs, in parts that can be merged, in bounded memory.

Invariant: `a.merge(b)` equals, exactly, the statistics of a's and b's rows together. While there
are at most `limit` different values, each is counted. Beyond it the values of smallest hash are
kept: a value that is among them in the whole is among them in every part that has it, so that its
count is exact, whatever the order. They are a fair sample of the different values, by which is told
how many there are, and how often they occur.

Texts of one 64-bit hash count as one value, called by the least of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from faucet_client.errors import ColumnError, SpecError
from faucet_client.preprocessing.columns import integers, texts
from faucet_client.preprocessing.hashing import hashes_of_integers, hashes_of_texts
from faucet_client.preprocessing.transforms import LONGEST_VALUE

CATEGORY_LIMIT = 100_000


@dataclass(frozen=True, eq=False)
class ValueCounts:
    """How often each of the values of smallest hash occurs.

    Attributes:
        limit: How many values are kept.
        many: Whether there were more.
        hashes: uint64 [k], ascending, each once.
        values: object [k] of str, or int64 [k].
        counts: int64 [k].
    """

    limit: int
    many: bool
    hashes: NDArray[np.uint64]
    values: NDArray[Any]
    counts: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        limit: int,
        many: bool,
        hashes: NDArray[np.uint64],
        values: NDArray[Any],
        counts: NDArray[np.int64],
    ) -> ValueCounts:
        """Those of values that may be there several times, in any order."""
        order = np.argsort(hashes, kind="stable")
        hashes, values, counts = hashes[order], values[order], counts[order]
        if len(hashes):
            starts = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1]))
            values = np.minimum.reduceat(values, starts)
            hashes, counts = hashes[starts], np.add.reduceat(counts, starts)
        many = many or len(hashes) > limit
        return cls(limit, many, hashes[:limit], values[:limit], counts[:limit])

    def merge(self, other: ValueCounts) -> ValueCounts:
        """Those of both."""
        return ValueCounts.of(
            self.limit,
            self.many or other.many,
            np.concatenate([self.hashes, other.hashes]),
            np.concatenate([self.values, other.values]),
            np.concatenate([self.counts, other.counts]),
        )

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ValueCounts)
            and (self.limit, self.many) == (other.limit, other.many)
            and np.array_equal(self.hashes, other.hashes)
            and np.array_equal(self.values, other.values)
            and np.array_equal(self.counts, other.counts)
        )

    __hash__ = None  # type: ignore[assignment]  # it holds arrays


@dataclass(frozen=True)
class CategoryStatistics:
    """All that is known of a column of text, or of whole numbers that are categories.

    Attributes:
        kind: What the values are.
        rows: All rows.
        nulls: Those without a value.
        long: Those with a text of more than 1,024 characters, which is not counted as a value.
        found: How often values occur.
        different: How many different values there are, to some percent, where somebody else has
            counted them; `found` then has the most frequent ones, or none, and cannot be merged.
    """

    kind: Literal["text", "integers"]
    rows: int
    nulls: int
    long: int
    found: ValueCounts
    different: int | None = None

    @classmethod
    def of_text(cls, name: str, column: Any, limit: int = CATEGORY_LIMIT) -> CategoryStatistics:
        """The statistics of one part of a column of text, as in `columns.py`.

        Raises:
            ColumnError: the column holds something else, or a text that is no valid Unicode.
        """
        column = texts(name, column)
        counts = np.bincount(column.codes + 1, minlength=len(column.values) + 1)
        nulls, counts = int(counts[0]), counts[1:].astype(np.int64)
        short = np.fromiter((len(x) <= LONGEST_VALUE for x in column.values), np.bool_)
        used = short & (counts > 0)
        values = np.array([*column.values, None], object)[:-1][used]
        try:
            "".join(values).encode()
        except UnicodeEncodeError as error:
            raise ColumnError(f'column "{name}" has text of no valid Unicode: {error}') from None
        found = ValueCounts.of(limit, False, hashes_of_texts(values), values, counts[used])
        return cls("text", len(column), nulls, int(counts[~short].sum()), found)

    @classmethod
    def of_integers(cls, name: str, column: Any, limit: int = CATEGORY_LIMIT) -> CategoryStatistics:
        """The statistics of one part of a column of whole numbers, each exact.

        Raises:
            ColumnError: the column holds something else, or numbers beyond int64.
        """
        rows, there = integers(name, column)
        values, counts = np.unique(rows[there], return_counts=True)
        hashes = hashes_of_integers(values)
        found = ValueCounts.of(limit, False, hashes, values, counts.astype(np.int64))
        return cls("integers", len(rows), int((~there).sum()), 0, found)

    def merge(self, other: CategoryStatistics) -> CategoryStatistics:
        """The statistics of both parts' rows.

        Raises:
            SpecError: they are of other things, or were taken with different limits.
        """
        if self.kind != other.kind:
            raise SpecError("text in one part and numbers in another cannot be merged")
        if self.found.limit != other.found.limit:
            raise SpecError("statistics can be merged only if their limits are the same")
        if self.different is not None or other.different is not None:
            raise SpecError("of the most frequent values alone, no statistics can be merged")
        return CategoryStatistics(
            self.kind,
            self.rows + other.rows,
            self.nulls + other.nulls,
            self.long + other.long,
            self.found.merge(other.found),
        )

    @property
    def count(self) -> int:
        """How many rows have a value, of whatever length."""
        return self.rows - self.nulls

    def distinct_count(self) -> int:
        """How many different values there are; an estimate, to about 1 %, if there are many.

        Of k uniform hashes the largest is about k / n of the range of all n: Z. Bar-Yossef et al.,
        "Counting distinct elements in a data stream", RANDOM 2002.
        """
        if self.different is not None:
            return self.different
        kept = len(self.found.hashes)
        if not self.found.many:
            return kept
        return round((kept - 1) * 2.0**64 / (float(self.found.hashes[-1]) + 1.0))

    def distinct_share(self) -> float:
        """Different values per row with a counted value, from 0 to 1; 0 without any."""
        if self.different is not None:
            return min(self.different / max(self.count - self.long, 1), 1.0)
        return len(self.found.counts) / max(int(self.found.counts.sum()), 1)

    def listed(self, at_least: int, most: int) -> tuple[Any, ...]:
        """The most frequent values, by falling count, those of one count ascending.

        Args:
            at_least: How often they must occur.
            most: How many to list.
        """
        often = self.found.counts >= at_least
        pairs = zip(
            self.found.counts[often].tolist(), self.found.values[often].tolist(), strict=True
        )
        ordered = sorted(pairs, key=lambda pair: (-pair[0], pair[1]))
        return tuple(value for _, value in ordered[:most])
