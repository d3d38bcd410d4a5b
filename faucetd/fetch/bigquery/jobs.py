"""Jobs and metadata: what a table is, what a query would cost, and running it once.

Invariants:

- A job has an id that we chose before it was sent. An insert that is tried again and finds the id
  taken has found its own first attempt, so no query runs, or is billed, twice by a retry. A job
  that failed for a reason that may pass is run again under a new id: failed jobs are not billed.
- Before a job is sent, a dry run says what it would be billed for, and that it is one SELECT:
  whatever a user writes into a query or a filter cannot change anything. BigQuery itself is told
  the same limit.
- No call takes longer than `request_timeout_s` and no job longer than `job_timeout_s`.
- A destination table has its expiry before it has its first row, by the service's clock, so that
  nothing of ours stays behind for good. Its name begins with TABLE_PREFIX.

Jobs: https://cloud.google.com/bigquery/docs/reference/rest/v2/Job.
"""

from __future__ import annotations

import datetime as dt
import difflib
import functools
import hashlib
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from google.api_core import exceptions as api
from google.cloud import bigquery

from faucet_client.spec import Split, SplitBuckets
from faucetd.errors import (
    BudgetError,
    ConfigError,
    SourceForbidden,
    SourceNotFound,
    SourceReadError,
    SpecError,
)
from faucetd.fetch.bigquery import sql
from faucetd.fetch.bigquery.connection import Connection
from faucetd.fetch.bigquery.faults import FOREIGN, explain
from faucetd.fetch.bigquery.session import retrying
from faucetd.fetch.bigquery.settings import BigQuerySettings

T = TypeVar("T")

LABEL = "faucetml"
"""The key of our own label on jobs and tables; its value is what the job is for."""

TABLE_PREFIX = "faucetml_"
"""How the names of our tables begin."""

ANONYMOUS_LIMIT_BYTES = 10 * 10**9
"""The largest result that a query may have without a destination.

https://cloud.google.com/bigquery/quotas#query_jobs, "Maximum response size".
"""

_FIRST_POLL_S = 0.05
_LONGEST_POLL_S = 2.0
_GRACE_S = 30.0  # for the service to end a job that ran into its limit, before we do
_NAMES_LISTED = 1_000
_CONNECT_S = 4.0


class JobsForbidden(Exception):
    """These credentials may not run jobs; reading by session may still work.

    Attributes:
        explained: The error for people, if there is no other way.
    """

    def __init__(self, explained: SourceForbidden) -> None:
        super().__init__(explained.message)
        self.explained = explained


@dataclass(frozen=True)
class Partitioning:
    """How a table is partitioned.

    Attributes:
        unit: "HOUR", "DAY", "MONTH", "YEAR", or "RANGE" of integers.
        field: The column that decides; None for the time of ingestion.
        filter_required: Whether queries must say which partitions they read.
    """

    unit: str
    field: str | None
    filter_required: bool


@dataclass(frozen=True)
class TableInfo:
    """What the service says of a table.

    Attributes:
        name: Its full name.
        kind: "TABLE", "VIEW", "MATERIALIZED_VIEW", "EXTERNAL", "SNAPSHOT" or "CLONE".
        schema: Its columns, nested.
        partitioning: None if it is not partitioned.
        rows: Without those in the streaming buffer; 0 for a view.
        nbytes: The same.
        created_ms: Milliseconds since 1970, as all times here.
        modified_ms: When its rows or schema last changed.
        expires_ms: When it will be gone; None for never.
        location: Where its jobs must run.
        streaming: Whether rows are in its streaming buffer, which `modified_ms` knows nothing of.
    """

    name: sql.TableName
    kind: str
    schema: tuple[bigquery.SchemaField, ...]
    partitioning: Partitioning | None
    rows: int
    nbytes: int
    created_ms: int
    modified_ms: int
    expires_ms: int | None
    location: str | None
    streaming: bool = False

    @property
    def table(self) -> str:
        """The full name, in one text."""
        return str(self.name)

    @property
    def readable(self) -> bool:
        """Whether a session can read it; else a query must."""
        return self.kind in ("TABLE", "SNAPSHOT", "CLONE")


