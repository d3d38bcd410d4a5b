"""Scripts of 2020 run: the examples as they stand, and what their authors could rely on."""

from __future__ import annotations

import ast
import dataclasses
import gc
import json
import logging
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from faucet_client import (
    AccessDenied,
    BigQuerySource,
    ColumnError,
    Dataset,
    DatasetSpec,
    FaucetClient,
    IteratorError,
    SourceReadError,
    SpecError,
    _compat_reader,
    compat,
    get_client,
)
from faucet_client.errors import DaemonLost
from tests.bigquery_server import LocalBigQuery
from tests.processes.daemons import StartDaemon
from tests.processes.tables_2020 import (
    EXAMPLES,
    TABLE,
    Frames,
    Warehouse,
    both,
    open_rows,
    rest_of,
    rows_table,
    start_reader,
)
from tests.processes.waiting import eventually

NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def ids_of(batches: list[Frames]) -> list[int]:
    """Their rows' ids; each row must be whole."""
    for batch in batches:
        ids = batch["features"]["id"]
        assert (batch["features"]["x"] == ids % 7).all()
        assert (batch["labels"]["y"] == ids).all()
        assert (batch["labels"]["z"] == ids % 2).all()
    return [row for batch in batches for row in batch["features"]["id"].tolist()]


# The examples.


@both
def test_the_training_script_of_2020_runs_and_learns(
    warehouse: Warehouse,
    example: Callable[[int], pa.Table],
    caplog: pytest.LogCaptureFixture,
) -> None:
    warehouse.load("my-project.my_dataset.my_training_table", example(20_000), "2020-01-20")
    caplog.set_level(logging.INFO)
    runpy.run_path(str(EXAMPLES / "train_2020.py"), run_name="__main__")
    losses = [
        float(record.getMessage().rpartition(" ")[2])
        for record in caplog.records
        if record.getMessage().startswith("batch ")
    ]
    assert len(losses) == 2 * 3  # a fifth of 20,000 rows, less a batch that would be short
    assert losses[-1] < 0.6  # always to guess that four in ten survive is 0.67


def test_the_examples_run_beside_a_local_bigquery() -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "local.py", sys.executable, EXAMPLES / "train_2020.py"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "batch 6: loss 0." in done.stderr


@both
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebooks_run(
    path: Path, warehouse: Warehouse, example: Callable[[int], pa.Table]
) -> None:
    warehouse.load("my-project.my_dataset.passengers", example(891), "2020-01-20")
    shown = run_notebook(path)
    batches = [value for value in shown if isinstance(value, dict)]
    assert [batch["batch_num"] for batch in batches] == [*range(1, len(batches) + 1)]
    assert {batch["batches_per_epoch"] for batch in batches} == {6}
    assert [type(batch["features"]).__name__ for batch in batches] == {
        "1_mini_batches": ["DataFrame"],
        "2_preprocessing": ["Tensor", "DataFrame"],
    }[path.stem]
    frames = batches[-1]
    assert frames["features"].shape == (128, 10)
    assert frames["features"]["age"].isna().any()
    assert frames["labels"].columns.tolist() == ["survived"]
    if path.stem == "2_preprocessing":
        age, family_size = (v for v in shown if isinstance(v, compat.NormalizationParameters))
        assert (age.feature_type, family_size.feature_type) == ("CONTINUOUS", "ENUM")
        assert family_size.possible_values == [1, 2, 3, 4, 5]
        tensors = batches[0]
        assert (tensors["features"].shape, tensors["features"].dtype) == ((128, 28), torch.float32)
        assert tensors["features"].isfinite().all()
        assert [*tensors["labels"]] == ["survived"]
        assert tensors["labels"]["survived"].shape == (128, 1)


def run_notebook(path: Path) -> list[Any]:
    """Runs the code cells in order; what the last expression of each shows."""
    namespace: dict[str, Any] = {}
    shown = []
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"]
            shown.append(run_cell(ast.parse("".join(cell["source"])).body, namespace))
    return shown


def run_cell(body: list[ast.stmt], namespace: dict[str, Any]) -> Any:
    """Runs statements; the value of the last one, if that is an expression."""
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), namespace)
    if not isinstance(last, ast.Expr):
        return None
    return eval(compile(ast.Expression(last.value), "cell", "eval"), namespace)


def test_earlier_names_of_get_client_are_the_same_function() -> None:
    assert compat.get_batch_reader is compat.get_data_reader is get_client


# Epochs and batches.


