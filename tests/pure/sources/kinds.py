"""The kinds of sources that the conformance suite runs over: a new source adds a line to KINDS.

A kind writes a table, given as Arrow data, so that the source shows exactly its rows, in its order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from faucet_client.spec import DuckDBSource, ParquetSource
from faucetd.fetch.opening import FileDescription, open_files
from faucetd.fetch.pieces import Piece
from faucetd.fetch.source import Source

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Kind:
    """One kind of source.

    Attributes:
        write: Writes the table into the folder, replacing what an earlier call wrote there.
        reads_a_copy: The source reads a copy of its own, which survives a change of the original.
    """

    name: str
    write: Callable[[Path, pa.Table], FileDescription]
    reads_a_copy: bool = False

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Place:
    """A folder to write tables in, and one for the sources' own files."""

    folder: Path
    scratch: Path

    def open(self, description: FileDescription, snapshot: str | None = None) -> Source:
        return open_files(
            description,
            scratch_dir=str(self.scratch),
            allowed_roots=[str(self.folder)],
            snapshot=snapshot,
        )

    def files_read(self, kind: Kind) -> list[Path]:
        """The files that an open source of this kind really reads."""
        files = (self.scratch if kind.reads_a_copy else self.folder).iterdir()
        return sorted(file for file in files if file.is_file())


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


def _parquet_file(folder: Path, table: pa.Table) -> FileDescription:
    path = folder / "table.parquet"
    part = folder / "table.part"
    pq.write_table(table, part, write_page_checksum=True)
    part.replace(path)
    return ParquetSource(str(path))


def _parquet_files(folder: Path, table: pa.Table) -> FileDescription:
    third = -(-table.num_rows // 3)
    for number in range(3):
        part = folder / f"{number}.part"
        piece = table.slice(number * third, third)
        # 211 divides nothing: row groups and files end anywhere.
        size = max(211, table.num_rows // 40)
        pq.write_table(piece, part, row_group_size=size, write_page_checksum=True)
        part.replace(folder / f"{number}.parquet")
    return ParquetSource(str(folder))


def _duckdb(folder: Path, table: pa.Table, *statements: str) -> str:
    path = folder / "data base.duckdb"
    part = folder / "part"
    with duckdb.connect(str(part), config={"threads": 1}) as connection:
        connection.register("given", table)
        for statement in statements:
            connection.execute(statement)
        connection.unregister("given")
    part.replace(path)
    return str(path)


def _duckdb_table(folder: Path, table: pa.Table) -> FileDescription:
    return DuckDBSource(_duckdb(folder, table, "CREATE TABLE t AS FROM given"), table="t")


def _duckdb_deleted(folder: Path, table: pa.Table) -> FileDescription:
    """Rows are deleted before, between and after those that stay."""
    nulls = pa.table({field.name: pa.nulls(3_000, field.type) for field in table.schema})
    twice = [row for row in range(table.num_rows) for _ in range(2)]
    padded = pa.concat_tables([nulls, table.take(pa.array(twice, pa.int64())), nulls])
    stop = 3_000 + 2 * table.num_rows
    path = _duckdb(
        folder,
        padded,
        "CREATE TABLE t AS FROM given",
        f"DELETE FROM t WHERE rowid < 3000 OR rowid >= {stop} OR rowid % 2 = 1",
    )
    return DuckDBSource(path, table="main.t")


def _duckdb_view(folder: Path, table: pa.Table) -> FileDescription:
    path = _duckdb(
        folder, table, "CREATE TABLE t AS FROM given", 'CREATE VIEW "the view" AS SELECT * FROM t'
    )
    return DuckDBSource(path, table="the view")


def _duckdb_query(folder: Path, table: pa.Table) -> FileDescription:
    path = _duckdb(folder, table, "CREATE TABLE t AS FROM given")
    return DuckDBSource(path, query="SELECT * FROM t WHERE true -- all of it")


KINDS = (
    Kind("parquet-file", _parquet_file),
    Kind("parquet-files", _parquet_files),
    Kind("duckdb-table", _duckdb_table),
    Kind("duckdb-table-with-deleted-rows", _duckdb_deleted),
    Kind("duckdb-view", _duckdb_view, reads_a_copy=True),
    Kind("duckdb-query", _duckdb_query, reads_a_copy=True),
)
