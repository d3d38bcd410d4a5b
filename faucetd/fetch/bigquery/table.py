"""BigQuery as a source: reads what `opening` has decided to read.

A **ticket** is all that another process needs to read the same rows. It names either

- a read session: its streams are the source's streams, and a position is an offset of one; or
- a table whose rows were dealt to chunks: each chunk is a stream, read by a session of its own, and
  sorted, so that it has the same rows in the same order whenever it is read.

Where reading of a stream stops, its connection stays open, with what has come and was not asked for
(a **cursor**). A read that begins exactly there goes on with it, any other opens the stream anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from faucetd.errors import SourceReadError
from faucetd.fetch.bigquery import sql
from faucetd.fetch.bigquery.connection import Connection
from faucetd.fetch.bigquery.session import ReadSession, create_session, narrowest
from faucetd.fetch.bigquery.settings import BigQuerySettings
from faucetd.fetch.bigquery.stream import ByteBudget, StreamReader
from faucetd.fetch.fingerprint import row_fingerprints
from faucetd.fetch.flat import FlatSchema, Projection, batch_rows, joined, no_such_column
from faucetd.fetch.pieces import UNKNOWN, Piece, Stream
from faucetd.fetch.source import Column, Fetched

BUFFER_BYTES = 64 << 20
"""What all streams of a source may have received ahead of being read."""

JOINED_ROWS = 8_192
"""Messages of fewer rows are joined: what a batch costs apart from its rows is about what copying
so many rows costs, and a message of the service may have a tenth of them."""

CHUNK_STREAMS = 4
"""Streams of the session that reads one chunk of a chunked table."""


class Ticket(msgspec.Struct, frozen=True):
    """What to read, for any process.

    Attributes:
        resource: What it is called in messages: the table or query.
        snapshot: Identifies the rows and, of a session, the way they are dealt to its streams.
        schema: All leaves of the table or query, flat, as a serialized Arrow schema.
        fields: Those of them that are read.
        has_buckets: Whether the rows have the column `sql.BUCKET`, beside `fields`.
        session: The session to read; None where there are chunks.
        chunk_table: The table of chunks, "project.dataset.table".
        chunk_rows: The rows of each chunk of it, by number.
    """

    resource: str
    snapshot: str
    schema: bytes
    fields: tuple[str, ...]
    has_buckets: bool = False
    session: ReadSession | None = None
    chunk_table: str = ""
    chunk_rows: dict[int, int] = {}

    def written(self) -> str:
        """As text, for messages and journals."""
        return msgspec.json.encode(self).decode()


def read_ticket(written: str) -> Ticket:
    """The inverse of `Ticket.written`."""
    return msgspec.json.decode(written, type=Ticket)


def flat_schema(columns: Sequence[Column]) -> bytes:
    """Columns as a `Ticket` has them."""
    fields = [pa.field(column.name, column.type) for column in columns]
    return pa.schema(fields).serialize().to_pybytes()


class BigQueryTable:
    """The rows that a ticket names (fetch.source.Source).

    Args:
        connection: The clients; closed with the source.
        settings: How to read.
        ticket: What to read.
    """

    interleaves = True

    def __init__(self, connection: Connection, settings: BigQuerySettings, ticket: Ticket) -> None:
        self._connection = connection
        self._settings = settings
        self._ticket = ticket
        self._budget = ByteBudget(BUFFER_BYTES)
        self._cursors: dict[str, _Cursor] = {}
        self._schema: FlatSchema | None = None
        if ticket.session is not None and ticket.session.schema:
            self._schema = _session_schema(ticket.session, ticket.resource)
        self.snapshot = ticket.snapshot

    def columns(self) -> Sequence[Column]:
        """All leaf columns, and the buckets where a query has added them."""
        schema = pa.ipc.read_schema(pa.py_buffer(self._ticket.schema))
        columns = {field.name: Column(field.name, field.type) for field in schema}
        if self._ticket.has_buckets:
            columns[sql.BUCKET] = Column(sql.BUCKET, pa.int64())
        if self._schema is not None:  # what really comes
            columns |= {leaf.name: leaf.column for leaf in self._schema.leaves}
        return list(columns.values())

    def streams(self) -> Sequence[Stream]:
        """The session's streams, of which only reading tells the length; or the chunks."""
        if (session := self._ticket.session) is None:
            return [Stream(str(n), 0, rows, rows) for n, rows in self._ticket.chunk_rows.items()]
        share = session.estimated_rows // max(len(session.streams), 1)
        return [Stream(str(n), 0, UNKNOWN, share) for n in range(len(session.streams))]

    def count(self, piece: Piece) -> int:
        """The exact number of rows in `piece`; of a session's streams, by reading them."""
        if self._ticket.session is None:
            return piece.stop - piece.start
        rows = 0
        cursor = self._take_cursor(piece, piece.start)
        try:
            while rows < piece.stop - piece.start:
                batch = cursor.next(piece.stop - piece.start - rows)
                if batch is None:
                    break
                rows += batch.num_rows
        finally:
            cursor.close()
        return rows

    def read(
        self, piece: Piece, columns: Sequence[str], position: int | None = None
    ) -> Iterator[Fetched]:
        """The rows of `piece` from `position` on; see `Source.read`."""
        known = [column.name for column in self.columns()]
        for name in columns:
            if name not in known:
                raise no_such_column(name, known, self._ticket.resource)
        start = piece.start if position is None else position
        if self._ticket.session is None:
            return self._read_chunk(int(piece.stream), start, piece.stop, columns)
        return self._read_stream(piece, start, columns)

    def stop(self) -> None:
        """Ends all calls; the clients stay open."""
        for cursor in self._cursors.values():
            cursor.close()
        self._cursors.clear()

    def close(self) -> None:
        """Ends all calls and closes the clients."""
        self.stop()
        self._connection.close()

    def _read_stream(self, piece: Piece, start: int, columns: Sequence[str]) -> Iterator[Fetched]:
        assert self._schema is not None, "a session with streams has a schema"
        leaves = self._schema.select(columns)
        at_most, projection = batch_rows(leaves), Projection(leaves)
        cursor = self._take_cursor(piece, start)
        try:
            while (left := piece.stop - cursor.position) > 0:
                batches = cursor.next_some(min(left, at_most))
                if not batches:
                    break
                yield Fetched(projection.apply(joined(batches)), cursor.position)
        except GeneratorExit:
            self._cursors[piece.stream] = cursor  # whoever goes on from here may have it
            raise
        except BaseException:
            cursor.close()
            raise
        self._cursors[piece.stream] = cursor

    def _take_cursor(self, piece: Piece, start: int) -> _Cursor:
        """The stream's own, if it stands at `start`, else a new one; while reading, it is mine."""
        cursor = self._cursors.pop(piece.stream, None)
        # A chunk that is made again is followed by any other one: nothing is read ahead of its end.
        limit = None if piece.open or piece.stop == UNKNOWN else piece.stop
        if cursor is not None and cursor.position == start:
            cursor.want(limit)
            return cursor
        if cursor is not None:
            cursor.close()
        session = self._ticket.session
        assert session is not None, "only sessions have streams"
        return _Cursor(
            StreamReader(
                self._connection,
                self._settings,
                session,
                session.streams[int(piece.stream)],
                start,
                self._budget,
                limit=limit,
            )
        )

    def _read_chunk(
        self, chunk: int, start: int, stop: int, columns: Sequence[str]
    ) -> Iterator[Fetched]:
        rows = self._chunk(chunk)
        expected = self._ticket.chunk_rows[chunk]
        if rows.num_rows != expected:
            raise SourceReadError(
                f"chunk {chunk} of {self._ticket.chunk_table} has {rows.num_rows:,} rows, though "
                f"BigQuery counted {expected:,}; drop the dataset and open it again"
            )
        selected = rows.select(list(columns)).slice(start, stop - start)
        schema = FlatSchema(selected.schema, self._ticket.chunk_table)
        position = start
        for batch in selected.to_batches(max_chunksize=batch_rows(schema.leaves)):
            position += batch.num_rows
            yield Fetched(batch, position)

    def _chunk(self, chunk: int) -> pa.Table:
        """All rows of a chunk, in an order that follows from the rows alone."""
        fields = list(self._ticket.fields)
        if self._ticket.has_buckets:
            fields.append(sql.BUCKET)
        session = create_session(
            self._connection,
            self._settings,
            table=self._ticket.chunk_table,
            columns=narrowest(fields, fields),  # the table has no others, but for the chunk
            row_restriction=sql.chunk_filter(chunk),
            max_streams=CHUNK_STREAMS,
        )
        if not session.streams:
            return pa.table({field: pa.array([], pa.int64()) for field in fields})
        leaves = _session_schema(session, self._ticket.chunk_table).select(fields)
        readers = [
            StreamReader(self._connection, self._settings, session, name, 0, self._budget)
            for name in session.streams
        ]
        batches, projection = [], Projection(leaves)
        try:
            for reader in readers:
                while (got := reader.next()) is not None:
                    batches.append(projection.apply(got[0]))
        finally:
            for reader in readers:
                reader.close()
        schema = pa.schema([pa.field(leaf.name, leaf.type) for leaf in leaves])
        rows = pa.Table.from_batches(batches, schema).combine_chunks()
        return rows.take(_order(rows))


