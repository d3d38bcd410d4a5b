"""The columns of a BigQuery table in Arrow's types, as the Storage Read API delivers them.

https://cloud.google.com/bigquery/docs/reference/storage#arrow_schema_details
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from google.cloud import bigquery

from faucetd.errors import ColumnError
from faucetd.fetch.bigquery.jobs import leaves
from faucetd.fetch.source import Column

_TYPES: dict[str, pa.DataType] = {
    "BOOL": pa.bool_(),
    "BOOLEAN": pa.bool_(),
    "BYTES": pa.binary(),
    "DATE": pa.date32(),
    "DATETIME": pa.timestamp("us"),
    "FLOAT": pa.float64(),
    "FLOAT64": pa.float64(),
    "GEOGRAPHY": pa.string(),
    "INT64": pa.int64(),
    "INTEGER": pa.int64(),
    "INTERVAL": pa.month_day_nano_interval(),
    "JSON": pa.string(),
    "STRING": pa.string(),
    "TIME": pa.time64("us"),
    "TIMESTAMP": pa.timestamp("us", "UTC"),
}


def flat_columns(schema: Sequence[bigquery.SchemaField], table: str) -> list[Column]:
    """The leaves of a table, by their dotted paths, in its order.

    Raises:
        ColumnError: two columns have the same dotted name, or one is of a type that is not known.
    """
    found = {}
    for name, field in leaves(schema):
        if name in found:
            raise ColumnError(f"{table} has more than one column that is written {name}")
        found[name] = Column(name, _arrow_type(field, name, table))
    return list(found.values())


def kind_of(schema: Sequence[bigquery.SchemaField], column: str) -> str:
    """The type of a leaf in BigQuery's own word."""
    return next(field.field_type for name, field in leaves(schema) if name == column)


def _arrow_type(field: bigquery.SchemaField, name: str, table: str) -> pa.DataType:
    kind = _single_type(field, name, table)
    return pa.list_(kind) if field.mode == "REPEATED" else kind


def _single_type(field: bigquery.SchemaField, name: str, table: str) -> pa.DataType:
    match field.field_type:
        case "RECORD" | "STRUCT":
            below = [(f.name, _arrow_type(f, f"{name}.{f.name}", table)) for f in field.fields]
            return pa.struct(below)
        case "RANGE":
            element = _TYPES[field.range_element_type.element_type]
            return pa.struct([("start", element), ("end", element)])
        case "NUMERIC":
            return pa.decimal128(field.precision or 38, field.scale or 0 if field.precision else 9)
        case "BIGNUMERIC":
            return pa.decimal256(field.precision or 76, field.scale or 0 if field.precision else 38)
        case kind if kind in _TYPES:
            return _TYPES[kind]
        case kind:
            raise ColumnError(
                f"{table}: column {name!r} is of type {kind}, which this version does not know; "
                "read the other columns by a query"
            )
