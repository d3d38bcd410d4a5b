"""How to read a dataset from BigQuery, decided once, when it is opened.

In two steps, since which columns are needed is decided by whoever knows the dataset, once the
columns are known: `look` finds the columns, `begin` decides and starts. What comes out is a ticket,
by which any process can read (`table`), with the exact rows of each split and what it all costs.

The cheapest way that serves is taken:

1. A read session of the table itself, with the needed columns and the filter.
2. A query into a table of ours, and a session of that: for views, external tables and queries; for
   a hash column whose text only BigQuery knows; where the service refuses the filter in a session;
   and for chunks by hash, where the query deals the rows to partitions. A user's query runs once:
   chunks are dealt from what it has written.

Rows are counted by a query, or, where these credentials may not run one, by reading the hash column
alone. Rows outside the sample are left out by the filter; train and eval rows come together and are
told apart by whoever reads.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import numpy as np
import pyarrow as pa
from google.api_core import exceptions as api

from faucet_client.spec import BigQuerySource, Split, SplitBuckets
from faucetd.errors import (
    BudgetError,
    ColumnError,
    ConfigError,
    SourceEmpty,
    SourceForbidden,
    SourceReadError,
    SpecError,
)
from faucetd.fetch.bigquery import jobs, sql
from faucetd.fetch.bigquery.aggregates import Aggregates, NotByQuery
from faucetd.fetch.bigquery.columns import flat_columns, kind_of
from faucetd.fetch.bigquery.connection import Connection
from faucetd.fetch.bigquery.jobs import JobsForbidden, TableInfo
from faucetd.fetch.bigquery.session import (
    FilterRefused,
    ReadSession,
    create_session,
    narrowest,
)
from faucetd.fetch.bigquery.settings import BigQuerySettings
from faucetd.fetch.bigquery.statistics_sql import train_rows as train_rows_of
from faucetd.fetch.bigquery.table import BigQueryTable, Ticket, flat_schema
from faucetd.fetch.pieces import UNKNOWN, Piece, PlannedChunk
from faucetd.fetch.source import Column
from faucetd.fetch.split import EVAL, TRAIN, Splitter, is_hashable

_log = logging.getLogger(__name__)

_SKEW_MS = 1_000  # for this machine's clock to be ahead: no snapshot may be in the future


@dataclass(frozen=True)
class Needs:
    """What a dataset needs of the rows.

    Attributes:
        columns: The leaves to read, by dotted path.
        hash_column: The leaf that decides the split.
        buckets: Which buckets are whose.
        chunking: "auto", "arrival" or "hash".
        chunk_rows: Chooses the rows a chunk, of all rows.
        too_large: Whether so many rows are more than the memory budget can hold.
        streams: Streams to read in parallel, if the settings do not say.
        fit_columns: Of `columns`, those that `fit` looks at.
        fit: Is called before `chunk_rows`, if the rows must be looked at first.
        fit_by_query: Is called instead, if queries shall look at them.
        must_query: Whether it is an error if only `fit` can, but for who may run no queries.
    """

    columns: tuple[str, ...]
    hash_column: str | None
    buckets: SplitBuckets
    chunking: str
    chunk_rows: Callable[[int], int]
    too_large: Callable[[int], bool]
    streams: int
    fit_columns: tuple[str, ...] = ()
    fit: Fit | None = None
    fit_by_query: FitByQuery | None = None
    must_query: bool = False


class FitByQuery(Protocol):
    """Does by queries what `Fit` does by reading."""

    def __call__(
        self,
        aggregates: Aggregates,
        snapshot: str,
        rows: Callable[[], tuple[BigQueryTable, Splitter | None, int]],
    ) -> None:
        """Has the rows looked at, if it has to.

        Args:
            aggregates: The rows of the train split.
            snapshot: Identifies the rows.
            rows: Makes the arguments of `Fit`, for who wants to see some rows as well.

        Raises:
            NotByQuery, JobsForbidden: only reading can do it.
        """
        ...


class Fit(Protocol):
    """Finds out, from the rows, what must be known before they are cut into chunks."""

    def __call__(
        self, table: BigQueryTable, splitter: Splitter | None, snapshot: str, train_rows: int
    ) -> bool:
        """Looks at the rows, if it has to; whether they were read.

        Args:
            table: Has `Needs.fit_columns`, and what the splitter needs.
            splitter: Tells the splits.
            snapshot: Identifies the rows.
            train_rows: How many of them are of the train split.
        """
        ...


@dataclass(frozen=True)
class Reading:
    """What was decided.

    Attributes:
        ticket: What to read.
        rows: Of each split, exact.
        source_rows: That a pass reads: more than `rows`, where the sample is dealt while reading.
        chunk_rows: Of these a chunk, at most, of a session; about, of chunks by hash.
        chunks: The plan, if it is known: the chunks by hash.
        query_bytes: What opening was billed for.
        count_read_bytes: Of these, what counting and fitting by reading was, at the price of
            reading.
        pass_bytes: What a pass is billed for, as the service estimates.
        lifetime_s: Seconds for which the ticket serves.
        notes: What a person should know of the way that was taken.
    """

    ticket: Ticket
    rows: dict[Split, int]
    source_rows: int
    chunk_rows: int
    chunks: tuple[PlannedChunk, ...]
    query_bytes: int
    count_read_bytes: int
    pass_bytes: int
    lifetime_s: float
    notes: tuple[str, ...]


class Look:
    """A table, view or query, looked at.

    Args:
        connection: The clients.
        settings: How to reach the service, and what it may cost.
        source: What to look at.

    Attributes:
        columns: Its leaves, in its order.

    Raises:
        SpecError: the source contradicts the table, as a partition_date where there is none.
        SourceNotFound, SourceForbidden, SourceReadError, ConfigError: see `faults`.
    """

    def __init__(
        self, connection: Connection, settings: BigQuerySettings, source: BigQuerySource
    ) -> None:
        self.connection = connection
        self.settings = settings
        self.source = source
        self.info: TableInfo | None = None
        self.location: str | None = None
        if source.table is not None:
            self.info = jobs.describe(connection, settings, source.table)
            self.location = self.info.location
            self.schema = self.info.schema
            self.resource = self.info.table
            self.where = sql.all_of(
                _partition_filter(source, self.info), sql.user_filter(source.filter)
            )
        else:
            assert source.query is not None, "a source has a table or a query"
            self.resource = "the query"
            self.where = ""
            try:
                tried = jobs.dry_run(
                    connection, settings, sql.single_statement(source.query), resource=self.resource
                )
            except JobsForbidden as error:
                raise error.explained from error
            if tried.statement not in (None, "SELECT"):
                raise SpecError(
                    "BigQuerySource.query must be exactly one SELECT statement, but BigQuery reads "
                    f"it as {tried.statement}"
                )
            self.schema = tried.schema
            self.location = tried.location
        self.columns: Sequence[Column] = flat_columns(self.schema, self.resource)

    def kind(self, column: str | None) -> str:
        """The type of a leaf in BigQuery's word."""
        return "STRING" if column is None else kind_of(self.schema, column)


