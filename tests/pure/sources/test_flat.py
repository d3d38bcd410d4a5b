"""Flat batches out of nested ones."""

from __future__ import annotations

import pyarrow as pa

from faucetd.fetch.flat import FlatSchema, batch_rows, project
from faucetd.fetch.source import BATCH_BYTES, BATCH_ROWS


def test_a_leaf_is_null_where_its_struct_is_whatever_lies_beneath() -> None:
    inner = pa.StructArray.from_arrays(
        [pa.array([1, 2, 3])], names=["x"], mask=pa.array([False, True, False])
    )
    outer = pa.StructArray.from_arrays([inner], names=["in"], mask=pa.array([True, False, False]))
    batch = pa.RecordBatch.from_arrays([outer], names=["s"])
    leaves = FlatSchema(batch.schema, "t").select(["s.in.x"])
    assert project(batch, leaves).to_pydict() == {"s.in.x": [None, None, 3]}


def test_batches_are_of_fewer_rows_the_wider_they_are() -> None:
    def rows(width: int, kind: pa.DataType) -> int:
        schema = pa.schema([(f"c{n}", kind) for n in range(width)])
        return batch_rows(FlatSchema(schema, "t").leaves)

    assert rows(1, pa.float64()) == rows(40, pa.float32()) == BATCH_ROWS
    assert rows(1_000, pa.float64()) == 4_096
    assert rows(1_000, pa.string()) == BATCH_BYTES // 32_000
    assert rows(1, pa.binary(2 * BATCH_BYTES)) == 1
    assert rows(0, pa.float64()) == BATCH_ROWS
