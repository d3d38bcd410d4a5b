import datetime as dt
import json
import math
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
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
    Encoded,
    Encoder,
    Enumeration,
    Feature,
    Hashed,
    Policy,
    PolicyCounts,
    PreprocessingSpec,
    Texts,
    Timestamp,
    count,
    encode,
)
from faucet_client.preprocessing.columns import texts
from faucet_client.preprocessing.hashing import hash_of_text, hashes_of_integers

CITIES = Categorical(("Bern", "Basel", ""))
NUMBERS = Categorical((7, -(2**63), 2**62 + 1))
SPEC = PreprocessingSpec(
    [
        Feature("age", Continuous(30, 10), policy=Policy(impute=40, clip=(0, 50))),
        Feature("city", CITIES),
        Feature("hot", Categorical(("a", "b"), one_hot=True)),
        Feature("user", Hashed(1_000)),
        Feature("when", Timestamp(("hour",), 0, 1e9)),
    ]
)
ROWS: dict[str, Any] = {
    "age": np.array([31.0, math.nan, 99.0, math.inf]),
    "city": ["Bern", None, "Chur", ""],
    "hot": np.array(["b", "a", None, "c"], object),
    "user": np.ma.array([1, 2, 3, 2**63 - 1], mask=[False, True, False, False]),
    "when": np.array(["1970-01-01T06:00", "NaT", "2255-01-01", "1969-12-31"], "datetime64[s]"),
}


def ids_of(transform: Categorical | Hashed, column: Any) -> list[int]:
    found = encode(PreprocessingSpec([Feature("x", transform)]), {"x": column})
    assert found.values.shape == (len(found.ids["x"]), 0)
    ids: list[int] = found.ids["x"].tolist()
    return ids


def value_of(column: Any, transform: Any = None) -> list[float | None]:
    feature = Feature("x", transform or Continuous(0, 1))
    found = encode(PreprocessingSpec([feature]), {"x": column})
    pairs = zip(found.values[:, 0].tolist(), found.presence[:, 0].tolist(), strict=True)
    return [value if there else None for value, there in pairs]


def test_dense_features_and_ids_are_told_apart() -> None:
    assert SPEC.feature_names == ("age", "city", "hot", "user", "when")
    assert SPEC.input_names == ("age", "hot", "when")
    assert SPEC.id_names == ("city", "user")
    assert SPEC.output_names == (
        "age",
        "hot=a",
        "hot=b",
        "when.hour_sin",
        "when.hour_cos",
        "when.elapsed",
    )
    assert (SPEC.cardinality("city"), SPEC.cardinality("user")) == (5, 1_001)
    assert SPEC.outputs_of("hot") == range(1, 3)
    assert SPEC.outputs_of("city") == range(1, 1)
    with pytest.raises(ColumnError, match='"hot" is CATEGORICAL, and is not delivered as ids'):
        SPEC.cardinality("hot")


def test_a_row_is_served_by_hand_in_three_lines() -> None:
    encoded = encode(SPEC, ROWS)
    features = SPEC.preprocessor()(*map(torch.from_numpy, (encoded.values, encoded.presence)))
    ids = {name: torch.from_numpy(of_rows) for name, of_rows in encoded.ids.items()}
    assert list(ids) == ["city", "user"]
    assert ids["city"].tolist() == [2, 0, 1, 4]
    assert ids["user"].dtype == torch.int64
    assert features.shape == (4, SPEC.width)
    assert features[:, 0].tolist() == pytest.approx([0.1, 1, 2, 1])
    assert features[:, 1:3].tolist() == [[0, 1], [1, 0], [0, 0], [0, 0]]
    assert features[0, 3:].tolist() == pytest.approx([1, 0, 21_600 / 1e9], abs=1e-7)
    assert features[1, 3:].tolist() == [0, 0, 0]


def test_what_was_done_is_counted() -> None:
    expected = {
        "age": PolicyCounts(missing=1, infinite=1, imputed=2, clipped=1),
        "city": PolicyCounts(missing=1, unseen=1),
        "hot": PolicyCounts(missing=1, unseen=1),
        "user": PolicyCounts(missing=1),
        "when": PolicyCounts(missing=1),
    }
    encoder = Encoder(SPEC)
    assert count(SPEC, ROWS) == count(SPEC, encoder.encode(ROWS)) == encoder.count(ROWS) == expected
    both = expected["age"] + expected["city"]
    assert both == PolicyCounts(missing=2, infinite=1, imputed=2, clipped=1, unseen=1)


