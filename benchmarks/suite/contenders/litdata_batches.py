"""LitData as an expert uses it: a sample is a mini-batch, converted beforehand.

The batches' order is shuffled every epoch, the rows within a batch are always the same. The trainer
iterates over the dataset itself: a loader's processes would only copy what is whole already.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import litdata
import torch

from benchmarks.suite.groups import Group, read_group, row_groups
from benchmarks.suite.prepared import Rows, sliced
from benchmarks.suite.task import Task


def batches_of(task: Task, group: Group) -> Iterator[dict[str, torch.Tensor]]:
    """A row group's mini-batches, as samples."""
    for rows in sliced(read_group(task, group), task.batch_size):
        yield {name: tensor.clone() for name, tensor in rows._asdict().items()}


def convert(task: Task) -> None:
    """Writes the table in chunks of the size that LitData's own examples use."""
    litdata.optimize(
        fn=partial(batches_of, task),
        inputs=row_groups(task),
        output_dir=task.converted,
        chunk_bytes="64MB",
        num_workers=task.cores,
    )


class LitDataBatches:
    """One trainer's dataset."""

    def __init__(self, task: Task) -> None:
        self._dataset: Any = litdata.StreamingDataset(
            task.converted, shuffle=True, seed=task.rank, drop_last=False
        )

    def epoch(self, number: int) -> Iterator[Rows]:
        """The batches, in this epoch's order."""
        self._dataset.current_epoch = number + 1
        for sample in self._dataset:
            yield Rows(sample["features"], sample["labels"], sample["keys"])

    def close(self) -> None:
        """Nothing to do."""


def open_reading(task: Task) -> LitDataBatches:
    """Opens what `convert` has written."""
    return LitDataBatches(task)
