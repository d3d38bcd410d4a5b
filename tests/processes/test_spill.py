"""The spill tier: memory's overflow is on disk, and the source is read once, whatever dies."""

from __future__ import annotations

import json
import os
import random
import re
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faucet_client.errors import DaemonError, SourceChanged
from faucet_client.status import Status
from tests.processes.bigquery import Warehouse, ids_in, reaching, read_chunks, same_chunks
from tests.processes.daemons import StartDaemon, WatchedDaemon, dataset_of, wait_idle
from tests.processes.rows import assert_exact
from tests.processes.tables import MakeTable, Table
from tests.processes.trainers import StartTrainer, Trainer
from tests.processes.waiting import eventually

MIB = 1 << 20
BATCH = 500


@pytest.fixture
def table(make_table: MakeTable) -> Table:
    """Ten times as large, once prepared, as 4 MiB of memory; 100 chunks."""
    return make_table(rows=200_000, features=50, chunk_rows=2_000)


def wait_spilled(daemon: WatchedDaemon, chunks: int) -> Status:
    """Waits until so many chunks are on disk, and nothing more happens."""
    client = daemon.client()
    eventually(lambda: client.status().datasets[0].chunks_spilled == chunks)
    wait_idle(client.status)
    return client.status()


def read_epochs(trainer: Trainer, table: Table, epochs: int) -> None:
    """The trainer reads each row once an epoch, with its own values."""
    batches = trainer.start(BATCH, epochs=epochs)
    trainer.send("read")
    finish_epochs(trainer, table, epochs, batches)


def finish_epochs(trainer: Trainer, table: Table, epochs: int, batches: int) -> None:
    """What it was told to read, it has read."""
    assert trainer.answer(120.0) == {"read": batches}
    ids = trainer.ids()
    for epoch in range(epochs):
        assert_exact(ids[epoch * table.rows : (epoch + 1) * table.rows], table.rows)


def test_a_table_ten_times_the_memory_is_read_from_the_source_once(
    start_daemon: StartDaemon, table: Table, start_trainer: StartTrainer, spill_dir: Path
) -> None:
    daemon = start_daemon("4MiB", workers=2, spill_dir=str(spill_dir))
    trainers = [start_trainer(daemon, table) for _ in range(2)]
    batches = [trainer.start(BATCH, epochs=3) for trainer in trainers]
    for trainer in trainers:
        trainer.send("read")
    for trainer, count in zip(trainers, batches, strict=True):
        finish_epochs(trainer, table, 3, count)
    status = daemon.client().status()
    (dataset,) = status.datasets
    assert dataset.source_rows_read == table.rows
    assert (dataset.chunks, dataset.chunks_made, dataset.chunks_spilled) == (100, 100, 100)
    assert dataset.chunks_restored >= 2 * (100 - 10)
    assert dataset.spilled_bytes == status.spill_used_bytes > 40 * MIB
    assert status.memory.peak_bytes <= status.memory.budget_bytes == 4 * MIB
    assert not status.alerts


def test_a_daemon_that_was_killed_and_started_again_reads_nothing_from_the_source(
    start_daemon: StartDaemon, table: Table, start_trainer: StartTrainer, spill_dir: Path
) -> None:
    daemon = start_daemon("4MiB", workers=2, spill_dir=str(spill_dir))
    read_epochs(start_trainer(daemon, table), table, 1)
    wait_spilled(daemon, 100)
    daemon.kill()
    daemon.restart()
    read_epochs(start_trainer(daemon, table), table, 2)
    dataset = dataset_of(daemon)
    assert (dataset.source_rows_read, dataset.chunks_made) == (0, 0)
    assert dataset.chunks_restored >= 100


def test_an_eval_split_that_nobody_wanted_comes_from_the_same_pass(
    start_daemon: StartDaemon, make_table: MakeTable, start_trainer: StartTrainer, spill_dir: Path
) -> None:
    table = make_table(rows=100_000, features=50, chunk_rows=2_000)
    split: dict[str, Any] = {"hash_column": "id", "eval_percent": 20}
    daemon = start_daemon("4MiB", workers=2, spill_dir=str(spill_dir))
    trainer = start_trainer(daemon, table, **split)
    trainer.start(BATCH)
    trainer.send("read")
    assert "error" not in trainer.answer(120.0)
    train = trainer.ids()
    judge = start_trainer(daemon, table, **split)
    judge.start(BATCH, split="eval")
    judge.send("read")
    assert "error" not in judge.answer(120.0)
    assert_exact(np.concatenate([train, judge.ids()]), table.rows)
    dataset = dataset_of(daemon)
    assert (dataset.source_rows_read, dataset.chunks_made) == (table.rows, 50)


