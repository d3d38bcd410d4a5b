"""The spill tier: memory's overflow is on disk, and the source is read once, whatever dies."""

from __future__ import annotations

from pathlib import Path

import pytest

from faucet_client.status import DatasetStatus, Status
from tests.processes.daemons import StartDaemon, WatchedDaemon, wait_idle
from tests.processes.rows import assert_exact
from tests.processes.tables import MakeTable, Table
from tests.processes.trainers import StartTrainer, Trainer
from tests.processes.waiting import eventually

MIB = 1 << 20
BATCH = 500


@pytest.fixture
def spill_dir(tmp_path: Path) -> Path:
    """Where the daemons of a test spill to."""
    return tmp_path / "spill"


@pytest.fixture
def table(make_table: MakeTable) -> Table:
    """Ten times as large, once prepared, as 4 MiB of memory; 100 chunks."""
    return make_table(rows=200_000, features=50, chunk_rows=2_000)


def dataset_of(daemon: WatchedDaemon) -> DatasetStatus:
    """The only dataset's status."""
    (dataset,) = daemon.client().status().datasets
    return dataset


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
