"""The limit: the prepared table in the trainer's own memory, sliced.

The first epoch reads and prepares it; there is no shuffling at all.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.suite.groups import read_all
from benchmarks.suite.prepared import Rows, sliced
from benchmarks.suite.task import Task


class LocalTensors:
    """All rows, prepared."""

    def __init__(self, task: Task) -> None:
        self._batch_size = task.batch_size
        whole = Rows(
            torch.empty(task.rows, task.width),
            torch.empty(task.rows, 1),
            torch.empty(task.rows, dtype=torch.int64),
        )
        first = 0
        for rows in read_all(task):
            stop = first + len(rows.keys)
            for column, part in zip(whole, rows, strict=True):
                column[first:stop] = part
            first = stop
        self._rows: Rows | None = whole

    def epoch(self, _number: int) -> Iterator[Rows]:
        """Views, in the table's order."""
        assert self._rows is not None, "it is not closed"
        return sliced(self._rows, self._batch_size)

    def close(self) -> None:
        """Lets go of the rows."""
        self._rows = None


def open_reading(task: Task) -> LocalTensors:
    """Reads and prepares the table."""
    return LocalTensors(task)
