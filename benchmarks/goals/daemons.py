"""Daemons and tables for the goals' measurements, and what the daemons have used."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.suite import processes
from faucet_client import DatasetSpec, ParquetSource
from faucet_client.dataset import FaucetClient
from faucet_client.errors import DatasetInUse
from faucet_client.testing import LocalDaemon

FEATURES = 40
CHUNK_ROWS = 384 * 1_024
"""About 64 MiB prepared, which is what large tables have by default."""


@dataclass(frozen=True)
class Measured:
    """A daemon that is measured from outside.

    Attributes:
        daemon: The daemon.
        client: A client of it.
        mark: Which tells its processes.
    """

    daemon: LocalDaemon
    client: FaucetClient
    mark: str

    def cpu_s(self) -> float:
        """Processor time that its processes have used."""
        return processes.usage(self.mark).cpu_s

    def memory_bytes(self) -> int:
        """Memory that its processes hold, shared segments included."""
        return processes.memory(self.mark).total

    def drop(self, key: str) -> None:
        """Drops a dataset, once the last lease on it has come back."""
        while True:
            try:
                self.client.session().channel.drop(key)
            except DatasetInUse:
                time.sleep(0.01)
            else:
                return


def exhaust(batches: Iterable[object]) -> None:
    """Takes all and keeps none: a loop's variable would keep the last one's lease."""
    deque(batches, maxlen=0)


@contextmanager
def measured_daemon(
    folder: Path, *, memory_budget: str = "2GiB", workers: int = 2
) -> Iterator[Measured]:
    """A daemon that has started, workers included."""
    mark = uuid.uuid4().hex
    with mock.patch.dict("os.environ", {processes.MARK: mark}):
        daemon = LocalDaemon([folder], memory_budget=memory_budget, workers=workers)
    with daemon:
        client = daemon.client()
        while any(worker.state == "starting" for worker in client.status().workers):
            time.sleep(0.02)
        yield Measured(daemon, client, mark)


def write_rows(
    path: Path, rows: int, features: int = FEATURES, *, group_rows: int = 65_536
) -> None:
    """So many float32 columns, a label and a key; in row groups of so many rows."""
    random = np.random.default_rng(0)
    columns: dict[str, pa.Array[Any]] = {"key": pa.array(np.arange(rows))}
    for number in range(features):
        columns[f"f{number}"] = pa.array(random.random(rows, np.float32))
    columns["y"] = pa.array(random.integers(0, 2, rows).astype(np.float32))
    pq.write_table(pa.table(columns), path, row_group_size=group_rows, use_dictionary=False)


def rows_spec(
    path: Path, features: int = FEATURES, *, chunk_rows: int | None = None, eval_percent: float = 0
) -> DatasetSpec:
    """Such a table's dataset, taken as it is."""
    return DatasetSpec(
        ParquetSource(str(path)),
        features=[f"f{number}" for number in range(features)],
        labels=["y"],
        hash_column="key" if eval_percent else None,
        eval_percent=eval_percent,
        preprocessing="none",
        chunk_rows=chunk_rows,
    )
