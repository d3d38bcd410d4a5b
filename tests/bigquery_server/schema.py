"""Arrow types as BigQuery's, and back.

    INT64 int64          NUMERIC decimal128(38, 9)     DATE date32        STRUCT struct
    FLOAT64 double       BIGNUMERIC decimal256(76, 38) DATETIME ts[us]    ARRAY list
    BOOL bool            STRING utf8                   TIMESTAMP ts[us, UTC]
    BYTES binary         JSON, GEOGRAPHY utf8, marked  TIME time64[us]

These are the types that the Storage Read API sends. Others become the type that holds them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tests.bigquery_server.errors import invalid

_EXTENSION = b"ARROW:extension:name"
_MARKS = {"DATETIME": b"google:sqlType:datetime", "JSON": b"google:sqlType:json"} | {
    "GEOGRAPHY": b"google:sqlType:geography"
}

NUMERIC = pa.decimal128(38, 9)
BIGNUMERIC = pa.decimal256(76, 38)
_SIMPLE: dict[str, pa.DataType] = {
    "INTEGER": pa.int64(),
    "FLOAT": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "STRING": pa.string(),
    "BYTES": pa.binary(),
    "NUMERIC": NUMERIC,
    "BIGNUMERIC": BIGNUMERIC,
    "DATE": pa.date32(),
    "DATETIME": pa.timestamp("us"),
    "TIMESTAMP": pa.timestamp("us", "UTC"),
    "TIME": pa.time64("us"),
    "JSON": pa.string(),
    "GEOGRAPHY": pa.string(),
}
_ALIASES = {"INT64": "INTEGER", "FLOAT64": "FLOAT", "BOOL": "BOOLEAN", "STRUCT": "RECORD"}
_FIXED_BYTES = {"INTEGER": 8, "FLOAT": 8, "BOOLEAN": 1, "NUMERIC": 16, "BIGNUMERIC": 32} | {
    "DATE": 8,
    "DATETIME": 8,
    "TIMESTAMP": 8,
    "TIME": 8,
}


def as_bigquery(table: pa.Table) -> pa.Table:
    """The rows with BigQuery's types; columns that have them already are not copied.

    Raises:
        ApiError: a type has no equivalent, or a value does not fit.
    """
    fields = [_field(field) for field in table.schema]
    columns = []
    for field, column in zip(fields, table.columns, strict=True):
        try:
            wanted = column if column.type == field.type else column.cast(field.type)
        except pa.ArrowInvalid as error:
            raise invalid(f"Column {field.name}: {error}") from error
        columns.append(_without_null_lists(wanted))
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def fields_json(schema: pa.Schema | Sequence[pa.Field[Any]]) -> list[dict[str, Any]]:
    """TableSchema.fields of REST."""
    return [_field_json(field) for field in schema]


def from_json(fields: Sequence[Mapping[str, Any]]) -> pa.Schema:
    """The Arrow schema of a TableSchema's fields."""
    return pa.schema([_from_field_json(field) for field in fields])


def type_name(field: pa.Field[Any]) -> str:
    """REST's name of a field's type, its elements' if it is repeated."""
    mark = (field.metadata or {}).get(_EXTENSION)
    kind = field.type
    if pa.types.is_list(kind):
        return type_name(kind.value_field)
    for name, marked in _MARKS.items():
        if mark == marked:
            return name
    if pa.types.is_struct(kind):
        return "RECORD"
    for name, simple in _SIMPLE.items():
        if simple == kind:
            return name
    raise invalid(f"Column {field.name}: no BigQuery type for {kind}")


def column_bytes(column: pa.ChunkedArray[Any], field: pa.Field[Any]) -> int:
    """The size of a column as BigQuery bills it: documented at "Data type sizes"."""
    return sum(_array_bytes(chunk, field) for chunk in column.chunks)


