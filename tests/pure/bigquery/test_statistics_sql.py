"""Fitting by queries: what they count is what is counted of the same rows by reading them.

The local server's engine runs the statements, in this process.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
import sqlglot
from hypothesis import given
from hypothesis import strategies as st
from sqlglot import exp

from faucet_client.errors import ColumnError
from faucet_client.preprocessing import FitOptions
from faucet_client.preprocessing.moments import PowerSums
from faucet_client.preprocessing.spec import PreprocessingSpec
from faucet_client.preprocessing.transforms import Categorical, Log1p, Quantile
from faucet_client.spec import SplitBuckets
from faucetd.fetch.bigquery import sql, statistics_sql
from faucetd.fetch.statistics_sql import Centring, Rows, Value
from faucetd.prepare.columns import SourceColumn
from faucetd.worker.by_query import QueryFit
from tests.bigquery_server.catalog import Catalog, Dataset, TableRef
from tests.bigquery_server.engine import Engine, Interrupt, Query
from tests.bigquery_server.faults import FaultBook
from tests.bigquery_server.schema import as_bigquery
from tests.pure.fits import BOUND, OPTIONS, SPLIT, assert_alike, by_reading, features_of, table

TABLE = sql.TableName("project", "dataset", "rows")


class Local:
    """The engine of a fit, over rows of its own."""

    words = statistics_sql.WORDS

    def __init__(self, rows: pa.Table, split: SplitBuckets | None = None) -> None:
        catalog = Catalog()
        catalog.add_dataset(Dataset(TABLE.project, TABLE.dataset, "US", 0))
        catalog.load(TableRef(*TABLE), as_bigquery(rows), "TABLE", "US")
        self._engine = Engine(catalog, FaultBook())
        self.statements: list[str] = []
        self.rows: Rows = statistics_sql.train_rows(
            sql.rows_of(TABLE),
            "",
            split or SPLIT,
            None if split is None else "id",
            kind="INT64",
        )

    def column(self, path: str) -> str:
        return sql.path(path, sql.ROWS)

    def sample(self, values: Sequence[Value], share: float) -> str:
        return statistics_sql.sample(self.rows, values, share)

    def run(self, statement: str) -> pa.Table:
        self.statements.append(statement)
        query = Query(statement, TABLE.project)
        return self._engine.answer(query, self._engine.translate(query), Interrupt())


def by_query(
    rows: pa.Table, options: FitOptions | None = None, split: SplitBuckets | None = None
) -> PreprocessingSpec:
    rows = as_bigquery(rows)
    engine = Local(rows, split)
    return QueryFit(features_of(rows), options or FitOptions(), engine).spec()


@pytest.mark.parametrize("split", [None, SPLIT], ids=["all", "split"])
def test_queries_find_what_reading_all_rows_finds(split: SplitBuckets | None) -> None:
    rows = table()
    found, expected = by_query(rows, OPTIONS, split), by_reading(as_bigquery(rows), OPTIONS, split)
    assert [f.name for f in found.features] == [f.name for f in expected.features]
    for one, other in zip(found.features, expected.features, strict=True):
        assert_alike(one, other)


def test_a_sample_has_equal_rows_by_their_share() -> None:
    """Or all rows of a frequent value would be sampled, or none."""
    zeros = np.zeros(9_000)
    rows = pa.table({"id": np.arange(15_000), "x": np.append(zeros, np.linspace(1, 2, 6_000))})
    options = FitOptions(sample_rows=1_000, feature_overrides={"x": "QUANTILE"}, quantile_size=10)
    engine = Local(rows)
    feature = QueryFit(features_of(rows), options, engine).spec().feature("x")
    assert feature.summary is not None
    assert feature.summary.sampled == 1_000
    assert isinstance(feature.transform, Quantile)
    assert feature.transform.boundaries[0] == 0
    # A standard deviation of a quantile's rank is 0.016, and of 1 it is 0.04 here.
    assert feature.transform.boundaries[-3:] == pytest.approx([1.5, 1.75, 2.0], abs=0.15)
    [sampled] = [statement for statement in engine.statements if "ROW_NUMBER" in statement]
    chosen = engine.run(sampled)
    assert 1_000 < chosen.num_rows < 1_500
    zero = chosen.column("x0").to_numpy() == 0
    assert zero.mean() == pytest.approx(0.6, abs=0.07)
    again = Local(rows.take(np.random.default_rng(1).permutation(15_000)))
    assert QueryFit(features_of(rows), options, again).spec().feature("x") == feature


def test_a_sample_of_few_values_is_taken_at_equal_distances_in_the_middle_of_its_parts() -> None:
    rows = pa.table({"id": np.arange(3_000), "x": np.append([0.0], np.ones(2_999))})
    options = FitOptions(sample_rows=750, feature_overrides={"x": "LOG1P"})
    feature = by_query(rows, options).feature("x")
    assert feature.summary is not None
    assert feature.summary.sampled == 750
    # Each part is four rows, and of the first one its third: none is the first row.
    assert isinstance(feature.transform, Log1p)
    assert feature.transform.mean == pytest.approx(np.log(2), rel=1e-12)


@pytest.mark.parametrize(
    "count", [900, 1_000, 1_001, 2_500], ids=["few", "the limit", "one more", "surely many"]
)
def test_categories_beyond_the_limit_are_hashed_as_when_read(count: int) -> None:
    random = np.random.default_rng(2)
    texts = np.array([f"value {n}" for n in range(count)])
    picked = np.append(np.arange(count), random.integers(0, count, 6_000))
    rows = pa.table({"id": np.arange(len(picked)), "t": texts[picked]})
    given = Categorical(("value 0", "value 1", "nowhere"))
    for options in (
        FitOptions(category_limit=1_000),
        FitOptions(category_limit=1_000, feature_overrides={"t": given}),
    ):
        found, expected = (fit(rows, options).feature("t") for fit in (by_query, by_reading))
        assert type(found.transform) is type(expected.transform)
        assert found.summary is not None
        assert expected.summary is not None
        if count <= 1_000:
            assert found == expected
        else:  # estimates of engines are good to some percent, the local one's to some more
            assert found.summary.distinct == pytest.approx(count, rel=0.5)
            assert found.summary.distinct is not None
            assert found.summary.distinct > 1_000


def test_a_table_without_train_rows_is_refused_by_name() -> None:
    rows = pa.table({"id": [1], "x": [1.0], "t": ["a"]}).slice(0, 0)
    with pytest.raises(ColumnError, match='column "x" has no rows to fit'):
        by_query(rows)


def test_whatever_is_named_is_quoted() -> None:
    names = ["x`y", "hash", "a\\nb", "v0", "entry", "nulls"]
    rows = pa.table({name: np.arange(900.0) for name in names})
    table_name = sql.TableName("p", "d", "t")
    engine = Local(pa.table({"id": [1]}))
    engine.rows = statistics_sql.train_rows(sql.rows_of(table_name), "", SPLIT, "x`y", kind="INT64")
    fit = QueryFit([SourceColumn(n, n, pa.float64()) for n in names], FitOptions(), engine)
    ((statement, queries),) = fit.scans()
    assert queries == 4
    tree = sqlglot.parse_one(statement, read="bigquery")
    named = {column.name for column in tree.find_all(exp.Column) if column.table == sql.ROWS}
    assert named == set(names) == set(rows.column_names)


@given(
    values=st.lists(
        st.floats(-1e300, 1e300, allow_subnormal=False) | st.integers(-(2**53), 2**53).map(float),
        min_size=2,
        max_size=50,
    ),
    offset=st.sampled_from([0.0, 1.0, 1e9, -1e15]),
)
def test_shifted_sums_have_the_moments_of_the_values(values: list[float], offset: float) -> None:
    x = np.array(values) + offset
    exact = PowerSums.of(x)
    whole = bool((x == np.rint(x)).all())
    centring = Centring.of(float(x.min()), float(x.max()), float((x / len(x)).sum()), whole=whole)
    y = (x * centring.half - centring.centre) * centring.scale
    assert (np.abs(y) <= 1).all()
    unit = Decimal("1e-9")
    sums = [
        sum((Decimal(t * 2.0**50).quantize(unit) for t in (y**power).tolist()), Decimal(0))
        for power in range(1, 5)
    ]
    found = centring.sums(len(x), sums)
    assert found.count == exact.count
    if exact.stddev == 0 or not np.isfinite(exact.stddev):
        return
    assert found.mean == pytest.approx(exact.mean, rel=BOUND, abs=BOUND * exact.stddev)
    assert found.stddev == pytest.approx(exact.stddev, rel=BOUND)
    assert found.skewness == pytest.approx(exact.skewness, rel=BOUND, abs=BOUND)
    assert found.kurtosis == pytest.approx(exact.kurtosis, rel=BOUND)
