"""Fitting what is no plain number: text, declared categories, times; LOG1P; policies."""

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faucet_client.errors import ColumnError, SpecError
from faucet_client.preprocessing import (
    Categorical,
    CategoryStatistics,
    ColumnStatistics,
    Continuous,
    Feature,
    FitOptions,
    FitPolicy,
    Hashed,
    Log1p,
    Policy,
    PreprocessingSpec,
    Timestamp,
    TimeStatistics,
    encode,
    fit,
    merged,
    spec_of,
    statistics_of,
)

RANDOM = np.random.default_rng(0)
NUMBERS = RANDOM.normal(10, 3, 2_000)
CITIES = np.array(["Bern"] * 6 + ["Basel"] * 9 + ["Chur"] * 4 + ["Aarau"] * 6 + [None], object)
TIMES = np.array(["2020-01-01T12:00", "2020-01-03T12:00", "NaT"], "datetime64[s]")
USERS = np.array([2**62 + 1] * 7 + [2**62] * 5 + [-3] * 9 + [4])


def objects(values: list[Any]) -> Any:
    return np.array([*values, None], object)[:-1]


def one(column: Any, override: Any = None, policy: Any = None, **options: Any) -> Feature:
    overrides = {} if override is None else {"x": override}
    policies = {} if policy is None else {"x": policy}
    chosen = FitOptions(feature_overrides=overrides, policies=policies, **options)
    return fit({"x": column}, chosen).features[0]


def notes(feature: Feature) -> str:
    return "\n".join(feature.notes)


# Text -------------------------------------------------------------------------------------------


def test_text_is_listed_by_falling_count_and_ties_ascending() -> None:
    feature = one(CITIES)
    assert feature.transform == Categorical(("Basel", "Aarau", "Bern"))
    assert feature.why == "text, 3 of 4 different values are listed, which occur 5 times or more"
    assert feature.notes == ()
    assert feature.summary is not None
    assert (feature.summary.rows, feature.summary.nulls) == (26, 1)
    assert (feature.summary.distinct, feature.summary.unlisted) == (4, 4)
    assert one(CITIES, min_category_count=1, max_categories=2).transform == Categorical(
        ("Basel", "Aarau")
    )
    assert one(CITIES, max_one_hot_values=3).transform == Categorical(
        ("Basel", "Aarau", "Bern"), one_hot=True
    )
    assert one(CITIES, max_one_hot_values=2).transform == Categorical(("Basel", "Aarau", "Bern"))
    assert one(CITIES, "CATEGORICAL").why.startswith("feature_overrides says CATEGORICAL: 3 of 4")
    assert one(CITIES, Categorical(("x",))).why == "given in feature_overrides"


def test_text_that_cannot_be_listed_is_hashed() -> None:
    rare = one(objects(["a", "b"] * 4))
    assert rare.transform == Hashed(65_536)
    assert "no value occurs 5 times" in notes(rare)
    assert "min_category_count" in notes(rare)
    many = one(objects([str(i % 200) for i in range(2_000)]), category_limit=100, hash_buckets=7)
    assert many.transform == Hashed(7)
    assert many.why == "text, more than 100 different values"
    assert re.search("about 1[5-9]\\d|2[0-4]\\d different values", notes(many))
    assert one(CITIES, "HASHED", hash_buckets=9).transform == Hashed(9)


@pytest.mark.parametrize(
    ("column", "options", "kind", "note"),
    [
        (objects([str(i) for i in range(200)]), {}, Hashed, "200 different.*like an id.*passthrou"),
        (objects([None] * 9), {}, Categorical, "none of the 9 rows has a value.*exclude_features"),
        (objects(["a"] * 9 + [None]), {}, Categorical, "constant wherever.*exclude_features"),
        (objects(["a"] * 9 + ["b" * 1_025] * 8), {}, Categorical, "8 texts are longer than 1,024"),
        (CITIES, {"max_categories": 1}, Categorical, "16 of 25 values are not listed.*HASHED"),
    ],
)
def test_an_odd_column_is_fitted_by_rule_and_says_what_to_do(
    column: Any, options: dict[str, Any], kind: type, note: str
) -> None:
    feature = one(column, **options)
    assert type(feature.transform) is kind
    assert re.search(note, notes(feature)), feature.notes