@dataclass(frozen=True)
class DryRun:
    """What a query would do.

    Attributes:
        bytes_processed: What it would be billed for, as far as the service knows beforehand.
        schema: Of its result.
        created_ms: The service's time of the dry run; None where it does not say.
        tables: The tables that it reads, those behind views too.
        statement: "SELECT", or what else it is; None where the service does not say.
        location: Where it would run.
    """

    bytes_processed: int
    schema: tuple[bigquery.SchemaField, ...]
    created_ms: int | None
    tables: tuple[str, ...]
    statement: str | None
    location: str | None


@dataclass(frozen=True)
class JobResult:
    """A job that has succeeded.

    Attributes:
        job_id: Its id, in the project that paid.
        location: Where it ran.
        destination: The table with its rows.
        bytes_billed: What it cost.
        bytes_processed: What it read.
        cache_hit: Whether an earlier result was found; `destination` is then as old as that.
        rows: Of the result.
        started_ms: When the service began to run it.
    """

    job_id: str
    location: str | None
    destination: sql.TableName
    bytes_billed: int
    bytes_processed: int
    cache_hit: bool
    rows: int
    started_ms: int


@dataclass(frozen=True)
class Counted:
    """The exact rows of each split, and the job that counted them."""

    rows: Mapping[Split, int]
    job: JobResult


@dataclass(frozen=True)
class CountedChunks:
    """The exact rows of each split of each chunk, by its number, and the job that counted them.

    A chunk without rows of either split is not listed.
    """

    rows: Mapping[int, Mapping[Split, int]]
    job: JobResult


def describe(connection: Connection, settings: BigQuerySettings, table: str) -> TableInfo:
    """What the service says of a table or view.

    Args:
        connection: The clients.
        settings: How long to try.
        table: `project.dataset.table`, or `dataset.table` of the connection's project.

    Raises:
        SpecError: `table` is no such name.
        SourceNotFound: there is no such table; the message has near names.
        SourceForbidden: these credentials may not look at it.
        SourceReadError, ConfigError: see `faults`.
    """
    name = sql.parse_table(table, connection.project)

    def call() -> bigquery.Table:
        table: bigquery.Table = _client(connection).get_table(
            _reference(name), retry=None, timeout=_first_timeout_s(settings)
        )
        return table

    try:
        found = retrying(
            call, settings, connection, doing=f"looking at {name}", resource=f"table {name}"
        )
    except SourceNotFound as error:
        hint = _near(connection, settings, name)
        raise SourceNotFound(f"{error.message}{hint}") from error
    return TableInfo(
        name=name,
        kind=found.table_type or "TABLE",
        schema=tuple(found.schema),
        partitioning=_partitioning(found),
        rows=found.num_rows or 0,
        nbytes=found.num_bytes or 0,
        created_ms=_ms(found.created) or 0,
        modified_ms=_ms(found.modified) or _ms(found.created) or 0,
        expires_ms=_ms(found.expires),
        location=found.location,
        streaming=found.streaming_buffer is not None,
    )


def leaves(
    schema: Sequence[bigquery.SchemaField], above: str = ""
) -> Iterator[tuple[str, bigquery.SchemaField]]:
    """The leaves of a schema by their dotted paths, in order. A repeated column is one leaf."""
    for field in schema:
        if field.field_type in ("RECORD", "STRUCT") and field.mode != "REPEATED":
            yield from leaves(field.fields, f"{above}{field.name}.")
        else:
            yield f"{above}{field.name}", field


def server_now_ms(connection: Connection, settings: BigQuerySettings) -> int:
    """The service's time, in milliseconds since 1970, at some moment within this call.

    This machine's clock may be off: ahead, and the service refuses a snapshot in its future;
    behind, and rows that were just written would be missing.

    Raises:
        JobsForbidden: these credentials may not run jobs.
        SourceReadError, SourceForbidden, ConfigError: see `faults`.
    """
    asked = "SELECT 1"
    tried = dry_run(connection, settings, asked)
    if tried.created_ms is not None:
        return tried.created_ms
    # Some local servers leave it out of dry runs. A query without a table is free.
    return run(connection, settings, asked, purpose="clock", use_cache=False).started_ms


