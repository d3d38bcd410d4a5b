"""Fitting by queries: what they count is what is counted of the same rows by reading them.

The local server's engine runs the statements, in this process.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pytest

from faucet_client.preprocessing import FitOptions
from faucet_client.preprocessing.spec import PreprocessingSpec
from faucet_client.spec import SplitBuckets
from faucetd.fetch.bigquery import sql, statistics_sql
from faucetd.fetch.statistics_sql import Rows, Value
from faucetd.worker.by_query import QueryFit
from tests.bigquery_server.catalog import Catalog, Dataset, TableRef
from tests.bigquery_server.engine import Engine, Interrupt, Query
from tests.bigquery_server.faults import FaultBook
from tests.bigquery_server.schema import as_bigquery
from tests.pure.fits import OPTIONS, SPLIT, assert_alike, by_reading, features_of, table

TABLE = sql.TableName("project", "dataset", "rows")


class Local:
    """The engine of a fit, over rows of its own."""

    words = statistics_sql.WORDS

    def __init__(self, rows: pa.Table, split: SplitBuckets | None = None) -> None:
        catalog = Catalog()
        catalog.add_dataset(Dataset(TABLE.project, TABLE.dataset, "US", 0))
        catalog.load(TableRef(*TABLE), as_bigquery(rows), "TABLE", "US")
        self._engine = Engine(catalog, FaultBook())
        self.statements: list[str] = []
        self.rows: Rows = statistics_sql.train_rows(
            sql.rows_of(TABLE),
            "",
            split or SPLIT,
            None if split is None else "id",
            kind="INT64",
        )

    def column(self, path: str) -> str:
        return sql.path(path, sql.ROWS)

    def sample(self, values: Sequence[Value], share: float) -> str:
        return statistics_sql.sample(self.rows, values, share)

    def run(self, statement: str) -> pa.Table:
        self.statements.append(statement)
        query = Query(statement, TABLE.project)
        return self._engine.answer(query, self._engine.translate(query), Interrupt())


def by_query(
    rows: pa.Table, options: FitOptions | None = None, split: SplitBuckets | None = None
) -> PreprocessingSpec:
    rows = as_bigquery(rows)
    engine = Local(rows, split)
    return QueryFit(features_of(rows), options or FitOptions(), engine).spec()


@pytest.mark.parametrize("split", [None, SPLIT], ids=["all", "split"])
def test_queries_find_what_reading_all_rows_finds(split: SplitBuckets | None) -> None:
    rows = table()
    found, expected = by_query(rows, OPTIONS, split), by_reading(as_bigquery(rows), OPTIONS, split)
    assert [f.name for f in found.features] == [f.name for f in expected.features]
    for one, other in zip(found.features, expected.features, strict=True):
        assert_alike(one, other)
