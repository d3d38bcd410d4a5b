"""Datasets and tables; a table is the list of its versions, each an immutable Arrow table.

A version is never changed, so whoever holds one has a snapshot. One lock guards the rest.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tests.bigquery_server.errors import ApiError, already_exists, invalid, invalid_query, not_found
from tests.bigquery_server.schema import as_bigquery, column_bytes

PARTITION_TIME = "_PARTITIONTIME"
PARTITION_DATE = "_PARTITIONDATE"
PARTITION_TYPE: Any = pa.timestamp("us", tz="UTC")
_versions = itertools.count()


class TableRef(NamedTuple):
    """Which table."""

    project: str
    dataset: str
    table: str

    def __str__(self) -> str:
        return f"{self.project}:{self.dataset}.{self.table}"

    @property
    def dotted(self) -> str:
        return ".".join(self)

    def json(self) -> dict[str, str]:
        return {"projectId": self.project, "datasetId": self.dataset, "tableId": self.table}

    @classmethod
    def parse(cls, dotted: str) -> TableRef:
        """Of "project.dataset.table"; a project's name may hold dots, as in "example.com:p"."""
        parts = dotted.rsplit(".", 2)
        if len(parts) != 3 or not all(parts):
            raise invalid(f'"{dotted}" is not of the form project.dataset.table')
        return cls(*parts)

    @classmethod
    def of(cls, made: dict[str, str]) -> TableRef:
        """Of REST's TableReference."""
        return cls(made["projectId"], made["datasetId"], made["tableId"])


class Version:
    """A table's rows from one moment on.

    Args:
        time_ms: The moment.
        rows: With BigQuery's types.
        partition_times: The partition of each row of an ingestion-time partitioned table.
    """

    def __init__(
        self, time_ms: int, rows: pa.Table, partition_times: pa.ChunkedArray[Any] | None = None
    ) -> None:
        self.id = next(_versions)
        self.time_ms = time_ms
        self.rows = rows
        self.partition_times = partition_times
        self._sizes: dict[tuple[str, ...], int] = {}

    def with_pseudo_columns(self) -> pa.Table:
        """The rows with _PARTITIONTIME and _PARTITIONDATE, where there are partitions."""
        if self.partition_times is None:
            return self.rows
        return self.rows.append_column(PARTITION_TIME, self.partition_times).append_column(
            PARTITION_DATE, self.partition_times.cast(pa.date32())
        )

    def size_of(self, path: tuple[str, ...]) -> int:
        """Bytes of a column, or of a field in it, as BigQuery bills them."""
        if path not in self._sizes:
            column, leaf = self.rows.column(path[0]), self.rows.schema.field(path[0])
            for name in path[1:]:
                column, leaf = pc.struct_field(column, [name]), leaf.type.field(name)
            self._sizes[path] = column_bytes(column, leaf)
        return self._sizes[path]

    @property
    def nbytes(self) -> int:
        """Bytes of all columns, as BigQuery bills them."""
        return sum(self.size_of((name,)) for name in self.rows.column_names)


@dataclass
class Table:
    """A table, view or external table."""

    ref: TableRef
    kind: str
    created_ms: int
    location: str
    versions: list[Version] = field(default_factory=list)
    view_sql: str | None = None
    expires_ms: int | None = None
    time_partitioning: dict[str, Any] | None = None
    range_partitioning: dict[str, Any] | None = None
    labels: dict[str, str] = field(default_factory=dict)
    description: str | None = None
    streaming_rows: int = 0
    changes: int = 0
    modified_ms: int = 0

    @property
    def last(self) -> Version:
        return self.versions[-1]

    @property
    def is_ingestion_partitioned(self) -> bool:
        return self.time_partitioning is not None and "field" not in self.time_partitioning

    def touch(self, now: int) -> None:
        self.changes += 1
        self.modified_ms = max(now, self.modified_ms)

    def add_version(
        self, rows: pa.Table, partition_times: pa.ChunkedArray[Any] | None, now: int
    ) -> None:
        # Versions a millisecond apart: clients name moments in milliseconds.
        time_ms = max(now, self.versions[-1].time_ms + 1) if self.versions else now
        self.versions.append(Version(time_ms, rows, partition_times))
        self.touch(time_ms)

    def at(self, time_ms: int | None) -> Version:
        """The version that held then; None is now.

        Raises:
            ApiError: the table was not there, or the moment is in the future.
        """
        if time_ms is None:
            return self.last
        if time_ms > now_ms() + 1_000:
            raise invalid_query(
                f"Invalid snapshot time {time_ms} for table {self.ref}@{time_ms}. "
                "Snapshot time is in the future"
            )
        earlier = [version for version in self.versions if version.time_ms <= time_ms]
        if not earlier:
            raise invalid_query(
                f"Invalid snapshot time {time_ms} for table {self.ref}@{time_ms}. "
                f"Cannot read before {self.versions[0].time_ms if self.versions else '?'}."
            )
        return earlier[-1]