def dry_run(
    connection: Connection,
    settings: BigQuerySettings,
    statement: str,
    *,
    location: str | None = None,
    resource: str = "the query",
) -> DryRun:
    """What a query would do, without doing it; free.

    Args:
        connection: The clients.
        settings: How long to try.
        statement: GoogleSQL.
        location: Where to run it; None to let the service find out by the tables.
        resource: What it is about, for messages.

    Raises:
        JobsForbidden: these credentials may not run jobs.
        SourceNotFound, SourceForbidden, SourceReadError, ConfigError: see `faults`; the message of
            an error in the SQL has BigQuery's own and the place, as "[line:column]".
    """
    config = _config(settings, "dry-run")
    config.dry_run = True
    config.use_query_cache = False

    def call() -> bigquery.QueryJob:
        job: bigquery.QueryJob = _client(connection).query(
            statement,
            job_config=config,
            location=location,
            retry=None,
            job_retry=None,
            timeout=_first_timeout_s(settings),
        )
        return job

    job = _asking(call, connection, settings, doing="checking a query", resource=resource)
    return DryRun(
        bytes_processed=job.total_bytes_processed or 0,
        schema=tuple(job.schema or ()),
        created_ms=_ms(job.created),
        tables=tuple(
            str(sql.TableName(t.project, t.dataset_id, t.table_id)) for t in job.referenced_tables
        ),
        statement=job.statement_type,
        location=job.location,
    )


def run(
    connection: Connection,
    settings: BigQuerySettings,
    statement: str,
    *,
    purpose: str,
    location: str | None = None,
    destination: sql.TableName | None = None,
    range_partitioning: tuple[str, int] | None = None,
    max_bytes_billed: int | None = None,
    use_cache: bool = True,
    resource: str = "the query",
) -> JobResult:
    """Runs one SELECT to its end, once, however often calls have to be tried again.

    Args:
        connection: The clients.
        settings: Limits, labels, and how long to try.
        statement: GoogleSQL.
        purpose: What the job is for, in a word: the value of our label.
        location: Where to run it; None to let the service find out by the tables.
        destination: Where to put the rows, a name that is not taken; it expires after
            `result_expiry_s`. None for an anonymous table, which the service keeps for a day.
        range_partitioning: A column of integers in [0, n), and n: how to partition `destination`.
        max_bytes_billed: What is left of the limit of this open, if other jobs of it have been
            billed; by default the whole of `settings.max_bytes_billed`.
        use_cache: Whether an earlier result of the same query will do, if no table has changed.
        resource: What it is about, for messages.

    Raises:
        JobsForbidden: these credentials may not run jobs.
        BudgetError: it would be billed for more than `max_bytes_billed`.
        SpecError: it is no SELECT, or several statements.
        ConfigError: the destination's dataset is missing, or somewhere else than the tables.
        SourceNotFound, SourceForbidden, SourceReadError: see `faults`.
    """
    limit = settings.max_bytes_billed if max_bytes_billed is None else max_bytes_billed
    tried = dry_run(connection, settings, statement, location=location, resource=resource)
    if tried.statement not in (None, "SELECT"):
        raise SpecError(
            f"{resource} must be exactly one SELECT statement, but BigQuery reads it as "
            f"{tried.statement}"
        )
    if limit is not None and tried.bytes_processed > limit:
        raise _too_expensive(resource, tried.bytes_processed, limit)
    location = location or tried.location
    config = _config(settings, purpose)
    config.use_query_cache = use_cache and destination is None
    if limit is not None:
        config.maximum_bytes_billed = limit
    config.job_timeout_ms = round(settings.job_timeout_s * 1_000)
    if destination is not None:
        created_ms = tried.created_ms or server_now_ms(connection, settings)
        _create(
            connection,
            settings,
            destination,
            tried.schema,
            range_partitioning,
            created_ms + round(settings.result_expiry_s * 1_000),
            purpose,
        )
        config.destination = _reference(destination)
        config.create_disposition = bigquery.CreateDisposition.CREATE_NEVER
        # Into the empty table that was just made: its expiry and partitions stay, and a job that
        # ran twice after all would fail rather than write its rows twice.
        config.write_disposition = bigquery.WriteDisposition.WRITE_EMPTY
        if range_partitioning is not None:
            config.range_partitioning = _ranges(*range_partitioning)

    def attempt() -> bigquery.QueryJob:
        return _run_once(connection, settings, statement, config, purpose, location, resource)

    try:
        job = _asking(attempt, connection, settings, doing="running a query", resource=resource)
        rows = _total_rows(connection, settings, job, resource)
    except SourceNotFound as error:
        if destination is not None and "in location" in error.message:
            raise _elsewhere(destination, location, resource, error.message) from error
        raise
    except _TooExpensiveError as error:
        raise _refused_as_too_expensive(resource, limit or 0, str(error)) from error
    found = job.destination
    return JobResult(
        job_id=job.job_id,
        location=job.location,
        destination=sql.TableName(found.project, found.dataset_id, found.table_id),
        bytes_billed=job.total_bytes_billed or 0,
        bytes_processed=job.total_bytes_processed or 0,
        cache_hit=bool(job.cache_hit),
        rows=rows,
        started_ms=_ms(job.started) or _ms(job.created) or 0,
    )