@pytest.mark.parametrize(
    ("transform", "column", "expected"),
    [
        (CITIES, np.array(["Basel", "Bern", "bern", ""]), [3, 2, 1, 4]),
        (CITIES, np.array([None, math.nan, "Bern"], object), [0, 0, 2]),
        (CITIES, np.ma.array(["Bern", "Basel"], mask=[True, False]), [0, 3]),
        (CITIES, Texts(np.array([1, -1, 0, 0]), ("Bern", "Genf")), [1, 0, 2, 2]),
        (CITIES, ["Bern"] * 3, [2, 2, 2]),
        (CITIES, np.array([None, None]), [0, 0]),
        (CITIES, np.array([], object), []),
        (NUMBERS, np.array([2**62 + 1, 2**62, -(2**63), 7, 8]), [4, 1, 3, 2, 1]),
        (NUMBERS, np.array([7.0, math.nan, math.inf, 8.0]), [2, 0, 0, 1]),
        (NUMBERS, np.array([7, 255], np.uint8), [2, 1]),
        (NUMBERS, np.array([None, None]), [0, 0]),
        (Categorical((1, 0)), np.array([False, True]), [3, 2]),
        (Categorical(()), np.array(["a", None]), [1, 0]),
        (Categorical(()), np.ma.array([3, 4], mask=[False, True]), [1, 0]),
        (Hashed(1), np.array(["a", None, "b"]), [1, 0, 1]),
    ],
)
def test_a_category_has_its_id_in_whatever_form_it_comes(
    transform: Categorical | Hashed, column: Any, expected: list[int]
) -> None:
    assert ids_of(transform, column) == expected


def test_hashes_are_for_ever() -> None:
    # Whoever changes these changes the ids that models were trained with.
    assert hash_of_text("") == 0xB4B2797457A0A6E4
    assert hash_of_text("Zürich") == 0x08D579A7FA387470
    most = Hashed(2**31 - 1)
    assert ids_of(most, np.array(["Bern", "\ud800"])) == [1_754_396_150, 244_515_689]
    assert ids_of(most, np.array([0, -1])) == [1_063_198_246, 1_696_075_538]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=9))
def test_a_number_is_hashed_by_its_bits(values: list[int]) -> None:
    mask = 2**64 - 1

    def expected(value: int) -> int:
        z = (value + 0x9E3779B97F4A7C15) & mask
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        return z ^ z >> 31

    found = hashes_of_integers(np.array(values, np.int64)).tolist()
    assert found == [expected(value) for value in values]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ([1, 2], [1, 2]),
        (np.array([True, False]), [1, 0]),
        (np.ma.array([3.5, 4.5], mask=[True, False]), [None, 4.5]),
        (np.array([math.nan, math.inf]), [None, math.inf]),
        (np.array([2**53 + 1]), [2**53]),
    ],
)
def test_numbers_and_booleans_are_numbers(column: Any, expected: list[float | None]) -> None:
    assert value_of(column) == expected


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (np.array(["1970-01-02", "NaT"], "datetime64[D]"), [86_400_000_000, None]),
        (np.array([1_500, -1], "datetime64[ns]"), [1, -1]),
        (np.array([5], "datetime64[us]"), [5]),
        (np.array(["1971"], "datetime64[Y]"), [365 * 86_400_000_000]),
        (np.ma.array(np.array([1, 2], "datetime64[ms]"), mask=[True, False]), [None, 2_000]),
        (np.array([7, -7]), [7, -7]),
    ],
)
def test_times_are_microseconds(column: Any, expected: list[float | None]) -> None:
    assert value_of(column, Timestamp((), 0, 1)) == expected


