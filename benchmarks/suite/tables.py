"""The tables that all contenders read: made once, the same on every machine.

A folder of Parquet files, each of several row groups. Rows are random, so that their order in the
file says nothing; columns have no dictionaries, which random values would only make slower to read.
`facts.json` is written last: a folder without it is made again.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.suite.prepared import (
    CATEGORIES,
    CRITEO_CATEGORIES,
    CRITEO_NUMBERS,
    NUMBERS,
    feature_names,
    prepare,
)

GROUP_ROWS = 65_536
GROUPS_A_FILE = 4
KINDS = ("numbers", "criteo")


@dataclass(frozen=True)
class Table:
    """A table on disk.

    Attributes:
        kind: "numbers" or "criteo".
        folder: Where its Parquet files are.
        rows: How many.
        width: Columns of its prepared float32 matrix.
        file_bytes: Size of the files.
        feature_sum: The sum of all prepared features.
        feature_scale: The sum of their magnitudes, which says how exact a sum in float32 can be.
    """

    kind: str
    folder: str
    rows: int
    width: int
    file_bytes: int
    feature_sum: float
    feature_scale: float


def width_of(kind: str) -> int:
    """Columns of the prepared matrix."""
    return NUMBERS if kind == "numbers" else CRITEO_NUMBERS + CRITEO_CATEGORIES


def make_table(root: Path, kind: str, rows: int) -> Table:
    """The table of that kind and size below `root`; made if it is not there."""
    folder = root / f"{kind}-{rows}"
    facts = folder / "facts.json"
    if facts.exists():
        return Table(**json.loads(facts.read_text()))
    if kind not in KINDS:
        raise ValueError(f"there is no table {kind!r}; there are {', '.join(KINDS)}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    width = width_of(kind)
    total, scale = 0.0, 0.0
    writer: pq.ParquetWriter | None = None
    for number, first in enumerate(range(0, rows, GROUP_ROWS)):
        group = _group(kind, number, first, min(GROUP_ROWS, rows - first))
        if number % GROUPS_A_FILE == 0:
            if writer is not None:
                writer.close()
            path = folder / f"part-{number // GROUPS_A_FILE:05d}.parquet"
            writer = pq.ParquetWriter(path, group.schema, use_dictionary=False)
        assert writer is not None, "the first group begins a file"
        writer.write_table(group)
        features = prepare(group, kind, width).features.to(torch.float64)
        total += float(features.sum())
        scale += float(features.abs().sum())
    if writer is not None:
        writer.close()
    size = sum(path.stat().st_size for path in folder.glob("*.parquet"))
    table = Table(kind, str(folder), rows, width, size, total, scale)
    facts.write_text(json.dumps(asdict(table)))
    return table


def _group(kind: str, number: int, first: int, rows: int) -> pa.Table:
    random = np.random.default_rng([20_200_120, number])
    columns: dict[str, pa.Array[Any]] = {"key": pa.array(np.arange(first, first + rows))}
    names = feature_names(kind, width_of(kind))
    for name in names:
        if kind == "numbers":
            columns[name] = pa.array(random.random(rows, np.float32))
        elif name.startswith("n"):
            values = random.normal(100, 30, rows).astype(np.float32)
            columns[name] = pa.array(values, mask=random.random(rows) < 0.1)
        else:
            columns[name] = pa.array(random.integers(0, CATEGORIES, rows))
    columns["y"] = pa.array(random.integers(0, 2, rows).astype(np.float32))
    return pa.table(columns)
