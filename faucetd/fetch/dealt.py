"""Dealt rows as a source: the streams of a folder that `deal` has filled.

The rows are a copy, so that what is open stays what it is, whatever becomes of the files that they
came from. A position is a row of a stream.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from faucet_client.spec import SplitBuckets
from faucetd.errors import SourceReadError, SpecError
from faucetd.fetch.bigquery import sql
from faucetd.fetch.dealing import DIGEST, Dealer
from faucetd.fetch.files import FileState
from faucetd.fetch.flat import FlatSchema, batch_rows, joined
from faucetd.fetch.manifest import PART, Manifest
from faucetd.fetch.pieces import Piece, Stream
from faucetd.fetch.source import Column, Fetched, Source
from faucetd.fetch.split import Splitter, buckets_of, no_split, split_of

BUCKET = sql.BUCKET
"""The column of the split's buckets, int64, instead of the hash column: it is shorter than most."""


class DealtTable:
    """The rows of a folder (fetch.source.Source).

    Args:
        folder: Where they are.
        manifest: The folder's own.
    """

    interleaves = False

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder = folder
        self._manifest = manifest
        self._streams = {str(number): stream for number, stream in enumerate(manifest.streams)}
        self.snapshot = manifest.content

    def columns(self) -> Sequence[Column]:
        """All leaf columns of the table that was dealt, and the buckets."""
        schema = pa.ipc.read_schema(pa.py_buffer(self._manifest.schema))
        columns = [Column(field.name, field.type) for field in schema]
        return [*columns, Column(BUCKET, pa.int64())] if self._manifest.has_buckets else columns

    def streams(self) -> Sequence[Stream]:
        """The files, in order."""
        return [Stream(name, 0, stream.rows, stream.rows) for name, stream in self._streams.items()]

    def count(self, piece: Piece) -> int:
        """The rows of `piece`, which are its positions."""
        return piece.stop - piece.start

    def read(
        self, piece: Piece, columns: Sequence[str], position: int | None = None
    ) -> Iterator[Fetched]:
        """The rows of `piece` from `position` on; see `Source.read`."""
        schema = pa.schema([(column.name, column.type) for column in self.columns()])
        leaves = FlatSchema(schema, f"the dealt rows in {self._folder}").select(columns)
        start = piece.start if position is None else position
        return self._read(piece.stream, start, piece.stop, list(columns), batch_rows(leaves))

    def close(self) -> None:
        """Nothing is kept open."""

    def _read(
        self, stream: str, start: int, stop: int, columns: list[str], at_most: int
    ) -> Iterator[Fetched]:
        path = self._folder / self._streams[stream].name
        position = start
        try:
            with pa.OSFile(str(path), "rb") as file:
                for batch in _rejoined(_span(pa.ipc.open_stream(file), start, stop), at_most):
                    position += batch.num_rows
                    yield Fetched(batch.select(columns), position)
        except (OSError, pa.ArrowException, KeyError) as error:
            raise _unreadable(path, error) from error
        if position < stop:
            raise _unreadable(path, f"it ends at row {position:,}, and should have {stop:,}")


@dataclass(frozen=True)
class Deal:
    """What to deal.

    Attributes:
        source: Where the rows are.
        columns: The leaves that are kept.
        hash_column: What decides the split; None if there is none.
        buckets: Which rows are of which split; those of none are left out.
        states: The files of the source.
        streams: To how many streams, of so many rows.
        nbytes: What all rows take, roughly.
    """

    source: Source
    columns: tuple[str, ...]
    hash_column: str | None
    buckets: SplitBuckets
    states: tuple[FileState, ...]
    streams: Callable[[int], int]
    nbytes: int


@dataclass(frozen=True)
class Told:
    """Who is told of a dealing; what they raise ends it.

    Attributes:
        read: How many rows of the source have been read.
        dealt: How many rows have come to their streams.
        written: Files have grown.
    """

    read: Callable[[int], None] = lambda _: None
    dealt: Callable[[int], None] = lambda _: None
    written: Callable[[], None] = lambda: None


