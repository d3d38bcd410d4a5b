"""Each row exactly once an epoch, read once, by real trainers over a real daemon."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from faucet_client import DatasetSpec, DuckDBSource, IteratorError, ParquetSource
from faucet_client.dataset import Dataset
from faucet_client.spec import SPLITS
from faucet_client.testing import LocalDaemon
from tests.processes.daemons import StartDaemon
from tests.processes.rows import ids_of
from tests.processes.tables import MakeTable

ROWS = 2_000_000

TRAINER = """
import sys
import numpy as np
from faucet_client import DatasetSpec, FaucetClient, ParquetSource

address, path, job, out = sys.argv[1:]
dataset = FaucetClient(address).open(DatasetSpec(
    source=ParquetSource(path), features=["a", "b"], labels=["y"], hash_column="id",
    eval_percent=20, passthrough=["id"], preprocessing="none",
))
seen = {}
for epoch in dataset.epochs("train", count=2, batch_size=1000, seed=hash(job) % 100, job=job):
    batches = list(map(lambda batch: batch.passthrough["id"].clone().numpy(), epoch))
    assert len(batches) == len(epoch)
    assert all(len(ids) == 1000 for ids in batches[:-1])
    seen[f"train{epoch.number}"] = np.concatenate(batches)
    evals = dataset.batches("eval", batch_size=4096)
    seen[f"eval{epoch.number}"] = np.concatenate([b.passthrough["id"].clone() for b in evals])
np.savez(out, **seen)
"""


@pytest.fixture(scope="module")
def big_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("big") / "rows.parquet"
    generator = np.random.default_rng(0)
    table = pa.table(
        {
            "id": np.arange(ROWS),
            "a": generator.random(ROWS, np.float32),
            "b": generator.random(ROWS, np.float32),
            "y": generator.integers(0, 2, ROWS),
        }
    )
    pq.write_table(table, path, row_group_size=150_000)
    return path


def test_two_trainers_see_each_row_once_an_epoch_and_the_source_is_read_once(
    big_table: Path, tmp_path: Path
) -> None:
    with LocalDaemon([big_table.parent]) as daemon:
        trainers = [
            subprocess.Popen(
                [sys.executable, "-c", TRAINER, daemon.address, big_table, job, tmp_path / job]
            )
            for job in ("one", "two")
        ]
        assert [trainer.wait(100) for trainer in trainers] == [0, 0]
        (dataset,) = daemon.client().status().datasets
    seen = [np.load(tmp_path / f"{job}.npz") for job in ("one", "two")]
    train = np.sort(seen[0]["train0"])
    evals = np.sort(seen[0]["eval0"])
    for trainer in seen:
        for epoch in (0, 1):
            assert np.array_equal(np.sort(trainer[f"train{epoch}"]), train)
            assert np.array_equal(np.sort(trainer[f"eval{epoch}"]), evals)
        assert not np.array_equal(trainer["train0"], trainer["train1"])  # shuffled anew
    assert np.array_equal(np.sort(np.concatenate([train, evals])), np.arange(ROWS))
    assert (len(train), len(evals)) == (dataset.train_rows, dataset.eval_rows)
    assert len(evals) == pytest.approx(0.2 * ROWS, rel=0.01)
    assert dataset.source_rows_read == ROWS
    assert dataset.chunks_made == dataset.chunks


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10,007 rows of every kind of column, as Parquet and in DuckDB."""
    folder = tmp_path_factory.mktemp("rows")
    count = 10_007
    index = np.arange(count)
    table = pa.table(
        {
            "id": index,
            "whole": pa.array([None if i % 7 == 0 else i for i in index.tolist()], pa.int32()),
            "real": index / 3,
            "flag": index % 2 == 0,
            "y": (index % 3 == 0).astype(np.int8),
            "z": pa.array([None if i % 11 == 0 else i / 2 for i in index.tolist()]),
            "w": index.astype(np.float32) + 1,
            "name": pa.array([None if i % 5 == 0 else f"größe {i}" for i in index.tolist()]),
            "day": pa.array((index % 365).astype(np.int32), pa.date32()),
        }
    )
    pq.write_table(table, folder / "rows.parquet", row_group_size=900)
    with duckdb.connect(str(folder / "rows.duckdb")) as connection:
        connection.register("rows_view", table)
        connection.execute("CREATE TABLE rows AS SELECT * FROM rows_view")
    return folder


