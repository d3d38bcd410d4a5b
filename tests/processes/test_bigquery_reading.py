"""Rows of BigQuery: each exactly once, in flat memory, whatever the service and the daemon do.

Real processes: a server that speaks BigQuery's protocols, a daemon, trainers.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from faucet_client import FaucetClient, SourceChanged
from faucet_client.address import parse_address
from faucet_client.session import Session
from faucetd.fetch.bigquery.settings import BigQuerySettings
from faucetd.fetch.bigquery.table import BUFFER_BYTES
from tests.bigquery_server.faults import RESUMABLE, ReadFault
from tests.bigquery_server.local import LocalBigQuery
from tests.processes.bigquery import Warehouse, ids_in, reaching, read_chunks, same_chunks
from tests.processes.daemons import StartDaemon, WatchedDaemon, reader_of
from tests.processes.rows import assert_exact
from tests.processes.test_faults import catch_loading, read_exactly
from tests.processes.test_memory import memfd_bytes, processes_of
from tests.processes.trainers import StartTrainer
from tests.processes.waiting import eventually

BATCH = 1_000
MIB = 1 << 20

KINDS = (
    *RESUMABLE,
    ReadFault(code="RESOURCE_EXHAUSTED", message="Quota exceeded", retry_delay_s=0.01),
    ReadFault(code="RESOURCE_EXHAUSTED", message="Quota exceeded"),
)
"""Of each failure that reading goes on after, one."""

STALL_S = 1.0

QUEUED_MESSAGES = 20
"""Of each stream, what a worker has received ahead (16), decodes, and reads from."""

FLYING_BYTES = 8 << 20
"""Of each stream, what gRPC and sockets hold: some windows of HTTP/2, about 2 MB each."""


@pytest.fixture(scope="module")
def reader(bigquery_server: LocalBigQuery, start_shared_daemon: StartDaemon) -> WatchedDaemon:
    """A daemon with two workers and four streams, for the tests that do it no harm."""
    settings = reaching(bigquery_server, max_streams="4", stall_timeout_s=f"{STALL_S}")
    return start_shared_daemon("64MiB", 2, **settings)


# Exactness.


def test_two_trainers_read_each_row_once_an_epoch_though_a_worker_is_killed_in_mid_stream(
    bigquery: Warehouse, start_trainer: StartTrainer
) -> None:
    message_rows, epochs, workers, streams = 5_000, 2, 2, 4
    server = bigquery.server
    server.configure(message_rows=message_rows)
    table = bigquery.load(rows=2_000_000, chunk_rows=100_000)
    daemon = bigquery.start_daemon("256MiB", workers=workers, max_streams=str(streams))
    server.faults(message_delay_s=0.01)
    trainers = [start_trainer(daemon, table) for _ in range(2)]
    for trainer in trainers:
        trainer.start(BATCH, epochs=epochs)
        trainer.send("read")
    eventually(lambda: server.stats()["rows_sent"] > table.rows // 4, 60)
    victim = catch_loading(daemon.client().status)
    os.kill(victim, signal.SIGKILL)
    server.faults()
    for trainer in trainers:
        assert trainer.answer(120) == {"read": epochs * table.rows // BATCH}
        ids = trainer.ids()
        for epoch in range(epochs):
            assert_exact(ids[epoch * table.rows : (epoch + 1) * table.rows], table.rows)
    status = daemon.client().status()
    (dataset,) = status.datasets
    assert victim not in [worker.pid for worker in status.workers]
    assert dataset.source_rows_read == table.rows  # of what became chunks
    stats = server.stats()
    assert len(stats["sessions"]) == 1
    assert stats["sessions"][0]["streams"] == streams
    # What the victim had of its streams, and of the chunk that it made, was sent again.
    message_bytes = stats["bytes_sent"] / sum(one["messages"] for one in stats["streams"].values())
    ahead = (QUEUED_MESSAGES + FLYING_BYTES / message_bytes) * message_rows
    assert stats["rows_sent"] <= table.rows + table.chunk_rows + streams / workers * ahead


def test_one_thousand_faults_in_one_pass_cost_one_call_each_and_no_row(
    bigquery: Warehouse, reader: WatchedDaemon, start_trainer: StartTrainer
) -> None:
    server = bigquery.server
    server.configure(message_rows=100)
    table = bigquery.load(rows=200_000, chunk_rows=20_000)
    server.faults(total=1_000, total_kinds=KINDS)
    trainer = start_trainer(reader, table)
    trainer.start(BATCH)
    trainer.send("read")
    assert trainer.answer(90) == {"read": table.rows // BATCH}
    assert_exact(trainer.ids(), table.rows)
    assert sum(bigquery.injected().values()) == 1_000
    # Needed is a call a stream, and one to go on after each failure; at most twice that is ours.
    assert bigquery.calls("ReadRows") <= 2 * (4 + 1_000)
    assert server.stats()["rows_sent"] == table.rows


def test_a_stalled_stream_is_noticed_in_time_and_read_on_where_it_was(
    bigquery: Warehouse, reader: WatchedDaemon, start_trainer: StartTrainer
) -> None:
    assert BigQuerySettings().stall_timeout_s == 60
    server = bigquery.server
    server.configure(message_rows=1_000)
    table = bigquery.load()
    server.faults(ReadFault(action="stall", stream=1, at_message=3))
    trainer = start_trainer(reader, table)
    trainer.start(BATCH)
    trainer.send("read")
    eventually(lambda: bigquery.injected().get("ReadRows stall") == 1, 30)
    began = time.monotonic()
    eventually(lambda: bigquery.calls("ReadRows") == 5, 30)
    assert STALL_S / 2 < time.monotonic() - began < STALL_S + 5  # the machine may be busy
    assert trainer.answer() == {"read": table.rows // BATCH}
    assert_exact(trainer.ids(), table.rows)
    assert server.stats()["rows_sent"] == table.rows


@pytest.mark.parametrize(
    ("fault", "count_error", "said"),
    [(ReadFault(action="end", stream=1, at_message=5), 0, "only 3"), (None, -2_000, "more than")],
    ids=["short", "long"],
)
def test_a_pass_of_another_length_than_was_counted_is_an_error_and_the_next_open_counts_anew(
    fault: ReadFault | None,
    count_error: int,
    said: str,
    bigquery: Warehouse,
    reader: WatchedDaemon,
    start_trainer: StartTrainer,
) -> None:
    server = bigquery.server
    server.configure(message_rows=1_000)
    table = bigquery.load()
    server.faults(*[fault] if fault else [], count_error=count_error)
    trainer = start_trainer(reader, table)
    batches = trainer.start(BATCH)
    told = trainer.ask("read")
    assert told["error"] == SourceChanged.__name__
    assert said in told["message"]
    assert table.name in told["message"]
    # Never an epoch that looks like a whole one, though as many rows as were counted are there.
    assert told["read"] < batches
    server.faults()
    with FaucetClient(reader.address) as client:
        failed = [one for one in client.status().datasets if one.state == "failed"]
        assert said in failed[-1].error
        read_exactly(client, table)


# The plan journal.


def journals(daemon: WatchedDaemon) -> list[Path]:
    return list((daemon.folder / "scratch").glob("plans-*/*"))


def drop(daemon: WatchedDaemon, key: str) -> None:
    session = Session.connect(parse_address(daemon.address))
    try:
        session.drop(key)
    finally:
        session.close()


def test_the_next_daemon_has_the_chunks_of_the_last_and_trainers_go_on(
    bigquery: Warehouse, start_trainer: StartTrainer
) -> None:
    bigquery.server.configure(message_rows=1_000)
    table = bigquery.load(rows=200_000, chunk_rows=4_000)
    daemon = bigquery.start_daemon(max_streams="4")
    dataset = daemon.client().open(table.spec())
    trainer = start_trainer(daemon, table)
    batches = trainer.start(BATCH)
    trainer.ask("read", count=10)
    (granted,) = read_chunks(daemon.client(), dataset, chunks=10)
    queries = bigquery.count_queries()
    assert dataset.info.chunks == 0  # not all are found yet

    # It is killed in the midst of an epoch, and of writing a line.
    daemon.kill()
    (journal,) = journals(daemon)
    with journal.open("ab") as file:
        file.write(b'{"number":7,"found":{"chunk":{"pieces":[')
    (journal.parent / "half.part").touch()
    daemon.restart()
    assert trainer.ask("read")["error"] == "DaemonLost"
    trainer.ids()
    assert trainer.start(BATCH) == batches
    assert trainer.ask("read") == {"read": batches}
    assert_exact(trainer.ids(), table.rows)
    (known,) = daemon.client().status().datasets
    assert known.key == dataset.info.key
    dataset.batches(batch_size=BATCH).close()  # it opens itself again
    (whole,) = read_chunks(daemon.client(), dataset)
    assert_exact(ids_in(whole), table.rows)
    assert same_chunks(granted, whole)
    trainer.ask("close")

    # It is stopped when all chunks are known.
    daemon.stop()
    daemon.restart()
    again = daemon.client().open(table.spec())
    assert again.info.key == dataset.info.key
    assert again.info.chunks >= len(whole)  # a stream's last may be empty
    (after,) = read_chunks(daemon.client(), again)
    assert after.keys() == whole.keys()
    assert same_chunks(whole, after)
    assert len(bigquery.sessions()) == 1
    assert bigquery.count_queries() == queries
    assert journals(daemon) == [journal]


def of_another_version(header: dict[str, Any]) -> None:
    header["made_by"] = "0" * 64


def of_an_expired_session(header: dict[str, Any]) -> None:
    header["opened_at"] -= 6 * 3_600 + 1


def without_rows(header: dict[str, Any]) -> None:
    del header["opened"]["totals"]["train"]["rows"]


def test_a_journal_that_cannot_serve_is_removed_and_the_dataset_is_opened_anew(
    bigquery: Warehouse,
) -> None:
    changes: list[Callable[[dict[str, Any]], None]] = [
        of_another_version,
        of_an_expired_session,
        without_rows,
    ]
    daemon = bigquery.start_daemon()
    tables = [bigquery.load() for _ in changes]
    datasets = [daemon.client().open(table.spec()) for table in tables]
    for table in tables:
        read_exactly(daemon.client(), table)
    daemon.kill()
    before = journals(daemon)
    assert {path.stem for path in before} == {dataset.info.key for dataset in datasets}
    for dataset, change in zip(datasets, changes, strict=True):
        (journal,) = (path for path in before if path.stem == dataset.info.key)
        header, *found = journal.read_bytes().splitlines(keepends=True)
        changed = json.loads(header)
        change(changed)
        journal.write_bytes(json.dumps(changed).encode() + b"\n" + b"".join(found))
    daemon.restart()
    for table, dataset in zip(tables, datasets, strict=True):
        with pytest.raises(SourceChanged, match="open it anew"):
            dataset.batches(batch_size=BATCH)
        read_exactly(daemon.client(), table)
    after = journals(daemon)
    assert len(after) == len(bigquery.sessions()) - len(before) == len(before)
    assert not set(before) & set(after)
    for journal in after:
        drop(daemon, journal.stem)
    assert journals(daemon) == []


# Memory.

STAGING_CHUNKS = 3
"""Chunks' worth of heap that a worker takes beside its buffer while it makes one."""


