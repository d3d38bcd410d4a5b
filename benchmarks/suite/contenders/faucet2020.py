"""FaucetML 0.0.3, of 2020, reading a local BigQuery by REST as it read Google's.

The server is the one that this project's tests use; it runs in the project's own environment, and
its processor time is in the figures, as the warehouse's work cannot be told from the wire's. Keys
are among the features, since nothing else is handed on.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.suite.prepared import Rows, feature_names
from benchmarks.suite.task import Task

TABLE = "benchmark.training.rows"
CHUNK_ROWS = 2_048
"""So many rows of 100 columns come in one page, which BigQuery limits to 10 MB.

A page is a chunk to it, whatever rows are in it: with its default, 102,400 rows, it loses the rest.
"""


@contextmanager
def serve(task: Task) -> Iterator[dict[str, Any]]:
    """Runs a BigQuery with the table in it, features and labels as STRUCT columns."""
    from tests.bigquery_server.local import LocalBigQuery

    table = pa.concat_tables(
        [pq.read_table(path) for path in sorted(Path(task.table).glob("*.parquet"))]
    )
    names = [*feature_names(task.kind, task.width), "key"]
    with LocalBigQuery() as server, tempfile.TemporaryDirectory() as folder:
        server.load(
            TABLE,
            pa.table(
                {
                    "features": _struct(table, names),
                    "labels": _struct(table, ["y"]),
                    "hash_on": table.column("key"),
                }
            ),
        )
        key = Path(folder) / "key.json"
        server.key_file(key)
        yield {"rest": server.rest, "key": str(key)}


def _struct(table: pa.Table, names: list[str]) -> Any:
    columns = [_wide(table.column(name).combine_chunks()) for name in names]
    return pa.StructArray.from_arrays(columns, names=names)


def _wide(column: Any) -> Any:
    """BigQuery has no float32."""
    return column.cast(pa.float64()) if pa.types.is_float32(column.type) else column


class Reader2020:
    """One trainer's client."""

    def __init__(self, task: Task) -> None:
        logging.disable(logging.INFO)  # it logs a line a batch
        # It imports feast at its beginning and uses it with a feature store alone.
        sys.modules["feast"] = types.ModuleType("feast")
        from faucetml import data_reader

        data_reader.bigquery.Client = partial(
            data_reader.bigquery.Client, client_options={"api_endpoint": task.address["rest"]}
        )
        self._names = feature_names(task.kind, task.width)
        self._reader: Any = data_reader.get_client(
            datastore="bigquery",
            credential_path=task.address["key"],
            table_name=TABLE,
            epochs=task.warm_epochs + 2,
            batch_size=task.batch_size,
            chunk_size=max(CHUNK_ROWS // task.batch_size, 1) * task.batch_size,
            table_sample_percent=100,
            test_split_percent=0,
            skip_small_batches=False,
        )

    def epoch(self, _number: int) -> Iterator[Rows]:
        """The batches, data frames made into tensors."""
        self._reader.prep_for_epoch()
        while (batch := self._reader.get_batch()) is not None:
            features = batch["features"]
            yield Rows(
                torch.from_numpy(features[self._names].to_numpy(np.float32)),
                torch.from_numpy(batch["labels"].to_numpy(np.float32)),
                torch.from_numpy(features["key"].to_numpy(np.int64)),
            )

    def close(self) -> None:
        """Nothing to do."""


def open_reading(task: Task) -> Reader2020:
    """Connects to the warehouse."""
    return Reader2020(task)
