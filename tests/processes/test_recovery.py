"""After something went wrong, later calls are right again, or say that they are not."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch.utils.data import DataLoader

from faucet_client import (
    DaemonLost,
    DatasetSpec,
    FaucetDataset,
    IteratorError,
    ParquetSource,
    SourceReadError,
)
from tests.processes.daemons import StartDaemon, WatchedDaemon, wait_idle
from tests.processes.rows import assert_exact, ids_of
from tests.processes.tables import MakeTable


def test_a_client_goes_on_after_its_daemon_was_restarted(
    start_daemon: StartDaemon, make_table: MakeTable
) -> None:
    daemon = start_daemon()
    table = make_table(rows=40_000)  # more chunks than are mapped ahead
    dataset = daemon.client(patience_s=0).open(table.spec())
    batches = dataset.batches(batch_size=100)
    next(batches)
    daemon.kill()
    daemon.restart()
    with pytest.raises(DaemonLost):
        list(batches)
    with pytest.raises(DaemonLost):  # and not a quiet end
        next(batches)
    again = [ids_of(batch) for batch in dataset.batches(batch_size=100)]
    assert_exact(np.concatenate(again), table.rows)


def test_a_job_s_name_is_free_as_soon_as_its_last_iterator_was_left(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    dataset = daemon.client().open(make_table(rows=3_000).spec())
    for number in range(40):
        batches = dataset.batches(batch_size=100, job="the same")
        assert sum(1 for _ in range(1 if number % 2 else 30) if next(batches)) >= 1
        del batches
    wait_idle(daemon.client().status)


def test_an_iterator_that_is_at_its_end_says_so_when_it_is_used_again(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    dataset = daemon.client().open(make_table(rows=3_000).spec())
    batches = dataset.batches(batch_size=100)
    assert len(list(batches)) == 30
    with pytest.raises(IteratorError, match="come to its end"):
        list(batches)
    late = dataset.batches(batch_size=100)
    next(late)
    late.close()
    with pytest.raises(IteratorError):
        list(late)


def test_an_interrupted_iterator_does_not_seem_to_have_ended(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    dataset = daemon.client().open(make_table(rows=3_000).spec())
    batches = dataset.batches(batch_size=100)
    next(batches)
    before = signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError()))
    os.kill(daemon.process.pid, signal.SIGSTOP)  # so that next() waits
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(TimeoutError):
            list(batches)
    finally:
        os.kill(daemon.process.pid, signal.SIGCONT)
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(IteratorError, match="interrupted"):
        list(batches)


def test_closing_the_client_ends_its_iterators_by_name(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    client = daemon.client()
    dataset = client.open(make_table(rows=400_000, features=8).spec())
    batches = dataset.batches(batch_size=100)
    next(batches)
    client.close()
    with pytest.raises(IteratorError, match="closed"):
        list(batches)


def test_refused_readers_leave_no_thread_behind(
    start_daemon: StartDaemon, make_table: MakeTable
) -> None:
    daemon = start_daemon("512KiB")
    dataset = daemon.client().open(make_table(rows=20_000, features=8).spec())
    first = dataset.batches(batch_size=100, job="taken")
    next(first)
    threads = threading.active_count()
    for _ in range(3):
        with pytest.raises(Exception, match="taken"):
            dataset.batches(batch_size=100, job="taken")
    assert threading.active_count() <= threads + 1  # the last one may just be ending
    first.close()


@pytest.mark.parametrize("shuffle", ["batches", "none"])
@pytest.mark.parametrize("batch_size", [300, 512, 2_000])  # the last is a chunk
def test_one_who_keeps_every_batch_gets_on_with_the_least_promise(
    batch_size: int, shuffle: str, start_daemon: StartDaemon, make_table: MakeTable
) -> None:
    table = make_table(rows=60_000, features=8)
    daemon = start_daemon("512KiB")  # four segments and a bit, of thirty
    dataset = daemon.client().open(table.spec())
    iterator = dataset.batches(batch_size=batch_size, shuffle=shuffle)
    kept = list(iterator)
    assert_exact(np.concatenate([ids_of(batch) for batch in kept]), table.rows)
    assert iterator.stats().batches_copied + iterator.stats().batches_joined > len(kept) // 2


def test_a_plain_loop_is_never_given_copies_even_with_the_least_promise(
    start_daemon: StartDaemon, make_table: MakeTable
) -> None:
    table = make_table(rows=60_000, features=8)
    daemon = start_daemon("512KiB")
    dataset = daemon.client().open(table.spec())
    iterator = dataset.batches(batch_size=128, epochs=3)
    rows = sum(len(batch) for batch in iterator)
    assert (rows, iterator.stats().batches_copied) == (3 * table.rows, 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_each_epoch_of_a_dataloader_has_a_shuffle_of_its_own(
    workers: int, daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    table = make_table(rows=4_000)
    dataset = daemon.client().open(table.spec())
    reading = FaucetDataset(dataset, batch_size=100, seed=1)
    loader = DataLoader(reading, batch_size=None, num_workers=workers)
    first, second = (np.concatenate([ids_of(batch) for batch in loader]) for _ in range(2))
    assert_exact(first, table.rows)
    assert_exact(second, table.rows)
    assert not np.array_equal(first, second)
    reading.set_epoch(0)
    assert_exact(np.concatenate([ids_of(batch) for batch in loader]), table.rows)


def test_long_text_in_many_chunks_needs_no_more_budget_than_it_has(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    rows = 16_000
    texts = [f"{row}:" + "x" * 200 for row in range(rows)]
    path = tmp_path / "texts.parquet"
    pq.write_table(pa.table({"id": np.arange(rows), "text": texts}), path, row_group_size=500)
    daemon = start_daemon("1MiB", workers=2)
    spec = DatasetSpec(
        ParquetSource(str(path)),
        features=["id"],
        passthrough=["text"],
        chunk_rows=500,
        preprocessing="none",
    )
    dataset = daemon.client().open(spec)
    for _ in range(3):
        batches = dataset.batches(batch_size=250)
        seen = [text for batch in batches for text in batch.passthrough["text"]]
        assert sorted(seen) == sorted(texts)


def test_a_file_reached_twice_over_links_is_refused(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    path = make_table(rows=1_000).path
    (path.parent / "again.parquet").symlink_to(path)
    with pytest.raises(SourceReadError, match="more than once"):
        daemon.client().open(
            DatasetSpec(ParquetSource(str(path.parent)), features=["f0"], preprocessing="none")
        )


def test_a_pipe_in_the_place_of_a_file_is_refused(daemon: WatchedDaemon, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.parquet")
    spec = DatasetSpec(
        ParquetSource(str(tmp_path / "pipe.parquet")), features=["x"], preprocessing="none"
    )
    with pytest.raises(SourceReadError, match="regular file"):
        daemon.client().open(spec)