@pytest.fixture(scope="module")
def daemon(rows: Path) -> Iterator[LocalDaemon]:
    with LocalDaemon([rows], workers=1, memory_budget="64MiB") as running:
        yield running


def spec_of(source: ParquetSource | DuckDBSource, **changes: object) -> DatasetSpec:
    options = {
        "features": ["real", "whole", "flag"],
        "labels": ["y", "z"],
        "weight_column": "w",
        "passthrough": ["id", "name", "day"],
        "hash_column": "id",
        "eval_percent": 25,
    } | changes
    options = {"preprocessing": "none"} | options
    return DatasetSpec(source, **options)  # type: ignore[arg-type]  # a test's brevity


@pytest.fixture(
    scope="module",
    params=["parquet", "table", "query", "parquet by hash", "table by hash", "query by hash"],
)
def dataset(request: pytest.FixtureRequest, rows: Path, daemon: LocalDaemon) -> Dataset:
    database = str(rows / "rows.duckdb")
    sources: dict[str, ParquetSource | DuckDBSource] = {
        "parquet": ParquetSource(str(rows / "rows.parquet")),
        "table": DuckDBSource(database, table="rows"),
        "query": DuckDBSource(database, query="SELECT * FROM rows WHERE id >= 0"),
    }
    kind, _, by_hash = request.param.partition(" by ")
    return daemon.client().open(spec_of(sources[kind], chunking=by_hash or "auto"))


def test_every_value_of_every_row_is_the_source_s(dataset: Dataset) -> None:
    found = Counter[int]()
    for split in SPLITS:
        for batch in dataset.batches(split, batch_size=256):
            ids = batch.passthrough["id"]
            assert isinstance(ids, torch.Tensor)
            found.update(ids.tolist())
            null_whole = ids % 7 == 0
            assert torch.equal(batch.features[:, 0], (ids.double() / 3).float())
            assert torch.equal(batch.features[:, 1].isnan(), null_whole)
            assert torch.equal(batch.features[~null_whole, 1], ids[~null_whole].float())
            assert torch.equal(batch.features[:, 2], (ids % 2 == 0).float())
            assert batch.labels["y"].shape == (len(batch), 1)
            assert torch.equal(batch.labels["y"][:, 0], (ids % 3 == 0).float())
            assert torch.equal(batch.valid["z"], ids % 11 != 0)
            assert torch.equal(batch.labels["z"][:, 0].isnan(), ids % 11 == 0)
            assert batch.valid["y"].all()
            assert batch.weights is not None
            assert torch.equal(batch.weights, ids.float() + 1)
            names = batch.passthrough["name"].tolist()
            assert names == [None if i % 5 == 0 else f"größe {i}" for i in ids.tolist()]
            assert torch.equal(torch.as_tensor(batch.passthrough["day"]), ids % 365)
    assert found == Counter(range(10_007))


def test_info_is_right_before_the_first_batch(dataset: Dataset) -> None:
    assert dataset.info.features == ("real", "whole", "flag")
    assert dataset.info.labels == ("y", "z")
    assert sum(dataset.info.rows.values()) == 10_007
    batches = dataset.batches("train", batch_size=100)
    assert len(batches) == math.ceil(dataset.info.rows["train"] / 100)
    assert len(list(batches)) == len(batches)