def test_a_long_text_counts_as_not_listed() -> None:
    column = objects(["a"] * 9 + ["b" * 1_025] * 8)
    feature = one(column)
    assert feature.transform == Categorical(("a",))
    assert feature.summary is not None
    assert feature.summary.unlisted == 8
    assert (
        encode(PreprocessingSpec([feature]), {"x": column}).ids["x"].tolist() == [2] * 9 + [1] * 8
    )


# Declared categories ----------------------------------------------------------------------------


def test_whole_numbers_become_categories_by_override_alone_and_exactly() -> None:
    assert one(USERS, "CATEGORICAL").transform == Categorical((-3, 2**62 + 1, 2**62))
    assert one(USERS, "HASHED").transform == Hashed(65_536)
    assert isinstance(one(np.tile(USERS, 50)).transform, Continuous)
    column = np.array([3.0, math.nan, 3.0, 4.0])
    feature = one(column, "CATEGORICAL", min_category_count=1)
    assert feature.transform == Categorical((3, 4))
    assert feature.summary is not None
    assert feature.summary.nulls == 1
    assert one(np.array([True] * 9), "CATEGORICAL").transform == Categorical((1,))


# Times ------------------------------------------------------------------------------------------


def test_times_and_dates() -> None:
    mean = (np.datetime64("2020-01-02T12:00") - np.datetime64("1970-01-01T00:00")) / np.timedelta64(
        1, "s"
    )
    stddev = 86_400 * math.sqrt(2)
    feature = one(TIMES)
    transform = feature.transform
    assert isinstance(transform, Timestamp)
    assert transform == Timestamp(("hour", "weekday", "yearday"), mean, transform.stddev)
    assert transform.stddev == pytest.approx(stddev)
    assert feature.summary is not None
    assert (feature.summary.rows, feature.summary.nulls) == (3, 1)
    dates = one(TIMES.astype("datetime64[D]"))
    assert dates.transform == Timestamp(("weekday", "yearday"), mean - 43_200, transform.stddev)
    assert (feature.why, dates.why) == ("timestamps", "dates")
    as_numbers = one(TIMES[:2].astype("datetime64[us]").astype(np.int64), "TIMESTAMP")
    assert as_numbers.transform == transform
    given = Timestamp((), 0, 1)
    assert one(TIMES, given).transform == given


@pytest.mark.parametrize(
    ("column", "note"),
    [
        (TIMES[2:], "none of the 1 rows has a value.*exclude_features"),
        (TIMES[1:], "constant wherever there is a value.*exclude_features"),
        (np.array([2**62 + 1, 1], "datetime64[us]"), "1 times are after the year 2255.*null"),
    ],
)
def test_odd_times_say_what_to_do(column: Any, note: str) -> None:
    assert re.search(note, notes(one(column)))


# LOG1P ------------------------------------------------------------------------------------------


def test_log1p_is_of_the_logarithms() -> None:
    values = np.array([0.0, math.expm1(6), math.expm1(3), math.nan, math.inf])
    transform = one(values, "LOG1P").transform
    assert isinstance(transform, Log1p)
    assert (transform.mean, transform.stddev) == pytest.approx((3, 3))
    assert one(np.array([1.0, 1.0]), "LOG1P").transform == Log1p(math.log(2), 1)


