import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from faucet_client.errors import ColumnError, SpecError
from faucet_client.preprocessing import ColumnStatistics
from faucet_client.preprocessing.hashing import mixed
from faucet_client.preprocessing.identify import quantiles
from faucet_client.preprocessing.likelihood import most_likely
from faucet_client.preprocessing.minimum import minimum
from faucet_client.preprocessing.moments import PowerSums
from faucet_client.preprocessing.normality import k_squared

Floats = NDArray[np.float64]

FINITE = hnp.arrays(
    np.float64, st.integers(0, 30), elements=st.floats(allow_nan=False, allow_infinity=False)
)
ANY_ROWS = st.lists(
    st.tuples(
        st.floats() | st.sampled_from([0.0, -0.0, 1.0, 2.0, math.nan, math.inf]),
        st.integers(0, 2**64 - 1) | st.integers(0, 3),
    ),
    max_size=40,
)


@given(FINITE)
def test_sums_of_powers_are_exact(values: Floats) -> None:
    sums = PowerSums.of(values)
    assert sums.count == len(values)
    for power in (1, 2, 3, 4):
        expected = sum((Fraction(x) ** power for x in values.tolist()), Fraction(0))
        assert Fraction(sums.sums[power - 1], 2 ** (1126 * power)) == expected


def test_sums_over_many_blocks_are_exact() -> None:
    # Almost the largest mantissas: limbs too wide, or blocks too long, would round here.
    whole = 2**53 - 1 - np.random.default_rng(0).integers(0, 1_000, 100_000)
    sums = PowerSums.of(np.ldexp(whole.astype(np.float64), -52))
    for power in (1, 2, 3, 4):
        expected = sum(number**power for number in whole.tolist())
        assert sums.sums[power - 1] == expected << ((1126 - 52) * power)


def test_moments_do_not_cancel() -> None:
    values = 1e9 + np.array([float(i * i % 101) for i in range(1_000)])
    sums = PowerSums.of(values)
    near = values - 1e9
    assert sums.mean == 1e9 + near.mean()
    assert sums.stddev == pytest.approx(near.std(ddof=1), rel=1e-14)
    of_near = PowerSums.of(near)
    assert (sums.skewness, sums.kurtosis) == (of_near.skewness, of_near.kurtosis)
    assert PowerSums.of(np.array([3.0, 3.0])).stddev == 0
    assert PowerSums.of(np.array([1e308, -1e308])).stddev == pytest.approx(2**0.5 * 1e308)
    assert PowerSums.of(np.array([0.0, 5e-324])).stddev == pytest.approx(3.5e-324, abs=5e-324)


@pytest.mark.parametrize(
    ("values", "k2", "skewness", "kurtosis"),
    [
        # As scipy 1.10 gives them: normaltest, skew and kurtosis.
        ([float(i * i) for i in range(8)], 1.3063040727467783, 0.6754369040970769, 2.116954008374),
        ([i * 7 % 11 for i in range(20)], 3.52373806131402, 0.0543924642031705, 1.74308911024),
        ([2.0 ** (i % 13) for i in range(1000)], 420.5206062187867, 2.169535759327152, 6.6167584),
        ([i * i % 101 for i in range(1000)], 24453.419789996966, -0.0006911606222006, 1.621991614),
        ([-3.0, -2, -1, 0, 0, 1, 2, 3], None, 0.0, None),
    ],
)
def test_k_squared_is_that_of_dagostino_and_pearson(
    values: list[float], k2: float | None, skewness: float, kurtosis: float | None
) -> None:
    sums = PowerSums.of(np.array(values, np.float64))
    assert sums.skewness == pytest.approx(skewness, rel=1e-9)
    if k2 is not None:
        assert sums.kurtosis == pytest.approx(kurtosis, rel=1e-8)
        assert k_squared(sums) == pytest.approx(k2, rel=1e-9)


@pytest.mark.parametrize(
    ("values", "parts", "expected"),
    [
        # As scipy 1.10's mquantiles gives them, with alphap=0 and betap=1.
        ([i * i for i in range(10)], 4, [0.0, 2.5, 16.0, 42.5, 81.0]),
        ([i * i for i in range(7)], 3, [0.0, 2.0, 41 / 3, 36.0]),
        ([3, 5], 4, [3.0, 3.0, 3.0, 4.0, 5.0]),
        ([7], 2, [7.0, 7.0, 7.0]),
        ([-1.7e308, 1.7e308], 4, [-1.7e308, -1.7e308, -1.7e308, 0.0, 1.7e308]),
    ],
)
def test_quantiles_interpolate_the_empirical_distribution(
    values: list[float], parts: int, expected: list[float]
) -> None:
    found = quantiles(np.array(values, np.float64), parts)
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("place", [-1e3, -2.0, 0.0, 0.3, 2.0, 17.0, 1e4])
def test_the_minimum_is_found_from_afar(place: float) -> None:
    found = minimum(lambda x: math.cosh((x - place) / 1e3), -2.0, 2.0)
    assert found == pytest.approx(place, rel=1e-4, abs=1e-2)


