"""One mini-batch, and the block of batches whose views are made together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from faucet_client.mapping import Columns, ColumnViews, NoSuchName, Ragged, copy_rows

EAGER_LABELS = 4
"""Labels up to which a block makes those of all its batches at once, whoever asks for which."""


class Block:
    """Batches that lie one after another in the same columns, and what they have in common.

    The views of a column are made for all batches at once, when the first one asks: that is faster
    than slicing batch by batch. What is asked for most often is reached without a call.
    """

    __slots__ = (
        "_split",
        "batches",
        "batches_per_epoch",
        "columns",
        "epoch",
        "feature_views",
        "first_number",
        "first_row",
        "label_views",
        "size",
        "stop_row",
    )

    def __init__(
        self, columns: Columns, rows: tuple[int, int], size: int, place: tuple[int, int, int]
    ) -> None:
        """Rows [first, stop) of `columns`; `place`: epoch, first batch's number, batches."""
        self.columns = columns
        self.first_row, self.stop_row = rows
        self.size = size
        self.batches = -(-(self.stop_row - self.first_row) // size)
        self.epoch, self.first_number, self.batches_per_epoch = place
        self.feature_views: Sequence[torch.Tensor] | None = None
        self.label_views: Sequence[Labels] | None = None
        self._split: dict[tuple[str, str], Sequence[torch.Tensor]] = {}

    def features(self) -> Sequence[torch.Tensor]:
        """The features of each batch."""
        if self.feature_views is None:
            self.feature_views = self._views(self.columns.features)
        return self.feature_views

    def labels(self, index: int) -> Mapping[str, torch.Tensor]:
        """The labels of a batch."""
        columns = self.columns.labels
        if len(columns) > EAGER_LABELS:
            return BlockViews("batch.labels", columns, self, index)
        if self.label_views is None:
            self.label_views = self._labels(columns)
        return self.label_views[index]

    def _labels(self, columns: Mapping[str, torch.Tensor]) -> Sequence[Labels]:
        if not columns:
            return [Labels()] * self.batches
        if len(columns) == 1:  # by far the most frequent, and twice as fast as any number
            ((name, column),) = columns.items()
            return [Labels({name: view}) for view in self._views(column)]
        views = zip(*map(self._views, columns.values()), strict=True)
        return [Labels(zip(columns, each, strict=True)) for each in views]

    def split(self, where: str, name: str, column: torch.Tensor) -> Sequence[torch.Tensor]:
        """The rows of each batch of a column, which `where` and `name` say."""
        views = self._split.get((where, name))
        if views is None:
            views = self._split[where, name] = self._views(column)
        return views

    def _views(self, whole: torch.Tensor) -> Sequence[torch.Tensor]:
        # "Unsafe" is that autograd does not know them as views of `whole`, which has no gradient
        # and which nobody writes to; it takes a sixth of their time off.
        views: Sequence[torch.Tensor] = torch.unsafe_split(
            whole[self.first_row : self.stop_row], self.size
        )
        return views

    def rows(self, index: int) -> tuple[int, int]:
        """The rows [first, stop) of the columns that a batch has."""
        first = self.first_row + index * self.size
        return first, min(first + self.size, self.stop_row)


class Labels(dict[str, torch.Tensor]):
    """The labels of one batch, all made."""

    def __missing__(self, name: str) -> torch.Tensor:
        raise NoSuchName("batch.labels", name, tuple(self)) from None

    def __repr__(self) -> str:
        return f"{{{', '.join(self)}}}"


class BlockViews(Mapping[str, torch.Tensor]):
    """Columns of one batch that are tensors, by name; `where`: what a batch calls them."""

    __slots__ = ("_block", "_columns", "_index", "_where")

    def __init__(
        self, where: str, columns: Mapping[str, torch.Tensor], block: Block, index: int
    ) -> None:
        self._where = where
        self._columns = columns
        self._block = block
        self._index = index

    def __getitem__(self, name: str) -> torch.Tensor:
        try:
            column = self._columns[name]
        except KeyError:
            raise NoSuchName(self._where, name, tuple(self._columns)) from None
        return self._block.split(self._where, name, column)[self._index]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __repr__(self) -> str:
        return f"{{{', '.join(self)}}}"


class PassthroughViews(Mapping[str, torch.Tensor | NDArray[np.object_]]):
    """Passthrough columns of one batch, by name; text is decoded once."""

    __slots__ = ("_block", "_index", "_texts")

    def __init__(self, block: Block, index: int) -> None:
        self._block = block
        self._index = index
        self._texts: dict[str, NDArray[np.object_]] | None = None

    def __getitem__(self, name: str) -> torch.Tensor | NDArray[np.object_]:
        block, columns = self._block, self._block.columns
        column = columns.passthrough.get(name)
        if isinstance(column, torch.Tensor):
            return block.split("batch.passthrough", name, column)[self._index]
        if column is None:
            raise NoSuchName("batch.passthrough", name, tuple(self))
        if self._texts is None:
            self._texts = {}
        if name not in self._texts:
            self._texts[name] = columns.text(name, *block.rows(self._index))
        return self._texts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._block.columns.passthrough)

    def __len__(self) -> int:
        return len(self._block.columns.passthrough)

    def __repr__(self) -> str:
        return f"{{{', '.join(self)}}}"


