"""One stream, read through every fault: each row once, in order, or an error that says why not.

The server is a real one of gRPC, in this process; what it does wrong is written down beforehand.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, cast

import grpc
import pyarrow as pa
import pytest
from google.cloud.bigquery_storage_v1.types import ReadRowsRequest, ReadRowsResponse
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from faucetd.errors import (
    ConfigError,
    SourceChanged,
    SourceForbidden,
    SourceNotFound,
    SourceReadError,
)
from faucetd.fetch.bigquery import faults
from faucetd.fetch.bigquery.connection import Connection
from faucetd.fetch.bigquery.session import ReadSession
from faucetd.fetch.bigquery.settings import BigQuerySettings
from faucetd.fetch.bigquery.stream import ByteBudget, StreamReader

Code = grpc.StatusCode
FIELDS: dict[str, pa.DataType] = {"row": pa.int64(), "text": pa.string()}
SCHEMA = pa.schema(FIELDS)
STREAM = "projects/p/locations/us/sessions/s/streams/0"
NETWORK = [
    (Code.UNAVAILABLE, "the service is currently unavailable"),
    (Code.UNKNOWN, "Stream removed"),
    (Code.INTERNAL, "Received RST_STREAM with error code 2"),
    (Code.INTERNAL, "HTTP/2 error code: INTERNAL_ERROR"),
    (Code.INTERNAL, "Connection closed with unknown cause"),
    (Code.INTERNAL, "Received unexpected EOS on DATA frame from server"),
    (Code.RESOURCE_EXHAUSTED, "Quota exceeded"),
]


@dataclass
class Fault:
    """What one call does after `after` messages, or at its end if there are fewer."""

    after: int = 0
    code: grpc.StatusCode | None = None
    details: str = "injected"
    retry_after_s: float | None = None
    stall: bool = False


@dataclass
class Server:
    """ReadRows over one stream of numbered rows; `script` has a fault or None for each call."""

    sizes: Sequence[int] = (3, 5, 2)
    script: list[Fault | None] = field(default_factory=list)
    forever: Fault | None = None
    offsets: list[int] = field(default_factory=list)
    sent: int = 0
    row_bytes: int = 0
    lie_about_rows: int = 0
    schema: bytes | None = None
    data: bytes | None = None
    over: threading.Event = field(default_factory=threading.Event)
    empty_messages: bool = False
    cancelled: int = 0

    @property
    def rows(self) -> int:
        return sum(self.sizes)

    def messages(self, offset: int) -> Iterator[bytes]:
        stop = 0
        for size in self.sizes:
            start, stop = max(stop, offset), stop + size
            if start < stop:
                yield message(
                    start, stop, self.row_bytes, self.lie_about_rows, self.schema, self.data
                )

    def read_rows(self, request: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
        fault = self.script.pop(0) if self.script else self.forever
        self.offsets.append(request.offset)
        if request.offset > self.rows:
            context.abort(Code.OUT_OF_RANGE, "offset beyond the end")
        for number, data in enumerate(self.messages(request.offset)):
            if fault is not None and number >= fault.after:
                break
            if self.empty_messages:
                yield b""
            self.sent += 1
            yield data
        if fault is None:
            return
        if fault.stall:
            context.add_callback(self._count_cancelled)
            self.over.wait(20)
            context.abort(Code.UNAVAILABLE, "no OK, which would be the stream's end")
        assert fault.code is not None
        if fault.retry_after_s is not None:
            delay = Duration()
            delay.FromMilliseconds(int(fault.retry_after_s * 1_000))
            detail = Packed()
            detail.Pack(RetryInfo(retry_delay=delay))
            status = Status(code=fault.code.value[0], message=fault.details, details=[detail])
            context.abort_with_status(rpc_status.to_status(status))
        context.abort(fault.code, fault.details)

    def _count_cancelled(self) -> None:
        self.cancelled += 1


def message(
    start: int,
    stop: int,
    row_bytes: int = 0,
    lie: int = 0,
    schema: bytes | None = None,
    data: bytes | None = None,
) -> bytes:
    texts = pa.array(["x" * row_bytes for _ in range(start, stop)])
    batch = pa.record_batch([pa.array(range(start, stop), pa.int64()), texts], schema=SCHEMA)
    response = ReadRowsResponse.pb()()
    response.row_count = batch.num_rows + lie
    response.arrow_record_batch.serialized_record_batch = data or batch.serialize().to_pybytes()
    if schema is not None:
        response.arrow_schema.serialized_schema = schema
    return bytes(response.SerializeToString())


class World:
    """A server, a connection to it, and the readers to close at the end."""

    def __init__(self, port: int = 0) -> None:
        self.server = Server()
        self._pool = ThreadPoolExecutor(32)
        self._grpc = grpc.server(self._pool)
        handler: Any = grpc.unary_stream_rpc_method_handler(
            lambda request, context: self.server.read_rows(request, context),
            request_deserializer=ReadRowsRequest.pb().FromString,
        )
        self._grpc.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(
                    "google.cloud.bigquery.storage.v1.BigQueryRead", {"ReadRows": handler}
                )
            ]
        )
        self.port = self._grpc.add_insecure_port(f"127.0.0.1:{port}")
        self._grpc.start()
        self.connection = Connection(self.settings())
        self.readers: list[StreamReader] = []

    def settings(self, **changes: Any) -> BigQuerySettings:
        base: dict[str, Any] = {
            "project": "p",
            "credentials": "anonymous",
            "storage_endpoint": f"127.0.0.1:{self.port}",
            "storage_insecure": True,
            "retry_deadline_s": 20.0,
        }
        return BigQuerySettings(**(base | changes))

    def reader(
        self,
        server: Server,
        *,
        offset: int = 0,
        budget: ByteBudget | None = None,
        pause_s: float = 60.0,
        limit: int | None = None,
        schema: pa.Schema = SCHEMA,
        **changes: Any,
    ) -> StreamReader:
        self.server.over.set()
        self.server = server
        session = ReadSession(
            "s", (STREAM,), schema.serialize().to_pybytes(), "p.d.t", 0, 0, 0.0, 0.0
        )
        reader = StreamReader(
            self.connection,
            self.settings(**changes),
            session,
            STREAM,
            offset,
            budget or ByteBudget(1 << 30),
            limit=limit,
            pause_s=pause_s,
        )
        self.readers.append(reader)
        return reader

    def tidy(self) -> None:
        self.server.over.set()
        for reader in self.readers:
            reader.close()
        self.readers.clear()

    def stop_serving(self) -> None:
        stopped = self._grpc.stop(0)
        self.server.over.set()
        stopped.wait()
        self._pool.shutdown()

    def close(self) -> None:
        self.tidy()
        self.connection.close()
        self.stop_serving()


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    world = World()
    yield world
    world.close()


@pytest.fixture
def world(shared: World) -> Iterator[World]:
    yield shared
    shared.tidy()
    assert not pullers(), "a reader's thread outlived it"


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "_FIRST_DELAY_S", 0.0005)
    monkeypatch.setattr(faults, "_LONGEST_DELAY_S", 0.002)


def pullers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("bigquery-")]


def numbers(batch: pa.RecordBatch) -> list[int]:
    return cast("list[int]", batch.column("row").to_pylist())


def read_all(reader: StreamReader) -> list[int]:
    rows: list[int] = []
    while (found := reader.next()) is not None:
        batch, stop = found
        rows += numbers(batch)
        assert rows[-1] == stop - 1
        assert reader.position == stop
    assert reader.next() is None
    return rows


def until(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.002)


def test_rows_come_once_and_in_order_from_any_offset(world: World) -> None:
    for offset in range(11):
        reader = world.reader(Server(), offset=offset)
        assert read_all(reader) == list(range(offset, 10))
        assert (reader.stats.attempts, reader.stats.retries) == (1, 0)
        assert reader.stats.rows == 10 - offset
        assert (reader.stats.wire_bytes > 0) is (offset < 10)


@pytest.mark.parametrize("after", [0, 1, 2, 3])  # the first message, between, the last, the end
@pytest.mark.parametrize(("code", "details"), NETWORK)
def test_a_call_that_breaks_goes_on_where_it_was(
    world: World, code: grpc.StatusCode, details: str, after: int
) -> None:
    server = Server(script=[Fault(after, code, details)])
    reader = world.reader(server)
    assert read_all(reader) == list(range(10))
    assert server.offsets == [0, [0, 3, 8, 10][after]]
    assert reader.stats.retries == 1


def test_faults_of_all_kinds_in_a_row_lose_nothing(world: World, hasty: None) -> None:
    script: list[Fault | None] = [
        Fault(after, code, details) for after in (0, 1, 0) for code, details in NETWORK
    ]
    server = Server(sizes=[4] * 12, script=script)
    assert read_all(world.reader(server)) == list(range(48))
    assert len(server.offsets) == len(NETWORK) * 3 + 1


@pytest.mark.usefixtures("hasty")
@hypothesis_settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(1, 9), max_size=12),
    points=st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from(range(len(NETWORK)))), max_size=12
    ),
    offset=st.floats(0, 1),
    empty_messages=st.booleans(),
)
def test_whatever_breaks_each_row_comes_once_and_in_order(
    shared: World,
    sizes: list[int],
    points: list[tuple[int, int]],
    offset: float,
    empty_messages: bool,
) -> None:
    script: list[Fault | None] = [Fault(after, *NETWORK[kind]) for after, kind in points]
    server = Server(sizes=sizes, script=script, empty_messages=empty_messages)
    start = int(offset * server.rows)
    reader = shared.reader(server, offset=start)
    try:
        assert read_all(reader) == list(range(start, server.rows))
        assert len(server.offsets) <= len(points) + 1
    finally:
        reader.close()


def test_a_thousand_faults_cost_a_thousand_calls(world: World, hasty: None) -> None:
    script: list[Fault | None] = [
        Fault(1, *NETWORK[number % len(NETWORK)]) for number in range(1_000)
    ]
    server = Server(sizes=[2] * 1_001, script=script)
    reader = world.reader(server)
    assert read_all(reader) == list(range(2_002))
    assert reader.stats.attempts == len(server.offsets) == 1_001


@pytest.mark.parametrize(
    ("code", "details", "kind", "words"),
    [
        (Code.INTERNAL, "request failed: internal error", SourceReadError, "request failed"),
        (Code.DEADLINE_EXCEEDED, "too slow", SourceReadError, "too slow"),
        (Code.ABORTED, "aborted", SourceReadError, "aborted"),
        (Code.CANCELLED, "cancelled", SourceReadError, "cancelled"),
        (Code.DATA_LOSS, "lost", SourceReadError, "lost"),
        (Code.INVALID_ARGUMENT, "bad stream", SourceReadError, "bad stream"),
        (Code.NOT_FOUND, "no such session", SourceNotFound, "p.d.t"),
        (
            Code.PERMISSION_DENIED,
            "the user does not have 'bigquery.readsessions.getData' permission for 'projects/p'",
            SourceForbidden,
            "anonymous lacks the permission bigquery.readsessions.getData",
        ),
        (
            Code.FAILED_PRECONDITION,
            "there was an error operating on 'projects/p/…': session expired at 2026-11-22",
            SourceChanged,
            "read session expired",
        ),
    ],
)
@pytest.mark.parametrize("after", [0, 1])
def test_what_is_not_worth_another_attempt_fails_at_once_after_the_rows_before(
    world: World,
    code: grpc.StatusCode,
    details: str,
    kind: type[Exception],
    words: str,
    after: int,
) -> None:
    server = Server(forever=Fault(after, code, details))
    reader = world.reader(server)
    if after:
        found = reader.next()
        assert found is not None
        assert found[1] == 3
    for _ in range(2):  # an error stays
        with pytest.raises(kind, match=words) as raised:
            reader.next()
    assert f"from row {[0, 3][after]}" in str(raised.value)
    assert len(server.offsets) == 1


def test_a_server_that_names_a_time_is_not_asked_before(world: World) -> None:
    fault = Fault(1, Code.RESOURCE_EXHAUSTED, "slow down", retry_after_s=0.3)
    reader = world.reader(Server(script=[fault]))
    assert reader.next() is not None
    began = time.monotonic()
    assert read_rest(reader) == list(range(3, 10))
    assert time.monotonic() - began >= 0.25


def read_rest(reader: StreamReader) -> list[int]:
    rows: list[int] = []
    while (found := reader.next()) is not None:
        rows += numbers(found[0])
    return rows


def test_a_stream_that_never_gets_on_fails_when_the_deadline_is_over(world: World) -> None:
    server = Server(forever=Fault(0, Code.UNAVAILABLE, "down"))
    reader = world.reader(server, retry_deadline_s=0.3)
    began = time.monotonic()
    with pytest.raises(SourceReadError, match=r"tried \d+ times in .* down"):
        reader.next()
    assert 0.25 < time.monotonic() - began < 3
    assert 3 < len(server.offsets) < 20  # it backs off


def test_each_row_starts_the_deadline_anew(world: World) -> None:
    # Three failures before each message take about 0.1 s: 2 s in all, of a deadline of 0.6 s.
    script: list[Fault | None] = []
    for _ in range(20):
        script += [Fault(0, Code.UNAVAILABLE)] * 2 + [Fault(1, Code.UNAVAILABLE)]
    server = Server(sizes=[1] * 21, script=script)
    began = time.monotonic()
    assert read_all(world.reader(server, retry_deadline_s=0.6)) == list(range(21))
    assert time.monotonic() - began > 0.6


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_silent_stream_is_opened_anew(world: World, after: int) -> None:
    server = Server(script=[Fault(after, stall=True)])
    reader = world.reader(server, stall_timeout_s=0.2)
    assert read_all(reader) == list(range(10))
    assert reader.stats.stalls == 1
    assert server.offsets == [0, [0, 3, 8, 10][after]]
    until(lambda: server.cancelled == 1)


def test_a_stream_that_stays_silent_fails_by_name(world: World) -> None:
    server = Server(forever=Fault(1, stall=True))
    server.sizes = [1]
    reader = world.reader(server, offset=1, stall_timeout_s=0.1, retry_deadline_s=0.5)
    with pytest.raises(SourceReadError, match=r"nothing came for p\.d\.t"):
        reader.next()
    assert reader.stats.stalls >= 2


def test_a_consumer_that_is_away_makes_no_stall(world: World) -> None:
    server = Server(sizes=[1] * 64)
    reader = world.reader(server, stall_timeout_s=0.1)
    until(lambda: reader.stats.rows >= 16)  # the queue is full
    time.sleep(0.3)
    assert read_all(reader) == list(range(64))
    assert (reader.stats.stalls, reader.stats.attempts) == (0, 1)


def test_a_long_pause_ends_the_call_and_the_next_batch_opens_another(world: World) -> None:
    server = Server(sizes=[1] * 64)
    reader = world.reader(server, pause_s=0.1)
    until(lambda: reader.stats.pauses == 1)
    assert reader.stats.rows == 16
    assert read_all(reader) == list(range(64))
    assert server.offsets[:2] == [0, 16]
    assert reader.stats.retries == 0


def test_no_message_is_asked_for_from_the_limit_on_until_more_is_wanted(world: World) -> None:
    reader = world.reader(Server(sizes=[3] * 8), pause_s=0.1, limit=7)
    until(lambda: reader.stats.pauses == 1)
    assert reader.stats.rows == 9
    reader.want(15)
    assert [numbers(reader.next()[0])[0] for _ in range(5)] == [0, 3, 6, 9, 12]  # type: ignore[index]  # there are so many
    until(lambda: reader.stats.pauses == 2)
    assert reader.stats.rows == 15
    reader.want(None)
    assert read_all(reader) == list(range(15, 24))


def test_what_is_held_stays_within_the_budget(world: World) -> None:
    server = Server(sizes=[10] * 60, row_bytes=1_000)
    budget = ByteBudget(100_000)
    readers = [world.reader(server, budget=budget) for _ in range(3)]
    largest = len(message(0, 10, 1_000))
    most = 0
    rows: list[list[int]] = [[], [], []]
    until(lambda: budget.used_bytes > 60_000)
    while not all(len(one) == 600 for one in rows):
        for reader, one in zip(readers, rows, strict=True):
            most = max(most, budget.used_bytes)
            found = reader.next()
            if found is not None:
                one += numbers(found[0])
    assert most <= 100_000 + 3 * largest
    assert all(one == list(range(600)) for one in rows)
    until(lambda: budget.used_bytes == 0)


def test_a_message_larger_than_the_budget_comes_all_the_same(world: World) -> None:
    server = Server(sizes=[5] * 8, row_bytes=1_000)
    budget = ByteBudget(10)
    first, second = (world.reader(server, budget=budget) for _ in range(2))
    until(lambda: first.stats.rows == second.stats.rows == 5)
    assert read_all(second) == list(range(40))  # though the first holds more than the budget
    assert first.stats.rows == 5
    assert read_all(first) == list(range(40))


def test_flow_control_stops_the_server(world: World) -> None:
    server = Server(sizes=[100] * 400, row_bytes=1_000)  # 40 MB
    reader = world.reader(server, budget=ByteBudget(400_000))
    until(lambda: reader.stats.rows >= 300)
    until(lambda: not moves(server, 0.2))
    assert server.sent < 200
    assert read_all(reader) == list(range(40_000))


def moves(server: Server, within_s: float) -> bool:
    before = server.sent
    time.sleep(within_s)
    return server.sent != before


def test_a_call_that_breaks_while_the_consumer_pauses_goes_on_later(world: World) -> None:
    server = Server(sizes=[1] * 40, script=[Fault(20, Code.UNAVAILABLE)])
    reader = world.reader(server)
    until(lambda: reader.stats.rows == 16)
    time.sleep(0.05)
    assert read_all(reader) == list(range(40))
    assert server.offsets == [0, 20]


def test_a_message_that_lies_about_its_rows_is_an_error(world: World) -> None:
    reader = world.reader(Server(lie_about_rows=1))
    with pytest.raises(SourceReadError, match="a message of 4 rows holds 3"):
        reader.next()


def test_another_schema_is_an_error_that_names_the_column(world: World) -> None:
    other = pa.schema(FIELDS | {"row": pa.int32()}).serialize().to_pybytes()
    reader = world.reader(Server(schema=other))
    with pytest.raises(SourceChanged, match="row was int64 and is int32"):
        reader.next()


def test_the_sessions_own_schema_is_welcome(world: World) -> None:
    reader = world.reader(Server(schema=SCHEMA.serialize().to_pybytes()))
    assert read_all(reader) == list(range(10))


def test_data_that_is_not_of_the_schema_is_an_error(world: World) -> None:
    reader = world.reader(Server(), schema=pa.schema([pa.field("row", pa.list_(pa.int64()))]))
    with pytest.raises(SourceReadError, match="no Arrow data of the session's schema"):
        reader.next()


def test_refused_credentials_are_read_anew_once(world: World) -> None:
    server = Server(script=[Fault(1, Code.UNAUTHENTICATED, "token expired")])
    before = world.connection.generation
    reader = world.reader(server)
    assert read_all(reader) == list(range(10))
    assert world.connection.generation == before + 1

    server = Server(forever=Fault(0, Code.UNAUTHENTICATED, "token expired"))
    reader = world.reader(server)
    with pytest.raises(ConfigError, match="credentials of anonymous are not valid"):
        reader.next()
    assert len(server.offsets) == 2


def test_credentials_may_be_refused_again_after_rows_have_come(world: World) -> None:
    refused = (Code.UNAUTHENTICATED, "token expired")
    before = world.connection.generation
    reader = world.reader(Server(script=[Fault(1, *refused), Fault(1, *refused)]))
    assert read_all(reader) == list(range(10))
    assert world.connection.generation == before + 2


class Ended:
    """A call that ends as no call should: without a status, or with another than OK."""

    def __init__(self, code: grpc.StatusCode | None) -> None:
        self._code = code

    def __next__(self) -> Any:
        raise StopIteration

    def cancel(self) -> None:
        pass

    def code(self) -> grpc.StatusCode | None:
        return self._code


@pytest.mark.parametrize("code", [None, Code.CANCELLED, Code.UNAVAILABLE])
def test_only_a_call_that_ended_with_ok_is_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch, code: grpc.StatusCode | None
) -> None:
    monkeypatch.setattr(world.connection, "read_rows", lambda *_: Ended(code))
    with pytest.raises(SourceReadError, match="ended without saying how"):
        world.reader(Server()).next()


def test_a_server_that_is_not_there_is_waited_for(world: World) -> None:
    settings = world.settings(storage_endpoint="127.0.0.1:1", retry_deadline_s=0.2)
    connection = Connection(settings)
    session = ReadSession("s", (STREAM,), SCHEMA.serialize().to_pybytes(), "p.d.t", 0, 0, 0, 0)
    reader = StreamReader(connection, settings, session, STREAM, 0, ByteBudget(1))
    with pytest.raises(SourceReadError, match="tried"):
        reader.next()
    reader.close()
    connection.close()


def test_a_server_that_restarts_is_found_again() -> None:
    first = World()
    reader = first.reader(Server(sizes=[1] * 40, script=[Fault(20, stall=True)]))
    until(lambda: reader.stats.rows == 16)
    first.stop_serving()
    second = World(first.port)
    second.server = Server(sizes=[1] * 40)
    try:
        assert read_all(reader) == list(range(40))
        (offset,) = second.server.offsets
        assert 16 <= offset <= 20  # what was on its way may be lost with the connection
    finally:
        second.close()
        first.close()


@pytest.mark.parametrize(
    ("sizes", "fault"),
    [
        ([1] * 1_000, None),
        ([1] * 3, None),
        ([1], Fault(0, Code.UNAVAILABLE)),
        ([1], Fault(0, stall=True)),
        ([1] * 3, Fault(2, stall=True)),
        ([1], Fault(0, Code.RESOURCE_EXHAUSTED, retry_after_s=15)),
    ],
    ids=["flowing", "ended", "failing", "silent", "silent later", "waiting"],
)
@pytest.mark.parametrize("delay_s", [0, 0.001, 0.02, 0.1])
def test_a_reader_can_be_closed_at_any_time(
    world: World, sizes: list[int], fault: Fault | None, delay_s: float
) -> None:
    server = Server(sizes=sizes, forever=fault)
    budget = ByteBudget(1_000)
    reader = world.reader(server, budget=budget)
    time.sleep(delay_s)
    began = time.monotonic()
    reader.close()
    assert time.monotonic() - began < 1
    assert not pullers()
    assert budget.used_bytes == 0
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        reader.next()


def test_closing_wakes_whoever_waits(world: World) -> None:
    reader = world.reader(Server(forever=Fault(0, stall=True)))
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            reader.next()
        except ValueError as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: reader.stats.attempts == 1)
    reader.close()
    thread.join(5)
    assert raised


def test_a_forgotten_reader_ends_its_thread(world: World) -> None:
    budget = ByteBudget(1 << 20)
    reader = world.reader(Server(sizes=[1] * 1_000), budget=budget)
    assert reader.next() is not None
    world.readers.clear()
    del reader
    gc.collect()
    until(lambda: not pullers())
    assert budget.used_bytes == 0


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_buffers_count_as_what_they_become(
    world: World, codec: Literal["lz4", "zstd"]
) -> None:
    batch = pa.record_batch([pa.array(range(100_000)), pa.array(["x"] * 100_000)], schema=SCHEMA)
    data = squeeze(batch, codec)
    budget = ByteBudget(1)
    reader = world.reader(Server(sizes=[100_000], data=data), budget=budget)
    until(lambda: reader.stats.rows == 100_000)
    assert budget.used_bytes > 1_000_000 > len(data)
    assert read_all(reader) == list(range(100_000))


def squeeze(batch: pa.RecordBatch, codec: Literal["lz4", "zstd"]) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=codec)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    reader = pa.ipc.MessageReader.open_stream(sink.getvalue())
    reader.read_next_message()
    return reader.read_next_message().serialize().to_pybytes()


def test_waits_grow_and_are_capped_and_scattered() -> None:
    now = [0.0]
    patience = faults.Patience(10_000, clock=lambda: now[0])
    waits = [patience.failed(faults.Retry()) or 0.0 for _ in range(16)]
    assert waits[0] <= 0.02
    assert all(later <= 2 * 2 * sooner for sooner, later in pairwise(waits))
    assert 10 <= waits[-1] <= 20
    others = faults.Patience(10_000)
    assert [others.failed(faults.Retry()) for _ in range(16)] != waits
    patience.progress()
    assert (patience.failed(faults.Retry()) or 1) <= 0.02


def test_patience_ends_with_the_deadline_and_not_before() -> None:
    now = [0.0]
    patience = faults.Patience(1.0, clock=lambda: now[0])
    assert patience.failed(faults.Retry()) is not None
    assert patience.failed(faults.Retry(after_s=0.9)) == 0.9
    assert patience.failed(faults.Retry(after_s=1.1)) is None  # it would be too late
    now[0] = 0.999
    assert (patience.failed(faults.Retry()) or 1) <= 0.0011
    now[0] = 1.0
    assert patience.failed(faults.Retry()) is None
