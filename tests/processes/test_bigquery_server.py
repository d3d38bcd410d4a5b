"""The local BigQuery server, asked by the official clients: other tests trust what these show."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import farmhash
import grpc
import numpy as np
import pyarrow as pa
import pytest
import requests
from google.api_core import exceptions
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import RefreshError
from google.cloud import bigquery
from google.cloud.bigquery_storage_v1 import BigQueryReadClient, types
from google.cloud.bigquery_storage_v1.services.big_query_read.transports import (
    BigQueryReadGrpcTransport,
)
from google.oauth2 import service_account
from google.rpc import error_details_pb2, status_pb2

from tests.bigquery_server import LocalBigQuery, ReadFault, RestFault, SessionFault
from tests.bigquery_server.faults import RST_STREAM
from tests.processes.leaks import is_alive
from tests.processes.waiting import eventually

ROWS = 10_000
MESSAGE_ROWS = 500
TABLE = "p.d.rows"


def make_rows(first: int = 0, count: int = ROWS) -> pa.Table:
    """Rows of many types; `id` names each."""
    ids = range(first, first + count)
    return pa.table(
        {
            "id": ids,
            "key": [f"key-{number}" if number % 10 else None for number in ids],
            "features": pa.array(
                [{"age": number % 90, "weights": [number / 2, 1.0], "in": {"z": -number}}
                 for number in ids]
            ),
            "blob": [str(number).encode() for number in ids],
            "at": pa.array([number * 1_000_000 for number in ids], pa.timestamp("us", "UTC")),
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def shared_server() -> Iterator[LocalBigQuery]:
    with LocalBigQuery(message_rows=MESSAGE_ROWS) as server:
        server.load(TABLE, make_rows())
        server.load("p.d.external", make_rows(count=10), "EXTERNAL")
        server.view("p.d.view", "SELECT id FROM d.rows WHERE id < 10")
        yield server


@pytest.fixture
def server(shared_server: LocalBigQuery) -> Iterator[LocalBigQuery]:
    shared_server.stats(clear=True)
    yield shared_server
    shared_server.faults()
    shared_server.configure(require_token=False, deal="even", compression=None, clock_skew_s=0)


@pytest.fixture
def client(server: LocalBigQuery) -> Iterator[bigquery.Client]:
    with requests.Session() as session:
        yield bigquery.Client(
            "p",
            credentials=AnonymousCredentials(),
            client_options=ClientOptions(api_endpoint=server.rest),
            _http=session,
        )


class Reader:
    """The generated client, without its resuming and retrying."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(
            address, options=[("grpc.max_receive_message_length", -1)]
        )
        self.client = BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=self.channel))
        self.metadata: list[tuple[str, str]] = []

    def session(
        self, streams: int = 1, table: str = TABLE, preferred: int = 0, **options: Any
    ) -> types.ReadSession:
        project, dataset, name = table.split(".")
        create: Any = self.client.create_read_session  # annotated without metadata
        moment = options.pop("snapshot_time", None)
        made: types.ReadSession = create(
            types.CreateReadSessionRequest(
                parent="projects/p",
                read_session=types.ReadSession(
                    table=f"projects/{project}/datasets/{dataset}/tables/{name}",
                    data_format=types.DataFormat.ARROW,
                    read_options=options,
                    table_modifiers={"snapshot_time": moment} if moment else None,
                ),
                max_stream_count=streams,
                preferred_min_stream_count=preferred,
            ),
            retry=None,
            metadata=self.metadata,
        )
        return made

    def call(self, stream: str, offset: int = 0) -> Any:
        """A ReadRows call, which can be iterated over and cancelled."""
        read_rows: Any = self.client.transport.read_rows
        request = types.ReadRowsRequest(read_stream=stream, offset=offset)
        return read_rows(request, metadata=self.metadata)

    def batches(
        self, session: types.ReadSession, stream: int = 0, offset: int = 0
    ) -> Iterator[pa.RecordBatch]:
        schema = pa.ipc.read_schema(pa.py_buffer(session.arrow_schema.serialized_schema))
        for number, message in enumerate(self.call(session.streams[stream].name, offset)):
            assert ("arrow_schema" in message) == (number == 0)
            buffer = pa.py_buffer(message.arrow_record_batch.serialized_record_batch)
            batch = pa.ipc.read_record_batch(buffer, schema)
            assert batch.num_rows == message.row_count
            yield batch

    def ids(self, session: types.ReadSession, stream: int = 0, offset: int = 0) -> list[int]:
        return [number for batch in self.batches(session, stream, offset) for number in _ids(batch)]

    def all_ids(self, session: types.ReadSession) -> list[int]:
        return [n for stream in range(len(session.streams)) for n in self.ids(session, stream)]

    def resumed_ids(self, session: types.ReadSession, stream: int) -> tuple[list[int], list[str]]:
        """A stream's rows, resumed after each failure, and the codes of the failures."""
        read: list[int] = []
        failures = []
        while True:
            try:
                for batch in self.batches(session, stream, len(read)):
                    read += _ids(batch)
            except grpc.RpcError as error:
                failures.append(error.code().name)
            else:
                return read, failures


