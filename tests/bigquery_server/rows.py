"""Rows as REST sends them: `{"f": [{"v": …}, …]}`, with all values but null as text."""

from __future__ import annotations

import base64
import datetime
import decimal
from typing import Any

import pyarrow as pa

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def rows_json(rows: pa.Table, int_timestamps: bool) -> list[dict[str, Any]]:
    """All rows of a (short) table.

    Args:
        rows: With BigQuery's types.
        int_timestamps: Whether TIMESTAMP is microseconds as an integer, or seconds as a float:
            formatOptions.useInt64Timestamp.
    """
    columns = [column.to_pylist() for column in rows.columns]
    kinds = [one.type for one in rows.schema]
    return [
        {
            "f": [
                {"v": _value(value, kind, int_timestamps)}
                for value, kind in zip(row, kinds, strict=True)
            ]
        }
        for row in zip(*columns, strict=True)
    ]


def _value(value: Any, kind: pa.DataType, int_timestamps: bool) -> Any:  # by type
    if value is None:
        return None
    if pa.types.is_list(kind):
        return [{"v": _value(one, kind.value_type, int_timestamps)} for one in value]
    if pa.types.is_struct(kind):
        fields = [kind.field(index) for index in range(kind.num_fields)]
        return {"f": [{"v": _value(value[one.name], one.type, int_timestamps)} for one in fields]}
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if value != value:  # NaN
            return "NaN"
        return {"inf": "Infinity", "-inf": "-Infinity"}.get(repr(value), repr(value))
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            return value.isoformat()
        micros = (value - _EPOCH) // datetime.timedelta(microseconds=1)
        return str(micros) if int_timestamps else repr(micros / 1e6)
    if isinstance(value, decimal.Decimal):
        return format(value.normalize(), "f")
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else str(value)