def rows_of_result(
    connection: Connection, settings: BigQuerySettings, result: JobResult
) -> list[dict[str, Any]]:
    """The rows of a small result, by REST, in the order of the query.

    Raises:
        SourceNotFound, SourceForbidden, SourceReadError, ConfigError: see `faults`.
    """

    def call() -> list[dict[str, Any]]:
        job = _client(connection).get_job(
            result.job_id,
            location=result.location,
            retry=None,
            timeout=settings.request_timeout_s,
        )
        rows = job.result(retry=None, job_retry=None, timeout=settings.request_timeout_s)
        return [dict(row.items()) for row in rows]

    return retrying(
        call,
        settings,
        connection,
        doing="reading a query's result",
        resource=f"job {result.job_id}",
    )


def count_splits(
    connection: Connection,
    settings: BigQuerySettings,
    rows: str,
    split: SplitBuckets,
    *,
    hash_column: str | None = None,
    kind: str = "STRING",
    where: str = "",
    location: str | None = None,
    max_bytes_billed: int | None = None,
    resource: str = "the table",
) -> Counted:
    """Counts the rows of each split, exactly: see `sql.count_splits` for the arguments.

    Raises:
        JobsForbidden, BudgetError and the rest: see `run`.
    """
    result = run(
        connection,
        settings,
        sql.count_splits(rows, hash_column, split, kind=kind, where=where),
        purpose="count",
        location=location,
        max_bytes_billed=max_bytes_billed,
        resource=resource,
    )
    (row,) = rows_of_result(connection, settings, result)
    return Counted(_split_rows(row), result)


def count_chunks(
    connection: Connection,
    settings: BigQuerySettings,
    table: sql.TableName,
    split: SplitBuckets,
    *,
    hash_column: str | None = None,
    kind: str = "STRING",
    location: str | None = None,
    max_bytes_billed: int | None = None,
) -> CountedChunks:
    """Counts the rows of each split of each chunk of a table that `materialize` has chunked.

    Raises:
        JobsForbidden, BudgetError and the rest: see `run`.
    """
    result = run(
        connection,
        settings,
        sql.count_chunks(table, split, hash_column=hash_column, kind=kind),
        purpose="count",
        location=location,
        max_bytes_billed=max_bytes_billed,
        resource=str(table),
    )
    counted = rows_of_result(connection, settings, result)
    return CountedChunks(
        {int(row["chunk"]): _split_rows(row) for row in counted},
        result,
    )


