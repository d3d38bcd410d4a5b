"""Array columns from the table to `EmbeddingBag`: embeddings as a VECTOR, lists as ragged ids."""

from __future__ import annotations

import pickle
import re
from itertools import pairwise
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from faucet_client import (
    BigQuerySource,
    ColumnError,
    Dataset,
    DatasetSpec,
    DuckDBSource,
    FaucetDataset,
    ParquetSource,
    PreprocessingSpec,
)
from faucet_client.preprocessing import FitOptions, Hashed, Vector, fit
from tests.processes.bigquery import Warehouse
from tests.processes.daemons import WatchedDaemon
from tests.processes.serving import serve

ROWS = 5_000
WIDTH = 5
FEATURES = ["embedding", "scores", "tags", "clicks", "age"]
FIT = FitOptions(
    feature_overrides={"embedding": "VECTOR", "scores": Vector(2), "clicks": Hashed(50)}
)


def write_table(path: Path, rows: int = ROWS) -> pa.Table:
    """Lists of all kinds, with null lists, empty ones, null elements, NaN and infinity."""
    random = np.random.default_rng(11)
    embedding = random.normal(size=(rows, WIDTH)).astype(np.float32)
    embedding[random.random((rows, WIDTH)) < 0.02] = np.nan
    embedding[random.random((rows, WIDTH)) < 0.01] = np.inf
    lost = random.random((rows, 6)) < 0.1
    lengths = random.integers(0, 6, (rows, 2))
    words = np.array(["rot", "grün", "日本", "", "blau"])
    tags = [
        None if lost[row, 0] else [*words[random.integers(0, 5, lengths[row, 0])], *[None] * drop]
        for row, drop in enumerate(random.integers(0, 2, rows))
    ]
    clicks = [
        None if lost[row, 1] else (2**53 + random.integers(0, 99, lengths[row, 1])).tolist()
        for row in range(rows)
    ]
    table = pa.table(
        {
            "id": np.arange(rows),
            "embedding": pa.FixedSizeListArray.from_arrays(
                pa.array(embedding.reshape(-1)), WIDTH, mask=pa.array(lost[:, 2])
            ),
            "scores": pa.array(
                [None if lost[row, 3] else [row / 7, None] for row in range(rows)],
                pa.list_(pa.float64()),
            ),
            "tags": pa.array(tags, pa.list_(pa.string())),
            "clicks": pa.array(clicks, pa.list_(pa.int64())),
            "age": random.normal(40, 12, rows),
        }
    )
    pq.write_table(table, path, row_group_size=700)
    return table


@pytest.fixture(scope="module", autouse=True)
def tracker() -> None:
    """Spawning a loader's workers starts a process that stays: it must not look like a leak."""
    resource_tracker.ensure_running()


@pytest.fixture
def table(path: Path) -> pa.Table:
    """The table, written."""
    return write_table(path)


def spec_of(source: Any, **changes: Any) -> DatasetSpec:
    fields: dict[str, Any] = {
        "features": FEATURES,
        "passthrough": ["id"],
        "hash_column": "id",
        "eval_percent": 20,
        "preprocessing": "auto",
        "chunk_rows": 1_100,
        "fit": FIT,
    }
    return DatasetSpec(source, **fields | changes)


def raw(table: pa.Table, names: Any = FEATURES) -> dict[str, Any]:
    """The columns as a model server might have them: lists of Python's."""
    return {
        name: table.column(name).to_numpy() if name == "age" else table.column(name).to_pylist()
        for name in names
    }


def read(dataset: Dataset, split: Any, batch_size: int = 256) -> tuple[NDArray[Any], list[Any]]:
    """Ids, and of each row its features and, by name, its ragged ids."""
    ids: list[int] = []
    rows: list[Any] = []
    for batch in dataset.batches(split, batch_size=batch_size):
        ids += batch.passthrough["id"].tolist()
        rows += rows_of(batch.features, batch.ragged)
    return np.array(ids), rows


def rows_of(features: torch.Tensor, ragged: Any) -> list[Any]:
    lists = {}
    for name in ragged:
        values, offsets = ragged[name].values, ragged[name].offsets
        assert values.dtype == offsets.dtype == torch.int64
        assert offsets[0] == 0
        assert offsets[-1] == len(values)
        assert len(ragged[name].offsets) == len(features) + 1
        bounds = offsets.tolist()
        lists[name] = [values[a:b].tolist() for a, b in pairwise(bounds)]
    return [
        (row.numpy().tobytes(), {name: each[number] for name, each in lists.items()})
        for number, row in enumerate(features)
    ]


