"""Columns of lists: embeddings, and tags or ids of which each row has some.

Invariant: a null list has no element, so that only `there` tells it from an empty one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faucet_client.errors import ColumnError, SpecError


@dataclass(frozen=True, eq=False)
class Lists:
    """A column of lists: the elements of all rows, one after another, and where each row begins.

    Attributes:
        elements: A column itself, of one value an element, as in `columns.py`.
        offsets: int64 [n + 1], the first 0: row i has the elements from offsets[i] to
            offsets[i + 1].
        there: bool [n], false for null; None where no row is null.
        width: How many elements every row has by its type; None where the type does not say.

    Raises:
        SpecError: the offsets are no such, or a null row has elements.
    """

    elements: Any
    offsets: NDArray[np.int64]
    there: NDArray[np.bool_] | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        offsets, lengths = self.offsets, np.diff(self.offsets)
        if offsets.dtype != np.int64 or offsets.ndim != 1 or not len(offsets):
            raise SpecError(f"offsets must be int64 [n + 1], not {offsets.dtype} {offsets.shape}")
        if offsets[0] or (lengths < 0).any() or offsets[-1] != len(self.elements):
            raise SpecError(
                f"offsets must begin with 0, not fall, and end with {len(self.elements):,}, the "
                "number of elements"
            )
        if self.there is not None and (
            self.there.shape != lengths.shape or lengths[~self.there].any()
        ):
            raise SpecError("`there` must be bool [n], true wherever a row has elements")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """How many elements each row has: int64 [n]."""
        return np.diff(self.offsets)

    @property
    def nulls(self) -> int:
        """How many rows are null."""
        return 0 if self.there is None else int((~self.there).sum())


def holds_lists(column: Any) -> bool:
    """Whether a column is of lists: `Lists`, an array [n, width], or rows that are sequences."""
    if isinstance(column, Lists):
        return True
    if isinstance(column, np.ndarray):
        if column.ndim == 2:
            return True
        if column.ndim != 1 or column.dtype != object:
            return False
    elif not isinstance(column, list | tuple):
        if str(getattr(column, "dtype", "")) != "object":
            return False
        column = np.asarray(column)
    first = next((row for row in column if not _is_null(row)), None)
    return isinstance(first, list | tuple | np.ndarray)


def lists_of(name: str, column: Any) -> Lists:
    """A column of lists, whatever form it is in; one without any value is of empty elements.

    Raises:
        ColumnError: it holds something else.
    """
    if isinstance(column, Lists):
        return column
    if isinstance(column, np.ndarray) and column.ndim == 2:
        rows, width = column.shape
        return Lists(column.reshape(-1), np.arange(rows + 1, dtype=np.int64) * width, None, width)
    rows = list(column)
    if np.ma.isMaskedArray(column):
        masked = np.ma.getmaskarray(column).tolist()
        rows = [None if hidden else row for row, hidden in zip(column.data, masked, strict=True)]
    there = np.fromiter((not _is_null(row) for row in rows), np.bool_, len(rows))
    lengths = np.zeros(len(rows), np.int64)
    flat: list[Any] = []
    for number in np.flatnonzero(there).tolist():
        row = rows[number]
        if not isinstance(row, list | tuple | np.ndarray):
            raise ColumnError(
                f'column "{name}" has {str(row)[:80]!r} of type {type(row).__name__} among its '
                "lists: each row must be a list, a tuple, an array, or None"
            )
        flat.extend(row.tolist() if isinstance(row, np.ndarray) else row)
        lengths[number] = len(row)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return Lists(_elements(name, flat), offsets, None if there.all() else there)


def _elements(name: str, flat: Sequence[Any]) -> Any:
    """Elements as a column: of text as objects, of numbers with a mask."""
    if any(isinstance(each, str) for each in flat):
        texts = np.empty(len(flat), object)
        texts[:] = flat
        return texts
    nulls = np.fromiter((each is None for each in flat), np.bool_, len(flat))
    try:
        values = np.array([0 if each is None else each for each in flat] or np.zeros(0, np.int64))
    except (ValueError, OverflowError):
        values = np.zeros(0, object)
    if len(values) != len(flat) or values.ndim != 1 or values.dtype.kind not in "biuf":
        raise ColumnError(
            f'column "{name}" has lists of something else than numbers or text: make such of it '
            "in the source's query, or leave it out (exclude_features)"
        )
    return np.ma.masked_array(values, nulls) if nulls.any() else values


def _is_null(row: Any) -> bool:
    return row is None or (isinstance(row, float) and row != row)
