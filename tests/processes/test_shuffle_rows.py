"""shuffle="rows": batches of rows of several chunks, in a fresh permutation every epoch."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from faucet_client import Batch, DatasetSpec, IteratorError, ParquetSource
from tests.processes.daemons import StartDaemon, WatchedDaemon, wait_idle
from tests.processes.rows import assert_exact, check, ids_of
from tests.processes.tables import MakeTable
from tests.processes.waiting import eventually

ROWS = 20_011


def test_a_batch_has_rows_of_several_chunks_and_all_values_are_theirs(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    table = make_table(rows=ROWS, chunk_rows=1_000)
    dataset = daemon.client().open(table.spec())
    with dataset.epochs(count=2, batch_size=256, shuffle="rows") as epochs:
        orders = []
        for epoch in epochs:
            batches = list(epoch)
            for batch in batches:
                check(batch)
            chunks = [len(set((ids_of(batch) // 1_000).tolist())) for batch in batches]
            assert np.median(chunks) == 8
            orders.append(np.concatenate([ids_of(batch) for batch in batches]))
            assert_exact(orders[-1], ROWS)
    assert (orders[0] != orders[1]).mean() > 0.99


def test_with_little_memory_the_window_is_smaller_and_rows_stay_exact(
    start_daemon: StartDaemon, make_table: MakeTable
) -> None:
    table = make_table(rows=80_000)
    daemon = start_daemon("1MiB")  # a third of the table
    dataset = daemon.client().open(table.spec())
    with dataset.batches(batch_size=500, epochs=2, shuffle="rows") as batches:
        ids = np.concatenate([ids_of(batch) for batch in batches]).reshape(2, -1)
    for epoch in ids:
        assert_exact(epoch, table.rows)
    memory = daemon.client().status().memory
    assert memory.peak_bytes <= memory.budget_bytes


def test_deterministic_batches_are_the_same_whatever_the_workers_and_the_budget(
    start_daemon: StartDaemon, make_table: MakeTable
) -> None:
    table = make_table(rows=ROWS)
    found = []
    for budget, workers in (("64MiB", 1), ("512KiB", 3)):
        dataset = start_daemon(budget, workers).client().open(table.spec())
        with dataset.batches(
            batch_size=300, epochs=2, shuffle="rows", order="deterministic", seed=9
        ) as batches:
            found.append([batch.clone() for batch in batches])
    assert len(found[0]) == len(found[1]) == 2 * 67
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours.features, theirs.features)
        assert np.array_equal(ids_of(ours), ids_of(theirs))


def test_batches_larger_than_chunks_and_than_the_window_are_exact(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    dataset = daemon.client().open(make_table(rows=5_003, chunk_rows=100).spec())
    for drop_last in (False, True):
        with dataset.batches(batch_size=2_000, shuffle="rows", drop_last=drop_last) as batches:
            sizes = [len(ids_of(batch)) for batch in batches]
        assert sizes == [2_000, 2_000] + ([] if drop_last else [1_003])


def test_an_epoch_that_is_left_early_gives_way_to_the_next(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    dataset = daemon.client().open(make_table(rows=ROWS).spec())
    with dataset.epochs(count=4, batch_size=100, shuffle="rows") as epochs:
        for _ in range(3):
            left = iter(next(epochs))
            for _ in range(3):
                next(left)
        assert_exact(np.concatenate([ids_of(batch) for batch in next(epochs)]), ROWS)
        with pytest.raises(IteratorError, match="was given up"):
            next(left)


def test_an_iterator_that_is_dropped_leaves_no_thread_and_no_lease(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    dataset = daemon.client().open(make_table(rows=200_000, features=8).spec())
    before = threading.active_count()
    for _ in range(5):
        batches = dataset.batches(batch_size=64, shuffle="rows")
        next(batches)
        del batches
    wait_idle(daemon.client().status)
    eventually(lambda: threading.active_count() <= before + 2)


def test_every_kind_of_column_is_picked_row_by_row(daemon: WatchedDaemon, tmp_path: Path) -> None:
    rows = 3_000
    number = np.arange(rows)
    lists = [list(range(n % 4)) if n % 5 else None for n in number]
    table = pa.table(
        {
            "x": number.astype(np.float32),
            "y": pa.array(number % 7, mask=number % 11 == 0),
            "w": number / 2,
            "kind": [f"k{n % 9}" for n in number],
            "tags": pa.array(lists, pa.list_(pa.int64())),
            "text": pa.array([f"row {n}" if n % 3 else None for n in number]),
            "id": number,
        }
    )
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=500)
    spec = DatasetSpec(
        ParquetSource(str(tmp_path / "t.parquet")),
        features=["x", "kind", "tags"],
        labels=["y"],
        weight_column="w",
        passthrough=["text", "id"],
        chunk_rows=500,
    )
    dataset = daemon.client().open(spec)

    def all_of(shuffle: str) -> dict[int, tuple[Any, ...]]:
        found: dict[int, tuple[Any, ...]] = {}
        with dataset.batches(batch_size=128, shuffle=shuffle) as batches:
            for batch in batches:
                found |= rows_of(batch)
        return found

    assert all_of("rows") == all_of("none")


def rows_of(batch: Batch) -> dict[int, tuple[Any, ...]]:
    """By id: all values of each row."""
    columns: list[list[Any]] = [batch.features.tolist(), batch.labels["y"].nan_to_num(-1).tolist()]
    assert batch.weights is not None
    columns += [batch.weights.tolist(), list(batch.passthrough["text"])]
    columns += [batch.valid[name].tolist() for name in ("y", "text")]
    columns += [ids.tolist() for _, ids in sorted(batch.ids.items())]
    for _, lists in sorted(batch.ragged.items()):
        bounds = lists.offsets.tolist()
        columns.append([lists.values[a:b].tolist() for a, b in itertools.pairwise(bounds)])
    keys = [int(each) for each in batch.passthrough["id"]]
    return dict(zip(keys, zip(*columns, strict=True), strict=True))
