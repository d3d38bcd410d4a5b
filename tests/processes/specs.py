"""Specs as plain data: how a test's process tells another one what to open."""

from __future__ import annotations

from typing import Any

from faucet_client import BigQuerySource, DatasetSpec, ParquetSource


def read_spec(fields: dict[str, Any]) -> DatasetSpec:
    """A spec out of its fields.

    Args:
        fields: Of the `DatasetSpec`, but for its source; instead of that `path`, of Parquet files,
            or `bigquery`, the fields of a `BigQuerySource`. Features are taken as they are unless
            they say otherwise.
    """
    rest = {"preprocessing": "none"} | fields
    if "bigquery" in rest:
        return DatasetSpec(BigQuerySource(**rest.pop("bigquery")), **rest)
    return DatasetSpec(ParquetSource(rest.pop("path")), **rest)
