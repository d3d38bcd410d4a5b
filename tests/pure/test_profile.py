"""What a profile says of columns: counts, bins, drift, what stands out; and its JSON."""

from __future__ import annotations

import json
import math
from collections import Counter
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faucet_client import ColumnError, NotYetAvailable, SpecError
from faucet_client.preprocessing import FitOptions, PreprocessingSpec, fit
from faucet_client.profile import (
    Applied,
    FeatureProfile,
    Histogram,
    Profile,
    drift,
    histograms,
    profile_of,
)
from faucet_client.profile.columns import read


def made(
    train: dict[str, Any],
    evaluation: dict[str, Any] | None = None,
    spec: PreprocessingSpec | None = None,
    **more: Any,
) -> Profile:
    rows = len(next(iter(train.values())))
    return profile_of(
        spec or fit(train, FitOptions(skip_quantiles=False)),
        train,
        evaluation,
        source="a table",
        key="0" * 32,
        rows={"train": rows},
        bytes_read=1_000,
        **more,
    )


def of_ids(**columns: Any) -> PreprocessingSpec:
    """A spec whose features have no dense output, as those that come as ids."""
    features = tuple(
        SimpleNamespace(
            name=name,
            transform=SimpleNamespace(type="SOME_LATER_TYPE"),
            why="",
            notes=(),
            output_names=(),
        )
        for name in columns
    )
    stand_in = SimpleNamespace(features=features, input_names=(), width=0)
    return cast("PreprocessingSpec", stand_in)


def normal(rows: int, mean: float = 0.0, seed: int = 1) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.random.default_rng(seed).normal(mean, 3.0, rows)


# What is counted ------------------------------------------------------------------------------


def test_a_feature_is_counted_as_numpy_counts_it() -> None:
    values = np.array([1.0, 2.5, 2.5, np.nan, np.inf, -4.0] * 10)
    (feature,) = made({"x": values}).features
    finite = values[np.isfinite(values)]
    assert (feature.rows, feature.nulls, feature.infinite) == (60, 10, 10)
    assert (feature.distinct, feature.minimum, feature.maximum) == (3, -4.0, 2.5)
    assert feature.mean == pytest.approx(finite.mean())
    assert feature.stddev == pytest.approx(finite.std(ddof=1))
    assert feature.histogram is not None
    assert sum(feature.histogram.train) == len(finite)
    assert feature.psi is None
    assert feature.ks is None


def test_masked_rows_are_nulls() -> None:
    column = np.ma.masked_array(np.array([7, 8, 9, 9]), [False, False, True, False])
    (feature,) = made({"x": column}).features
    assert (feature.nulls, feature.distinct, feature.maximum) == (1, 3, 9.0)


def test_neighbours_beyond_the_integers_of_float64_are_counted_apart() -> None:
    assert read("x", 2**60 + np.arange(100)).distinct == 100


def test_distinct_values_are_a_lower_bound_where_not_all_rows_were_looked_at() -> None:
    train = {"x": normal(100)}
    spec = fit(train)
    some: dict[str, Any] = {"source": "t", "key": "k", "bytes_read": 0}
    (all_of_it,) = profile_of(spec, train, None, rows={"train": 100}, **some).features
    (part,) = profile_of(spec, train, None, rows={"train": 101}, **some).features
    assert all_of_it.distinct_is_all
    assert not part.distinct_is_all


def test_the_outputs_are_those_of_the_module() -> None:
    train = {"x": normal(2_000, 50.0), "e": np.arange(2_000) % 3, "gone": np.full(2_000, np.nan)}
    train["e"] = np.where(train["e"] == 2, 7, train["e"])
    by_name = {feature.name: feature for feature in made(train).features}
    outputs = by_name["x"].outputs
    assert outputs is not None
    assert sum(outputs.train) + sum(outputs.below) + sum(outputs.above) == 2_000
    assert -5 < outputs.edges[0] < outputs.edges[-1] < 5, "standardised"
    assert by_name["e"].outputs == Histogram(
        "values", train=(667, 667, 666, 0), values=("e=0", "e=1", "e=7")
    )
    assert by_name["e"].output_names == ("e=0", "e=1", "e=7")
    assert by_name["gone"].histogram is None


