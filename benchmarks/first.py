"""The time from `open()` to the first batch of a cold dataset, and the parts of it.

The limit is the time to read the bytes of the first chunk, by the same reader, and to do nothing
with them. Everything is cold but the processes: each time another dataset is opened (of a new
snapshot, or after the one before was dropped) whose chunks nobody has read. No preprocessing is
fitted, and nothing is hashed: rows are counted from the table's own figures.

What the parts are: **opening** is the RPC, without what the worker does; **planning** is the
worker's part of it; **starting** is the reader's stream until a worker has a chunk to load;
**fetching**, **preparing** and **publishing** are the worker's stages of that chunk; **handing** is
from there to the batch in the trainer: the grant, the descriptor, the map. They are taken from the
daemon's log at level "debug".
"""

from __future__ import annotations

import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import click
import psutil

from benchmarks import bigquery
from benchmarks.bigquery import BareClient
from benchmarks.feeding import write_table
from faucet_client import BigQuerySource, DatasetSpec, ParquetSource
from faucet_client.dataset import FaucetClient
from faucet_client.errors import DatasetInUse
from faucet_client.testing import LocalDaemon
from faucetd.fetch.parquet import ParquetTable
from faucetd.fetch.pieces import Piece
from tests.bigquery_server.local import LocalBigQuery

PARTS = ("opening", "planning", "starting", "fetching", "preparing", "publishing", "handing")
BATCH_ROWS = 1_024
STREAMS = 4
GROUP_ROWS = 122_880
"""Rows of a row group, as DuckDB writes them. A column of a row group can only be decoded from its
start: a chunk from the midst of a larger one takes longer than its own rows."""

_STAMP = r"(?P<at>[-\d]+ [\d:,]+) faucetd DEBUG: "
_WORKER = re.compile(_STAMP + r"worker (?P<pid>\d+) (?P<what>begins|ends) (?P<task>\w+)")
_CHUNK = re.compile(
    _STAMP + r"chunk \d+ of (?P<key>\w+) is loaded: (?P<rows>\d+) rows, fetch (?P<fetch>[\d.]+) s, "
    r"prepare (?P<prepare>[\d.]+) s, publish (?P<publish>[\d.]+) s"
)


@dataclass(frozen=True)
class First:
    """One first batch.

    Attributes:
        seconds: From `open()` to the batch's tensors.
        parts: How long each of `PARTS` took.
        chunk_rows: Rows of the chunk that it is of.
    """

    seconds: float
    parts: dict[str, float]
    chunk_rows: int


def _log_of(daemon: LocalDaemon, since: int) -> list[str]:
    return daemon.log[since:].splitlines()


