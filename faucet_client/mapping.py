"""Segments as tensors: maps sealed memory privately, and notices when nobody uses it any more.

Invariants:

- Each mapping has exactly one root buffer. Every tensor, view, detached or autograd-saved alias
  keeps it alive, whatever the user does with them; when it dies, once and for all, the mapping is
  buried (session.py): unmapped, and its lease released. Who alone has the columns may do so before
  (`unmap`).
- The finalizer runs in any thread, in the midst of anything, so it takes no lock and waits for
  nobody.
- Memory is mapped copy-on-write: what one process writes no other can see. What only a device
  reads is mapped read-only, and never given to anybody who might write.
"""

from __future__ import annotations

import ctypes
import difflib
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from faucet_client import _memory
from faucet_client.layout import TEXT, ColumnLayout, Role, SegmentLayout

T = TypeVar("T")


@dataclass(frozen=True)
class TextColumn:
    """A column of UTF-8 text: `offsets` int64 [rows + 1] into `data` uint8; nulls by `valid`."""

    offsets: NDArray[np.int64]
    data: NDArray[np.uint8]
    valid: torch.Tensor | None

    def decode(self, first: int, stop: int) -> NDArray[np.object_]:
        """Rows [first, stop) as an object array of str, with None for null."""
        bounds = self.offsets[first : stop + 1].tolist()
        start = bounds[0]
        data = self.data[start : bounds[-1]].tobytes()
        rows = np.empty(stop - first, dtype=object)
        for row in range(stop - first):
            rows[row] = data[bounds[row] - start : bounds[row + 1] - start].decode()
        if self.valid is not None:
            rows[~self.valid[first:stop].numpy()] = None
        return rows


@dataclass(frozen=True, eq=False)
class Ragged:
    """A list of ids a row: `torch.nn.EmbeddingBag(..., include_last_offset=True)` takes both parts.

        bag(ragged.values, ragged.offsets)

    Attributes:
        values: int64 [m], the ids of all rows, one after another.
        offsets: int64 [n + 1], the first 0: row i has the ids from offsets[i] to offsets[i + 1].
    """

    values: torch.Tensor
    offsets: torch.Tensor

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.offsets) - 1

    def rows(self, first: int, stop: int) -> Ragged:
        """Rows [first, stop): the values are a view, and the offsets begin with 0."""
        offsets = self.offsets[first : stop + 1]
        start, end = int(offsets[0]), int(offsets[-1])
        return Ragged(self.values[start:end], offsets - start if start else offsets)


def joined(parts: Sequence[Ragged]) -> Ragged:
    """The rows of all parts, of which there is at least one, in memory of their own."""
    offsets, start = [parts[0].offsets[:1]], 0
    for part in parts:
        offsets.append(part.offsets[1:] + start)
        start += len(part.values)
    return Ragged(torch.cat([part.values for part in parts]), torch.cat(offsets))


@dataclass
class Columns:
    """Columns of the same rows: a whole segment, or rows that were copied out of some.

    Attributes:
        features: float32 [rows, F].
        labels: float32 [rows, 1] each.
        weights: float32 [rows], or None.
        ids: int64 [rows] each, of categorical features.
        ragged: Lists of ids, [rows] each, of categorical features of lists.
        passthrough: [rows] each; text as a TextColumn, or an object array where it was copied.
        valid: bool [rows] for labels, weights and passthrough columns with nulls among the rows.
        mapping: Ends the mapping that they lie in; None for a copy.
        page_locked: Whether they lie in memory that a device can read by itself.
    """

    rows: int
    features: torch.Tensor
    labels: dict[str, torch.Tensor] = field(default_factory=dict)
    weights: torch.Tensor | None = None
    ids: dict[str, torch.Tensor] = field(default_factory=dict)
    ragged: dict[str, Ragged] = field(default_factory=dict)
    passthrough: dict[str, torch.Tensor | TextColumn | NDArray[np.object_]] = field(
        default_factory=dict
    )
    valid: dict[str, torch.Tensor] = field(default_factory=dict)
    valid_names: tuple[str, ...] = ()
    mapping: weakref.finalize[..., Any] | None = None
    page_locked: bool = False

    @property
    def mapped(self) -> bool:
        """Whether they lie in a segment."""
        return self.mapping is not None

    def unmap(self) -> None:
        """Ends the mapping at once; only for who alone has the columns, and reads them no more."""
        if self.mapping is not None:
            self.mapping()

    def tensor(self, name: str) -> torch.Tensor:
        """A passthrough column that is no text, [rows]."""
        column = self.passthrough[name]
        assert isinstance(column, torch.Tensor)
        return column

    def text(self, name: str, first: int, stop: int) -> NDArray[np.object_]:
        """Rows [first, stop) of a text column."""
        column = self.passthrough[name]
        if isinstance(column, TextColumn):
            return column.decode(first, stop)
        assert isinstance(column, np.ndarray)
        return column[first:stop]

    def valid_rows(self, name: str, first: int, stop: int) -> torch.Tensor:
        """Bool [stop - first]: where the source had a value for `name`."""
        if name in self.valid:
            return self.valid[name][first:stop]
        if name not in self.valid_names:
            raise KeyError(name)
        return torch.ones(stop - first, dtype=torch.bool, device=self.features.device)


