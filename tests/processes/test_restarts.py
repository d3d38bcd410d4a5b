"""A daemon that is killed under running jobs, and is there again: their epochs stay exact."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from faucet_client import DaemonLost, IteratorError
from faucet_client.status import Status
from tests.processes.daemons import StartDaemon, WatchedDaemon
from tests.processes.rows import assert_exact
from tests.processes.tables import MakeTable
from tests.processes.trainers import StartTrainer
from tests.processes.waiting import eventually

PATIENCE_S = 300.0


def kill_again_and_again(
    kills: int, start_daemon: StartDaemon, make_table: MakeTable, start_trainer: StartTrainer
) -> None:
    """Three jobs read while their daemon dies; each sees each row once an epoch."""
    table = make_table(rows=60_000, chunk_rows=1_500)
    daemon = start_daemon("1MiB")  # a third of the table
    chance = random.Random(kills)
    epochs = max(kills // 5, 2)
    trainers = [start_trainer(daemon, table, patience_s=PATIENCE_S) for _ in range(3)]
    for number, trainer in enumerate(trainers):
        trainer.start([250, 400, 1_111][number], epochs=epochs, seed=number)
        trainer.send("read", keep=number, pause_s=[0.0, 0.002, 0.006][number])
    for _ in range(kills):
        # At any moment: a random time is what is tested, and nothing depends on its length.
        time.sleep(chance.uniform(0.0, 0.4))
        daemon.kill()
        daemon.restart()
    reconnections = 0
    for trainer in trainers:
        told = trainer.answer(400.0)
        assert "error" not in told, told
        ids = trainer.ids().reshape(epochs, table.rows)
        for epoch in ids:
            assert_exact(epoch, table.rows)
        reconnections += trainer.ask("stats")["reconnections"]
    assert reconnections > 0
    status = daemon.client().status()
    assert status.memory.peak_bytes <= status.memory.budget_bytes


def test_ten_kills_of_the_daemon_cost_nobody_a_row(
    start_daemon: StartDaemon, make_table: MakeTable, start_trainer: StartTrainer
) -> None:
    kill_again_and_again(10, start_daemon, make_table, start_trainer)


@pytest.mark.soak
def test_a_hundred_kills_of_the_daemon_cost_nobody_a_row(
    start_daemon: StartDaemon, make_table: MakeTable, start_trainer: StartTrainer
) -> None:
    kill_again_and_again(100, start_daemon, make_table, start_trainer)


def test_batches_that_were_handed_out_stay_valid_and_the_iterator_goes_on(
    daemon: WatchedDaemon, make_table: MakeTable, start_trainer: StartTrainer
) -> None:
    table = make_table()
    trainer = start_trainer(daemon, table, patience_s=PATIENCE_S)
    trainer.start(500)
    trainer.ask("read", count=10, keep=6)
    checksum = trainer.ask("checksum")
    daemon.kill()
    daemon.restart()
    assert trainer.ask("checksum") == checksum
    assert trainer.ask("read", keep=6) == {"read": table.rows // 500 - 10}
    assert trainer.ask("check_held") == {"held": 6}
    assert_exact(trainer.ids(), table.rows)


def test_a_reader_of_ranks_with_a_state_goes_on_after_a_restart(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    dataset = daemon.client(PATIENCE_S).open(make_table(rows=20_011).spec())
    states, found = [], []
    for rank in range(3):
        with dataset.batches(batch_size=100, rank=rank, world_size=3) as batches:
            found += [next(batches).clone() for _ in range(11)]
            states.append(batches.state_dict())
    for rank in range(2):
        with dataset.batches(batch_size=50, rank=rank, world_size=2, state=states) as rest:
            found += [next(rest).clone() for _ in range(7)]
            daemon.kill()
            daemon.restart()
            found += [batch.clone() for batch in rest]
            assert rest.stats().reconnections == 1
    ids = np.concatenate([batch.passthrough["id"] for batch in found])
    assert len(np.unique(ids)) == len(ids) == 20_011 - (20_011 - 3_300) % 2


def test_a_reader_whose_trainer_waits_is_sent_no_more_after_restarts(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    table = make_table(rows=60_000)
    client = daemon.client(PATIENCE_S)
    with client.open(table.spec()).batches(batch_size=500) as batches:
        next(batches)
        wait_for_all_that_is_sent(client.status)
        nbytes = client.status().memory.leased_bytes
        for restarts in range(1, 4):
            daemon.kill()
            daemon.restart()
            eventually(lambda: batches.stats().reconnections == restarts, 30.0)  # noqa: B023
            wait_for_all_that_is_sent(client.status)
        assert batches.stats().bytes_mapped == nbytes
        rest = np.concatenate([batch.passthrough["id"] for batch in batches])
    assert len(np.unique(rest)) == len(rest) == table.rows - 500


def wait_for_all_that_is_sent(status: Callable[[], Status]) -> None:
    """Waits until there are more chunks than a reader takes that does not go on."""

    def all_sent(now: Status) -> bool:
        return bool(
            now.readers
            and all(worker.state == "idle" for worker in now.workers)
            and now.datasets[0].chunks_resident > now.readers[0].rows_granted // 2_000
        )

    eventually(lambda: all_sent(status()), 30.0)


def test_patience_has_an_end_and_says_so(daemon: WatchedDaemon, make_table: MakeTable) -> None:
    dataset = daemon.client(patience_s=0.3).open(make_table(rows=200_000).spec())
    batches = dataset.batches(batch_size=100)
    next(batches)
    daemon.kill()
    with pytest.raises(DaemonLost, match=r"not there again within 0\.3 s.*FAUCET_PATIENCE_S"):
        list(batches)
    daemon.restart()


def test_a_call_that_was_lost_leaves_no_thread_behind(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    table = make_table(rows=60_000)
    before = threading.active_count()
    with daemon.client(PATIENCE_S).open(table.spec()).batches(batch_size=500) as batches:
        for _ in range(3):
            next(batches)
            daemon.kill()
            daemon.restart()
            wanted = batches.stats().reconnections + 1
            eventually(lambda: batches.stats().reconnections == wanted, 30.0)  # noqa: B023
        assert sum(len(batch) for batch in batches) == table.rows - 3 * 500
    eventually(lambda: threading.active_count() <= before + 4)


def test_closing_the_client_ends_an_iterator_that_waits_for_a_daemon(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    client = daemon.client(PATIENCE_S)
    batches = client.open(make_table(rows=200_000).spec()).batches(batch_size=100)
    next(batches)
    daemon.kill()
    client.close()
    with pytest.raises(IteratorError, match="the client was closed"):
        list(batches)
    daemon.restart()


def test_an_epoch_that_was_left_early_is_not_asked_for_again(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    table = make_table(rows=60_000)
    dataset = daemon.client(PATIENCE_S).open(table.spec())
    with dataset.epochs(count=2, batch_size=500) as epochs:
        next(iter(next(epochs)))
        daemon.kill()
        second = iter(next(epochs))  # which nobody hears
        daemon.restart()
        ids = np.concatenate([batch.passthrough["id"] for batch in second])
    assert_exact(ids, table.rows)


def test_a_client_that_is_closed_while_its_daemon_is_away_takes_its_iterators_with_it(
    daemon: WatchedDaemon, make_table: MakeTable, caplog: pytest.LogCaptureFixture
) -> None:
    client = daemon.client(PATIENCE_S)
    batches = client.open(make_table(rows=200_000).spec()).batches(batch_size=100)
    next(batches)
    daemon.kill()
    eventually(lambda: f"Waiting {PATIENCE_S:g} s for it" in caplog.text)
    client.close()
    daemon.restart()
    with pytest.raises(IteratorError, match="the client was closed"):
        list(batches)
    assert daemon.client().status().readers == ()


def test_epochs_that_were_not_begun_are_not_read(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    table = make_table(rows=60_000)
    dataset = daemon.client().open(table.spec())
    with dataset.batches(batch_size=500) as batches:
        list(batches)
        nbytes = batches.stats().bytes_mapped
    for shuffle in ("batches", "rows"):
        with dataset.epochs(count=4, batch_size=500, shuffle=shuffle) as epochs:
            for _ in range(3):
                next(epochs)
            ids = np.concatenate([batch.passthrough["id"] for batch in next(epochs)])
            # Of those before it no more than was granted ahead.
            assert epochs.stats().bytes_mapped < 2 * nbytes
        assert_exact(ids, table.rows)
