"""The rows of a stream as ReadRowsResponse messages, in the bytes that go on the wire.

This is what makes the server fast: the large field is written by hand around the record batch, in
one copy, and gRPC is given bytes. Protobuf allows the fields of a message in any order and in
several pieces, so the small ones come from the generated type and are put before it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import pyarrow as pa
from google.cloud.bigquery_storage_v1 import types

from tests.bigquery_server.sessions import Session, Stream

_RECORD_BATCH_FIELD = b"\x22"  # ReadRowsResponse.arrow_record_batch = 4, length-delimited
_SERIALIZED_FIELD = b"\x0a"  # ArrowRecordBatch.serialized_record_batch = 1, length-delimited


class MessageCache:
    """Encoded messages, the least recently used forgotten. Any thread; two may encode the same."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[object, ...], bytes] = OrderedDict()
        self._nbytes = 0

    def get(
        self, session: Session, stream: Stream, offset: int, end: int, budget_bytes: int
    ) -> bytes:
        """Rows [offset, end) of a stream as a message without schema."""
        codecs = (session.compression, session.lz4_responses)
        key = (session.content, stream.start, stream.stop, offset, end, codecs)
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        made = encode(session, stream, offset, end)
        with self._lock:
            if key not in self._kept and len(made) <= budget_bytes:
                self._kept[key] = made
                self._nbytes += len(made)
            while self._nbytes > budget_bytes:
                _, dropped = self._kept.popitem(last=False)
                self._nbytes -= len(dropped)
        return made


def schema_field(session: Session) -> bytes:
    """The schema, as the first message of a call has it besides rows."""
    made = types.ReadRowsResponse(arrow_schema={"serialized_schema": session.schema_bytes})
    return bytes(types.ReadRowsResponse.serialize(made))


def encode(session: Session, stream: Stream, offset: int, end: int) -> bytes:
    """Rows [offset, end) of a stream as a message without schema."""
    batch = _as_batch(session.rows.slice(stream.start + offset, end - offset))
    buffer = _ipc_message(batch, session.compression)
    small = types.ReadRowsResponse(
        row_count=end - offset,
        stats={
            "progress": {
                "at_response_start": offset / stream.rows,
                "at_response_end": end / stream.rows,
            }
        },
    )
    if session.lz4_responses:
        small.uncompressed_byte_size = buffer.size
        buffer = pa.compress(buffer, codec="lz4_raw")
    rows = bytes(types.ArrowRecordBatch.serialize(types.ArrowRecordBatch(row_count=end - offset)))
    serialized = _SERIALIZED_FIELD + _varint(buffer.size)
    inside = len(serialized) + buffer.size + len(rows)
    head = bytes(types.ReadRowsResponse.serialize(small)) + _RECORD_BATCH_FIELD + _varint(inside)
    return b"".join((head, serialized, memoryview(buffer), rows))


def _ipc_message(batch: pa.RecordBatch, compression: Any) -> pa.Buffer:
    """The batch without its schema, in one encapsulated IPC message."""
    if compression is None:
        return batch.serialize()
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    messages = pa.ipc.MessageReader.open_stream(sink.getvalue())
    messages.read_next_message()  # the schema
    return messages.read_next_message().serialize()


def _as_batch(rows: pa.Table) -> pa.RecordBatch:
    batches = rows.to_batches()
    return batches[0] if len(batches) == 1 else rows.combine_chunks().to_batches()[0]


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 0x7F:
        made.append(0x80 | (number & 0x7F))
        number >>= 7
    made.append(number)
    return bytes(made)