def deal(what: Deal, folder: Path, told: Told) -> Manifest:
    """Deals a table into a folder, which appears when it is whole.

    Args:
        what: To be dealt.
        folder: Does not exist; what an earlier dealing left unfinished of it is removed.
        told: Of how it goes.

    Raises:
        ColumnError: the hash column has no text to hash.
        SpecError: a column is in the way of ours.
        SourceChanged, SourceReadError: see `Source.read`.
        OSError: the disk is full, or fails.
    """
    part = folder.with_name(folder.name + PART)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(mode=0o700, parents=True)
    try:
        manifest = _deal_into(part, what, told)
        manifest.write(part)
        part.replace(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return manifest


def _deal_into(folder: Path, what: Deal, told: Told) -> Manifest:
    source, columns = what.source, what.columns
    known = {column.name: column for column in source.columns()}
    for name in (BUCKET, DIGEST):
        if name in known:
            raise SpecError(f"a column called {name} is in the way of ours; rename it")
    fields = [(name, known[name].type) for name in columns]
    if what.hash_column is not None:
        Splitter(known[what.hash_column], what.buckets)  # refuses what it cannot hash
        fields.append((BUCKET, pa.int64()))
    schema = pa.schema(fields)
    read = list(dict.fromkeys([*columns, *_listed(what.hash_column)]))
    dealer = Dealer(folder, schema, what.nbytes, told.written)
    rows_read = bytes_read = 0
    for stream in source.streams():
        for fetched in source.read(Piece(stream.id, stream.start, stream.stop), read):
            batch = fetched.batch
            dealer.add(*_with_buckets(batch, schema, what))
            rows_read += batch.num_rows
            bytes_read += batch.nbytes
            told.read(rows_read)

    def is_eval(rows: pa.RecordBatch) -> npt.NDArray[np.bool_]:
        if what.hash_column is None:
            return np.zeros(rows.num_rows, np.bool_)
        found: npt.NDArray[np.bool_] = rows.column(BUCKET).to_numpy() >= what.buckets.train_end
        return found

    dealt = dealer.finish(what.streams, is_eval, told.dealt)
    return Manifest(
        content=dealt.content,
        schema=pa.schema([(c.name, c.type) for c in known.values()]).serialize().to_pybytes(),
        fields=columns,
        has_buckets=what.hash_column is not None,
        source_rows=rows_read,
        source_bytes=bytes_read,
        states=what.states,
        streams=dealt.streams,
    )


def _with_buckets(
    batch: pa.RecordBatch, schema: pa.Schema, what: Deal
) -> tuple[pa.RecordBatch, pa.RecordBatch, npt.NDArray[np.int8]]:
    """The rows to keep, of the schema; what their digests are of; and their splits."""
    if what.hash_column is None:
        return batch, batch, no_split(batch.num_rows)
    buckets = buckets_of(batch.column(what.hash_column), what.buckets.buckets)
    codes = split_of(buckets, what.buckets)
    arrays = [batch.column(name) for name in what.columns]
    kept = pa.RecordBatch.from_arrays([*arrays, pa.array(buckets)], schema=schema)
    return kept, batch, codes


def _listed(name: str | None) -> list[str]:
    return [] if name is None else [name]


def _span(batches: Iterable[pa.RecordBatch], start: int, stop: int) -> Iterator[pa.RecordBatch]:
    """The rows from `start` to `stop` of batches that follow each other."""
    first = 0
    for batch in batches:
        if first >= stop:
            return
        low, high = max(start - first, 0), min(stop - first, batch.num_rows)
        if low < high:
            yield batch.slice(low, high - low)
        first += batch.num_rows


def _rejoined(batches: Iterable[pa.RecordBatch], at_most: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of so many, but for the last: appends make small ones."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        while rows + batch.num_rows >= at_most:
            missing = at_most - rows
            yield joined([*waiting, batch.slice(0, missing)])
            batch = batch.slice(missing)
            waiting, rows = [], 0
        if batch.num_rows:
            waiting.append(batch)
            rows += batch.num_rows
    if waiting:
        yield joined(waiting)


def _unreadable(path: Path, why: object) -> SourceReadError:
    return SourceReadError(
        f"the dealt rows in {path} cannot be read: {why}; drop the dataset (faucetd drop) and open "
        "it again, which deals them anew"
    )
