"""A block's columns taken apart into tensors, and put together again of their copies.

Text stays in the host's memory, where it is decoded when it is asked for; its bytes are copied, so
that it keeps no segment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from faucet_client.batch import Block
from faucet_client.mapping import Columns, Ragged, TextColumn

Tensors: TypeAlias = dict[tuple[str, str], torch.Tensor]
"""Tensors by what they are, and the column's name."""


@dataclass(frozen=True, eq=False)
class PlacedRagged(Ragged):
    """Lists of ids on a device, whose rows are found without asking the device where they lie.

    Attributes:
        values: As everywhere.
        offsets: int64 [n + 1], counted from where `bounds` begin.
        bounds: The same in the host's memory.
    """

    bounds: torch.Tensor

    def rows(self, first: int, stop: int) -> Ragged:
        """Rows [first, stop): the values are a view, and the offsets begin with 0."""
        before, start, end = (int(self.bounds[row]) for row in (0, first, stop))
        values = self.values[start - before : end - before]
        return Ragged(values, self.offsets[first : stop + 1] - start)


def taken_apart(columns: Columns, first: int, stop: int) -> Tensors:
    """Rows [first, stop) of all columns but text: views."""
    rows = slice(first, stop)
    found: Tensors = {("features", ""): columns.features[rows]}
    for name, label in columns.labels.items():
        found["label", name] = label[rows]
    if columns.weights is not None:
        found["weights", ""] = columns.weights[rows]
    for name, ids in columns.ids.items():
        found["ids", name] = ids[rows]
    for name, lists in columns.ragged.items():
        start, end = (int(lists.offsets[row]) for row in (first, stop))
        found["values", name] = lists.values[start:end]
        found["offsets", name] = lists.offsets[first : stop + 1]
    for name, column in columns.passthrough.items():
        if isinstance(column, torch.Tensor):
            found["passthrough", name] = column[rows]
    for name, valid in columns.valid.items():
        found["valid", name] = valid[rows]
    return found


def put_together(columns: Columns, first: int, stop: int, tensors: Tensors) -> Columns:
    """What `taken_apart` took apart, of other tensors, with rows [first, stop) of the text."""
    placed = Columns(
        stop - first,
        tensors["features", ""],
        weights=tensors.get(("weights", "")),
        valid_names=columns.valid_names,
    )
    placed.labels.update(_named("label", tensors))
    placed.ids.update(_named("ids", tensors))
    placed.valid.update(_named("valid", tensors))
    for name, lists in columns.ragged.items():
        placed.ragged[name] = PlacedRagged(
            tensors["values", name],
            tensors["offsets", name],
            lists.offsets[first : stop + 1].clone(),
        )
    for name, column in columns.passthrough.items():  # in their order
        if isinstance(column, torch.Tensor):
            placed.passthrough[name] = tensors["passthrough", name]
        else:
            placed.passthrough[name] = _text(column, first, stop)
    return placed


def parted(block: Block, nbytes: int) -> Iterator[Block]:
    """The same batches, in blocks of about `nbytes`, and of one batch at least."""
    columns, size = block.columns, block.size
    whole = sum(tensor.nbytes for tensor in taken_apart(columns, 0, columns.rows).values())
    batch_nbytes = max(whole * size // max(columns.rows, 1), 1)
    batches = max(nbytes // batch_nbytes, 1)
    for number in range(0, block.batches, batches):
        first = block.first_row + number * size
        stop = min(first + batches * size, block.stop_row)
        place = block.epoch, block.first_number + number, block.batches_per_epoch
        yield Block(columns, (first, stop), size, place)


def _named(kind: str, tensors: Mapping[tuple[str, str], torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for (of_kind, name), tensor in tensors.items() if of_kind == kind}


def _text(
    column: TextColumn | NDArray[np.object_], first: int, stop: int
) -> TextColumn | NDArray[np.object_]:
    if not isinstance(column, TextColumn):
        return column[first:stop]
    offsets = column.offsets[first : stop + 1]
    return TextColumn(
        offsets - offsets[0],
        column.data[offsets[0] : offsets[-1]].copy(),
        None if column.valid is None else column.valid[first:stop].clone(),
    )