@pytest.mark.parametrize(
    ("transform", "column", "message"),
    [
        (Continuous(0, 1), ["a"], 'column "x" holds text, .* CONTINUOUS .* needs numbers'),
        (Binary(), np.array(["2020-01-01"], "M8[D]"), "holds dates, .* BINARY .* needs numbers"),
        (Timestamp((), 0, 1), ["2020-01-01"], "holds text, .* TIMESTAMP .* needs times"),
        (Timestamp((), 0, 1), np.array([0.5]), "numbers that are not whole"),
        (Timestamp((), 0, 1), np.array([2**62], "M8[s]"), "no int64 of microseconds"),
        (CITIES, np.array([1]), "holds numbers, .* CATEGORICAL .* needs text"),
        (NUMBERS, ["a"], "holds text, .* CATEGORICAL .* needs whole numbers"),
        (NUMBERS, np.array([7.5]), "numbers that are not whole"),
        (NUMBERS, np.array([2.0**60]), r"beyond 2\^53 in floating point"),
        (NUMBERS, np.array([2**64 - 1], np.uint64), "beyond int64"),
        (CITIES, np.array(["2020"], "M8[D]"), "holds dates, .* needs text"),
        (Hashed(3), np.array(["2020"], "M8[D]"), "holds dates, .* needs text or whole numbers"),
        (CITIES, np.array(["a", 1], object), "with '1' of type int in it"),
        (CITIES, np.array([["a"], [], None], object), "holds lists, .* needs text"),
        (CITIES, np.array([b"a"]), r"is of dtype \|S1, and only numbers"),
        (Continuous(0, 1), np.array([1j]), "is of dtype complex128, and only numbers"),
        (Continuous(0, 1), np.array([1], "m8[s]"), "is of dtype timedelta64"),
        (Continuous(0, 1), np.ones((2, 2)), "holds lists, .* needs numbers"),
        (Continuous(0, 1), 3.0, r"must be one value a row, not of shape \(\)"),
    ],
)
def test_a_column_of_other_things_is_refused_by_name(
    transform: Any, column: Any, message: str
) -> None:
    with pytest.raises(ColumnError, match=message):
        encode(PreprocessingSpec([Feature("x", transform)]), {"x": column})


VIENNA = dt.timezone(dt.timedelta(hours=1))


@pytest.mark.parametrize(
    ("transform", "given", "same"),
    [
        (Continuous(0, 1), [31.0, None, math.nan], np.array([31.0, math.nan, math.nan])),
        (Continuous(0, 1), [True, None, 2], np.array([1.0, math.nan, 2.0])),
        (Continuous(0, 1), [Decimal("1.5"), None], np.array([1.5, math.nan])),
        (Continuous(0, 1), np.array([None, None], object), np.array([math.nan, math.nan])),
        (NUMBERS, [2**62 + 1, None], np.ma.array([2**62 + 1, 0], mask=[False, True])),
        (Hashed(1_000), (8, None), np.ma.array([8, 0], mask=[False, True])),
        (CITIES, [None], np.array([None], object)),
        (CITIES, [], np.array([], object)),
        (
            Timestamp(("hour",), 0, 1),
            [dt.datetime(2026, 1, 1, 7, tzinfo=VIENNA), None, dt.date(2026, 1, 2)],
            np.array(["2026-01-01T06", "NaT", "2026-01-02"], "M8[us]"),
        ),
        (Timestamp(("hour",), 0, 1), [None], np.array(["NaT"], "M8[us]")),
    ],
)
def test_rows_may_be_python_objects_with_none_for_null(
    transform: Any, given: Any, same: Any
) -> None:
    spec = PreprocessingSpec([Feature("x", transform)])
    one, other = encode(spec, {"x": given}), encode(spec, {"x": same})
    assert one.presence.tolist() == other.presence.tolist()
    assert one.values[one.presence].tolist() == other.values[other.presence].tolist()
    assert {k: v.tolist() for k, v in one.ids.items()} == {
        k: v.tolist() for k, v in other.ids.items()
    }


@pytest.mark.parametrize("mixed", [["a", 1], [1.0, "a"], [dt.date(2026, 1, 1), 1.0]])
def test_objects_of_several_kinds_are_refused(mixed: list[Any]) -> None:
    for transform in (Continuous(0, 1), Timestamp(("hour",), 0, 1)):
        with pytest.raises(ColumnError, match='column "x" holds text, and the spec has'):
            encode(PreprocessingSpec([Feature("x", transform)]), {"x": mixed})


def test_all_columns_must_be_there_and_as_long() -> None:
    with pytest.raises(ColumnError, match='"city" is missing'):
        encode(SPEC, {name: column for name, column in ROWS.items() if name != "city"})
    with pytest.raises(ColumnError, match='column "user" has 1 rows and "age" has 4'):
        encode(SPEC, {**ROWS, "user": [1]})


