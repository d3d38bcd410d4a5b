"""PyTorch's DataLoader, plain: its workers read, prepare, shuffle and send mini-batches.

Row groups in a random order, and the rows of each permuted anew every epoch. The sender clones a
batch, since a view would ship the whole row group.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.suite.contenders.dataloader_chunks import Chunks
from benchmarks.suite.prepared import Rows, sliced
from benchmarks.suite.task import Task


class Batches(IterableDataset[Rows]):
    """Mini-batches of the worker's own row groups."""

    def __init__(self, task: Task) -> None:
        self._batch_size = task.batch_size
        self._chunks = Chunks(task)

    def __iter__(self) -> Iterator[Rows]:
        for chunk in self._chunks:
            order = torch.randperm(len(chunk.keys))
            shuffled = Rows(*(tensor[order] for tensor in chunk))
            for rows in sliced(shuffled, self._batch_size):
                yield Rows(*(tensor.clone() for tensor in rows))


class BatchLoader:
    """One trainer's DataLoader."""

    def __init__(self, task: Task) -> None:
        self._loader: DataLoader[Rows] = DataLoader(
            Batches(task),
            batch_size=None,
            num_workers=task.workers,
            persistent_workers=task.workers > 0,
        )

    def epoch(self, _number: int) -> Iterator[Rows]:
        """The batches as the workers send them."""
        for rows in self._loader:
            yield Rows(*rows)

    def close(self) -> None:
        """Nothing to do: the workers end with the process."""


def open_reading(task: Task) -> BatchLoader:
    """A DataLoader over the table."""
    return BatchLoader(task)
