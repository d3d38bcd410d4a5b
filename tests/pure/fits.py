"""Tables and specs for fits by queries, whichever engine runs them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from faucet_client.preprocessing import FitOptions, FitPolicy
from faucet_client.preprocessing.spec import PreprocessingSpec
from faucet_client.preprocessing.transforms import Categorical, Continuous
from faucet_client.spec import SplitBuckets
from faucetd.fetch.source import Column
from faucetd.fetch.split import Splitter
from faucetd.prepare.columns import SourceColumn
from faucetd.prepare.fitting import Fitter

ROWS = 6_000
SPLIT = SplitBuckets(1_000, 700, 1_000)
BOUND = 1e-9
"""What is promised of means, standard deviations and K²."""


def features_of(rows: pa.Table) -> list[SourceColumn]:
    return [SourceColumn(f.name, f.name, f.type) for f in rows.schema if f.name != "id"]


def by_reading(
    rows: pa.Table, options: FitOptions | None = None, split: SplitBuckets | None = None
) -> PreprocessingSpec:
    fitter = Fitter(features_of(rows), options or FitOptions(), 1.0)
    (batch,) = rows.combine_chunks().to_batches()
    codes = np.zeros(batch.num_rows, np.int8)
    if split is not None:
        codes = Splitter(Column("id", pa.int64()), split).assign(batch.column("id"))
    fitter.add(batch, codes, np.arange(batch.num_rows, dtype=np.uint64))
    return fitter.spec()


def table(rows: int = ROWS) -> pa.Table:
    """Columns of all types, with nulls."""
    random = np.random.default_rng(7)

    def some(values: Any, kind: pa.DataType, share: float = 0.1) -> pa.Array[Any]:
        return pa.array(values, kind, mask=random.random(rows) < share)

    days = random.integers(-20_000, 20_000, rows)
    cents = random.integers(-(10**8), 10**8, rows)
    floats = random.normal(0, 1, rows)
    names = np.array(["Wien", "Graz", "日本", "", "x" * 2_000])
    floats[:4] = [np.nan, np.inf, -np.inf, -0.0]
    return pa.table(
        {
            "id": np.arange(rows),
            "age": some(random.normal(40, 12, rows), pa.float64()),
            "odd": some(floats, pa.float64()),
            "far": some(1e9 + random.normal(0, 1, rows), pa.float64()),
            "large": some(random.normal(0, 1, rows) * 1e37, pa.float64()),
            "small": some(random.normal(0, 1, rows) * 1e-290, pa.float64()),
            "flag": some(random.random(rows) < 0.3, pa.bool_()),
            "share": some(random.random(rows), pa.float64()),
            "grade": some(random.integers(0, 6, rows), pa.int64()),
            "skewed": some(np.exp(random.normal(3, 1, rows)), pa.float64()),
            "zeros": some(np.where(random.random(rows) < 0.8, 0, floats), pa.float64(), 0.0),
            "beyond": some(2**60 + random.integers(0, 10**6, rows), pa.int64()),
            "constant": some(np.full(rows, 7), pa.int64()),
            "nothing": pa.array([None] * rows, pa.float64()),
            "rare": some(random.normal(5, 1, rows), pa.float64(), 0.99),
            "at": some((days * 86_400_000_123).astype("datetime64[us]"), pa.timestamp("us", "UTC")),
            "local": some((days * 86_400_000_123).astype("datetime64[us]"), pa.timestamp("us")),
            "day": some(days.astype("datetime64[D]"), pa.date32()),
            "amount": some([Decimal(int(each)) / 100 for each in cents], pa.decimal128(38, 9)),
            "city": some(names[days % 5], pa.string()),
            "code": some(random.integers(2**60, 2**60 + 300, rows), pa.int64()),
            "level": some(random.integers(-3, 3, rows).astype(float), pa.float64()),
        }
    )


OPTIONS = FitOptions(
    feature_overrides={"code": "CATEGORICAL", "level": "CATEGORICAL", "zeros": "QUANTILE"},
    policies={"odd": FitPolicy(impute="mean", clip=(-1.5, 2.0)), "grade": FitPolicy("median")},
)


def assert_alike(one: Any, other: Any) -> None:
    """Types, counts and ranges are the same; moments within the bound."""
    name = one.name
    assert type(one.transform) is type(other.transform), (name, one.why, other.why)
    ours, theirs = one.summary, other.summary
    same = ("rows", "nulls", "infinite", "rounded", "unlisted", "sampled", "minimum", "maximum")
    for field in (*same, "distinct"):
        assert getattr(ours, field) == getattr(theirs, field), (name, field)
    assert len(one.notes) == len(other.notes), (one.notes, other.notes)
    if isinstance(one.transform, Categorical):
        assert one.transform == other.transform
        return
    if ours.mean is not None:
        spread = theirs.stddev or 0.0
        assert ours.mean == pytest.approx(theirs.mean, rel=BOUND, abs=BOUND * spread), name
        assert (ours.stddev or 0.0) == pytest.approx(spread, rel=BOUND), name
    if theirs.k2 is not None:
        assert ours.k2 == pytest.approx(theirs.k2, rel=BOUND), name
    if isinstance(one.transform, Continuous):
        assert one.transform.stddev == pytest.approx(other.transform.stddev, rel=BOUND), name
    if one.policy.impute is not None:
        assert one.policy.impute == pytest.approx(other.policy.impute, rel=BOUND), name