@both
def test_an_epoch_has_each_row_once_and_each_epoch_another_order(warehouse: Warehouse) -> None:
    warehouse.load(TABLE, rows_table(30_000))
    with open_rows(test_split_percent=20, skip_small_batches=False) as reader:
        orders = {}
        for epoch in range(2):
            reader.prep_for_epoch()
            orders["train", epoch] = ids_of(rest_of(reader))
            reader.prep_for_eval()
            orders["eval", epoch] = ids_of(rest_of(reader))
    assert sorted(orders["train", 0] + orders["eval", 0]) == list(range(30_000))
    assert sorted(orders["train", 0]) == sorted(orders["train", 1])
    assert orders["train", 0] != orders["train", 1]
    assert orders["eval", 0] == orders["eval", 1]
    assert 0.18 < len(orders["eval", 0]) / 30_000 < 0.22


def test_rows_of_a_single_chunk_come_in_another_order_as_well(warehouse: Warehouse) -> None:
    warehouse.load(TABLE, rows_table(1_000))
    orders = []
    with open_rows(skip_small_batches=False) as reader:
        for _ in range(3):
            reader.prep_for_epoch()
            orders.append(tuple(ids_of(rest_of(reader))))
    assert len(set(orders)) == 3
    assert len({tuple(sorted(order)) for order in orders}) == 1


def test_by_default_all_of_the_table_is_for_training(warehouse: Warehouse) -> None:
    warehouse.load(TABLE, rows_table(3_000).drop_columns(["hash_on"]))
    with open_rows(skip_small_batches=False) as reader:
        reader.prep_for_epoch()
        assert sorted(ids_of(rest_of(reader))) == list(range(3_000))


def test_a_sample_is_split_as_well(warehouse: Warehouse) -> None:
    warehouse.load(TABLE, rows_table(20_000))
    with open_rows(table_sample_percent=50, test_split_percent=10) as reader:
        rows = reader.dataset.info.rows
    assert 8_500 < rows["train"] < 9_500
    assert 800 < rows["eval"] < 1_200


def test_batches_count_from_one_and_on_over_the_epochs(warehouse: Warehouse) -> None:
    warehouse.load(TABLE, rows_table(1_000))
    numbers = {}
    for skip in (True, False):
        with open_rows(batch_size=300, skip_small_batches=skip) as reader:
            batches = []
            for _ in range(2):
                reader.prep_for_epoch()
                batches += rest_of(reader)
        numbers[skip] = [batch["batch_num"] for batch in batches]
        assert {batch["batches_per_epoch"] for batch in batches} == {3 if skip else 4}
        assert [len(batch["labels"]) for batch in batches] == ([300] * 3 + [100] * (not skip)) * 2
    assert numbers == {True: [1, 2, 3, 4, 5, 6], False: [1, 2, 3, 4, 5, 6, 7, 8]}


def test_after_the_end_it_is_none_again_until_the_next_pass(warehouse: Warehouse) -> None:
    warehouse.load(TABLE, rows_table(2_000))
    with open_rows() as reader:
        reader.prep_for_epoch()
        assert len(rest_of(reader)) == 1
        assert reader.get_batch() is None
        assert reader.get_batch() is None
        reader.prep_for_epoch()
        assert reader.get_batch() is not None


def test_what_was_prepared_last_decides_which_rows_come(
    warehouse: Warehouse, caplog: pytest.LogCaptureFixture
) -> None:
    warehouse.load(TABLE, rows_table(4_000))
    with open_rows(batch_size=100, test_split_percent=50, skip_small_batches=False) as reader:
        reader.prep_for_epoch()
        first = reader.get_batch()
        assert first is not None
        reader.prep_for_eval()  # and the epoch is given up
        held_out = ids_of(rest_of(reader))
        reader.prep_for_epoch()
        trained = ids_of(list(iter(lambda: reader.get_batch(eval=True), None)))
    assert not {*held_out} & {*trained}
    assert {*held_out} | {*trained} == {*range(4_000)}
    assert {*ids_of([first])} < {*trained}
    warned = [r for r in caplog.records if "eval=True" in r.getMessage()]
    assert len(warned) == 1


def test_a_pass_must_be_prepared_and_a_reader_open(warehouse: Warehouse) -> None:
    warehouse.load(TABLE, rows_table(2_000))
    reader = open_rows()
    with pytest.raises(IteratorError, match=r"prep_for_epoch\(\)"):
        reader.get_batch()
    reader.prep_for_epoch()
    reader.close()
    for call in (reader.get_batch, reader.prep_for_epoch, reader.prep_for_eval):
        with pytest.raises(IteratorError, match="was closed"):
            call()
    with pytest.raises(IteratorError, match="was closed"):
        reader.adhoc_query("SELECT 1 AS one")