def test_rows_without_a_value_do_not_hide_the_outputs_of_the_others() -> None:
    values = normal(1_000, 50.0)
    sparse = np.concatenate([values, np.full(9_000, np.nan), [np.inf]])
    (feature,) = made({"x": sparse}).features
    assert feature.outputs is not None
    assert sum(feature.outputs.train) + sum(feature.outputs.below + feature.outputs.above) == 1_000


def test_a_feature_of_a_later_type_may_have_text_times_or_arrays_and_no_outputs() -> None:
    columns: dict[str, Any] = {
        "text": np.array(["b", "a", None, "b"], object),
        "time": np.array(["2020-01-20", "NaT", "2020-01-21", "2020-01-20"], "datetime64[ns]"),
        "vector": np.zeros((4, 8), np.float32),
        "list": np.array([[1], [1, 2], None, []], object),
        "price": np.array([Decimal("1.50"), Decimal("NaN"), None, Decimal(3)], object),
    }
    profile = made(columns, spec=of_ids(**columns), evaluation=columns, outputs=lambda name: None)
    by_name = {feature.name: feature for feature in profile.features}
    text, time, vector = by_name["text"], by_name["time"], by_name["vector"]
    assert (text.source_type, text.nulls, text.distinct) == ("text", 1, 2)
    assert text.histogram is not None
    assert text.histogram.values == ("b", "a")
    assert text.histogram.train == (2, 1, 0)
    assert text.histogram.evaluation == (2, 1, 0)
    assert time.histogram is not None
    assert (time.histogram.kind, time.nulls, time.distinct) == ("times", 1, 2)
    assert time.minimum == 1_579_478_400.0, "2020-01-20 in seconds since 1970, UTC"
    assert (vector.source_type, vector.histogram, vector.psi) == ("float32 [8]", None, None)
    assert (by_name["list"].nulls, by_name["list"].histogram) == (1, None)
    assert (by_name["price"].nulls, by_name["price"].mean) == (2, 2.25)
    assert {feature.width for feature in profile.features} == {0}
    assert profile.from_json(profile.to_json()) == profile


def test_given_outputs_source_types_and_policies_are_shown() -> None:
    columns = {"x": normal(100)}
    (feature,) = made(
        columns,
        outputs=lambda name: np.full((100, 1), 4.0, np.float32),
        source_types={"x": "NUMERIC"},
        policies={"x": {"clipped": 3}},
    ).features
    assert feature.source_type == "NUMERIC"
    assert feature.policies == (Applied("clipped", 3),)
    assert feature.outputs is not None
    assert feature.outputs.edges == (3.5, 4.5)


@pytest.mark.parametrize(
    ("column", "line"),
    [
        (normal(1_000), 'FitOptions(feature_overrides={"x": "QUANTILE"})'),
        (np.arange(1_000) % 3, 'FitOptions(feature_overrides={"x": "CONTINUOUS"})'),
        (np.ones(1_000), 'FitOptions(exclude_features=["x"])'),
    ],
)
def test_the_line_to_write_can_be_written(column: Any, line: str) -> None:
    (feature,) = made({"x": column}).features
    assert feature.override == line
    options = eval(line, {"FitOptions": FitOptions})
    fit({"x": column, "other": normal(1_000)}, options)


def test_what_does_not_fit_is_refused_by_name() -> None:
    columns = {"x": normal(10), "y": normal(10)}
    spec = fit(columns)
    with pytest.raises(ColumnError, match='train rows have no column "y"'):
        made({"x": normal(10)}, spec=spec)
    with pytest.raises(ColumnError, match='evaluation rows have no column "y"'):
        made(columns, {"x": normal(10)}, spec=spec)
    with pytest.raises(ColumnError, match="from 10 to 11 rows"):
        made({"x": normal(10), "y": normal(11)}, spec=spec)
    with pytest.raises(SpecError, match=r'outputs of feature "x" must be of shape \[10, 1\]'):
        made(columns, spec=spec, outputs=lambda name: np.zeros((10, 2), np.float32))


# Histograms -----------------------------------------------------------------------------------


