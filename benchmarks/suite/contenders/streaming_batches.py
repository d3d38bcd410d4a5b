"""MosaicML Streaming as an expert uses it: a sample is a mini-batch, converted beforehand.

The batches' order is shuffled every epoch, the rows within a batch are always the same. The trainer
iterates over the dataset itself: a loader's processes would only copy what is whole already.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.suite.contenders.streaming_peer import MDSWriter, open_dataset
from benchmarks.suite.groups import read_all
from benchmarks.suite.prepared import Rows, sliced
from benchmarks.suite.task import Task

COLUMNS = {
    "features": "ndarray:float32",
    "labels": "ndarray:float32",
    "keys": "ndarray:int64",
}


def convert(task: Task) -> None:
    """Writes the table in shards of the default size."""
    with MDSWriter(out=task.converted, columns=COLUMNS) as out:
        for group in read_all(task):
            for rows in sliced(group, task.batch_size):
                out.write({name: tensor.numpy() for name, tensor in rows._asdict().items()})


class StreamedBatches:
    """One trainer's dataset."""

    def __init__(self, task: Task) -> None:
        self._dataset: Any = open_dataset(task, batch_size=1)

    def epoch(self, _number: int) -> Iterator[Rows]:
        """The batches, in this epoch's order."""
        for sample in self._dataset:
            yield Rows(*(torch.from_numpy(sample[name]) for name in COLUMNS))

    def close(self) -> None:
        """Nothing to do."""


def open_reading(task: Task) -> StreamedBatches:
    """Opens what `convert` has written."""
    return StreamedBatches(task)