class Batch:
    """A mini-batch. Its tensors are made when they are first asked for.

    They are views of memory that the daemon shares with other trainers, mapped copy-on-write: an
    in-place operation is safe and changes this process's view alone. A batch that is kept keeps
    its whole chunk in memory; keep a `clone()` instead.
    """

    __slots__ = ("_block", "_index")

    def __init__(self, block: Block, index: int) -> None:
        self._block = block
        self._index = index

    def __len__(self) -> int:
        """Rows of the batch."""
        first, stop = self._block.rows(self._index)
        return stop - first

    def __repr__(self) -> str:
        return f"Batch({len(self)} rows, {self.batch_num} of epoch {self.epoch})"

    @property
    def epoch(self) -> int:
        """The epoch's number."""
        return self._block.epoch

    @property
    def batch_num(self) -> int:
        """The batch's number in its epoch, from 0."""
        return self._block.first_number + self._index

    @property
    def batches_per_epoch(self) -> int:
        """How many batches the epoch has."""
        return self._block.batches_per_epoch

    @property
    def features(self) -> torch.Tensor:
        """float32 [n, F], in the order of `dataset.info.outputs`.

        A null is NaN where features are taken as they are, and never where they are preprocessed.
        """
        block = self._block
        return (block.feature_views or block.features())[self._index]

    @property
    def labels(self) -> Mapping[str, torch.Tensor]:
        """float32 [n, 1] each, by name; null is NaN."""
        views = self._block.label_views
        return self._block.labels(self._index) if views is None else views[self._index]

    @property
    def weights(self) -> torch.Tensor | None:
        """float32 [n], null is NaN; None without a weight column."""
        first, stop = self._block.rows(self._index)
        whole = self._block.columns.weights
        return None if whole is None else whole[first:stop]

    @property
    def ids(self) -> Mapping[str, torch.Tensor]:
        """int64 [n] each, by categorical feature: rows of an embedding.

        0 is a missing value; see `dataset.preprocessing` for the rest, and its `cardinality(name)`
        for how many there are.
        """
        return BlockViews("batch.ids", self._block.columns.ids, self._block, self._index)

    @property
    def ragged(self) -> Mapping[str, Ragged]:
        """A list of ids a row, by categorical feature of lists: bags of an embedding.

            bag = torch.nn.EmbeddingBag(spec.cardinality("tags"), 16, include_last_offset=True)
            bag(batch.ragged["tags"].values, batch.ragged["tags"].offsets)  # float32 [n, 16]

        A null list is empty; ids are as in `ids`.
        """
        columns = self._block.columns
        rows = self._block.rows(self._index)
        return ColumnViews(
            "batch.ragged", tuple(columns.ragged), lambda name: columns.ragged[name].rows(*rows)
        )

    @property
    def passthrough(self) -> Mapping[str, torch.Tensor | NDArray[np.object_]]:
        """[n] each, by name: tensors; text as an object array of str, decoded when asked for."""
        return PassthroughViews(self._block, self._index)

    @property
    def valid(self) -> Mapping[str, torch.Tensor]:
        """Bool [n] each, for labels, weights and passthrough: False where the source had null."""
        columns = self._block.columns
        first, stop = self._block.rows(self._index)
        return ColumnViews(
            "batch.valid",
            columns.valid_names,
            lambda name: columns.valid_rows(name, first, stop),
        )

    def clone(self) -> Batch:
        """The same rows in memory of their own, which keeps no chunk."""
        block = self._block
        return single_batch(
            copy_rows([(block.columns, *block.rows(self._index))]),
            (block.epoch, self.batch_num, block.batches_per_epoch),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickling a view would ship its whole chunk.
        block = self._block
        rows = copy_rows([(block.columns, *block.rows(self._index))])
        return single_batch, (rows, (block.epoch, self.batch_num, block.batches_per_epoch))


def single_batch(columns: Columns, place: tuple[int, int, int]) -> Batch:
    """All rows of `columns` as one batch; `place`: epoch, batch number, batches per epoch."""
    return Batch(Block(columns, (0, columns.rows), columns.rows, place), 0)
