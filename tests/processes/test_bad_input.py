"""What is wrong is said at the call that caused it, by a type of ours, with what to do."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from faucet_client import (
    BudgetError,
    ColumnError,
    DaemonUnreachable,
    DatasetInUse,
    DatasetNotFound,
    DatasetSpec,
    DuckDBSource,
    FaucetClient,
    FaucetError,
    ParquetSource,
    ReaderConflict,
    SourceEmpty,
    SourceForbidden,
    SourceNotFound,
    SourceReadError,
    SpecError,
)
from faucet_client.testing import LocalDaemon

LONGEST_S = 10.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    table = pa.table({"id": np.arange(100), "x": np.ones(100), "text": ["a"] * 100})
    pq.write_table(table, folder / "rows.parquet")
    pq.write_table(table.slice(0, 0), folder / "empty.parquet")
    (folder / "words.parquet").write_text("these are words")
    (folder / "outside").mkdir()
    with duckdb.connect(str(folder / "rows.duckdb")) as connection:
        connection.execute("CREATE TABLE flights AS SELECT range AS id FROM range(10)")
    return folder


@pytest.fixture(scope="module")
def daemon(folder: Path) -> Iterator[LocalDaemon]:
    with LocalDaemon([folder], workers=1, memory_budget="16MiB") as running:
        yield running


def parquet(folder: Path, name: str = "rows.parquet", **options: object) -> DatasetSpec:
    wishes = {"features": ["x"]} | options
    wishes = {"preprocessing": "none"} | wishes
    return DatasetSpec(ParquetSource(str(folder / name)), **wishes)  # type: ignore[arg-type]  # a test's brevity


BAD_SPECS: dict[str, tuple[type[FaucetError], str, dict[str, Any]]] = {
    "no such file": (SourceNotFound, r"nowhere\.parquet", {"name": "nowhere.parquet"}),
    "no such column": (ColumnError, '(?s)no column "idd".*Did you mean', {"features": ["idd"]}),
    "no such label": (ColumnError, 'labels.*no column "why"', {"labels": ["why"]}),
    "a label that is text": (ColumnError, '"text" is text', {"labels": ["text"]}),
    "a feature that is text": (ColumnError, "exclude_features", {"features": ["text"]}),
    "an empty table": (SourceEmpty, "no rows", {"name": "empty.parquet"}),
    "not a Parquet file": (SourceReadError, r"words\.parquet", {"name": "words.parquet"}),
    "a folder without files": (SourceNotFound, "outside", {"name": "outside"}),
    "a hash column of fractions": (ColumnError, "hash_column", {"hash_column": "x"}),
    "an unknown exclusion": (ColumnError, "y", {"exclude_features": ["y"]}),
}


@pytest.mark.parametrize("case", BAD_SPECS)
def test_a_bad_spec_is_refused_at_open(case: str, daemon: LocalDaemon, folder: Path) -> None:
    error, words, wishes = BAD_SPECS[case]
    client = daemon.client()
    began = time.monotonic()
    with pytest.raises(error, match=words):
        client.open(parquet(folder, **wishes))
    assert time.monotonic() - began < LONGEST_S
    assert client.status().datasets == ()


def test_a_missing_duckdb_table_names_those_that_exist(daemon: LocalDaemon, folder: Path) -> None:
    source = DuckDBSource(str(folder / "rows.duckdb"), table="flight")
    with pytest.raises(SourceNotFound, match="flights"):
        daemon.client().open(DatasetSpec(source, features=["id"], preprocessing="none"))


def test_a_path_outside_the_allowed_roots_is_refused_with_the_remedy(
    daemon: LocalDaemon, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "rows.parquet")
    with pytest.raises(SourceForbidden, match=r"(?s)allowed_roots.*--allowed-roots"):
        daemon.client().open(parquet(tmp_path))


def test_a_budget_that_is_too_small_is_refused_with_the_formula(
    daemon: LocalDaemon, folder: Path
) -> None:
    columns = {f"c{n}": np.zeros(60_000, np.float32) for n in range(40)}
    pq.write_table(pa.table(columns), folder / "wide.parquet")
    with pytest.raises(BudgetError, match=r"4 x [\d,]+ = [\d,]+.*chunk_rows"):
        daemon.client().open(
            parquet(folder, "wide.parquet", features=list(columns), chunk_rows=60_000)
        )


def test_a_batch_larger_than_the_split_is_refused(daemon: LocalDaemon, folder: Path) -> None:
    dataset = daemon.client().open(parquet(folder))
    with pytest.raises(SpecError, match="larger than the train split, which has 100 rows"):
        dataset.batches("train", batch_size=101)


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"split": "test"}, '"train" or "eval"'),
        ({"split": "eval"}, "eval split has no rows"),
        ({"batch_size": 0}, "from 1"),
        ({"shuffle": "chunks"}, "shuffle"),
        ({"order": "any"}, "order"),
        ({"rank": 2, "world_size": 2}, "rank"),
        ({"world_size": 10**5}, "world_size"),
        ({"remainder": "keep"}, "remainder"),
        ({"epochs": 0}, "epoch"),
        ({"seed": -1}, "seed"),
        ({"job": ""}, "job"),
    ],
)
def test_arguments_out_of_their_range_are_refused(
    daemon: LocalDaemon, folder: Path, wishes: dict[str, object], words: str
) -> None:
    dataset = daemon.client().open(parquet(folder))
    with pytest.raises(SpecError, match=words):
        dataset.batches(**{"split": "train", "batch_size": 10} | wishes)  # type: ignore[arg-type]  # wrong on purpose


def test_a_second_live_reader_of_the_same_name_is_refused_and_a_closed_one_replaced(
    daemon: LocalDaemon, folder: Path
) -> None:
    dataset = daemon.client().open(parquet(folder))
    first = dataset.batches("train", batch_size=10, job="sweep-3")
    next(first)
    with pytest.raises(ReaderConflict, match=r"'sweep-3'.*process \d+"):
        dataset.batches("train", batch_size=10, job="sweep-3")
    first.close()
    deadline = time.monotonic() + LONGEST_S
    while True:  # closing does not wait for the daemon to have heard it
        try:
            assert len(list(dataset.batches("train", batch_size=10, job="sweep-3"))) == 10
            break
        except ReaderConflict:
            assert time.monotonic() < deadline


def test_no_daemon_at_the_address_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachable, match="faucetd serve"):
        FaucetClient(f"unix://{tmp_path}/faucetd.sock")


def test_a_dataset_in_use_is_not_dropped_and_a_dropped_one_is_named(
    daemon: LocalDaemon, folder: Path
) -> None:
    client = daemon.client()
    dataset = client.open(parquet(folder, passthrough=["id"]))
    batches = dataset.batches("train", batch_size=10, job="busy")
    kept = next(batches)
    with pytest.raises(DatasetInUse, match="busy"):
        client.session().drop(dataset.info.key)
    batches.close()
    assert len(kept) == 10
    del kept, batches
    deadline = time.monotonic() + LONGEST_S
    while True:
        try:
            key, freed_bytes = client.session().drop(dataset.info.key[:8])
            break
        except DatasetInUse:
            assert time.monotonic() < deadline
    assert key == dataset.info.key
    assert freed_bytes > 0
    with pytest.raises(DatasetNotFound, match=dataset.info.key):
        dataset.batches("train", batch_size=10)
    with pytest.raises(DatasetNotFound):
        client.session().drop("nothing")


def test_bad_requests_leave_nothing_behind(daemon: LocalDaemon, folder: Path) -> None:
    client = daemon.client()
    for _ in range(5):
        with pytest.raises(FaucetError):
            client.open(parquet(folder, "nowhere.parquet"))
    gc.collect()  # what the tests before this one left in cycles
    deadline = time.monotonic() + LONGEST_S
    while (status := client.status()).memory.leased_bytes:
        assert time.monotonic() < deadline
    assert status.readers == ()
    assert {worker.state for worker in status.workers} == {"idle"}