# Policies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (FitPolicy(), Policy()),
        (FitPolicy("mean"), Policy(4.0)),
        (FitPolicy("median"), Policy(2.5)),
        (FitPolicy(7, missing_flag=True), Policy(7.0, True)),
        (FitPolicy("mean", clip=(0, 4)), Policy(2.5, False, (0, 4))),
    ],
)
def test_a_policy_gets_its_number_of_the_column(given: FitPolicy, expected: Policy) -> None:
    column = np.array([1.0, 2.0, 3.0, 10.0, math.nan, math.inf])
    feature = one(column, "CONTINUOUS", given)
    assert feature.policy == expected
    transform = feature.transform
    assert isinstance(transform, Continuous)
    # What is clipped is clipped before the transform is fitted, too.
    assert transform.mean == (2.5 if given.clip else 4.0)


def test_times_and_categories_have_policies() -> None:
    noon = 1_577_880_000_000_000
    day = 86_400_000_000
    feature = one(TIMES, policy=FitPolicy("median", clip=(noon, noon + day)))
    assert feature.policy == Policy(noon + day / 2, False, (noon, noon + day))
    assert one(CITIES, policy=FitPolicy(missing_flag=True)).policy == Policy(missing_flag=True)


# Merging ----------------------------------------------------------------------------------------

TEXT = st.lists(st.none() | st.sampled_from("abcdefg") | st.text(max_size=2), max_size=25)
ROW = st.tuples(
    st.none() | st.sampled_from("abcdefg") | st.text(max_size=2),
    st.integers(0, 5) | st.integers(-(2**63), 2**63 - 1),
    st.floats(-1e6, 1e6) | st.just(math.nan),
    st.none() | st.integers(0, 2**50),
)
OPTIONS = [
    FitOptions(
        min_category_count=2,
        category_limit=limit,
        feature_overrides={"user": "HASHED"} if limit < 10 else {"user": "CATEGORICAL"},
        policies={"fare": FitPolicy("median", clip=(-10, 10)), "city": FitPolicy(None, True)},
    )
    for limit in (3, 99)
]


def columns_of(rows: list[Any]) -> dict[str, Any]:
    times = np.array([0 if row[3] is None else row[3] for row in rows], "datetime64[us]")
    return {
        "city": objects([row[0] for row in rows]),
        "user": np.array([row[1] for row in rows], np.int64),
        "fare": np.array([row[2] for row in rows], np.float64),
        "when": np.ma.array(times, mask=[row[3] is None for row in rows]),
    }


@settings(max_examples=200)
@given(
    st.lists(ROW, max_size=15),
    st.lists(ROW, min_size=1, max_size=15),
    st.randoms(),
    st.sampled_from(OPTIONS),
)
def test_the_fit_of_merged_parts_is_the_fit_of_the_whole(
    a: list[Any], b: list[Any], random: Any, options: FitOptions
) -> None:
    parts = [statistics_of(columns_of(rows), options) for rows in (a, b)]
    both = a + b
    random.shuffle(both)
    whole = statistics_of(columns_of(both), options)
    assert merged(parts) == whole == merged(parts[::-1])
    try:
        spec = spec_of(whole, options)
    except ColumnError as error:
        # Only then may it fail.
        assert re.search("no value (occurs 2 times|to take the median of)", str(error))  # noqa: PT017
        return
    assert spec_of(merged(parts), options).to_json() == spec.to_json()
    assert PreprocessingSpec.from_json(spec.to_json()) == spec


@given(st.lists(st.sampled_from(["b", "a", "é", "Z", "", "aa"]), max_size=30), st.integers(1, 4))
def test_values_are_listed_by_falling_count_then_ascending(values: list[str], least: int) -> None:
    often = {value for value in values if values.count(value) >= least}
    expected = sorted(often, key=lambda value: (-values.count(value), value))
    known = CategoryStatistics.of_text("x", objects(values))
    assert known.listed(least, 9) == tuple(expected)
    assert known.listed(least, 2) == tuple(expected[:2])


def test_long_texts_of_all_parts_are_counted() -> None:
    column = objects(["a", "b" * 1_025, None, "c" * 2_000])
    half = CategoryStatistics.of_text("x", column[:2]).merge(
        CategoryStatistics.of_text("x", column[2:])
    )
    assert half == CategoryStatistics.of_text("x", column)
    assert (half.long, half.nulls, half.count, half.distinct_count()) == (2, 1, 3, 1)


