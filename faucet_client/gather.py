"""Rows picked out of segments one by one, into memory of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from faucet_client.mapping import Columns, Ragged, TextColumn, joined

Picked = tuple[Columns, torch.Tensor]
"""Some columns, and which rows of them: int64 [n]."""


def gather_rows(pieces: Sequence[Picked], order: torch.Tensor | None = None) -> Columns:
    """The picked rows of all pieces, one piece after another, in memory of their own.

    Args:
        pieces: At least one.
        order: int64 [all rows], which of these rows comes first, and so on; by default as they are.
    """

    def gathered(parts: Sequence[torch.Tensor]) -> torch.Tensor:
        rows = parts[0].new_empty((total, *parts[0].shape[1:]))
        start = 0
        for part, (_, index) in zip(parts, pieces, strict=True):
            torch.index_select(part, 0, index, out=rows[start : start + len(index)])
            start += len(index)
        return rows if order is None else torch.index_select(rows, 0, order)

    total = sum(len(index) for _, index in pieces)
    first = pieces[0][0]
    found = Columns(total, gathered([c.features for c, _ in pieces]), valid_names=first.valid_names)
    for name in first.labels:
        found.labels[name] = gathered([c.labels[name] for c, _ in pieces])
    if first.weights is not None:
        found.weights = gathered([c.weights for c, _ in pieces if c.weights is not None])
    for name in first.ids:
        found.ids[name] = gathered([c.ids[name] for c, _ in pieces])
    for name in first.ragged:
        lists = joined([_picked_lists(c.ragged[name], index) for c, index in pieces])
        found.ragged[name] = lists if order is None else _picked_lists(lists, order)
    for name, column in first.passthrough.items():
        if isinstance(column, torch.Tensor):
            found.passthrough[name] = gathered([c.tensor(name) for c, _ in pieces])
        else:
            texts = np.concatenate([_picked_texts(c, name, index) for c, index in pieces])
            found.passthrough[name] = texts if order is None else texts[order.numpy()]
    for name in {name for columns, _ in pieces for name in columns.valid}:
        found.valid[name] = gathered([c.valid_rows(name, 0, c.rows) for c, _ in pieces])
    return found


def _picked_lists(lists: Ragged, index: torch.Tensor) -> Ragged:
    starts = lists.offsets[index]
    lengths = lists.offsets[index + 1] - starts
    offsets = torch.zeros(len(index) + 1, dtype=torch.int64)
    torch.cumsum(lengths, 0, out=offsets[1:])
    # The place of each element: its row's start, and its number within the row.
    shift = torch.repeat_interleave(starts - offsets[:-1], lengths)
    return Ragged(lists.values[shift + torch.arange(len(shift))], offsets)


def _picked_texts(columns: Columns, name: str, index: torch.Tensor) -> NDArray[np.object_]:
    column = columns.passthrough[name]
    if isinstance(column, TextColumn):
        rows = np.empty(len(index), dtype=object)
        for place, row in enumerate(index.tolist()):
            rows[place] = column.decode(row, row + 1)[0]
        return rows
    assert isinstance(column, np.ndarray)
    copied: NDArray[np.object_] = column[index.numpy()]
    return copied
