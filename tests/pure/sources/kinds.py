"""The kinds of sources that the conformance suite runs over: a new source adds a line to KINDS.

A kind writes a table, given as Arrow data, so that the source shows exactly its rows, in its order.
Of BigQuery that is a promise of the local server, which deals rows to streams in their order, and
of these tables, whose first column rises: chunks are sorted. BigQuery itself has no order.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from faucet_client.spec import BigQuerySource, DuckDBSource, ParquetSource, SplitBuckets
from faucetd.fetch.bigquery import sql
from faucetd.fetch.bigquery.connection import Connection
from faucetd.fetch.bigquery.opening import Look, Needs, begin
from faucetd.fetch.bigquery.settings import BigQuerySettings
from faucetd.fetch.bigquery.table import BigQueryTable, Ticket, flat_schema, read_ticket
from faucetd.fetch.dealt import DealtTable
from faucetd.fetch.flat import FlatSchema, project
from faucetd.fetch.manifest import DealtStream, Manifest, read_manifest
from faucetd.fetch.opening import FileDescription, open_files
from faucetd.fetch.pieces import UNKNOWN, Piece, Stream
from faucetd.fetch.source import Source
from tests.bigquery_server.local import LocalBigQuery

Row = tuple[Any, ...]

PARTS = 3
"""Files, streams and chunks of a table that is read in parts."""


@dataclass(frozen=True)
class Chunked:
    """A table of BigQuery whose rows were dealt to chunks, and the rows of each."""

    table: str
    chunk_rows: dict[int, int]


@dataclass(frozen=True)
class DealtRows:
    """Rows that were dealt to a folder."""

    folder: Path


Description = FileDescription | BigQuerySource | Chunked | DealtRows


@dataclass(frozen=True)
class Place:
    """A folder to write tables in, and one for the sources' own files; or a server of BigQuery.

    Attributes:
        start_server: The server, which is started when it is first asked for.
        dataset: Where its tables are.
        tickets: Of the tables of BigQuery that were opened here, by snapshot.
    """

    folder: Path
    scratch: Path
    start_server: Callable[[], LocalBigQuery]
    dataset: str = field(default_factory=lambda: f"p.d{uuid.uuid4().hex}")
    tickets: dict[str, str] = field(default_factory=dict)

    def open(self, description: Description, snapshot: str | None = None) -> Source:
        if isinstance(description, FileDescription):
            return open_files(
                description,
                scratch_dir=str(self.scratch),
                allowed_roots=[str(self.folder)],
                snapshot=snapshot,
            )
        if isinstance(description, DealtRows):
            manifest = read_manifest(description.folder)
            assert manifest is not None
            return DealtTable(description.folder, manifest)
        server = self.start_server()
        settings = BigQuerySettings(
            project="p",
            credentials="anonymous",
            api_endpoint=server.rest,
            storage_endpoint=server.grpc,
            storage_insecure=True,
            max_streams=PARTS,
        )
        connection = Connection(settings)
        try:
            if snapshot is None:
                ticket = _ticket(connection, settings, description)
                self.tickets[ticket.snapshot] = ticket.written()
            else:  # as by another process
                ticket = read_ticket(self.tickets[snapshot])
        except BaseException:
            connection.close()
            raise
        return BigQueryTable(connection, settings, ticket)

    def files_read(self, kind: Kind) -> list[Path]:
        """The files that an open source of this kind really reads."""
        files = (self.scratch if kind.reads_a_copy else self.folder).iterdir()
        return sorted(file for file in files if file.is_file())


@dataclass(frozen=True)
class Kind:
    """One kind of source.

    Attributes:
        write: Writes the table to the place, replacing what an earlier call wrote there.
        reads_a_copy: The source reads a copy of its own, or the rows of its moment, which survive
            a change of the original.
        is_file: It reads files of this machine; else a warehouse, with types of its own.
    """

    name: str
    write: Callable[[Place, pa.Table], Description]
    reads_a_copy: bool = False
    is_file: bool = True

    def __str__(self) -> str:
        return self.name

    def shown(self, kind: pa.DataType) -> pa.DataType:
        """The type that a column has there: BigQuery has one of integers, and one of fractions."""
        if self.is_file:
            return kind
        wide = pa.int64() if pa.types.is_integer(kind) else kind
        return pa.float64() if pa.types.is_floating(kind) else wide


def stop_of(source: Source, stream: Stream) -> int:
    """Where a stream ends, if need be by reading it."""
    if stream.stop != UNKNOWN:
        return stream.stop
    return stream.start + source.count(Piece(stream.id, stream.start, stream.stop))


def whole(source: Source) -> list[Piece]:
    return [Piece(stream.id, stream.start, stream.stop) for stream in source.streams()]


def first_with_rows(source: Source) -> Piece:
    """The first stream that has a row; those of deleted rows have none."""
    return next(piece for piece in whole(source) if source.count(piece))


def rows_of(source: Source, pieces: Iterable[Piece], columns: Sequence[str]) -> list[Row]:
    return [
        row
        for piece in pieces
        for fetched in source.read(piece, columns)
        for row in tuples(fetched.batch)
    ]


def tuples(batch: pa.RecordBatch | pa.Table) -> list[Row]:
    columns = [column.to_pylist() for column in batch.columns]
    return list(zip(*columns, strict=True))


def _parquet_file(place: Place, table: pa.Table) -> FileDescription:
    path = place.folder / "table.parquet"
    part = place.folder / "table.part"
    pq.write_table(table, part, write_page_checksum=True)
    part.replace(path)
    return ParquetSource(str(path))


def _parquet_files(place: Place, table: pa.Table) -> FileDescription:
    third = -(-table.num_rows // PARTS)
    for number in range(PARTS):
        part = place.folder / f"{number}.part"
        piece = table.slice(number * third, third)
        # 211 divides nothing: row groups and files end anywhere.
        size = max(211, table.num_rows // 40)
        pq.write_table(piece, part, row_group_size=size, write_page_checksum=True)
        part.replace(place.folder / f"{number}.parquet")
    return ParquetSource(str(place.folder))


def _duckdb(place: Place, table: pa.Table, *statements: str) -> str:
    path = place.folder / "data base.duckdb"
    part = place.folder / "part"
    with duckdb.connect(str(part), config={"threads": 1}) as connection:
        connection.register("given", table)
        for statement in statements:
            connection.execute(statement)
        connection.unregister("given")
    part.replace(path)
    return str(path)


def _duckdb_table(place: Place, table: pa.Table) -> FileDescription:
    return DuckDBSource(_duckdb(place, table, "CREATE TABLE t AS FROM given"), table="t")


def _duckdb_deleted(place: Place, table: pa.Table) -> FileDescription:
    """Rows are deleted before, between and after those that stay."""
    nulls = pa.table({field.name: pa.nulls(3_000, field.type) for field in table.schema})
    twice = [row for row in range(table.num_rows) for _ in range(2)]
    padded = pa.concat_tables([nulls, table.take(pa.array(twice, pa.int64())), nulls])
    stop = 3_000 + 2 * table.num_rows
    path = _duckdb(
        place,
        padded,
        "CREATE TABLE t AS FROM given",
        f"DELETE FROM t WHERE rowid < 3000 OR rowid >= {stop} OR rowid % 2 = 1",
    )
    return DuckDBSource(path, table="main.t")


def _duckdb_view(place: Place, table: pa.Table) -> FileDescription:
    path = _duckdb(
        place, table, "CREATE TABLE t AS FROM given", 'CREATE VIEW "the view" AS SELECT * FROM t'
    )
    return DuckDBSource(path, table="the view")


def _duckdb_query(place: Place, table: pa.Table) -> FileDescription:
    path = _duckdb(place, table, "CREATE TABLE t AS FROM given")
    return DuckDBSource(path, query="SELECT * FROM t WHERE true -- all of it")


def _bigquery_session(place: Place, table: pa.Table) -> Description:
    name = f"{place.dataset}.t"
    place.start_server().load(name, _without_dots(table))
    return BigQuerySource(table=name)


def _bigquery_view(place: Place, table: pa.Table) -> Description:
    name = f"{place.dataset}.v"
    place.start_server().load(f"{place.dataset}.behind", _without_dots(table))
    place.start_server().view(name, f"SELECT * FROM `{place.dataset}.behind`")
    return BigQuerySource(table=name)


def _bigquery_chunks(place: Place, table: pa.Table) -> Description:
    """As a query with `chunks` writes it: backwards here, since it need not keep any order.

    Rows that follow each other share a chunk, so that chunks are in the table's order.
    """
    # What was written is never written to again.
    name = f"{place.dataset}.c{uuid.uuid4().hex}"
    chunks = [row * PARTS // table.num_rows for row in range(table.num_rows)]
    dealt = _without_dots(table).append_column(sql.CHUNK, pa.array(chunks, pa.int64()))
    place.start_server().load(name, dealt.take(pa.array(range(len(chunks))[::-1], pa.int64())))
    return Chunked(name, {chunk: chunks.count(chunk) for chunk in sorted(set(chunks))})


def _without_dots(table: pa.Table) -> pa.Table:
    """A column `a.b`, which BigQuery does not know, as the field b of a STRUCT a."""
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        above, _, below = name.rpartition(".")
        combined = column.combine_chunks()
        columns[above or below] = (
            pa.StructArray.from_arrays([combined], [below]) if above else combined
        )
    return pa.table(columns)


def _ticket(
    connection: Connection, settings: BigQuerySettings, description: BigQuerySource | Chunked
) -> Ticket:
    if isinstance(description, Chunked):
        look = Look(connection, settings, BigQuerySource(table=description.table))
        columns = [column for column in look.columns if column.name != sql.CHUNK]
        return Ticket(
            resource=description.table,
            snapshot=description.table,
            schema=flat_schema(columns),
            fields=tuple(column.name for column in columns),
            chunk_table=description.table,
            chunk_rows=description.chunk_rows,
        )
    look = Look(connection, settings, description)
    needs = Needs(
        columns=tuple(column.name for column in look.columns),
        hash_column=None,
        buckets=SplitBuckets(1_000, 1_000, 1_000),
        chunking="arrival",
        chunk_rows=lambda rows: rows,
        too_large=lambda _: False,
        streams=PARTS,
    )
    return begin(look, needs).ticket


def _dealt_rows(place: Place, table: pa.Table) -> Description:
    """As dealing writes them: streams of small messages, here of rows that follow each other."""
    # What was dealt is never written to again.
    folder = place.folder / f"dealt-{uuid.uuid4().hex}"
    folder.mkdir()
    leaves = FlatSchema(table.schema, "t").leaves
    schema = pa.schema([(leaf.name, leaf.type) for leaf in leaves])
    streams = []
    third = max(-(-table.num_rows // PARTS), 1)
    for start in range(0, table.num_rows, third):
        part = table.slice(start, third)
        name = f"{start}.arrows"
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, schema) as out:
            for batch in part.to_batches(max_chunksize=211):
                out.write_batch(project(batch, leaves))
        streams.append(DealtStream(name, part.num_rows, 0, 0, ""))
    Manifest(
        content=folder.name,
        schema=schema.serialize().to_pybytes(),
        fields=tuple(schema.names),
        has_buckets=False,
        source_rows=table.num_rows,
        source_bytes=0,
        states=(),
        streams=tuple(streams),
    ).write(folder)
    return DealtRows(folder)


FILE_KINDS = (
    Kind("parquet-file", _parquet_file),
    Kind("parquet-files", _parquet_files),
    Kind("duckdb-table", _duckdb_table),
    Kind("duckdb-table-with-deleted-rows", _duckdb_deleted),
    Kind("duckdb-view", _duckdb_view, reads_a_copy=True),
    Kind("duckdb-query", _duckdb_query, reads_a_copy=True),
)

KINDS = (
    *FILE_KINDS,
    Kind("dealt-rows", _dealt_rows, reads_a_copy=True),
    Kind("bigquery-session", _bigquery_session, reads_a_copy=True, is_file=False),
    Kind("bigquery-view", _bigquery_view, reads_a_copy=True, is_file=False),
    Kind("bigquery-chunks", _bigquery_chunks, reads_a_copy=True, is_file=False),
)
