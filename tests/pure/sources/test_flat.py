"""Flat batches out of nested ones."""

from __future__ import annotations

import pyarrow as pa

from faucetd.fetch.flat import FlatSchema, Projection, batch_rows, project
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


def test_plain_columns_come_as_they_are_in_the_order_of_the_leaves() -> None:
    batch = pa.RecordBatch.from_pydict({"a": [1, 2], "b": [0.5, None], "c": ["x", "y"]})
    projection = Projection(FlatSchema(batch.schema, "t").select(["c", "a"]))
    for rows in (batch, batch.slice(1)):
        found = projection.apply(rows)
        assert found.to_pydict() == rows.select(["c", "a"]).to_pydict()
        theirs, ours = batch.column(0).buffers()[1], found.column(1).buffers()[1]
        assert ours is not None
        assert theirs is not None
        assert ours.address == theirs.address


def test_a_batch_of_another_schema_is_looked_at_anew() -> None:
    plain = pa.RecordBatch.from_pydict({"a": ["x", "y"], "b": [1, 2]})
    leaves = FlatSchema(plain.schema, "t").select(["a"])
    encoded = pa.RecordBatch.from_arrays(
        [pa.array([3, 4]), plain.column(0).dictionary_encode()], names=["b", "a"]
    )
    projection = Projection(leaves)
    for batch in (plain, encoded, plain):
        found = projection.apply(batch)
        assert found.schema.field("a").type == pa.string()
        assert found.to_pydict() == {"a": ["x", "y"]}