def resident_bytes(processes: list[psutil.Process]) -> int:
    """The resident memory of processes, libraries and segments included."""
    return sum(int(process.memory_info().rss) for process in processes)


def wait_steady(read: Callable[[], int], for_s: float = 1.0, timeout_s: float = 30.0) -> int:
    """Waits until a number has not changed for a while; the number."""
    last, since = read(), time.monotonic()

    def steady() -> bool:
        nonlocal last, since
        if (now := read()) != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since >= for_s

    eventually(steady, timeout_s, poll_s=0.05)
    return last


@pytest.mark.parametrize("shuffle", ["none", "batches"])
def test_chunks_that_had_to_go_are_made_again_of_the_same_rows_in_the_same_order(
    shuffle: str, bigquery: Warehouse
) -> None:
    epochs = 3
    bigquery.server.configure(message_rows=1_000)
    table = bigquery.load(rows=400_000, chunk_rows=10_000)
    daemon = bigquery.start_daemon("4MiB", max_streams="4")
    client = daemon.client()
    dataset = client.open(table.spec())
    first, *later = read_chunks(client, dataset, epochs=epochs, shuffle=shuffle)
    assert_exact(ids_in(first), table.rows)
    for chunks in later:
        assert chunks.keys() == first.keys()
        assert same_chunks(first, chunks)
    status = client.status()
    (seen,) = status.datasets
    assert seen.chunks_made > 2 * seen.chunks  # most had to go, twice
    assert status.memory.peak_bytes <= status.memory.budget_bytes
    assert len(bigquery.sessions()) == 1


