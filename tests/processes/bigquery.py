"""A local BigQuery for each test: its tables, and daemons that read them."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery

from faucet_client import DatasetSpec, FaucetClient
from faucet_client.dataset import Dataset
from faucet_client.errors import FaucetError
from faucet_client.feed import PREFETCH_GRANTS, Feed, Patience
from faucet_client.spec import Split
from faucet_client.wire.values import ReaderRequest, Told
from tests.bigquery_server.local import LocalBigQuery
from tests.bigquery_server.settings import Settings
from tests.processes.daemons import StartDaemon, WatchedDaemon
from tests.processes.rows import Ids, feature, feature_names, label
from tests.processes.specs import read_spec
from tests.processes.waiting import eventually_gone

PROJECT = "project"

GRANT_S = 30.0


@dataclass(frozen=True)
class Table:
    """A table of rows as rows.py has them, its columns in another order than they are asked for."""

    name: str
    rows: int
    features: int
    chunk_rows: int

    def fields(self, **changes: Any) -> dict[str, Any]:
        """The fields of its `DatasetSpec`, as specs.py reads them; `bigquery` adds to the source's.

        A source with a query has no table.
        """
        source = {"table": self.name} | changes.pop("bigquery", {})
        if "query" in source:
            del source["table"]
        return {
            "bigquery": source,
            "features": feature_names(self.features),
            "labels": ["y"],
            "passthrough": ["id"],
            "chunk_rows": self.chunk_rows,
        } | changes

    def spec(self, **changes: Any) -> DatasetSpec:
        """Its `DatasetSpec`."""
        return read_spec(self.fields(**changes))


class Warehouse:
    """The server, as one test has it to itself.

    Attributes:
        server: The process, without faults and with its usual settings at first.
        dataset: "project.dataset" for this test's tables.
    """

    def __init__(self, server: LocalBigQuery, start_daemon: StartDaemon) -> None:
        self.server = server
        self.dataset = f"{PROJECT}.test_{uuid.uuid4().hex[:8]}"
        self._start_daemon = start_daemon
        self._tables = 0

    def load(
        self, rows: int = 40_000, features: int = 4, chunk_rows: int = 2_000, **options: Any
    ) -> Table:
        """Makes a table; options are those of `write`."""
        self._tables += 1
        table = Table(f"{self.dataset}.rows{self._tables}", rows, features, chunk_rows)
        self.write(table, **options)
        return table

    def write(
        self, table: Table, first: int = 0, more: Any = None, floats: bool = True, **options: Any
    ) -> int:
        """Gives a table other rows.

        Args:
            table: Which, and how many rows.
            first: Their first id.
            more: Further columns, by name.
            floats: Whether half of the columns are FLOAT64, and not all INT64.
            options: Of `LocalBigQuery.load`.

        Returns:
            The moment from which they hold, in milliseconds since 1970.
        """
        ids = np.arange(first, first + table.rows)
        made = make_rows(ids, table.features, more, np.float64 if floats else np.int64)
        return self.server.load(table.name, made, **options)

    def start_daemon(
        self, memory_budget: str = "64MiB", workers: int = 2, **settings: str
    ) -> WatchedDaemon:
        """A daemon that reads from here; settings of `[bigquery]` without that prefix."""
        return self._start_daemon(memory_budget, workers, **reaching(self.server, **settings))

    def reverse(self, table: str) -> None:
        """Has the server store, and so send, the rows of a table in the opposite order."""
        options = ClientOptions(api_endpoint=self.server.rest)
        config = bigquery.QueryJobConfig(destination=table, write_disposition="WRITE_TRUNCATE")
        with contextlib.closing(
            bigquery.Client(PROJECT, AnonymousCredentials(), client_options=options)
        ) as client:
            client.query(f"SELECT * FROM `{table}` ORDER BY id DESC", config).result()

    def calls(self, method: str) -> int:
        """How often a method was called."""
        return int(self.server.stats()["calls"].get(method, 0))

    def sessions(self) -> list[dict[str, Any]]:
        """The read sessions that were made."""
        found: list[dict[str, Any]] = self.server.stats()["sessions"]
        return found

    def injected(self) -> dict[str, int]:
        """How many faults of each kind have fired."""
        found: dict[str, int] = self.server.stats()["injected"]
        return found

    def count_queries(self) -> int:
        """How many queries were run, dry runs apart."""
        return sum(not job["dry"] for job in self.server.stats()["jobs"])


def reaching(server: LocalBigQuery, **settings: str) -> dict[str, str]:
    """A daemon's settings to read from a server; further ones of `[bigquery]`, without prefix."""
    reach = {
        "project": PROJECT,
        "credentials": "anonymous",
        "api_endpoint": server.rest,
        "storage_endpoint": server.grpc,
        "storage_insecure": "true",
    }
    return {f"bigquery_{name}": value for name, value in (reach | settings).items()}


