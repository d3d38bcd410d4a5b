"""Tables of 2020's shape, and where they are: for the tests of `get_client`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from faucet_client import DuckDBSource, ParquetSource, _compat_reader, compat, get_client
from faucet_client.compat import DataReader
from tests.bigquery_server import LocalBigQuery
from tests.processes.daemons import StartDaemon, WatchedDaemon

EXAMPLES = Path(__file__).parents[2] / "examples"
TABLE = "my-project.my_dataset.rows"

Frames = dict[str, Any]
"""A batch: data frames, or tensors where it is preprocessed."""


class Warehouse(Protocol):
    """Where tables are, for `get_client` to read through a running daemon."""

    daemon: WatchedDaemon

    def load(self, name: str, table: pa.Table, ds: str | None = None) -> None:
        """Makes a table, or one that has its rows in the partition of that day."""
        ...


class Files:
    """Parquet files in BigQuery's place, and a DuckDB database for queries."""

    def __init__(self, daemon: WatchedDaemon, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.daemon = daemon
        self._folder = folder
        self._database = folder / "queries.duckdb"
        patch.setattr(compat, "_table", lambda name, _: ParquetSource(str(folder / name)))
        patch.setattr(_compat_reader, "_query", self._query)

    def load(self, name: str, table: pa.Table, ds: str | None = None) -> None:
        pq.write_table(table, self._folder / name)
        with duckdb.connect(str(self._database)) as database:
            database.register("rows", table)
            database.execute(f'CREATE OR REPLACE TABLE "{name}" AS FROM rows')

    def _query(self, sql: str) -> DuckDBSource:
        return DuckDBSource(str(self._database), query=sql.replace("`", '"'))


class BigQuery:
    """A local BigQuery, and the reader of BigQuery."""

    def __init__(self, daemon: WatchedDaemon, server: LocalBigQuery) -> None:
        self.daemon = daemon
        self._server = server

    def load(self, name: str, table: pa.Table, ds: str | None = None) -> None:
        if ds is None:
            self._server.load(name, table)
        else:
            other_day = {"2020-01-21": table.slice(0, 100)}
            self._server.load(name, partitions={ds: table} | other_day)


def start_reader(
    start_daemon: StartDaemon, server: LocalBigQuery, credentials: str
) -> WatchedDaemon:
    """A daemon that reads from a server."""
    return start_daemon(
        bigquery_credentials=credentials,
        bigquery_project="my-project",
        bigquery_api_endpoint=server.rest,
        bigquery_storage_endpoint=server.grpc,
        bigquery_storage_insecure="true",
    )


both = pytest.mark.parametrize("warehouse", ["files", "bigquery"], indirect=True)


def rows_table(rows: int, **features: Any) -> pa.Table:
    """A table of 2020's shape: `hash_on` and the feature `id` count, and so does the label `y`."""
    ids = np.arange(rows)
    columns = {"id": ids, "x": ids % 7} | features
    labels = {"y": ids, "z": ids % 2}
    return pa.table(
        {
            "hash_on": pa.array(ids),
            "features": pa.StructArray.from_arrays(
                [pa.array(column) for column in columns.values()], list(columns)
            ),
            "labels": pa.StructArray.from_arrays(
                [pa.array(column) for column in labels.values()], list(labels)
            ),
        }
    )


def open_rows(**changes: Any) -> DataReader:
    """`get_client` for the table that tests load."""
    return get_client(
        **{"datastore": "bigquery", "credential_path": None, "table_name": TABLE} | changes
    )


def rest_of(reader: DataReader) -> list[Frames]:
    """The batches that the pass still has."""
    return list(iter(reader.get_batch, None))