def test_a_reader_that_is_dropped_ends(warehouse: Warehouse) -> None:
    warehouse.load(TABLE, rows_table(80_000))
    client = warehouse.daemon.client()
    reader = open_rows()
    reader.prep_for_epoch()
    assert reader.get_batch() is not None
    eventually(lambda: len(client.status().readers) == 1)
    del reader
    gc.collect()
    eventually(lambda: not client.status().readers)


def test_a_daemon_that_dies_is_an_error_and_never_the_end(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAUCET_PATIENCE_S", "0")
    warehouse.load(TABLE, rows_table(100_000))
    with open_rows(chunk_size=8_192) as reader:
        reader.prep_for_epoch()
        kept = reader.get_batch()
        assert kept is not None
        warehouse.daemon.kill()
        for _ in range(2):
            with pytest.raises(DaemonLost):
                rest_of(reader)
        warehouse.daemon.restart()
        reader.prep_for_epoch()
        assert len(ids_of([kept])) == 1024
        assert len({*ids_of(rest_of(reader))}) == 100_000 // 1024 * 1024


def test_the_log_says_how_far_it_is(warehouse: Warehouse, caplog: pytest.LogCaptureFixture) -> None:
    warehouse.load(TABLE, rows_table(6_000))
    caplog.set_level(logging.DEBUG, "faucet_client.compat")
    with open_rows(epochs=2, batch_size=1_000) as reader:
        for _ in range(2):
            reader.prep_for_epoch()
            rest_of(reader)
    lines = [(r.levelname, r.getMessage()) for r in caplog.records]
    assert ("DEBUG", "Got batch 3/6 for epoch 1/2 (25%)") in lines
    assert lines[-1] == ("DEBUG", "Got batch 6/6 for epoch 2/2 (100%)")
    assert ("INFO", "Epoch 2/2: 6000 training rows") in lines


# Too few rows.


def test_an_evaluation_of_nothing_warns_and_is_over_at_once(
    warehouse: Warehouse, caplog: pytest.LogCaptureFixture
) -> None:
    warehouse.load(TABLE, rows_table(2_000))
    for percent in (None, 10):  # no rows, and fewer than a batch
        caplog.clear()
        with open_rows(test_split_percent=percent) as reader:
            reader.prep_for_epoch()
            reader.prep_for_eval()
            assert reader.get_batch(eval=True) is None
        assert "there is nothing to evaluate" in caplog.text


def test_a_training_split_smaller_than_a_batch_is_one_short_batch_or_an_error(
    warehouse: Warehouse,
) -> None:
    warehouse.load(TABLE, rows_table(500))
    with pytest.raises(SpecError, match="500 training rows, fewer than one batch of 1,024"):
        open_rows()
    with open_rows(skip_small_batches=False) as reader:
        reader.prep_for_epoch()
        (batch,) = rest_of(reader)
    assert sorted(ids_of([batch])) == list(range(500))
    assert (batch["batch_num"], batch["batches_per_epoch"]) == (1, 1)


# Frames.


@both
def test_values_come_as_they_are_and_missing_ones_as_in_2020(warehouse: Warehouse) -> None:
    rows = 1_000
    gaps = np.arange(rows) % 10 == 3
    large = 2**53 + 1 + 2 * np.arange(rows)
    columns = {
        "large": pa.array(large),
        "large_gaps": pa.array(large, mask=gaps),
        "small_gaps": pa.array(np.arange(rows), mask=gaps),
        "real": pa.array(np.arange(rows) / 3, mask=gaps),
        "flag": pa.array(np.arange(rows) % 2 == 0),
        "flag_gaps": pa.array(np.arange(rows) % 2 == 0, mask=gaps),
        "text": pa.array([f"grün {row}" for row in range(rows)]),
        "text_gaps": pa.array([f"row {row}" for row in range(rows)], mask=gaps),
    }
    warehouse.load(TABLE, rows_table(rows, **columns))
    with open_rows(batch_size=rows) as reader:
        reader.prep_for_epoch()
        (batch,) = rest_of(reader)
    frame = batch["features"].sort_values("id", ignore_index=True)
    assert {name: str(frame[name].dtype) for name in columns} == {
        "large": "int64",
        "large_gaps": "object",
        "small_gaps": "float64",
        "real": "float64",
        "flag": "bool",
        "flag_gaps": "object",
        "text": "object",
        "text_gaps": "object",
    }
    for name, column in columns.items():
        missing = np.zeros(rows, bool) if column.null_count == 0 else gaps
        assert np.array_equal(frame[name].isna().to_numpy(), missing), name
        if frame[name].dtype == object:
            assert frame[name].tolist() == column.to_pylist(), name
        else:
            expected = [value for value in column.to_pylist() if value is not None]
            assert frame[name].dropna().tolist() == expected, name


def test_each_label_is_a_column_of_its_own_and_may_be_called_as_a_feature(
    warehouse: Warehouse,
) -> None:
    warehouse.load(TABLE, rows_table(2_000, y=np.arange(2_000) * 10))
    with open_rows() as reader:
        reader.prep_for_epoch()
        (batch,) = rest_of(reader)
    assert batch["features"].columns.tolist() == ["id", "x", "y"]
    assert batch["labels"].columns.tolist() == ["y", "z"]
    assert (batch["features"]["y"] == 10 * batch["labels"]["y"]).all()


def test_frames_count_from_zero_can_be_written_to_and_outlive_the_reader(
    warehouse: Warehouse,
) -> None:
    warehouse.load(TABLE, rows_table(100_000))
    with open_rows() as reader:
        reader.prep_for_epoch()
        batches = rest_of(reader)
    client = warehouse.daemon.client()
    eventually(lambda: client.status().memory.leased_bytes == 0)  # they keep no chunk
    assert len({*ids_of(batches)}) == 100_000 // 1024 * 1024
    for batch in batches:
        assert batch["features"].index.equals(pd.RangeIndex(1024))
        assert batch["labels"].index.equals(pd.RangeIndex(1024))
        before = batch["features"]["x"].copy()
        batch["features"].loc[5, "x"] = -1
        batch["features"]["x"] += 1
        assert batch["features"]["x"].drop(5).equals((before + 1).drop(5))


def test_features_can_be_left_out(warehouse: Warehouse) -> None:
    warehouse.load(TABLE, rows_table(2_000, y=np.arange(2_000)))
    with open_rows(exclude_features=["x", "y"]) as reader:
        reader.prep_for_epoch()
        (batch,) = rest_of(reader)
    assert batch["features"].columns.tolist() == ["id"]
    assert batch["labels"].columns.tolist() == ["y", "z"]  # a label is no feature
    with pytest.raises(ColumnError, match="leaves no column of features"):
        open_rows(exclude_features=["id", "x", "y"])


# Queries.


@both
def test_the_result_of_a_query_is_a_frame(warehouse: Warehouse) -> None:
    large = [2**53 + 1, None, 7]
    texts = ["one", "zwei", None]
    warehouse.load(TABLE, rows_table(3, large=large, text=texts))
    with open_rows(skip_small_batches=False) as reader:
        frame = reader.adhoc_query(f"SELECT hash_on + 1 AS n, features FROM `{TABLE}`")
        frame = frame.sort_values("n", ignore_index=True)
        assert frame.drop(columns=["id", "x"]).to_dict("list") == {
            "n": [1, 2, 3],
            "large": large,
            "text": texts,
        }
        alike = reader.adhoc_query(
            f"SELECT features AS a, features AS b, labels FROM `{TABLE}` WHERE hash_on = 2"
        )
        names = ("id", "x", "large", "text")
        assert alike.columns.tolist() == [f"{s}.{n}" for s in "ab" for n in names] + ["y", "z"]
        assert alike[["a.id", "b.id", "y"]].to_numpy().tolist() == [[2, 2, 2]]
        with pytest.raises(SourceReadError):
            reader.adhoc_query("SELECT nonsense")


def test_a_large_result_of_a_query_has_all_rows(warehouse: Warehouse) -> None:
    warehouse.load(TABLE, rows_table(2_000))
    with open_rows() as reader:
        frame = reader.adhoc_query(
            "SELECT range AS n, CASE WHEN range > 199990 THEN NULL ELSE range END AS gaps "
            "FROM range(200000)"
        )
    frame = frame.sort_values("n", ignore_index=True)
    assert frame["n"].tolist() == list(range(200_000))
    assert frame["gaps"].isna().sum() == 9  # in the last chunk alone, but one dtype for all
    assert str(frame["gaps"].dtype) == "float64"


# What is refused.


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"datastore": "redshift"}, 'datastore must be "bigquery"'),
        ({"faucet_core_url": "localhost:6565"}, "feature store"),
        ({"faucet_project": "default"}, "feature store"),
        ({"test_split_percent": 100}, "test_split_percent must be"),
        ({"table_sample_percent": 0}, "table_sample_percent must be"),
        ({"table_sample_percent": "10"}, "table_sample_percent must be a number"),
        ({"epochs": 0}, "epochs must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"chunk_size": 0}, "chunk_size must be"),
        ({"exclude_features": "age"}, "exclude_features must be a list"),
        ({"ds": "yesterday"}, "partition_date"),
        ({"table_name": ""}, "table must be"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(
    changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(SpecError, match=says):
        open_rows(**changes)


def test_a_table_of_another_shape_is_told_what_is_missing(warehouse: Warehouse) -> None:
    warehouse.load(TABLE, rows_table(2_000).drop_columns(["hash_on"]))
    with pytest.raises(ColumnError, match=r"hash_on.*two STRUCT columns"):
        open_rows(test_split_percent=20)
    warehouse.load(TABLE, pa.table({"features": range(9), "labels": range(9)}))
    with pytest.raises(ColumnError, match=r'"features" is no STRUCT'):
        open_rows()


def test_without_pandas_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"faucetml\[compat\]>=0\.1.*'\.\[compat\]'"):
        open_rows()


# Credentials and chunks.


@pytest.fixture
def read_as_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon says that it reads as the service account `trainer`."""
    really_open = FaucetClient.open

    def open_as(self: FaucetClient, spec: DatasetSpec) -> Dataset:
        dataset = really_open(self, spec)
        dataset.info = dataclasses.replace(dataset.info, principal="trainer@example.com")
        return dataset

    monkeypatch.setattr(FaucetClient, "open", open_as)


@pytest.mark.usefixtures("read_as_trainer")
def test_credentials_of_somebody_else_are_refused(warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.load(TABLE, rows_table(2_000))
    key = tmp_path / "bq_creds.json"
    key.write_text(json.dumps({"client_email": "somebody@example.com", "private_key": "secret"}))
    with pytest.raises(AccessDenied, match=r"somebody@example\.com.*trainer@example\.com") as error:
        open_rows(credential_path=str(key))
    assert "secret" not in str(error.value)
    key.write_text(json.dumps({"client_email": "trainer@example.com"}))
    open_rows(credential_path=key).close()


def test_the_credentials_compared_are_those_that_bigquery_is_read_with(
    start_daemon: StartDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalBigQuery() as server:
        ours = server.key_file(tmp_path / "ours.json", "trainer@my-project.iam.gserviceaccount.com")
        other = server.key_file(tmp_path / "other.json", "else@my-project.iam.gserviceaccount.com")
        daemon = start_reader(start_daemon, server, str(ours))
        monkeypatch.setenv("FAUCET_ADDRESS", daemon.address)
        server.load(TABLE, rows_table(2_000))
        open_rows(credential_path=ours).close()
        with pytest.raises(AccessDenied, match=r"else@my-project.*trainer@my-project"):
            open_rows(credential_path=other)


@pytest.mark.usefixtures("read_as_trainer")
@pytest.mark.parametrize("content", [None, "{", "[]", '{"type": "authorized_user"}'])
def test_credentials_that_name_nobody_are_ignored_and_the_log_says_so(
    content: str | None,
    warehouse: Warehouse,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    warehouse.load(TABLE, rows_table(2_000))
    key = tmp_path / "bq_creds.json"
    if content is not None:
        key.write_text(content)
    caplog.set_level(logging.INFO, "faucet_client.compat")
    open_rows(credential_path=str(key)).close()
    assert f"credential_path={key} is ignored" in caplog.text


def test_the_chunk_size_is_a_hint(warehouse: Warehouse) -> None:
    warehouse.load(TABLE, rows_table(2_000))
    asked = {}
    for chunk_size in (1, 50_001, 1024 * 100, 1024 * 10_000):
        with open_rows(chunk_size=chunk_size) as reader:
            asked[chunk_size] = reader.dataset.spec.chunk_rows
    assert asked == {1: 8_192, 50_001: 50_001, 1024 * 100: None, 1024 * 10_000: None}


def test_a_query_is_run_anew_and_a_table_may_be_a_partition() -> None:
    assert _compat_reader._query("SELECT 1") == BigQuerySource(query="SELECT 1", snapshot="new")
    assert compat._table("a.b.c", "2020-01-20") == BigQuerySource(
        table="a.b.c", partition_date="2020-01-20"
    )


def test_local_py_without_a_command_says_how_it_is_used() -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "local.py"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "python examples/local.py python examples/train_2020.py" in done.stderr
