"""Columns of lists in chunks: each row's ids and vectors in its permuted place, and counted."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from faucet_client.layout import Role
from faucet_client.preprocessing import (
    Categorical,
    Feature,
    Hashed,
    PreprocessingSpec,
    Vector,
    encode,
)
from faucet_client.spec import DatasetSpec, ParquetSource
from faucetd.prepare.chunk import ChunkPreparer
from faucetd.prepare.columns import PreparedColumns, resolve
from faucetd.prepare.counts import ColumnCounts
from tests.pure.test_prepare_chunk import CHUNK, empty_arrays, prepared

VECTORS = pa.array([[1.5, None], None, [float("inf"), -2.0]], pa.list_(pa.float32(), 2))


def columns_of(table: pa.Table, spec: PreprocessingSpec, **more: Any) -> PreparedColumns:
    wanted = DatasetSpec(
        ParquetSource("/t.parquet"), features=spec.feature_names, preprocessing=spec, **more
    )
    return resolve(wanted, [(f.name, f.type) for f in table.schema]).with_spec(spec)


@given(
    codes=st.lists(st.integers(-1, 1), min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=4),
)
def test_lists_of_ids_come_in_their_rows_permuted_places(codes: list[int], cuts: list[int]) -> None:
    ids: Any = np.arange(len(codes))
    lists = [None if i % 5 == 0 else [i, None, i % 3][: i % 4] for i in ids.tolist()]
    table = pa.table(
        {
            "id": ids,
            "x": pa.array(lists, pa.list_(pa.int64())),
            "v": VECTORS.take(ids % 3),
        }
    )
    spec = PreprocessingSpec([Feature("x", Hashed(11), ragged=True), Feature("v", Vector(2))])
    columns = columns_of(table, spec, passthrough=["id"])
    split_codes = np.array(codes, np.int8)
    made = prepared(ChunkPreparer(columns), columns, table, split_codes, cuts)
    for arrays, appendix in made.values():
        order = arrays[Role.PASSTHROUGH, "id"].tolist()
        expected = encode(spec, {"x": [lists[i] for i in order], "v": [[0.0] * 2] * len(order)})
        found = appendix.variable[Role.RAGGED, "x"]
        values, offsets = expected.ragged["x"]
        bounds = pairwise(offsets.tolist())
        assert found.to_pylist() == [values[a:b].tolist() for a, b in bounds]
        matrix = [[[1.5, 0], [0, 0], [0, -2]][i % 3] for i in order]
        assert arrays[Role.FEATURES, "features"].tolist() == matrix


def test_lists_of_several_pieces_stand_in_the_order_of_the_pieces() -> None:
    table = pa.table({"id": np.arange(6), "x": [["a"], ["b", "a"], [], ["c"], ["a", "a"], ["b"]]})
    spec = PreprocessingSpec([Feature("x", Categorical(("a", "b", "c")), ragged=True)])
    columns = columns_of(table, spec, passthrough=["id"])
    whole = table.to_batches()[0]
    found = []
    for pieces in ((0, 1, 0, 1), (1, 0, 0, 1)):
        preparer = ChunkPreparer(columns)
        preparer.start(CHUNK, None, [5, 4])  # more than there will be
        places = {0: [0, 1, 2], 1: [3, 4, 5]}
        for piece in pieces:
            rows, places[piece] = places[piece][:2], places[piece][2:]
            preparer.add(whole.take(pa.array(rows)), np.zeros(len(rows), np.int8), piece)
        assert preparer.finish() == {"train": 6, "eval": 0}
        arrays = empty_arrays(columns, 6)
        lists = preparer.fill("train", arrays).variable[Role.RAGGED, "x"]
        order = arrays[Role.PASSTHROUGH, "id"].tolist()
        found.append(dict(zip(order, lists.to_pylist(), strict=True)))
    assert found[0] == found[1] == {0: [2], 1: [3, 2], 2: [], 3: [4], 4: [2, 2], 5: [3]}
    assert list(found[0]) == list(found[1])


def test_what_lists_lack_is_counted_by_their_column() -> None:
    table = pa.table(
        {
            "x": pa.array([["a", None, "z"], None, []], pa.list_(pa.string())),
            "v": pa.array([[1.0, None], None, [float("nan"), 2.0]], pa.list_(pa.float64())),
        }
    )
    spec = PreprocessingSpec(
        [Feature("x", Categorical(("a",)), ragged=True), Feature("v", Vector(2))]
    )
    columns = columns_of(table, spec)
    preparer = ChunkPreparer(columns)
    prepared(preparer, columns, table)
    assert preparer.counts() == {
        "x": ColumnCounts(nulls=2, unseen=1),  # a list, and an element
        "v": ColumnCounts(nulls=1, not_finite=2),
    }
