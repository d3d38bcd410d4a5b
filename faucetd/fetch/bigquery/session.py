"""Read sessions: a table's rows as of one moment, dealt to streams that can be read in parallel.

A session is plain data once it is made. Whoever has it can read its streams, in any process, until
it expires: six hours after it was made, whether it is used or not.
https://cloud.google.com/bigquery/docs/reference/storage
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
from google.api_core import exceptions as api
from google.cloud.bigquery_storage_v1.types import (
    ArrowSerializationOptions,
    CreateReadSessionRequest,
    DataFormat,
)
from google.cloud.bigquery_storage_v1.types import ReadSession as SessionMessage
from google.protobuf.timestamp_pb2 import Timestamp

from faucetd.errors import SpecError
from faucetd.fetch.bigquery.connection import Connection
from faucetd.fetch.bigquery.faults import (
    FOREIGN,
    Patience,
    Retry,
    classify,
    explain,
    is_authentication,
    is_blocked,
)
from faucetd.fetch.bigquery.settings import BigQuerySettings

T = TypeVar("T")

_MAX_STREAMS = 1_000  # the service's own limit
_LIFETIME_S = 6 * 3_600.0
_CODECS = {
    "none": ArrowSerializationOptions.CompressionCodec.COMPRESSION_UNSPECIFIED,
    "lz4": ArrowSerializationOptions.CompressionCodec.LZ4_FRAME,
    "zstd": ArrowSerializationOptions.CompressionCodec.ZSTD,
}

# INVALID_ARGUMENT is also the answer to columns that do not exist. These words are from public
# reports of refused filters: spark-bigquery-connector #197, #268, #345 and #514.
_ABOUT_FILTER = re.compile(r"filter|row.?restriction|predicate|too complex", re.IGNORECASE)


class ReadSession(msgspec.Struct, frozen=True):
    """A read session of the service, as data that travels between processes and into journals.

    Attributes:
        name: The service's name for it.
        streams: Names of its streams; none if there are no rows to read. One may be empty.
        schema: The Arrow schema of its rows, serialized; columns in the table's order.
        table: "project.dataset.table".
        estimated_rows: Roughly how many rows there are, before the filter.
        estimated_bytes: Roughly what reading all of it is billed for.
        created_at: Seconds since 1970 by this machine's clock.
        lifetime_s: Seconds from then on for which it can be read.
    """

    name: str
    streams: tuple[str, ...]
    schema: bytes
    table: str
    estimated_rows: int
    estimated_bytes: int
    created_at: float
    lifetime_s: float


def narrowest(wanted: Sequence[str], leaves: Sequence[str]) -> list[str]:
    """The fewest names that select exactly the leaves `wanted`: a STRUCT's own, if all of it is.

    Args:
        wanted: Dotted paths of leaves.
        leaves: Those of all leaves of the table.
    """
    chosen = set(wanted)
    names: dict[str, None] = {}
    for leaf in wanted:
        parts = leaf.split(".")
        above = (".".join(parts[:depth]) for depth in range(1, len(parts)))
        whole = (
            name
            for name in above
            if all(other in chosen for other in leaves if other.startswith(f"{name}."))
        )
        names[next(whole, leaf)] = None
    return list(names)


class FilterRefused(Exception):
    """The service does not take this filter in a session; a query with it may still work."""


def create_session(
    connection: Connection,
    settings: BigQuerySettings,
    *,
    table: str,
    columns: Sequence[str] | None,
    row_restriction: str = "",
    snapshot_ms: int | None = None,
    max_streams: int,
) -> ReadSession:
    """Makes a read session; nothing is billed before its rows are read.

    Args:
        connection: The clients.
        settings: How long to try, and how to compress.
        table: "project.dataset.table". No view, and no external table.
        columns: Dotted paths of the columns, or of leaves of STRUCTs; None for all.
        row_restriction: A filter in SQL, as in "bucket = 3"; "" for none.
        snapshot_ms: The moment, in milliseconds since 1970; None for now.
        max_streams: Streams at most. The service may make fewer.

    Raises:
        FilterRefused: the service does not take `row_restriction`.
        SpecError: `table` or `columns` is not of the form above.
        SourceNotFound, SourceForbidden, SourceChanged, SourceReadError, ConfigError: see `faults`.
    """
    parts = table.rsplit(".", 2)  # a project may have dots: example.com:project
    if len(parts) != 3 or not all(parts):
        raise SpecError(f"{table!r} does not name a table; write project.dataset.table")
    if columns is not None and not columns:
        raise SpecError(f"no column of {table} is to be read; name at least one")
    project, dataset, name = parts
    session = SessionMessage(
        table=f"projects/{project}/datasets/{dataset}/tables/{name}",
        data_format=DataFormat.ARROW,
        read_options=SessionMessage.TableReadOptions(
            selected_fields=list(columns or ()),
            row_restriction=row_restriction,
            arrow_serialization_options=ArrowSerializationOptions(
                buffer_compression=_CODECS[settings.compression]
            ),
        ),
    )
    if snapshot_ms is not None:
        moment = Timestamp()
        moment.FromMilliseconds(snapshot_ms)
        session.table_modifiers = SessionMessage.TableModifiers(snapshot_time=moment)

    def call() -> SessionMessage:
        try:
            return connection.storage.create_read_session(
                request=CreateReadSessionRequest(
                    parent=f"projects/{connection.project}",
                    read_session=session,
                    max_stream_count=max(1, min(max_streams, _MAX_STREAMS)),
                ),
                retry=None,
                timeout=settings.request_timeout_s,
            )
        except api.InvalidArgument as error:
            if row_restriction and _ABOUT_FILTER.search(error.message):
                raise FilterRefused(error.message) from error
            raise

    created_at = time.time()
    made = retrying(
        call, settings, connection, doing=f"creating a read session of {table}", resource=table
    )
    return ReadSession(
        name=made.name,
        streams=tuple(stream.name for stream in made.streams),
        schema=bytes(made.arrow_schema.serialized_schema),
        table=table,
        estimated_rows=made.estimated_row_count,
        estimated_bytes=made.estimated_total_bytes_scanned,
        created_at=created_at,
        lifetime_s=_lifetime_s(made, created_at),
    )


def retrying(
    call: Callable[[], T],
    settings: BigQuerySettings,
    connection: Connection,
    *,
    doing: str,
    resource: str,
    sleep: Callable[[float], object] = time.sleep,
) -> T:
    """The result of `call`, which is made again as long as that is worth while.

    Refused credentials are read anew once. Of a connection with `blocked_s`, what `is_blocked` is
    tried for no longer than that. `call` must take its client from `connection` each time,
    limit its own duration, have the library's retries off, and do no harm when it is made twice.

    Args:
        call: What to do; what it raises that is not of the libraries passes through.
        settings: How long to try.
        connection: Whose credentials are used.
        doing: What is under way, for messages.
        resource: What it is about, for messages.
        sleep: Waits for as many seconds.

    Raises:
        FaucetError: the kind that `faults.explain` finds.
    """
    patience = Patience(settings.retry_deadline_s)
    began = time.monotonic()
    renewed = False
    while True:
        generation = connection.generation
        try:
            return call()
        except FOREIGN as error:
            if is_authentication(error) and not renewed:
                renewed = True
                connection.renew(generation)
                continue
            retry = classify(error)
            if retry is None and isinstance(error, api.DeadlineExceeded):
                retry = Retry()  # the limit of one attempt, which is ours
            delay_s = None if retry is None else patience.failed(retry)
            if delay_s is not None and connection.blocked_s is not None and is_blocked(error):
                left_s = began + connection.blocked_s - time.monotonic()
                delay_s = delay_s if delay_s < left_s else None
            if delay_s is None:
                raise explain(
                    error,
                    doing=doing + patience.story,
                    resource=resource,
                    principal=connection.principal,
                ) from error
        sleep(delay_s)


def _lifetime_s(made: SessionMessage, created_at: float) -> float:
    """By the service's own word, but no longer than it promises: its clock and ours may differ."""
    message = SessionMessage.pb(made)
    if not message.HasField("expire_time"):
        return _LIFETIME_S
    lifetime_s: float = message.expire_time.ToMilliseconds() / 1_000 - created_at
    return min(lifetime_s, _LIFETIME_S) if lifetime_s > 0 else _LIFETIME_S
