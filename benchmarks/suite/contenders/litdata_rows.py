"""LitData as its documentation shows it: a sample is a row, batches are collated by its loader."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import litdata

from benchmarks.suite.groups import Group, read_group, row_groups
from benchmarks.suite.prepared import Rows
from benchmarks.suite.task import Task


def rows_of(task: Task, group: Group) -> Iterator[dict[str, Any]]:
    """A row group's rows, as samples."""
    rows = read_group(task, group)
    labels = rows.labels.reshape(-1)
    for row, label, key in zip(rows.features.numpy(), labels, rows.keys, strict=True):
        yield {"features": row.copy(), "label": float(label), "key": int(key)}


def convert(task: Task) -> None:
    """Writes the table in chunks of the size that LitData's own examples use."""
    litdata.optimize(
        fn=partial(rows_of, task),
        inputs=row_groups(task),
        output_dir=task.converted,
        chunk_bytes="64MB",
        num_workers=task.cores,
    )


class LitDataRows:
    """One trainer's dataset and loader."""

    def __init__(self, task: Task) -> None:
        dataset = litdata.StreamingDataset(
            task.converted, shuffle=True, seed=task.rank, drop_last=False
        )
        self._loader: Any = litdata.StreamingDataLoader(
            dataset,
            batch_size=task.batch_size,
            num_workers=task.workers,
            persistent_workers=task.workers > 0,
        )

    def epoch(self, _number: int) -> Iterator[Rows]:
        """The batches as they are collated."""
        for batch in self._loader:
            yield Rows(batch["features"], batch["label"].float().reshape(-1, 1), batch["key"])

    def close(self) -> None:
        """Nothing to do: the workers end with the process."""


def open_reading(task: Task) -> LitDataRows:
    """Opens what `convert` has written."""
    return LitDataRows(task)
