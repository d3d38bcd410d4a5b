"""Columns of lists: how they are taken, fitted, encoded and counted; as vectors and as ids."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from faucet_client.errors import ColumnError, SpecError
from faucet_client.preprocessing import (
    Binary,
    Categorical,
    Continuous,
    Difference,
    Encoder,
    Feature,
    FitOptions,
    FitPolicy,
    Hashed,
    Lists,
    Policy,
    PolicyCounts,
    PreprocessingSpec,
    Texts,
    Vector,
    encode,
    fit,
    merged,
    spec_of,
    statistics_of,
)
from faucet_client.preprocessing.lists import holds_lists, lists_of

NAN, INF = float("nan"), float("inf")
TAGS = Feature("tags", Categorical(("a", "b")), ragged=True)
CLICKS = Feature("clicks", Categorical((7, 2**60 + 1)), ragged=True)
SPEC = PreprocessingSpec(
    [TAGS, CLICKS, Feature("v", Vector(2)), Feature("age", Continuous(1.0, 2.0))]
)
ROWS: dict[str, Any] = {
    "tags": [["b", "x", None], None, [], ("a",)],
    "clicks": [[2**60 + 1], [2**60, None], None, []],
    "v": [[1.5, -2], None, [NAN, INF], [None, 3]],
    "age": [3.0, 5.0, NAN, 1.0],
}


def test_elements_become_ids_and_null_lists_empty_ones() -> None:
    encoded = encode(SPEC, ROWS)
    assert SPEC.ragged_names == ("clicks", "tags")
    assert SPEC.id_names == ()
    assert list(encoded.ragged) == ["clicks", "tags"]
    assert encoded.ragged["tags"].values.tolist() == [3, 1, 0, 2]
    assert encoded.ragged["tags"].offsets.tolist() == [0, 3, 3, 3, 4]
    assert encoded.ragged["clicks"].values.tolist() == [3, 1, 0]
    assert encoded.ragged["clicks"].offsets.tolist() == [0, 1, 3, 3, 3]
    assert {each.dtype for lists in encoded.ragged.values() for each in lists} == {
        np.dtype(np.int64)
    }
    assert SPEC.cardinality("tags") == SPEC.cardinality("clicks") == 4


def test_vectors_are_columns_of_the_modules_input_and_output() -> None:
    assert SPEC.input_names == SPEC.output_names == ("age", "v[0]", "v[1]")
    assert SPEC.outputs_of("v") == range(1, 3)
    encoded = encode(SPEC, ROWS)
    module = SPEC.preprocessor()
    made = module(torch.from_numpy(encoded.values), torch.from_numpy(encoded.presence))
    assert made.tolist() == [[1, 1.5, -2], [2, 0, 0], [0, 0, 0], [0, 0, 3]]
    exported = torch.export.export(
        module, (torch.from_numpy(encoded.values), torch.from_numpy(encoded.presence))
    )
    again = exported.module()(torch.from_numpy(encoded.values), torch.from_numpy(encoded.presence))
    assert torch.equal(again, made)


def test_elements_of_ragged_features_and_rows_of_vectors_are_counted() -> None:
    counts = Encoder(SPEC).count(ROWS)
    assert counts["tags"] == PolicyCounts(missing=1, unseen=1)
    assert counts["clicks"] == PolicyCounts(missing=1, unseen=1)
    # A row that lacks a number counts once, whatever else it has.
    assert counts["v"] == PolicyCounts(missing=3)
    infinite = {**ROWS, "v": np.array([[1, 2], [INF, 1], [INF, -INF], [3, NAN]])}
    assert Encoder(SPEC).count(infinite)["v"] == PolicyCounts(missing=1, infinite=2)


@pytest.mark.parametrize(
    "column",
    [
        [["a", "b"], ["b", "x"]],
        np.array([["a", "b"], ["b", "x"]]),
        np.array([np.array(["a", "b"]), ("b", "x"), None], object)[:2],
        Lists(Texts(np.array([0, 1, 1, 2]), ("a", "b", "x")), np.array([0, 2, 4])),
    ],
)
def test_lists_come_in_many_forms(column: Any) -> None:
    assert holds_lists(column)
    spec = PreprocessingSpec([TAGS])
    ragged = encode(spec, {"tags": column}).ragged["tags"]
    assert ragged.values.tolist() == [2, 3, 3, 1]
    assert ragged.offsets.tolist() == [0, 2, 4]


@pytest.mark.parametrize(
    "column", [["a", "b"], [1.0, NAN], np.ones(3), np.array(["a"], object), [None, None], []]
)
def test_other_columns_hold_no_lists(column: Any) -> None:
    assert not holds_lists(column)


@pytest.mark.parametrize("nothing", [[None, None], np.array([None, None], object), [[], None]])
def test_a_column_without_an_element_may_be_of_anything(nothing: Any) -> None:
    encoded = encode(SPEC, {"tags": nothing, "clicks": nothing, "v": nothing, "age": [1.0, 1.0]})
    assert not len(encoded.ragged["tags"].values)
    assert encoded.ragged["tags"].offsets.tolist() == [0, 0, 0]
    assert not encoded.presence[:, 1:].any()
    encoded = encode(SPEC, {"tags": [[None]], "clicks": [[None]], "v": [[None] * 2], "age": [1.0]})
    assert encoded.ragged["tags"].values.tolist() == [0]
    assert not encoded.presence[:, 1:].any()


def test_masked_rows_and_elements_are_null() -> None:
    column = np.ma.masked_array(np.array([[1.0, 2.0], [3.0, 4.0]]), [[True, False], [False, False]])
    encoded = encode(PreprocessingSpec([Feature("v", Vector(2))]), {"v": column})
    assert encoded.presence.tolist() == [[False, True], [True, True]]
    rows = np.empty(2, object)
    rows[:] = [["a"], ["b"]]
    masked = np.ma.masked_array(rows, [True, False])
    assert lists_of("x", masked).lengths.tolist() == [0, 1]


lists_of_text = st.lists(
    st.none() | st.lists(st.none() | st.sampled_from(["a", "b", "c", "日本", ""]), max_size=4),
    min_size=1,
    max_size=30,
)


@given(rows=lists_of_text, seed=st.integers(0, 99))
def test_a_permutation_of_the_rows_permutes_the_lists(rows: list[Any], seed: int) -> None:
    spec = PreprocessingSpec([Feature("x", Hashed(5), ragged=True)])
    order = np.random.default_rng(seed).permutation(len(rows))

    def ids(rows: list[Any]) -> list[Any]:
        found = encode(spec, {"x": rows}).ragged["x"]
        return [found.values[a:b].tolist() for a, b in pairwise(found.offsets.tolist())]

    assert ids([rows[place] for place in order]) == [ids(rows)[place] for place in order]
    assert ids(rows) == [ids([row])[0] for row in rows]  # each as it would be alone


@given(rows=lists_of_text, cut=st.integers(0, 30))
def test_parts_of_a_column_merge_to_the_statistics_of_the_whole(rows: list[Any], cut: int) -> None:
    options = FitOptions(min_category_count=1)
    rows = [["a"], *rows]
    whole = statistics_of({"x": rows}, options)
    parts = [statistics_of({"x": part}, options) for part in (rows[: cut + 1], rows[cut + 1 :])]
    if holds_lists(rows[cut + 1 :]):  # else nobody can tell that it is of lists
        assert merged(parts) == merged(parts[::-1]) == whole


vectors = st.lists(
    st.none() | st.lists(st.floats(), min_size=3, max_size=3), min_size=1, max_size=20
)


@given(rows=vectors)
def test_no_nan_and_no_infinity_leaves_a_vector(rows: list[Any]) -> None:
    spec = PreprocessingSpec([Feature("v", Vector(3))])
    encoded = encode(spec, {"v": rows})
    made = spec.preprocessor()(*map(torch.from_numpy, (encoded.values, encoded.presence)))
    assert made.shape == (len(rows), 3)
    assert torch.isfinite(made).all()


def test_the_rules() -> None:
    spec = fit(
        {
            "embedding": np.arange(12.0).reshape(4, 3),
            "grid": np.arange(8).reshape(4, 2),
            "words": [["a", "a"], ["a"], None, []],
            "ids": [[5, 5], [5, 6], None, [5]],
            "forced": [[1.5, 2.5], None, [], [0.5, NAN]],
            "hashed": [[1], [2, 3], None, []],
        },
        FitOptions(
            feature_overrides={"forced": "VECTOR", "hashed": Hashed(10)}, min_category_count=2
        ),
    )
    transforms = {f.name: (f.transform, f.ragged) for f in spec.features}
    assert transforms == {
        "embedding": (Vector(3), False),
        "grid": (Vector(2), False),
        "words": (Categorical(("a",)), True),
        "ids": (Categorical((5,)), True),
        "forced": (Vector(2), False),
        "hashed": (Hashed(10), True),
    }
    assert "lists of text" in spec.feature("words").why
    summary = spec.feature("ids").summary
    assert summary is not None
    assert (summary.rows, summary.nulls, summary.distinct, summary.unlisted) == (4, 1, 2, 1)
    summary = spec.feature("forced").summary
    assert summary is not None
    assert (summary.rows, summary.nulls) == (4, 3)


def test_lists_are_never_one_hot() -> None:
    column = [["a"], ["b"]] * 5
    spec = fit({"x": column}, FitOptions(max_one_hot_values=9))
    assert spec.ragged_names == ("x",)
    hot = FitOptions(feature_overrides={"x": Categorical(("a",), one_hot=True)})
    with pytest.raises(ColumnError, match='"x" cannot be a one-hot CATEGORICAL'):
        fit({"x": column}, hot)


@pytest.mark.parametrize(
    ("column", "options", "message"),
    [
        ([[0.5], [1.0, 2.0]], {}, 'numbers that are not whole.*"VECTOR"'),
        ([[0.5], [1.0, 2.0]], {"x": "VECTOR"}, "lists of 1 and of 2 elements"),
        ([[0.5, 1.0]], {"x": Vector(3)}, "VECTOR of 3 .* lists of 2"),
        ([[], [], [None]], {"x": "ENUM"}, "holds lists, which can be VECTOR, CATEGORICAL or HASH"),
        ([["a"]], {"x": "VECTOR"}, "lists of text"),
        ([["a"]], {"x": Categorical((1,))}, "it lists whole numbers.* holds lists of text"),
        ([[1], [2]], {"x": Categorical(("a",))}, "it lists text.* holds lists of integers"),
        ([1.5], {"x": "VECTOR"}, "cannot be VECTOR"),
        (["a"], {"x": Vector(2)}, "cannot be VECTOR"),
        (np.array(["2020"], "M8[D]"), {"x": "VECTOR"}, "cannot be VECTOR"),
        ([["a", 1]], {}, "with '1' of type int in it"),
        ([["a"], "b"], {}, "'b' of type str among its lists"),
        ([[{}]], {}, "lists of something else than numbers or text"),
        ([[[1], [2, 3]]], {}, "lists of something else than numbers or text"),
        ([[2**70]], {}, "lists of something else than numbers or text"),
    ],
)
def test_what_cannot_be_fitted_is_refused_by_name(column: Any, options: Any, message: str) -> None:
    with pytest.raises(ColumnError, match=f'column "x".*{message}|{message}.*column "x"'):
        fit({"x": column}, FitOptions(feature_overrides=options, min_category_count=1))


def test_parts_with_lists_of_different_lengths_cannot_be_one_vector() -> None:
    options = FitOptions(feature_overrides={"x": "VECTOR"})
    columns: list[Any] = [[[1.5]], [[1.5, 2.5]], [[]]]
    parts = [statistics_of({"x": column}, options) for column in columns]
    with pytest.raises(ColumnError, match='column "x": it has lists of 1 and of 2 elements'):
        merged(parts)
    assert spec_of(merged([parts[2], parts[1]]), options).feature("x").transform == Vector(2)


@pytest.mark.parametrize("column", [[["a"]], np.ones((3, 2))])
def test_lists_take_no_policy(column: Any) -> None:
    with pytest.raises(ColumnError, match='column "x" holds lists, which take no policy'):
        fit({"x": column}, FitOptions(policies={"x": FitPolicy(missing_flag=True)}))
    with pytest.raises(SpecError, match="a VECTOR takes no policy"):
        Feature("x", Vector(2), policy=Policy(missing_flag=True))
    with pytest.raises(SpecError, match=r'"x" is of lists .* without a policy'):
        Feature("x", Hashed(2), policy=Policy(missing_flag=True), ragged=True)


@pytest.mark.parametrize("transform", [Binary(), Vector(2), Categorical(("a",), one_hot=True)])
def test_only_ids_are_ragged(transform: Any) -> None:
    with pytest.raises(SpecError, match="it must be CATEGORICAL, not one-hot, or HASHED"):
        Feature("x", transform, ragged=True)


@pytest.mark.parametrize("width", [0, -1, 1.5, True, 100_001])
def test_a_vector_has_a_width(width: Any) -> None:
    with pytest.raises(SpecError, match=r"VECTOR\.width must be"):
        Vector(width)


def test_a_served_list_of_another_length_is_refused_by_name() -> None:
    with pytest.raises(ColumnError, match=r'"v" has a list of 3 elements.*lists of 2: cut or fill'):
        encode(SPEC, {**ROWS, "v": [[1, 2], [1, 2, 3], None, None]})


@pytest.mark.parametrize(
    ("name", "column", "message"),
    [
        ("v", [1.0] * 4, '"v" holds numbers, .* VECTOR for it, which needs lists of numbers'),
        ("v", [["a", "b"]] * 4, '"v" has lists of text, and VECTOR is of numbers'),
        ("tags", ["a"] * 4, '"tags" holds text, .* CATEGORICAL for it, which needs lists'),
        ("tags", [[1]] * 4, '"tags" holds numbers, .* which needs text'),
        ("age", [[1.0]] * 4, '"age" holds lists, .* which needs numbers'),
        ("tags", [["a"]] * 3, '"tags" has 3 rows and "age" has 4'),
    ],
)
def test_what_does_not_fit_a_spec_is_refused_by_name(name: str, column: Any, message: str) -> None:
    with pytest.raises(ColumnError, match=message):
        encode(SPEC, ROWS | {name: column})


def test_a_spec_with_lists_travels_as_json_and_its_lists_count() -> None:
    assert PreprocessingSpec.from_json(SPEC.to_json()) == SPEC
    plain = PreprocessingSpec([Feature("tags", Categorical(("a", "b")))])
    ragged = PreprocessingSpec([TAGS])
    assert plain.key() != ragged.key()
    assert plain.diff(ragged) == (Difference("tags", "ragged", False, True),)
    assert '"ragged"' not in plain.to_json()
    with pytest.raises(SpecError, match="ragged must be true or false"):
        PreprocessingSpec.from_json(ragged.to_json().replace('"ragged": true', '"ragged": 1'))


def test_an_override_keeps_that_a_column_is_of_lists() -> None:
    changed = SPEC.override({"tags": Hashed(5), "v": Hashed(6), "clicks": Vector(1)})
    assert changed.ragged_names == ("tags", "v")
    with pytest.raises(SpecError, match='"tags" is of lists'):
        SPEC.override({"tags": Binary()})


@pytest.mark.parametrize(
    ("offsets", "there", "message"),
    [
        (np.array([0, 2], np.int32), None, "offsets must be int64"),
        (np.array([1, 3]), None, "begin with 0"),
        (np.array([0, 2, 1, 3]), None, "not fall"),
        (np.array([0, 2]), None, "end with 3"),
        (np.array([0, 1, 3]), np.array([True, False]), "true wherever a row has elements"),
        (np.array([0, 1, 3]), np.array([True]), "true wherever a row has elements"),
    ],
)
def test_lists_that_contradict_themselves_are_refused(
    offsets: Any, there: Any, message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        Lists(np.arange(3), offsets, there)
