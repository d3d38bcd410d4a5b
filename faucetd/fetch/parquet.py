"""Parquet files as a source: each row group is a stream, and a position is a row of it.

A column of a row group can only be decoded from its start. So a table keeps the decoder of the last
read where it stopped (a **cursor**), and a read that begins exactly there goes on with it: a row
group that is read in consecutive pieces is decoded once. Any other read decodes, and throws away,
the rows before its position.

What one read holds: a batch, and for each column a page and a read buffer. Row groups may be of any
size; they are never held whole.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq

from faucetd.errors import SourceError, SourceNotFound, SourceReadError
from faucetd.fetch.files import FileState, forbidden, snapshot_of
from faucetd.fetch.flat import FlatSchema, Leaf, Projection, batch_rows
from faucetd.fetch.pieces import Piece, Stream
from faucetd.fetch.source import Column, Fetched

_READ_BUFFERS_BYTES = 16 << 20
_MAX_READ_BUFFER_BYTES = 256 << 10
_MIN_READ_BUFFER_BYTES = 8 << 10


class ParquetTable:
    """One table of one or more Parquet files with equal columns.

    Args:
        path: A file, a folder (its `*.parquet`, not those in folders below) or a glob pattern, in
            which `**` stands for any folders below.
        files: The files that `path` stands for, if the caller has listed them already.

    Raises:
        SourceNotFound: there is no such file, or no Parquet file in the folder.
        SourceForbidden: the daemon's user may not read a file.
        SourceReadError: a file is not Parquet, or its columns are not those of the first file.
        ColumnError: two columns have the same dotted name.
    """

    def __init__(self, path: str, files: Sequence[str] | None = None) -> None:
        listed = parquet_files(path) if files is None else list(files)
        self._files = [FileState.of(file) for file in listed]
        self._read_buffer_bytes = _MAX_READ_BUFFER_BYTES
        self._opened: tuple[int, pq.ParquetFile] | None = None
        self._cursor: tuple[_Place, _Cursor] | None = None
        self._streams: list[Stream] = []
        schema: FlatSchema | None = None
        for number, state in enumerate(self._files):
            file = self._open(number)
            found = FlatSchema(file.schema_arrow, f"parquet:{state.path}")
            schema = schema or FlatSchema(file.schema_arrow, f"parquet:{path}")
            _check_agreement(self._files[0].path, schema, state.path, found)
            for group in range(file.metadata.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if rows:
                    self._streams.append(Stream(f"{number}:{group}", 0, rows, rows))
        if schema is None:
            raise no_parquet(path)
        self._rows = {stream.id: stream.rows for stream in self._streams}
        self._schema = schema
        self._read_buffer_bytes = _read_buffer_bytes(len(schema.leaves))
        self._opened = None  # it has a larger buffer for each column than a wide table may have
        self.snapshot = snapshot_of(self._files)

    @property
    def interleaves(self) -> bool:
        """No: a row group is decoded once if it is read from its start to its end."""
        return False

    def columns(self) -> Sequence[Column]:
        """All leaf columns, in the order of the first file."""
        return [leaf.column for leaf in self._schema.leaves]

    def streams(self) -> Sequence[Stream]:
        """The row groups that have rows; the id is `file:group`, both counted from 0."""
        return self._streams

    def count(self, piece: Piece) -> int:
        """The rows of `piece`, which are its positions."""
        return piece.stop - piece.start

    def read(
        self, piece: Piece, columns: Sequence[str], position: int | None = None
    ) -> Iterator[Fetched]:
        """The rows of `piece` from `position` on; see `Source.read`."""
        leaves = self._schema.select(columns)
        start = piece.start if position is None else position
        return self._read(_Place(piece.stream, start, tuple(columns)), piece.stop, leaves)

    def close(self) -> None:
        """Lets go of the open file and the cursor."""
        self._cursor = None
        self._opened = None

    def _read(self, place: _Place, stop: int, leaves: Sequence[Leaf]) -> Iterator[Fetched]:
        if place.position >= stop:
            return
        number, group = (int(part) for part in place.stream.split(":"))
        state = self._files[number]
        cursor = self._take_kept(place) or _Cursor(self._open(number), group, leaves)
        try:
            cursor.skip(place.position - cursor.position)
            while cursor.position < stop:
                batch = cursor.take(stop - cursor.position)
                state.check_unchanged()
                yield Fetched(batch, cursor.position)
        except (OSError, pa.ArrowException) as error:
            raise _read_error(
                state, f"row group {group}, from row {cursor.position:,}", error
            ) from error
        except GeneratorExit:  # whoever reads has had enough, and may go on from here later
            self._keep(place, cursor)
            raise
        self._keep(place, cursor)

    def _take_kept(self, place: _Place) -> _Cursor | None:
        """The kept cursor, if it stands there. If not it is dropped, with the memory it holds."""
        kept, self._cursor = self._cursor, None
        return kept[1] if kept is not None and kept[0] == place else None

    def _keep(self, place: _Place, cursor: _Cursor) -> None:
        """Keeps a cursor that nobody uses any more; one in use must never be found here."""
        if cursor.position < self._rows[place.stream]:
            self._cursor = (replace(place, position=cursor.position), cursor)

    def _open(self, number: int) -> pq.ParquetFile:
        """The file, opened and still the one whose state is known; the last one is kept open."""
        if self._opened is not None and self._opened[0] == number:
            return self._opened[1]
        state = self._files[number]
        self._opened = None
        try:
            file = pq.ParquetFile(
                state.path,
                pre_buffer=False,
                page_checksum_verification=True,
                buffer_size=self._read_buffer_bytes,
            )
        except PermissionError:
            raise forbidden(state.path) from None
        except (OSError, pa.ArrowException) as error:
            raise _read_error(state, "its footer", error) from error
        state.check_unchanged()
        self._opened = (number, file)
        return file


def parquet_files(path: str) -> list[str]:
    """The files that a `ParquetSource.path` stands for, sorted.

    A path that exists is itself, though it may hold characters of a pattern. Files whose names
    start with a dot are left out of folders and patterns: writers hide unfinished files so.

    Raises:
        SourceNotFound: there is no such file, or no Parquet file in the folder.
        SourceForbidden: the daemon's user may not list the folder.
    """
    try:
        if os.path.isdir(path):
            names = os.listdir(path)
            found = [
                os.path.join(path, name)
                for name in names
                if name.endswith(".parquet") and not name.startswith(".")
            ]
        elif glob.has_magic(path) and not os.path.lexists(path):
            found = glob.glob(path, recursive=True)
        else:
            return [FileState.of(path).path]
    except PermissionError:
        raise forbidden(path) from None
    files = sorted(file for file in found if os.path.isfile(file))
    if not files:
        raise no_parquet(path)
    return files


def no_parquet(path: str) -> SourceNotFound:
    """The error for a folder or a pattern without a single Parquet file."""
    if os.path.isdir(path):
        return SourceNotFound(
            f"the folder {path} holds no *.parquet file; folders below it are searched only by a "
            f"pattern, as in {os.path.join(path, '**', '*.parquet')}"
        )
    return SourceNotFound(f"no file matches the pattern {path}")


def _read_buffer_bytes(columns: int) -> int:
    """The read buffer of one column, so that those of all stay below _READ_BUFFERS_BYTES."""
    share = _READ_BUFFERS_BYTES // max(columns, 1)
    return max(_MIN_READ_BUFFER_BYTES, min(share, _MAX_READ_BUFFER_BYTES))


@dataclass(frozen=True)
class _Place:
    """Where a read stands, and what it reads."""

    stream: str
    position: int
    columns: tuple[str, ...]


class _Cursor:
    """Decodes one row group from its first row on; `position` is the next row it gives."""

    def __init__(self, file: pq.ParquetFile, group: int, leaves: Sequence[Leaf]) -> None:
        self.position = 0
        self._projection = Projection(leaves)
        self._batches = file.iter_batches(
            batch_rows(leaves),
            row_groups=[group],
            columns=[leaf.name for leaf in leaves],
            use_threads=False,
        )
        self._rest: pa.RecordBatch | None = None

    def take(self, rows: int) -> pa.RecordBatch:
        """The next rows: at most `rows`, at least one."""
        batch = self._rest
        while batch is None or batch.num_rows == 0:
            try:
                batch = self._projection.apply(next(self._batches))
            except StopIteration:
                # The footer promised more rows than the pages hold.
                raise pa.ArrowInvalid(f"the row group ends at row {self.position:,}") from None
        self._rest = batch.slice(rows) if batch.num_rows > rows else None
        taken = batch.slice(0, rows)
        self.position += taken.num_rows
        return taken

    def skip(self, rows: int) -> None:
        """Throws the next `rows` rows away."""
        stop = self.position + rows
        while self.position < stop:
            self.take(stop - self.position)


def _check_agreement(first: str, schema: FlatSchema, path: str, found: FlatSchema) -> None:
    here = {leaf.name: leaf.type for leaf in found.leaves}
    there = {leaf.name: leaf.type for leaf in schema.leaves}
    for name in (*there, *here):
        if name not in here:
            problem = f"has no column {name!r}, which {first} has"
        elif name not in there:
            problem = f"has a column {name!r}, which {first} has not"
        elif here[name] != there[name]:
            problem = f"has {name!r} as {here[name]}, but {first} has it as {there[name]}"
        else:
            continue
        raise SourceReadError(
            f"{path} {problem}; the files of one table must have equal columns: leave the file "
            "out, or write it again with the columns of the others"
        )


def _read_error(state: FileState, part: str, error: Exception) -> SourceError:
    """What a failed read means: the file is another one by now, or it is broken."""
    try:
        state.check_unchanged()
    except SourceError as changed:
        return changed
    return SourceReadError(f"{state.path} cannot be read as Parquet ({part}): {error}")