def map_segment(
    fd: int,
    layout: SegmentLayout,
    on_dead: Callable[[int, int], None],
    locks: _memory.Locks | None = None,
) -> Columns:
    """Maps a segment, copy-on-write; or, for a device, read-only.

    Args:
        fd: The sealed memory. Stays the caller's.
        layout: Where its columns lie.
        on_dead: Called with address and bytes of the mapping when the last tensor over it is gone,
            or by `Columns.unmap`; from any thread, in the midst of anything. The mapping is then
            its own to unmap. It must not hold on to the columns.
        locks: For a device: page-locks it, if that can be. `on_dead` must see to `unlock`.

    Raises:
        OSError: the memory cannot be mapped.
    """
    mapped = _memory.map_private if locks is None else _memory.map_read_only
    address = mapped(fd, layout.nbytes)
    buffer = _memory_of(layout.nbytes).from_address(address)
    finalizer = weakref.finalize(buffer, on_dead, address, layout.nbytes)
    finalizer.atexit = False  # the daemon sees the process end
    columns = Columns(layout.rows, torch.empty(layout.rows, 0), mapping=finalizer)
    names: list[str] = []
    for column in layout.columns:
        _add_column(columns, column, layout.rows, buffer)
        if column.role not in (Role.FEATURES, Role.IDS, Role.RAGGED):
            names.append(column.name)
    columns.valid_names = tuple(names)
    columns.page_locked = locks is not None and locks.lock(address, layout.nbytes)
    return columns


@lru_cache(maxsize=16)
def _memory_of(nbytes: int) -> type[ctypes.Array[ctypes.c_char]]:
    """The type of so many bytes, which would take 13 µs to make each time."""
    return ctypes.c_char * nbytes


def _add_column(columns: Columns, column: ColumnLayout, rows: int, buffer: Any) -> None:
    valid = None
    if column.valid_offset is not None:
        valid = _tensor(buffer, "bool", (rows,), column.valid_offset)
        columns.valid[column.name] = valid
    if column.dtype == TEXT:
        columns.passthrough[column.name] = TextColumn(
            _array(buffer, "int64", (rows + 1,), column.offset),
            _array(buffer, "uint8", (column.text_nbytes,), column.text_offset),
            valid,
        )
    elif column.role is Role.FEATURES:
        columns.features = _tensor(buffer, column.dtype, (rows, column.width), column.offset)
    elif column.role is Role.LABEL:
        columns.labels[column.name] = _tensor(buffer, column.dtype, (rows, 1), column.offset)
    elif column.role is Role.IDS:
        columns.ids[column.name] = _tensor(buffer, column.dtype, (rows,), column.offset)
    elif column.role is Role.RAGGED:
        count = column.text_nbytes // np.dtype(column.dtype).itemsize
        columns.ragged[column.name] = Ragged(
            values=_tensor(buffer, column.dtype, (count,), column.text_offset),
            offsets=_tensor(buffer, "int64", (rows + 1,), column.offset),
        )
    elif column.role is Role.WEIGHT:
        columns.weights = _tensor(buffer, column.dtype, (rows,), column.offset)
    else:
        columns.passthrough[column.name] = _tensor(buffer, column.dtype, (rows,), column.offset)


