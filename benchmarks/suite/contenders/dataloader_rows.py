"""PyTorch's DataLoader as its documentation begins: a dataset of rows, collated one by one.

The rows are in the trainer's memory, prepared, before the loader starts; workers collate.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.suite.groups import read_all
from benchmarks.suite.prepared import Rows, joined
from benchmarks.suite.task import Task


class RowLoader:
    """One trainer's DataLoader, which shuffles rows."""

    def __init__(self, task: Task) -> None:
        torch.manual_seed(task.rank)
        self._loader = DataLoader(
            TensorDataset(*joined(list(read_all(task)))),
            batch_size=task.batch_size,
            shuffle=True,
            num_workers=task.workers,
            persistent_workers=task.workers > 0,
        )

    def epoch(self, _number: int) -> Iterator[Rows]:
        """The batches as they are collated."""
        for rows in self._loader:
            yield Rows(*rows)

    def close(self) -> None:
        """Nothing to do: the workers end with the process."""


def open_reading(task: Task) -> RowLoader:
    """A DataLoader over the rows."""
    return RowLoader(task)