def begin(look: Look, needs: Needs) -> Reading:
    """Counts the rows, decides how to read them, and makes the sessions and tables for it.

    Raises:
        SourceEmpty: there are no rows to read.
        BudgetError: it would be billed for more than `max_bytes_billed`.
        ConfigError: a dataset for results is needed, and none is set.
        SourceNotFound, SourceForbidden, SourceReadError: see `faults`.
    """
    try:
        return _Beginning(look, needs).decide()
    except SourceReadError as error:
        condition = look.source.filter
        if condition is None or not isinstance(error.__cause__, api.BadRequest):
            raise
        raise SourceReadError(
            f"{error.message}. `filter` is what stands after WHERE, without that word: "
            f"filter={condition!r}"
        ) from error.__cause__


@dataclass
class _Rows:
    """Where the rows stand that sessions shall read.

    Attributes:
        table: The table.
        where: What rows of it must meet, in SQL.
        snapshot_ms: As of when; None for a table of ours, which does not change.
        has_buckets: Whether it has the column of buckets.
        rows: Of all of it, where they are known: of a table of ours, which has those of the splits
            alone.
        leaves: Its leaves, where they are not those of the source.
    """

    table: sql.TableName
    where: str
    snapshot_ms: int | None
    has_buckets: bool = False
    rows: int | None = None
    leaves: tuple[str, ...] = ()


