"""preprocessing="auto": fitted once to the train split, served the same to all, and to a server."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
import threading
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray

from faucet_client import (
    BigQuerySource,
    ColumnError,
    Dataset,
    DatasetNotFound,
    DatasetSpec,
    ParquetSource,
    PreprocessingSpec,
    SpecError,
)
from faucet_client.preprocessing import (
    Binary,
    Categorical,
    Continuous,
    Enumeration,
    Feature,
    FitOptions,
    FitPolicy,
    Hashed,
    Timestamp,
    fit,
)
from tests.processes.bigquery import Warehouse
from tests.processes.daemons import StartDaemon, WatchedDaemon
from tests.processes.nursery import ROOT
from tests.processes.serving import serve

ROWS = 6_000
FEATURES = ("age", "flag", "grade", "price", "city", "code", "at", "day", "amount")


def write_table(path: Path, rows: int = ROWS) -> pa.Table:
    """A table of all types that can be preprocessed, with nulls, and values only eval rows have."""
    random = np.random.default_rng(7)

    def some(values: Any, kind: pa.DataType, share: float = 0.1) -> pa.Array[Any]:
        return pa.array(values, kind, mask=random.random(rows) < share)

    cities = np.array(["Wien", "Graz", "Linz", "日本", ""])[random.integers(0, 5, rows)]
    table = pa.table(
        {
            "id": np.arange(rows),
            "age": some(random.normal(40, 12, rows).astype(np.float32), pa.float32()),
            "flag": some(random.random(rows) < 0.3, pa.bool_()),
            "grade": some(random.integers(0, 6, rows), pa.int8()),
            "price": some(np.exp(random.normal(3, 1, rows)), pa.float64()),
            "city": some(cities, pa.string()),
            "code": some(random.integers(10**12, 10**12 + 300, rows), pa.int64()),
            "at": some(
                (random.integers(0, 10**9, rows) * 10**6).astype("datetime64[us]"),
                pa.timestamp("us", "UTC"),
            ),
            "day": some(random.integers(0, 20_000, rows).astype("datetime64[D]"), pa.date32()),
            "amount": some(
                [Decimal(int(cents)) / 100 for cents in random.integers(-(10**6), 10**6, rows)],
                pa.decimal128(20, 2),
            ),
            "y": random.random(rows).astype(np.float32),
        }
    )
    pq.write_table(table, path, row_group_size=1_000)
    return table


@pytest.fixture
def table(path: Path) -> pa.Table:
    """The table, written."""
    return write_table(path)


def spec_of(path: Path, **changes: Any) -> DatasetSpec:
    fields: dict[str, Any] = {
        "features": FEATURES,
        "labels": ["y"],
        "passthrough": ["id"],
        "hash_column": "id",
        "eval_percent": 20,
        "preprocessing": "auto",
        "chunk_rows": 1_500,
    }
    if changes.get("preprocessing", "auto") == "auto":
        fields["fit"] = FitOptions(feature_overrides={"code": "CATEGORICAL"})
    return DatasetSpec(ParquetSource(str(path)), **fields | changes)


def raw(table: pa.Table, names: Any = FEATURES) -> dict[str, Any]:
    """The columns as a model server might have them."""
    found: dict[str, Any] = {}
    for name in names:
        column = table.column(name).combine_chunks()
        kind = column.type
        nulls = column.is_null().to_numpy(zero_copy_only=False)
        if pa.types.is_string(kind):
            found[name] = column.to_numpy(zero_copy_only=False)
            continue
        if pa.types.is_decimal(kind):
            values = np.array([float(each or 0) for each in column.to_pylist()])
        elif pa.types.is_timestamp(kind):
            values = column.cast(pa.int64()).fill_null(0).to_numpy().astype("datetime64[us]")
        elif pa.types.is_date(kind):
            values = column.cast(pa.int32()).fill_null(0).to_numpy().astype("datetime64[D]")
        else:
            values = column.fill_null(False if pa.types.is_boolean(kind) else 0).to_numpy(
                zero_copy_only=False
            )
        found[name] = np.ma.masked_array(values, nulls)
    return found


def read(dataset: Dataset, split: Any) -> dict[str, NDArray[Any]]:
    """All rows of a split, in the order of their ids."""
    parts: dict[str, list[torch.Tensor]] = {"id": [], "features": []}
    for batch in dataset.batches(split, batch_size=256):
        parts["id"].append(batch.passthrough["id"].clone())  # type: ignore[union-attr]
        parts["features"].append(batch.features.clone())
        for name in batch.ids:
            parts.setdefault(f"ids:{name}", []).append(batch.ids[name].clone())
    rows = {name: torch.cat(each).numpy() for name, each in parts.items()}
    order = np.argsort(rows["id"])
    return {name: each[order] for name, each in rows.items()}


def rows_of(table: pa.Table, ids: NDArray[Any]) -> pa.Table:
    return table.take(pa.array(ids))


def served_by_hand(spec: PreprocessingSpec, columns: dict[str, Any]) -> dict[str, NDArray[Any]]:
    encoded, made = serve(spec, columns)
    return {"features": made.numpy()} | {f"ids:{name}": ids for name, ids in encoded.ids.items()}


@pytest.mark.parametrize("split", ["train", "eval"])
def test_what_is_served_is_what_a_model_server_makes_of_the_same_row_bit_for_bit(
    split: str, daemon: WatchedDaemon, path: Path, table: pa.Table
) -> None:
    dataset = daemon.client().open(spec_of(path))
    rows = read(dataset, split)
    spec = dataset.preprocessing
    assert {type(feature.transform) for feature in spec.features} >= {
        Binary,
        Enumeration,
        Categorical,
        Timestamp,
    }
    by_hand = served_by_hand(spec, raw(rows_of(table, rows["id"])))
    assert rows.keys() - {"id"} == by_hand.keys() == {"features", "ids:city", "ids:code"}
    for name, values in by_hand.items():
        assert values.dtype == rows[name].dtype
        assert np.array_equal(values, rows[name]), name
    # A row by itself is the same as among others.
    (first,) = (served_by_hand(spec, raw(rows_of(table, rows["id"][:1]))),)
    assert np.array_equal(first["features"], rows["features"][:1])


def test_the_spec_is_fitted_to_the_train_rows_and_no_others(
    daemon: WatchedDaemon, path: Path, table: pa.Table
) -> None:
    wanted = spec_of(path)
    dataset = daemon.client().open(wanted)
    train = rows_of(table, read(dataset, "train")["id"])
    assert dataset.preprocessing == fit(raw(train), wanted.fit)
    assert dataset.preprocessing != fit(raw(table), wanted.fit)
    assert dataset.preprocessing.feature("age").summary.rows == train.num_rows  # type: ignore[union-attr]


def test_the_spec_is_the_same_for_any_number_of_workers_chunks_and_files(
    start_daemon: StartDaemon, path: Path, table: pa.Table, tmp_path: Path
) -> None:
    found = []
    for workers, chunk_rows, fit_rows in ((1, 1_500, 2_000), (3, 400, 2_000), (2, 5_000, 2_000)):
        dataset = (
            start_daemon(workers=workers)
            .client()
            .open(spec_of(path, chunk_rows=chunk_rows, fit_rows=fit_rows))
        )
        found.append(dataset.preprocessing)
    assert found[0] == found[1] == found[2]
    summary = found[0].feature("age").summary
    assert summary is not None
    assert 1_800 < summary.rows < 2_200  # a sample, by hash, of about as many rows as asked for


def test_a_second_job_fits_nothing_nor_does_a_restarted_daemon(
    daemon: WatchedDaemon, path: Path, table: pa.Table
) -> None:
    spec = spec_of(path)
    before = daemon.client().open(spec)
    (status,) = daemon.client().status().datasets
    fitted_rows = status.count_rows_read - ROWS  # beside those of the hash column
    assert fitted_rows == ROWS
    # Other labels and chunks are another dataset, and the same fit.
    daemon.client().open(replace(spec, labels=[], chunk_rows=900))
    daemon.stop()
    daemon.restart()
    after = daemon.client().open(spec)
    assert after.preprocessing == before.preprocessing
    assert after.info.key == before.info.key
    (status,) = daemon.client().status().datasets
    assert status.count_rows_read == ROWS


def test_jobs_that_ask_at_once_wait_for_one_fit(
    start_daemon: StartDaemon, path: Path, table: pa.Table
) -> None:
    daemon = start_daemon(workers=2)
    specs = [spec_of(path, chunk_rows=rows) for rows in (500, 700, 900)]
    keys: list[str] = []
    threads = [
        threading.Thread(
            target=lambda each=each: keys.append(daemon.client().open(each).preprocessing.key())
        )
        for each in specs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 3
    assert len(set(keys)) == 1
    counted = sum(each.count_rows_read for each in daemon.client().status().datasets)
    assert counted == 3 * ROWS + ROWS  # the hash column thrice, the features once


def test_a_saved_spec_gives_the_same_dataset_and_serves_without_a_daemon(
    daemon: WatchedDaemon, path: Path, table: pa.Table, tmp_path: Path
) -> None:
    fitted = daemon.client().open(spec_of(path))
    saved = tmp_path / "preprocessing.json"
    fitted.preprocessing.save(saved)
    given = daemon.client().open(spec_of(path, preprocessing=PreprocessingSpec.load(saved)))
    assert given.info.key == fitted.info.key
    assert given.info.outputs == fitted.info.outputs == fitted.preprocessing.output_names
    rows = read(fitted, "eval")
    some = rows_of(table, rows["id"][:32])
    pq.write_table(some, tmp_path / "some.parquet")
    program = f"""