def test_a_file_that_has_changed_on_disk_is_read_from_the_source_again_with_an_alert(
    start_daemon: StartDaemon, table: Table, start_trainer: StartTrainer, spill_dir: Path
) -> None:
    daemon = start_daemon("4MiB", workers=2, spill_dir=str(spill_dir))
    read_epochs(start_trainer(daemon, table), table, 1)
    wait_spilled(daemon, 100)
    daemon.kill()
    flipped, shortened, missing, *_ = sorted(spill_dir.rglob("*.arrow"))
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 1
    flipped.write_bytes(data)
    daemon.restart()
    os.truncate(shortened, 1_000)  # only now, so that it is not swept
    missing.unlink()
    read_epochs(start_trainer(daemon, table), table, 1)
    status = wait_spilled(daemon, 100)
    (dataset,) = status.datasets
    assert (dataset.chunks_made, dataset.source_rows_read) == (3, 3 * table.chunk_rows)
    for file, story in (
        (flipped, "is not what was written"),
        (shortened, "has 1,000 bytes instead of"),
        (missing, "No such file"),
    ):
        (alert,) = [alert for alert in status.alerts if str(file) in alert]
        assert story in alert
        assert alert in daemon.log
    assert flipped.read_bytes() != data  # it was written anew


def test_a_full_disk_ends_the_spilling_and_training_goes_on(
    start_daemon: StartDaemon, table: Table, start_trainer: StartTrainer, spill_dir: Path
) -> None:
    daemon = start_daemon("4MiB", workers=2, spill_dir=str(spill_dir))
    # A disk that takes no file of a segment's size, and gives the error that a quota gives.
    resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (300_000, 300_000))
    read_epochs(start_trainer(daemon, table), table, 2)
    status = daemon.client().status()
    (dataset,) = status.datasets
    assert dataset.source_rows_read > table.rows
    assert (dataset.chunks_spilled, status.spill_used_bytes) == (0, 0)
    (alert,) = status.alerts
    assert "nothing more is spilled to disk" in alert
    assert not list(spill_dir.rglob("*.part"))


def test_a_disk_that_has_room_again_is_used_again(
    start_daemon: StartDaemon, table: Table, start_trainer: StartTrainer, spill_dir: Path
) -> None:
    daemon = start_daemon("4MiB", workers=2, spill_dir=str(spill_dir))
    client = daemon.client()
    limit = resource.RLIMIT_FSIZE
    _, most = resource.prlimit(daemon.process.pid, limit)
    resource.prlimit(daemon.process.pid, limit, (300_000, most))
    trainer = start_trainer(daemon, table)
    trainer.start(BATCH, epochs=20)
    trainer.send("read", pause_s=0.002)
    (alert,) = eventually(lambda: client.status().alerts, 60.0)
    assert re.search(r"nothing more is spilled to disk for \d+ s: .*File too large", alert)
    resource.prlimit(daemon.process.pid, limit, (most, most))
    eventually(lambda: client.status().spill_used_bytes > 0, 120.0)
    eventually(lambda: not client.status().alerts, 60.0)
    trainer.kill()


def test_a_disk_that_hangs_keeps_no_memory_and_nobody_from_the_source(
    start_daemon: StartDaemon, table: Table, start_trainer: StartTrainer, spill_dir: Path
) -> None:
    daemon = start_daemon("4MiB", workers=2, spill_dir=str(spill_dir))
    client = daemon.client()
    folder = spill_dir / client.open(table.spec()).info.key
    folder.mkdir(mode=0o700)
    pipes = [folder / f"{chunk}-train.part" for chunk in range(100)]
    for pipe in pipes:
        os.mkfifo(pipe)  # nobody reads it, so that whoever opens it to write hangs
    read_epochs(start_trainer(daemon, table), table, 2)
    status = client.status()
    (alert,) = status.alerts
    assert "has not answered for 15 s" in alert
    assert status.spill_used_bytes == status.datasets[0].chunks_spilled == 0
    assert daemon.stop() == 0  # the thread hangs still
    daemon.restart()
    read_epochs(start_trainer(daemon, table), table, 1)
    assert dataset_of(daemon).chunks_spilled > 0
    assert not daemon.client().status().alerts


def test_after_random_kills_only_valid_files_are_left_and_rows_are_exact(
    start_daemon: StartDaemon, table: Table, start_trainer: StartTrainer, spill_dir: Path
) -> None:
    daemon = start_daemon("4MiB", workers=2, spill_dir=str(spill_dir))
    random_ = random.Random(5)
    for _ in range(4):
        spilled = len(list(spill_dir.rglob("*.arrow")))
        trainer = start_trainer(daemon, table)
        trainer.start(BATCH)
        trainer.send("read")
        more = random_.randrange(1, 20)
        eventually(lambda: len(list(spill_dir.rglob("*.arrow"))) >= spilled + more, 30.0)  # noqa: B023  # called at once
        daemon.kill()
        trainer.kill()
        daemon.restart()
        (folder,) = (path for path in spill_dir.iterdir() if path.is_dir())
        lines = (folder / "index").read_text().splitlines()[1:]
        names = {f"{line['chunk']}-{line['split']}.arrow" for line in map(json.loads, lines)}
        assert {path.name for path in folder.iterdir()} == names | {"index"}
        assert len(names) >= spilled
    read_epochs(start_trainer(daemon, table), table, 1)
    status = wait_spilled(daemon, 100)
    assert status.datasets[0].source_rows_read == table.rows - len(names) * table.chunk_rows
    assert not status.alerts


