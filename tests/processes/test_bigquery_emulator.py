"""BigQuery as others have built it: our reader has never seen this server's code.

bqemulator is a local server by people who know nothing of us; `make test` installs it. Its faults,
and why a single worker reads here, stand in tests/bqemulator.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import farmhash
import numpy as np
import pyarrow as pa
import pytest

from faucet_client import (
    BigQuerySource,
    DatasetSpec,
    SourceNotFound,
    SourceReadError,
    SpecError,
)
from tests import bqemulator
from tests.bqemulator import Emulator, EmulatorError
from tests.bqemulator.tables import load
from tests.processes.daemons import StartDaemon, WatchedDaemon
from tests.processes.rows import Ids, feature, label
from tests.processes.specs import read_spec
from tests.processes.trainers import StartTrainer

ROWS = 10_000
NAME = "shop.clicks"
FEATURES = ("f0", "deep.f1", "deep.deeper.f2", "f3")
EVAL_PERCENT = 20
BATCH = 500


@dataclass(frozen=True)
class Clicks:
    """The table, in the words of tests/processes/tables.py."""

    rows: int = ROWS

    def fields(self, **changes: Any) -> dict[str, Any]:
        return {
            "bigquery": {"table": NAME},
            "features": "features",
            "labels": ["y"],
            "passthrough": ["id"],
            "hash_column": "user",
            "eval_percent": EVAL_PERCENT,
            "chunk_rows": 1_000,
        } | changes

    def spec(self, **changes: Any) -> DatasetSpec:
        return read_spec(self.fields(**changes))


def make_rows() -> pa.Table:
    """Features and a label as rows.py has them, in nested STRUCTs; and columns with nulls."""
    ids: Ids = np.arange(ROWS)
    f0, f1, f2, f3 = (feature(ids, number) for number in range(len(FEATURES)))
    deeper = pa.StructArray.from_arrays([pa.array(f2.astype(np.int64))], ["f2"])
    deep = pa.StructArray.from_arrays([pa.array(f1.astype(np.float64)), deeper], ["f1", "deeper"])
    features = pa.StructArray.from_arrays(
        [pa.array(f0.astype(np.int64)), deep, pa.array(f3.astype(np.float64))],
        ["f0", "deep", "f3"],
    )
    return pa.table(
        {
            "user": pa.array([user(number) for number in range(ROWS)]),
            "features": features,
            "y": pa.array(label(ids).astype(np.int64)),
            "id": pa.array(ids),
            "price": pa.array([price(number) for number in range(ROWS)], pa.float64()),
            "seen": pa.array([seen(number) for number in range(ROWS)], pa.bool_()),
            "day": pa.array([day(number) for number in range(ROWS)], pa.date32()),
            "deal": pa.array([deal(number) for number in range(ROWS)], DEAL),
        }
    )


DEAL = pa.struct([("percent", pa.float64()), ("name", pa.string())])


def user(number: int) -> str | None:
    return f"user-{number}" if number % 50 else None


def price(number: int) -> float | None:
    return number / 8 if number % 7 else None


def seen(number: int) -> bool | None:
    return (None, True, False)[number % 3]


def day(number: int) -> dt.date | None:
    return dt.date(2020, 1, 1) + dt.timedelta(number % 400) if number % 11 else None


def deal(number: int) -> dict[str, Any] | None:
    if number % 13 == 0:
        return None
    return {"percent": None if number % 5 == 0 else number / 4, "name": f"größe {number}"}


def is_eval(number: int) -> bool:
    """Whether a row is of the eval split, as BigQuery's documentation defines its functions."""
    fingerprint: int = farmhash.fingerprint64(user(number) or "")
    signed = fingerprint - 2**64 if fingerprint >= 2**63 else fingerprint
    return abs(signed) % 1_000 >= 10 * (100 - EVAL_PERCENT)


TRAIN_IDS = [number for number in range(ROWS) if not is_eval(number)]
EVAL_IDS = [number for number in range(ROWS) if is_eval(number)]


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator() as emulator:
        load(emulator, NAME, make_rows())
        yield emulator


@pytest.fixture
def daemon(emulator: Emulator, start_daemon: StartDaemon) -> WatchedDaemon:
    return start_daemon("64MiB", 1, **emulator.settings)


