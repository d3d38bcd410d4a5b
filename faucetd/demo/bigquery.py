"""The demo's table in BigQuery: it is there within a `with` block, and gone afterwards.

Whatever ends the block: the table is removed, and its dataset if the demo made that. Should the
demo be killed, or BigQuery refuse to remove it, it expires within a day.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import duckdb
import pyarrow.parquet as pq
from google.api_core import exceptions as api
from google.cloud import bigquery
from rich.console import Console

from faucetd.demo.interrupts import Interrupts
from faucetd.demo.table import TABLE
from faucetd.errors import FaucetError, SpecError
from faucetd.fetch.bigquery import sql
from faucetd.fetch.bigquery.connection import Connection
from faucetd.fetch.bigquery.session import retrying
from faucetd.fetch.bigquery.settings import BigQuerySettings
from faucetd.sizes import format_size

T = TypeVar("T")

EXPIRY = dt.timedelta(days=1)

BLOCKED_S = 10.0
"""A person waits for an API that does not answer no longer than this."""

LEAST_QUERY_BYTES = 10 * 2**20
"""What a query is billed for at least, https://cloud.google.com/bigquery/pricing."""


@dataclass(frozen=True)
class Warehouse:
    """Where the demo's table goes.

    Attributes:
        settings: How BigQuery is reached.
        settings_file: The same as lines of a settings file, for the daemon.
        dataset: `project.dataset`, or `dataset` of the project that pays; made if it is missing.
    """

    settings: BigQuerySettings
    settings_file: Sequence[str]
    dataset: str


class DemoTable:
    """The flights in BigQuery.

    Args:
        warehouse: Where.
        console: Is told what could not be removed.
        interrupts: What must not interrupt the steps that have to be done together.

    Attributes:
        name: `project.dataset.table`, nobody else's.

    Raises:
        SpecError: the dataset's name is none.
        ConfigError: the credentials cannot be used, or nobody knows the project.
    """

    def __init__(self, warehouse: Warehouse, console: Console, interrupts: Interrupts) -> None:
        self._settings = warehouse.settings
        self._connection = Connection(warehouse.settings, blocked_s=BLOCKED_S)
        self._console = console
        self._interrupts = interrupts
        own = f"{TABLE}_{uuid.uuid4().hex[:8]}"
        try:
            table = sql.parse_table(f"{warehouse.dataset}.{own}", self._connection.project)
        except SpecError:
            raise SpecError(
                f"{warehouse.dataset!r} of project {self._connection.project!r} is no dataset; "
                "write dataset, or project.dataset"
            ) from None
        self.name = str(table)
        self._dataset = bigquery.DatasetReference(table.project, table.dataset)
        self._reference = self._dataset.table(table.table)
        self._made_dataset = False
        self._began = False

    def write(self, database: Path) -> int:
        """Loads the table out of the DuckDB file; bytes that reading all of it is billed for.

        Raises:
            FaucetError: BigQuery refuses it; the message says what is missing.
        """
        file = database.with_suffix(".parquet")
        with duckdb.connect(str(database), read_only=True) as connection:
            connection.execute(f"COPY {TABLE} TO '{file}' (FORMAT parquet)")
        if not self._ask("looking for the demo's dataset", self._has_dataset):
            with self._interrupts.held():
                self._ask("making the demo's dataset", self._make_dataset)
                self._made_dataset = True
        self._began = True
        self._ask("making the demo's table", lambda: self._make_table(file))
        self._ask("loading the demo's table", lambda: self._load(file))
        table = self._ask("looking at the demo's table", self._look)
        # Local servers do not say.
        return int(table.num_bytes or pq.read_table(file).nbytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._interrupts.ignore()
        try:
            if self._made_dataset or self._began:
                self._remove()
        except FaucetError as error:
            self._console.print(
                f"{self.name} could not be removed, and expires in a day: {error}", style="bold"
            )
        self._connection.close()

    @property
    def _client(self) -> Any:
        """The client; without its types, which leave out that `retry` may be None."""
        return self._connection.jobs

    @property
    def _once(self) -> dict[str, Any]:
        return {"retry": None, "timeout": self._settings.request_timeout_s}

    def _ask(self, doing: str, call: Callable[[], T]) -> T:
        return retrying(call, self._settings, self._connection, doing=doing, resource=self.name)

    def _has_dataset(self) -> bool:
        try:
            self._client.get_dataset(self._dataset, **self._once)
        except api.NotFound:
            return False
        return True

    def _make_dataset(self) -> None:
        made = bigquery.Dataset(self._dataset)
        made.default_table_expiration_ms = int(EXPIRY.total_seconds() * 1_000)
        self._client.create_dataset(made, exists_ok=True, **self._once)

    def _make_table(self, file: Path) -> None:
        table = bigquery.Table(self._reference, schema=_schema(file))
        table.expires = dt.datetime.now(dt.UTC) + EXPIRY
        self._client.create_table(table, exists_ok=True, **self._once)

    def _load(self, file: Path) -> None:
        config = bigquery.LoadJobConfig(
            source_format=bigquery.SourceFormat.PARQUET,
            # Into the empty table that will expire; if it has been removed, it stays removed.
            create_disposition=bigquery.CreateDisposition.CREATE_NEVER,
            write_disposition=bigquery.WriteDisposition.WRITE_EMPTY,
        )
        try:
            with file.open("rb") as rows:
                job = self._client.load_table_from_file(
                    rows,
                    self._reference,
                    job_config=config,
                    timeout=self._settings.request_timeout_s,
                )
            job.result(retry=None, timeout=self._settings.job_timeout_s)
        except api.Conflict:
            pass  # an attempt before this one has arrived: nobody else knows the table

    def _look(self) -> bigquery.Table:
        table: bigquery.Table = self._client.get_table(self._reference, **self._once)
        return table

    def _remove(self) -> None:
        self._ask(
            "removing the demo's table",
            lambda: self._client.delete_table(self._reference, not_found_ok=True, **self._once),
        )
        if self._made_dataset:
            self._ask("removing the demo's dataset", self._remove_dataset)

    def _remove_dataset(self) -> None:
        try:
            self._client.delete_dataset(self._dataset, not_found_ok=True, **self._once)
        except api.BadRequest as error:
            if "in use" not in str(error) and "not empty" not in str(error):
                raise
            self._console.print(
                f"The dataset {self._dataset.dataset_id} stays: others have tables in it."
            )


def cost_lines(table_bytes: int, rows: int) -> list[str]:
    """What the demo will be billed for."""
    counting = format_size(max(8 * rows, LEAST_QUERY_BYTES))
    return [
        f"BigQuery will bill {counting} of queries, to count the rows of each split, and",
        f"{format_size(2 * table_bytes)} of the Storage Read API, to fit the preprocessing and",
        "to read the table. Loading is free.",
    ]


def _schema(file: Path) -> list[bigquery.SchemaField]:
    """All columns are integers or text, and `features` is a STRUCT of such."""
    return _fields(pq.read_schema(file))


def _fields(columns: Any) -> list[bigquery.SchemaField]:
    fields = []
    for column in columns:
        if column.type.num_fields:
            fields.append(bigquery.SchemaField(column.name, "RECORD", fields=_fields(column.type)))
        else:
            kind = "STRING" if "string" in str(column.type) else "INTEGER"
            fields.append(bigquery.SchemaField(column.name, kind))
    return fields
