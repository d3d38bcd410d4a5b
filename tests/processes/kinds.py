"""A table with a column of every kind that a batch can have, and how its batches are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from faucet_client import Batch, DatasetSpec, ParquetSource


def write_all_kinds(path: Path, rows: int) -> DatasetSpec:
    """Writes a table of them, in which each tenth row or so has nulls; how to open it."""
    random = np.random.default_rng(3)
    missing = random.random(rows) < 0.1
    words = np.array(["rot", "grün", "日本", "", "blau"])
    tags = [words[random.integers(0, 5, row % 4)].tolist() for row in range(rows)]
    table = pa.table(
        {
            "id": np.arange(rows),
            "age": pa.array(random.normal(40, 12, rows), mask=missing),
            "city": words[random.integers(0, 5, rows)],
            "tags": pa.array(tags, pa.list_(pa.string())),
            "y": pa.array(random.integers(0, 2, rows), mask=missing),
            "z": random.random(rows).astype(np.float32),
            "w": random.random(rows).astype(np.float32),
            "flag": random.random(rows) < 0.5,
            "text": pa.array([f"é{row}" for row in range(rows)], mask=missing),
        }
    )
    pq.write_table(table, path, row_group_size=700)
    return DatasetSpec(
        ParquetSource(str(path)),
        features=["age", "city", "tags"],
        labels=["y", "z"],
        weight_column="w",
        passthrough=["id", "flag", "text"],
        chunk_rows=900,
    )


def values_of(batch: Batch) -> dict[str, Any]:
    """Everything that a batch has, in memory of its own."""
    found: dict[str, Any] = {
        "place": (batch.epoch, batch.batch_num, batch.batches_per_epoch, len(batch)),
        "features": batch.features,
        "weights": batch.weights,
    }
    found |= {f"label {name}": label for name, label in batch.labels.items()}
    found |= {f"ids {name}": ids for name, ids in batch.ids.items()}
    found |= {f"values {name}": lists.values for name, lists in batch.ragged.items()}
    found |= {f"offsets {name}": lists.offsets for name, lists in batch.ragged.items()}
    found |= {f"passthrough {name}": column for name, column in batch.passthrough.items()}
    found |= {f"valid {name}": valid for name, valid in batch.valid.items()}
    return {
        name: value.cpu().clone() if isinstance(value, torch.Tensor) else value
        for name, value in found.items()
    }


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        bits = [tensor.contiguous().numpy().tobytes() for tensor in (one, other)]
        return one.dtype == other.dtype and one.shape == other.shape and bits[0] == bits[1]
    equal: bool = np.array_equal(one, other)
    return equal


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What of two batches is not the same, bit for bit, in the same dtype and shape."""
    names = expected.keys() | found.keys()
    return [name for name in names if not _same(expected.get(name), found.get(name))]
