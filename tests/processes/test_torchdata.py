"""torchdata's StatefulDataLoader over a FaucetDataset: killed trainers go on exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from faucet_client import FaucetDataset, StateError
from tests.processes.daemons import WatchedDaemon
from tests.processes.rows import assert_exact, ids_of
from tests.processes.tables import MakeTable, Table
from tests.processes.trainers import StartTrainer, Trainer

ROWS, BATCH = 4_003, 100


@pytest.fixture
def table(make_table: MakeTable) -> Table:
    return make_table(rows=ROWS, chunk_rows=500)


def loading(
    start_trainer: StartTrainer,
    daemon: WatchedDaemon,
    table: Table,
    workers: int,
    state: dict[str, Any] | None = None,
    **arguments: Any,
) -> Trainer:
    trainer = start_trainer(daemon, table)
    told = trainer.ask(
        "load", workers=workers, state=state, **{"batch_size": BATCH, "seed": 3} | arguments
    )
    assert "batches" in told, told
    trainer.ask("iterate")
    return trainer


@pytest.mark.parametrize(
    ("wishes", "workers"),
    [({}, 0), ({}, 2), ({"order": "deterministic"}, 0), ({"shuffle": "rows"}, 0)],
)
def test_a_killed_trainer_goes_on_in_mid_epoch_as_often_as_it_takes(
    wishes: dict[str, Any],
    workers: int,
    daemon: WatchedDaemon,
    table: Table,
    start_trainer: StartTrainer,
) -> None:
    trainer = loading(start_trainer, daemon, table, workers, **wishes)
    trainer.ask("read")
    assert_exact(trainer.ids(), ROWS)
    trainer.ask("iterate")
    had = []
    for count in (7, 0, 12):
        trainer.ask("read", count=count)
        state = trainer.ask("loader_state")["state"]
        had.append(trainer.ids())
        trainer.ask("read", count=5)  # after the checkpoint: these come again
        trainer.kill()
        trainer = loading(start_trainer, daemon, table, workers, state, **wishes)
    trainer.ask("read", keep=1)
    assert trainer.ask("place")["epoch"] == 1
    had.append(trainer.ids())
    assert_exact(np.concatenate(had), ROWS)
    trainer.ask("iterate")
    trainer.ask("read", keep=1)
    assert trainer.ask("place")["epoch"] == 2
    assert_exact(trainer.ids(), ROWS)


def test_a_trainer_goes_on_at_once_though_workers_of_the_killed_one_have_its_name(
    daemon: WatchedDaemon, table: Table, start_trainer: StartTrainer
) -> None:
    wishes: dict[str, Any] = {"workers": 2, "batch_size": BATCH, "seed": 3, "job": "the same"}
    first, second = (start_trainer(daemon, table, patience_s=60.0) for _ in range(2))
    second.opened()  # so that it begins before the workers notice that they are orphans
    first.ask("load", **wishes)
    first.ask("iterate")
    first.ask("read", count=9)
    state = first.ask("loader_state")["state"]
    had = first.ids()
    first.kill()
    second.ask("load", state=state, **wishes)
    second.send("iterate")
    assert "error" not in second.answer()
    told = second.ask("read")
    assert "error" not in told, told
    assert_exact(np.concatenate([had, second.ids()]), ROWS)


@pytest.mark.parametrize("ended", [False, True], ids=["at the last batch", "after the end"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_state_of_an_epoch_s_end_goes_on_with_the_next_epoch(
    workers: int,
    ended: bool,
    daemon: WatchedDaemon,
    table: Table,
    start_trainer: StartTrainer,
) -> None:
    first = loading(start_trainer, daemon, table, workers)
    batches = first.ask("read")["read"]
    first.ask("iterate")
    first.ask("read", count=None if ended else batches)
    state = first.ask("loader_state")["state"]
    first.kill()
    second = loading(start_trainer, daemon, table, workers, state)
    if not ended:  # the loop that goes on has nothing left of this epoch
        assert second.ask("read") == {"read": 0}
        second.ask("iterate")
    second.ask("read", keep=1)
    assert second.ask("place")["epoch"] == 2
    assert_exact(second.ids(), ROWS)


def test_ranks_share_an_epoch_and_states_are_dealt_to_other_ranks(
    daemon: WatchedDaemon, table: Table
) -> None:
    dataset = daemon.client().open(table.spec())
    states, had = [], []
    for rank in range(3):
        rows = FaucetDataset(dataset, batch_size=BATCH, rank=rank, world_size=3)
        assert len(rows) == -(-(ROWS // 3) // BATCH)
        batches = iter(rows)
        had += [ids_of(next(batches)) for _ in range(4)]
        states.append(rows.state_dict())
        rows.close()
    for rank in range(2):
        rows = FaucetDataset(dataset, batch_size=BATCH, rank=rank, world_size=2)
        rows.load_state_dict(states)
        rows.load_state_dict(rows.state_dict())  # before the first batch as well
        had += [ids_of(batch) for batch in rows]
    ids = np.concatenate(had)
    assert len(np.unique(ids)) == len(ids) == ROWS - (ROWS - 1_200) % 2


def test_a_plain_dataloader_goes_on_from_the_dataset_s_state(
    daemon: WatchedDaemon, table: Table
) -> None:
    dataset = daemon.client().open(table.spec())
    rows = FaucetDataset(dataset, batch_size=BATCH)
    rows.set_epoch(4)
    fresh = rows.state_dict()
    assert (fresh["epoch"], fresh["batch"], fresh["ended"]) == (4, 0, False)
    batches = iter(DataLoader(rows, batch_size=None))
    had = [ids_of(next(batches)) for _ in range(11)]
    state = rows.state_dict()
    rows.close()
    other = FaucetDataset(dataset, batch_size=BATCH)
    other.load_state_dict(state)
    other.set_epoch(4)  # of the same epoch: it still is its rest
    loader = DataLoader(other, batch_size=None)
    had += [ids_of(batch) for batch in loader]
    assert_exact(np.concatenate(had), ROWS)
    assert {batch.epoch for batch in loader} == {5}
    other.load_state_dict(state)
    other.set_epoch(7)  # of another one: it begins
    assert_exact(np.concatenate([ids_of(batch) for batch in loader]), ROWS)
    assert other.state_dict()["epoch"] == 8


def test_states_that_cannot_be_told_or_gone_on_from_are_refused(
    daemon: WatchedDaemon, table: Table
) -> None:
    dataset = daemon.client().open(table.spec())
    rows = FaucetDataset(dataset, batch_size=BATCH)
    with pytest.raises(StateError, match="saved with seed=0, and this reader has 1"):
        FaucetDataset(dataset, batch_size=BATCH, seed=1).load_state_dict(rows.state_dict())
    with pytest.raises(StateError, match="no state of a reader"):
        rows.load_state_dict({"epoch": 1})
    assert len(list(DataLoader(rows, batch_size=None, num_workers=1))) == len(rows)
    with pytest.raises(StateError, match="StatefulDataLoader"):
        rows.state_dict()