def test_what_falls_for_ever_has_no_minimum() -> None:
    assert minimum(lambda x: -x, -2.0, 2.0) is None


def test_the_most_likely_lambda_is_known_for_known_distributions() -> None:
    normal = np.random.default_rng(0).normal(size=20_000)
    for exponent, values in ((0.0, np.exp(normal)), (0.5, (8 + normal) ** 2)):
        found = most_likely(np.sort(np.concatenate([[0.0], values])))
        assert found is not None
        assert found.exponent == pytest.approx(exponent, abs=0.1)


def of_rows(rows: list[tuple[float, int]], limit: int | None, distinct: int) -> ColumnStatistics:
    return ColumnStatistics.of(
        "x",
        np.array([value for value, _ in rows], np.float64),
        keys=None if limit is None else np.array([key for _, key in rows], np.uint64),
        sample_rows=limit,
        distinct_values=distinct,
    )


@settings(max_examples=300)
@given(
    ANY_ROWS, ANY_ROWS, st.randoms(), st.none() | st.integers(1, 12), st.sampled_from([0, 3, 99])
)
def test_merged_statistics_are_those_of_all_rows_in_any_order(
    a: list[tuple[float, int]],
    b: list[tuple[float, int]],
    random: Any,
    limit: int | None,
    distinct: int,
) -> None:
    merged = of_rows(a, limit, distinct).merge(of_rows(b, limit, distinct))
    both = a + b
    random.shuffle(both)
    assert merged == of_rows(both, limit, distinct)
    assert merged == of_rows(b, limit, distinct).merge(of_rows(a, limit, distinct))


def test_statistics_taken_with_other_limits_cannot_be_merged() -> None:
    with pytest.raises(SpecError, match="only if their limits are the same"):
        of_rows([], 3, 5).merge(of_rows([], 4, 5))


def test_the_sample_is_a_fair_share_of_the_rows() -> None:
    rows = 100_000
    keys = np.arange(rows, dtype=np.uint64)
    values = np.where(keys % 4 == 0, 0.0, keys).astype(np.float64)
    sample = ColumnStatistics.of("x", values, keys=keys, sample_rows=10_000).sample.values
    assert len(sample) == 10_000
    assert (sample == 0).mean() == pytest.approx(0.25, abs=0.02)
    assert sample[sample > 0].mean() == pytest.approx(rows / 2, rel=0.02)
    assert len(np.unique(mixed(keys))) == rows


def test_what_a_column_holds_is_counted() -> None:
    column = np.ma.array(
        [1.0, math.nan, math.inf, -0.0, 5.0], mask=[False, False, False, False, True]
    )
    found = ColumnStatistics.of("x", column)
    assert (found.rows, found.nulls, found.infinite, found.count) == (5, 2, 1, 2)
    assert (found.minimum, found.maximum, found.whole) == (0.0, 1.0, True)
    assert not np.signbit(found.sample.values).any()
    large = ColumnStatistics.of("x", np.array([2**53, 2**53 + 1, -(2**53) - 1, 2**62, 3]))
    assert large.rounded == 2
    assert ColumnStatistics.of("x", np.array([2**64 - 1], np.uint64)).rounded == 1
    assert ColumnStatistics.of("x", np.array([True, False, True])).mode() == 1
    three = np.array([5.0, 6.0, 5.0, 7.0])
    few = ColumnStatistics.of("x", three, distinct_values=3)
    assert few.distinct.values is not None
    assert few.distinct.values.tolist() == [5, 6, 7]
    many = few.merge(ColumnStatistics.of("x", np.array([8.0]), distinct_values=3))
    assert many.distinct.values is None
    assert (few.distinct_count(), many.distinct_count(), many.mode()) == (3, 4, 5)
    assert ColumnStatistics.of("x", np.array([3.0, 1.0, 3.0, 1.0, 2.0])).mode() == 1


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (np.array(["a"]), 'column "x" is of dtype <U1, and only numbers'),
        (np.array([None, 1]), 'column "x" is of dtype object'),
        (np.array(["2020-01-01"], "datetime64[D]"), 'column "x" is of dtype datetime64'),
        (np.ones((2, 2)), r'column "x" must be one value a row, not of shape \(2, 2\)'),
        (1.0, r'column "x" must be one value a row, not of shape \(\)'),
    ],
)
def test_a_column_without_numbers_is_refused_by_name(column: object, message: str) -> None:
    with pytest.raises(ColumnError, match=message):
        ColumnStatistics.of("x", column)


def test_keys_must_be_one_a_row() -> None:
    with pytest.raises(SpecError, match=r"keys of rows must be uint64 \[3\]"):
        ColumnStatistics.of("x", np.ones(3), keys=np.ones(2, np.uint64), sample_rows=2)