import json, sys
import torch, pyarrow.parquet as pq
from faucet_client import PreprocessingSpec
from faucet_client.preprocessing.encode import encode
from tests.processes.test_preprocessing import raw
spec = PreprocessingSpec.load({str(saved)!r})
encoded = encode(spec, raw(pq.read_table({str(tmp_path / "some.parquet")!r})))
inputs = torch.from_numpy(encoded.values), torch.from_numpy(encoded.presence)
exported = torch.export.export(spec.preprocessor(), inputs).module()
ids = {{name: values.tolist() for name, values in encoded.ids.items()}}
json.dump([exported(*inputs).tolist(), ids], sys.stdout)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert ended.returncode == 0, ended.stderr
    features, ids = json.loads(ended.stdout)
    assert np.array_equal(np.array(features, np.float32), rows["features"][:32])
    assert {f"ids:{name}" for name in ids} == {"ids:city", "ids:code"}
    for name, values in ids.items():
        assert values == rows[f"ids:{name}"][:32].tolist()


def test_info_tells_which_outputs_are_of_which_feature(
    daemon: WatchedDaemon, path: Path, table: pa.Table
) -> None:
    dataset = daemon.client().open(spec_of(path))
    info = dataset.info
    assert set(info.features) == set(FEATURES)
    found = [place for name in dataset.preprocessing.input_names for place in info.outputs_of(name)]
    assert sorted(found) == list(range(len(info.outputs)))
    grades = [info.outputs[place] for place in info.outputs_of("grade")]
    assert grades == [f"grade={value}" for value in range(6)]
    assert list(info.outputs_of("city")) == []


