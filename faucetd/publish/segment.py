"""Writes one segment: sealed memory that is an Arrow IPC file.

A writer is made for a known number of rows. Columns of fixed width are written in place, through
numpy views; those of variable width, and validity bytes, come with `finish`, which adds Arrow's
headers and footer, cuts the file to its size, and seals it. Where whole huge pages would take
little more memory, that is the file's size, and the footer stands at its end.

Invariants:

- The place of each fixed column is decided at construction, and the finished file has it there, or
  `finish` fails. Arrow's headers come before the values, and are shorter when no validity bytes
  follow; they are then padded to the length foreseen.
- `estimate_nbytes` of the columns is the memory a writer takes before `finish`, and all it takes
  unless text, lists or validity bytes need more; then `before_grow` is called first, and may
  refuse.
- A writer ends by `finish` (the descriptor is the caller's) or by `abort`, which an error within
  `finish` and the end of a `with` block imply. Nothing is left then: no descriptor, no mapping, no
  thread. A view that somebody still holds reads zeros from there on.
- A writer is used by one thread at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from faucet_client import _memory
from faucet_client._memory import HUGE_PAGE_NBYTES, page_rounded
from faucet_client.layout import Role, SegmentLayout
from faucetd.publish.arrow_file import (
    ALIGNMENT,
    ColumnKey,
    FixedColumn,
    Recording,
    array_over,
    fixed_field,
    read_layout,
    valid_field,
    variable_field,
)
from faucetd.publish.pages import WritablePages

_MATRIX_ALIGNMENT = 64
"""A cache line, on which the first column begins; it is meant to be the matrix."""

_LARGEST_WASTE = 16
"""For the sake of whole huge pages a segment may be longer by one part in so many."""

_MAGIC = b"ARROW1"
"""With which an Arrow file ends."""

_EMPTY_NBYTES = 16
"""One row of a column of text or lists: two int64 offsets and nothing in it."""


@dataclass(frozen=True)
class SealedSegment:
    """A finished segment. Whoever has it closes `fd`; the memory lives as long as some descriptor.

    Attributes:
        layout: `layout.nbytes` is the memory it takes, in whole pages; the file itself (`fstat`)
            ends with Arrow's footer, there or a little earlier.
    """

    fd: int
    layout: SegmentLayout


def estimate_nbytes(fixed: Sequence[FixedColumn], variable: Sequence[ColumnKey], rows: int) -> int:
    """The memory that a writer of these columns takes at construction, in bytes, whole pages.

    It suffices for the headers of all that may be appended, but not for appended values: a segment
    without text, lists and nulls never takes more.
    """
    return _Plan.of(fixed, variable, rows).nbytes


class SegmentWriter:
    """A segment in the making.

    Args:
        fixed: The columns of fixed width; the matrix of features first. There may be none.
        variable: The columns of text and of lists that will come with `finish`.
        rows: How many rows, at least 1.

    Raises:
        ValueError: no rows, no column, or two columns of the same role and name.
        OSError: no descriptor or no address space.
    """

    def __init__(
        self, fixed: Sequence[FixedColumn], variable: Sequence[ColumnKey], rows: int
    ) -> None:
        self._fixed = tuple(fixed)
        self._variable = tuple(variable)
        self._rows = rows
        self._plan = _Plan.of(self._fixed, self._variable, rows)
        self._pages = WritablePages(self._plan.nbytes)

    @property
    def fixed_nbytes(self) -> int:
        """The memory taken before `finish`, in bytes: `estimate_nbytes` of the same columns."""
        return self._plan.nbytes

    @property
    def in_huge_pages(self) -> bool:
        """Whether the memory lies in 2 MiB pages, which readers are faster with."""
        self._pages.view()
        return self._pages.in_huge_pages

    def array(self, role: Role, name: str) -> NDArray[Any]:
        """The values of a fixed column, to be written in place; waits for the memory.

        Returns:
            [rows], or for the matrix of features [rows, width], of the column's dtype, zeros at
            first. Not to be used after `finish` or `abort`.

        Raises:
            KeyError: no such column.
            OSError: there is not so much memory.
            ValueError: the writer has ended.
        """
        column = next((c for c in self._fixed if c.key == (role, name)), None)
        if column is None:
            raise KeyError(f"no fixed column {name!r} of role {role.value!r}")
        offset = self._plan.offsets[column.key]
        raw = self._pages.view()[offset : offset + self._rows * column.row_nbytes]
        values = raw.view(column.dtype)
        return values.reshape(self._rows, column.width) if role is Role.FEATURES else values

    def arrays(self) -> dict[ColumnKey, NDArray[Any]]:
        """All fixed columns, each as by `array`."""
        return {column.key: self.array(*column.key) for column in self._fixed}

    def resize(self, rows: int) -> None:
        """Has another number of rows from here on. Nothing may have been written yet.

        The memory is kept if it suffices, so that who does not know the rows yet can have it taken
        for as many as there may be, while it finds out.

        Args:
            rows: At least 1.

        Raises:
            ValueError: no rows, or the writer has ended.
            OSError: no descriptor or no address space.
        """
        if self._pages.fd < 0:
            raise ValueError("the writer has ended")
        self._plan = _Plan.of(self._fixed, self._variable, rows)
        self._rows = rows
        if self._plan.nbytes > self._pages.nbytes:
            self._pages.drop()
            self._pages = WritablePages(self._plan.nbytes)

    def finish(
        self,
        variable: Mapping[ColumnKey, pa.Array[Any]],
        valid: Mapping[ColumnKey, NDArray[np.uint8]],
        before_grow: Callable[[int], None],
    ) -> SealedSegment:
        """Appends what has no fixed width, writes Arrow's headers and footer, and seals.

        Args:
            variable: The values of the columns of text and of lists, [rows], exactly those
                announced. A text that is null becomes empty; no list may be null.
            valid: One byte a row, [rows], for each column that has nulls here.
            before_grow: Called with the bytes, in whole pages, that are about to be taken beyond
                `fixed_nbytes`, if any. What it raises ends the writer, and `finish` raises it.

        Raises:
            ValueError: a column is missing, was not announced, or has another number of rows.
            OSError: there is not so much memory.
        """
        try:
            return self._finish(variable, valid, before_grow)
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Ends the writer and gives all memory back. Idempotent; does nothing after `finish`."""
        self._pages.drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abort()

    def _finish(
        self,
        variable: Mapping[ColumnKey, pa.Array[Any]],
        valid: Mapping[ColumnKey, NDArray[np.uint8]],
        before_grow: Callable[[int], None],
    ) -> SealedSegment:
        self._check(variable, valid)
        self._pages.view()
        first, end = self._pages.address, self._pages.address + self._pages.nbytes
        fields = [
            *map(fixed_field, self._fixed),
            *map(variable_field, self._variable),
            *map(valid_field, valid),
        ]
        arrays: list[pa.Array[Any]] = [
            *(self._in_place(column) for column in self._fixed),
            *(_without_nulls(variable[key]) for key in self._variable),
            *(pa.array(np.ascontiguousarray(flags, np.uint8)) for flags in valid.values()),
        ]
        file = Recording(fields, arrays)
        if padding_nbytes := self._plan.values_offset - file.values_offset:
            file = Recording(fields, arrays, padding_nbytes)
        # Not beyond the memory that is there: after `resize` that may be more than was planned.
        grown_nbytes = page_rounded(file.nbytes) - self._plan.nbytes
        if grown_nbytes > 0:
            before_grow(grown_nbytes)
            _memory.reserve(self._pages.fd, file.nbytes)
        for position, data in file.writes:
            if not first <= data.address < end:
                _write_all(self._pages.fd, data, position)
            elif data.address != first + position:
                raise AssertionError(f"Arrow wants at {position} what is at {data.address - first}")
        end = file.nbytes
        if self._plan.nbytes % HUGE_PAGE_NBYTES == 0 and end < self._plan.nbytes:
            end = self._plan.nbytes
            self._repeat_footer(file.nbytes, end)
        os.ftruncate(self._pages.fd, end)
        layout = read_layout(self._pages.fd)
        return SealedSegment(self._pages.seal(), layout)

    def _repeat_footer(self, nbytes: int, end: int) -> None:
        """Lets a file of `nbytes` end at `end`: readers find all by the footer, which ends it.

        Were the file cut where it ends, the kernel would split the huge page there.
        """
        tail_nbytes = 4 + len(_MAGIC)  # the footer's size, and the magic word
        fd = self._pages.fd
        size = int.from_bytes(os.pread(fd, 4, nbytes - tail_nbytes), "little")
        footer = os.pread(fd, size, nbytes - tail_nbytes - size)
        footer += bytes((end - tail_nbytes - size) % ALIGNMENT)
        tail = footer + len(footer).to_bytes(4, "little") + _MAGIC
        _write_all(fd, pa.py_buffer(tail), end - len(tail))

    def _check(
        self,
        variable: Mapping[ColumnKey, pa.Array[Any]],
        valid: Mapping[ColumnKey, NDArray[np.uint8]],
    ) -> None:
        if variable.keys() != set(self._variable):
            raise ValueError(f"announced were {list(self._variable)}, given {list(variable)}")
        nullable = {key for key in [*(c.key for c in self._fixed), *variable] if _nullable(key)}
        if not valid.keys() <= nullable:
            raise ValueError(f"no validity is kept for {sorted(valid.keys() - nullable)}")
        rows = {key: len(values) for key, values in variable.items()}
        rows |= {key: len(flags) for key, flags in valid.items()}
        if wrong := {key: count for key, count in rows.items() if count != self._rows}:
            raise ValueError(f"expected {self._rows} rows, got {wrong}")

    def _in_place(self, column: FixedColumn) -> pa.Array[Any]:
        place = self._pages.address + self._plan.offsets[column.key]
        values = pa.foreign_buffer(place, self._rows * column.row_nbytes)
        return array_over(fixed_field(column), self._rows, values)