def _array_bytes(array: Any, field: pa.Field[Any]) -> int:
    if pa.types.is_list(array.type):
        return _array_bytes(array.flatten(), array.type.value_field)
    if pa.types.is_struct(array.type):
        parts = array.flatten()
        return sum(_array_bytes(part, array.type.field(i)) for i, part in enumerate(parts))
    present: int = len(array) - array.null_count
    name = type_name(field)
    if name in _FIXED_BYTES:
        return _FIXED_BYTES[name] * present
    lengths = pc.sum(pc.binary_length(array)).as_py()
    return int(2 * present + (lengths or 0))


def _field(field: pa.Field[Any]) -> pa.Field[Any]:
    mark = (field.metadata or {}).get(_EXTENSION)
    kind = _type(field.type, field.name)
    if mark not in _MARKS.values():
        is_datetime = pa.types.is_timestamp(kind) and kind.tz is None
        mark = _MARKS["DATETIME"] if is_datetime else None
    metadata = {_EXTENSION: mark} if mark else None
    return pa.field(field.name, kind, field.nullable, metadata)


def _type(kind: pa.DataType, name: str) -> pa.DataType:  # noqa: C901  # one branch a type
    types = pa.types
    if types.is_dictionary(kind):
        return _type(kind.value_type, name)
    if types.is_struct(kind):
        return pa.struct([_field(kind.field(i)) for i in range(kind.num_fields)])
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        value = _field(kind.value_field)
        if types.is_list(value.type):
            raise invalid(f"Column {name}: BigQuery has no arrays of arrays")
        return pa.list_(value.with_name("item"))
    if types.is_boolean(kind) or kind in (NUMERIC, BIGNUMERIC):
        return kind
    if types.is_integer(kind) or types.is_null(kind):
        return pa.int64()
    if types.is_floating(kind):
        return pa.float64()
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        return pa.binary()
    if types.is_fixed_size_binary(kind):
        return pa.binary()
    if types.is_date(kind):
        return pa.date32()
    if types.is_timestamp(kind):
        return pa.timestamp("us", "UTC" if kind.tz else None)
    if types.is_time(kind):
        return pa.time64("us")
    if types.is_decimal(kind):
        return NUMERIC if kind.precision - kind.scale <= 29 and kind.scale <= 9 else BIGNUMERIC
    raise invalid(f"Column {name}: no BigQuery type for {kind}")


def _without_null_lists(column: Any) -> Any:
    # BigQuery knows no NULL arrays in tables: they come back empty.
    if not pa.types.is_list(column.type) or not column.null_count:
        return column
    empty = pa.scalar([], type=column.type)
    return pc.fill_null(column, empty)


def _field_json(field: pa.Field[Any]) -> dict[str, Any]:
    repeated = pa.types.is_list(field.type)
    mode = "REPEATED" if repeated else "NULLABLE" if field.nullable else "REQUIRED"
    made: dict[str, Any] = {"name": field.name, "type": type_name(field), "mode": mode}
    kind = field.type.value_type if repeated else field.type
    if pa.types.is_struct(kind):
        made["fields"] = fields_json([kind.field(i) for i in range(kind.num_fields)])
    return made


def _from_field_json(field: Mapping[str, Any]) -> pa.Field[Any]:
    name = _ALIASES.get(field["type"].upper(), field["type"].upper())
    mode = field.get("mode", "NULLABLE").upper()
    kind: pa.DataType
    if name == "RECORD":
        kind = pa.struct([_from_field_json(child) for child in field.get("fields", ())])
    elif name in _SIMPLE:
        kind = _SIMPLE[name]
    else:
        raise invalid(f"Invalid value for type: {field['type']} is not a valid value")
    metadata = {_EXTENSION: _MARKS[name]} if name in _MARKS else None
    if mode == "REPEATED":
        return pa.field(field["name"], pa.list_(pa.field("item", kind, metadata=metadata)))
    return pa.field(field["name"], kind, mode != "REQUIRED", metadata)
