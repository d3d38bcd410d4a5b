"""google.cloud.bigquery.storage.v1.BigQueryRead: sessions are made and streams sent here.

Each ReadRows call has a thread of its own, which blocks in gRPC while the client does not read:
HTTP/2's flow control is the back-pressure, and at most one message waits above it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn

import grpc
import pyarrow as pa
from google.cloud.bigquery_storage_v1 import types
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from tests.bigquery_server.catalog import (
    PARTITION_DATE,
    PARTITION_TIME,
    Catalog,
    Table,
    TableRef,
    Version,
    now_ms,
    select_columns,
)
from tests.bigquery_server.engine import Engine
from tests.bigquery_server.errors import ApiError, invalid, not_found
from tests.bigquery_server.faults import FaultBook, ReadFault, SessionFault
from tests.bigquery_server.messages import MessageCache, schema_field
from tests.bigquery_server.sessions import (
    Session,
    Sessions,
    Stream,
    deal,
    rows_per_message,
    session_name,
)
from tests.bigquery_server.settings import Settings
from tests.bigquery_server.stats import Stats
from tests.bigquery_server.tokens import Tokens

_SERVICE = "google.cloud.bigquery.storage.v1.BigQueryRead"
_THREADS = 256
_CODEC = {0: None, 1: "lz4", 2: "zstd"}  # ArrowSerializationOptions.CompressionCodec
_LONGEST_FILTER_BYTES = 1 << 20

_Context = grpc.ServicerContext


@dataclass
class ReadService:
    """The servicer. `settings` may be replaced at any time."""

    catalog: Catalog
    engine: Engine
    faults: FaultBook
    stats: Stats
    tokens: Tokens
    settings: Settings

    def __post_init__(self) -> None:
        self._sessions = Sessions()
        self._cache = MessageCache()

    def create_read_session(
        self, request: types.CreateReadSessionRequest, context: _Context
    ) -> types.ReadSession:
        """Answers CreateReadSession."""
        try:
            self._enter("CreateReadSession", context)
            fault = self.faults.on_session()
            if fault is not None:
                self._abort("CreateReadSession", context, fault)
            return self._create(request)
        except ApiError as error:
            self._refuse("CreateReadSession", context, error)

    def read_rows(self, request: types.ReadRowsRequest, context: _Context) -> Iterator[bytes]:
        """Answers ReadRows."""
        gone = threading.Event()
        self.stats.opened()
        if not context.add_callback(gone.set):
            gone.set()
        try:
            self._enter("ReadRows", context)
            session, stream = self._find(request.read_stream)
            yield from self._send(session, stream, request.offset, context, gone)
        except ApiError as error:
            self._refuse("ReadRows", context, error)
        finally:
            self.stats.closed()

    def split_read_stream(
        self, request: types.SplitReadStreamRequest, context: _Context
    ) -> types.SplitReadStreamResponse:
        """Answers SplitReadStream: not implemented."""
        self.stats.called("SplitReadStream", {})
        context.abort(grpc.StatusCode.UNIMPLEMENTED, f"no splitting of {request.name} here")

    def _enter(self, method: str, context: _Context) -> None:
        headers = {name: str(value) for name, value in context.invocation_metadata() or ()}
        self.stats.called(method, headers)
        self.tokens.check(headers.get("authorization"))

    def _create(self, request: types.CreateReadSessionRequest) -> types.ReadSession:
        wanted = request.read_session
        options = wanted.read_options
        settings = self.settings
        project = request.parent.removeprefix("projects/")
        self._check(request, project)
        ref = _table_ref(wanted.table)
        table = self._readable(ref)
        asked_ms = _snapshot_ms(wanted)
        version = _version_at(table, asked_ms)
        selected = list(options.selected_fields) or version.rows.column_names
        rows = select_columns(version.rows, selected)
        if options.row_restriction:
            rows = rows.filter(self._keep(version, ref, options.row_restriction))
        name = session_name(project, settings.location)
        message_rows = rows_per_message(rows, settings)
        # A table without rows has no streams; a filter that no row passes has empty ones.
        count = self._stream_count(request) if version.rows.num_rows else 0
        streams = deal(name, rows.num_rows, count, message_rows, settings.deal)
        asked_codec = _CODEC.get(int(options.arrow_serialization_options.buffer_compression))
        codec = settings.compression or asked_codec
        session = Session(
            name=name,
            table=ref.dotted,
            content=(version.id, tuple(selected), options.row_restriction),
            rows=rows,
            compression=None if codec == "none" else codec,
            lz4_responses=_wants_lz4_responses(options),
            streams=streams,
            expires_s=time.time() + settings.session_life_s,
            plan=self.faults.plan(ref.dotted, [stream.messages for stream in streams]),
        )
        self._sessions.add(session)
        self.stats.session(
            name=name,
            table=ref.dotted,
            selected_fields=list(options.selected_fields),
            row_restriction=options.row_restriction,
            streams=len(streams),
            rows=rows.num_rows,
            snapshot_ms=asked_ms,
        )
        return _answer(wanted, session, version, sum(_scanned(version, path) for path in selected))

    def _check(self, request: types.CreateReadSessionRequest, project: str) -> None:
        if self.faults.is_denied("bigquery.readsessions.create"):
            raise ApiError(
                "PERMISSION_DENIED",
                "accessDenied",
                "Permission 'bigquery.readsessions.create' denied on resource "
                f"'//cloudresourcemanager.googleapis.com/projects/{project}' (or it may not "
                "exist).",
            )
        if request.read_session.data_format != types.DataFormat.ARROW:
            raise invalid("request failed: this server reads in Arrow format only")
        lowest, most = request.preferred_min_stream_count, request.max_stream_count
        if most < 0 or (most and lowest > most):
            raise invalid(
                f"request failed: preferred_min_stream_count ({lowest}) must be less than or equal "
                f"to max_stream_count ({most})"
            )
        options = request.read_session.read_options
        if options.sample_percentage:
            raise invalid("request failed: this server does not sample")
        if len(options.row_restriction.encode()) > _LONGEST_FILTER_BYTES:
            raise invalid(
                "read_session.read_options.row_restriction exceeded maximum allowed length. "
                f"Maximum bytes allowed: {_LONGEST_FILTER_BYTES}"
            )
        refused = self.faults.current.refuse_filters
        if (
            refused is not None
            and options.row_restriction
            and (refused.lower() in options.row_restriction.lower())
        ):
            raise invalid(self.faults.current.refuse_message)

    def _readable(self, ref: TableRef) -> Table:
        table = self.catalog.table(ref)
        if self.faults.is_denied("bigquery.tables.getData"):
            raise ApiError(
                "PERMISSION_DENIED",
                "accessDenied",
                f"request failed: the user does not have 'bigquery.tables.getData' permission for "
                f"'projects/{ref.project}/datasets/{ref.dataset}/tables/{ref.table}'",
            )
        if table.kind == "VIEW":
            raise invalid(
                "request failed: Non-table entities cannot be read with the storage API. "
                f"Table type for {ref}: VIEW"
            )
        if table.kind == "EXTERNAL":
            raise invalid(
                "request failed: Only external tables with connections can be read with the "
                f"Storage API. Table type for {ref}: EXTERNAL"
            )
        return table

    def _keep(
        self, version: Version, ref: TableRef, restriction: str
    ) -> pa.ChunkedArray[pa.BooleanScalar]:
        names_pseudo = any(name in restriction.upper() for name in (PARTITION_TIME, PARTITION_DATE))
        if names_pseudo and not self.settings.filter_pseudo_columns:
            raise invalid(
                f"request failed: row_restriction cannot reference a pseudo column: {restriction}"
            )
        try:
            return self.engine.keep(version, ref, restriction)
        except ApiError as error:
            raise invalid(f"request failed: row_restriction: {error.message}") from error

    def _stream_count(self, request: types.CreateReadSessionRequest) -> int:
        asked = request.max_stream_count or max(
            self.settings.default_streams, request.preferred_min_stream_count
        )
        return int(min(asked, self.settings.max_streams, 1_000))

    def _find(self, name: str) -> tuple[Session, Stream]:
        found = self._sessions.find(name)
        if found is None:
            raise not_found(f"Stream {name}")
        session, stream = found
        expired = self.faults.current.sessions_expired
        if expired or session.expires_s <= time.time():
            ended = datetime.fromtimestamp(
                time.time() if expired else session.expires_s, UTC
            ).isoformat(timespec="seconds")
            raise ApiError(
                "FAILED_PRECONDITION",
                "sessionExpired",
                f"there was an error operating on '{name}': session expired at {ended}",
            )
        if self.faults.is_denied("bigquery.readsessions.getData"):
            raise ApiError(
                "PERMISSION_DENIED",
                "accessDenied",
                f"there was an error operating on '{name}': the user does not have "
                f"'bigquery.readsessions.getData' permission for '{name}'",
            )
        return session, stream

    def _send(
        self,
        session: Session,
        stream: Stream,
        offset: int,
        context: _Context,
        gone: threading.Event,
    ) -> Iterator[bytes]:
        if not 0 <= offset <= stream.rows:
            raise ApiError(
                "OUT_OF_RANGE",
                "outOfRange",
                f"there was an error operating on '{stream.name}': offset {offset} is out of range "
                f"for a stream of {stream.rows} rows",
            )
        sent = 0
        while True:
            number = stream.message_of(offset)
            fault = self.faults.on_message(session.plan, stream.number, number, sent)
            if fault is not None:
                if fault.action == "fail":
                    self._abort("ReadRows", context, fault)
                if fault.action == "stall":
                    gone.wait()
                return  # action "end" too: as if there were no more rows
            if offset >= stream.rows:
                return
            if delay_s := self.faults.current.message_delay_s:
                gone.wait(delay_s)
            end = stream.message_end(number)
            message = self._cache.get(session, stream, offset, end, self.settings.cache_bytes)
            if sent == 0:
                message = schema_field(session) + message
            self.stats.sent(stream.name, end - offset, len(message))
            yield message
            sent, offset = sent + 1, end

    def _abort(self, method: str, context: _Context, fault: ReadFault | SessionFault) -> NoReturn:
        self.stats.failed(method, fault.code)
        code = grpc.StatusCode[fault.code]
        if fault.retry_delay_s is not None:
            status = status_pb2.Status(code=code.value[0], message=fault.message)
            details = any_pb2.Any()
            details.Pack(error_details_pb2.RetryInfo(retry_delay=_duration(fault.retry_delay_s)))
            status.details.append(details)
            context.set_trailing_metadata(
                (("grpc-status-details-bin", status.SerializeToString()),)
            )
        context.abort(code, fault.message)

    def _refuse(self, method: str, context: _Context, error: ApiError) -> NoReturn:
        self.stats.failed(method, error.code)
        context.abort(grpc.StatusCode[error.code], error.message)


def serve(service: ReadService) -> tuple[grpc.Server, int]:
    """Starts the service on a free loopback port, and tells which."""
    server = grpc.server(
        ThreadPoolExecutor(_THREADS, thread_name_prefix="read"),
        options=[
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.so_reuseport", 0),
        ],
    )
    handlers = {
        "CreateReadSession": grpc.unary_unary_rpc_method_handler(
            service.create_read_session,
            request_deserializer=types.CreateReadSessionRequest.deserialize,
            response_serializer=types.ReadSession.serialize,
        ),
        "ReadRows": grpc.unary_stream_rpc_method_handler(
            service.read_rows, request_deserializer=types.ReadRowsRequest.deserialize
        ),
        "SplitReadStream": grpc.unary_unary_rpc_method_handler(
            service.split_read_stream,
            request_deserializer=types.SplitReadStreamRequest.deserialize,
            response_serializer=types.SplitReadStreamResponse.serialize,
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def _table_ref(name: str) -> TableRef:
    parts = name.split("/")
    if len(parts) != 6 or parts[::2] != ["projects", "datasets", "tables"]:
        raise invalid(f"request failed: invalid table name: '{name}'")
    return TableRef(parts[1], parts[3], parts[5])


def _snapshot_ms(wanted: types.ReadSession) -> int | None:
    if "snapshot_time" not in wanted.table_modifiers:
        return None
    # proto-plus hands out a datetime with nanoseconds for what is declared a Timestamp.
    moment: Any = wanted.table_modifiers.snapshot_time
    return int(moment.timestamp() * 1000 + 1e-3)


def _version_at(table: Table, time_ms: int | None) -> Version:
    if time_ms is not None and time_ms > now_ms() + 1_000:
        raise invalid("request failed: Snapshot timestamp cannot be in the future")
    try:
        return table.at(time_ms)
    except ApiError as error:
        raise invalid(f"request failed: {error.message}") from error


def _wants_lz4_responses(options: types.ReadSession.TableReadOptions) -> bool:
    codecs = types.ReadSession.TableReadOptions.ResponseCompressionCodec
    wanted = options.response_compression_codec == codecs.RESPONSE_COMPRESSION_CODEC_LZ4
    if wanted and int(options.arrow_serialization_options.buffer_compression):
        raise invalid(
            "request failed: response_compression_codec and buffer_compression exclude each other"
        )
    return bool(wanted)


def _scanned(version: Version, path: str) -> int:
    names = {name.lower(): name for name in version.rows.column_names}
    return version.size_of((names[path.lower().split(".")[0]],))


def _answer(
    wanted: types.ReadSession, session: Session, version: Version, scanned: int
) -> types.ReadSession:
    rows = version.rows.num_rows
    return types.ReadSession(
        name=session.name,
        expire_time=datetime.fromtimestamp(session.expires_s, UTC),
        data_format=types.DataFormat.ARROW,
        arrow_schema={"serialized_schema": session.schema_bytes},
        table=wanted.table,
        table_modifiers=wanted.table_modifiers,
        read_options=wanted.read_options,
        streams=[types.ReadStream(name=stream.name) for stream in session.streams],
        estimated_total_bytes_scanned=scanned,
        estimated_total_physical_file_size=scanned // 4,
        estimated_row_count=rows + rows // 50 + 1 if rows else 0,  # inexact, as documented
        trace_id=wanted.trace_id,
    )


def _duration(seconds: float) -> duration_pb2.Duration:
    whole = int(seconds)
    return duration_pb2.Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))
