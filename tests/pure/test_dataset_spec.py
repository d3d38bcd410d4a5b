"""What a `DatasetSpec` refuses, with the way out; and how sources are called."""

from __future__ import annotations

from typing import Any, cast

import pytest

from faucet_client import (
    BigQuerySource,
    Dataset,
    DatasetSpec,
    FaucetClient,
    ParquetSource,
    SpecError,
)
from faucet_client.preprocessing import Binary, Feature, FitOptions, PreprocessingSpec
from faucet_client.spec import SplitBuckets
from faucet_client.wire.values import DatasetInfo


def spec(**fields: Any) -> DatasetSpec:
    described: dict[str, Any] = {"source": ParquetSource("/t"), "features": ["x"]}
    return DatasetSpec(**described | fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"hash_column": ["k"]}, r"hash_column must be the name of one column, or None, not \['k'"),
        ({"hash_column": ""}, "hash_column must be the name of one column"),
        ({"weight_column": ["w"]}, "weight_column must be the name of one column"),
        ({"weight_column": 3}, "weight_column must be the name of one column"),
        ({"sample_percent": True}, "sample_percent must be a number"),
        ({"eval_percent": False}, "eval_percent must be a number"),
        ({"eval_percent": "10"}, "eval_percent must be a number"),
    ],
)
def test_what_is_of_the_wrong_kind_is_refused_by_its_name(
    fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        spec(**fields)


SAVED = PreprocessingSpec([Feature("x", Binary())])


@pytest.mark.parametrize(
    ("preprocessing", "remedy"),
    [
        ("none", 'preprocessing is "none": leave {} out$'),
        (SAVED, "leave {} out, or change that spec"),
    ],
)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("fit", FitOptions(feature_overrides={"x": "QUANTILE"})),
        ("fit_on", "stream"),
        ("fit_rows", 1_000),
    ],
)
def test_what_is_said_of_a_fit_is_refused_where_nothing_is_fitted(
    preprocessing: Any, remedy: str, field: str, value: Any
) -> None:
    with pytest.raises(SpecError, match=remedy.format(field)):
        spec(preprocessing=preprocessing, **{field: value})
    assert getattr(spec(**{field: value}), field) == value


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ({"sample_percent": 1e-5}, "the smallest possible is 0.0001"),
        ({"eval_percent": 1e-5}, "leaves the eval split nothing.*the smallest possible is 0.0001"),
        (
            {"sample_percent": 0.003, "eval_percent": 1},
            "leaves the eval split nothing: the sample is 30 of.*the smallest possible is 3.333333",
        ),
        (
            {"sample_percent": 0.003, "eval_percent": 99},
            "leaves the train split nothing.*the largest possible is 96.666667",
        ),
        ({"eval_percent": 99.99999}, "leaves the train split nothing"),
        ({"sample_percent": 0.0001, "eval_percent": 50}, "at least sample_percent=0.0002"),
    ],
)
def test_a_share_of_no_bucket_is_refused_with_what_is_possible(
    shares: dict[str, Any], said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        spec(hash_column="k", **shares)


@pytest.mark.parametrize(
    ("sample", "evaluation", "buckets"),
    [
        (0.0001, 0, SplitBuckets(1_000_000, 1, 1)),
        (100, 0.0001, SplitBuckets(1_000_000, 999_999, 1_000_000)),
        (0.003, 3.333333, SplitBuckets(1_000_000, 29, 30)),
        (0.003, 96.666667, SplitBuckets(1_000_000, 1, 30)),
        (0.0002, 50, SplitBuckets(1_000_000, 1, 2)),
        (100, 20, SplitBuckets(1_000, 800, 1_000)),
    ],
)
def test_what_the_refusal_calls_possible_is_one_bucket(
    sample: float, evaluation: float, buckets: SplitBuckets
) -> None:
    found = spec(hash_column="k", sample_percent=sample, eval_percent=evaluation)
    assert found.split_buckets() == buckets


@pytest.mark.parametrize("written", ["2020-01-20", "20200120", "2020-W04-1"])
def test_one_partition_is_one_dataset_however_its_date_is_written(written: str) -> None:
    source = BigQuerySource("p.d.t", partition_date=written)
    assert source == BigQuerySource("p.d.t", partition_date="2020-01-20")
    assert str(source) == "bigquery:p.d.t$2020-01-20"


LONG = "SELECT a,\n       b\n  FROM `p.d.clicks` WHERE day >= '2020-01-20' AND country = 'DE'"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (BigQuerySource("p.d.t"), "bigquery:p.d.t"),
        (BigQuerySource("p.d.t", filter="x = 1"), "bigquery:p.d.t where x = 1"),
        (
            BigQuerySource("p.d.t", partition_date="2020-01-20", filter=LONG),
            "bigquery:p.d.t$2020-01-20 where SELECT a, b FROM `p.d.clicks` WHERE day…",
        ),
        (BigQuerySource(query="SELECT 1 x"), "bigquery:(SELECT 1 x)"),
        (BigQuerySource(query=LONG), "bigquery:(SELECT a, b FROM `p.d.clicks` WHERE day…)"),
    ],
)
def test_sources_of_one_table_can_be_told_apart(source: BigQuerySource, said: str) -> None:
    assert str(source) == said


@pytest.mark.parametrize("what", [ParquetSource("/t"), {"source": "/t"}, None])
def test_open_says_that_it_takes_a_spec(what: Any) -> None:
    client = FaucetClient.__new__(FaucetClient)  # it must not come as far as a daemon
    with pytest.raises(SpecError, match=r"takes a DatasetSpec.*open\(DatasetSpec\(source="):
        client.open(what)


def opened(of: DatasetSpec, train: int = 100, evaluation: int = 0) -> Dataset:
    rows = {"train": train, "eval": evaluation}
    info = DatasetInfo("k", cast("Any", rows), ("x",), (), (), False, 16)
    return Dataset(cast("Any", None), "", of, info)


@pytest.mark.parametrize("job", [5, b"job", "", "a\nb", "j" * 257])
def test_a_job_is_a_text(job: Any) -> None:
    with pytest.raises(SpecError, match="job must be a text of 1 to 256 printable characters"):
        opened(spec()).batches(batch_size=5, job=job)


def test_an_empty_eval_split_says_that_none_was_asked_for() -> None:
    with pytest.raises(SpecError, match=r"no rows: .*asks for none; set eval_percent=, and hash_c"):
        opened(spec()).batches("eval", batch_size=5)


def test_an_empty_eval_split_that_was_asked_for_is_the_fault_of_the_hash_column() -> None:
    dataset = opened(spec(hash_column="country", eval_percent=0.0001))
    with pytest.raises(SpecError, match=r"hash_column='country'.*few\s+distinct values") as error:
        dataset.batches("eval", batch_size=5)
    assert "eval_percent=0.0001" in str(error.value)