def test_what_the_policies_change_is_counted_and_shown(
    daemon: WatchedDaemon, path: Path, table: pa.Table
) -> None:
    spec = PreprocessingSpec(
        [
            Feature("city", Categorical(("Wien", "Graz"))),
            Feature("code", Hashed(64)),
            Feature("age", Continuous(40.0, 12.0)),
        ]
    )
    dataset = daemon.client().open(
        spec_of(path, preprocessing=spec, features=["age", "city", "code"])
    )
    read(dataset, "train")
    read(dataset, "eval")
    (status,) = daemon.client().status().datasets
    counts = {each.column: each for each in status.counts}
    cities = table.column("city").to_pylist()
    assert counts["city"].nulls == cities.count(None)
    assert counts["city"].unseen == sum(city not in ("Wien", "Graz", None) for city in cities)
    assert counts["code"].unseen == 0
    assert counts["age"].nulls == table.column("age").null_count


def test_a_dataset_of_ids_alone_has_an_empty_matrix(
    daemon: WatchedDaemon, path: Path, table: pa.Table
) -> None:
    dataset = daemon.client().open(spec_of(path, features=["city"], fit=FitOptions()))
    batch = next(iter(dataset.batches("train", batch_size=100)))
    assert batch.features.shape == (100, 0)
    assert batch.ids["city"].dtype == torch.int64
    assert batch.clone().ids["city"].tolist() == batch.ids["city"].tolist()
    assert int(batch.ids["city"].max()) < dataset.preprocessing.cardinality("city")


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"preprocessing": "automatic"}, SpecError, '"auto", "none" or a PreprocessingSpec'),
    ({"fit_on": "moon"}, SpecError, "fit_on must be one of"),
    ({"fit_on": "warehouse"}, SpecError, 'Parquet files have none: use fit_on="sample" or'),
    ({"fit": {"sample_rows": 1}}, SpecError, "fit must be FitOptions"),
    ({"fit_rows": 0}, SpecError, "fit_rows"),
    (
        {"fit": FitOptions(feature_overrides={"agee": "CONTINUOUS"})},
        ColumnError,
        'no column "agee".* Did you mean "age"',
    ),
    (
        {"fit": FitOptions(feature_overrides={"city": "CONTINUOUS"})},
        ColumnError,
        '"city".*CONTINUOUS',
    ),
    (
        {"fit": FitOptions(feature_overrides={"price": "PROBABILITY"})},
        ColumnError,
        '"price" cannot be PROBABILITY',
    ),
    (
        {"preprocessing": PreprocessingSpec([Feature("height", Continuous(1.7, 1.0))])},
        ColumnError,
        'for other columns: "height" is missing',
    ),
    (
        {"preprocessing": PreprocessingSpec([Feature("city", Categorical((1, 2)))])},
        ColumnError,
        '"city" is of type .*CATEGORICAL for it, which is of numbers',
    ),
    (
        {"preprocessing": PreprocessingSpec([Feature("city", Continuous(1.7, 1.0))])},
        ColumnError,
        '"city" is of type .*CONTINUOUS for it, which is of numbers',
    ),
]


