"""MosaicML Streaming as its documentation shows it: a sample is a row, batches are collated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from benchmarks.suite.contenders.streaming_peer import MDSWriter, open_dataset
from benchmarks.suite.groups import read_all
from benchmarks.suite.prepared import Rows
from benchmarks.suite.task import Task


def convert(task: Task) -> None:
    """Writes the table in shards of the default size."""
    columns = {"features": f"ndarray:float32:{task.width}", "label": "float32", "key": "int"}
    with MDSWriter(out=task.converted, columns=columns) as out:
        for rows in read_all(task):
            labels = rows.labels.reshape(-1).numpy()
            for row, label, key in zip(rows.features.numpy(), labels, rows.keys, strict=True):
                out.write({"features": row, "label": label, "key": int(key)})


class StreamedRows:
    """One trainer's dataset and loader."""

    def __init__(self, task: Task) -> None:
        dataset = open_dataset(task, task.batch_size)
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_size=task.batch_size,
            num_workers=task.workers,
            persistent_workers=task.workers > 0,
        )

    def epoch(self, _number: int) -> Iterator[Rows]:
        """The batches as they are collated."""
        for batch in self._loader:
            yield Rows(batch["features"], batch["label"].reshape(-1, 1), batch["key"])

    def close(self) -> None:
        """Nothing to do: the workers end with the process."""


def open_reading(task: Task) -> StreamedRows:
    """Opens what `convert` has written."""
    return StreamedRows(task)