@given(st.lists(st.integers(0, 40), max_size=80), st.integers(1, 50), st.integers(0, 80))
def test_what_is_kept_is_counted_exactly(values: list[int], limit: int, cut: int) -> None:
    parts = [
        CategoryStatistics.of_text("x", objects([str(value) for value in part]), limit)
        for part in (values[:cut], values[cut:])
    ]
    found = parts[0].merge(parts[1]).found
    assert found.many == (len(set(values)) > limit)
    assert len(found.values) == min(limit, len(set(values)))
    for value, times in zip(found.values.tolist(), found.counts.tolist(), strict=True):
        assert times == values.count(int(value))


def test_texts_of_one_hash_are_one_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "faucet_client.preprocessing.categories.hashes_of_texts",
        lambda values: np.full(len(values), 7, np.uint64),
    )
    one_part, other = (CategoryStatistics.of_text("x", list(part)) for part in ("cb", "ab"))
    assert one_part.merge(other) == other.merge(one_part)
    assert one_part.merge(other).listed(1, 9) == ("a",)


def test_how_many_different_values_there_are_is_estimated() -> None:
    known = CategoryStatistics.of_integers("x", np.arange(300_000) % 100_000, 10_000)
    assert known.found.many
    assert known.distinct_count() == pytest.approx(100_000, rel=0.03)
    assert known.distinct_share() == pytest.approx(1 / 3)


def test_the_statistics_are_of_what_the_column_holds() -> None:
    options = FitOptions(feature_overrides={"user": "HASHED"})
    columns = {"city": CITIES, "user": np.arange(26), "n": np.arange(26), "t": TIMES[[0] * 26]}
    kinds = {name: type(found) for name, found in statistics_of(columns, options).items()}
    assert kinds == {
        "city": CategoryStatistics,
        "user": CategoryStatistics,
        "n": ColumnStatistics,
        "t": TimeStatistics,
    }


def test_parts_that_hold_other_things_cannot_be_merged() -> None:
    def of(column: Any, **options: Any) -> Any:
        return statistics_of({"x": column}, FitOptions(**options))

    with pytest.raises(SpecError, match='"x" holds other things in one part'):
        merged([of(CITIES), of(NUMBERS)])
    with pytest.raises(SpecError, match='column "x": dates in one part and timestamps'):
        merged([of(TIMES), of(TIMES.astype("M8[D]"))])
    with pytest.raises(SpecError, match='column "x": text in one part and numbers'):
        merged([of(CITIES), of(USERS, feature_overrides={"x": "HASHED"})])
    with pytest.raises(SpecError, match=r'column "x": .*only if their limits are the same'):
        merged([of(CITIES), of(CITIES, category_limit=3)])


# Bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "options", "message"),
    [
        (CITIES, {"override": "CONTINUOUS"}, "cannot be CONTINUOUS.*it holds text.*cast it"),
        (CITIES, {"override": "TIMESTAMP"}, "cannot be TIMESTAMP.*it holds text.*cast it"),
        (CITIES, {"override": Log1p(0, 1)}, "cannot be LOG1P.*it holds text"),
        (
            CITIES,
            {"override": Categorical((1,))},
            "it lists whole numbers, and the column holds text",
        ),
        (USERS, {"override": Categorical(("a",))}, "it lists text, and the column holds integers"),
        (CITIES, {"skip_preprocessing": True}, "is text.*skip_preprocessing.*exclude_features"),
        (TIMES, {"skip_preprocessing": True}, "holds timestamps.*skip_preprocessing.*TIMESTAMP"),
        (TIMES, {"override": "CONTINUOUS"}, "cannot be CONTINUOUS.*holds timestamps"),
        (TIMES, {"override": "HASHED"}, "cannot be HASHED.*holds timestamps"),
        (TIMES, {"override": Hashed(3)}, "cannot be HASHED.*holds timestamps"),
        (NUMBERS, {"override": "CATEGORICAL"}, "numbers that are not whole.*round it or cast it"),
        (NUMBERS, {"override": "HASHED"}, "numbers that are not whole"),
        (NUMBERS, {"override": "TIMESTAMP"}, "numbers that are not whole"),
        (NUMBERS - 99, {"override": "LOG1P"}, "cannot be LOG1P.*values below 0, down to -100"),
        (
            np.arange(9),
            {"override": "CATEGORICAL"},
            "no value occurs 5 times; lower min_category_count, or choose HASHED",
        ),
        (
            np.arange(9),
            {"override": "CATEGORICAL", "category_limit": 3},
            r"different values, and at most 3 \(category_limit\).*HASHED",
        ),
        (objects(["a", "\ud800"]), {}, "text of no valid Unicode"),
        (objects(["a", 1]), {}, "with '1' of type int"),
        (CITIES[:0], {}, 'column "x" has no rows'),
        (NUMBERS, {"override": "CATEGORICAL"}, "not whole, and only whole numbers and text can"),
        (NUMBERS, {"override": "TIMESTAMP"}, "not whole, and numbers are times in whole microsec"),
        (TIMES[:0], {}, 'column "x" has no rows'),
        (CITIES, {"policy": FitPolicy("mean")}, "policies says impute.*use missing_flag"),
        (CITIES, {"policy": FitPolicy(clip=(0, 1))}, "policies says clip.*use missing_flag"),
        (np.full(3, math.nan), {"policy": FitPolicy("mean")}, "no value to take the mean of.*give"),
        (TIMES[2:], {"policy": FitPolicy("median")}, "no value to take the median of"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    column: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ColumnError, match=message) as raised:
        one(column, **options)
    assert '"x"' in str(raised.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FitPolicy("mode"), 'impute must be "mean", "median" or a number'),  # type: ignore[arg-type]
        (lambda: FitPolicy(math.nan), "policy.impute must be a finite number"),
        (lambda: FitPolicy(clip=(2, 1)), "policy.clip must be low, then high"),
        (lambda: FitOptions(policies={"x": Policy()}), 'policies of "x" must be a FitPolicy'),  # type: ignore[dict-item]
        (lambda: FitOptions(policies=["x"]), "policies must be a dict by column"),  # type: ignore[arg-type]
        (lambda: FitOptions(feature_overrides=["x"]), "feature_overrides must be a dict"),  # type: ignore[arg-type]
        (lambda: FitOptions(feature_overrides={"x": "boxcx"}), 'Did you mean "BOXCOX"'),
        (lambda: FitOptions(feature_overrides={"x": ["ENUM"]}), "must be one of BINARY"),  # type: ignore[dict-item]
        (
            lambda: FitOptions(quantile_k2_threshold="9"),  # type: ignore[arg-type]
            "quantile_k2_threshold must be 0 or",
        ),
        (lambda: FitOptions(min_category_count=0), "min_category_count must be a whole number"),
        (lambda: FitOptions(max_categories=100_001), "max_categories must be a whole number"),
        (lambda: FitOptions(hash_buckets=2**31), "hash_buckets must be a whole number"),
        (lambda: fit({"x": CITIES}, FitOptions(policies={"y": FitPolicy()})), "policies: there is"),
    ],
)
def test_options_out_of_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make()


def test_statistics_of_numbers_cannot_become_categories() -> None:
    found = statistics_of({"x": USERS}, FitOptions())
    with pytest.raises(ColumnError, match="its statistics were taken as those of a column of num"):
        spec_of(found, FitOptions(feature_overrides={"x": "CATEGORICAL"}))


@pytest.mark.parametrize("kind", ["QUANTILE", "BOXCOX"])
def test_a_type_that_is_forced_on_a_column_without_values_is_told_to_be_unmet(kind: str) -> None:
    (note,) = one(np.full(9, math.nan), kind).notes
    assert f"cannot be fitted as {kind}" in note
    assert "cannot be fitted" not in str(one(np.full(9, math.nan)).notes)