def _split_rows(row: Mapping[str, Any]) -> dict[Split, int]:
    """What was counted; a server may have null for an aggregate over no rows."""
    return {"train": int(row["train_rows"] or 0), "eval": int(row["eval_rows"] or 0)}


def materialize(
    connection: Connection,
    settings: BigQuerySettings,
    statement: str,
    *,
    chunks: int | None = None,
    location: str | None = None,
    max_bytes_billed: int | None = None,
    resource: str = "the query",
) -> JobResult:
    """Writes the rows of a SELECT where sessions can read them.

    That is an anonymous table, which costs nothing and nobody else can read; or one in
    `result_dataset` where it must be: to be chunked, and for results that an anonymous table may
    not hold.

    Args:
        connection: The clients.
        settings: Limits, labels, and the dataset for results.
        statement: What `sql.select` made.
        chunks: Of how many chunks the statement's column CHUNK is.
        location: Where to run it; None to let the service find out by the tables.
        max_bytes_billed: See `run`.
        resource: What it is about, for messages.

    Raises:
        ConfigError: a table of our own is needed, and `[bigquery] result_dataset` is not set.
        JobsForbidden, BudgetError and the rest: see `run`.
    """

    def write(destination: sql.TableName | None) -> JobResult:
        return run(
            connection,
            settings,
            statement,
            purpose="materialize" if chunks is None else "chunk",
            location=location,
            destination=destination,
            range_partitioning=None if chunks is None else (sql.CHUNK, chunks),
            max_bytes_billed=max_bytes_billed,
            resource=resource,
        )

    if chunks is not None:
        return write(_result_table(connection, settings, statement))
    if settings.result_dataset is not None:
        tried = dry_run(connection, settings, statement, location=location, resource=resource)
        if tried.bytes_processed > ANONYMOUS_LIMIT_BYTES:
            return write(_result_table(connection, settings, statement))
    try:
        return write(None)
    except _TooLargeError as error:
        if settings.result_dataset is None:
            raise ConfigError(
                f"the result of {resource} is larger than the {ANONYMOUS_LIMIT_BYTES / 1e9:.0f} GB "
                "that BigQuery keeps without a name for it; set [bigquery] result_dataset to a "
                "dataset where the daemon may create tables, or name fewer columns or rows"
            ) from error
        return write(_result_table(connection, settings, statement))


class _TooLargeError(Exception):
    """The result does not fit into an anonymous table."""


class _TooExpensiveError(Exception):
    """BigQuery found that the job would be billed for more than it was told to."""


def _run_once(
    connection: Connection,
    settings: BigQuerySettings,
    statement: str,
    config: bigquery.QueryJobConfig,
    purpose: str,
    location: str | None,
    resource: str,
) -> bigquery.QueryJob:
    """One job, sent and waited for. An error of the job itself is raised as the library has it."""
    job_id = f"faucetml_{purpose.replace('-', '_')}_{uuid.uuid4().hex}"

    def send() -> bigquery.QueryJob:
        try:
            job: bigquery.QueryJob = _client(connection).query(
                statement,
                job_config=config,
                job_id=job_id,
                location=location,
                retry=None,
                job_retry=None,
                timeout=settings.request_timeout_s,
            )
        except api.Conflict:
            # An attempt before this one has arrived: nobody else knows the id.
            job = _look(connection, settings, job_id, location)
        return job

    job = _asking(send, connection, settings, doing="starting a query", resource=resource)
    deadline = time.monotonic() + settings.job_timeout_s + _GRACE_S
    wait_s = _FIRST_POLL_S
    while job.state != "DONE":
        if time.monotonic() > deadline:
            with suppress(*FOREIGN):
                job.cancel(retry=None, timeout=settings.request_timeout_s)
            raise _too_slow(resource, settings, f"job {job_id} did not end")
        time.sleep(wait_s)
        wait_s = min(2 * wait_s, _LONGEST_POLL_S)
        job = retrying(
            functools.partial(_look, connection, settings, job_id, job.location or location),
            settings,
            connection,
            doing="waiting for a query",
            resource=resource,
        )
    if job.error_result is None:
        return job
    reason, message = job.error_result.get("reason"), job.error_result.get("message", "")
    if reason == "responseTooLarge" and config.destination is None:
        raise _TooLargeError(message)
    if reason == "bytesBilledLimitExceeded" or "limit for bytes billed" in message:
        raise _TooExpensiveError(message)
    if reason in ("stopped", "timeout"):
        raise _too_slow(resource, settings, message)
    failure: api.GoogleAPICallError = cast(Any, job).exception()
    failure.message = message  # the library has it there twice
    raise failure