def _array(buffer: Any, dtype: str, shape: tuple[int, ...], offset: int) -> NDArray[Any]:
    # Each array stands on the buffer itself: a torch view of a view is slower to make.
    return np.ndarray(shape, dtype, buffer=buffer, offset=offset)


def _tensor(buffer: Any, dtype: str, shape: tuple[int, ...], offset: int) -> torch.Tensor:
    return torch.from_numpy(_array(buffer, dtype, shape, offset))


Piece = tuple[Columns, int, int]
"""Rows [first, stop) of some columns."""


def _concatenated(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """As torch.cat, but by the calling thread alone.

    torch wakes all its threads for a few hundred KiB, and they spin for a while: that took three
    times the processor time of all else.
    """
    if parts[0].device.type != "cpu":
        return torch.cat(list(parts))
    whole = parts[0].new_empty((sum(map(len, parts)), *parts[0].shape[1:]))
    np.concatenate([part.numpy() for part in parts], out=whole.numpy())
    return whole


def copy_rows(pieces: Sequence[Piece]) -> Columns:
    """The rows of all pieces, in order, in memory of their own."""
    first = pieces[0][0]
    copied = Columns(
        sum(stop - start for _, start, stop in pieces),
        _concatenated([columns.features[start:stop] for columns, start, stop in pieces]),
        valid_names=first.valid_names,
    )
    for name in first.labels:
        copied.labels[name] = _concatenated([c.labels[name][a:b] for c, a, b in pieces])
    if first.weights is not None:
        copied.weights = _concatenated(
            [c.weights[a:b] for c, a, b in pieces if c.weights is not None]
        )
    for name in first.ids:
        copied.ids[name] = _concatenated([c.ids[name][a:b] for c, a, b in pieces])
    for name in first.ragged:
        copied.ragged[name] = joined([c.ragged[name].rows(a, b) for c, a, b in pieces])
    for name, column in first.passthrough.items():
        if isinstance(column, torch.Tensor):
            copied.passthrough[name] = _concatenated([c.tensor(name)[a:b] for c, a, b in pieces])
        else:
            copied.passthrough[name] = np.concatenate([c.text(name, a, b) for c, a, b in pieces])
    for name in {name for columns, _, _ in pieces for name in columns.valid}:
        copied.valid[name] = _concatenated([c.valid_rows(name, a, b) for c, a, b in pieces])
    return copied


class NoSuchName(KeyError):
    """A name that one of a batch's mappings has not.

    It is a KeyError, since `in` and `get` of a mapping stand on that; its text is made when it is
    read, since they only drop it.
    """

    def __init__(self, where: str, name: object, names: Sequence[str]) -> None:
        super().__init__(where, name, names)

    def __str__(self) -> str:
        where, name, names = self.args
        elsewhere = _ELSEWHERE.get(where, "")
        if not names:
            why = elsewhere or "since the DatasetSpec names nothing for it"
            return f"{where} has no {name!r}: it is empty, {why}"
        near = difflib.get_close_matches(str(name), names, n=1)
        listed = ", ".join(repr(one) for one in names[:_LISTED])
        more = f", and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
        meant = f" Did you mean {near[0]!r}?" if near else ""
        hint = f"; {elsewhere}" if elsewhere else ""
        return f"{where} has no {name!r}.{meant} There are {listed}{more}{hint}"


_ELSEWHERE = {
    "batch.ids": "and features that are numbers are columns of batch.features",
    "batch.valid": "and for a feature FitPolicy(missing_flag=True) makes a column that tells",
}
"""What may have been looked for in the wrong mapping, and where that is."""

_LISTED = 50
"""Names that an error lists at most."""


class ColumnViews(Mapping[str, T], Generic[T]):
    """Columns by name, each made when it is asked for, once; `where`: what a batch calls them."""

    __slots__ = ("_made", "_make", "_names", "_where")

    def __init__(self, where: str, names: Sequence[str], make: Callable[[str], T]) -> None:
        self._where = where
        self._names = names
        self._make = make
        self._made: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        made = self._made.get(name)
        if made is None:
            if name not in self._names:
                raise NoSuchName(self._where, name, tuple(self._names))
            made = self._made[name] = self._make(name)
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._names)})"