def test_two_trainers_read_each_row_of_their_split_once_an_epoch_and_the_table_is_read_once(
    daemon: WatchedDaemon, start_trainer: StartTrainer
) -> None:
    epochs = 2
    trainers = [start_trainer(daemon, Clicks()) for _ in range(2)]
    batches = -(-len(TRAIN_IDS) // BATCH)
    for trainer in trainers:
        assert trainer.opened() == {"rows": {"train": len(TRAIN_IDS), "eval": len(EVAL_IDS)}}
        assert trainer.start(BATCH, epochs=epochs) == epochs * batches
        trainer.send("read")
    for trainer in trainers:
        # Every feature and label of every row is checked there.
        assert trainer.answer() == {"read": epochs * batches}
        ids = trainer.ids().reshape(epochs, -1)
        for epoch in range(epochs):
            assert sorted(ids[epoch]) == TRAIN_IDS
    (dataset,) = daemon.client().status().datasets
    assert dataset.source_rows_read == ROWS
    assert dataset.cost is not None
    assert dataset.cost.passes_served == 4.0


def test_every_value_of_every_type_arrives_and_nulls_are_known(daemon: WatchedDaemon) -> None:
    columns = ["id", "user", "price", "seen", "day", "deal"]
    dataset = daemon.client().open(Clicks().spec(passthrough=columns))
    assert dataset.info.features == FEATURES
    found: dict[str, list[int]] = {}
    for split in ("train", "eval"):
        found[split] = []
        for batch in dataset.batches(split, batch_size=BATCH):
            ids = np.asarray(batch.passthrough["id"])
            numbers = ids.tolist()
            found[split] += numbers
            for number in range(len(FEATURES)):
                assert np.array_equal(batch.features[:, number].numpy(), feature(ids, number))
            assert np.array_equal(batch.labels["y"][:, 0].numpy(), label(ids))
            deals = [deal(number) or {} for number in numbers]
            expected: dict[str, list[Any]] = {
                "user": [user(number) for number in numbers],
                "price": [price(number) for number in numbers],
                "seen": [seen(number) for number in numbers],
                "day": [_days(day(number)) for number in numbers],
                "percent": [one.get("percent") for one in deals],
                "name": [one.get("name") for one in deals],
            }
            for name, values in expected.items():
                assert _with_nulls(batch, name) == values, name
    assert {split: sorted(ids) for split, ids in found.items()} == {
        "train": TRAIN_IDS,
        "eval": EVAL_IDS,
    }


def test_a_filter_is_applied_in_the_session(daemon: WatchedDaemon) -> None:
    source = BigQuerySource(NAME, filter="id < 3000 AND features.deep.f1 >= 100")
    dataset = daemon.client().open(
        DatasetSpec(
            source, features="features", labels=["y"], passthrough=["id"], preprocessing="none"
        )
    )
    wanted = [n for n in range(3_000) if feature(np.array([n]), 1)[0] >= 100]
    ids = [
        number
        for batch in dataset.batches("train", batch_size=BATCH)
        for number in batch.passthrough["id"].tolist()
    ]
    assert sorted(ids) == wanted
    (status,) = daemon.client().status().datasets
    assert status.source_rows_read == len(wanted)
    assert [note for note in status.notes if not note.startswith('chunking="auto" took')] == []


def test_where_results_cannot_be_read_the_preprocessing_is_fitted_by_reading(
    daemon: WatchedDaemon,
) -> None:
    dataset = daemon.client().open(
        DatasetSpec(BigQuerySource(NAME), features="features", labels=["y"], hash_column="id")
    )
    assert dataset.preprocessing.feature("f0").summary is not None
    notes = [note for each in daemon.client().status().datasets for note in each.notes]
    assert any("the preprocessing is fitted to a sample that is read" in note for note in notes)
    batch = next(iter(dataset.batches("train", batch_size=BATCH)))
    assert bool(batch.features.isfinite().all())


WRONG: list[tuple[BigQuerySource, type[Exception], str]] = [
    (BigQuerySource("shop.clickz"), SourceNotFound, "emulated.shop.clickz"),
    (BigQuerySource("shop.clickz"), SourceNotFound, "Did you mean clicks?"),
    (BigQuerySource("shap.clicks"), SourceNotFound, "emulated.shap.clicks"),
    (BigQuerySource(query="SELECT nothing FROM shop.clicks"), SourceReadError, "nothing"),
    (BigQuerySource(query="SELEKT 1"), SourceReadError, "the query"),
    (BigQuerySource(query="DROP TABLE shop.clicks"), SpecError, "SELECT"),
    # For which it has the code of a table that is not there.
    (BigQuerySource(NAME, filter="nothing > 1"), SourceNotFound, '"nothing" not found'),
]


def test_what_does_not_exist_is_told_by_name(daemon: WatchedDaemon) -> None:
    client = daemon.client()
    for source, error, told in WRONG:
        with pytest.raises(error, match=re.escape(told)):
            client.open(
                DatasetSpec(source, features="features", labels=["y"], preprocessing="none")
            )


def test_without_its_environment_the_emulator_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bqemulator, "HOME", tmp_path)
    with pytest.raises(EmulatorError, match=r"run `make .*\.ready`"):
        Emulator()


def _with_nulls(batch: Any, name: str) -> list[Any]:
    values = list(batch.passthrough[name].tolist())
    valid = batch.valid[name].tolist()
    return [value if known else None for value, known in zip(values, valid, strict=True)]


def _days(day: dt.date | None) -> int | None:
    return None if day is None else (day - dt.date(1970, 1, 1)).days
