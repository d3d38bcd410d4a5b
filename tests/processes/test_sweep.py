"""Many jobs at once, each in its own way, some of them badly: one read, and every row for each."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from faucet_client.status import DatasetStatus
from tests.processes.daemons import StartDaemon, WatchedDaemon, dataset_of, reader_of
from tests.processes.rows import Ids, assert_exact
from tests.processes.tables import MakeTable, Table
from tests.processes.trainers import StartTrainer, Trainer
from tests.processes.waiting import eventually

EPOCHS = 3
CHUNKS = 420
CHUNK_ROWS = 500
EVERYTHING = 10**9

FEATURES = 20
BUDGET_BYTES = 2_000_000
"""A tenth of the table, once prepared: 40 segments. The least that admits 8 readers is 38: each is
promised a quarter of what is free, up to 8 segments, but 3 at least."""

TIMES = 100
"""A job is so many times slower than its quickest peer, for as long as that one reads."""

READ_S = 120.0


@dataclass(frozen=True)
class Job:
    """How a trainer reads.

    Attributes:
        batch_size: Rows of its batches.
        shuffle: As `batches` takes it.
        order: As `batches` takes it.
        pause_s: What it does between two batches takes so long.
        keep: Batches that it holds on to.
    """

    batch_size: int
    shuffle: str = "batches"
    order: str = "shared"
    pause_s: float = 0.0
    keep: int = 0

    def begin(self, trainer: Trainer) -> int:
        """Has a trainer make its iterator; batches that it will have."""
        return trainer.start(
            self.batch_size, epochs=EPOCHS, shuffle=self.shuffle, order=self.order, seed=3
        )

    def read(self, trainer: Trainer) -> None:
        """Has it read all that is left, without waiting for it."""
        trainer.send("read", keep=self.keep, pause_s=self.pause_s)


QUICK = Job(300)
SLOW = Job(299)
KILLED = Job(300, shuffle="rows")
STOPPED = Job(1_000)
HOARDER = Job(1_000, keep=EVERYTHING)
OTHERS = (
    Job(1_000, shuffle="none"),
    Job(300, shuffle="rows", order="deterministic"),
    Job(8_192, pause_s=0.01),
)


@pytest.fixture
def table(make_table: MakeTable) -> Table:
    """20 MB once prepared, in many small chunks."""
    return make_table(rows=CHUNKS * CHUNK_ROWS, features=FEATURES, chunk_rows=CHUNK_ROWS)


def has_had(daemon: WatchedDaemon, trainer: Trainer, rows: int) -> Callable[[], bool]:
    """Tells whether a trainer that reads has told of so many rows."""
    client = daemon.client()

    def told() -> bool:
        reader = reader_of(client.status(), trainer.name)
        return reader is not None and reader.rows_consumed >= rows

    return told


def assert_epochs_exact(ids: Ids, table: Table, epochs: int = EPOCHS) -> None:
    """Of ids in the order of reading, each epoch's are each row once."""
    assert len(ids) == epochs * table.rows
    for epoch in range(epochs):
        assert_exact(ids[epoch * table.rows : (epoch + 1) * table.rows], table.rows)