def test_a_table_twenty_times_the_budget_streams_through_in_flat_memory(
    bigquery: Warehouse, start_trainer: StartTrainer
) -> None:
    server = bigquery.server
    budget, workers, streams = 4 * MIB, 2, 4
    server.configure(message_bytes=MIB // 4)
    table = bigquery.load(rows=500_000, features=40, chunk_rows=5_000)
    row_bytes = (40 + 1) * 4 + 8  # prepared: features, label, id
    assert table.rows * row_bytes > 20 * budget
    daemon = bigquery.start_daemon("4MiB", workers=workers, max_streams=str(streams))
    client = daemon.client()
    small = bigquery.load(rows=40_000, features=40, chunk_rows=5_000)
    read_exactly(client, small)  # imports, clients, buffers of both workers: what is there anyway
    processes = [psutil.Process(pid) for pid in processes_of(daemon)]
    before = resident_bytes(processes)
    server.stats(clear=True)
    trainer = start_trainer(daemon, table)
    trainer.start(BATCH)
    message_bytes = MIB // 4
    wire_row_bytes = (40 + 2) * 8
    segments = budget // (table.chunk_rows * row_bytes) + workers  # full, or being made
    ahead = streams * (QUEUED_MESSAGES * message_bytes + FLYING_BYTES)
    ahead += segments * table.chunk_rows * wire_row_bytes

    # A consumer that stands still stops the source.
    trainer.ask("read", count=20)
    sent = wait_steady(lambda: int(server.stats()["bytes_sent"]))
    assert sent <= 20 * BATCH * wire_row_bytes + ahead < table.rows * wire_row_bytes / 2

    # One that is slow has it go on at its own pace.
    trainer.send("read", pause_s=0.004)
    peak = 0
    while not trainer.has_answered():
        sent = int(server.stats()["bytes_sent"])
        reader = reader_of(client.status(), trainer.name)
        if reader is not None:  # who tells with each chunk how far it is
            consumed = (reader.rows_consumed + table.chunk_rows) * wire_row_bytes
            assert sent <= consumed + ahead
        memory = client.status().memory
        assert memory.used_bytes <= memory.budget_bytes == budget
        # The two looks are not at one moment: a segment may be gone in one, and new in the other.
        segment_bytes = table.chunk_rows * row_bytes
        assert memfd_bytes(one.pid for one in processes) <= budget + workers * segment_bytes
        peak = max(peak, resident_bytes(processes))
    assert trainer.answer() == {"read": table.rows // BATCH - 20}
    assert_exact(trainer.ids(), table.rows)
    bound = budget + workers * (BUFFER_BYTES + STAGING_CHUNKS * table.chunk_rows * row_bytes)
    assert peak - before <= bound < table.rows * wire_row_bytes
    assert processes_of(daemon) == [one.pid for one in processes]  # nobody died on the way
