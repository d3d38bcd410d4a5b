"""Small Parquet tables whose rows are those of rows.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from faucet_client import DatasetSpec
from tests.processes.rows import feature, feature_names, label
from tests.processes.specs import read_spec


@dataclass(frozen=True)
class Table:
    """A Parquet file of rows as rows.py has them: id, f0 to fk, y."""

    path: Path
    rows: int
    features: int
    chunk_rows: int

    def fields(self, **changes: Any) -> dict[str, Any]:
        """The fields of its `DatasetSpec`, as a trainer process takes them."""
        return {
            "path": str(self.path),
            "features": feature_names(self.features),
            "labels": ["y"],
            "passthrough": ["id"],
            "chunk_rows": self.chunk_rows,
        } | changes

    def spec(self, **changes: Any) -> DatasetSpec:
        """Its `DatasetSpec`."""
        return read_spec(self.fields(**changes))


def write_rows(path: Path, first: int, stop: int, features: int, **options: Any) -> None:
    """Writes rows `first` to `stop - 1`, so that readers never find half a file."""
    ids = np.arange(first, stop)
    columns = {name: feature(ids, number) for number, name in enumerate(feature_names(features))}
    hidden = path.with_name(f".{path.name}")
    pq.write_table(pa.table({"id": ids, **columns, "y": label(ids)}), hidden, **options)
    hidden.replace(path)


class Described(Protocol):
    """A table that trainers can be told to open."""

    @property
    def rows(self) -> int:
        """How many it has, with the ids from 0 on."""
        ...

    def spec(self, **changes: Any) -> DatasetSpec:
        """Its `DatasetSpec`."""
        ...

    def fields(self, **changes: Any) -> dict[str, Any]:
        """The fields of its `DatasetSpec`, as specs.py reads them."""
        ...


class MakeTable(Protocol):
    """Writes a table."""

    def __call__(
        self, rows: int = ..., features: int = ..., chunk_rows: int = ..., **options: Any
    ) -> Table: ...