@dataclass
class Dataset:
    """A dataset."""

    project: str
    name: str
    location: str
    created_ms: int
    labels: dict[str, str] = field(default_factory=dict)
    description: str | None = None
    default_expiration_ms: int | None = None


class Catalog:
    """All datasets and tables. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._datasets: dict[tuple[str, str], Dataset] = {}
        self._tables: dict[TableRef, Table] = {}

    def add_dataset(self, dataset: Dataset, exists_ok: bool = False) -> Dataset:
        with self._lock:
            key = (dataset.project, dataset.name)
            if key in self._datasets and not exists_ok:
                raise already_exists(f"Dataset {dataset.project}:{dataset.name}")
            return self._datasets.setdefault(key, dataset)

    def dataset(self, project: str, name: str) -> Dataset:
        with self._lock:
            found = self._datasets.get((project, name))
        if found is None:
            raise not_found(f"Dataset {project}:{name}")
        return found

    def datasets(self, project: str) -> list[Dataset]:
        """Those of a project, but not the hidden ones of anonymous results."""
        with self._lock:
            return [
                dataset
                for (owner, name), dataset in sorted(self._datasets.items())
                if owner == project and not name.startswith("_")
            ]

    def remove_dataset(self, project: str, name: str, with_tables: bool) -> None:
        with self._lock:
            self.dataset(project, name)
            tables = self.tables(project, name)
            if tables and not with_tables:
                raise ApiError(
                    "INVALID_ARGUMENT",
                    "resourceInUse",
                    f"Dataset {project}:{name} is still in use",
                )
            for table in tables:
                del self._tables[table.ref]
            del self._datasets[project, name]

    def tables(self, project: str, dataset: str) -> list[Table]:
        with self._lock:
            return [
                table
                for ref, table in sorted(self._tables.items())
                if ref[:2] == (project, dataset) and not _is_expired(table)
            ]

    def table(self, ref: TableRef) -> Table:
        """The table.

        Raises:
            ApiError: notFound, also if it has expired.
        """
        with self._lock:
            found = self._tables.get(ref)
            if found is None or _is_expired(found):
                raise not_found(f"Table {ref}")
            return found

    def find(self, ref: TableRef) -> Table | None:
        """The table, if there is one."""
        try:
            return self.table(ref)
        except ApiError:
            return None

    def create(self, ref: TableRef, kind: str, location: str, **fields: Any) -> Table:
        """A new table without versions; its dataset must be there."""
        with self._lock:
            dataset = self.dataset(ref.project, ref.dataset)
            if self.find(ref) is not None:
                raise already_exists(f"Table {ref}")
            now = now_ms()
            table = Table(ref, kind, now, location, modified_ms=now, **fields)
            if table.expires_ms is None and dataset.default_expiration_ms:
                table.expires_ms = now + dataset.default_expiration_ms
            self._tables[ref] = table
            return table

    def remove(self, ref: TableRef) -> None:
        with self._lock:
            self.table(ref)
            del self._tables[ref]

    def load(self, ref: TableRef, rows: pa.Table, kind: str, location: str, **fields: Any) -> Table:
        """A new version of a table, which is made with its dataset where they are not there.

        Args:
            ref: Which table.
            rows: Of any types that have equivalents. A last column `_PARTITIONTIME`, of
                timestamps, makes it an ingestion-time partitioned table.
            kind: TABLE, EXTERNAL, or VIEW.
            location: Of a new dataset.
            fields: Of Table, to be set.
        """
        partition_times = None
        if PARTITION_TIME in rows.column_names:
            partition_times = rows.column(PARTITION_TIME).cast(PARTITION_TYPE)
            rows = rows.drop([PARTITION_TIME])
            fields.setdefault("time_partitioning", {"type": "DAY"})
        typed = as_bigquery(rows)
        with self._lock:
            self.add_dataset(Dataset(ref.project, ref.dataset, location, now_ms()), exists_ok=True)
            table = self.find(ref) or self.create(ref, kind, location)
            table.kind = kind
            for name, value in fields.items():
                setattr(table, name, value)
            table.add_version(typed, partition_times, now_ms())
            return table

    def view(self, ref: TableRef, sql: str, schema_rows: pa.Table, location: str) -> Table:
        """Makes or replaces a view; `schema_rows` has its schema, and no rows."""
        with self._lock:
            table = self.load(ref, schema_rows, "VIEW", location)
            table.view_sql = sql
            return table


def _is_expired(table: Table) -> bool:
    return table.expires_ms is not None and table.expires_ms <= now_ms()


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def select_columns(table: pa.Table, paths: Sequence[str]) -> pa.Table:
    """Columns and fields of them, in the table's order: as selected_fields are answered.

    Args:
        table: All columns.
        paths: As in "features.age"; names match in any case.

    Raises:
        ApiError: there is no such column.
    """
    wanted: dict[str, Any] = {}
    for path in paths:
        _add_path(wanted, path.lower().split("."))
    arrays, fields = [], []
    for index, one in enumerate(table.schema):
        tree = wanted.pop(one.name.lower(), None)
        if tree is not None:
            array, kept = _prune(table.column(index), one, tree, one.name)
            arrays.append(array)
            fields.append(kept)
    if wanted:
        raise invalid(
            "request failed: The following selected fields do not exist in the table schema: "
            + ", ".join(sorted(wanted))
        )
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _add_path(tree: dict[str, Any], parts: list[str]) -> None:
    """Grows a tree of names; an empty dict stands for everything below."""
    for place, name in enumerate(parts):
        if name in tree and not tree[name]:
            return  # the whole of it is wanted already
        last = place == len(parts) - 1
        tree = tree.setdefault(name, {})
        if last:
            tree.clear()
            return


def _prune(
    column: pa.ChunkedArray[Any], one: pa.Field[Any], tree: dict[str, Any], path: str
) -> tuple[pa.ChunkedArray[Any], pa.Field[Any]]:
    if not tree:
        return column, one
    kept = _prune_type(one, tree, path)
    chunks = [_prune_array(chunk, kept.type) for chunk in column.chunks]
    return pa.chunked_array(chunks, type=kept.type), kept


def _prune_type(one: pa.Field[Any], tree: dict[str, Any], path: str) -> pa.Field[Any]:
    if not tree:
        return one
    if pa.types.is_list(one.type):
        inner = _prune_type(one.type.value_field, tree, path)
        return one.with_type(pa.list_(inner))
    if not pa.types.is_struct(one.type):
        raise invalid(f"request failed: {path} is not a struct, so it has no {', '.join(tree)}")
    rest = dict(tree)
    kept = []
    for index in range(one.type.num_fields):
        child = one.type.field(index)
        below = rest.pop(child.name.lower(), None)
        if below is not None:
            kept.append(_prune_type(child, below, f"{path}.{child.name}"))
    if rest:
        missing = ", ".join(f"{path}.{name}" for name in sorted(rest))
        raise invalid(
            "request failed: The following selected fields do not exist in the table schema: "
            + missing
        )
    return one.with_type(pa.struct(kept))


def _prune_array(array: Any, kind: Any) -> Any:
    if array.type == kind:
        return array
    if pa.types.is_list(kind):
        values = _prune_array(array.values, kind.value_type)
        offsets = array.offsets
        mask = array.is_null() if array.null_count else None
        return pa.ListArray.from_arrays(offsets, values, type=kind, mask=mask)
    parts = []
    for index in range(kind.num_fields):
        child = kind.field(index)
        part = array.field(array.type.get_field_index(child.name))
        parts.append(_prune_array(part, child.type))
    mask = array.is_null() if array.null_count else None
    fields = [kind.field(index) for index in range(kind.num_fields)]
    return pa.StructArray.from_arrays(parts, fields=fields, mask=mask)