def _at(match: re.Match[str]) -> float:
    return datetime.strptime(match["at"], "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp()


def first_batch(daemon: LocalDaemon, client: FaucetClient, spec: DatasetSpec) -> First:
    """Opens a dataset, takes its first batch, and drops it again."""
    logged = len(daemon.log)
    asked = time.time()
    dataset = client.open(spec)
    opened = time.time()
    batches = dataset.batches("train", batch_size=BATCH_ROWS)
    batch = next(batches)
    assert len(batch.features)
    had = time.time()
    del batch, batches
    lines = _log_of(daemon, logged)
    _drop(client, dataset.info.key)
    _wait_idle(client)
    begun: dict[str, list[float]] = {}
    ended: dict[str, list[float]] = {}
    for match in filter(None, map(_WORKER.match, lines)):
        times = begun if match["what"] == "begins" else ended
        times.setdefault(match["task"], []).append(_at(match))
    chunks = filter(None, map(_CHUNK.match, lines))
    loaded = next(chunk for chunk in chunks if chunk["key"] == dataset.info.key)
    planning = ended["opening"][0] - begun["opening"][0]
    stages = [float(loaded[stage]) for stage in ("fetch", "prepare", "publish")]
    done = _at(loaded)
    return First(
        had - asked,
        dict(
            zip(
                PARTS,
                (
                    opened - asked - planning,
                    planning,
                    done - sum(stages) - opened,
                    *stages,
                    had - done,
                ),
                strict=True,
            )
        ),
        int(loaded["rows"]),
    )


def _drop(client: FaucetClient, key: str) -> None:
    while True:
        try:
            client.session().channel.drop(key)
        except DatasetInUse:
            time.sleep(0.01)
        else:
            return


def _wait_idle(client: FaucetClient) -> None:
    """Waits until no worker starts or is busy with what nobody wants any more."""
    while any(worker.state != "idle" for worker in client.status().workers):
        time.sleep(0.02)


def read_parquet(path: Path, rows: int) -> float:
    """Seconds to read and decode the first rows of a file, as a worker does."""
    began = time.perf_counter()
    table = ParquetTable(str(path))
    columns = [column.name for column in table.columns()]
    for _ in table.read(Piece(table.streams()[0].id, 0, rows), columns):
        pass
    table.close()
    return time.perf_counter() - began


def read_bigquery(bare: BareClient, rows: int) -> float:
    """Seconds to receive and decode so many rows of a new session, over all of its streams."""
    began = time.perf_counter()
    session = bare.session(STREAMS)
    bare.decode(session, rows // STREAMS)
    return time.perf_counter() - began


@contextmanager
def _parquet(rows: int) -> Iterator[tuple[LocalDaemon, DatasetSpec, Callable[[int], float]]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        write_table(path, rows, GROUP_ROWS)
        spec = DatasetSpec(
            ParquetSource(str(path)),
            features=[f"f{n}" for n in range(bigquery.FEATURES)],
            labels=["y"],
            preprocessing="none",
        )
        with LocalDaemon([folder], memory_budget="1GiB", settings={"log_level": "debug"}) as daemon:
            yield daemon, spec, lambda chunk_rows: read_parquet(path, chunk_rows)


@contextmanager
def _bigquery(rows: int) -> Iterator[tuple[LocalDaemon, DatasetSpec, Callable[[int], float]]]:
    with ExitStack() as stack:
        server = stack.enter_context(LocalBigQuery(message_rows=bigquery.USUAL_ROWS))
        server.load(bigquery.TABLE, bigquery.make_rows(rows))
        bare = BareClient(server)
        stack.callback(bare.close)
        settings = bigquery.settings_for(server, STREAMS) | {"log_level": "debug"}
        daemon = stack.enter_context(
            LocalDaemon(memory_budget="1GiB", workers=1, settings=settings)
        )
        spec = DatasetSpec(
            BigQuerySource(table=bigquery.TABLE, snapshot="new"),
            features=[f"f{n}" for n in range(bigquery.FEATURES)],
            labels=["y"],
            preprocessing="none",
        )
        yield daemon, spec, lambda chunk_rows: read_bigquery(bare, chunk_rows)


def run(rows: int, repeats: int) -> None:
    """Prints the parts, and the whole against reading the chunk alone."""
    click.echo(
        f"{rows:,} rows x {bigquery.FEATURES} features, {repeats} cold datasets each, "
        f"{psutil.cpu_count()} cores"
    )
    click.echo(
        "           chunk    ms, median: " + "  ".join(PARTS) + "  | in all  chunk read | ratio"
    )
    for name, source in (("Parquet", _parquet), ("BigQuery", _bigquery)):
        with source(rows) as (daemon, spec, read_alone):
            client = daemon.client()
            _wait_idle(client)
            very_first = first_batch(daemon, client, spec)
            firsts, alone = [], []
            for _ in range(repeats):
                firsts.append(first_batch(daemon, client, spec))
                alone.append(read_alone(firsts[-1].chunk_rows))
        _print(name, firsts, alone)
        click.echo(
            f"{'':<9} the first dataset since the daemon's start: {very_first.seconds * 1e3:,.0f} "
            "ms; " + ", ".join(f"{part} {very_first.parts[part] * 1e3:,.0f}" for part in PARTS)
        )


def _print(name: str, firsts: list[First], alone: list[float]) -> None:
    parts = [statistics.median(first.parts[part] for first in firsts) * 1e3 for part in PARTS]
    ratios = [first.seconds / read for first, read in zip(firsts, alone, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    widths = zip(parts, PARTS, strict=True)
    click.echo(
        f"{name:<9} {firsts[0].chunk_rows:>7,} rows          "
        + "  ".join(f"{ms:>{len(part)}.1f}" for ms, part in widths)
        + f"  | {statistics.median(first.seconds for first in firsts) * 1e3:>6.1f}"
        f"  {statistics.median(alone) * 1e3:>10.1f} | {middle:.2f} [{low:.2f}, {high:.2f}]"
    )
