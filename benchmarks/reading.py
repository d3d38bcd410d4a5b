"""From BigQuery's wire to sealed segments, against the bare decode of the same messages.

Nobody can do with less than receiving the messages and decoding them, so that is the limit. Both
read a table of a local server, which speaks the real protocol, in sessions of their own and one
process: the bare decode in this one, all else in a daemon with one worker. Passes of the two
alternate. The server is a third process on the same machine, so absolute rates say little; the
ratio, and the processor time a megabyte, are the figures to look at.
"""

from __future__ import annotations

import statistics
import time
from typing import NamedTuple

import click
import numpy as np
import psutil
import pyarrow as pa

from faucet_client import BigQuerySource, DatasetSpec
from faucet_client.dataset import FaucetClient
from faucet_client.errors import DatasetInUse
from faucet_client.testing import LocalDaemon
from faucetd.fetch.bigquery.connection import Connection
from faucetd.fetch.bigquery.session import create_session
from faucetd.fetch.bigquery.settings import BigQuerySettings
from faucetd.fetch.bigquery.stream import ByteBudget, StreamReader
from faucetd.fetch.bigquery.table import BUFFER_BYTES
from tests.bigquery_server.local import LocalBigQuery

TABLE = "benchmark.training.rows"
STREAMS = 4
FEATURES = 40


class Pass(NamedTuple):
    """One pass over the table: its duration, and the processor time of the reading process."""

    seconds: float
    cpu_seconds: float


def make_rows(rows: int) -> pa.Table:
    """`rows` rows of 40 features, half FLOAT64 and half INT64, an INT64 key and a label."""
    generator = np.random.default_rng(0)
    columns: dict[str, object] = {"key": np.arange(rows), "y": generator.integers(0, 2, rows)}
    for n in range(FEATURES):
        whole = n % 2 == 0
        columns[f"f{n}"] = generator.integers(0, 1_000, rows) if whole else generator.random(rows)
    return pa.table(columns)


def decode(settings: BigQuerySettings, columns: list[str]) -> tuple[Pass, int]:
    """Receives and decodes every message of a new session; the pass, and its bytes."""
    connection = Connection(settings)
    session = create_session(
        connection, settings, table=TABLE, columns=columns, max_streams=STREAMS
    )
    budget = ByteBudget(BUFFER_BYTES)
    began, cpu_began = time.perf_counter(), time.process_time()
    readers = [
        StreamReader(connection, settings, session, name, 0, budget) for name in session.streams
    ]
    turns = list(readers)
    while turns:
        turns = [reader for reader in turns if reader.next() is not None]
    done = Pass(time.perf_counter() - began, time.process_time() - cpu_began)
    nbytes = sum(reader.stats.wire_bytes for reader in readers)
    for reader in readers:
        reader.close()
    connection.close()
    return done, nbytes


def prepare(client: FaucetClient, worker: psutil.Process, columns: list[str]) -> Pass:
    """Has the daemon read the table in a new session, until the last row stands in a segment."""
    dataset = client.open(
        DatasetSpec(
            BigQuerySource(table=TABLE, snapshot="new"),
            features=columns[2:],
            labels=["y"],
            hash_column="key",
            eval_percent=10,
            preprocessing="none",
        )
    )
    used = worker.cpu_times()
    began = time.perf_counter()
    for _ in dataset.batches("train", batch_size=65_536):
        pass
    seconds = time.perf_counter() - began
    now = worker.cpu_times()
    _drop(client, dataset.info.key)
    return Pass(seconds, now.user + now.system - used.user - used.system)


def _drop(client: FaucetClient, key: str) -> None:
    """Drops the dataset, once the last lease on it has come back."""
    while True:
        try:
            client.session().channel.drop(key)
        except DatasetInUse:
            time.sleep(0.01)
        else:
            return


def run(rows: int, repeats: int) -> None:
    """Prints both rates, their ratio, and the processor time a megabyte."""
    table = make_rows(rows)
    with LocalBigQuery() as server:
        server.load(TABLE, table)
        settings = BigQuerySettings(
            project="benchmark",
            credentials="anonymous",
            api_endpoint=server.rest,
            storage_endpoint=server.grpc,
            storage_insecure=True,
            max_streams=STREAMS,
        )
        environment = {
            "bigquery_project": "benchmark",
            "bigquery_credentials": "anonymous",
            "bigquery_api_endpoint": server.rest,
            "bigquery_storage_endpoint": server.grpc,
            "bigquery_storage_insecure": "true",
            "bigquery_max_streams": str(STREAMS),
        }
        columns = table.column_names
        with LocalDaemon(memory_budget="2GiB", workers=1, settings=environment) as daemon:
            client = daemon.client()
            worker = psutil.Process(client.status().workers[0].pid)
            decode(settings, columns)  # warms all three processes up
            prepare(client, worker, columns)
            bare: list[Pass] = []
            whole: list[Pass] = []
            for _ in range(repeats):
                done, nbytes = decode(settings, columns)
                bare.append(done)
                whole.append(prepare(client, worker, columns))
    mb = nbytes / 1e6
    click.echo(
        f"{rows:,} rows x {FEATURES} features over {STREAMS} streams: {mb:,.0f} MB on the wire, "
        f"{repeats} passes each, alternating"
    )
    click.echo("                               MB/s    processor ms a MB")
    for name, passes in (("bare decode", bare), ("to sealed segments", whole)):
        rate = statistics.median(mb / each.seconds for each in passes)
        cpu = statistics.median(each.cpu_seconds * 1e3 / mb for each in passes)
        click.echo(f"{name:<24} {rate:>10,.0f} {cpu:>14.2f}")
    ratios = [one.seconds / other.seconds for one, other in zip(bare, whole, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    click.echo(f"sealed / bare: median {middle:.2f} [quartiles {low:.2f}, {high:.2f}]")
