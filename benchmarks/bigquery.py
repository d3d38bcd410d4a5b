"""From BigQuery's wire to sealed segments, against the bare decode of the same messages.

Nobody can do with less than receiving the messages and decoding them. So three readers take turns
at one table of a local server, which speaks the real protocol and sends from memory what it has
encoded before:

- **received**: gRPC alone, a thread a stream, the messages thrown away;
- **decoded**: the same, with protobuf's parser and Arrow's decoder on every message;
- **sealed**: a daemon with one worker, from the first message until a trainer has had the last row.

First the server sends as fast as it can. Then all processes share this machine's cores, the
server too, and what the readers do beyond receiving shows in full; the processor time a megabyte
is the figure to look at. Then the server sends at the pace that the real service was seen to have
(about 250 MB/s to a process, https://github.com/googleapis/java-bigquerystorage/issues/809), which
is what a trainer would wait for.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click
import grpc
import numpy as np
import psutil
import pyarrow as pa
from google.cloud.bigquery_storage_v1 import types

from faucet_client import BigQuerySource, DatasetSpec
from faucet_client.dataset import FaucetClient
from faucet_client.errors import DatasetInUse
from faucet_client.testing import LocalDaemon
from tests.bigquery_server.local import LocalBigQuery

PROJECT = "benchmark"
TABLE = f"{PROJECT}.training.rows"
FEATURES = 40
USUAL_STREAMS = 4
USUAL_ROWS = 8_192
BATCH_ROWS = 1_024
SAMPLE_S = 0.02

_SERVICE = "/google.cloud.bigquery.storage.v1.BigQueryRead"
_CACHE_BYTES = 4 << 30


@dataclass(frozen=True)
class Pass:
    """One pass over the table.

    Attributes:
        seconds: From the first request for rows to the last row.
        cpu_seconds: Processor time by process: "reader", "server", "daemon", "worker".
        nbytes: Serialized record batches, in bytes.
    """

    seconds: float
    cpu_seconds: dict[str, float]
    nbytes: int

    @property
    def rate(self) -> float:
        """MB/s."""
        return self.nbytes / 1e6 / self.seconds

    def cost(self, process: str) -> float:
        """Milliseconds of a processor a megabyte."""
        return self.cpu_seconds[process] * 1e9 / self.nbytes


class Clock:
    """Takes the time and the processor time of a pass in several processes."""

    def __init__(self, processes: dict[str, psutil.Process]) -> None:
        self._processes = processes

    def measure(self, read: Callable[[], int | None], nbytes: int = 0) -> Pass:
        """Runs a pass, which may tell the bytes that it has read."""
        before = self._used()
        began = time.perf_counter()
        found = read()
        seconds = time.perf_counter() - began
        after = self._used()
        used = {name: after[name] - before[name] for name in after}
        return Pass(seconds, used, nbytes if found is None else found)

    def _used(self) -> dict[str, float]:
        times = {name: process.cpu_times() for name, process in self._processes.items()}
        return {name: each.user + each.system for name, each in times.items()}


class PrivateMemory:
    """Samples what processes hold of memory that is theirs alone, in bytes, until it is closed."""

    def __init__(self, processes: dict[str, psutil.Process]) -> None:
        self.largest: list[dict[str, int]] = [dict.fromkeys(processes, 0)]
        self._processes = processes
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def next_period(self) -> None:
        """From here on the largest of another period is looked for."""
        self.largest.append(dict.fromkeys(self._processes, 0))

    def close(self) -> None:
        """Ends the sampling."""
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            largest = self.largest[-1]
            for name, process in self._processes.items():
                memory = process.memory_info()
                # Segments under way are shared memory, and stand in the daemon's budget.
                largest[name] = max(largest[name], memory.rss - memory.shared)


def make_rows(rows: int) -> pa.Table:
    """`rows` rows of 40 features, half FLOAT64 and half INT64, an INT64 key and a label."""
    generator = np.random.default_rng(0)
    columns: dict[str, object] = {"key": np.arange(rows), "y": generator.integers(0, 2, rows)}
    for n in range(FEATURES):
        whole = n % 2 == 0
        columns[f"f{n}"] = generator.integers(0, 1_000, rows) if whole else generator.random(rows)
    return pa.table(columns)


class BareClient:
    """Reads sessions with gRPC and Arrow alone."""

    def __init__(self, server: LocalBigQuery) -> None:
        limits = [("grpc.max_receive_message_length", -1)]
        self._channel = grpc.insecure_channel(server.grpc, options=limits)

    def session(self, streams: int) -> types.ReadSession:
        """A new session over the whole table."""
        project, dataset, table = TABLE.split(".")
        create = self._channel.unary_unary(
            f"{_SERVICE}/CreateReadSession",
            request_serializer=types.CreateReadSessionRequest.serialize,
            response_deserializer=types.ReadSession.deserialize,
        )
        made: types.ReadSession = create(
            types.CreateReadSessionRequest(
                parent=f"projects/{PROJECT}",
                read_session=types.ReadSession(
                    table=f"projects/{project}/datasets/{dataset}/tables/{table}",
                    data_format=types.DataFormat.ARROW,
                ),
                max_stream_count=streams,
            )
        )
        return made

    def receive(self, session: types.ReadSession) -> None:
        """Receives every message, and looks at none."""

        def throw_away(stream: Iterator[bytes]) -> int:
            return sum(0 for _ in stream)

        self._read(session, None, throw_away)

    def decode(self, session: types.ReadSession, rows: int | None = None) -> int:
        """Decodes every message, or so many rows of each stream; their record batches' bytes."""
        schema = pa.ipc.read_schema(pa.py_buffer(session.arrow_schema.serialized_schema))

        def decode(stream: Iterator[Any]) -> int:
            nbytes = decoded = 0
            for message in stream:
                data = message.arrow_record_batch.serialized_record_batch
                decoded += pa.ipc.read_record_batch(pa.py_buffer(data), schema).num_rows
                nbytes += len(data)
                if rows is not None and decoded >= rows:
                    break
            return nbytes

        return self._read(session, types.ReadRowsResponse.pb().FromString, decode)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def _read(
        self,
        session: types.ReadSession,
        parse: Callable[[bytes], Any] | None,
        consume: Callable[[Iterator[Any]], int],
    ) -> int:
        read_rows = self._channel.unary_stream(
            f"{_SERVICE}/ReadRows",
            request_serializer=types.ReadRowsRequest.serialize,
            response_deserializer=parse,
        )
        totals: list[int] = []

        def read(stream: str) -> None:
            totals.append(consume(read_rows(types.ReadRowsRequest(read_stream=stream))))

        threads = [threading.Thread(target=read, args=(s.name,)) for s in session.streams]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if len(totals) < len(threads):
            raise click.ClickException("a bare read failed; its thread has said why")
        return sum(totals)


