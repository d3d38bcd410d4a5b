"""Features as a spec makes them: by whichever way, the bytes are those of encoder and module."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray

from faucet_client.preprocessing import (
    Binary,
    Categorical,
    Continuous,
    Feature,
    Hashed,
    Policy,
    PreprocessingSpec,
    Quantile,
    encode,
)
from faucet_client.preprocessing.transforms import Transform
from faucetd.prepare.columns import SourceColumn
from faucetd.prepare.counts import ColumnCounts, Tally
from faucetd.prepare.fitted import FittedFeatures
from faucetd.prepare.raw import raw_column

EXTREMES = [0.0, -0.0, 5e-324, -1e-45, 1e38, -3.4028235e38, 3.5e38, 1e300, -1.7e308]
NOT_FINITE = [float("nan"), float("inf"), float("-inf")]
INTEGERS = [0, 1, -1, 2**53 + 1, 2**63 - 1, -(2**63)]


def made(
    table: pa.Table, spec: PreprocessingSpec, batch_rows: int = 10**9
) -> tuple[dict[str, NDArray[Any]], dict[str, ColumnCounts]]:
    """The matrix and ids as the daemon makes them, and what it counted."""
    columns = [SourceColumn(field.name, field.name, field.type) for field in table.schema]
    rows = table.num_rows
    matrix = np.full((rows, spec.width), 7, np.float32)
    ids = {name: np.full(rows, 7, np.int64) for name in spec.id_names}
    fitted, tally, start = FittedFeatures(columns, spec), Tally(), 0
    for batch in table.combine_chunks().to_batches(max_chunksize=batch_rows):
        stop = start + batch.num_rows
        of_batch = {name: each[start:stop] for name, each in ids.items()}
        fitted.apply(batch, matrix[start:stop], of_batch, {}, tally)
        start = stop
    return {"matrix": matrix} | ids, tally.result()


def served(table: pa.Table, spec: PreprocessingSpec) -> dict[str, NDArray[Any]]:
    """The same as a model server makes them."""
    columns = {name: raw_column(name, table[name].combine_chunks()) for name in table.column_names}
    encoded = encode(spec, columns)
    matrix = spec.preprocessor()(
        torch.from_numpy(encoded.values), torch.from_numpy(encoded.presence)
    )
    return {"matrix": matrix.numpy()} | encoded.ids


def assert_same_bytes(found: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]]) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():  # also the sign of a zero
        assert found[name].tobytes() == values.tobytes(), name


def numbers(rows: int, dtype: str, seed: int, odd: list[Any]) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        values = (rng.normal(0, 1, rows) * 10.0 ** rng.integers(-40, 39, rows)).astype(dtype)
    else:
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        values = rng.integers(least, most, rows, dtype, endpoint=True)
    places = rng.integers(0, rows, len(odd))
    values[places] = np.array(odd).astype(dtype)
    return values


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("odd", [[], EXTREMES, EXTREMES + NOT_FINITE], ids=["plain", "far", "nan"])
@pytest.mark.parametrize("nulls", [False, True])
@pytest.mark.parametrize(("rows", "batch_rows"), [(40_001, 17_000), (3, 2)])
def test_numbers_have_the_bytes_that_the_module_gives(
    rows: int, batch_rows: int, nulls: bool, odd: list[float]
) -> None:
    columns: dict[str, Any] = {}
    transforms: dict[str, Transform] = {}
    for number, dtype in enumerate(["float32", "float64", "float16", "int64", "int8", "uint64"]):
        of_dtype = odd if np.dtype(dtype).kind == "f" else []
        values = numbers(rows, dtype, number, of_dtype)
        mask = np.arange(rows) % 3 == number % 3 if nulls else None
        columns[dtype] = pa.array(values, mask=mask, from_pandas=False)
        transforms[dtype] = Continuous(float(number) - 2.0, 10.0 ** (number - 3))
        columns[f"{dtype}?"] = columns[dtype]
        transforms[f"{dtype}?"] = Binary() if number % 2 else Quantile((-1.0, 0.0, 3.0))
    spec = PreprocessingSpec([Feature(name, each) for name, each in transforms.items()])
    table = pa.table(columns)
    assert_same_bytes(made(table, spec, batch_rows)[0], served(table, spec))


@pytest.mark.parametrize("nulls", [False, True])
@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8", "uint32", "uint64"])
@pytest.mark.parametrize("buckets", [1, 1_000, 2**20, 2**31 - 1])
def test_whole_numbers_have_the_ids_that_the_encoder_gives(
    buckets: int, dtype: str, nulls: bool
) -> None:
    rows = 70_000
    values = numbers(rows, dtype, buckets, INTEGERS if dtype == "int64" else [])
    if dtype == "uint64":
        values >>= np.uint64(1)
    mask = np.arange(rows) % 5 == 1 if nulls else None
    table = pa.table({"x": pa.array(values, mask=mask)})
    spec = PreprocessingSpec([Feature("x", Hashed(buckets))])
    found, counts = made(table, spec, 50_000)
    expected = np.array([1 + _hash(int(value)) % buckets for value in values[:99]])
    if mask is not None:
        expected[mask[:99]] = 0
    assert found["x"][:99].tolist() == expected.tolist()
    assert_same_bytes(found, served(table, spec))
    assert counts == {}


def _hash(value: int) -> int:
    mask = 2**64 - 1
    z = (value + 0x9E3779B97F4A7C15) & mask
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    return z ^ z >> 31


def test_what_stands_beside_them_finds_its_place_in_the_matrix() -> None:
    rows = 20_000
    table = pa.table({name: pa.array(numbers(rows, "int16", 1, [])) for name in "abcdefg"})
    spec = PreprocessingSpec(
        [
            Feature("a", Continuous(1.0, 2.0)),
            Feature("b", Continuous(3.0, 4.0)),
            Feature("c", Binary()),
            Feature("d", Hashed(9), policy=Policy(missing_flag=True)),
            Feature("e", Categorical((3, 4, 5), one_hot=True)),
            Feature("f", Categorical((3, 4, 5))),
            Feature("g", Hashed(11)),
        ]
    )
    found, counts = made(table, spec)
    assert_same_bytes(found, served(table, spec))
    assert set(counts) == {"e", "f"}


@pytest.mark.parametrize("policy", [Policy(missing_flag=True), Policy(impute=2.0)])
def test_a_policy_on_one_of_them_is_kept(policy: Policy) -> None:
    values = numbers(20_000, "float32", 5, NOT_FINITE)
    table = pa.table({"a": pa.array(values, from_pandas=False), "b": pa.array(values[::-1].copy())})
    spec = PreprocessingSpec(
        [Feature("a", Continuous(1.0, 2.0)), Feature("b", Continuous(1.0, 3.0), policy=policy)]
    )
    assert_same_bytes(made(table, spec)[0], served(table, spec))


def test_what_is_not_finite_is_counted_unless_it_is_null() -> None:
    values = np.array([1.0, *NOT_FINITE, 3e38, *NOT_FINITE], np.float32)
    mask = np.arange(len(values)) >= 6
    table = pa.table({"x": pa.array(values, mask=mask, from_pandas=False)})
    spec = PreprocessingSpec([Feature("x", Continuous(0.0, 1e-3))])
    found, counts = made(table, spec)
    assert counts == {"x": ColumnCounts(not_finite=4)}
    assert found["matrix"].ravel().tolist() == [1e3, 0, 0, 0, np.finfo(np.float32).max, 0, 0, 0]
    assert_same_bytes(found, served(table, spec))
