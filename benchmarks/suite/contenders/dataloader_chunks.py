"""PyTorch's DataLoader as an expert writes it: workers send whole chunks, the trainer slices them.

A chunk is a row group; their order is shuffled every epoch, the rows within are not, which spares
it a copy. With `batch_size=None` a chunk's tensors go through shared memory, one descriptor each.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from benchmarks.suite.groups import read_group, row_groups
from benchmarks.suite.prepared import Rows, joined, sliced
from benchmarks.suite.task import Task


class Chunks(IterableDataset[Rows]):
    """The table's row groups, prepared; each worker has its share of them."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._groups = row_groups(task)
        self._epoch = 0  # of this worker, which lives for all epochs

    def __iter__(self) -> Iterator[Rows]:
        torch.set_num_threads(1)
        order = torch.Generator().manual_seed(1_000 * self._task.rank + self._epoch)
        self._epoch += 1
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        shuffled = torch.randperm(len(self._groups), generator=order).tolist()
        for index in shuffled[first::step]:
            yield read_group(self._task, self._groups[index])


class ChunkLoader:
    """Slices what the DataLoader gives; a chunk's rest goes before the next chunk."""

    def __init__(self, task: Task) -> None:
        self._batch_size = task.batch_size
        self._loader: DataLoader[Rows] = DataLoader(
            Chunks(task),
            batch_size=None,
            num_workers=task.workers,
            persistent_workers=task.workers > 0,
        )

    def epoch(self, _number: int) -> Iterator[Rows]:
        """Views of chunks, but for batches across the end of one."""
        rest: list[Rows] = []
        for chunk in self._loader:
            yield from self._whole_batches(Rows(*chunk), rest)
        if rest:
            yield joined(rest)

    def _whole_batches(self, chunk: Rows, rest: list[Rows]) -> Iterator[Rows]:
        missing = -sum(len(part.keys) for part in rest) % self._batch_size
        if missing:
            rest.append(Rows(*(tensor[:missing] for tensor in chunk)))
            if len(chunk.keys) < missing:
                return
            yield joined(rest)
            rest.clear()
            chunk = Rows(*(tensor[missing:] for tensor in chunk))
        whole = len(chunk.keys) // self._batch_size * self._batch_size
        yield from sliced(Rows(*(tensor[:whole] for tensor in chunk)), self._batch_size)
        if whole < len(chunk.keys):
            rest.append(Rows(*(tensor[whole:] for tensor in chunk)))

    def close(self) -> None:
        """Nothing to do: the workers end with the process."""


def open_reading(task: Task) -> ChunkLoader:
    """A DataLoader over the table's chunks."""
    return ChunkLoader(task)