def test_whole_numbers_get_bins_of_equally_many_numbers() -> None:
    few = histograms.of_numbers("numbers", np.array([0.0, 1.0, 1.0, 3.0]))
    assert few is not None
    assert few.edges == (-0.5, 0.5, 1.5, 2.5, 3.5)
    assert few.train == (1, 2, 0, 1)
    many = histograms.of_numbers("numbers", np.arange(1_000.0))
    assert many is not None
    assert len(set(many.train[:-1])) == 1, "a uniform column looks uniform"


def test_a_long_tail_is_counted_beside_the_bins() -> None:
    values = np.concatenate([normal(10_000), [1e6, 2e6]])
    found = histograms.of_numbers("numbers", values, np.array([0.0, -1e9]))
    assert found is not None
    assert found.edges[-1] < 100
    assert found.above[0] >= 2
    assert found.below[1] == 1
    assert sum(found.train) + found.below[0] + found.above[0] == len(values)


def test_both_splits_have_the_same_bins() -> None:
    found = histograms.of_numbers("numbers", np.array([0.0, 1.5]), np.array([3.0]))
    assert found is not None
    assert (found.edges[0], found.edges[-1]) == (0.0, 3.0)
    assert (sum(found.train), sum(found.evaluation), found.evaluation[-1]) == (2, 1, 1)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=60))
def test_every_number_is_counted_once(values: list[float]) -> None:
    found = histograms.of_numbers("numbers", np.array(values))
    assert found is not None
    assert sum(found.train) + found.below[0] + found.above[0] == len(values)


def test_of_texts_the_most_frequent_are_shown_and_all_others_are_counted() -> None:
    counts = Counter({f"value {number:02}": 100 - number for number in range(50)})
    found = histograms.of_texts(counts, Counter({"value 49": 7, "new": 1}))
    assert found is not None
    assert found.values[:2] == ("value 00", "value 01")
    assert len(found.values) == histograms.SHOWN_VALUES
    assert sum(found.train) == counts.total()
    assert found.evaluation[-1] == 8
    long = histograms.of_texts(Counter({"x" * 500 + "\ud800": 1}))
    assert long is not None
    assert len(long.values[0]) == histograms.LONGEST_LABEL


# Drift ----------------------------------------------------------------------------------------