def _order(rows: pa.Table) -> pa.Array[Any]:
    """The order of rows by their values; lists, which Arrow does not compare, by a hash of them."""
    keys = {}
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        if pa.types.is_nested(column.type):
            hashed = [
                row_fingerprints(pa.RecordBatch.from_arrays([chunk], [name]))
                for chunk in column.chunks
            ]
            column = pa.chunked_array([pa.array(each) for each in hashed], pa.uint64())
        keys[name] = column
    return pc.sort_indices(pa.table(keys), sort_keys=[(name, "ascending") for name in keys])


class _Cursor:
    """A stream that is open somewhere, and what has come of it and was not read yet."""

    def __init__(self, reader: StreamReader) -> None:
        self._reader = reader
        self._rest: pa.RecordBatch | None = None
        self.position = reader.position
        self._ended = False

    def want(self, limit: int | None) -> None:
        """Rows are wanted up to this position."""
        self._reader.want(limit)

    def next(self, at_most: int) -> pa.RecordBatch | None:
        """The next rows, one or more, at most as many; None at the stream's end."""
        if self._rest is None:
            got = None if self._ended else self._reader.next()
            if got is None:
                self._ended = True
                return None
            self._rest = got[0]
        batch = self._rest.slice(0, at_most)
        rest = self._rest.num_rows - batch.num_rows
        self._rest = self._rest.slice(batch.num_rows) if rest else None
        self.position += batch.num_rows
        return batch

    def next_some(self, at_most: int) -> list[pa.RecordBatch]:
        """The next rows, at most as many: of small messages several; none at the stream's end."""
        batches, rows = [], 0
        while rows < min(at_most, JOINED_ROWS):
            batch = self.next(at_most - rows)
            if batch is None:
                break
            batches.append(batch)
            rows += batch.num_rows
        return batches

    def close(self) -> None:
        self._reader.close()


def _session_schema(session: ReadSession, resource: str) -> FlatSchema:
    return FlatSchema(pa.ipc.read_schema(pa.py_buffer(session.schema)), resource)
