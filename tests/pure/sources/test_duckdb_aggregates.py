"""Fitting by queries of DuckDB: what they count is what is counted of the same rows by reading."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from faucet_client.spec import SplitBuckets
from faucetd.fetch.duckdb import DuckDBTable
from faucetd.fetch.duckdb_aggregates import DuckDBAggregates
from faucetd.fetch.split import Splitter
from faucetd.prepare.columns import SourceColumn
from faucetd.worker.by_query import QueryFit
from tests.pure.fits import OPTIONS, SPLIT, assert_alike, by_reading, table


@pytest.mark.parametrize("split", [None, SPLIT], ids=["all", "split"])
def test_queries_find_what_reading_all_rows_finds(
    tmp_path: Path, split: SplitBuckets | None
) -> None:
    path, rows = str(tmp_path / "t.duckdb"), table()
    with duckdb.connect(path) as connection:
        connection.register("given", rows)
        connection.execute("CREATE TABLE t AS SELECT * FROM given")
    source = DuckDBTable(path, table="t", scratch_dir=str(tmp_path / "scratch"))
    columns = {column.name: column for column in source.columns()}
    splitter = None if split is None else Splitter(columns["id"], split)
    features = [SourceColumn(c.name, c.name, c.type) for c in columns.values() if c.name != "id"]
    try:
        found = QueryFit(features, OPTIONS, DuckDBAggregates(source, splitter)).spec()
    finally:
        source.close()
    as_read = rows.cast(pa.schema([(column.name, column.type) for column in columns.values()]))
    expected = by_reading(as_read, OPTIONS, split)
    assert [f.name for f in found.features] == [f.name for f in expected.features]
    for one, other in zip(found.features, expected.features, strict=True):
        assert_alike(one, other)
