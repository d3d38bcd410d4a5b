"""The interface that every warehouse implements, and the words for what it reads.

A source is opened at one **snapshot**. It shows its columns flat (a leaf of a STRUCT is
`struct.leaf`) and its rows as **streams**: runs of rows, each in one stable order, that together
hold each row exactly once. A **piece** is a range of one stream; it can be read by any process,
as often as needed, and always gives the same rows in the same order, or raises `SourceChanged`.
A **position** is where a reader stands in a piece: reading from it again resumes exactly there.
Positions are the source's own numbers (a row of a file, a rowid, an offset of a stream); only
`rows` counts rows.

A source belongs to the thread that opened it. Several reads of it may be under way at a time; each
keeps its own place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from faucetd.fetch.pieces import Piece, Stream

BATCH_ROWS = 65_536
"""Rows a record batch at most; what a reader holds in memory is a few of these."""

BATCH_BYTES = 32 << 20
"""Bytes that a record batch aims to stay below: of a wide table it has fewer than BATCH_ROWS."""


@dataclass(frozen=True)
class Column:
    """A leaf column, by its dotted path, with its Arrow type."""

    name: str
    type: pa.DataType


@dataclass(frozen=True)
class Fetched:
    """A record batch of at least one row, and the position right after its last row."""

    batch: pa.RecordBatch
    position: int


class Source(Protocol):
    """One table or query at one snapshot, open for reading in this process."""

    @property
    def snapshot(self) -> str:
        """Identifies the rows: sources with equal description and snapshot have equal rows."""
        ...

    @property
    def interleaves(self) -> bool:
        """Whether pieces are best read in turns, each from a connection of its own."""
        ...

    def columns(self) -> Sequence[Column]:
        """All leaf columns, in the table's order."""
        ...

    def streams(self) -> Sequence[Stream]:
        """The streams, in the table's order, none without a position. None for an empty table."""
        ...

    def count(self, piece: Piece) -> int:
        """The exact number of rows in `piece`; cheap, without reading columns.

        Raises:
            SourceChanged: the source is not the snapshot any more.
            SourceReadError: reading failed.
        """
        ...

    def read(
        self, piece: Piece, columns: Sequence[str], position: int | None = None
    ) -> Iterator[Fetched]:
        """The rows of `piece` from `position` on (default: its start), in order.

        Each batch has exactly `columns`, flat and in that order, under their dotted names, and at
        most BATCH_ROWS rows. A null STRUCT makes its leaves null, and a dictionary-encoded column
        comes as its plain values.

        Raises:
            ColumnError: the table has no column of a name in `columns`; raised by the call itself.
            SourceChanged: the source is not the snapshot any more.
            SourceReadError: reading failed; the message names what was being read.
        """
        ...

    def close(self) -> None:
        """Lets go of files and connections. Idempotent. No read may be under way."""
        ...
