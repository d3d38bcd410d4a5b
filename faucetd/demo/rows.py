"""Which rows the models were given, by their ids: what "each row once" is checked against.

Invariants:

- A trainer writes a batch's ids before it trains on the batch, straight to the file, so that they
  outlive its SIGKILL.
- A file has the ids of one job, epoch and split, batch after batch. Who goes on from a checkpoint
  cuts off what the model in it has not had: what the killed process was given since then is in no
  model. So the files have what the model of today was given, and if it is given a row that it has
  had already, that stands there twice.
- What is right is not taken from Faucet ML: the rows of both splits together must be those of the
  table, as DuckDB tells them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from faucet_client.spec import Split

if TYPE_CHECKING:  # torch comes with it, and the demo itself does without
    from faucet_client import Batch

Ids = NDArray[np.int64]

_ID_BYTES = np.dtype(np.int64).itemsize


class RowLog:
    """Writes the ids of the rows that a job is given, within its `with` block.

    Args:
        folder: Where its files are.
        job: The job's name.
        had: What the model has had when this begins: whole epochs, and rows of the next one.
    """

    def __init__(self, folder: Path, job: str, had: tuple[int, int] = (0, 0)) -> None:
        self._folder = folder
        self._job = job
        self._had_epochs, self._had_rows = had
        self._place: tuple[Split, int] | None = None
        self._file: BinaryIO | None = None

    def add(self, split: Split, epoch: int, batch: Batch) -> None:
        """Notes a batch; the first one of an epoch takes the place of what is in no model.

        Args:
            split: Of the batch.
            epoch: Of the training, from 0.
            batch: Has the row ids as the further column `row_id`.
        """
        if self._file is None or self._place != (split, epoch):
            self._close()
            self._place = (split, epoch)
            self._file = _path(self._folder, self._job, split, epoch).open("ab", buffering=0)
            if epoch >= self._had_epochs:
                under_way = split == "train" and epoch == self._had_epochs
                self._file.truncate((self._had_rows if under_way else 0) * _ID_BYTES)
        self._file.write(np.asarray(batch.passthrough["row_id"], np.int64).tobytes())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


@dataclass(frozen=True)
class EpochRows:
    """How the rows that a job was given in an epoch compare with the table's.

    Attributes:
        trained: Rows of the train split that it was given.
        evaluated: Rows of the eval split.
        missing: Rows of the table that were in neither.
        surplus: Rows that were there once too often, or are not of the table.
        moved: Rows that were in the other split than in the first epoch of the first job.
    """

    trained: int
    evaluated: int
    missing: int
    surplus: int
    moved: int

    @property
    def exact(self) -> bool:
        """Whether each row of the table was there once, in its split."""
        return not (self.missing or self.surplus or self.moved)


def compare(
    folder: Path, jobs: Sequence[str], epochs: int, table: Ids
) -> dict[str, list[EpochRows]]:
    """What each job was given in each epoch, against the table.

    Args:
        folder: Of the `RowLog`s.
        jobs: Their names.
        epochs: How many each has had.
        table: [n], the ids of the table, each once.
    """
    first = np.unique(_read(folder, jobs[0], "train", 0))
    return {
        job: [_compare(folder, job, epoch, table, first) for epoch in range(epochs)] for job in jobs
    }


def rows_given(folder: Path, job: str, epochs: int) -> int:
    """Rows of the train split that stand in a job's files, over all epochs."""
    return sum(len(_read(folder, job, "train", epoch)) for epoch in range(epochs))


def _compare(folder: Path, job: str, epoch: int, table: Ids, first: Ids) -> EpochRows:
    train, held_out = _read(folder, job, "train", epoch), _read(folder, job, "eval", epoch)
    given = np.concatenate([train, held_out])
    found = len(np.intersect1d(given, table))
    return EpochRows(
        trained=len(train),
        evaluated=len(held_out),
        missing=len(table) - found,
        surplus=len(given) - found,
        moved=len(np.setdiff1d(train, first)) + len(np.intersect1d(held_out, first)),
    )


def _read(folder: Path, job: str, split: Split, epoch: int) -> Ids:
    path = _path(folder, job, split, epoch)
    return np.fromfile(path, np.int64) if path.exists() else np.empty(0, np.int64)


def _path(folder: Path, job: str, split: Split, epoch: int) -> Path:
    return folder / f"{job}-{split}-{epoch}.ids"
