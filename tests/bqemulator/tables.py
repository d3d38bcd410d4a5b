"""Tables of an emulator, made and looked at with Google's own client."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery

from tests.bqemulator import Emulator

_TIMEOUT_S = 30.0


@contextmanager
def client_of(emulator: Emulator) -> Iterator[Any]:
    """Google's client for it, untyped, since its types leave out that `retry` may be None."""
    client = bigquery.Client(
        emulator.project,
        credentials=AnonymousCredentials(),
        client_options=ClientOptions(api_endpoint=emulator.rest),
    )
    try:
        yield client
    finally:
        client.close()


def load(emulator: Emulator, table: str, rows: pa.Table) -> None:
    """Makes a table, `dataset.table`, and its dataset.

    Names within a STRUCT must be no words of DuckDB's SQL: the emulator does not quote them.
    """
    name = f"{emulator.project}.{table}"
    file = io.BytesIO()
    pq.write_table(rows, file)
    file.seek(0)
    config = bigquery.LoadJobConfig(source_format=bigquery.SourceFormat.PARQUET)
    # Without retries: the emulator answers 500 to what it does not understand.
    once = {"retry": None, "timeout": _TIMEOUT_S}
    with client_of(emulator) as client:
        client.create_dataset(table.partition(".")[0], exists_ok=True, **once)
        client.create_table(bigquery.Table(name, schema=_fields(list(rows.schema))), **once)
        client.load_table_from_file(file, name, job_config=config).result(**once)


def table_names(emulator: Emulator) -> list[str]:
    """All of its tables, and datasets without any."""
    with client_of(emulator) as client:
        found = []
        for dataset in client.list_datasets():
            tables = [table.table_id for table in client.list_tables(dataset.dataset_id)]
            found += [f"{dataset.dataset_id}.{table}" for table in tables or ["(empty)"]]
        return found


def _fields(schema: Sequence[pa.Field[Any]]) -> list[bigquery.SchemaField]:
    return [
        bigquery.SchemaField(field.name, _kind(field.type), fields=_fields(list(field.type)))
        if pa.types.is_struct(field.type)
        else bigquery.SchemaField(field.name, _kind(field.type))
        for field in schema
    ]


def _kind(kind: pa.DataType) -> str:
    for is_it, name in _KINDS:
        if is_it(kind):
            return name
    raise AssertionError(f"no type of BigQuery for {kind}")


_KINDS = (
    (pa.types.is_struct, "RECORD"),
    (pa.types.is_boolean, "BOOLEAN"),
    (pa.types.is_integer, "INTEGER"),
    (pa.types.is_floating, "FLOAT"),
    (pa.types.is_string, "STRING"),
    (pa.types.is_timestamp, "TIMESTAMP"),
    (pa.types.is_date, "DATE"),
)
