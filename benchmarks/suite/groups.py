"""The table's row groups, prepared one by one: what conversions and loaders read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.suite.prepared import Rows, prepare
from benchmarks.suite.task import Task

Group = tuple[str, int]
"""A file, and the number of a row group in it."""


def row_groups(task: Task) -> list[Group]:
    """All of the table, in its order."""
    return [
        (str(path), group)
        for path in sorted(Path(task.table).glob("*.parquet"))
        for group in range(pq.ParquetFile(path).num_row_groups)
    ]


def read_group(task: Task, group: Group) -> Rows:
    """One row group, read and prepared on this thread."""
    path, number = group
    with pq.ParquetFile(path) as file:
        table = file.read_row_group(number, use_threads=False)
    return prepare(table, task.kind, task.width)


def read_all(task: Task) -> Iterator[Rows]:
    """The row groups one after another."""
    for group in row_groups(task):
        yield read_group(task, group)
