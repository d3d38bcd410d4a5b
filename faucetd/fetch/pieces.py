"""The parts that a table is cut into, as plain data that travels between processes."""

from __future__ import annotations

import msgspec


class Stream(msgspec.Struct, frozen=True):
    """A run of rows in one stable order: a file's row group, a range of rowids, a session's stream.

    `rows` is how many rows lie between positions `start` and `stop`, as far as the source knows
    without reading; for the embedded sources it is exact or, for a table with deleted rows, more.
    """

    id: str
    start: int
    stop: int
    rows: int


class Piece(msgspec.Struct, frozen=True):
    """The part [start, stop) of a stream, in positions."""

    stream: str
    start: int
    stop: int


class PlannedChunk(msgspec.Struct, frozen=True):
    """A chunk whose rows have been counted, exactly."""

    pieces: tuple[Piece, ...]
    lane: int
    train_rows: int
    eval_rows: int