def by_hand(spec: PreprocessingSpec, columns: dict[str, Any]) -> list[Any]:
    """What `read` finds, made as a model server makes it."""
    encoded, made = serve(spec, columns)
    bounds = {name: lists.offsets.tolist() for name, lists in encoded.ragged.items()}
    return [
        (
            row.numpy().tobytes(),
            {
                name: lists.values[bounds[name][number] : bounds[name][number + 1]].tolist()
                for name, lists in encoded.ragged.items()
            },
        )
        for number, row in enumerate(made)
    ]


def source_of(kind: str, path: Path, table: pa.Table) -> Any:
    if kind == "parquet":
        return ParquetSource(str(path))
    database = path.with_suffix(".duckdb")
    with duckdb.connect(str(database)) as connection:
        connection.register("arrow", table)
        connection.execute("CREATE TABLE lists AS SELECT * FROM arrow")
        (held,) = connection.execute("SELECT typeof(embedding) FROM lists LIMIT 1").fetchone() or ()
    assert held == f"FLOAT[{WIDTH}]"
    return DuckDBSource(str(database), table="lists")


@pytest.mark.parametrize("kind", ["parquet", "duckdb"])
def test_what_is_served_is_what_encode_makes_bit_for_bit(
    kind: str, daemon: WatchedDaemon, path: Path, table: pa.Table
) -> None:
    dataset = daemon.client().open(spec_of(source_of(kind, path, table)))
    spec = dataset.preprocessing
    assert {f.name: f.transform.type for f in spec.features} == {
        "age": "CONTINUOUS",
        "tags": "CATEGORICAL",
        "clicks": "HASHED",
        "embedding": "VECTOR",
        "scores": "VECTOR",
    }
    assert spec.ragged_names == ("tags", "clicks")
    assert spec.id_names == ()
    assert spec.cardinality("tags") == 2 + 5
    assert spec.cardinality("clicks") == 1 + 50
    train, rows = read(dataset, "train")
    assert spec == fit(raw(table.take(pa.array(np.sort(train)))), FIT)
    evaluated, more = read(dataset, "eval")
    assert sorted([*train, *evaluated]) == list(range(ROWS))
    for ids, found in ((train, rows), (evaluated, more)):
        assert found == by_hand(spec, raw(table.take(pa.array(ids))))


def test_vectors_are_the_sources_numbers_and_0_where_there_is_none(
    daemon: WatchedDaemon, path: Path, table: pa.Table
) -> None:
    dataset = daemon.client().open(
        spec_of(
            ParquetSource(str(path)),
            features=["embedding", "scores"],
            fit=FitOptions(feature_overrides={"scores": "VECTOR"}),
        )
    )
    assert [feature.transform for feature in dataset.preprocessing.features] == [
        Vector(WIDTH),
        Vector(2),
    ]
    assert dataset.info.outputs == (
        *(f"embedding[{place}]" for place in range(WIDTH)),
        "scores[0]",
        "scores[1]",
    )
    ids, rows = read(dataset, "train")
    found = np.array([np.frombuffer(row, np.float32) for row, _ in rows])
    taken = table.take(pa.array(ids))
    lists = [each or [0] * WIDTH for each in taken.column("embedding").to_pylist()]
    expected = np.array(lists, np.float32)
    wrong = ~np.isfinite(expected)
    assert np.array_equal(found[:, :WIDTH], np.where(wrong, 0, expected))
    scores = [0.0 if each is None else each[0] for each in taken.column("scores").to_pylist()]
    assert np.array_equal(found[:, WIDTH], np.array(scores, np.float32))
    assert not found[:, WIDTH + 1].any()
    list(dataset.batches("eval", batch_size=1_000))
    (status,) = daemon.client().status().datasets
    counts = {each.column: each for each in status.counts}
    whole = table.column("embedding")
    assert counts["embedding"].nulls == whole.null_count
    odd = [row for row in whole.to_pylist() if row and not np.isfinite(row).all()]
    assert counts["embedding"].not_finite == len(odd)
    present = ROWS - table.column("scores").null_count
    assert counts["scores"].not_finite == present  # each has a null in it