def make_rows(
    ids: Ids, features: int, more: Any = None, kind: type[np.generic] = np.float64
) -> pa.Table:
    """The rows of these ids, the last column first; integers, and every other column of `kind`."""
    columns: dict[str, Any] = dict(more or {})
    columns["y"] = label(ids).astype(kind)
    for number, name in reversed(list(enumerate(feature_names(features)))):
        columns[name] = feature(ids, number).astype(kind if number % 2 else np.int64)
    columns["id"] = ids
    return pa.table(columns)


def lend(server: LocalBigQuery) -> Iterator[LocalBigQuery]:
    """The server for one test: as it was started before, and without open calls after."""
    server.faults()
    server.configure(**asdict(Settings()))
    server.stats(clear=True)
    yield server
    server.faults()  # what stalls, ends
    eventually_gone(lambda: server.stats()["open_read_rows"])


def read_chunks(
    client: FaucetClient,
    dataset: Dataset,
    split: Split = "train",
    *,
    epochs: int = 1,
    chunks: int | None = None,
    shuffle: str = "batches",
) -> Sequence[dict[int, Ids]]:
    """By epoch: the ids of the rows of each chunk, in their order. Every value is checked.

    With `chunks` no more than so many are read.
    """
    request = ReaderRequest(
        dataset_key=dataset.info.key,
        split=split,
        job=uuid.uuid4().hex,
        rank=0,
        worker=0,
        first_epoch=0,
        epochs=epochs,
        part=0,
        parts=1,
        stripe_rows=1,
        shuffle=shuffle,
        seed=0,
        credits=PREFETCH_GRANTS,
    )
    feed = Feed(client.session(), request, Patience(client.session, 0.0))
    try:
        left = feed.wait_started().rows_per_epoch * epochs
        found: list[dict[int, Ids]] = [{} for _ in range(epochs)]
        rows = 0
        while left > 0 and (chunks is None or sum(map(len, found)) < chunks):
            run = feed.ready.get(timeout=GRANT_S)
            if isinstance(run, FaucetError):
                raise run
            ids: Ids = run.columns.tensor("id").numpy().copy()
            assert len(ids) == run.rows
            values = run.columns.features.numpy()
            for number in range(values.shape[1]):
                assert np.array_equal(values[:, number], feature(ids, number)), run.chunk
            assert np.array_equal(run.columns.labels["y"].numpy()[:, 0], label(ids)), run.chunk
            assert run.chunk not in found[run.epoch]
            found[run.epoch][run.chunk] = ids
            rows += run.rows
            left -= run.rows
            del values, run
            feed.stream.credit(Told(rows, 0.0, 0.0))
    finally:
        feed.stream.close()
    return found


def same_chunks(ours: dict[int, Ids], theirs: dict[int, Ids]) -> bool:
    """Whether the chunks that both have are the same rows in the same order."""
    return all(np.array_equal(ours[chunk], theirs[chunk]) for chunk in ours.keys() & theirs.keys())


def ids_in(chunks: dict[int, Ids]) -> Ids:
    """All ids of an epoch."""
    return np.concatenate(list(chunks.values()))