def test_psi_is_the_formula() -> None:
    # Half a row is added to each bin: 40.5, 60.5 of 101 against 80.5, 20.5 of 101.
    p, q = (40.5 / 101, 60.5 / 101), (80.5 / 101, 20.5 / 101)
    by_hand = sum((a - b) * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert drift.psi([40, 60], [80, 20]) == pytest.approx(by_hand)
    assert drift.psi([5, 0, 5], [5, 0, 5]) == 0
    assert math.isfinite(drift.psi([10, 0], [0, 10]))


def test_ks_is_the_largest_difference_of_the_distributions() -> None:
    assert drift.ks(np.array([1.0, 2, 3, 4]), np.array([3.0, 4, 5, 6])) == 0.5
    assert drift.ks(np.array([1.0, 1, 2]), np.array([2.0, 1, 1])) == 0
    assert drift.ks(np.array([1.0]), np.array([2.0])) == 1


def test_rare_values_of_a_flag_are_a_bin_of_their_own() -> None:
    flag = np.array([1.0] * 95 + [0.0] * 5)
    at = drift.bounds(flag)
    assert drift.counts(flag, at) == [5, 95]
    assert drift.counts(np.array([0.0, 0.5, 1.0]), at) == [1, 2]


def test_deciles_hold_a_tenth_each() -> None:
    values = np.arange(1_000.0)
    assert drift.counts(values, drift.bounds(values)) == [100] * 10


def test_chance_is_rarely_more_than_the_bound_says() -> None:
    random = np.random.default_rng(7)
    over = 0
    for _ in range(1_000):
        one, other = random.multinomial(2_000, [0.1] * 10), random.multinomial(500, [0.1] * 10)
        over += drift.psi(one.tolist(), other.tolist()) > drift.psi_by_chance(
            one.tolist(), other.tolist()
        )
    assert over <= 5, "one in a thousand is meant"


def test_drift_is_told_from_chance() -> None:
    few = {"x": normal(40, seed=2)}, {"x": normal(30, seed=3)}
    many = {"x": normal(4_000, seed=2)}, {"x": normal(3_000, 1.2, seed=3)}
    (by_chance,) = made(*few).features
    (real,) = made(*many).features
    assert by_chance.psi is not None
    assert by_chance.psi > 0.1, "few rows differ by chance"
    assert by_chance.drift == ""
    assert real.drift == "some"
    (strong,) = made({"x": normal(4_000)}, {"x": normal(4_000, 9.0)}).features
    assert strong.drift == "strong"


def test_nulls_that_become_more_are_drift() -> None:
    later = normal(4_000)
    later[::2] = np.nan
    (feature,) = made({"x": normal(4_000)}, {"x": later}).features
    assert feature.drift == "strong"
    assert feature.evaluation_nulls == 2_000
    gone = {"x": np.array([None] * 400, object)}
    (feature,) = made({"x": normal(400)}, gone).features
    assert feature.drift == "strong"
    assert feature.ks is None


def test_what_stands_out_comes_first() -> None:
    def column(**changes: Any) -> FeatureProfile:
        same: dict[str, Any] = {
            "source_type": "float64",
            "type": "CONTINUOUS",
            "why": "",
            "rows": 10,
            "infinite": 0,
            "distinct": 3,
            "distinct_is_all": True,
            "override": "",
            "nulls": 0,
            "psi_by_chance": 0.01,
        }
        return FeatureProfile(**(same | changes))

    plain, nulls = column(name="a"), column(name="b", nulls=9)
    noted, drifting = column(name="c", notes=("look",)), column(name="d", psi=0.12)
    more = column(name="e", psi=0.5)
    features = [plain, nulls, noted, drifting, more]
    profile = Profile("t", "k", {}, {}, 1, 0, features)
    assert [feature.name for feature in profile.features] == ["e", "d", "c", "b", "a"]


# JSON -----------------------------------------------------------------------------------------


def one() -> dict[str, Any]:
    profile = made(
        {"x": normal(50), "e": np.arange(50) % 3}, {"x": normal(9), "e": np.arange(9) % 3}
    )
    found: dict[str, Any] = json.loads(profile.to_json())
    assert Profile.from_json(profile.to_json()) == profile
    return found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p.update(format="faucet-preprocessing"), "no profile"),
        (lambda p: p.pop("key"), "profile lacks key"),
        (lambda p: p.update(extra=1), "which is not known"),
        (lambda p: p.update(width=-1), "whole number from 0"),
        (lambda p: p.update(width=True), "whole number from 0"),
        (lambda p: p.update(rows=[1]), "profile.rows must be an object"),
        (lambda p: p.update(features={}), "profile.features must be a list"),
        (lambda p: p["features"].append(p["features"][0]), "more than once"),
        (lambda p: p["features"][0].update(mean="1"), r"features\[0\].mean must be a number"),
        (lambda p: p["features"][0].update(mean=10**400), "must be a finite number"),
        (lambda p: p["features"][0].update(nulls=10**6), "more rows without a value than rows"),
        (lambda p: p["features"][0].update(notes=[3]), r"notes\[0\] must be a text"),
        (lambda p: p["features"][0]["histogram"].update(train=[1]), "as many counts"),
        (lambda p: p["features"][0]["histogram"].update(kind="pie"), "kind must be one of"),
        (lambda p: p["features"][0]["histogram"].update(edges=[1, 1]), "edges must ascend|counts"),
        (lambda p: p["features"][0]["histogram"].update(below=[1]), "must have 2 entries"),
    ],
)
def test_json_that_breaks_a_rule_is_refused(change: Any, said: str) -> None:
    plain = one()
    change(plain)
    with pytest.raises(SpecError, match=said):
        Profile.from_json(json.dumps(plain))


def test_json_of_a_newer_version_is_named() -> None:
    with pytest.raises(NotYetAvailable, match="of version 2"):
        Profile.from_json(json.dumps(one() | {"version": 2}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "nested too deep"),
        ("nonsense", "not JSON"),
        (b"\xff", "not JSON"),
        ('{"width": NaN}', "NaN is no number"),
        ('{"a": 1, "a": 2}', "stands twice"),
        ("[]", "no profile"),
        (" " * (64 * 2**20 + 1), "may have 64 MiB"),
    ],
)
def test_what_is_no_profile_is_refused(text: str | bytes, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        Profile.from_json(text)


def test_a_single_value_is_no_column() -> None:
    with pytest.raises(ColumnError, match="a value a row"):
        read("x", np.float64(3))
