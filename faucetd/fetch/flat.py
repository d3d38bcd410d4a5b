"""Nested tables seen flat: each leaf of a STRUCT is a column, under its dotted path.

Lists and maps are leaves, whatever they hold. A leaf's type is plain: dictionary-encoded, view and
extension types stand for their values.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from faucetd.errors import ColumnError
from faucetd.fetch.source import BATCH_BYTES, BATCH_ROWS, Column

_VECTOR_ROWS = 2_048
_TEXT_BYTES = 32


@dataclass(frozen=True)
class Leaf:
    """A column of the flat table: the fields to follow from the top, and the plain type there."""

    path: tuple[str, ...]
    type: pa.DataType

    @property
    def name(self) -> str:
        """The dotted path."""
        return ".".join(self.path)

    @property
    def column(self) -> Column:
        """What a source shows of the leaf."""
        return Column(self.name, self.type)


class FlatSchema:
    """The leaves of a table, by name.

    Args:
        schema: The table's own, nested schema.
        table: What to call the table in errors.

    Raises:
        ColumnError: if two leaves have the same dotted name.
    """

    def __init__(self, schema: pa.Schema, table: str) -> None:
        self._table = table
        self.leaves = tuple(leaf for field in schema for leaf in _leaves(field, ()))
        self._by_name = {leaf.name: leaf for leaf in self.leaves}
        if len(self._by_name) < len(self.leaves):
            names = [leaf.name for leaf in self.leaves]
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ColumnError(
                f"{table} has more than one column that is written {', '.join(twice)}; rename one"
            )

    def select(self, names: Sequence[str]) -> tuple[Leaf, ...]:
        """The leaves of these names, in this order.

        Raises:
            ColumnError: if there is no such leaf.
        """
        for name in names:
            if name not in self._by_name:
                raise no_such_column(name, list(self._by_name), self._table)
        return tuple(self._by_name[name] for name in names)


def no_such_column(name: str, known: Sequence[str], table: str) -> ColumnError:
    """The error for a name that no column has; it names the leaves of a STRUCT, or near names."""
    leaves = [other for other in known if other.startswith(f"{name}.")]
    if leaves:
        hint = f"{name} is a STRUCT; name its leaves: {', '.join(leaves[:8])}"
    elif near := difflib.get_close_matches(name, known, n=3):
        hint = f"did you mean {' or '.join(near)}?"
    else:
        hint = f"it has {', '.join(known[:8])}{', …' if len(known) > 8 else ''}"
    return ColumnError(f"{table} has no column {name!r}; {hint}")


class Projection:
    """Makes batches of a nested table flat: its leaves, plain, in a given order.

    What has to be done is looked up once a schema, not once a batch: for the small messages of a
    warehouse that would take as long as all else that happens to them. Columns that stand at the
    top and are plain already, which most tables have alone, are only selected.

    Args:
        leaves: What to take.
    """

    def __init__(self, leaves: Sequence[Leaf]) -> None:
        self._leaves = tuple(leaves)
        self._schema: pa.Schema | None = None
        self._indices: list[int] | None = None

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The leaves of a batch that holds at least them."""
        schema = batch.schema
        if self._schema is None or not schema.equals(self._schema):
            self._schema, self._indices = schema, self._plain_columns(schema)
        if self._indices is not None:
            return batch.select(self._indices)
        arrays = []
        for leaf in self._leaves:
            top, *below = leaf.path
            array = batch.column(schema.get_field_index(top))
            if below:
                # struct_field, unlike Array.field, makes the leaf null where the STRUCT is.
                array = cast("pa.Array[Any]", pc.struct_field(array, below))
            arrays.append(array)
        return assemble(arrays, self._leaves)

    def _plain_columns(self, schema: pa.Schema) -> list[int] | None:
        """Where the leaves are, if all are columns of their own and of their plain types."""
        indices = []
        for leaf in self._leaves:
            index = schema.get_field_index(leaf.path[0])
            if len(leaf.path) > 1 or schema.field(index).type != leaf.type:
                return None
            indices.append(index)
        return indices


def project(batch: pa.RecordBatch, leaves: Sequence[Leaf]) -> pa.RecordBatch:
    """The leaves of one nested batch that holds at least them, flat and plain, in this order."""
    return Projection(leaves).apply(batch)


def assemble(arrays: Sequence[pa.Array[Any]], leaves: Sequence[Leaf]) -> pa.RecordBatch:
    """A flat batch of arrays that stand for `leaves`, each made plain."""
    schema = pa.schema([pa.field(leaf.name, leaf.type) for leaf in leaves])
    plain = [_plain(array, leaf.type) for array, leaf in zip(arrays, leaves, strict=True)]
    return pa.RecordBatch.from_arrays(plain, schema=schema)


def joined(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """The rows of one or more batches, none without rows, as one batch."""
    if len(batches) == 1:
        return batches[0]
    (whole,) = pa.Table.from_batches(batches).combine_chunks().to_batches()
    return whole


def batch_rows(leaves: Sequence[Leaf]) -> int:
    """Rows of a batch of these leaves: BATCH_ROWS, or fewer if that went beyond BATCH_BYTES."""
    row_bytes = sum(_row_bytes(leaf.type) for leaf in leaves)
    rows = int(BATCH_BYTES // max(row_bytes, 1))
    if rows >= _VECTOR_ROWS:
        # DuckDB and Parquet readers make their batches of such vectors; whole ones are cheaper.
        rows -= rows % _VECTOR_ROWS
    return max(1, min(rows, BATCH_ROWS))


def _leaves(field: pa.Field[Any], above: tuple[str, ...]) -> Iterator[Leaf]:
    path = (*above, field.name)
    if pa.types.is_struct(field.type):
        for child in field.type:
            yield from _leaves(child, path)
    else:
        yield Leaf(path, _plain_type(field.type))


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.DictionaryType):
        return _plain_type(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return _plain_type(kind.storage_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    return kind


def _plain(array: pa.Array[Any], kind: pa.DataType) -> pa.Array[Any]:
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    return array if array.type == kind else array.cast(kind)


def _row_bytes(kind: pa.DataType) -> float:
    if isinstance(kind, pa.FixedSizeListType):
        return float(kind.list_size * _row_bytes(kind.value_type))
    try:
        return max(kind.bit_width, 1) / 8
    except ValueError:  # of variable width: nobody knows before reading
        return _TEXT_BYTES
