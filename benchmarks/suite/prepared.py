"""Rows of the benchmark's tables as tensors, in the way an expert would write it.

Every contender that prepares rows itself uses this. It is the fastest of the ways that were tried
with torch alone: columns into the rows of one matrix, and one transposition.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import torch

NUMBERS = 100
"""Columns of the table of numbers, float32 without nulls, which are taken as they are."""

CRITEO_NUMBERS, CRITEO_CATEGORIES = 13, 26
"""Columns of the Criteo-like table: float32 of which a tenth is null, and int64."""

# (x - mean) / stddev, and a null becomes 0. Means are beside the true ones, so that the sum of all
# features is not near 0 and tells when rows are wrong.
NUMBER_MEAN, NUMBER_STDDEV = 85.0, 30.0
CATEGORY_MEAN, CATEGORY_STDDEV = 250_000.0, 500_000.0
CATEGORIES = 1_000_000


class Rows(NamedTuple):
    """A batch: float32 [n, width], float32 [n, 1], int64 [n]."""

    features: torch.Tensor
    labels: torch.Tensor
    keys: torch.Tensor


def feature_names(kind: str, width: int) -> list[str]:
    """The columns that become features, in their order."""
    if kind == "numbers":
        return [f"f{number}" for number in range(width)]
    numbers = [f"n{number}" for number in range(CRITEO_NUMBERS)]
    return numbers + [f"c{number}" for number in range(CRITEO_CATEGORIES)]


def prepare(batch: pa.RecordBatch | pa.Table, kind: str, width: int) -> Rows:
    """The tensors of some rows of a table of that kind."""
    matrix = torch.empty(width, batch.num_rows)
    for row, name in zip(matrix, feature_names(kind, width), strict=True):
        row.copy_(_tensor(batch.column(name)))
    if kind == "criteo":
        matrix[:CRITEO_NUMBERS].sub_(NUMBER_MEAN).div_(NUMBER_STDDEV)
        matrix[CRITEO_NUMBERS:].sub_(CATEGORY_MEAN).div_(CATEGORY_STDDEV)
    labels = _tensor(batch.column("y")).to(torch.float32).reshape(-1, 1)
    return Rows(matrix.t().contiguous(), labels, _tensor(batch.column("key")).clone())


def sliced(rows: Rows, batch_size: int) -> Iterator[Rows]:
    """The batches of some rows, as views; the last one may be short."""
    for features, labels, keys in zip(
        rows.features.split(batch_size),
        rows.labels.split(batch_size),
        rows.keys.split(batch_size),
        strict=True,
    ):
        yield Rows(features, labels, keys)


def joined(parts: list[Rows]) -> Rows:
    """Some rows after each other, copied."""
    return Rows(
        torch.cat([part.features for part in parts]),
        torch.cat([part.labels for part in parts]),
        torch.cat([part.keys for part in parts]),
    )


def _tensor(column: pa.Array[Any] | pa.ChunkedArray[Any]) -> torch.Tensor:
    """The values of a column, in memory of Arrow's where that can be."""
    if column.null_count:
        column = column.fill_null(pa.scalar(NUMBER_MEAN, pa.float32()))
    values = (
        column.to_numpy(zero_copy_only=False)
        if isinstance(column, pa.Array)
        else (column.to_numpy())
    )
    return torch.from_numpy(values if values.flags.writeable else values.copy())