@pytest.mark.parametrize(("changes", "kind", "message"), REFUSED)
def test_what_cannot_be_preprocessed_is_refused_at_open_by_name(
    changes: dict[str, Any],
    kind: type[Exception],
    message: str,
    daemon: WatchedDaemon,
    path: Path,
    table: pa.Table,
) -> None:
    with pytest.raises(kind, match=message):
        daemon.client().open(spec_of(path, **changes))


def test_odd_columns_are_told_of_with_what_to_do(daemon: WatchedDaemon, path: Path) -> None:
    rows = 1_000
    pq.write_table(
        pa.table(
            {
                "id": np.arange(rows),
                "nothing": pa.nulls(rows, pa.float64()),
                "constant": np.full(rows, 3.5),
                "infinite": np.where(np.arange(rows) % 10, np.arange(rows) + 0.5, np.inf),
                "key": [f"user-{number}" for number in range(rows)],
            }
        ),
        path,
    )
    dataset = daemon.client().open(
        DatasetSpec(
            ParquetSource(str(path)),
            features=["nothing", "constant", "infinite", "key"],
            passthrough=["id"],
            preprocessing="auto",
        )
    )
    notes = {f.name: " ".join(f.notes) for f in dataset.preprocessing.features}
    assert "exclude_features" in notes["nothing"]
    assert "constant" in notes["constant"]
    assert "infinite" in notes["infinite"]
    assert "passthrough" in notes["key"]
    assert np.isfinite(read(dataset, "train")["features"]).all()


def test_few_rows_are_fitted_by_rule_with_a_note(daemon: WatchedDaemon, path: Path) -> None:
    write_table(path, rows=50)
    dataset = daemon.client().open(spec_of(path, fit=FitOptions()))
    notes = " ".join(dataset.preprocessing.feature("price").notes)
    assert "750 are needed" in notes