def resume_after_a_kill(
    killed: Trainer, batches: int, start_trainer: Callable[[], Trainer]
) -> tuple[Ids, Trainer]:
    """SIGKILLs a trainer in its second epoch; what it had by its checkpoint, and who goes on."""
    killed.ask("read", count=batches // 2)
    state = killed.ask("state")["state"]
    assert state["epoch"] == 1
    had = killed.ids()
    killed.ask("read", count=7)  # after its checkpoint: these come again
    killed.kill()
    resumed = start_trainer()
    resumed.start(
        KILLED.batch_size,
        epochs=EPOCHS,
        shuffle=KILLED.shuffle,
        order=KILLED.order,
        seed=3,
        state=state,
    )
    KILLED.read(resumed)
    return had, resumed


def test_eight_jobs_that_start_and_read_as_they_like_get_every_row_of_one_read(
    start_daemon: StartDaemon, table: Table, start_trainer: StartTrainer, spill_dir: Path
) -> None:
    daemon = start_daemon(f"{BUDGET_BYTES}B", workers=2, spill_dir=str(spill_dir))
    moments = random.Random(8)
    trainers: dict[Job, Trainer] = {}
    batches: dict[Job, int] = {}
    for job in (STOPPED, QUICK, SLOW, HOARDER, KILLED, *OTHERS):
        trainers[job] = start_trainer(daemon, table)
        batches[job] = job.begin(trainers[job])
        if job is SLOW:
            trainers[job].send("crawl", peer=trainers[QUICK].name, times=TIMES)
        elif job is not KILLED:
            job.read(trainers[job])
        time.sleep(moments.uniform(0, 0.5))  # a person starts the next one at some moment

    eventually(has_had(daemon, trainers[STOPPED], 20_000), READ_S)
    trainers[STOPPED].signal(signal.SIGSTOP)
    try:
        had, resumed = resume_after_a_kill(
            trainers.pop(KILLED), batches[KILLED], lambda: start_trainer(daemon, table)
        )
        for job in (QUICK, HOARDER, *OTHERS):  # all of this while one is stopped
            assert trainers[job].answer(READ_S) == {"read": batches[job]}
    finally:
        trainers[STOPPED].signal(signal.SIGCONT)
    assert trainers[STOPPED].answer(READ_S) == {"read": batches[STOPPED]}
    crawled = trainers[SLOW].answer(READ_S)["read"]
    assert 2 <= crawled <= batches[QUICK] // TIMES + 1
    SLOW.read(trainers[SLOW])  # as quickly as it can
    assert trainers[SLOW].answer(READ_S) == {"read": batches[SLOW] - crawled}
    assert "error" not in resumed.answer(READ_S)

    for trainer in trainers.values():
        assert_epochs_exact(trainer.ids(), table)
    assert_epochs_exact(np.concatenate([had, resumed.ids()]), table)
    assert trainers[HOARDER].ask("check_held") == {"held": batches[HOARDER]}
    status = daemon.client().status()
    (dataset,) = status.datasets
    assert dataset.source_rows_read == table.rows
    assert (dataset.chunks, dataset.chunks_made) == (CHUNKS, CHUNKS)
    assert dataset.spilled_bytes >= 10 * BUDGET_BYTES
    assert status.memory.peak_bytes <= status.memory.budget_bytes == BUDGET_BYTES
    assert not status.alerts


def join_late(daemon: WatchedDaemon, table: Table, start_trainer: StartTrainer) -> DatasetStatus:
    """A second job begins when the first has had 60 % of its epoch; how that ended.

    Both then read as quickly as they can.
    """
    first = start_trainer(daemon, table)
    batches = first.start(QUICK.batch_size)
    first.ask("read", count=batches * 6 // 10)
    late = start_trainer(daemon, table)
    late.start(QUICK.batch_size)
    for trainer in (first, late):
        trainer.send("read")
    for trainer in (first, late):
        assert "error" not in trainer.answer(READ_S)
        assert_epochs_exact(trainer.ids(), table, 1)
    return dataset_of(daemon)


@pytest.mark.parametrize("held_by", ["memory", "disk"])
def test_a_late_joiner_costs_no_further_read_where_memory_or_disk_hold_the_table(
    held_by: str,
    start_daemon: StartDaemon,
    table: Table,
    start_trainer: StartTrainer,
    spill_dir: Path,
) -> None:
    if held_by == "memory":
        daemon = start_daemon("64MiB")
    else:
        daemon = start_daemon(f"{BUDGET_BYTES}B", spill_dir=str(spill_dir))
    dataset = join_late(daemon, table, start_trainer)
    assert (dataset.source_rows_read, dataset.chunks_made) == (table.rows, CHUNKS)
    assert (dataset.chunks_restored > 0) == (held_by == "disk")


def test_a_late_joiner_takes_what_half_the_memory_has_and_shares_what_is_still_to_be_read(
    start_daemon: StartDaemon, table: Table, start_trainer: StartTrainer
) -> None:
    daemon = start_daemon(f"{5 * BUDGET_BYTES}B")
    dataset = join_late(daemon, table, start_trainer)
    # What was evicted before it came has to be read again: a tenth, and the few that both are at.
    # Were it not given what is resident, that would be the 60 %; and 100 %, did the two not share
    # what was still to be read.
    assert table.rows < dataset.source_rows_read < 1.17 * table.rows
