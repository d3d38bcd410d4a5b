"""Where the columns of a prepared chunk lie in its segment.

The daemon writes a segment in this layout and sends it with each grant, so that the client maps
memory and parses nothing. Offsets are bytes from the start of the segment. All values are
little-endian, rows lie one after another, and columns are 8-byte aligned, the matrix 64-byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Role(Enum):
    """What a column is for."""

    FEATURES = "features"  # float32 [rows, width]; one a segment
    LABEL = "label"  # float32 [rows, 1]
    WEIGHT = "weight"  # float32 [rows]; at most one a segment
    IDS = "ids"  # int64 [rows], of a categorical feature
    RAGGED = "ragged"  # int64, a list of ids a row, of a categorical feature of lists
    PASSTHROUGH = "passthrough"  # its own dtype, [rows]; or text


TEXT = "text"
"""The dtype of a UTF-8 column: int64 offsets [rows + 1] at `offset`, the bytes at `text_offset`."""


@dataclass(frozen=True)
class ColumnLayout:
    """One column of a segment.

    Attributes:
        name: The column's name in the source; "features" for the matrix.
        dtype: A numpy dtype's name ("float32", "int64", "bool", …; a bool is one byte), or TEXT.
        width: Values a row; 1 but for the matrix.
        offset: Bytes from the segment's start to the first value; of lists, as of TEXT, to the
            int64 offsets [rows + 1], which begin with 0 and count elements.
        text_offset: For TEXT and lists, bytes from the segment's start to the first character or
            element.
        text_nbytes: For TEXT and lists, the size of all characters or elements.
        valid_offset: Bytes to one byte a row, 1 where the source had a value and 0 where it had
            null; None where no row of this segment is null (and for the matrix, where null is NaN).
    """

    role: Role
    name: str
    dtype: str
    width: int
    offset: int
    text_offset: int = 0
    text_nbytes: int = 0
    valid_offset: int | None = None


@dataclass(frozen=True)
class SegmentLayout:
    """A whole segment: `rows` rows in `nbytes` bytes."""

    rows: int
    nbytes: int
    columns: tuple[ColumnLayout, ...]
