"""What is left of an iterator that was closed, or of an epoch that was given up: nothing is leased.

The iterators stay in variables throughout, as they do in a trainer's function.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from faucet_client import BatchIterator, Dataset, IteratorError
from faucet_client.mapping import Columns, Piece, copy_rows, map_segment
from tests.processes.daemons import StartDaemon, WatchedDaemon, dataset_of, wait_idle
from tests.processes.leaks import memfd_mappings
from tests.processes.rows import assert_exact, check, ids_of
from tests.processes.tables import MakeTable
from tests.processes.waiting import eventually, eventually_gone

SIZE = 256


@pytest.fixture
def dataset(daemon: WatchedDaemon, make_table: MakeTable) -> Dataset:
    """40,000 rows in 20 chunks."""
    return daemon.client().open(make_table().spec())


@pytest.mark.parametrize("shuffle", ["batches", "rows", "none"])
@pytest.mark.parametrize("had", [0, 1, 8, 9])  # unshuffled, the eighth is of two chunks
def test_a_closed_iterator_keeps_nothing(
    daemon: WatchedDaemon, dataset: Dataset, shuffle: str, had: int
) -> None:
    batches = dataset.batches("train", batch_size=SIZE, shuffle=shuffle, epochs=2)
    ids = [ids_of(next(batches)) for _ in range(had)]
    assert batches.stats().rows == had * SIZE
    batches.close()
    wait_idle(daemon.client().status)
    eventually_gone(memfd_mappings)
    with pytest.raises(IteratorError, match="closed"):  # not: the end
        next(batches)
    assert batches.stats().rows == had * SIZE
    rest = dataset.batches("train", batch_size=SIZE, shuffle=shuffle, state=batches.state_dict())
    assert_exact(np.concatenate([*ids, *map(ids_of, rest)]), 40_000)


def test_a_batch_of_a_closed_iterator_keeps_its_own_chunk_alone(
    daemon: WatchedDaemon, dataset: Dataset
) -> None:
    batches = dataset.batches("train", batch_size=SIZE, shuffle="none")
    batch = next(batches)
    batches.close()
    status = daemon.client().status
    eventually(lambda: not status().readers and status().workers[0].state == "idle")
    resident = dataset_of(daemon)
    of_chunk = resident.resident_bytes // resident.chunks_resident
    eventually(lambda: status().memory.leased_bytes == of_chunk)
    check(batch)
    del batch
    wait_idle(status)


@pytest.mark.parametrize("shuffle", ["batches", "rows"])
def test_an_epoch_that_was_given_up_keeps_nothing(
    daemon: WatchedDaemon, dataset: Dataset, shuffle: str
) -> None:
    epochs = dataset.epochs("train", count=2, batch_size=SIZE, shuffle=shuffle)
    first = iter(next(epochs))
    next(first)
    second = iter(next(epochs))
    assert_exact(np.concatenate([ids_of(batch) for batch in second]), 40_000)
    status = daemon.client().status
    eventually(lambda: status().memory.leased_bytes == 0)
    with pytest.raises(IteratorError, match="epoch 0 was given up when epoch 1 began"):
        next(first)


def test_batches_that_are_kept_of_epochs_that_are_given_up_become_copies_in_time(
    start_daemon: StartDaemon, make_table: MakeTable
) -> None:
    daemon = start_daemon("8MiB")
    dataset = daemon.client().open(make_table(rows=40_000, features=60, chunk_rows=4_000).spec())
    epochs = dataset.epochs("train", count=20, batch_size=SIZE)
    kept = [next(iter(epoch)) for epoch in epochs]
    assert epochs.stats().batches_copied > 0
    for batch in kept:
        check(batch)


def test_an_iterator_that_is_closed_in_the_midst_of_next_keeps_nothing(
    daemon: WatchedDaemon, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = dataset.batches("train", batch_size=SIZE, shuffle="none")

    def closed_meanwhile(pieces: list[Piece]) -> Columns:
        batches.close()  # by a handler of a signal, say
        return copy_rows(pieces)

    monkeypatch.setattr("faucet_client.batches.copy_rows", closed_meanwhile)
    for _ in range(7):
        next(batches)
    with pytest.raises(IteratorError, match="closed"):
        next(batches)  # of two chunks
    wait_idle(daemon.client().status)
    eventually_gone(memfd_mappings)


def test_an_iterator_that_is_closed_while_a_segment_is_mapped_keeps_nothing(
    daemon: WatchedDaemon, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[BatchIterator] = []

    def closed_meanwhile(*given: Any) -> Columns:
        columns = map_segment(*given)
        eventually(lambda: made)
        made[0].close()
        return columns

    monkeypatch.setattr("faucet_client.feed.map_segment", closed_meanwhile)
    made.append(dataset.batches("train", batch_size=SIZE))
    wait_idle(daemon.client().status)
    eventually_gone(memfd_mappings)
    with pytest.raises(IteratorError, match="closed"):
        next(made[0])