def test_batches_may_lie_across_chunks_and_be_cloned_pickled_and_kept(
    daemon: WatchedDaemon, path: Path, table: pa.Table
) -> None:
    dataset = daemon.client().open(spec_of(ParquetSource(str(path))))
    spec = dataset.preprocessing
    ids: list[int] = []
    with dataset.batches("train", batch_size=617) as batches:
        for batch in batches:
            of_batch = batch.passthrough["id"].tolist()
            expected = by_hand(spec, raw(table.take(pa.array(of_batch))))
            for same in (batch, batch.clone(), pickle.loads(pickle.dumps(batch))):
                assert rows_of(same.features, same.ragged) == expected
            ids += of_batch
        assert batches.stats().batches_joined > 2
    assert len(set(ids)) == len(ids) == dataset.info.rows["train"]


def test_a_batch_within_a_chunk_has_a_view_of_its_ids(
    daemon: WatchedDaemon, path: Path, table: pa.Table
) -> None:
    dataset = daemon.client().open(spec_of(ParquetSource(str(path))))
    with dataset.batches("train", batch_size=50, shuffle="none") as batches:
        one, other = next(batches), next(batches)
    storages = {batch.ragged["tags"].values.untyped_storage().data_ptr() for batch in (one, other)}
    assert len(storages) == 1
    kept = one.clone().ragged["tags"]
    assert kept.values.untyped_storage().nbytes() == 8 * len(kept.values)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_hands_lists_on(
    workers: int, daemon: WatchedDaemon, path: Path, table: pa.Table
) -> None:
    dataset = daemon.client().open(spec_of(ParquetSource(str(path))))
    rows = FaucetDataset(dataset, batch_size=300, seed=3, job="loader")
    loader: Any = DataLoader(
        rows,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
    )
    ids: list[int] = []
    found: list[Any] = []
    for batch in loader:
        ids += batch.passthrough["id"].tolist()
        found += rows_of(batch.features, batch.ragged)
    assert len(set(ids)) == dataset.info.rows["train"]
    assert found == by_hand(dataset.preprocessing, raw(table.take(pa.array(ids))))


def test_an_embedding_bag_takes_a_batch(daemon: WatchedDaemon, path: Path, table: pa.Table) -> None:
    dataset = daemon.client().open(spec_of(ParquetSource(str(path))))
    spec = dataset.preprocessing
    torch.manual_seed(1)
    bag = torch.nn.EmbeddingBag(spec.cardinality("tags"), 4, mode="sum", include_last_offset=True)
    batch = next(dataset.batches("train", batch_size=100))
    ragged = batch.ragged["tags"]
    out = bag(ragged.values, ragged.offsets)
    assert out.shape == (100, 4)
    assert len(ragged) == 100
    lists = [each["tags"] for _, each in rows_of(batch.features, batch.ragged)]
    assert [] in lists
    expected = torch.stack([bag.weight[ids].sum(0) for ids in lists])
    assert torch.allclose(out, expected, atol=1e-6)
    out.sum().backward()
    assert bag.weight.grad is not None


def test_repeated_columns_of_bigquery_are_served(bigquery: Warehouse, path: Path) -> None:
    table = write_table(path)
    name = f"{bigquery.dataset}.lists"
    bigquery.server.load(name, table)
    client = bigquery.start_daemon(result_dataset=bigquery.dataset).client()
    for chunking in ("arrival", "hash"):
        dataset = client.open(
            spec_of(BigQuerySource(table=name), fit_rows=10**6, chunking=chunking)
        )
        spec = dataset.preprocessing
        train, rows = read(dataset, "train")
        evaluated, more = read(dataset, "eval")
        assert sorted([*train, *evaluated]) == list(range(ROWS))
        for ids, found in ((train, rows), (evaluated, more)):
            assert found == by_hand(spec, raw(table.take(pa.array(ids))))


def test_a_sample_of_bigquery_is_chosen_by_the_rows_lists(bigquery: Warehouse, path: Path) -> None:
    name = f"{bigquery.dataset}.lists"
    bigquery.server.load(name, write_table(path))
    wanted = spec_of(BigQuerySource(table=name), fit_rows=1_000, features=["embedding", "tags"],
                     fit=FitOptions(feature_overrides={"embedding": "VECTOR"}))  # fmt: skip
    found = [
        bigquery.start_daemon(workers=workers).client().open(wanted).preprocessing
        for workers in (1, 3)
    ]
    assert found[0] == found[1]
    summary = found[0].feature("tags").summary
    assert summary is not None
    assert 800 < summary.rows < 1_200
    assert summary == found[1].feature("tags").summary


