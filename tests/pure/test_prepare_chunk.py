"""Chunks: every row once, in its permuted place, and nothing changed that is not counted."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from faucet_client.layout import Role
from faucet_client.spec import SPLITS, DatasetSpec, ParquetSource, Split
from faucetd.errors import ColumnError, SourceChanged
from faucetd.prepare.chunk import DROP, Appendix, ChunkPreparer
from faucetd.prepare.columns import ColumnKey, PreparedColumns, resolve
from faucetd.prepare.counts import ColumnCounts
from faucetd.prepare.permutation import ChunkId, permutation
from faucetd.prepare.values import own_text

CHUNK = ChunkId("key", "plan", 3)
NAN = float("nan")
Arrays = dict[ColumnKey, NDArray[Any]]


def columns_of(table: pa.Table, **spec: Any) -> PreparedColumns:
    fields = [(field.name, field.type) for field in table.schema]
    spec.setdefault("features", [table.column_names[0]])
    return resolve(DatasetSpec(ParquetSource("/t.parquet"), preprocessing="none", **spec), fields)


def empty_arrays(columns: PreparedColumns, rows: int) -> Arrays:
    return {
        (c.role, c.name): np.zeros((rows, c.width) if c.role is Role.FEATURES else rows, c.dtype)
        for c in columns.fixed_columns()
    }


def prepared(
    preparer: ChunkPreparer,
    columns: PreparedColumns,
    table: pa.Table,
    codes: NDArray[np.int8] | None = None,
    cuts: Sequence[int] = (),
    chunk: ChunkId = CHUNK,
) -> dict[Split, tuple[Arrays, Appendix]]:
    """The chunk that holds all of `table`, which arrives in batches cut at `cuts`."""
    rows = table.num_rows
    codes = np.zeros(rows, np.int8) if codes is None else codes
    expected = {split: int((codes == code).sum()) for code, split in enumerate(SPLITS)}
    preparer.start(chunk, expected)
    (batch,) = table.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], table.schema)]
    bounds = [0, *sorted(min(cut, rows) for cut in cuts), rows]
    for start, stop in pairwise(bounds):
        preparer.add(batch.slice(start, stop - start), codes[start:stop])
    assert preparer.finish() == expected
    made: dict[Split, tuple[Arrays, Appendix]] = {}
    for split, count in expected.items():
        if count:
            arrays = empty_arrays(columns, count)
            made[split] = (arrays, preparer.fill(split, arrays))
    return made


def train(table: pa.Table, **spec: Any) -> tuple[Arrays, Appendix, dict[str, ColumnCounts]]:
    """All rows as one train chunk, back in source order, and what was counted."""
    columns = columns_of(table, **spec)
    preparer = ChunkPreparer(columns)
    arrays, appendix = prepared(preparer, columns, table)["train"]
    order = permutation(CHUNK, "train", table.num_rows).argsort().numpy()
    sorted_appendix = Appendix(
        variable={key: text.take(pa.array(order)) for key, text in appendix.variable.items()},
        valid={key: valid[order] for key, valid in appendix.valid.items()},
    )
    return {k: v[order] for k, v in arrays.items()}, sorted_appendix, preparer.counts()


def passed_through(array: pa.Array[Any]) -> NDArray[Any]:
    return passed_through_and_counted(array)[0]


def passed_through_and_counted(array: pa.Array[Any]) -> tuple[NDArray[Any], ColumnCounts]:
    table = pa.table({"f": pa.array([0.0] * len(array)), "p": array})
    arrays, _, counts = train(table, passthrough=["p"])
    return arrays[Role.PASSTHROUGH, "p"], counts.get("p", ColumnCounts())


@given(
    codes=st.lists(st.sampled_from([0, 1, DROP]), max_size=200),
    cuts=st.lists(st.integers(0, 200), max_size=5),
    width=st.integers(1, 5),
)
def test_every_row_comes_once_in_its_split_whole_and_in_its_permuted_place(
    codes: list[int], cuts: list[int], width: int
) -> None:
    ids = np.arange(len(codes))
    table = pa.table(
        {f"f{j}": pa.array(ids * 10.0 + j, mask=ids % 7 == j) for j in range(width)}
        | {
            "y": pa.array(ids, pa.int32()),
            "id": ids,
            "name": pa.array([None if i % 3 == 0 else f"row {i}" for i in ids], pa.string()),
        }
    )
    columns = columns_of(
        table, features=[f"f{j}" for j in range(width)], labels=["y"], passthrough=["id", "name"]
    )
    split_codes = np.array(codes, np.int8)
    made = prepared(ChunkPreparer(columns), columns, table, split_codes, cuts)
    for code, split in enumerate(SPLITS):
        source_order = ids[split_codes == code]
        if not len(source_order):
            assert split not in made
            continue
        arrays, appendix = made[split]
        expected = source_order[permutation(CHUNK, split, len(source_order)).numpy()]
        np.testing.assert_array_equal(arrays[Role.PASSTHROUGH, "id"], expected)
        np.testing.assert_array_equal(arrays[Role.LABEL, "y"], expected)
        features = np.array(
            [[NAN if i % 7 == j else i * 10 + j for j in range(width)] for i in expected],
            np.float32,
        )
        np.testing.assert_array_equal(arrays[Role.FEATURES, "features"], features)
        names = [None if i % 3 == 0 else f"row {i}" for i in expected]
        assert appendix.variable[Role.PASSTHROUGH, "name"].to_pylist() == names
        has_nulls = None in names
        assert appendix.valid.keys() == ({(Role.PASSTHROUGH, "name")} if has_nulls else set())
        if has_nulls:
            valid = appendix.valid[Role.PASSTHROUGH, "name"]
            assert valid.tolist() == [name is not None for name in names]


@pytest.mark.parametrize("width", [1, 39, 700])
@pytest.mark.parametrize("rows", [1, 16_384, 16_385, 40_000])
def test_tiles_of_any_shape_make_the_same_matrix_as_a_plain_cast(rows: int, width: int) -> None:
    if rows * width > 2_000_000:
        rows = 2_000_000 // width
    rng = np.random.default_rng(7)
    values = rng.integers(-1_000, 1_000, (width, rows))
    dtypes = [np.int8, np.int32, np.int64, np.float32, np.float64, np.uint16, np.float16, bool]
    table = pa.table(
        {f"f{j}": pa.array(values[j].astype(dtypes[j % len(dtypes)])) for j in range(width)}
    )
    arrays, _, _ = train(table, features=table.column_names)
    expected = np.stack([column.to_numpy().astype(np.float32) for column in table.columns], axis=1)
    np.testing.assert_array_equal(arrays[Role.FEATURES, "features"], expected)


def test_the_same_chunk_comes_out_whatever_the_batches_and_whatever_was_prepared_before() -> None:
    table = pa.table({"f": np.arange(1_000), "s": [str(i) for i in range(1_000)]})
    columns = columns_of(table, passthrough=["s"])
    codes = (np.arange(1_000) % 4 == 0).astype(np.int8)
    once = prepared(ChunkPreparer(columns), columns, table, codes)
    reused = ChunkPreparer(columns)
    prepared(reused, columns, table.slice(0, 1_000).take(list(range(999, -1, -1))), codes)
    reused.start(ChunkId("key", "plan", 9), {"train": 5})  # begun and given up
    reused.add(table.to_batches()[0].slice(0, 2), np.zeros(2, np.int8))
    again = prepared(reused, columns, table, codes, cuts=[1, 17, 500])
    for split in SPLITS:
        for key, values in once[split][0].items():
            np.testing.assert_array_equal(values, again[split][0][key])
        assert once[split][1].variable == again[split][1].variable


def test_validity_does_not_linger_from_the_chunk_before() -> None:
    with_null = pa.table({"f": [1.0, 2.0], "y": pa.array([None, 1], pa.int8())})
    without = pa.table({"f": [1.0, 2.0], "y": pa.array([0, 1], pa.int8())})
    columns = columns_of(with_null, labels=["y"])
    preparer = ChunkPreparer(columns)
    _, appendix = prepared(preparer, columns, with_null)["train"]
    assert sorted(appendix.valid[Role.LABEL, "y"].tolist()) == [0, 1]
    _, appendix = prepared(preparer, columns, without)["train"]
    assert appendix.valid == {}
    assert preparer.counts() == {}


@given(rows=st.integers(0, 2_000), number=st.integers(0, 50))
def test_a_permutation_is_one_and_a_function_of_the_id_alone(rows: int, number: int) -> None:
    chunk = ChunkId("key", "plan", number)
    torch.manual_seed(rows)
    order = permutation(chunk, "train", rows)
    torch.manual_seed(rows + 1)
    assert torch.equal(order, permutation(chunk, "train", rows))
    assert torch.equal(order.sort().values, torch.arange(rows))


def test_chunks_plans_datasets_and_splits_differ_in_their_order() -> None:
    ids = [
        (ChunkId("key", "plan", 0), "train"),
        (ChunkId("key", "plan", 0), "eval"),
        (ChunkId("key", "plan", 1), "train"),
        (ChunkId("key", "other", 0), "train"),
        (ChunkId("other", "plan", 0), "train"),
        (ChunkId("ke", "yplan", 0), "train"),
    ]
    orders: list[tuple[int, ...]] = []
    for chunk, split in ids:
        orders.append(
            tuple(permutation(chunk, "eval" if split == "eval" else "train", 50).tolist())
        )
    assert len(set(orders)) == len(orders)
    assert tuple(range(50)) not in orders


def test_the_order_of_a_chunk_is_what_it_was_in_the_version_before() -> None:
    # Readers resume at a row of a permuted chunk. If this fails, the version of the preparing code
    # (or torch, which is pinned) has changed what is in the dataset's key, and must say so there.
    assert permutation(ChunkId("key", "plan", 0), "train", 8).tolist() == GOLDEN_ORDER


def test_labels_weights_and_features_are_nan_where_null_and_say_so() -> None:
    table = pa.table(
        {
            "f": pa.array([1, None, 3], pa.int16()),
            "b": pa.array([True, None, False]),
            "y": pa.array([None, True, False]),
            "w": pa.array([1.5, 2.5, None], pa.float64()),
            "p": pa.array([None, 5, None], pa.uint32()),
            "q": pa.array([None, 0.5, NAN], pa.float32()),
        }
    )
    arrays, appendix, counts = train(
        table, features=["f", "b"], labels=["y"], weight_column="w", passthrough=["p", "q"]
    )
    features = np.array([[1, 1], [NAN, NAN], [3, 0]], np.float32)
    np.testing.assert_array_equal(arrays[Role.FEATURES, "features"], features)
    np.testing.assert_array_equal(arrays[Role.LABEL, "y"], np.array([NAN, 1, 0], np.float32))
    np.testing.assert_array_equal(arrays[Role.WEIGHT, "w"], np.array([1.5, 2.5, NAN], np.float32))
    np.testing.assert_array_equal(arrays[Role.PASSTHROUGH, "p"], [0, 5, 0])
    np.testing.assert_array_equal(arrays[Role.PASSTHROUGH, "q"], np.array([NAN, 0.5, NAN]))
    valid = {name: flags.tolist() for (_, name), flags in appendix.valid.items()}
    assert valid == {"y": [0, 1, 1], "w": [1, 1, 0], "p": [0, 1, 0], "q": [0, 1, 1]}
    nulls = {name: count.nulls for name, count in counts.items()}
    assert nulls == {"f": 1, "b": 1, "y": 1, "w": 1, "p": 2, "q": 1}


def test_integers_that_float32_cannot_hold_are_counted() -> None:
    exact, beyond = 2**24, 2**24 + 1
    columns = {
        "i64": pa.array([beyond, -beyond, exact, -exact, 2**62, 2**63 - 1, -(2**63), None]),
        "i32": pa.array([beyond, 2**30, -(2**31), 2**31 - 1, 0, 0, 0, None], pa.int32()),
        "u32": pa.array([beyond, 2**31, 2**32 - 1, 0, 0, 0, 0, None], pa.uint32()),
        "u64": pa.array([2**64 - 1, 2**63, beyond + 1, 0, 0, 0, 0, None], pa.uint64()),
        "i16": pa.array([2**15 - 1] * 7 + [None], pa.int16()),
        "y": pa.array([beyond] * 8),
    }
    _, _, counts = train(pa.table(columns), features=list(columns)[:-1], labels=["y"])
    rounded = {name: count.rounded for name, count in counts.items()}
    assert rounded == {"i64": 3, "i32": 2, "u32": 2, "u64": 1, "i16": 0, "y": 8}


NUMERIC = pa.decimal128(38, 9)
BIGNUMERIC = pa.decimal256(76, 38)


def decimals(kind: Any) -> st.SearchStrategy[Decimal]:
    """Decimals of every length that fit into the type."""
    length = st.integers(1, kind.precision)
    unscaled = length.flatmap(lambda n: st.integers(-(10**n) + 1, 10**n - 1))
    return unscaled.map(lambda packed: Decimal(f"{packed}e-{kind.scale}"))


@pytest.mark.parametrize("kind", [NUMERIC, BIGNUMERIC, pa.decimal128(38, 0)], ids=str)
@given(data=st.data())
def test_decimals_become_the_nearest_numbers_and_those_not_given_back_are_counted(
    kind: pa.DataType, data: st.DataObject
) -> None:
    values = data.draw(st.lists(st.one_of(st.none(), decimals(kind)), min_size=1, max_size=30))
    array = pa.array([Decimal(7), *values], kind).slice(1)
    passed, counts = passed_through_and_counted(array)
    given = [value for value in values if value is not None]
    expected = [NAN if value is None else float(value) for value in values]
    np.testing.assert_array_equal(passed, expected)
    assert counts.rounded == sum(Decimal(repr(float(value))) != value for value in given)

    arrays, _, found = train(pa.table({"f": array}))
    with np.errstate(over="ignore"):
        singles = np.array(expected).astype(np.float32)
    np.testing.assert_array_equal(arrays[Role.FEATURES, "features"][:, 0], singles)
    finite = [(v, float(s)) for v, s in zip(values, singles, strict=True) if np.isfinite(s)]
    rounded = sum(v is not None and abs(v) > 2**24 and v != s for v, s in finite)
    assert found.get("f", ColumnCounts()) == ColumnCounts(
        nulls=values.count(None), rounded=rounded, overflowed=int(np.isinf(singles).sum())
    )


def test_decimals_on_both_sides_of_what_float64_holds_become_the_nearest_numbers() -> None:
    rng = np.random.default_rng(5)
    unscaled = rng.integers(-(2**62), 2**62, 5_000) >> rng.integers(0, 20, 5_000)
    # In two's complement the lower half of the last two looks like a small number.
    packed = [*unscaled.tolist(), 2**53, 2**53 + 1, -(2**53) - 1, 2**64 + 5, -(2**64) + 5]
    values = [Decimal(f"{number}e-9") for number in packed]
    passed = passed_through(pa.array(values, NUMERIC))
    np.testing.assert_array_equal(passed, [float(value) for value in values])


def test_the_largest_bignumeric_is_handed_over_though_arrow_finds_it_too_long() -> None:
    # Its 77th digit is partial: such values do fit into the 256 bits that the service sends.
    packed = (2**255 - 1).to_bytes(32, "little")
    array = pa.Array.from_buffers(BIGNUMERIC, 1, [None, pa.py_buffer(packed)])
    passed, counts = passed_through_and_counted(array)
    assert passed.tolist() == [float(f"{2**255 - 1}e-38")]
    assert counts.rounded == 1
    _, _, found = train(pa.table({"f": array}))
    assert found["f"].overflowed == 1


def test_a_fraction_that_float32_rounds_is_counted_for_a_decimal_as_little_as_for_a_float() -> None:
    cents = pa.array([Decimal("0.10"), Decimal("16777215.99")], NUMERIC)
    _, _, counts = train(pa.table({"f": cents}))
    assert counts == {}
    _, _, counts = train(pa.table({"f": pa.array([Decimal("16777216.01")], NUMERIC)}))
    assert counts == {"f": ColumnCounts(rounded=1)}


def test_a_decimal_handed_over_twice_or_used_as_a_feature_is_counted_once() -> None:
    long = pa.array([Decimal("12345678901234567890.123456789")], NUMERIC)
    _, _, counts = train(pa.table({"f": long}), passthrough=["f"])
    assert counts == {"f": ColumnCounts(rounded=1)}
    nested: list[tuple[str, pa.DataType]] = [("s.p", NUMERIC), ("g", pa.int8())]
    columns = resolve(
        DatasetSpec(ParquetSource("/t"), ["g"], passthrough=["s", "s.p"], preprocessing="none"),
        nested,
    )
    preparer = ChunkPreparer(columns)
    prepared(preparer, columns, pa.table({"s.p": long, "g": pa.array([1], pa.int8())}))
    assert preparer.counts() == {"s.p": ColumnCounts(rounded=1)}


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=50))
def test_rounded_is_what_float32_changes(values: list[int]) -> None:
    _, _, counts = train(pa.table({"f": pa.array(values, pa.int64())}))
    changed = sum(int(np.float32(value)) != value for value in values)
    assert counts.get("f", ColumnCounts()).rounded == changed


def test_a_column_used_twice_is_counted_once() -> None:
    table = pa.table({"f": pa.array([None, 2**24 + 1], pa.int64())})
    _, _, counts = train(table, labels=["f"], weight_column="f", passthrough=["f"])
    assert counts == {"f": ColumnCounts(nulls=1, rounded=1)}


def test_nan_infinity_and_overflow_are_counted_apart() -> None:
    table = pa.table(
        {
            "f": pa.array([NAN, float("inf"), 1e300, -1e300, 3.4e38, None]),
            "g": pa.array([NAN, 1, 2, 3, 4, None], pa.float32()),
            "w": pa.array([1e39, 1, 1, 1, 1, float("-inf")]),
        }
    )
    arrays, _, counts = train(table, features=["f", "g"], weight_column="w")
    assert counts == {
        "f": ColumnCounts(nulls=1, overflowed=2, not_finite=2),
        "g": ColumnCounts(nulls=1, not_finite=1),
        "w": ColumnCounts(overflowed=1, not_finite=1),
    }
    inf = float("inf")
    expected = np.array([NAN, inf, inf, -inf, 3.4e38, NAN], np.float32)
    np.testing.assert_array_equal(arrays[Role.FEATURES, "features"][:, 0], expected)


def test_what_lies_in_the_place_of_a_null_is_neither_seen_nor_counted() -> None:
    values = pa.py_buffer(np.array([2**40 + 1, 7, 2**60 + 1], np.int64).tobytes())
    bitmap = pa.py_buffer(b"\x02")
    array = pa.Array.from_buffers(pa.int64(), 3, [bitmap, values])
    unsigned = pa.Array.from_buffers(pa.uint64(), 3, [bitmap, pa.py_buffer(b"\xff" * 24)])
    unsigned = pa.concat_arrays([unsigned.slice(0, 1), pa.array([7], pa.uint64()), unsigned[2:]])
    table = pa.table({"f": array, "u": unsigned})
    arrays, _, counts = train(table, passthrough=["f", "u"])
    np.testing.assert_array_equal(arrays[Role.FEATURES, "features"][:, 0], [NAN, 7, NAN])
    for name in ("f", "u"):
        assert arrays[Role.PASSTHROUGH, name].tolist() == [0, 7, 0]
    assert counts == {"f": ColumnCounts(nulls=2), "u": ColumnCounts(nulls=2)}


def test_rows_of_no_split_are_not_counted() -> None:
    table = pa.table({"f": pa.array([None, 1.0, NAN])})
    columns = columns_of(table)
    preparer = ChunkPreparer(columns)
    prepared(preparer, columns, table, np.array([DROP, 0, DROP], np.int8))
    assert preparer.counts() == {}


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8"])
def test_integers_that_torch_has_are_handed_over_as_they_are(dtype: str) -> None:
    bounds = np.iinfo(dtype)
    values = np.array([bounds.min, 0, bounds.max], dtype)
    passed = passed_through(pa.array(values))
    assert passed.dtype == dtype
    assert passed.tolist() == values.tolist()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_are_handed_over_as_they_are(dtype: str) -> None:
    values = np.array([0.1, -np.inf, np.nan], dtype)
    passed = passed_through(pa.array(values))
    assert passed.dtype == dtype
    np.testing.assert_array_equal(passed, values)


def test_booleans_are_handed_over_as_bytes() -> None:
    passed = passed_through(pa.array([True, False, None, True]))
    assert passed.dtype == np.bool_
    assert passed.tolist() == [True, False, False, True]


def test_unsigned_integers_become_int64_and_one_too_large_is_refused_by_name() -> None:
    passed = passed_through(pa.array([0, 2**63 - 1, None], pa.uint64()))
    assert (str(passed.dtype), passed.tolist()) == ("int64", [0, 2**63 - 1, 0])
    assert passed_through(pa.array([2**32 - 1], pa.uint32())).tolist() == [2**32 - 1]
    with pytest.raises(ColumnError, match=r'column "p" holds 9223372036854775808.*int64'):
        passed_through(pa.array([2**63], pa.uint64()))


def test_dates_become_days_and_timestamps_microseconds_since_1970() -> None:
    days = [
        datetime.date(1970, 1, 2),
        datetime.date(1969, 12, 31),
        None,
        datetime.date(2020, 1, 20),
    ]
    for kind in (pa.date32(), pa.date64()):
        assert passed_through(pa.array(days, kind)).tolist() == [1, -1, 0, 18_281]
    at = datetime.datetime(2020, 1, 20, 1, 2, 3, tzinfo=datetime.UTC)
    for unit in ("s", "ms", "us", "ns"):
        passed = passed_through(pa.array([at, None], pa.timestamp(unit, "UTC")))
        assert passed.tolist() == [1_579_482_123_000_000, 0]


def test_times_become_microseconds_since_midnight() -> None:
    times = [datetime.time(0, 0, 1), datetime.time(23, 59, 59), None]
    kinds = (pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns"))
    for kind in kinds:
        passed = passed_through(pa.array(times, kind))
        assert passed.dtype == np.int64
        assert passed.tolist() == [1_000_000, 86_399_000_000, 0]
    fine = passed_through(pa.array([datetime.time(1, 2, 3, 456_789)], pa.time64("us")))
    assert fine.tolist() == [3_723_456_789]


def test_a_chunk_without_features_has_no_matrix() -> None:
    table = pa.table({"y": [1, 2, None], "id": [7, 8, 9], "s": ["a", None, "c"]})
    columns = columns_of(table, features=(), labels=["y"], passthrough=["id", "s"])
    codes = np.array([0, 1, 0], np.int8)
    made = prepared(ChunkPreparer(columns), columns, table, codes, cuts=[1])
    arrays, appendix = made["train"]
    assert set(arrays) == {(Role.LABEL, "y"), (Role.PASSTHROUGH, "id")}
    assert sorted(arrays[Role.PASSTHROUGH, "id"].tolist()) == [7, 9]
    assert set(appendix.variable[Role.PASSTHROUGH, "s"].to_pylist()) == {"a", "c"}
    arrays, appendix = made["eval"]
    assert arrays[Role.LABEL, "y"].tolist() == [2]
    assert appendix.valid[Role.PASSTHROUGH, "s"].tolist() == [0]


def test_a_chunk_may_have_text_alone() -> None:
    table = pa.table({"s": ["a", "b"]})
    columns = columns_of(table, features=(), passthrough=["*"])
    arrays, appendix = prepared(ChunkPreparer(columns), columns, table)["train"]
    assert arrays == {}
    assert set(appendix.variable[Role.PASSTHROUGH, "s"].to_pylist()) == {"a", "b"}


def test_a_timestamp_beyond_int64_microseconds_is_refused_by_name() -> None:
    with pytest.raises(ColumnError, match='column "p" holds a time that'):
        passed_through(pa.array([2**60], pa.int64()).cast(pa.timestamp("s")))
    with pytest.raises(ColumnError, match='column "p" holds a time that'):
        passed_through(pa.array([-(2**63)], pa.int64()).cast(pa.timestamp("ms")))


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int32(), pa.large_string()),
    ],
    ids=str,
)
def test_text_of_every_kind_is_handed_over_with_its_nulls(kind: pa.DataType) -> None:
    values = ["a", None, "", "øæ" * 100, None, "a"]
    text: pa.Array[Any] = pa.array(values, pa.string())
    if isinstance(kind, pa.DictionaryType):
        text = text.dictionary_encode()
    table = pa.table({"f": np.zeros(6), "s": text.cast(kind)})
    _, appendix, counts = train(table, passthrough=["s"])
    found = appendix.variable[Role.PASSTHROUGH, "s"]
    assert found.type == pa.large_string()
    assert found.to_pylist() == values
    assert appendix.valid[Role.PASSTHROUGH, "s"].tolist() == [1, 0, 1, 1, 0, 1]
    assert counts["s"].nulls == 2


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()], ids=str)
def test_text_does_not_keep_the_batch_that_it_came_in(kind: pa.DataType) -> None:
    came: pa.Array[Any] = pa.array(["a", None, "bc"]).cast(kind)
    characters = came.buffers()[2]
    kept = own_text(came).buffers()[2]
    assert characters is not None
    assert kept is not None
    assert kept.address != characters.address


def test_more_or_fewer_rows_than_planned_mean_that_the_source_changed() -> None:
    table = pa.table({"f": [1.0, 2.0, 3.0]})
    columns = columns_of(table)
    (batch,) = table.to_batches()
    preparer = ChunkPreparer(columns)
    preparer.start(CHUNK, {"train": 2})
    with pytest.raises(SourceChanged, match=r"chunk 3 .*2 train and 0 eval rows.*at least 3"):
        preparer.add(batch, np.zeros(3, np.int8))
    preparer.start(CHUNK, {"train": 3, "eval": 1})
    preparer.add(batch, np.zeros(3, np.int8))
    with pytest.raises(SourceChanged, match=r"3 train and 1 eval rows.*3 and 0"):
        preparer.finish()
    preparer.start(CHUNK, {"train": 3})
    preparer.add(batch, np.array([0, 1, 0], np.int8))
    with pytest.raises(SourceChanged, match="2 and 1"):
        preparer.finish()


def test_pieces_that_arrive_in_turns_make_the_chunk_that_they_make_one_after_another() -> None:
    table = pa.table({"f": [float(i) for i in range(90)], "t": [f"row {i}" for i in range(90)]})
    columns = columns_of(table, passthrough=["t"])
    codes = np.array([(i * 7) % 3 - 1 for i in range(90)], np.int8)  # dropped, train, eval
    (batch,) = table.to_batches()
    in_order = prepared(ChunkPreparer(columns), columns, table, codes)

    def row(number: int) -> tuple[pa.RecordBatch, NDArray[np.int8]]:
        return batch.slice(number, 1), codes[number : number + 1]

    preparer = ChunkPreparer(columns)
    # The pieces have 40, 20 and 30 rows; the second might have had 35, and all but the last
    # slot have a gap, since rows were dropped.
    preparer.start(CHUNK, None, slots=[40, 35, 30])
    for turn in range(40):
        for piece, (first, rows) in enumerate(((0, 40), (40, 20), (60, 30))):
            if turn < rows:
                preparer.add(*row(first + turn), piece)
    assert preparer.finish() == {"train": 30, "eval": 30}
    for split in SPLITS:
        arrays = empty_arrays(columns, 30)
        appendix = preparer.fill(split, arrays)
        expected_arrays, expected_appendix = in_order[split]
        for key, values in arrays.items():
            np.testing.assert_array_equal(values, expected_arrays[key])
        assert appendix.variable == expected_appendix.variable


def test_arrays_of_the_wrong_shape_or_dtype_are_refused() -> None:
    table = pa.table({"f": [1.0, 2.0]})
    columns = columns_of(table)
    preparer = ChunkPreparer(columns)
    preparer.start(CHUNK, {"train": 2})
    preparer.add(table.to_batches()[0], np.zeros(2, np.int8))
    preparer.finish()
    for wrong in (np.zeros((3, 1), np.float32), np.zeros((2, 1)), np.zeros(2, np.float32)):
        with pytest.raises(ValueError, match="was given for float32"):
            preparer.fill("train", {(Role.FEATURES, "features"): wrong})


def test_sliced_batches_with_odd_offsets_keep_their_values_and_nulls() -> None:
    values = [None if i % 5 == 0 else i % 2 == 0 for i in range(100)]
    table = pa.table(
        {"f": pa.array(values), "y": pa.array([i if v else None for i, v in enumerate(values)])}
    )
    sliced = table.slice(13, 61)
    columns = columns_of(sliced, labels=["y"])
    preparer = ChunkPreparer(columns)
    preparer.start(CHUNK, {"train": 61})
    preparer.add(table.to_batches()[0].slice(13, 61), np.zeros(61, np.int8))
    preparer.finish()
    arrays = empty_arrays(columns, 61)
    appendix = preparer.fill("train", arrays)
    order = permutation(CHUNK, "train", 61).tolist()
    expected = [values[13 + i] for i in order]
    found = [None if np.isnan(v) else bool(v) for v in arrays[Role.FEATURES, "features"][:, 0]]
    assert found == expected
    assert appendix.valid[Role.LABEL, "y"].tolist() == [int(bool(value)) for value in expected]


GOLDEN_ORDER = [6, 0, 7, 2, 3, 4, 1, 5]
