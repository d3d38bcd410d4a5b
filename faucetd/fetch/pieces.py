"""The parts that a table is cut into, as plain data that travels between processes."""

from __future__ import annotations

import msgspec

UNKNOWN = 2**62
"""The end of a stream that nobody knows yet: a position that no row has."""


class Stream(msgspec.Struct, frozen=True):
    """A run of rows in one stable order: a file's row group, a range of rowids, a session's stream.

    `rows` is how many rows lie between positions `start` and `stop`, as far as the source knows
    without reading; for the embedded sources it is exact or, for a table with deleted rows, more.
    Where only reading tells how long a stream is, `stop` is UNKNOWN.
    """

    id: str
    start: int
    stop: int
    rows: int


class Piece(msgspec.Struct, frozen=True):
    """The part [start, stop) of a stream, in positions.

    Of an `open` one nobody knows whether the stream has so many rows, and whoever reads it will go
    on after it.
    """

    stream: str
    start: int
    stop: int
    open: bool = False


class PlannedChunk(msgspec.Struct, frozen=True):
    """A chunk of a plan.

    Its rows have been counted, exactly; unless it is `open`: then nobody has read so far, its
    pieces end where it shall end at the latest, and its rows are a guess.
    """

    pieces: tuple[Piece, ...]
    lane: int
    train_rows: int
    eval_rows: int
    open: bool = False
