"""A DuckDB table, view or query as a source: streams are ranges of rowids, positions are rowids.

A table's rowids ascend in the table's order and never change while its file does not; those of
deleted rows are missing. DuckDB skips what a range of rowids leaves out, so a piece costs its own
rows and one query, 0.7 to 2 ms. Streams are therefore small, and many: whoever makes chunks of them
can take the rows of one from all over the table.

While a table is open its database cannot be written to (see `connection`); close it when nobody
reads. A view or query locks the database only while it is materialized.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import duckdb
import numpy as np
import pyarrow as pa
from duckdb.func import FunctionNullHandling, PythonUDFType

from faucetd.errors import ColumnError, SourceChanged, SourceError, SourceNotFound, SourceReadError
from faucetd.fetch.connection import (
    MEMORY_LIMIT,
    catalog_name,
    connect,
    identifier,
    literal,
    read_error,
    reading,
)
from faucetd.fetch.files import FileState, snapshot_of
from faucetd.fetch.flat import FlatSchema, Leaf, assemble, batch_rows
from faucetd.fetch.pieces import Piece, Stream
from faucetd.fetch.scratch import TABLE, check_query, materialize, scratch_path
from faucetd.fetch.source import Column, Fetched

_STREAMS = 128
_VECTOR_ROWS = 2_048
_ROW_GROUP_ROWS = 122_880


class DuckDBTable:
    """The rows of one table, view or query of a DuckDB database.

    Args:
        path: The database file.
        table: The name of a table or view, alone, or as `schema.table`; or
        query: one SELECT statement.
        scratch_dir: The folder where views and queries are materialized, for all processes that
            open them.
        memory_limit: What DuckDB may hold, in its own words, as in "256MB".
        snapshot: The snapshot to open; by default what the database holds now. A view or query
            that was materialized at this snapshot opens even if the database has changed since.

    Raises:
        SourceNotFound: there is no such file, or no such table in it.
        SourceForbidden: the daemon's user may not read the file.
        SourceChanged: the database is no longer at `snapshot`.
        SourceReadError: the file is no DuckDB database, it is open for writing elsewhere, or the
            query has an error.
        SpecError: the query is not one SELECT statement.
        ColumnError: two columns have the same dotted name, or one is called rowid.
    """

    def __init__(
        self,
        path: str,
        *,
        scratch_dir: str,
        table: str | None = None,
        query: str | None = None,
        memory_limit: str = MEMORY_LIMIT,
        snapshot: str | None = None,
    ) -> None:
        self._name = f"duckdb:{path}:{table or 'query'}"
        self._memory_limit = memory_limit
        self._connection: duckdb.DuckDBPyConnection | None = None
        self.materialized = False
        if query is not None:
            check_query(query)
        states = database_states(path)
        self.snapshot = snapshot_of(states) if snapshot is None else snapshot
        scratch = scratch_path(scratch_dir, self.snapshot, path, query or f"table {table}")
        if not os.path.exists(scratch) and self.snapshot != snapshot_of(states):
            raise SourceChanged(
                f"{path} has changed since the dataset was opened; "
                "open the dataset again to train on what it holds now"
            )
        try:
            self._open_table(path, states, table, query, scratch)
        except BaseException:
            self.close()
            raise

    @property
    def interleaves(self) -> bool:
        """No: one query at a time is all that a connection needs."""
        return False

    def columns(self) -> Sequence[Column]:
        """All leaf columns, in the table's order."""
        return [leaf.column for leaf in self._schema.leaves]

    def streams(self) -> Sequence[Stream]:
        """Ranges of rowids, equally long; `rows` counts deleted rows too."""
        span = stream_span(self._stop)
        return [
            Stream(str(number), start, min(start + span, self._stop), min(span, self._stop - start))
            for number, start in enumerate(range(0, self._stop, span))
        ]

    def count(self, piece: Piece) -> int:
        """The exact number of rows in `piece`."""
        _check_unchanged(self._states)
        with reading(self._path, f"counting {_range(piece.start, piece.stop)}"):
            counted = self._cursor().execute(
                f"SELECT count(*) FROM {self._relation} WHERE rowid >= ? AND rowid < ?",
                [piece.start, piece.stop],
            )
            return int(counted.fetchall()[0][0])

    def read(
        self, piece: Piece, columns: Sequence[str], position: int | None = None
    ) -> Iterator[Fetched]:
        """The rows of `piece` from `position` on; see `Source.read`."""
        leaves = self._schema.select(columns)
        start = piece.start if position is None else position
        return self._read(start, piece.stop, leaves)

    @property
    def relation(self) -> str:
        """The quoted name of what `query` may select from."""
        return self._relation

    def query(self, sql: str, doing: str) -> pa.Table:
        """The rows of a SELECT of ours over `relation`, at the snapshot.

        Args:
            sql: The statement.
            doing: What it does, for errors.

        Raises:
            SourceChanged: the database has changed.
            SourceReadError: DuckDB could not run it.
        """
        cursor = self._cursor()
        try:
            with reading(self._path, doing):
                found: pa.Table = cursor.sql(sql).to_arrow_table()
        finally:
            cursor.close()
        _check_unchanged(self._states)
        return found

    def expression(self, column: str, alias: str) -> str:
        """A leaf, by its dotted path, of the relation called `alias`."""
        (leaf,) = self._schema.select([column])
        return _expression(leaf, alias)

    def add_function(
        self, name: str, function: Callable[[Any], Any], column: str, result: str
    ) -> None:
        """Lets queries call a function of ours.

        Args:
            name: What it is called; no other one is.
            function: Makes an Arrow array of one, [rows], in which null is for it to deal with.
            column: The leaf that it is a function of, by dotted path.
            result: The type of its result.
        """
        (leaf,) = self._schema.select([column])
        assert self._connection is not None
        with reading(self._path, f"describing {column}"):
            cursor = self._cursor()
            (kind,) = cursor.sql(f"SELECT {_expression(leaf)} FROM {self._relation} LIMIT 0").types
            # Not by a cursor, with whose end the function would be gone, and still be called.
            self._connection.create_function(
                name,
                function,
                [kind],
                result,
                type=PythonUDFType.ARROW,
                null_handling=FunctionNullHandling.SPECIAL,
            )

    def close(self) -> None:
        """Closes the connection, so that others may write to the database."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _read(self, start: int, stop: int, leaves: Sequence[Leaf]) -> Iterator[Fetched]:
        selected = "".join(f", {_expression(leaf)}" for leaf in leaves)
        sql = f"SELECT rowid{selected} FROM {self._relation} WHERE rowid >= ? AND rowid < ?"
        position = start
        batches: pa.RecordBatchReader | None = None
        # A cursor of its own: a second query on the same one would end the first.
        cursor = self._cursor()
        try:
            while True:
                try:
                    if batches is None:
                        relation = cursor.sql(sql, params=[start, stop])
                        batches = relation.to_arrow_reader(batch_rows(leaves))
                    batch = batches.read_next_batch()
                except StopIteration:
                    _check_unchanged(self._states)  # else the end might have come too early
                    return
                except (duckdb.Error, pa.ArrowException, OSError) as error:
                    raise self._failed(position, stop, error) from error
                _check_unchanged(self._states)
                if not batch.num_rows:
                    continue
                rowids = batch.column(0).to_numpy(zero_copy_only=False)
                if rowids[0] < position or np.any(np.diff(rowids) <= 0):
                    # A position would mean nothing then, and rows would be lost or come twice.
                    raise SourceReadError(f"{self._name} gave its rows out of order, at {position}")
                position = int(rowids[-1]) + 1
                yield Fetched(assemble(batch.columns[1:], leaves), position)
        finally:
            cursor.close()

    def _failed(self, position: int, stop: int, error: Exception) -> SourceError:
        """What a failed read means: the database is another one by now, or it is broken."""
        try:
            _check_unchanged(self._states)
        except SourceError as changed:
            return changed
        return read_error(
            self._path, f"reading {_range(position, stop)} of {self._relation}", error
        )

    def _open_table(
        self,
        path: str,
        states: tuple[FileState, ...],
        table: str | None,
        query: str | None,
        scratch: str,
    ) -> None:
        """Opens the table itself, or the scratch file that a view or query is written to."""
        if not os.path.exists(scratch):
            if table is not None:
                self._open(path, states)
                relation, is_view = self._find(path, table)
                if not is_view:
                    self._describe(relation)
                    return
                self.close()
                query = f"SELECT * FROM {relation}"
            assert query is not None
            materialize(path, query, scratch, self._memory_limit)
            _check_unchanged(states)
        self.materialized = True
        self._open(scratch, database_states(scratch))
        self._describe(f"{identifier(catalog_name(scratch))}.main.{TABLE}")

    def _open(self, path: str, states: tuple[FileState, ...]) -> None:
        self._path = path
        self._states = states
        self._connection = connect(path, memory_limit=self._memory_limit)
        # After connecting: what was opened is then known to be what `states` describe.
        _check_unchanged(states)

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        if self._connection is None:
            raise SourceReadError(f"{self._name} was closed, and is read nevertheless")
        return self._connection.cursor()

    def _find(self, path: str, table: str) -> tuple[str, bool]:
        """The quoted full name of a table or view, and whether it is a view."""
        catalog = catalog_name(path)
        with reading(path, "listing its tables"):
            known = self._cursor().execute(
                "SELECT schema_name, table_name, false FROM duckdb_tables()"
                f" WHERE database_name = {literal(catalog)} AND NOT internal UNION ALL "
                "SELECT schema_name, view_name, true FROM duckdb_views()"
                f" WHERE database_name = {literal(catalog)} AND NOT internal ORDER BY ALL"
            )
            rows = cast("list[tuple[str, str, bool]]", known.fetchall())
        wanted = table.lower()  # names of DuckDB are alike whatever their case
        for schema, name, is_view in rows:
            spellings = [f"{schema}.{name}", f"{catalog}.{schema}.{name}"]
            if schema == "main":
                spellings += [name, f"{catalog}.{name}"]
            if wanted in (spelling.lower() for spelling in spellings):
                return ".".join(identifier(part) for part in (catalog, schema, name)), is_view
        names = [name if schema == "main" else f"{schema}.{name}" for schema, name, _ in rows]
        near = difflib.get_close_matches(table, names, n=3)
        if near:
            hint = f"did you mean {' or '.join(near)}?"
        elif names:
            hint = f"it has {', '.join(names[:8])}{', …' if len(names) > 8 else ''}"
        else:
            hint = "it is empty"
        raise SourceNotFound(f"{path} has no table or view {table!r}; {hint}")

    def _describe(self, relation: str) -> None:
        """Learns what the table is made of; `relation` is its quoted name."""
        self._relation = relation
        with reading(self._path, f"describing {relation}"):
            cursor = self._cursor()
            schema = cursor.sql(f"SELECT * FROM {relation} LIMIT 0").to_arrow_reader(1).schema
            if any(field.name.lower() == "rowid" for field in schema):
                raise ColumnError(
                    f"{self._name} has a column called rowid, which hides DuckDB's row numbers; "
                    "rename it, or use a DuckDBSource(query=…) that gives it another name"
                )
            last = cursor.execute(f"SELECT max(rowid) FROM {relation}").fetchall()[0][0]
        self._stop = 0 if last is None else int(last) + 1
        self._schema = FlatSchema(schema, self._name)


def database_states(path: str) -> tuple[FileState, ...]:
    """The state of the database at `path` and of its write-ahead log, which may be missing.

    Raises:
        SourceNotFound: there is no such file.
        SourceForbidden: the daemon's user may not look at it.
    """
    return FileState.of(path), FileState.of(f"{path}.wal", may_be_missing=True)


def stream_span(stop: int) -> int:
    """The rowids of one stream of a table that has `stop` of them.

    About _STREAMS streams a table, of whole vectors, and at most a row group. A table of 2 million
    rows and 41 columns is read at 1.7 million rows/s as 256 streams, at 2.4 to 3.0 as 128, at 3.5
    as 64 and at 3.7 to 4.1 as one; a chunk of a sixteenth of it has rows from 8 places.
    """
    span = -(-stop // _STREAMS)
    return min(max(-(-span // _VECTOR_ROWS) * _VECTOR_ROWS, _VECTOR_ROWS), _ROW_GROUP_ROWS)


def _check_unchanged(states: Sequence[FileState]) -> None:
    for state in states:
        state.check_unchanged()


def _range(start: int, stop: int) -> str:
    return f"rowids {start:,} to {stop:,}"


def _expression(leaf: Leaf, alias: str | None = None) -> str:
    top, *below = leaf.path
    expression = identifier(top) if alias is None else f"{alias}.{identifier(top)}"
    for field in below:
        expression = f"struct_extract({expression}, {literal(field)})"
    return expression
