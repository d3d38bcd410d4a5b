"""What must be known of a column to choose and fit its transform, in parts that can be merged.

Invariant: `a.merge(b)` equals, exactly, the statistics of a's and b's rows together; so neither the
order of the rows nor how they were divided among workers changes a spec. What can be summed is
summed exactly; different values are counted until they are too many; and for quantiles and the
Box-Cox likelihood, which need values themselves, the rows of smallest hash are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faucet_client.errors import SpecError
from faucet_client.preprocessing.columns import kind_of, microseconds, numbers
from faucet_client.preprocessing.hashing import mixed
from faucet_client.preprocessing.moments import PowerSums

DISTINCT_VALUES = 4_096
"""How many different values of a column are counted before it has "many"."""


@dataclass(frozen=True, eq=False)
class Distinct:
    """How often each value occurs, while they are few.

    Attributes:
        limit: From one more on, nothing is kept.
        values: float64 [d], ascending; None once there were more than `limit`.
        counts: int64 [d]; None likewise.
    """

    limit: int
    values: NDArray[np.float64] | None
    counts: NDArray[np.int64] | None

    @classmethod
    def of(cls, values: NDArray[np.float64], limit: int) -> Distinct:
        """Those of finite values."""
        found, counts = np.unique(values, return_counts=True)
        return _few(limit, found, counts.astype(np.int64))

    def merge(self, other: Distinct) -> Distinct:
        """Those of both."""
        if self.values is None or other.values is None:
            return Distinct(self.limit, None, None)
        both = np.concatenate([self.values, other.values])
        found, places = np.unique(both, return_inverse=True)
        counts = np.zeros(len(found), np.int64)
        assert self.counts is not None
        assert other.counts is not None
        np.add.at(counts, places, np.concatenate([self.counts, other.counts]))
        return _few(self.limit, found, counts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Distinct) or self.limit != other.limit:
            return False
        return _same(self.values, other.values) and _same(self.counts, other.counts)

    __hash__ = None  # type: ignore[assignment]  # it holds arrays


@dataclass(frozen=True, eq=False)
class Sample:
    """The finite values of the rows of smallest hash.

    Rows of one hash are ordered by value, so that it never matters which came first.

    Attributes:
        limit: How many rows are kept; None for all of them.
        hashes: uint64 [k], ascending; all 0 where all rows are kept.
        values: float64 [k].
    """

    limit: int | None
    hashes: NDArray[np.uint64]
    values: NDArray[np.float64]

    @classmethod
    def of(
        cls, values: NDArray[np.float64], keys: NDArray[np.uint64] | None, limit: int | None
    ) -> Sample:
        """Those of finite values, whose rows have these keys."""
        if limit is None or keys is None:
            return cls(None, np.zeros(len(values), np.uint64), np.sort(values))
        return _smallest(limit, mixed(keys), values)

    def merge(self, other: Sample) -> Sample:
        """Those of both."""
        hashes = np.concatenate([self.hashes, other.hashes])
        return _smallest(self.limit, hashes, np.concatenate([self.values, other.values]))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sample) or self.limit != other.limit:
            return False
        return _same(self.hashes, other.hashes) and _same(self.values, other.values)

    __hash__ = None  # type: ignore[assignment]  # it holds arrays


@dataclass(frozen=True)
class ColumnStatistics:
    """All that is known of one column.

    Attributes:
        rows: All rows.
        nulls: Those without a value: null or NaN.
        infinite: Those with an infinite value; like nulls they are in nothing below.
        rounded: Integers beyond 2^53 that became the nearest float64.
        whole: Whether all values are whole numbers.
        minimum: Of the values; +Infinity where there is none.
        maximum: Of the values; −Infinity where there is none.
        powers: Sums of the values' powers.
        distinct: How often each value occurs.
        sample: Values of the rows of smallest hash.
    """

    rows: int
    nulls: int
    infinite: int
    rounded: int
    whole: bool
    minimum: float
    maximum: float
    powers: PowerSums
    distinct: Distinct
    sample: Sample

    @classmethod
    def of(
        cls,
        name: str,
        column: Any,
        *,
        keys: NDArray[np.uint64] | None = None,
        sample_rows: int | None = None,
        distinct_values: int = DISTINCT_VALUES,
        clip: tuple[float, float] | None = None,
    ) -> ColumnStatistics:
        """The statistics of one part of a column.

        Args:
            name: The column's name, for errors.
            column: Numbers or booleans, [n]: an array, or a masked one, whose mask is null.
            keys: uint64 [n], the same for a row whenever it is read, and different for different
                rows: a hash of the row. None keeps every value, whatever `sample_rows`.
            sample_rows: How many rows' values to keep; None for all.
            distinct_values: How many different values to count.
            clip: Bounds that values are moved to; infinite ones stay what they are.

        Raises:
            ColumnError: the column holds no numbers.
        """
        values, there, rounded = numbers(name, column)
        if keys is not None and (keys.dtype != np.uint64 or keys.shape != values.shape):
            raise SpecError(f"the keys of rows must be uint64 [{len(values)}], a key a row")
        there = there & ~np.isnan(values)
        finite = np.isfinite(values)
        used = there & finite
        kept = values if used.all() else values[used]
        if clip is not None:
            kept = np.clip(kept, *clip)
        kept = kept + 0.0  # -0.0 becomes 0.0, or the order of equal values could be seen
        return cls(
            rows=len(values),
            nulls=len(values) - int(there.sum()),
            infinite=int((there & ~finite).sum()),
            rounded=rounded,
            whole=bool((kept == np.rint(kept)).all()),
            minimum=float(kept.min()) if len(kept) else float("inf"),
            maximum=float(kept.max()) if len(kept) else float("-inf"),
            powers=PowerSums.of(kept),
            distinct=Distinct.of(kept, distinct_values),
            sample=Sample.of(kept, None if keys is None else keys[used], sample_rows),
        )

    def merge(self, other: ColumnStatistics) -> ColumnStatistics:
        """The statistics of both parts' rows.

        Raises:
            SpecError: the parts were taken with different limits.
        """
        if (self.sample.limit, self.distinct.limit) != (other.sample.limit, other.distinct.limit):
            raise SpecError("statistics can be merged only if their limits are the same")
        return ColumnStatistics(
            rows=self.rows + other.rows,
            nulls=self.nulls + other.nulls,
            infinite=self.infinite + other.infinite,
            rounded=self.rounded + other.rounded,
            whole=self.whole and other.whole,
            minimum=min(self.minimum, other.minimum),
            maximum=max(self.maximum, other.maximum),
            powers=self.powers + other.powers,
            distinct=self.distinct.merge(other.distinct),
            sample=self.sample.merge(other.sample),
        )

    @property
    def count(self) -> int:
        """How many values the fit is of."""
        return self.powers.count

    def sorted_sample(self) -> NDArray[np.float64]:
        """The sampled values, ascending: float64 [k]."""
        return np.sort(self.sample.values)

    def mode(self) -> float:
        """The most frequent value, the smallest of several; of the sample if values are many."""
        found, counts = self.distinct.values, self.distinct.counts
        if found is None or counts is None:
            found, counts = np.unique(self.sample.values, return_counts=True)
        return float(found[int(np.argmax(counts))])

    def median(self) -> float:
        """Of the sampled values, of which there must be one."""
        values = self.sorted_sample()
        low, high = float(values[(len(values) - 1) // 2]), float(values[len(values) // 2])
        return low if low == high else low / 2 + high / 2

    def distinct_count(self) -> int | None:
        """How many different values there are; None where that is not known."""
        if self.distinct.values is not None:
            return len(self.distinct.values)
        whole_column = len(self.sample.values) == self.count
        return len(np.unique(self.sample.values)) if whole_column else None


@dataclass(frozen=True)
class TimeStatistics:
    """All that is known of a column of times.

    Attributes:
        dates: Whether they are whole days.
        microseconds: Of the times, as microseconds since 1970.
    """

    dates: bool
    microseconds: ColumnStatistics

    @classmethod
    def of(
        cls,
        name: str,
        column: Any,
        *,
        keys: NDArray[np.uint64] | None = None,
        sample_rows: int | None = None,
        clip: tuple[float, float] | None = None,
    ) -> TimeStatistics:
        """The statistics of one part of a column of times; see `ColumnStatistics.of`.

        Raises:
            ColumnError: the column holds neither times nor integers.
        """
        values, there = microseconds(name, column)
        known = ColumnStatistics.of(
            name,
            np.ma.masked_array(values, ~there),
            keys=keys,
            sample_rows=sample_rows,
            clip=clip,
        )
        return cls(kind_of(name, column) == "dates", known)

    def merge(self, other: TimeStatistics) -> TimeStatistics:
        """The statistics of both parts' rows.

        Raises:
            SpecError: one is of dates and the other is not, or as of `ColumnStatistics.merge`.
        """
        if self.dates != other.dates:
            raise SpecError("dates in one part and timestamps in another cannot be merged")
        return TimeStatistics(self.dates, self.microseconds.merge(other.microseconds))

    @property
    def rows(self) -> int:
        """All rows."""
        return self.microseconds.rows


def _few(limit: int, values: NDArray[np.float64], counts: NDArray[np.int64]) -> Distinct:
    few = len(values) <= limit
    return Distinct(limit, values, counts) if few else Distinct(limit, None, None)


def _smallest(limit: int | None, hashes: NDArray[np.uint64], values: NDArray[np.float64]) -> Sample:
    order = np.lexsort((values, hashes))[:limit]
    return Sample(limit, hashes[order], values[order])


def _same(a: NDArray[Any] | None, b: NDArray[Any] | None) -> bool:
    if a is None or b is None:
        return a is b
    return np.array_equal(a, b)