def test_a_table_of_bigquery_is_fitted_once_to_its_train_rows(
    bigquery: Warehouse, path: Path
) -> None:
    table = write_table(path)
    name = f"{bigquery.dataset}.typed"
    bigquery.server.load(name, table)
    daemon = bigquery.start_daemon(workers=2)
    source = BigQuerySource(table=name)
    wanted = replace(spec_of(path), source=source, fit_on="sample", fit_rows=10**6)
    client = daemon.client()
    dataset = client.open(wanted)
    rows = read(dataset, "train")
    train = rows_of(table, rows["id"])
    assert dataset.preprocessing == fit(raw(train), wanted.fit)
    by_hand = served_by_hand(dataset.preprocessing, raw(train))
    for column, values in by_hand.items():
        assert np.array_equal(values, rows[column]), column
    # A smaller sample is chosen by the rows' values, whatever the streams they come in.
    some = [
        bigquery.start_daemon(workers=workers)
        .client()
        .open(replace(wanted, fit_rows=1_000))
        .preprocessing
        for workers in (1, 3)
    ]
    assert some[0] == some[1] != dataset.preprocessing


def test_dates_before_1970_and_after_2255_are_served(daemon: WatchedDaemon, path: Path) -> None:
    days = [dt.date(1, 1, 1), dt.date(1969, 12, 31), dt.date(9999, 12, 31), None] * 300
    pq.write_table(pa.table({"id": np.arange(len(days)), "day": pa.array(days, pa.date32())}), path)
    dataset = daemon.client().open(
        DatasetSpec(
            ParquetSource(str(path)), features=["day"], passthrough=["id"], preprocessing="auto"
        )
    )
    features = read(dataset, "train")["features"]
    assert np.isfinite(features).all()
    assert not features[3::4].any()
    assert features[0::4].any()


def test_the_profile_is_made_with_the_fit_and_found_by_whoever_joins(
    daemon: WatchedDaemon, path: Path, table: pa.Table, tmp_path: Path
) -> None:
    dataset = daemon.client().open(spec_of(path))
    (status,) = daemon.client().status().datasets
    profile = dataset.profile(tmp_path / "page.html")
    assert "<html" in (tmp_path / "page.html").read_text()
    assert (profile.key, profile.rows) == (dataset.info.key, dict(dataset.info.rows))
    assert {feature.name for feature in profile.features} == set(FEATURES)
    by_name = {feature.name: feature for feature in profile.features}
    train = rows_of(table, read(dataset, "train")["id"])
    assert by_name["city"].type == "CATEGORICAL"
    assert by_name["city"].nulls == train.column("city").null_count  # the table is small: all rows
    assert by_name["price"].outputs is not None
    assert by_name["grade"].output_names == tuple(f"grade={value}" for value in range(6))
    rare = spec_of(
        path,
        fit=FitOptions(
            feature_overrides={"code": "CATEGORICAL"},
            min_category_count=10,
            policies={"age": FitPolicy(impute="mean")},
        ),
    )
    policies = {
        feature.name: {each.policy: each.rows for each in feature.policies}
        for feature in daemon.client().open(rare).profile().features
    }
    assert policies["age"] == {"imputed": train.column("age").null_count}
    assert policies["code"]["not in the vocabulary"] > 0
    after = next(each for each in daemon.client().status().datasets if each.key == dataset.info.key)
    assert after.count_rows_read == status.count_rows_read  # looking has read nothing
    daemon.stop()
    daemon.restart()
    assert daemon.client().open(spec_of(path)).profile() == profile


def test_the_profile_stays_when_the_dataset_is_opened_again_with_its_spec(
    daemon: WatchedDaemon, path: Path, table: pa.Table
) -> None:
    dataset = daemon.client().open(spec_of(path))
    saved = PreprocessingSpec.from_json(dataset.preprocessing.to_json())
    again = daemon.client().open(spec_of(path, preprocessing=saved))
    assert again.info.key == dataset.info.key
    assert again.profile() == dataset.profile()


def test_without_a_fit_there_is_no_profile_and_that_is_said(
    daemon: WatchedDaemon, path: Path, table: pa.Table
) -> None:
    plain = daemon.client().open(spec_of(path, features=["age"], preprocessing="none"))
    with pytest.raises(DatasetNotFound, match='preprocessing="auto"'):
        plain.profile()