def _look(
    connection: Connection, settings: BigQuerySettings, job_id: str, location: str | None
) -> bigquery.QueryJob:
    try:
        job = _client(connection).get_job(
            job_id, location=location, retry=None, timeout=settings.request_timeout_s
        )
    except api.NotFound as error:
        # A job may be unknown for a moment after its insert has been acknowledged:
        # https://github.com/googleapis/python-bigquery/issues/2134
        unavailable: Any = api.ServiceUnavailable
        raise unavailable(f"job {job_id} cannot be found") from error
    assert isinstance(job, bigquery.QueryJob)
    return job


def _asking(
    call: Callable[[], T],
    connection: Connection,
    settings: BigQuerySettings,
    *,
    doing: str,
    resource: str,
) -> T:
    """`retrying`, for calls that need the permission to run jobs."""

    def checked() -> T:
        try:
            return call()
        except api.Forbidden as error:
            if "bigquery.jobs.create" not in str(error.message):
                raise
            explained = explain(
                error,
                doing=doing,
                resource=f"project {connection.project}",
                principal=connection.principal,
            )
            if not isinstance(explained, SourceForbidden):
                raise
            raise JobsForbidden(explained) from error

    return retrying(checked, settings, connection, doing=doing, resource=resource)


def _total_rows(
    connection: Connection, settings: BigQuerySettings, job: bigquery.QueryJob, resource: str
) -> int:
    def call() -> int:
        found = cast(Any, job).result(
            page_size=1, retry=None, job_retry=None, timeout=settings.request_timeout_s
        )
        return int(found.total_rows or 0)

    return retrying(
        call, settings, connection, doing="reading the size of a result", resource=resource
    )


def _create(
    connection: Connection,
    settings: BigQuerySettings,
    name: sql.TableName,
    schema: Sequence[bigquery.SchemaField],
    range_partitioning: tuple[str, int] | None,
    expires_ms: int,
    purpose: str,
) -> None:
    """Makes an empty table that will expire; one that an attempt before has made will do."""
    table = bigquery.Table(_reference(name), schema=list(schema))
    table.expires = dt.datetime.fromtimestamp(expires_ms / 1_000, dt.UTC)
    table.labels = _labels(settings, purpose)
    if range_partitioning is not None:
        table.range_partitioning = _ranges(*range_partitioning)

    def call() -> object:
        return _client(connection).create_table(
            table, exists_ok=True, retry=None, timeout=settings.request_timeout_s
        )

    try:
        retrying(
            call,
            settings,
            connection,
            doing="making a table for a result",
            resource=f"dataset {name.project}.{name.dataset}",
        )
    except SourceNotFound as error:
        raise ConfigError(
            f"[bigquery] result_dataset names {name.project}.{name.dataset}, which does not exist "
            f"({error.message}); create it where your tables are, or name another"
        ) from error


def _result_table(
    connection: Connection, settings: BigQuerySettings, statement: str
) -> sql.TableName:
    """A name that nobody has yet, in the dataset for results."""
    if settings.result_dataset is None:
        raise ConfigError(
            "this needs a table of the daemon's own in BigQuery; set [bigquery] result_dataset to "
            "a dataset where it may create tables"
        )
    digest = hashlib.sha256(statement.encode()).hexdigest()[:16]
    table = f"{TABLE_PREFIX}{digest}_{uuid.uuid4().hex[:12]}"
    return sql.parse_table(f"{settings.result_dataset}.{table}", connection.project)