def _ids(batch: pa.RecordBatch) -> list[int]:
    ids: list[Any] = batch.column("id").to_pylist()
    return ids


@pytest.fixture
def reader(server: LocalBigQuery) -> Iterator[Reader]:
    made = Reader(server.grpc)
    yield made
    made.channel.close()


@pytest.mark.parametrize("deal", ["even", "lopsided", "empty"])
def test_every_row_arrives_exactly_once_over_four_streams(
    server: LocalBigQuery, reader: Reader, deal: str
) -> None:
    server.configure(deal=deal)
    session = reader.session(streams=4)
    assert len(session.streams) == 4
    assert session.estimated_row_count != ROWS
    by_stream = [reader.ids(session, stream) for stream in range(4)]
    assert sorted(itertools.chain(*by_stream)) == list(range(ROWS))
    lengths = [len(ids) for ids in by_stream]
    assert (0 in lengths) == (deal == "empty")
    assert (lengths[0] > ROWS / 2) == (deal == "lopsided")
    assert server.stats()["rows_sent"] == ROWS


@pytest.mark.parametrize("offset", [0, 1, MESSAGE_ROWS, 1_234, ROWS // 2 - 1, ROWS // 2])
def test_a_read_resumes_exactly_at_its_offset(reader: Reader, offset: int) -> None:
    session = reader.session(streams=2)
    assert reader.ids(session, 1, offset) == list(range(ROWS // 2 + offset, ROWS))


def test_an_offset_beyond_the_stream_is_out_of_range(reader: Reader) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        reader.ids(reader.session(), 0, ROWS + 1)
    assert raised.value.code() is grpc.StatusCode.OUT_OF_RANGE


def test_selected_fields_come_in_table_order_with_nested_ones_alone(reader: Reader) -> None:
    session = reader.session(selected_fields=["features.in.z", "key", "features.age", "id"])
    first = next(reader.batches(session))
    assert first.schema.names == ["id", "key", "features"]
    assert first.slice(0, 2).column("features").to_pylist() == [
        {"age": 0, "in": {"z": 0}},
        {"age": 1, "in": {"z": -1}},
    ]


@pytest.mark.parametrize(
    ("restriction", "passes"),
    [
        ("id >= 9990", lambda n: n >= 9_990),
        ('key = "key-7" OR features.age = 3', lambda n: n == 7 or n % 90 == 3),
        ("key IS NULL", lambda n: n % 10 == 0),
        ("id < 0", lambda n: False),
    ],
)
def test_row_restriction_leaves_the_rows_that_pass(
    reader: Reader, restriction: str, passes: Any
) -> None:
    session = reader.session(streams=3, row_restriction=restriction)
    assert reader.all_ids(session) == [number for number in range(ROWS) if passes(number)]


def test_a_large_filtered_session_keeps_the_order_of_rows(
    server: LocalBigQuery, reader: Reader
) -> None:
    """DuckDB answers with several threads, over several batches."""
    count = 400_000
    rows = pa.table({"id": np.arange(count)})
    server.load(
        "p.d.large", pa.concat_tables([rows.slice(n, 50_000) for n in range(0, count, 50_000)])
    )
    session = reader.session(2, "p.d.large", row_restriction="MOD(id, 3) = 1")
    assert reader.all_ids(session) == list(range(1, count, 3))


@pytest.mark.parametrize("codec", [1, 2])
def test_compressed_buffers_hold_the_same_rows(reader: Reader, codec: int) -> None:
    session = reader.session(arrow_serialization_options={"buffer_compression": codec})
    assert reader.ids(session) == list(range(ROWS))


def test_a_session_is_a_snapshot_and_the_past_can_be_read(
    server: LocalBigQuery, reader: Reader
) -> None:
    before = server.load("p.d.changing", make_rows(count=100))
    session = reader.session(table="p.d.changing")
    after = server.load("p.d.changing", make_rows(first=100, count=50))
    assert after > before
    past = reader.session(
        table="p.d.changing", snapshot_time=datetime.fromtimestamp(before / 1000, UTC)
    )
    now = reader.session(table="p.d.changing")
    assert reader.ids(session) == reader.ids(past) == list(range(100))
    assert reader.ids(now) == list(range(100, 150))
    for wrong in (timedelta(seconds=before / 1000 - 10), timedelta(days=40_000)):
        moment = datetime(1970, 1, 1, tzinfo=UTC) + wrong
        with pytest.raises(exceptions.InvalidArgument):
            reader.session(table="p.d.changing", snapshot_time=moment)


@pytest.mark.parametrize(
    ("asked", "error", "match"),
    [
        ({"table": "p.d.view"}, exceptions.InvalidArgument, "Non-table entities"),
        ({"table": "p.d.external"}, exceptions.InvalidArgument, "Only external tables with"),
        ({"table": "p.d.nothing"}, exceptions.NotFound, "Not found: Table p:d.nothing"),
        ({"selected_fields": ["nope"]}, exceptions.InvalidArgument, "nope"),
        ({"row_restriction": "nope = 1"}, exceptions.InvalidArgument, "Unrecognized name: nope"),
        ({"row_restriction": "COUNT(*) > 1"}, exceptions.InvalidArgument, "row_restriction"),
        ({"streams": 2, "preferred": 3}, exceptions.InvalidArgument, "preferred_min_stream"),
    ],
)
def test_an_impossible_session_is_refused(
    reader: Reader, asked: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        reader.session(**asked)


def test_a_total_of_failures_is_met_exactly_and_no_row_is_lost(
    server: LocalBigQuery, reader: Reader
) -> None:
    server.faults(total=50)
    session = reader.session(streams=3)
    reads = [reader.resumed_ids(session, stream) for stream in range(3)]
    assert sorted(itertools.chain(*(ids for ids, _ in reads))) == list(range(ROWS))
    codes = list(itertools.chain(*(failures for _, failures in reads)))
    assert len(codes) == 50
    assert set(codes) == {"UNAVAILABLE", "INTERNAL", "UNKNOWN"}
    assert sum(server.stats()["injected"].values()) == 50


def test_a_fault_hits_its_stream_and_message_and_no_other(
    server: LocalBigQuery, reader: Reader
) -> None:
    server.faults(ReadFault(stream=1, at_message=2, code="INTERNAL", message=RST_STREAM, times=2))
    session = reader.session(streams=2)
    assert len(reader.ids(session, 0)) == ROWS // 2
    for offset in (0, 2 * MESSAGE_ROWS):
        read: list[int] = []
        with pytest.raises(grpc.RpcError, match=RST_STREAM) as raised:
            read.extend(n for batch in reader.batches(session, 1, offset) for n in _ids(batch))
        assert raised.value.code() is grpc.StatusCode.INTERNAL
        assert len(read) == 2 * MESSAGE_ROWS - offset
    assert len(reader.ids(session, 1)) == ROWS // 2


def test_retry_info_travels_in_the_trailers(server: LocalBigQuery, reader: Reader) -> None:
    server.faults(ReadFault(code="RESOURCE_EXHAUSTED", message="quota", retry_delay_s=1.5))
    with pytest.raises(grpc.RpcError) as raised:
        reader.ids(reader.session())
    trailing: Any = raised.value.trailing_metadata()
    trailers = dict(trailing)
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    info = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert (info.retry_delay.seconds, info.retry_delay.nanos) == (1, 500_000_000)


def test_a_stream_may_end_early_without_an_error(server: LocalBigQuery, reader: Reader) -> None:
    server.faults(ReadFault(action="end", at_message=3))
    session = reader.session()
    assert reader.ids(session) == list(range(3 * MESSAGE_ROWS))
    assert len(reader.ids(session)) == ROWS


def test_stalled_streams_block_no_other(server: LocalBigQuery, reader: Reader) -> None:
    server.faults(ReadFault(action="stall", at_message=1, times=8))
    session = reader.session(streams=9)
    calls = [reader.call(stream.name) for stream in session.streams[:8]]
    for call in calls:
        next(call)
    eventually(lambda: server.stats()["injected"].get("ReadRows stall") == 8)
    assert len(reader.ids(session, 8)) == ROWS - round(ROWS * 8 / 9)
    assert server.stats()["open_read_rows"] == 8
    for call in calls:
        call.cancel()
    eventually(lambda: server.stats()["open_read_rows"] == 0)


def test_a_client_that_does_not_read_is_not_sent_more(
    server: LocalBigQuery, reader: Reader
) -> None:
    server.load("p.d.wide", pa.table({"id": range(64), "text": ["x" * (1 << 20)] * 64}))
    server.configure(message_rows=1)
    try:
        session = reader.session(table="p.d.wide")
    finally:
        server.configure(message_rows=MESSAGE_ROWS)
    call = reader.call(session.streams[0].name)
    next(call)
    sent = -1
    while (now := server.stats()["bytes_sent"]) != sent:
        sent = now
        time.sleep(0.2)
    call.cancel()
    assert sent < 24 << 20


def test_expired_sessions_and_refused_filters(server: LocalBigQuery, reader: Reader) -> None:
    session = reader.session()
    server.faults(SessionFault(times=2), refuse_filters="farm_fingerprint", sessions_expired=True)
    for _ in range(2):
        with pytest.raises(exceptions.ServiceUnavailable):
            reader.session()
    with pytest.raises(grpc.RpcError, match="session expired") as raised:
        reader.ids(session)
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    with pytest.raises(exceptions.InvalidArgument, match=r"request failed: .*filter"):
        reader.session(row_restriction="MOD(FARM_FINGERPRINT(key), 10) = 1")
    reader.session(row_restriction="id = 1")
    server.faults(deny=["bigquery.readsessions.create"])
    with pytest.raises(exceptions.PermissionDenied, match=r"bigquery.readsessions.create"):
        reader.session()


def test_a_query_splits_by_fingerprint_into_a_table_that_storage_reads(
    server: LocalBigQuery, client: bigquery.Client, reader: Reader
) -> None:
    server.dataset("p.out")
    partitions = bigquery.RangePartitioning(bigquery.PartitionRange(0, 100, 1), "bucket")
    job = client.query(
        "SELECT id, ABS(MOD(FARM_FINGERPRINT(COALESCE(CAST(key AS STRING), '')), 100)) AS bucket,"
        " features FROM d.rows",
        bigquery.QueryJobConfig(destination="p.out.split", range_partitioning=partitions),
    )
    job.result()
    assert (job.total_bytes_processed, job.total_bytes_billed) > (ROWS * 8, 10 << 20)
    table = client.get_table("p.out.split")
    assert (table.num_rows, table.range_partitioning) == (ROWS, partitions)
    session = reader.session(2, "p.out.split", row_restriction="bucket = 7")
    assert reader.all_ids(session) == [number for number in range(ROWS) if _bucket(number) == 7]


def _bucket(number: int) -> int:
    text = f"key-{number}" if number % 10 else ""
    signed = int(np.uint64(farmhash.fingerprint64(text)).astype(np.int64))
    return abs(int(np.fmod(signed, 100)))


def test_rows_of_queries_come_in_pages_with_their_types(client: bigquery.Client) -> None:
    rows = client.query_and_wait(
        "SELECT *, FARM_FINGERPRINT(blob) AS hashed FROM `p.d.rows` ORDER BY id", page_size=3_000
    )
    made = [dict(row) for row in rows]
    expected = make_rows().to_pylist()
    assert [row.pop("hashed") for row in made[:2]] == [
        int(np.uint64(farmhash.fingerprint64(text)).astype(np.int64)) for text in (b"0", b"1")
    ]
    assert made[:2] == expected[:2]
    assert len(made) == ROWS


def test_a_dry_run_tells_bytes_and_schema(client: bigquery.Client) -> None:
    dry = bigquery.QueryJobConfig(dry_run=True)
    job = client.query("SELECT features.age, id AS n FROM d.rows", job_config=dry)
    assert job.total_bytes_processed == 2 * 8 * ROWS
    assert [field.name for field in job.schema or ()] == ["age", "n"]
    assert job.created is not None


@pytest.mark.parametrize(
    ("sql", "error", "match"),
    [
        ("SELECT id\nFROM WHERE id", exceptions.BadRequest, r"Syntax error.* at \[2:6\]"),
        ("SELECT nope FROM d.rows", exceptions.BadRequest, r"Unrecognized name: nope at \[1:8\]"),
        ("SELECT 1 FROM d.nothing", exceptions.NotFound, "Not found: Table p:d.nothing was not"),
        ("SELECT 1 / 0", exceptions.BadRequest, "division by zero"),
        ("SELECT FORMAT('%d', id) FROM d.rows", exceptions.BadRequest, "Not supported"),
        ("SELECT id, id FROM d.rows", exceptions.BadRequest, "Duplicate column names"),
    ],
)
def test_a_wrong_query_is_an_error(
    client: bigquery.Client, sql: str, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        client.query_and_wait(sql)


def test_jobs_may_be_too_dear_denied_or_miscounted(
    server: LocalBigQuery, client: bigquery.Client
) -> None:
    config = bigquery.QueryJobConfig(maximum_bytes_billed=1_000)
    with pytest.raises(exceptions.GoogleAPICallError, match="10485760 or higher required"):
        client.query("SELECT id FROM d.rows", job_config=config).result()
    server.faults(deny=["bigquery.jobs.create"])
    with pytest.raises(exceptions.Forbidden, match=r"bigquery.jobs.create permission in project p"):
        client.query("SELECT 1")
    server.faults(count_error=-3)
    rows = list(client.query_and_wait("SELECT COUNT(*) AS n, MAX(id) AS m FROM d.rows"))
    assert dict(rows[0]) == {"n": ROWS - 3, "m": ROWS - 1}


def test_rest_fails_as_often_as_it_is_told(server: LocalBigQuery, client: bigquery.Client) -> None:
    server.faults(RestFault(status=502), RestFault(drop=True))
    assert client.get_table(TABLE).num_rows == ROWS
    assert server.stats()["injected"] == {"REST 502": 1, "REST drop": 1}
    quota = RestFault(403, "quotaExceeded", "Exceeded rate limits", times=None, path="/tables/")
    server.faults(quota)
    with pytest.raises(exceptions.Forbidden, match="Exceeded rate limits"):
        client.get_table(TABLE)


def test_ingestion_time_partitions_have_pseudo_columns(
    server: LocalBigQuery, client: bigquery.Client, reader: Reader
) -> None:
    days = {"2020-01-20": make_rows(count=5), "2020-01-21": make_rows(first=5, count=2)}
    server.load("p.d.daily", partitions=days)
    sql = "SELECT * FROM d.daily WHERE _PARTITIONDATE = '2020-01-20' ORDER BY id"
    rows = client.query_and_wait(sql)
    assert [row["id"] for row in rows] == list(range(5))
    assert [field.name for field in rows.schema] == make_rows(count=1).column_names
    session = reader.session(table="p.d.daily", row_restriction='_PARTITIONDATE = "2020-01-21"')
    assert reader.ids(session) == [5, 6]
    table = client.get_table("p.d.daily")
    assert table.time_partitioning == bigquery.TimePartitioning()
    assert len(table.schema) == 5


def test_a_key_file_buys_tokens_that_end(
    server: LocalBigQuery, reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else google-auth asks iamcredentials.googleapis.com about the account, in a thread.
    lookup = "_is_regional_access_boundary_lookup_required"
    monkeypatch.setattr(service_account.Credentials, lookup, lambda _: False)
    key = server.key_file(tmp_path / "key.json")
    server.configure(require_token=True)
    credentials = service_account.Credentials.from_service_account_file(
        str(key), scopes=["https://www.googleapis.com/auth/bigquery"]
    )
    with bigquery.Client(
        "p", credentials=credentials, client_options=ClientOptions(api_endpoint=server.rest)
    ) as client:
        assert client.get_table(TABLE).num_rows == ROWS
        with pytest.raises(exceptions.Unauthenticated):
            reader.session()
        reader.metadata = [("authorization", f"Bearer {credentials.token}")]
        session = reader.session()
        assert reader.ids(session) == list(range(ROWS))
        server.revoke_tokens()
        with pytest.raises(grpc.RpcError, match="invalid authentication credentials"):
            reader.ids(session)
        assert client.get_table(TABLE).num_rows == ROWS  # with a new token
        server.revoke_tokens()
        server.configure(clock_skew_s=3 * 3600)
        with pytest.raises(RefreshError, match=r"invalid_grant.*reasonable timeframe"):
            client.get_table(TABLE)
    assert server.stats()["authorized_calls"]["tables.get"] >= 2
    assert json.loads(key.read_text())["client_email"] not in json.dumps(server.stats())


def test_the_process_ends_with_its_input() -> None:
    server = LocalBigQuery()
    try:
        assert server.process.stdin is not None
        server.process.stdin.close()
        eventually(lambda: not is_alive(server.process.pid))
        assert os.path.exists(server.folder)
    finally:
        server.stop()
    assert not os.path.exists(server.folder)


def test_sixty_four_streams_are_read_at_the_same_time(
    server: LocalBigQuery, reader: Reader
) -> None:
    server.faults(message_delay_s=0.2)
    session = reader.session(streams=64)
    read: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: read.extend(reader.ids(session, n))) for n in range(64)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read) == list(range(ROWS))
    assert server.stats()["most_open_read_rows"] == 64


def test_json_is_written_as_bigquery_writes_it(client: bigquery.Client) -> None:
    asked = """SELECT TO_JSON_STRING(STRUCT(
        1.0 AS a, 0.1 AS b, CAST('NaN' AS FLOAT64) AS c, TRUE AS d, DATE '2020-01-02' AS e,
        TIMESTAMP '2020-01-02 03:04:05.5+00' AS f, 'x"y' AS g, 9007199254740993 AS h,
        STRUCT(NULL AS i, 1e300 AS j) AS k)) AS made"""
    (row,) = client.query(asked).result()
    assert json.loads(row["made"]) == {
        "a": 1, "b": 0.1, "c": "NaN", "d": True, "e": "2020-01-02",
        "f": "2020-01-02T03:04:05.500Z", "g": 'x"y', "h": "9007199254740993",
        "k": {"i": None, "j": 1e300},
    }  # fmt: skip
    assert row["made"].startswith('{"a":1,"b":0.1,')


def test_equal_rows_are_numbered(client: bigquery.Client) -> None:
    asked = """SELECT ROW_NUMBER() OVER (PARTITION BY MOD(n, 2)) AS place
        FROM UNNEST(GENERATE_ARRAY(1, 6)) AS n"""
    assert sorted(row["place"] for row in client.query(asked).result()) == [1, 1, 2, 2, 3, 3]


def test_counts_over_no_rows_are_zero(client: bigquery.Client) -> None:
    asked = "SELECT COUNTIF(id > 1) AS several, COUNT(*) AS every FROM d.rows WHERE id < 0"
    (row,) = client.query(asked).result()
    assert dict(row.items()) == {"several": 0, "every": 0}