def test_codes_must_be_places() -> None:
    for codes in ([2], [-2]):
        with pytest.raises(SpecError, match="codes must be from -1 to 1"):
            Texts(np.array(codes), ("a", "b"))
    with pytest.raises(SpecError, match="codes must be int64"):
        Texts(np.array([0.0]), ("a",))
    with pytest.raises(SpecError, match="values must be texts"):
        Texts(np.array([0]), (1,))  # type: ignore[arg-type]


@given(st.lists(st.none() | st.text(max_size=2), max_size=20))
def test_text_is_its_different_values_and_which_row_has_which(column: list[str | None]) -> None:
    found = texts("x", np.array([*column, None], object)[:-1])
    assert [None if code < 0 else found.values[code] for code in found.codes] == column
    assert len(set(found.values)) == len(found.values)


CATEGORY = st.none() | st.sampled_from(["Bern", "Basel", "", "Chur"]) | st.text(max_size=3)
ANY_ROW = st.tuples(
    st.floats(),
    CATEGORY,
    CATEGORY,
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1),
)


def columns_of(rows: list[Any]) -> dict[str, Any]:
    return {
        "age": np.array([row[0] for row in rows]),
        "city": np.array([*(row[1] for row in rows), None], object)[:-1],
        "hot": np.array([*(row[2] for row in rows), None], object)[:-1],
        "user": np.array([row[3] for row in rows], np.int64),
        "when": np.array([row[4] for row in rows], np.int64).view("datetime64[us]"),
    }


@given(st.lists(ANY_ROW, max_size=12), st.randoms())
def test_a_row_is_encoded_and_transformed_by_itself(rows: list[Any], random: Any) -> None:
    order = random.sample(range(len(rows)), len(rows))
    whole, other = (
        encode(SPEC, columns_of(rows)),
        encode(SPEC, columns_of([rows[i] for i in order])),
    )
    module = SPEC.preprocessor()

    def served(encoded: Encoded) -> torch.Tensor:
        output: torch.Tensor = module(
            torch.from_numpy(encoded.values), torch.from_numpy(encoded.presence)
        )
        return output

    assert torch.isfinite(served(whole)).all()
    assert torch.equal(served(whole)[order], served(other))
    for name in SPEC.id_names:
        assert whole.ids[name][order].tolist() == other.ids[name].tolist()
        assert ((whole.ids[name] >= 0) & (whole.ids[name] < SPEC.cardinality(name))).all()


def test_a_spec_of_ids_alone_has_no_dense_output() -> None:
    spec = PreprocessingSpec([Feature("x", CITIES)])
    encoded = encode(spec, {"x": ["Bern", None]})
    output = spec.preprocessor()(*map(torch.from_numpy, (encoded.values, encoded.presence)))
    assert (spec.width, output.shape, output.dtype) == (0, (2, 0), torch.float32)


def test_an_id_may_have_a_missing_flag() -> None:
    features = [Feature("x", CITIES, policy=Policy(missing_flag=True)), Feature("y", Binary())]
    spec = PreprocessingSpec(features)
    assert spec.input_names == ("y", "x")
    assert spec.output_names == ("y", "x.missing")
    assert spec.id_names == ("x",)
    encoded = encode(spec, {"x": ["Chur", None], "y": [1, 1]})
    output = spec.preprocessor()(*map(torch.from_numpy, (encoded.values, encoded.presence)))
    assert output.tolist() == [[1, 0], [1, 1]]


def test_large_values_of_an_enum_are_numbers() -> None:
    assert value_of(np.array([2**53]), Enumeration((2**53,))) == [2**53]


def test_another_process_without_torch_gives_the_same_ids(tmp_path: Path) -> None:
    SPEC.save(tmp_path / "spec.json")
    code = """
import json, sys
from faucet_client.preprocessing import PreprocessingSpec, encode
spec = PreprocessingSpec.load("spec.json").exclude(["age", "when"])
row = {"city": ["Bern", None, "Chur"], "user": [1, -2, 2**62 + 1], "hot": ["a", "b", None]}
found = encode(spec, row)
assert "torch" not in sys.modules
print(json.dumps([found.ids["city"].tolist(), found.ids["user"].tolist()]))
"""
    root = Path(__file__).parents[3]
    # Python's own hash of a text differs between processes, and ours must not.
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root), "PYTHONHASHSEED": "7"},
        check=True,
        capture_output=True,
        timeout=60,
    )
    users = ids_of(Hashed(1_000), np.array([1, -2, 2**62 + 1]))
    assert json.loads(ran.stdout) == [[2, 0, 1], users]
