"""Every type of BigQuery's becomes something sensible, or is refused by name with what to do."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.cloud.bigquery import SchemaField

from faucet_client import (
    Batch,
    BigQuerySource,
    ColumnError,
    DatasetSpec,
    FaucetClient,
    ParquetSource,
)
from faucetd.fetch.bigquery.columns import flat_columns
from faucetd.prepare.columns import resolve
from tests.bigquery_server.local import LocalBigQuery
from tests.processes.bigquery import Warehouse, reaching
from tests.processes.daemons import StartDaemon, WatchedDaemon

UTC = dt.UTC
EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001 -- a DATETIME has no zone
LAST = dt.datetime(9999, 12, 31, 23, 59, 59, 999_999)  # noqa: DTZ001


def marked(name: str, kind: pa.DataType, word: str) -> Any:
    """A column of text that BigQuery marks as another type."""
    return pa.field(name, kind, metadata={"ARROW:extension:name": f"google:sqlType:{word}"})


TABLE = pa.table(
    [
        pa.array([1, 2**62 + 1, None], pa.int64()),
        pa.array([0.5, float("inf"), None], pa.float64()),
        pa.array([True, False, None], pa.bool_()),
        pa.array([Decimal("12.5"), Decimal("-0.000000001"), None], pa.decimal128(38, 9)),
        pa.array([Decimal("1.25"), Decimal(10) ** 30, None], pa.decimal256(76, 38)),
        pa.array(["a", "日本\0\n", None], pa.string()),
        pa.array(['{"a": 1}', "null", None], pa.string()),
        pa.array(["POINT(1 2)", "POINT EMPTY", None], pa.string()),
        pa.array([dt.date(2020, 1, 20), dt.date(1, 1, 1), None], pa.date32()),
        pa.array([EPOCH + dt.timedelta(days=1), LAST, None], pa.timestamp("us")),
        pa.array([dt.datetime(2020, 1, 20, tzinfo=UTC)] * 2 + [None], pa.timestamp("us", "UTC")),
        pa.array([dt.time(1, 2, 3, 4), dt.time.max, None], pa.time64("us")),
        pa.array([{"leaf": 7, "deep": {"text": "x"}}, {"leaf": None, "deep": None}, None]),
        pa.array([b"\xff\x00", b"", None], pa.binary()),
        pa.array([[1, 2], [], [3]], pa.list_(pa.int64())),
        pa.array([[{"a": 1}], [], []], pa.list_(pa.struct([("a", pa.int64())]))),
    ],
    schema=pa.schema(
        [
            pa.field("i", pa.int64()),
            pa.field("f", pa.float64()),
            pa.field("b", pa.bool_()),
            pa.field("n", pa.decimal128(38, 9)),
            pa.field("bn", pa.decimal256(76, 38)),
            pa.field("s", pa.string()),
            marked("j", pa.string(), "json"),
            marked("g", pa.string(), "geography"),
            pa.field("d", pa.date32()),
            pa.field("dt", pa.timestamp("us")),
            pa.field("ts", pa.timestamp("us", "UTC")),
            pa.field("t", pa.time64("us")),
            pa.field(
                "st",
                pa.struct([("leaf", pa.int64()), ("deep", pa.struct([("text", pa.string())]))]),
            ),
            pa.field("by", pa.binary()),
            pa.field("l", pa.list_(pa.int64())),
            pa.field("ls", pa.list_(pa.struct([("a", pa.int64())]))),
        ]
    ),
)
REFUSED = {"by": "BYTES", "l": "ARRAY", "ls": "ARRAY"}
NUMBERS = ["i", "f", "b", "n", "bn", "st.leaf"]

DAY_US = 86_400_000_000
LAST_US = (LAST - EPOCH) // dt.timedelta(microseconds=1)
TIME_US = (3_600 + 2 * 60 + 3) * 1_000_000 + 4
DATE = (dt.date(2020, 1, 20) - EPOCH.date()).days
FIRST_DATE = (dt.date(1, 1, 1) - EPOCH.date()).days
AS_THEY_ARE: dict[str, tuple[str, list[Any]]] = {
    "i": ("int64", [1, 2**62 + 1, 0]),
    "f": ("float64", [0.5, np.inf, np.nan]),
    "b": ("bool", [True, False, False]),
    "n": ("float64", [12.5, -1e-9, np.nan]),
    "bn": ("float64", [1.25, 1e30, np.nan]),
    "s": ("text", ["a", "日本\0\n", None]),
    "j": ("text", ['{"a": 1}', "null", None]),
    "g": ("text", ["POINT(1 2)", "POINT EMPTY", None]),
    "d": ("int64", [DATE, FIRST_DATE, 0]),
    "dt": ("int64", [DAY_US, LAST_US, 0]),
    "ts": ("int64", [DATE * DAY_US, DATE * DAY_US, 0]),
    "t": ("int64", [TIME_US, DAY_US - 1, 0]),
    "st.leaf": ("int64", [7, 0, 0]),
    "st.deep.text": ("text", ["x", None, None]),
}
"""What becomes of each column as passthrough: its dtype and values; null is NaN, None or 0."""


@pytest.fixture(scope="module")
def shared_daemon(
    bigquery_server: LocalBigQuery,
    start_shared_daemon: StartDaemon,
    tmp_path_factory: pytest.TempPathFactory,
) -> WatchedDaemon:
    roots = str(tmp_path_factory.getbasetemp())
    return start_shared_daemon("64MiB", 1, allowed_roots=roots, **reaching(bigquery_server))


@pytest.fixture
def client(shared_daemon: WatchedDaemon) -> Iterator[FaucetClient]:
    """A client of the shared daemon, for one test."""
    with FaucetClient(shared_daemon.address) as client:
        yield client


@pytest.fixture
def table(bigquery: Warehouse) -> str:
    """The rows without BIGNUMERIC, which the local server has no queries over."""
    name = f"{bigquery.dataset}.types"
    bigquery.server.load(name, TABLE.drop(["bn"]))
    return name


@pytest.fixture
def table_of_all(bigquery: Warehouse) -> str:
    """All of them. Nobody may run queries, so they are counted by reading."""
    name = f"{bigquery.dataset}.all_types"
    bigquery.server.load(name, TABLE)
    bigquery.server.faults(deny=["bigquery.jobs.create"])
    return name


def only_batch(client: FaucetClient, spec: DatasetSpec) -> Batch:
    [batch] = client.open(spec).batches("train", batch_size=3, shuffle="none")
    return batch


def assert_values(batch: Batch, names: Iterable[str]) -> None:
    """The batch has the values of AS_THEY_ARE; `f` tells which row is which."""
    falling = np.argsort(-np.asarray(batch.passthrough["f"]))  # the infinite one, 0.5, NaN
    order = falling[[1, 0, 2]]
    for name in names:
        dtype, values = AS_THEY_ARE[name]
        found = np.asarray(batch.passthrough[name])[order]
        if dtype == "text":
            assert found.tolist() == values, name
            continue
        assert str(found.dtype) == dtype, name
        expected = np.array(values, dtype)
        assert np.array_equal(found, expected, equal_nan=dtype == "float64"), name


def test_what_can_be_handed_over_has_its_values(client: FaucetClient, table_of_all: str) -> None:
    source = BigQuerySource(table=table_of_all)
    batch = only_batch(client, DatasetSpec(source, [], passthrough=list(AS_THEY_ARE)))
    assert_values(batch, AS_THEY_ARE)


def test_a_query_s_result_has_the_same_values(client: FaucetClient, table: str) -> None:
    names = [name for name in AS_THEY_ARE if name != "bn"]
    source = BigQuerySource(query=f"SELECT * FROM `{table}`")
    assert_values(only_batch(client, DatasetSpec(source, [], passthrough=names)), names)


def test_numbers_of_every_type_become_features(client: FaucetClient, table_of_all: str) -> None:
    batch = only_batch(
        client, DatasetSpec(BigQuerySource(table=table_of_all), NUMBERS, preprocessing="none")
    )
    features = batch.features.numpy()
    features = features[np.argsort(-features[:, 1])][[1, 0, 2]]
    expected = [
        [1, 0.5, 1, 12.5, 1.25, 7],
        [float(2**62), np.inf, 0, -1e-9, 1e30, np.nan],
        [np.nan] * 6,
    ]
    assert np.array_equal(features, np.array(expected, np.float32), equal_nan=True)


@pytest.mark.parametrize("field", ["features", "passthrough"])
def test_what_cannot_serve_is_refused_by_name_type_and_remedy(
    client: FaucetClient, table: str, field: str
) -> None:
    before = client.status().datasets
    fits = NUMBERS if field == "features" else AS_THEY_ARE
    names = {name.partition(".")[0] for name in fits}
    refused = [name for name in TABLE.column_names if name not in names]
    assert set(REFUSED) <= set(refused)
    for name in refused:
        wishes: dict[str, Any] = {"features": [], field: [name]}
        with pytest.raises(ColumnError, match=f'{field}: column "{name}" is') as error:
            client.open(DatasetSpec(BigQuerySource(table=table), preprocessing="none", **wishes))
        assert REFUSED.get(name, "") in error.value.message
        assert "query" in error.value.message
    assert client.status().datasets == before


@pytest.mark.parametrize(
    ("field", "word"),
    [
        (SchemaField("x", "INTERVAL"), "INTERVAL"),
        (SchemaField("x", "RANGE", range_element_type="DATE"), "RANGE"),
        (SchemaField("x", "STRING", mode="REPEATED"), "ARRAY"),
    ],
)
def test_types_that_only_bigquery_has_are_refused_by_name(field: SchemaField, word: str) -> None:
    columns = [(column.name, column.type) for column in flat_columns([field], "p.d.t")]
    spec = DatasetSpec(BigQuerySource(table="p.d.t"), [], passthrough=["x"])
    with pytest.raises(ColumnError, match=rf'"x" is of type .*\({word}\)'):
        resolve(spec, columns)


def test_a_type_that_is_not_known_yet_is_refused_by_name() -> None:
    with pytest.raises(ColumnError, match=r"'x' is of type VECTOR.*read the other columns"):
        flat_columns([SchemaField("x", "VECTOR")], "p.d.t")


def test_a_dataset_may_be_of_text_alone(client: FaucetClient, table: str, tmp_path: Path) -> None:
    spec = DatasetSpec(BigQuerySource(table=table), [], passthrough=["s"])
    texts = only_batch(client, spec).passthrough["s"]
    assert sorted(texts.tolist(), key=str) == sorted(["a", "日本\0\n", None], key=str)
    pq.write_table(TABLE.select(["s", "j"]), tmp_path / "t.parquet")
    source = ParquetSource(str(tmp_path / "t.parquet"))
    dataset = client.open(DatasetSpec(source, [], passthrough=["s", "j"]))
    [batch] = dataset.batches("train", batch_size=3)
    assert sorted(batch.passthrough["j"].tolist(), key=str) == sorted(
        ['{"a": 1}', "null", None], key=str
    )
