"""What the daemon's main process does with datasets of a warehouse that break, wait or pile up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pyarrow as pa
import pytest

from faucet_client import DatasetSpec, FaucetClient, SourceChanged, SourceNotFound
from faucet_client.address import parse_address
from faucet_client.compat import get_client
from faucet_client.dataset import Dataset
from faucet_client.errors import DatasetNotFound
from faucet_client.spec import BigQuerySource, ParquetSource
from faucetd.conductor import Conductor
from faucetd.config import Settings
from faucetd.dealt import DealtFolders
from faucetd.fetch.bigquery.settings import BigQuerySettings
from faucetd.fetch.pieces import PlannedChunk
from faucetd.journal import PlanJournal
from faucetd.openings import MOST_UNUSED
from faucetd.schedule.shares import Shape
from faucetd.serve.backend import ReaderRequest
from faucetd.serve.sessions import Session
from faucetd.worker import messages, wire
from faucetd.worker.pool import WorkerPool
from faucetd.worker.process import Worker
from tests.bigquery_server.faults import ReadFault, RestFault
from tests.processes.bigquery import Table, Warehouse
from tests.processes.daemons import WatchedDaemon, wait_idle
from tests.processes.waiting import eventually

BATCH = 100
SPLIT: dict[str, Any] = {"hash_column": "id", "eval_percent": 20.0}


def journals(daemon: WatchedDaemon) -> list[Path]:
    return list((daemon.folder / "scratch").glob("plans-*/*.plan"))


def rows(dataset: Dataset, split: Any = "train") -> int:
    return sum(len(batch) for batch in dataset.batches(split, batch_size=BATCH))


def limit_files(daemon: WatchedDaemon, nbytes: int | None) -> None:
    """No file of the main process may become larger: a full disk is answered likewise."""
    limit = "unlimited" if nbytes is None else str(nbytes)
    command = ["prlimit", f"--pid={daemon.process.pid}", f"--fsize={limit}:unlimited"]
    subprocess.run(command, check=True)


@contextlib.contextmanager
def in_background(call: Callable[[], object]) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    yield thread
    thread.join(60)
    assert not thread.is_alive()


def states(client: FaucetClient) -> list[str]:
    return [worker.state for worker in client.status().workers]


# Datasets that break.


def test_a_plan_that_cannot_be_written_down_ends_its_readers_and_not_the_daemon(
    bigquery: Warehouse,
) -> None:
    table = bigquery.load(rows=40_000, chunk_rows=500)
    daemon = bigquery.start_daemon(max_streams="2")
    client = daemon.client()
    dataset = client.open(table.spec())
    (journal,) = journals(daemon)
    limit_files(daemon, journal.stat().st_size + 200)
    with pytest.raises(SourceChanged, match="cannot be written down in scratch_dir"):
        rows(dataset)
    for _ in range(3):
        with pytest.raises(SourceChanged, match=r"open it anew.*cannot be written down"):
            rows(dataset)
    assert journals(daemon) == []
    assert client.status().datasets[0].state == "failed"
    limit_files(daemon, None)
    again = client.open(table.spec())
    assert again.info.key != dataset.info.key
    assert rows(again) == table.rows
    assert daemon.process.poll() is None
    wait_idle(client.status)


def test_all_readers_of_a_dataset_that_breaks_are_told(bigquery: Warehouse) -> None:
    table = bigquery.load(rows=60_000, chunk_rows=1_000)
    daemon = bigquery.start_daemon("4MiB", workers=1, max_streams="1")
    client = daemon.client()
    dataset = client.open(table.spec(**SPLIT))
    # This one has all that it may hold, and so wants no chunk that is being loaded.
    held = dataset.batches("eval", batch_size=10, job="held")
    next(held)
    (journal,) = journals(daemon)
    eventually(lambda: set(states(client)) == {"idle"})
    limit_files(daemon, journal.stat().st_size + 200)
    with pytest.raises(SourceChanged, match="cannot be written down"):
        rows(dataset)
    with pytest.raises(SourceChanged, match="cannot be written down"):
        list(held)
    limit_files(daemon, None)
    assert not client.status().readers


def test_a_table_that_is_gone_on_load_is_not_joined_again(bigquery: Warehouse) -> None:
    daemon = bigquery.start_daemon(max_streams="2")
    client = daemon.client()
    table = bigquery.load(rows=5_000, chunk_rows=500)
    dataset = client.open(table.spec())
    bigquery.server.faults(ReadFault(code="NOT_FOUND", message="Not found: Table x", times=None))
    with pytest.raises(SourceNotFound):
        rows(dataset)
    with pytest.raises(SourceChanged, match=r"open it anew.*[Nn]ot found"):
        rows(dataset)
    bigquery.server.faults()
    again = client.open(table.spec())
    assert again.info.key != dataset.info.key
    assert rows(again) == table.rows


# Openings and loads.


def test_chunks_are_loaded_while_slow_openings_wait(bigquery: Warehouse) -> None:
    table = bigquery.load(rows=40_000, chunk_rows=500)
    slow = [bigquery.load(rows=1_000) for _ in range(3)]
    daemon = bigquery.start_daemon("4MiB", workers=2, max_streams="1")
    client = daemon.client()
    batches = client.open(table.spec()).batches(batch_size=BATCH)
    read = len(next(batches))
    bigquery.server.faults(RestFault(status=503, times=None))
    others = [daemon.client() for _ in slow]
    with contextlib.ExitStack() as stack:
        for other, one in zip(others, slow, strict=True):
            stack.enter_context(in_background(partial(other.open, one.spec())))
        eventually(lambda: states(client).count("opening"))
        read += sum(len(batch) for batch in batches)
        assert read == table.rows
        eventually(lambda: states(client).count("opening") == 2)  # now that nobody reads
        bigquery.server.faults()
    assert len(client.status().datasets) == 1 + len(slow)


class Workers:
    """Workers that do nothing; notes what they are given."""

    def __init__(self) -> None:
        self.given: list[str] = []

    def give(self, _: int, task: messages.Task) -> None:
        self.given.append(type(task).__name__)

    def done(self, _: int) -> None:
        pass


CHUNKS = 4
LOAD = messages.LoadChunk(
    dataset="k",
    spec={},
    snapshot="",
    ticket="",
    access=messages.Access((), "", BigQuerySettings()),
    number=0,
    chunk=PlannedChunk((), 0, 10, 0),
    chunk_rows=10,
    splits=("train",),
    reserved_bytes=10,
)


def opened(key: str) -> messages.Opened:
    return messages.Opened(
        key=key,
        snapshot="",
        chunk_rows=10,
        features=("f",),
        labels=(),
        passthrough=(),
        passthrough_paths=(),
        weighted=False,
        chunks=(LOAD.chunk,) * CHUNKS,
        segment_bytes={"train": (10,) * CHUNKS, "eval": (0,) * CHUNKS},
        count_rows_read=0,
        count_bytes_read=0,
    )


class Idle:
    """A conductor with one worker that does nothing by itself, and clients that open datasets."""

    def __init__(self, folder: Path) -> None:
        self.workers = Workers()
        settings = Settings(
            listen=parse_address(f"unix://{folder}/s.sock"),
            memory_budget=1_000,
            workers=1,
            allowed_roots=(),
            allowed_uids=frozenset(),
            scratch_dir=folder,
            dealt_budget=None,
            spill_dir=None,
            spill_budget=None,
            log_level="info",
            metrics=None,
            bigquery=BigQuerySettings(),
        )
        journal = PlanJournal(folder / "p", BigQuerySettings())
        dealt = DealtFolders(folder / "d", None)
        self.conductor = Conductor(settings, folder, journal, dealt)
        self.conductor.wire(cast(WorkerPool, self.workers), lambda _: None, lambda _: None)
        self.conductor.worker_ready(1)

    async def open(self, number: int) -> asyncio.Task[None]:
        """A client asks for a dataset; where its wait has begun, this returns."""

        async def wait() -> None:
            spec = DatasetSpec(
                source=ParquetSource(f"/{number}.parquet"), features=("f",), preprocessing="none"
            )
            async for _ in self.conductor.open_dataset(spec, ""):
                pass

        task = asyncio.create_task(wait())
        await self.settle()
        return task

    async def say(self, message: messages.FromWorker) -> None:
        """The worker says this."""
        self.conductor.worker_said(1, message, [])
        await self.settle()

    @staticmethod
    async def settle() -> None:
        for _ in range(10):
            await asyncio.sleep(0)


def test_one_worker_opens_and_loads_in_turns(tmp_path: Path) -> None:
    async def scenario() -> list[str]:
        daemon = Idle(tmp_path)
        first = await daemon.open(0)
        await daemon.say(opened("k0"))
        await first
        request = ReaderRequest("k0", "train", "job", 0, 0, 1, Shape(), True, False, 0, 1)
        await daemon.conductor.read(Session(1, 1), request)
        others = [await daemon.open(number) for number in (1, 2)]
        loaded = messages.Loaded(segments={}, rows_read=0, bytes_read=0, counts={})
        for message in (loaded, opened("k1"), loaded, opened("k2")):
            await daemon.say(message)
        await asyncio.gather(*others)
        return daemon.workers.given

    assert asyncio.run(scenario()) == ["Open", "LoadChunk"] * 3


def test_an_opening_that_nobody_waits_for_any_more_is_never_begun(tmp_path: Path) -> None:
    async def scenario() -> list[str]:
        daemon = Idle(tmp_path)
        slow = await daemon.open(0)
        left = await daemon.open(1)
        later = await daemon.open(2)
        left.cancel()
        await daemon.settle()
        await daemon.say(opened("k0"))
        await daemon.say(opened("k2"))
        await asyncio.gather(slow, later)
        again = await daemon.open(1)  # and may be asked for again
        await daemon.say(opened("k1"))
        await again
        return daemon.workers.given

    assert asyncio.run(scenario()) == ["Open"] * 3


# What piles up.


def query_of(table: Table) -> DatasetSpec:
    source = BigQuerySource(query=f"SELECT id FROM `{table.name}`", snapshot="new")
    return DatasetSpec(source=source, features=(), passthrough=("*",))


def descriptors_of(daemon: WatchedDaemon) -> list[str]:
    folder = Path(f"/proc/{daemon.process.pid}/fd")
    return [os.readlink(fd) for fd in folder.iterdir()]


def test_datasets_that_nobody_can_join_do_not_pile_up(bigquery: Warehouse) -> None:
    table = bigquery.load(rows=200)
    daemon = bigquery.start_daemon(workers=1)
    client = daemon.client()
    used = client.open(query_of(table))
    reading = used.batches(batch_size=10)
    next(reading)
    opened = [client.open(query_of(table)) for _ in range(MOST_UNUSED + 3)]
    for dataset in opened[-3:]:
        assert rows(dataset) == table.rows
    wait = MOST_UNUSED + 1
    eventually(lambda: len(client.status().datasets) == wait)
    assert len(journals(daemon)) == wait
    assert not [name for name in descriptors_of(daemon) if ".plan" in name or ".part" in name]
    assert rows(opened[-1]) == table.rows  # who holds one that was used lately may read it again
    with pytest.raises(DatasetNotFound, match="open it anew"):
        rows(opened[0])
    assert sum(len(batch) for batch in reading) == table.rows - 10


def test_the_result_of_an_adhoc_query_is_forgotten_at_once(
    bigquery: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = pa.array(range(100))
    leaves = pa.StructArray.from_arrays([ids], ["x"])
    rows_2020 = pa.table({"hash_on": ids, "features": leaves, "labels": leaves})
    name = f"{bigquery.dataset}.old"
    bigquery.server.load(name, rows_2020)
    daemon = bigquery.start_daemon(workers=1)
    monkeypatch.setenv("FAUCET_ADDRESS", daemon.address)
    with get_client("bigquery", None, name, skip_small_batches=False) as reader:
        before = len(daemon.client().status().datasets)
        for number in range(5):
            frame = reader.adhoc_query(f"SELECT hash_on AS n FROM `{name}`")
            assert len(frame) == 100, number
            status = daemon.client().status()
            assert len(status.datasets) == before
        assert status.memory.leased_bytes == 0


def test_a_worker_keeps_no_memory_of_a_chunk_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (MemoryError("no"), ValueError("a bug"), SourceChanged("gone")):
        ours, theirs = wire.make_pair()
        worker = Worker(theirs)
        closed: list[str] = []
        monkeypatch.setattr(worker, "_forget", closed.append)
        monkeypatch.setattr(worker, "_load", Mock(side_effect=error))
        tasks = iter([LOAD, None])
        monkeypatch.setattr(worker, "_next_task", lambda tasks=tasks: next(tasks))
        with ours, theirs:
            worker.run()
        assert closed == [LOAD.dataset], error


# What is joined.


def test_what_nobody_reads_is_not_shared_beyond_its_age_though_it_is_in_memory(
    bigquery: Warehouse,
) -> None:
    table = bigquery.load(rows=1_000)
    daemon = bigquery.start_daemon(snapshot_max_age_s="0.001")
    client = daemon.client()
    first = client.open(table.spec())
    reading = first.batches(batch_size=BATCH)
    next(reading)
    assert client.open(table.spec()).info.key == first.info.key  # it is being read
    list(reading)
    eventually(lambda: not client.status().readers)
    assert client.status().datasets[0].chunks_resident > 0
    assert client.open(table.spec()).info.key != first.info.key
    assert rows(first) == table.rows  # who has it, has it