@dataclass
class _Beginning:
    """One `begin`: what is decided step by step, and what that has cost.

    Attributes:
        look: What to read.
        needs: What of it.
        query_bytes: What was billed so far.
        count_read_bytes: Of these, what counting by reading was.
        source_rows: What a pass reads, where counting by reading has found it.
        notes: What a person should know.
        why_query: Why only a query serves, if so.
        jobs_forbidden: What was answered to who may run no query.
        snapshot_ms: As of when the table is read.
    """

    look: Look
    needs: Needs
    query_bytes: int = 0
    count_read_bytes: int = 0
    source_rows: int | None = None
    notes: list[str] = field(default_factory=list)
    why_query: str = ""
    jobs_forbidden: JobsForbidden | None = None
    snapshot_ms: int | None = None

    def decide(self) -> Reading:
        look, needs = self.look, self.needs
        self._check_hash_column()
        self._check_result_dataset()
        self.snapshot_ms = self._choose_snapshot_ms()
        rows = self._direct() or self._write()
        counted = self._count(rows) if rows.rows is None else None
        total = sum(counted.values()) if counted is not None else rows.rows or 0
        if total == 0:
            raise SourceEmpty(
                f"{look.resource}{self._part()} has no rows in the splits; {self._remedy()}"
            )
        if needs.fit is not None:
            counted = counted or self._count(rows)
            self._fit(rows, needs.fit, counted["train"])
        chunk_rows = min(needs.chunk_rows(total), total)
        if self._by_hash(total):
            return self._chunked(rows, total, chunk_rows)
        return self._streamed(rows, counted or self._count(rows), chunk_rows)

    # The moment.

    def _choose_snapshot_ms(self) -> int | None:
        """As of when a table is read, by the service's clock; None for what has no history."""
        look = self.look
        if look.info is None or look.info.kind not in ("TABLE", "CLONE"):
            return None
        asked = look.source.snapshot_ms()
        if asked is not None:
            return asked
        try:
            now = jobs.server_now_ms(look.connection, look.settings)
        except JobsForbidden as error:
            self._forbidden(error)
            # The service's own word, too, and nothing has changed since.
            now = look.info.modified_ms
            if look.info.streaming:
                # But for rows in the streaming buffer, which it leaves out.
                now = max(now, round(time.time() * 1_000) - _SKEW_MS)
                self.notes.append(
                    f"{look.info.table} is being streamed into: it is read as of a second before "
                    "it was opened by this machine's clock, without the rows that came later"
                )
        return max(now, look.info.created_ms)

    def _forbidden(self, error: JobsForbidden) -> None:
        if self.jobs_forbidden is None:
            self.notes.append(
                f"{self.look.connection.principal} may not run queries "
                "(bigquery.jobs.create): rows are counted by reading"
            )
        self.jobs_forbidden = error

    # The way.

    def _check_hash_column(self) -> None:
        """Refuses what BigQuery casts to no text.

        https://cloud.google.com/bigquery/docs/reference/standard-sql/conversion_functions#cast_as_string
        """
        kind = self._hash_type()
        word = self.look.kind(self.needs.hash_column)
        if word in ("GEOGRAPHY", "JSON") or (kind is not None and pa.types.is_nested(kind)):
            listed = "ARRAY of " if kind is not None and pa.types.is_list(kind) else ""
            raise ColumnError(
                f"hash_column {self.needs.hash_column!r} is of type {listed}{word}, which has no "
                "text to hash; name a column of integers, text or dates"
            )

    def _direct(self) -> _Rows | None:
        """The table itself, if sessions of it serve."""
        info = self.look.info
        if info is None or not info.readable:
            if info is not None:
                self.why_query = f"{info.table} is of type {info.kind}"
            so = f"{self.why_query}, so a query" if self.why_query else "a query"
            self.notes.append(f"{so} has written the rows to be read")
            return None
        if not self._hash_is_local():
            self.why_query = f"only BigQuery knows the text of {self.needs.hash_column}"
            self.notes.append(f"a query has computed the split: {self.why_query}")
            return None
        rows = _Rows(info.name, self.look.where, self.snapshot_ms)
        return rows if self._filter_serves(rows) else None

    def _hash_is_local(self) -> bool:
        """Whether whoever reads can compute the split."""
        kind = self._hash_type()
        return kind is None or is_hashable(kind)

    def _hash_type(self) -> pa.DataType | None:
        for column in self.look.columns:
            if column.name == self.needs.hash_column:
                return column.type
        return None

    def _sample(self) -> str:
        needs = self.needs
        return sql.sample_filter(
            needs.hash_column, needs.buckets, kind=self.look.kind(needs.hash_column)
        )

    def _filter_serves(self, rows: _Rows) -> bool:
        """Whether the service takes the filter in a session, which `rows` then has.

        It is tried on a session of one column, which is thrown away: one that is not read costs
        nothing.
        """
        sample = self._sample()
        where = sql.all_of(rows.where, sample)
        if not where:
            return True
        try:
            self._session(rows, where, [self._cheapest()], streams=1)
        except FilterRefused as error:
            if self.jobs_forbidden is not None:
                if rows.where:
                    self.why_query = f"a read session refused the filter ({error})"
                    raise self._query_forbidden(self.jobs_forbidden) from error
                return True  # the sample is dealt while reading, at the price of reading all
            _log.warning("BigQuery refused a filter in a read session: %s", error)
            self.notes.append(f"a query applies the filter, which a read session refused: {error}")
            return False
        rows.where = where
        return True

    def _check_result_dataset(self) -> None:
        if self.needs.chunking == "hash" and self.look.settings.result_dataset is None:
            raise ConfigError(
                'chunking="hash" writes a table: set [bigquery] result_dataset to a dataset where '
                'the daemon may create tables, or use chunking="arrival"'
            )

    def _by_hash(self, total: int) -> bool:
        chunking = self.needs.chunking
        settings = self.look.settings
        if chunking == "hash" and self.jobs_forbidden is not None:
            raise self.jobs_forbidden.explained
        if chunking != "auto":
            return chunking == "hash"
        if not self.needs.too_large(total):
            self.notes.append(
                'chunking="auto" took "arrival": memory and spill budget hold the prepared rows, '
                "so that the table is read once"
            )
            return False
        if settings.result_dataset is None or self.jobs_forbidden is not None:
            remedy = "with [bigquery] result_dataset set"
            if self.jobs_forbidden is not None:
                remedy = "if queries were allowed (bigquery.jobs.create), and result_dataset set,"
            self.notes.append(
                'chunking="auto" took "arrival": the prepared rows exceed memory and spill budget, '
                "so later epochs read the table again, which works for the 6 hours of a read "
                "session; "
                f'{remedy} it would be read by chunking="hash", until that table expires '
                "(result_expiry_s)"
            )
            return False
        self.notes.append(
            'chunking="auto" took "hash": the prepared rows exceed memory and spill budget, and a '
            "table of ours can be read for longer than a read session"
        )
        return True

    def _write(self, chunks: int | None = None, written: _Rows | None = None) -> _Rows:
        """Has a query write the needed rows into a table that sessions can read.

        Args:
            chunks: To how many chunks to deal them.
            written: What an earlier query of ours has written, to write that again.
        """
        look, needs = self.look, self.needs
        leaves = self._leaves()
        bucket = None
        if written is not None and written.has_buckets:
            bucket = sql.path(sql.BUCKET, sql.ROWS)
            leaves = list(written.leaves)
        elif not self._hash_is_local() and needs.hash_column is not None:
            bucket = sql.bucket(
                needs.hash_column,
                needs.buckets.buckets,
                kind=look.kind(needs.hash_column),
                alias=sql.ROWS,
            )
            leaves = [leaf for leaf in leaves if leaf in needs.columns]
        statement = sql.select(
            self._from() if written is None else sql.rows_of(written.table),
            leaves,
            where=sql.all_of(look.where, self._sample()) if written is None else "",
            bucket_of=bucket,
            chunks=chunks,
        )
        try:
            result = jobs.materialize(
                look.connection,
                look.settings,
                statement,
                chunks=chunks,
                location=look.location,
                max_bytes_billed=self._left(),
                resource=look.resource,
            )
        except JobsForbidden as error:
            raise self._query_forbidden(error) from error
        self.query_bytes += result.bytes_billed
        has_buckets = bucket is not None
        return _Rows(result.destination, "", None, has_buckets, result.rows, tuple(leaves))

    def _query_forbidden(self, error: JobsForbidden) -> SourceForbidden:
        why = f". Only a query could read this: {self.why_query}" if self.why_query else ""
        return SourceForbidden(f"{error.explained.message}{why}")

    def _from(self) -> str:
        look = self.look
        if look.info is None:
            assert look.source.query is not None
            return sql.rows_of_query(look.source.query)
        return sql.rows_of(look.info.name, self.snapshot_ms)

    def _leaves(self) -> list[str]:
        needs = self.needs
        hashed = [] if needs.hash_column is None else [needs.hash_column]
        return list(dict.fromkeys([*needs.columns, *hashed]))

    def _left(self) -> int | None:
        """What of the limit is left."""
        limit = self.look.settings.max_bytes_billed
        return None if limit is None else max(limit - self.query_bytes, 0)

    # Counting.

    def _count(self, rows: _Rows) -> dict[Split, int]:
        needs = self.needs
        if needs.hash_column is None and rows.rows is not None:
            return {"train": rows.rows, "eval": 0}
        if self.jobs_forbidden is None:
            try:
                return self._count_by_query(rows)
            except JobsForbidden as error:
                self._forbidden(error)
        return self._count_by_reading(rows)

    def _count_by_query(self, rows: _Rows) -> dict[Split, int]:
        look, needs = self.look, self.needs
        counted = jobs.count_splits(
            look.connection,
            look.settings,
            sql.rows_of(rows.table, rows.snapshot_ms),
            needs.buckets,
            hash_column=sql.BUCKET if rows.has_buckets else needs.hash_column,
            kind=look.kind(needs.hash_column),
            where=rows.where,
            location=look.location,
            max_bytes_billed=self._left(),
            resource=look.resource,
        )
        self.query_bytes += counted.job.bytes_billed
        return dict(counted.rows)

    def _count_by_reading(self, rows: _Rows) -> dict[Split, int]:
        needs = self.needs
        column = needs.hash_column or self._cheapest()
        session = self._session(rows, rows.where, [column], streams=4)
        self._check_cost(session, "counting the rows of")
        self.query_bytes += session.estimated_bytes
        self.count_read_bytes += session.estimated_bytes
        self.source_rows = 0
        counted = np.zeros(2, np.int64)
        table = self._table(self._ticket(rows, session, (column,)))
        splitter = None if needs.hash_column is None else self._splitter(table)
        for stream in table.streams():
            for fetched in table.read(Piece(stream.id, 0, UNKNOWN), [column]):
                self.source_rows += fetched.batch.num_rows
                if splitter is None:
                    counted[TRAIN] += fetched.batch.num_rows
                    continue
                codes = splitter.assign(fetched.batch.column(0))
                counted += [np.count_nonzero(codes == code) for code in (TRAIN, EVAL)]
        table.stop()
        return {"train": int(counted[TRAIN]), "eval": int(counted[EVAL])}

    def _fit_by_query(
        self,
        rows: _Rows,
        fit: FitByQuery,
        snapshot: str,
        to_read: Callable[[], tuple[BigQueryTable, Splitter | None, int]],
    ) -> bool:
        """Whether queries could do it."""
        look, needs = self.look, self.needs
        aggregates = Aggregates(
            look.connection,
            look.settings,
            train_rows_of(
                sql.rows_of(rows.table, rows.snapshot_ms),
                rows.where,
                needs.buckets,
                sql.BUCKET if rows.has_buckets else needs.hash_column,
                kind=look.kind(needs.hash_column),
            ),
            look.kind,
            resource=look.resource,
            location=look.location,
            left=self._left(),
        )
        try:
            if self.jobs_forbidden is None:
                fit(aggregates, snapshot, to_read)
                return True
            why = "queries are needed to fit it where the rows are"
        except JobsForbidden as error:
            self._forbidden(error)
            why = "queries are needed to fit it where the rows are"
        except NotByQuery as error:
            if needs.must_query:
                raise error.explained from error
            why = str(error)
        finally:
            self.query_bytes += aggregates.bytes_billed
        self.notes.append(f"the preprocessing is fitted to a sample that is read: {why}")
        return False

    def _last_change(self, rows: _Rows) -> str:
        """The moment that identifies the rows of a table: what was fitted to them then still holds.

        The table is looked at once more: what has changed it before the snapshot is then known.
        """
        if rows.snapshot_ms is None:
            return ""
        look = self.look
        info = jobs.describe(look.connection, look.settings, str(rows.table))
        unchanged = info.modified_ms < rows.snapshot_ms and not info.streaming
        return f"@{info.modified_ms if unchanged else rows.snapshot_ms}"

    def _fit(self, rows: _Rows, fit: Fit, train_rows: int) -> None:
        needs = self.needs
        snapshot = f"{rows.table}{self._last_change(rows)}"
        opened: list[BigQueryTable] = []

        def to_read() -> tuple[BigQueryTable, Splitter | None, int]:
            table, splitter, _ = self._to_look_at(rows)
            opened.append(table)
            return table, splitter, train_rows

        try:
            if needs.fit_by_query is not None and self._fit_by_query(
                rows, needs.fit_by_query, snapshot, to_read
            ):
                return
            table, splitter, session = self._to_look_at(rows)
            opened.append(table)
            self._check_cost(session, "fitting the preprocessing of")
            if fit(table, splitter, snapshot, train_rows):
                self.query_bytes += session.estimated_bytes
                self.count_read_bytes += session.estimated_bytes
        finally:
            for table in opened:
                table.stop()

    def _to_look_at(self, rows: _Rows) -> tuple[BigQueryTable, Splitter | None, ReadSession]:
        """A session of the features, and what tells the splits; it costs nothing unread."""
        needs = self.needs
        hashed = [] if rows.has_buckets or needs.hash_column is None else [needs.hash_column]
        fields = tuple(dict.fromkeys([*needs.fit_columns, *hashed]))
        wanted = [*fields, sql.BUCKET] if rows.has_buckets else list(fields)
        session = self._session(rows, rows.where, wanted, streams=needs.streams)
        table = self._table(self._ticket(rows, session, fields))
        if rows.has_buckets:
            (column,) = (c for c in table.columns() if c.name == sql.BUCKET)
            return table, Splitter(column, needs.buckets, holds_buckets=True), session
        return table, None if needs.hash_column is None else self._splitter(table), session

    def _splitter(self, table: BigQueryTable) -> Splitter:
        (column,) = (c for c in table.columns() if c.name == self.needs.hash_column)
        return Splitter(column, self.needs.buckets)

    def _cheapest(self) -> str:
        """A column to count rows by: of fixed width, and in no STRUCT, if there is one.

        Every server can read such a column; some local ones cannot read a leaf by itself.
        """
        if self.needs.hash_column is not None:
            return self.needs.hash_column
        columns = self.look.columns
        best = min(columns, key=lambda c: (not pa.types.is_primitive(c.type), "." in c.name))
        return best.name

    # What comes out.

    def _streamed(self, rows: _Rows, counted: dict[Split, int], chunk_rows: int) -> Reading:
        settings = self.look.settings
        fields = tuple(self.needs.columns) if rows.has_buckets else tuple(self._leaves())
        wanted = [*fields, sql.BUCKET] if rows.has_buckets else list(fields)
        session = self._session(
            rows, rows.where, wanted, streams=settings.max_streams or self.needs.streams
        )
        self._check_cost(session, "reading")
        if not session.streams:
            raise SourceReadError(
                f"{self.look.resource}: BigQuery counted {sum(counted.values()):,} rows, and its "
                "read session has none"
            )
        # Where the sample is dealt while reading, a chunk takes that many more of the table's rows.
        total = sum(counted.values())
        source_rows = max(self.source_rows or 0, total)
        return Reading(
            ticket=self._ticket(rows, session, fields),
            rows=counted,
            source_rows=source_rows,
            chunk_rows=-(-chunk_rows * source_rows // total),
            chunks=(),
            query_bytes=self.query_bytes,
            count_read_bytes=self.count_read_bytes,
            pass_bytes=session.estimated_bytes,
            lifetime_s=session.lifetime_s - (time.time() - session.created_at),
            notes=tuple(self.notes),
        )

    def _check_cost(self, session: ReadSession, doing: str) -> None:
        """Refuses to read a session that costs too much: one that is not read costs nothing."""
        limit = self.look.settings.max_bytes_billed
        if limit is not None and session.estimated_bytes > limit:
            raise BudgetError(
                f"{doing} {self.look.resource} would be billed for about "
                f"{session.estimated_bytes:,} bytes, and [bigquery] max_bytes_billed is "
                f"{limit:,}: raise it, or read fewer columns, a partition or a sample"
            )

    def _chunked(self, rows: _Rows, total: int, chunk_rows: int) -> Reading:
        look, needs = self.look, self.needs
        number = min(max(-(-total // chunk_rows), 1), sql.MAX_CHUNKS)
        written = self._write(number, rows if rows.rows is not None else None)
        try:
            counted = jobs.count_chunks(
                look.connection,
                look.settings,
                written.table,
                needs.buckets,
                hash_column=sql.BUCKET if written.has_buckets else needs.hash_column,
                kind=look.kind(needs.hash_column),
                location=look.location,
                max_bytes_billed=self._left(),
            )
        except JobsForbidden as error:
            raise error.explained from error
        self.query_bytes += counted.job.bytes_billed
        sizes = {chunk: sum(rows.values()) for chunk, rows in counted.rows.items()}
        info = jobs.describe(look.connection, look.settings, str(written.table))
        fields = tuple(needs.columns) if written.has_buckets else tuple(self._leaves())
        ticket = msgspec.structs.replace(
            self._ticket(written, None, fields),
            snapshot=self._identity_of_chunks(written.table, total, number),
            chunk_table=str(written.table),
            chunk_rows={chunk: rows for chunk, rows in sizes.items() if rows},
        )
        chunks = tuple(
            PlannedChunk((Piece(str(chunk), 0, sizes[chunk]),), lane, split["train"], split["eval"])
            for lane, (chunk, split) in enumerate(sorted(counted.rows.items()))
            if sizes[chunk]
        )
        self.notes.append(
            f"read by chunks from {written.table}, which expires "
            f"{look.settings.result_expiry_s / 3_600:.0f} h after it was written"
        )
        return Reading(
            ticket=ticket,
            rows={
                "train": sum(chunk.train_rows for chunk in chunks),
                "eval": sum(chunk.eval_rows for chunk in chunks),
            },
            source_rows=sum(sizes.values()),
            chunk_rows=max(sizes.values()),
            chunks=chunks,
            query_bytes=self.query_bytes,
            count_read_bytes=self.count_read_bytes,
            pass_bytes=info.nbytes,
            lifetime_s=look.settings.result_expiry_s,
            notes=tuple(self.notes),
        )

    def _identity_of_chunks(self, written: sql.TableName, rows: int, chunks: int) -> str:
        """What decides the rows of each chunk; of a table the same whenever it is dealt.

        A table that has not changed since is as good as an older one; its rows are in it for those
        that are still in the streaming buffer. What a query gave may never be given again.
        """
        info = self.look.info
        if info is None or self.snapshot_ms is None:
            return str(written)
        moment = min(info.modified_ms, self.snapshot_ms)
        return f"{info.table}@{moment}, {rows} rows in {chunks} chunks, equal rows numbered"

    def _ticket(self, rows: _Rows, session: ReadSession | None, fields: tuple[str, ...]) -> Ticket:
        at = "" if rows.snapshot_ms is None else f"@{rows.snapshot_ms}"
        way = "" if session is None else f" {session.name}"
        return Ticket(
            resource=self.look.resource,
            snapshot=f"{rows.table}{at}{way}",
            schema=flat_schema(self.look.columns),
            fields=fields,
            has_buckets=rows.has_buckets,
            session=session,
        )

    def _session(
        self, rows: _Rows, where: str, columns: Sequence[str], *, streams: int
    ) -> ReadSession:
        return create_session(
            self.look.connection,
            self.look.settings,
            table=str(rows.table),
            columns=narrowest(columns, rows.leaves or [c.name for c in self.look.columns]),
            row_restriction=where,
            snapshot_ms=rows.snapshot_ms,
            max_streams=streams,
        )

    def _table(self, ticket: Ticket) -> BigQueryTable:
        return BigQueryTable(self.look.connection, self.look.settings, ticket)

    def _part(self) -> str:
        source = self.look.source
        if source.partition_date is not None:
            return f", partition {source.partition_date},"
        return "" if source.filter is None else f" WHERE {source.filter}"

    def _remedy(self) -> str:
        """What to do where there are no rows."""
        source, needs = self.look.source, self.needs
        named = []
        if source.partition_date is not None:
            named.append("partition_date")
        if source.filter is not None:
            named.append("filter")
        if source.query is not None:
            named.append("query")
        if needs.hash_column is not None and needs.buckets.eval_end < needs.buckets.buckets:
            named.append("sample_percent")
        if not named:
            return "write some first, or name another table"
        return f"check {', '.join(named)}, which may leave all of them out"


def _partition_filter(source: BigQuerySource, info: TableInfo) -> str:
    if source.partition_date is None:
        return ""
    partitioning = info.partitioning
    if partitioning is None or partitioning.field is not None:
        how, column = "is not partitioned", "a column"
        if partitioning is not None and partitioning.field is not None:
            column = partitioning.field
            how = f"is partitioned by its column {column}"
        example = f"{column} = '{source.partition_date}'"
        raise SpecError(
            f"partition_date is for tables partitioned by ingestion time, and {info.table} {how}; "
            f'name the rows by filter= instead, as in filter="{example}"'
        )
    return sql.partition_filter(partitioning.unit, source.partition_date)