@dataclass(frozen=True)
class _Plan:
    """Where the fixed columns go, and what memory suffices for them with headers and footer."""

    values_offset: int
    offsets: Mapping[ColumnKey, int]
    nbytes: int

    @classmethod
    def of(cls, fixed: Sequence[FixedColumn], variable: Sequence[ColumnKey], rows: int) -> _Plan:
        keys = [*(column.key for column in fixed), *variable]
        if rows < 1 or not keys:
            raise ValueError(f"a segment has rows and columns, not {rows} and {len(keys)}")
        if len(set(keys)) < len(keys):
            raise ValueError(f"two columns have the same role and name: {keys}")
        header_nbytes, footer_nbytes = _frame_nbytes(fixed, variable)
        values_offset = _rounded(header_nbytes, _MATRIX_ALIGNMENT)
        offsets = {}
        position = values_offset
        for column in fixed:
            offsets[column.key] = position
            position = _rounded(position + rows * column.row_nbytes, ALIGNMENT)
        return cls(values_offset, offsets, _in_pages(position + footer_nbytes))


def _frame_nbytes(fixed: Sequence[FixedColumn], variable: Sequence[ColumnKey]) -> tuple[int, int]:
    """The bytes before and after the values, if every column that can have nulls has some.

    A file of one row shows them, since Arrow's headers hold numbers of a fixed size; only a zero
    would be left out, and neither rows nor the values' bytes are ever zero.
    """
    nullable = [key for key in [*(column.key for column in fixed), *variable] if _nullable(key)]
    fields = [
        *map(fixed_field, fixed),
        *map(variable_field, variable),
        *map(valid_field, nullable),
    ]
    row_nbytes = [
        *(column.row_nbytes for column in fixed),
        *(_EMPTY_NBYTES for _ in variable),
        *(1 for _ in nullable),
    ]
    # All over the same zeros; the first column's are written first, which is what is asked for.
    zeros = pa.py_buffer(bytes(max(row_nbytes)))
    sample = Recording(fields, [array_over(field, 1, zeros) for field in fields])
    values_nbytes = sum(_rounded(nbytes, ALIGNMENT) for nbytes in row_nbytes)
    return sample.values_offset, sample.nbytes - sample.values_offset - values_nbytes


def _nullable(key: ColumnKey) -> bool:
    """Whether a column may have validity bytes."""
    return key[0] not in (Role.FEATURES, Role.RAGGED)


def _without_nulls(array: pa.Array[Any]) -> pa.Array[Any]:
    if isinstance(array, pa.LargeStringArray):
        return array.fill_null("")
    if array.null_count:
        raise ValueError("a list of ids is null")
    return array


def _in_pages(nbytes: int) -> int:
    """`nbytes` in whole pages, which are huge ones where that takes little more.

    What lies behind the last whole huge page is mapped by small ones, one by one, each time that a
    trainer gets the segment: of 64 MiB, as much as all the rest.
    """
    huge = _rounded(nbytes, HUGE_PAGE_NBYTES)
    return huge if huge - nbytes <= nbytes // _LARGEST_WASTE else page_rounded(nbytes)


def _rounded(nbytes: int, alignment: int) -> int:
    return -(-nbytes // alignment) * alignment


def _write_all(fd: int, data: pa.Buffer, position: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(fd, rest, position)
        rest, position = rest[written:], position + written