def test_batches_have_the_asked_size_but_for_the_last(dataset: Dataset) -> None:
    for batch_size in (1, 64, 2_000):
        sizes = [len(batch) for batch in dataset.batches("eval", batch_size=batch_size)]
        assert set(sizes[:-1]) <= {batch_size}
        assert sum(sizes) == dataset.info.rows["eval"]
        kept = [len(b) for b in dataset.batches("eval", batch_size=batch_size, drop_last=True)]
        assert kept == [batch_size] * (dataset.info.rows["eval"] // batch_size)


def test_a_batch_has_other_rows_in_each_epoch_though_batches_divide_chunks(
    start_daemon: StartDaemon, make_table: MakeTable
) -> None:
    dataset = start_daemon().client().open(make_table(rows=10_000, chunk_rows=2_000).spec())
    first, second = (
        {frozenset(ids_of(batch).tolist()) for batch in epoch}
        for epoch in dataset.epochs("train", count=2, batch_size=100)
    )
    assert len(first) == len(second) == 100
    assert len(first & second) < 10


def test_the_shuffle_varies_by_seed_and_epoch_and_none_is_stable(dataset: Dataset) -> None:
    def order(**options: object) -> list[list[int]]:
        epochs = dataset.epochs("train", count=2, batch_size=100, **options)  # type: ignore[arg-type]  # a test's brevity
        return [
            [i for b in epoch for i in torch.as_tensor(b.passthrough["id"]).tolist()]
            for epoch in epochs
        ]

    first, second = order(seed=1)
    assert first != second
    assert order(seed=2)[0] != first
    stable, again = order(shuffle="none")
    assert stable == again == order(shuffle="none", seed=9)[0]


def test_an_epoch_left_early_is_given_up_and_the_next_is_whole(dataset: Dataset) -> None:
    epochs = dataset.epochs("train", count=3, batch_size=100)
    sizes = []
    for epoch in epochs:
        if epoch.number == 1:
            next(iter(epoch))
            continue
        sizes.append(sum(len(batch) for batch in epoch))
    assert sizes == [dataset.info.rows["train"]] * 2


def test_an_epoch_is_iterated_over_once(dataset: Dataset) -> None:
    epoch = next(dataset.epochs("train", count=1, batch_size=100))
    assert len(list(epoch)) == len(epoch)
    with pytest.raises(IteratorError, match="epoch 0 was begun before"):
        next(iter(epoch))


def test_a_batch_that_is_pickled_ships_its_own_rows_alone(dataset: Dataset) -> None:
    import pickle

    batch = next(dataset.batches("train", batch_size=10))
    shipped = pickle.dumps(batch)
    assert len(shipped) < 20_000
    copy = pickle.loads(shipped)
    assert torch.equal(copy.passthrough["id"], torch.as_tensor(batch.passthrough["id"]))
    assert copy.features.equal(batch.features) or batch.features.isnan().any()


def test_values_that_float32_cannot_hold_are_counted(daemon: LocalDaemon, rows: Path) -> None:
    path = rows / "odd.parquet"
    pq.write_table(pa.table({"a": [2**24 + 1, None, 3], "b": [1e300, float("nan"), 1.0]}), path)
    client = daemon.client()
    dataset = client.open(DatasetSpec(ParquetSource(str(path)), ["a", "b"], preprocessing="none"))
    (batch,) = dataset.batches("train", batch_size=3)
    assert batch.features.shape == (3, 2)
    counted = {
        counts.column: counts
        for status in client.status().datasets
        if status.key == dataset.info.key
        for counts in status.counts
    }
    assert (counted["a"].nulls, counted["a"].rounded) == (1, 1)
    assert (counted["b"].overflowed, counted["b"].not_finite) == (1, 1)


def test_text_longer_than_was_reserved_for_it_comes_whole(daemon: LocalDaemon, rows: Path) -> None:
    texts = [f"{i} " * 300 for i in range(3_000)]
    pq.write_table(pa.table({"x": np.arange(3_000.0), "t": texts}), rows / "long.parquet")
    spec = DatasetSpec(
        ParquetSource(str(rows / "long.parquet")), ["x"], passthrough=["t"], preprocessing="none"
    )
    dataset = daemon.client().open(spec)
    seen: dict[float, str] = {}
    for batch in dataset.batches("train", batch_size=100):
        seen |= dict(zip(batch.features[:, 0].tolist(), batch.passthrough["t"], strict=True))
    assert seen == dict(enumerate(texts))


def test_a_segment_of_more_columns_than_a_packet_can_describe(
    start_daemon: StartDaemon, path: Path
) -> None:
    columns = 1_500
    values = np.arange(1_000, dtype=np.float32)
    table = {f"column_with_a_long_name_{n}": values + n for n in range(columns)}
    pq.write_table(pa.table({"x": values, **table}), path)
    spec = DatasetSpec(
        ParquetSource(str(path)), features=["x"], passthrough=list(table), preprocessing="none"
    )
    (batch,) = start_daemon().client().open(spec).batches(batch_size=1_000)
    order = batch.features[:, 0]
    assert sorted(order.tolist()) == values.tolist()
    for n in (0, 700, columns - 1):
        column = batch.passthrough[f"column_with_a_long_name_{n}"]
        assert isinstance(column, torch.Tensor)
        assert torch.equal(column, order + n)
