"""fit_on="warehouse": a spec fitted by queries is the one that reading all rows gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from faucet_client import (
    BigQuerySource,
    BudgetError,
    ColumnError,
    Dataset,
    DatasetSpec,
    DuckDBSource,
    FaucetClient,
    OpenProgress,
    PreprocessingSpec,
)
from faucet_client.preprocessing import Categorical, FitOptions
from tests.processes.bigquery import Warehouse
from tests.processes.daemons import WatchedDaemon
from tests.processes.test_preprocessing import read, spec_of, write_table

BOUND = 1e-9
MIB = 1 << 20


@pytest.fixture
def wanted(bigquery: Warehouse, tmp_path: Path) -> DatasetSpec:
    """A table of all types that can be preprocessed, in BigQuery, with its place left open."""
    table = write_table(tmp_path / "table.parquet")
    name = f"{bigquery.dataset}.typed"
    bigquery.server.load(name, table)
    return replace(spec_of(tmp_path), source=BigQuerySource(table=name), chunk_rows=3_000)


def fitted(bigquery: Warehouse, wanted: DatasetSpec, **settings: str) -> Dataset:
    """The dataset, by a daemon that knows no spec yet."""
    return bigquery.start_daemon(workers=1, **settings).client().open(wanted)


def told(client: FaucetClient) -> str:
    """The notes of all its datasets."""
    return " ".join(note for each in client.status().datasets for note in each.notes)


def assert_agree(ours: PreprocessingSpec, theirs: PreprocessingSpec, spread: float = BOUND) -> None:
    """The same types; means and standard deviations within `spread` standard deviations."""
    assert [f.name for f in ours.features] == [f.name for f in theirs.features]
    for one, other in zip(ours.features, theirs.features, strict=True):
        assert type(one.transform) is type(other.transform), (one.name, one.why, other.why)
        if isinstance(one.transform, Categorical):
            continue
        assert one.summary is not None
        assert other.summary is not None
        size = other.summary.stddev
        assert size
        assert one.summary.mean == pytest.approx(other.summary.mean, rel=0, abs=spread * size)
        assert one.summary.stddev == pytest.approx(size, rel=spread)


def test_the_three_places_agree(bigquery: Warehouse, wanted: DatasetSpec) -> None:
    client = bigquery.start_daemon(workers=2).client()
    specs = {
        place: client.open(replace(wanted, fit_on=place, fit_rows=3_000)).preprocessing
        for place in ("warehouse", "stream", "sample")
    }
    assert_agree(specs["warehouse"], specs["stream"])
    for one, other in zip(specs["warehouse"].features, specs["stream"].features, strict=True):
        if isinstance(one.transform, Categorical):
            assert one == other
    # 3,000 of 4,800 rows: a standard deviation of the mean is 0.011 of the column's.
    assert_agree(specs["warehouse"], specs["sample"], spread=0.1)
    assert specs["warehouse"] == client.open(wanted).preprocessing  # "auto" means it


@pytest.mark.parametrize("way", ["view", "query", "filter", "unsplit", "hash"])
def test_whatever_the_rows_stand_in_they_are_the_same(
    bigquery: Warehouse, wanted: DatasetSpec, way: str
) -> None:
    source = wanted.source
    assert isinstance(source, BigQuerySource)
    table = source.table
    changes: dict[str, Any] = {}
    if way == "view":
        bigquery.server.view(f"{bigquery.dataset}.seen", f"SELECT * FROM `{table}`")
        changes["source"] = BigQuerySource(table=f"{bigquery.dataset}.seen")
    elif way == "query":
        changes["source"] = BigQuerySource(query=f"SELECT * FROM `{table}` WHERE id < 4000")
    elif way == "filter":
        changes["source"] = BigQuerySource(table=table, filter="id < 4000 -- so few")
    elif way == "unsplit":
        changes |= {"hash_column": None, "eval_percent": 0}
    else:  # whose split only BigQuery knows
        changes |= {"hash_column": "price", "sample_percent": 60}
    asked = replace(wanted, **changes)
    client = bigquery.start_daemon(workers=1).client()
    found, expected = (
        client.open(replace(asked, fit_on=place)) for place in ("warehouse", "stream")
    )
    assert_agree(found.preprocessing, expected.preprocessing)
    rows = len(read(found, "train")["id"])
    assert {f.summary.rows for f in found.preprocessing.features if f.summary} == {rows}


def test_queries_are_billed_and_told(bigquery: Warehouse, wanted: DatasetSpec) -> None:
    client = bigquery.start_daemon(workers=1).client()
    stages: list[str] = []

    def listen(progress: OpenProgress) -> None:
        stages.append(progress.stage)

    dataset = client.open(wanted, on_progress=listen)
    jobs = [job for job in bigquery.server.stats()["jobs"] if not job["dry"]]
    assert dataset.info.query_bytes_billed == sum(job["bytes_billed"] for job in jobs)
    assert len(jobs) == 1 + 4 + 2  # counting rows, numbers, categories
    (stage,) = {stage for stage in stages if "queries" in stage}
    assert f"billed for up to {6 * 10 * MIB:,} bytes" in stage
    again = client.open(replace(wanted, chunk_rows=2_000))
    assert again.preprocessing == dataset.preprocessing
    assert again.info.query_bytes_billed == 10 * MIB  # of counting alone: the spec was kept


def test_a_place_that_costs_too_much_is_refused_or_left(
    bigquery: Warehouse, wanted: DatasetSpec
) -> None:
    client = bigquery.start_daemon(workers=1, max_bytes_billed="50MiB").client()
    with pytest.raises(BudgetError, match=r"billed for up to 62,914,560 bytes.*max_bytes_billed"):
        client.open(replace(wanted, fit_on="warehouse"))
    dataset = client.open(wanted)
    assert "fitted to a sample" in told(client)
    assert "max_bytes_billed" in told(client)
    assert dataset.preprocessing == client.open(replace(wanted, fit_on="sample")).preprocessing


@pytest.mark.parametrize("place", ["auto", "warehouse"])
def test_who_may_run_no_queries_fits_to_a_sample_and_is_told(
    bigquery: Warehouse, wanted: DatasetSpec, place: str
) -> None:
    bigquery.server.faults(deny=("bigquery.jobs.create",))
    client = bigquery.start_daemon(workers=1).client()
    dataset = client.open(replace(wanted, fit_on=place))
    assert "fitted to a sample that is read" in told(client)
    assert not [job for job in bigquery.server.stats()["jobs"] if not job["dry"]]
    bigquery.server.faults()
    sample = fitted(bigquery, replace(wanted, fit_on="sample"))
    assert dataset.preprocessing == sample.preprocessing


def test_numbers_that_are_no_categories_are_refused_as_when_read(
    bigquery: Warehouse, wanted: DatasetSpec
) -> None:
    asked = replace(wanted, fit=FitOptions(feature_overrides={"price": "CATEGORICAL"}))
    client = bigquery.start_daemon(workers=1).client()
    messages = []
    for place in ("auto", "stream"):
        with pytest.raises(ColumnError, match='"price" has numbers that are not whole') as caught:
            client.open(replace(asked, fit_on=place))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_names_that_need_quotes_are_columns_like_others(bigquery: Warehouse) -> None:
    name = f"{bigquery.dataset}.quoted"
    names = ["select", "a b", "Straße", "v0"]
    random = np.random.default_rng(1)
    table = pa.table({each: random.normal(0, 1, 1_000) for each in names})
    bigquery.server.load(name, table)
    asked = DatasetSpec(BigQuerySource(table=name), features=names, fit_on="warehouse")
    dataset = fitted(bigquery, asked)
    for feature in dataset.preprocessing.features:
        assert feature.summary is not None
        assert feature.summary.mean == pytest.approx(np.mean(table.column(feature.name).to_numpy()))


@pytest.mark.parametrize("way", ["table", "query"])
def test_duckdb_fits_by_queries_too(daemon: WatchedDaemon, tmp_path: Path, way: str) -> None:
    write_table(tmp_path / "table.parquet")
    path = str(tmp_path / "t.duckdb")
    with duckdb.connect(path) as connection:
        made = "CREATE TABLE t AS SELECT * FROM read_parquet($1)"
        connection.execute(made, [str(tmp_path / "table.parquet")])
    named = {"table": "t"} if way == "table" else {"query": "SELECT * FROM t WHERE id < 4000"}
    asked = replace(spec_of(tmp_path), source=DuckDBSource(path, **named))
    client = daemon.client()
    stages: list[str] = []
    by_query = client.open(
        replace(asked, fit_on="warehouse"), on_progress=lambda told: stages.append(told.stage)
    )
    assert "fitting the preprocessing by queries" in stages
    assert_agree(by_query.preprocessing, client.open(replace(asked, fit_on="stream")).preprocessing)
    train = read(by_query, "train")
    assert {f.summary.rows for f in by_query.preprocessing.features if f.summary} == {
        len(train["id"])
    }
    # A sample is another fit, and what "auto" means for files.
    sample = client.open(replace(asked, fit_on="sample", fit_rows=1_000)).preprocessing
    assert sample == client.open(replace(asked, fit_rows=1_000)).preprocessing
    assert sample != by_query.preprocessing


def test_lists_are_fitted_by_reading_and_queries_are_refused_for_them(
    bigquery: Warehouse, tmp_path: Path
) -> None:
    rows = 1_000
    name = f"{bigquery.dataset}.lists"
    tags = [["a", "b"][: row % 3] for row in range(rows)]
    bigquery.server.load(name, pa.table({"id": np.arange(rows), "tags": tags}))
    client = bigquery.start_daemon().client()
    wanted = DatasetSpec(
        BigQuerySource(table=name), features=["tags"], passthrough=["id"], hash_column="id"
    )
    assert client.open(wanted).preprocessing.ragged_names == ("tags",)
    with pytest.raises(ColumnError, match=r"cannot fit columns of lists, such as tags: use fit_on"):
        client.open(replace(wanted, fit_on="warehouse"))


def test_what_queries_fit_has_a_profile_of_some_rows(bigquery: Warehouse) -> None:
    rows = 2_000
    name = f"{bigquery.dataset}.profiled"
    table = pa.table({"id": np.arange(rows), "x": np.random.default_rng(0).normal(5, 2, rows)})
    bigquery.server.load(name, table)
    dataset = (
        bigquery.start_daemon()
        .client()
        .open(
            DatasetSpec(
                BigQuerySource(table=name),
                features=["x"],
                hash_column="id",
                eval_percent=20,
                fit_on="warehouse",
            )
        )
    )
    profile = dataset.profile()
    assert sum(profile.looked_at.values()) == rows  # the table is small: all of it
    (feature,) = profile.features
    assert feature.mean == pytest.approx(5, abs=0.3)
    assert feature.psi is not None
