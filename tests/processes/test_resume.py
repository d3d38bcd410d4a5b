"""A reader goes on from its state: exactly, in another process, on other ranks."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from faucet_client import Batch, StateError
from tests.processes.daemons import WatchedDaemon
from tests.processes.rows import Ids, assert_exact, ids_of
from tests.processes.tables import MakeTable
from tests.processes.trainers import StartTrainer

ROWS = 20_011  # a prime: no batch, chunk or world size divides it


def joined(batches: list[Batch]) -> Ids:
    return np.concatenate([ids_of(batch) for batch in batches] or [np.empty(0, np.int64)])


@pytest.mark.parametrize("order", ["shared", "deterministic"])
@pytest.mark.parametrize("shuffle", ["batches", "rows", "none"])
def test_a_reader_that_was_left_at_any_batch_goes_on_with_the_rest(
    shuffle: str, order: str, daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    dataset = daemon.client().open(make_table(rows=ROWS).spec())
    wishes: dict[str, Any] = {"batch_size": 300, "shuffle": shuffle, "order": order, "seed": 4}
    with dataset.batches(**wishes) as batches:
        whole = [ids_of(batch) for batch in batches]
    for taken in (0, 1, 6, 7, 40, 66):
        with dataset.batches(**wishes) as batches:
            before = [next(batches) for _ in range(taken)]
            state = json.loads(json.dumps(batches.state_dict()))
        with dataset.batches(**wishes, state=state) as rest:
            assert len(rest) == len(whole)
            after = list(rest)
        assert [batch.batch_num for batch in before + after] == list(range(67))
        assert_exact(joined(before + after), ROWS)
        if order == "deterministic" or shuffle == "none":
            for batch, ids in zip(before + after, whole, strict=True):
                assert np.array_equal(ids_of(batch), ids)


@pytest.mark.parametrize("by", ["batches", "epochs"])
def test_a_state_whose_rows_do_not_fit_is_an_error_that_stays(
    by: str, daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    dataset = daemon.client().open(make_table(rows=ROWS).spec())
    with dataset.batches(batch_size=300) as batches:
        next(batches)
        state = batches.state_dict()
    state["partly"][0][1] += 7  # rows of the chunk
    rest: Any = dataset.batches(batch_size=300, state=state)
    if by == "epochs":
        rest.close()
        rest = iter(next(dataset.epochs(count=2, batch_size=300, state=state)))
    for _ in range(2):
        with pytest.raises(StateError, match="would not have got"):
            list(rest)


def test_a_state_of_the_end_of_an_epoch_is_that_of_the_next_one_s_beginning(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    dataset = daemon.client().open(make_table(rows=ROWS).spec())
    with dataset.epochs(count=2, batch_size=500) as epochs:
        first = list(next(epochs))
        state = epochs.state_dict()
    assert (state["epoch"], state["batch"], state["rows"]) == (1, 0, 0)
    assert_exact(joined(first), ROWS)
    with dataset.epochs(count=2, batch_size=500, state=state) as epochs:
        numbers = [(epoch.number, joined(list(epoch))) for epoch in epochs]
        assert [number for number, _ in numbers] == [1]
        assert_exact(numbers[0][1], ROWS)
        end = epochs.state_dict()
    with pytest.raises(StateError, match="ask for more epochs"):
        dataset.epochs(count=2, batch_size=500, state=end)


def test_a_reader_that_was_resumed_can_be_left_and_resumed_again(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    dataset = daemon.client().open(make_table(rows=ROWS, chunk_rows=4_000).spec())
    batches = dataset.batches(batch_size=128, epochs=2)
    found: list[list[Batch]] = [[], []]
    for count in (3, 1, 20, 30, 0, 150, 2, 70):
        for _ in range(count):
            batch = next(batches)
            found[batch.epoch].append(batch.clone())
            del batch
        batches.load_state_dict(batches.state_dict())
    for batch in batches:
        found[batch.epoch].append(batch.clone())
    batches.close()
    for epoch in found:
        assert_exact(joined(epoch), ROWS)
        assert [batch.batch_num for batch in epoch] == list(range(157))


def test_the_batch_size_may_be_another_after_a_resumption(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    dataset = daemon.client().open(make_table(rows=ROWS).spec())
    with dataset.batches(batch_size=700) as batches:
        before = [next(batches) for _ in range(9)]
        state = batches.state_dict()
    with dataset.batches(batch_size=64, state=state) as rest:
        after = list(rest)
        assert len(rest) == 9 + len(after)
    assert {len(batch) for batch in after[:-1]} == {64}
    assert_exact(joined(before + after), ROWS)


@pytest.mark.parametrize("remainder", ["drop", "pad"])
def test_ranks_get_as_many_batches_and_rows_of_their_own(
    remainder: str, daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    dataset = daemon.client().open(make_table(rows=ROWS).spec())
    world = 4
    found = []
    for rank in range(world):
        with dataset.batches(
            batch_size=512, rank=rank, world_size=world, remainder=remainder, job="ranks"
        ) as batches:
            found.append(joined(list(batches)))
    size = -(-ROWS // world) if remainder == "pad" else ROWS // world
    assert [len(ids) for ids in found] == [size] * world
    ids, times = np.unique(np.concatenate(found), return_counts=True)
    if remainder == "pad":
        assert len(ids) == ROWS
        assert times.sum() - ROWS == world * size - ROWS
    else:
        assert (len(ids), times.max()) == (world * size, 1)


@pytest.mark.parametrize(("then", "now"), [(4, 2), (2, 5), (3, 1), (1, 3)])
def test_states_of_all_ranks_are_dealt_to_another_number_of_ranks(
    then: int, now: int, daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    dataset = daemon.client().open(make_table(rows=ROWS).spec())
    states, had = [], []
    for rank in range(then):
        with dataset.batches(batch_size=100, rank=rank, world_size=then) as batches:
            had += [ids_of(next(batches)) for _ in range(23)]
            states.append(batches.state_dict())
    rest = []
    for rank in range(now):
        with dataset.batches(
            batch_size=64, rank=rank, world_size=now, state=states, epochs=2
        ) as batches:
            mine = []
            for _ in range(5):  # and are saved again on the way, and gone on from
                mine.append(next(batches).clone())
            states_of_now = batches.state_dict()
        with dataset.batches(
            batch_size=64, rank=rank, world_size=now, state=states_of_now, epochs=2
        ) as batches:
            mine += [batch.clone() for batch in batches]
        assert [b.batch_num for b in mine if b.epoch == 0][:3] == [23, 24, 25]
        assert sum(len(b) for b in mine if b.epoch == 1) == ROWS // now
        rest.append(joined([batch for batch in mine if batch.epoch == 0]))
    left = ROWS - 100 * 23 * then
    assert [len(ids) for ids in rest] == [left // now] * now
    ids, times = np.unique(np.concatenate([*had, *rest]), return_counts=True)
    assert times.max() == 1
    assert ROWS - len(ids) == left % now


def test_what_cannot_be_gone_on_from_is_refused_by_name(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    client = daemon.client()
    dataset = client.open(make_table(rows=ROWS).spec())
    other = client.open(make_table(rows=ROWS, features=2).spec())

    def state_of(rank: int = 0, world: int = 1, batches: int = 3, **wishes: Any) -> dict[str, Any]:
        with dataset.batches(batch_size=100, rank=rank, world_size=world, **wishes) as reading:
            for _ in range(batches):
                next(reading)
            return reading.state_dict()

    mine = state_of()

    def refused(state: Any, match: str, **wishes: Any) -> None:
        with pytest.raises(StateError, match=match):
            dataset.batches(batch_size=100, state=state, **wishes)

    with pytest.raises(StateError, match="is of dataset"):
        other.batches(batch_size=100, state=mine)
    refused({"weights": 1}, "is no state of a reader")
    refused(mine | {"version": 2}, "this release knows 1")
    refused(mine | {"had": "%"}, "damaged")
    refused(mine | {"batch": -1}, "damaged")
    refused(mine, "saved with seed=0, and this reader has 1", seed=1)
    refused(mine, "saved with split='train'", split="eval") if dataset.info.rows["eval"] else None
    refused(mine, "saved with shuffle='batches'", shuffle="none")
    refused([], "no state was given")
    refused(state_of(1, 3), "the states of all ranks", world_size=2)
    refused([state_of(0, 3), state_of(1, 3)], r"ranks \[0, 1\] were given, of a job of 3")
    uneven = [state_of(0, 2), state_of(1, 2, batches=4)]
    refused(uneven, "not of the same moment: they differ in batch")
    beyond = mine | {"had": "////////////////"}
    refused(beyond, "it tells of 96 chunks, and dataset [0-9a-f]+ has 11")


def test_an_iterator_that_is_given_a_bad_state_goes_on_as_if_nothing_had_been_loaded(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    dataset = daemon.client().open(make_table(rows=ROWS).spec())
    batches = dataset.batches(batch_size=100)
    found = [next(batches) for _ in range(7)]
    mine = batches.state_dict()
    bad_ones: list[Any] = [
        {"weights": 1},
        mine | {"had": "%"},
        mine | {"had": "////////////////"},  # chunks that are not there
        mine | {"seed": 1},
        mine | {"epoch": 1},  # nothing would be left
        [],
    ]
    for bad in bad_ones:
        with pytest.raises(StateError):
            batches.load_state_dict(bad)
        assert batches.state_dict() == mine
    epochs = dataset.epochs(count=2, batch_size=100)
    for epoch in epochs:
        whole = []
        for batch in epoch:
            with pytest.raises(StateError):
                epochs.load_state_dict(mine | {"rank": 1})
            whole.append(ids_of(batch))
        assert_exact(np.concatenate(whole), ROWS)
    assert_exact(joined([*found, *batches]), ROWS)


def test_a_killed_trainer_goes_on_from_its_checkpoint_in_another_process(
    daemon: WatchedDaemon, make_table: MakeTable, start_trainer: StartTrainer
) -> None:
    table = make_table(rows=ROWS)
    first, second = start_trainer(daemon, table), start_trainer(daemon, table)
    first.start(100, seed=2)
    first.ask("read", count=31)
    state = first.ask("state")["state"]
    had = first.ids()
    first.ask("read", count=5)  # after its checkpoint: these come again
    first.kill()
    second.start(100, seed=2, state=state)
    second.ask("read")
    assert_exact(np.concatenate([had, second.ids()]), ROWS)