class FedTrainer:
    """Reads the table through a daemon, a new dataset each time."""

    def __init__(self, client: FaucetClient) -> None:
        self._client = client
        self._features = [f"f{n}" for n in range(FEATURES)]

    @contextmanager
    def opened(self) -> Iterator[Callable[[], None]]:
        """What reads all train rows of a new session; every split's are sealed by then."""
        source = BigQuerySource(table=TABLE, snapshot="new")
        dataset = self._client.open(
            DatasetSpec(
                source,
                features=self._features,
                labels=["y"],
                hash_column="key",
                eval_percent=10,
                preprocessing="none",
            )
        )

        def read() -> None:
            for _ in dataset.batches("train", batch_size=BATCH_ROWS):
                pass

        yield read
        self._drop(dataset.info.key)

    def _drop(self, key: str) -> None:
        """Drops the dataset, once the last lease on it has come back."""
        while True:
            try:
                self._client.session().channel.drop(key)
            except DatasetInUse:
                time.sleep(0.01)
            else:
                return


@dataclass(frozen=True)
class Trial:
    """Passes of the three readers, alternating."""

    received: Sequence[Pass]
    decoded: Sequence[Pass]
    sealed: Sequence[Pass]

    def ratio(self, of: Sequence[Pass], to: Sequence[Pass]) -> tuple[float, float, float]:
        """The quartiles of throughput, `of` over `to`, pass by pass."""
        ratios = [one.rate / other.rate for one, other in zip(of, to, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        return middle, low, high


class Bench:
    """A server, a daemon that reads it through so many streams, and a bare client."""

    def __init__(self, server: LocalBigQuery, daemon: LocalDaemon, streams: int) -> None:
        self._streams = streams
        self._bare = BareClient(server)
        client = daemon.client()
        self._trainer = FedTrainer(client)
        self._daemon = {
            "daemon": psutil.Process(daemon.process.pid),
            "worker": psutil.Process(client.status().workers[0].pid),
        }
        own = {"reader": psutil.Process(), "server": psutil.Process(server.process.pid)}
        self._clock = Clock(own | self._daemon)

    def run(self, repeats: int) -> tuple[Trial, list[dict[str, int]]]:
        """So many passes of each, after one that warms up; the daemon's memory pass by pass."""
        received, decoded, sealed = [], [], []
        memory = PrivateMemory(self._daemon)
        try:
            for _ in range(repeats + 1):
                session = self._bare.session(self._streams)
                decoded.append(self._clock.measure(lambda: self._bare.decode(session)))  # noqa: B023 -- called here
                nbytes = decoded[-1].nbytes
                session = self._bare.session(self._streams)
                received.append(self._clock.measure(lambda: self._bare.receive(session), nbytes))  # noqa: B023
                with self._trainer.opened() as read:
                    sealed.append(self._clock.measure(read, nbytes))
                memory.next_period()
        finally:
            memory.close()
        return Trial(received[1:], decoded[1:], sealed[1:]), memory.largest[1:-1]

    def close(self) -> None:
        """Closes what the daemon's end does not."""
        self._bare.close()


def settings_for(server: LocalBigQuery, streams: int) -> dict[str, str]:
    """A daemon's settings to read from a server through so many streams."""
    return {
        "bigquery_project": PROJECT,
        "bigquery_credentials": "anonymous",
        "bigquery_api_endpoint": server.rest,
        "bigquery_storage_endpoint": server.grpc,
        "bigquery_storage_insecure": "true",
        "bigquery_max_streams": str(streams),
    }


@contextmanager
def a_bench(server: LocalBigQuery, streams: int) -> Iterator[Bench]:
    """A bench over so many streams."""
    with LocalDaemon(
        memory_budget="2GiB", workers=1, settings=settings_for(server, streams)
    ) as daemon:
        bench = Bench(server, daemon, streams)
        try:
            yield bench
        finally:
            bench.close()


def run(rows: int, repeats: int, pace_mb_s: float) -> None:
    """Prints rates, ratios, processor time and memory, over streams and sizes of messages."""
    table = make_rows(rows)
    with LocalBigQuery(cache_bytes=_CACHE_BYTES) as server:
        server.load(TABLE, table)
        click.echo(
            f"{rows:,} rows x {FEATURES} features, {table.nbytes / 1e6:,.0f} MB on the wire, "
            f"{repeats} passes of each reader, alternating; {psutil.cpu_count()} cores for all"
        )
        click.echo(
            "                    MB/s: median               sealed / decoded   processor ms a MB\n"
            "streams  messages   received  decoded  sealed  median [quartiles]  "
            "decoding  server | worker  daemon  trainer"
        )
        for streams in (1, 2, USUAL_STREAMS, 8):
            sizes = (1_024, USUAL_ROWS, 65_536) if streams == USUAL_STREAMS else (USUAL_ROWS,)
            with a_bench(server, streams) as bench:
                for message_rows in sizes:
                    server.configure(message_rows=message_rows)
                    trial, memory = bench.run(repeats)
                    _print_trial(streams, message_rows, trial)
                    if (streams, message_rows) == (USUAL_STREAMS, USUAL_ROWS):
                        usual_memory = memory
        _print_memory(usual_memory)
        server.configure(message_rows=USUAL_ROWS)
        message_mb = table.nbytes / 1e6 / rows * USUAL_ROWS
        server.faults(message_delay_s=USUAL_STREAMS * message_mb / pace_mb_s)
        with a_bench(server, USUAL_STREAMS) as bench:
            trial, _ = bench.run(repeats)
        click.echo(f"the same where the server sends at most {pace_mb_s:,.0f} MB/s:")
        _print_trial(USUAL_STREAMS, USUAL_ROWS, trial)


def _print_trial(streams: int, message_rows: int, trial: Trial) -> None:
    rates = [
        statistics.median(each.rate for each in passes)
        for passes in (trial.received, trial.decoded, trial.sealed)
    ]
    middle, low, high = trial.ratio(trial.sealed, trial.decoded)
    costs = [
        statistics.median(each.cost(process) for each in passes)
        for passes, process in (
            (trial.decoded, "reader"),
            (trial.decoded, "server"),
            (trial.sealed, "worker"),
            (trial.sealed, "daemon"),
            (trial.sealed, "reader"),
        )
    ]
    click.echo(
        f"{streams:>7} {message_rows:>9,} {rates[0]:>10,.0f} {rates[1]:>8,.0f} {rates[2]:>7,.0f}"
        f"    {middle:.2f} [{low:.2f}, {high:.2f}]"
        f" {costs[0]:>11.2f} {costs[1]:>7.2f} | {costs[2]:>6.2f} {costs[3]:>7.2f} {costs[4]:>8.2f}"
    )


def _print_memory(largest: Sequence[dict[str, int]]) -> None:
    for process in ("worker", "daemon"):
        mib = [each[process] / 2**20 for each in largest]
        click.echo(
            f"private memory of the {process} over {len(mib)} passes, MiB at most in each: first "
            f"{mib[0]:,.0f}, last {mib[-1]:,.0f}, largest {max(mib):,.0f}"
        )