def test_a_saved_spec_serves_another_tables_lists(
    daemon: WatchedDaemon, path: Path, table: pa.Table, tmp_path: Path
) -> None:
    client = daemon.client()
    spec = client.open(spec_of(ParquetSource(str(path)))).preprocessing
    spec.save(tmp_path / "spec.json")
    given = PreprocessingSpec.load(tmp_path / "spec.json").override({"tags": Hashed(9)})
    dataset = client.open(spec_of(ParquetSource(str(path)), preprocessing=given, fit=FitOptions()))
    ids, rows = read(dataset, "train")
    assert rows == by_hand(given, raw(table.take(pa.array(ids))))


LATE = pa.array([[1.0, 2.0]] * (ROWS - 1) + [[1.0, 2.0, 3.0]], pa.list_(pa.float64()))


@pytest.mark.parametrize(
    ("column", "overrides", "message"),
    [
        (pa.array([[0.5], [0.5, 1.5]] * 100), {}, 'lists of numbers that are not whole.*"VECTOR"'),
        (pa.array([[0.5], [0.5, 1.5]] * 100), {"x": "VECTOR"}, "lists of 1 and of 2 elements"),
        (pa.array([[0.5, 1.5]] * 9), {"x": Vector(3)}, '"x" cannot be the VECTOR of 3 .* of 2'),
        (pa.array([None, []] * 9, pa.list_(pa.float32())), {"x": "VECTOR"}, "none of the 18 rows"),
        (pa.array([[1, 2]] * 9), {"x": "CONTINUOUS"}, "it holds lists, which can be VECTOR"),
        (pa.array([[0.5]] * 9), {"x": "CATEGORICAL"}, "not whole"),
        (pa.array([["a"]] * 9), {"x": "VECTOR"}, "lists of text, and VECTOR is of numbers"),
        (pa.array([1.5] * 9), {"x": "VECTOR"}, '"x" cannot be VECTOR'),
        (pa.array([[[1]]] * 9), {}, "lists of numbers or text can be preprocessed"),
        (pa.array([[b"a"]] * 9), {}, "lists of numbers or text can be preprocessed"),
    ],
)
def test_lists_that_fit_nothing_are_refused_by_name(
    column: Any, overrides: Any, message: str, daemon: WatchedDaemon, path: Path
) -> None:
    pq.write_table(pa.table({"id": np.arange(len(column)), "x": column}), path)
    with pytest.raises(ColumnError, match=message) as caught:
        daemon.client().open(
            spec_of(
                ParquetSource(str(path)),
                features=["x"],
                eval_percent=0,
                fit=FitOptions(feature_overrides=overrides),
            )
        )
    assert re.search('"x"', str(caught.value))


def test_a_list_of_another_length_that_no_fit_saw_ends_reading_by_name(
    daemon: WatchedDaemon, path: Path, table: pa.Table
) -> None:
    pq.write_table(pa.table({"id": np.arange(ROWS), "scores": LATE}), path)
    spec = fit({"scores": np.ones((9, 2))})
    dataset = daemon.client().open(
        spec_of(
            ParquetSource(str(path)),
            features=["scores"],
            eval_percent=0,
            preprocessing=spec,
            fit=FitOptions(),
        )
    )
    with pytest.raises(ColumnError, match=r'"scores" has a list of 3 elements.*lists of 2.*cut'):
        list(dataset.batches("train", batch_size=500))


def test_a_spec_for_other_lists_is_refused_when_it_is_opened(
    daemon: WatchedDaemon, path: Path, table: pa.Table
) -> None:
    for columns, message in (
        ({"embedding": np.ones((9, 4))}, '"embedding" has lists of 5 elements.*VECTOR of 4'),
        ({"tags": [1.5] * 9}, '"tags" is of type list.*BINARY for it, which is of numbers'),
        ({"tags": [[1, 2]] * 9}, '"tags".*CATEGORICAL for it, which is of lists of numbers'),
        ({"age": ["a"] * 9}, '"age".*which is of text'),
    ):
        spec = fit(columns, FitOptions(min_category_count=1))
        with pytest.raises(ColumnError, match=message):
            daemon.client().open(
                spec_of(ParquetSource(str(path)), preprocessing=spec, fit=FitOptions())
            )