def _near(connection: Connection, settings: BigQuerySettings, name: sql.TableName) -> str:
    """What else there is under nearly this name; "" if one call does not tell."""
    with suppress(*FOREIGN):
        tables = _client(connection).list_tables(
            bigquery.DatasetReference(name.project, name.dataset),
            max_results=_NAMES_LISTED,
            page_size=_NAMES_LISTED,
            retry=None,
            timeout=settings.request_timeout_s,
        )
        known = {table.table_id: table.table_id for table in tables}
        known |= {table.lower(): table for table in list(known)}  # names differ by case
        near = difflib.get_close_matches(name.table.lower(), known, n=6)
        if found := list(dict.fromkeys(known[table] for table in near))[:3]:
            return f". Did you mean {' or '.join(found)}?"
        if not known:
            return f". The dataset {name.project}.{name.dataset} has no tables"
    return ""


def _first_timeout_s(settings: BigQuerySettings) -> tuple[float, float]:
    """To connect, and to answer, of a request that may be the first to where nobody is."""
    return min(_CONNECT_S, settings.request_timeout_s), settings.request_timeout_s


def _client(connection: Connection) -> Any:
    """The client; without its types, which leave out that `retry` may be None."""
    return connection.jobs


def _config(settings: BigQuerySettings, purpose: str) -> bigquery.QueryJobConfig:
    return bigquery.QueryJobConfig(labels=_labels(settings, purpose), use_legacy_sql=False)


def _labels(settings: BigQuerySettings, purpose: str) -> dict[str, str]:
    return dict(settings.labels) | {LABEL: purpose}


def _reference(name: sql.TableName) -> bigquery.TableReference:
    return bigquery.TableReference(
        bigquery.DatasetReference(name.project, name.dataset), name.table
    )


def _ranges(field: str, stop: int) -> bigquery.RangePartitioning:
    return bigquery.RangePartitioning(
        range_=bigquery.PartitionRange(start=0, end=stop, interval=1), field=field
    )


def _partitioning(table: bigquery.Table) -> Partitioning | None:
    required = bool(table.require_partition_filter)
    if (ranges := table.range_partitioning) is not None:
        return Partitioning("RANGE", ranges.field, required)
    if (times := table.time_partitioning) is not None:
        return Partitioning(times.type_ or "DAY", times.field, required)
    return None


def _too_expensive(resource: str, nbytes: int, limit: int) -> BudgetError:
    return BudgetError(
        f"{resource} would be billed for {nbytes:,} bytes, more than the {limit:,} that [bigquery] "
        f"max_bytes_billed leaves for it; name fewer columns or partitions, or raise "
        "max_bytes_billed"
    )


def _refused_as_too_expensive(resource: str, limit: int, message: str) -> BudgetError:
    """The service's own refusal, of what the dry run had let pass.

    A query is billed for 10 MiB at least of each table that it reads:
    https://cloud.google.com/bigquery/pricing#on_demand_pricing
    """
    return BudgetError(
        f"{resource} would be billed for more than the {limit:,} bytes that [bigquery] "
        f"max_bytes_billed leaves for it (BigQuery: {message}): a query is billed for 10 MiB at "
        "least of each table that it reads; raise max_bytes_billed"
    )


def _too_slow(resource: str, settings: BigQuerySettings, message: str) -> SourceReadError:
    return SourceReadError(
        f"the query for {resource} was stopped ({message}); [bigquery] job_timeout_s allows it "
        f"{settings.job_timeout_s:,.0f} s: raise that, or look who cancelled the job"
    )


def _elsewhere(
    destination: sql.TableName, location: str | None, resource: str, message: str
) -> ConfigError:
    return ConfigError(
        f"[bigquery] result_dataset names {destination.project}.{destination.dataset}, which is "
        f"not in {location or 'the same location'}, where {resource} is, and BigQuery writes "
        f"results only there; name a dataset in that location ({message})"
    )


def _ms(moment: dt.datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1_000)
