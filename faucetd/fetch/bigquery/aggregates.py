"""Runs the queries that a preprocessing spec is fitted by, and reads what they give.

Every query is a job of its own, checked against what is left of `max_bytes_billed` before it runs;
its result, an anonymous table, is read by a session, as exact as it is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

from faucetd.errors import BudgetError, ColumnError, FaucetError, SourceNotFound
from faucetd.fetch.bigquery import jobs, sql, statistics_sql
from faucetd.fetch.bigquery.connection import Connection
from faucetd.fetch.bigquery.session import create_session
from faucetd.fetch.bigquery.settings import BigQuerySettings
from faucetd.fetch.bigquery.table import BigQueryTable, Ticket, flat_schema
from faucetd.fetch.pieces import UNKNOWN, Piece
from faucetd.fetch.statistics_sql import Rows, Value

_STREAMS = 4
LEAST_BILLED_BYTES = 10 << 20
"""What a query is billed for at least, of each table that it reads.

https://cloud.google.com/bigquery/pricing#on_demand_pricing
"""


class NotByQuery(Exception):  # like JobsForbidden, no error if there is another way
    """A fit cannot be done by queries, but by reading.

    Attributes:
        explained: The error for people, if there is no other way.
    """

    def __init__(self, explained: FaucetError) -> None:
        super().__init__(explained.message)
        self.explained = explained


_NO_EXPRESSION = ("JSON", "GEOGRAPHY")
"""Types whose text a query would write otherwise than a session delivers it."""


class Aggregates:
    """The train split's rows, for queries over them (`worker.by_query.Engine`).

    Args:
        connection: The clients.
        settings: Limits and labels.
        rows: The train split.
        kind: Tells a leaf's type, in BigQuery's word.
        resource: What it is called in messages.
        location: Where jobs run.
        left: Of `max_bytes_billed`; None without a limit.

    Attributes:
        bytes_billed: What the queries have cost so far.
    """

    words = statistics_sql.WORDS

    def __init__(
        self,
        connection: Connection,
        settings: BigQuerySettings,
        rows: Rows,
        kind: Callable[[str], str],
        resource: str,
        location: str | None,
        left: int | None,
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._kind = kind
        self._resource = resource
        self._location = location
        self._left = left
        self.rows = rows
        self.bytes_billed = 0

    def column(self, path: str) -> str:
        """A leaf's expression.

        Raises:
            NotByQuery: no query can be written for its type.
        """
        kind = self._kind(path)
        if kind in _NO_EXPRESSION:
            raise NotByQuery(
                ColumnError(
                    f'fit_on="warehouse": column "{path}" is of type {kind}, which is fitted only '
                    'by reading: use fit_on="sample", or cast it to STRING in the source\'s query'
                )
            )
        return sql.path(path, sql.ROWS)

    def check_cost(self, scans: Sequence[tuple[str, int]]) -> int:
        """What the fit is billed for at most, by dry runs of what it begins with.

        Args:
            scans: Statements, each with the number of queries that read no more than it does.

        Raises:
            NotByQuery: it is more than is left of `max_bytes_billed`.
            JobsForbidden and the rest: see `jobs.dry_run`.
        """
        nbytes = 0
        for statement, queries in scans:
            tried = jobs.dry_run(
                self._connection,
                self._settings,
                statement,
                location=self._location,
                resource=self._resource,
            )
            nbytes += queries * max(tried.bytes_processed, LEAST_BILLED_BYTES)
        if self._left is not None and nbytes > self._left:
            raise NotByQuery(
                BudgetError(
                    f"fitting the preprocessing of {self._resource} by queries would be billed for "
                    f"up to {nbytes:,} bytes, and [bigquery] max_bytes_billed leaves "
                    f'{self._left:,}: raise it, name fewer features, or use fit_on="sample"'
                )
            )
        return nbytes

    def sample(self, values: Sequence[Value], share: float) -> str:
        """See `statistics_sql.sample`."""
        return statistics_sql.sample(self.rows, values, share)

    def run(self, statement: str) -> pa.Table:
        """The rows of a SELECT; a table without columns where there is none.

        Raises:
            NotByQuery: the server does not let the result be read.
            JobsForbidden, BudgetError and the rest: see `jobs.run`.
        """
        left = None if self._left is None else max(self._left - self.bytes_billed, 0)
        result = jobs.run(
            self._connection,
            self._settings,
            statement,
            purpose="fit",
            location=self._location,
            max_bytes_billed=left,
            resource=self._resource,
        )
        self.bytes_billed += result.bytes_billed
        if not result.rows:
            return pa.table({})
        try:
            session = create_session(
                self._connection,
                self._settings,
                table=str(result.destination),
                columns=None,
                max_streams=_STREAMS,
            )
        except SourceNotFound as error:
            # The query has written it just now: this server does not show results to sessions, as
            # local ones do not (bqemulator 1.4).
            raise NotByQuery(error) from error
        ticket = Ticket(self._resource, session.name, flat_schema(()), (), session=session)
        table = BigQueryTable(self._connection, self._settings, ticket)
        names = [column.name for column in table.columns()]
        try:
            batches = [
                fetched.batch
                for stream in table.streams()
                for fetched in table.read(Piece(stream.id, 0, UNKNOWN), names)
            ]
        finally:
            table.stop()
        return pa.Table.from_batches(batches)