def test_two_daemons_do_not_share_a_spill_dir(start_daemon: StartDaemon, spill_dir: Path) -> None:
    first = start_daemon(spill_dir=str(spill_dir))
    with pytest.raises(DaemonError, match=f"uses spill_dir .*pid {first.process.pid}"):
        start_daemon(spill_dir=str(spill_dir))


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o777])
def test_a_spill_dir_that_others_can_look_into_is_refused(
    start_daemon: StartDaemon, spill_dir: Path, mode: int
) -> None:
    spill_dir.mkdir()
    spill_dir.chmod(mode)
    with pytest.raises(DaemonError, match=r"open to others .*chmod 700"):
        start_daemon(spill_dir=str(spill_dir))


def test_drop_removes_the_spill_files_of_a_dataset(
    start_daemon: StartDaemon, table: Table, start_trainer: StartTrainer, spill_dir: Path
) -> None:
    daemon = start_daemon("4MiB", workers=2, spill_dir=str(spill_dir))
    trainer = start_trainer(daemon, table)
    read_epochs(trainer, table, 1)
    trainer.kill()
    wait_spilled(daemon, 100)
    key = dataset_of(daemon).key
    _, freed = daemon.client().session().drop(key)
    assert freed > 40 * MIB
    eventually(lambda: [path.name for path in spill_dir.iterdir()] == ["lock"])
    assert daemon.client().status().spill_used_bytes == 0


def test_drop_removes_the_spill_files_of_a_dataset_that_nobody_has_opened_since(
    start_daemon: StartDaemon, make_table: MakeTable, start_trainer: StartTrainer, spill_dir: Path
) -> None:
    table = make_table()
    daemon = start_daemon(spill_dir=str(spill_dir))
    trainer = start_trainer(daemon, table)
    read_epochs(trainer, table, 1)
    trainer.kill()
    key = dataset_of(daemon).key
    assert daemon.stop() == 0  # it writes what is still to be written
    daemon.restart()
    client = daemon.client()
    assert client.status().spill_used_bytes >= table.rows * 28
    assert client.session().drop(key[:8])[0] == key
    eventually(lambda: [path.name for path in spill_dir.iterdir()] == ["lock"])
    assert client.status().spill_used_bytes == 0


# BigQuery, whose chunks another read would deal otherwise.


def test_chunks_of_an_expired_session_are_read_from_disk_by_the_next_daemon(
    bigquery: Warehouse, start_daemon: StartDaemon, spill_dir: Path
) -> None:
    bigquery.server.configure(session_life_s=300)  # too soon to be joined, unless all is held
    table = bigquery.load(rows=20_000, features=20, chunk_rows=1_000)
    daemon = start_daemon("1MiB", 2, spill_dir=str(spill_dir), **reaching(bigquery.server))
    client = daemon.client()
    dataset = client.open(table.spec())
    (before,) = read_chunks(client, dataset)
    eventually(
        lambda: client.status().spill_used_bytes == client.status().datasets[0].spilled_bytes
    )
    daemon.kill()
    bigquery.server.faults(sessions_expired=True)
    calls = bigquery.calls("ReadRows")
    daemon.restart()
    client = daemon.client()
    again = client.open(table.spec())
    assert again.info.key == dataset.info.key
    (after,) = read_chunks(client, again)
    assert same_chunks(before, after)
    assert_exact(ids_in(after), table.rows)
    assert bigquery.calls("ReadRows") == calls
    assert client.status().datasets[0].source_rows_read == 0


def test_a_lost_chunk_of_an_expired_session_is_told_with_the_budgets_that_would_have_kept_it(
    bigquery: Warehouse, start_daemon: StartDaemon, spill_dir: Path
) -> None:
    table = bigquery.load(rows=20_000, features=20, chunk_rows=1_000)
    daemon = start_daemon(
        "1MiB", 2, spill_dir=str(spill_dir), spill_budget="200kB", **reaching(bigquery.server)
    )
    client = daemon.client()
    dataset = client.open(table.spec())
    read_chunks(client, dataset)
    bigquery.server.faults(sessions_expired=True)
    with pytest.raises(SourceChanged, match="session expired") as told:
        read_chunks(client, dataset)
    for part in ("memory_budget=1,048,576", "spill_budget=200,000", 'chunking="hash"'):
        assert part in str(told.value)
