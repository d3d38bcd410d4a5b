"""Opens datasets of warehouses; imported with their libraries when the first one is asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from faucet_client.spec import BigQuerySource, DatasetSpec, Split
from faucetd.fetch.bigquery.aggregates import Aggregates
from faucetd.fetch.bigquery.connection import Connection
from faucetd.fetch.bigquery.opening import Look, Needs, Reading, begin
from faucetd.fetch.bigquery.table import BigQueryTable, read_ticket
from faucetd.fetch.pieces import PlannedChunk
from faucetd.fetch.plan import choose_chunk_rows, open_lanes
from faucetd.fetch.split import Splitter
from faucetd.prepare.columns import PreparedColumns, resolve
from faucetd.worker.by_query import Scans
from faucetd.worker.fitting import WAREHOUSE, Fitting, TrainRows
from faucetd.worker.messages import LoadChunk, Open, Opened, Progress, SplitTotal, WarehouseFacts
from faucetd.worker.opening import (
    FITTING_STAGE,
    Tell,
    guess_chunk,
    opened,
    progress_of,
    segment_bytes,
)

STREAMS_A_WORKER = 4
"""Streams that a chunk is interleaved from, where the settings do not say."""


BLOCKED_S = 4.0
"""For which an open waits where nobody answers: long enough for a blip, short for who has mistyped
an address; an attempt that has begun by then may take as long again."""


def table_of(task: LoadChunk) -> tuple[BigQueryTable, bool]:
    """The table that the task's ticket is for, and whether it holds buckets."""
    ticket = read_ticket(task.ticket)
    settings = task.access.bigquery
    return BigQueryTable(Connection(settings), settings, ticket), ticket.has_buckets


def open_bigquery(task: Open, spec: DatasetSpec, source: BigQuerySource, tell: Tell) -> Opened:
    """Opens a dataset of BigQuery; see `opening.open_dataset`."""
    settings = task.access.bigquery
    connection = Connection(settings, blocked_s=BLOCKED_S)
    with contextlib.closing(connection):
        tell(Progress("looking at the table", 0, 0))
        look = Look(connection, settings, source)
        columns = resolve(spec, [(column.name, column.type) for column in look.columns])
        fitting = Fitting(task, spec, columns)

        def fit(
            table: BigQueryTable, splitter: Splitter | None, snapshot: str, train_rows: int
        ) -> bool:
            progress = progress_of(tell, FITTING_STAGE, train_rows)
            return fitting.fit(table, splitter, snapshot, train_rows, progress)

        def fit_by_query(
            aggregates: Aggregates, snapshot: str, rows: Callable[[], TrainRows]
        ) -> None:
            def check_cost(scans: Scans) -> None:
                nbytes = aggregates.check_cost(scans)
                stage = f"{FITTING_STAGE} by queries, billed for up to {nbytes:,} bytes"
                tell(Progress(stage, 0, 0))

            fitting.fit_by_query(aggregates, snapshot, check_cost, rows)

        asks_queries = spec.fit_on in ("auto", WAREHOUSE)
        tell(Progress("counting rows", 0, 0))
        reading = begin(
            look,
            Needs(
                columns=fitting.columns.kept_columns,
                hash_column=columns.hash_column,
                buckets=spec.split_buckets(),
                chunking=spec.chunking,
                chunk_rows=lambda rows: choose_chunk_rows(
                    rows, fitting.columns.row_nbytes, spec.chunk_rows
                ),
                too_large=lambda rows: rows * fitting.columns.row_nbytes > task.budget_bytes,
                streams=STREAMS_A_WORKER * task.workers,
                fit_columns=fitting.source_columns,
                fit=fit if fitting.needed else None,
                fit_by_query=fit_by_query if asks_queries and fitting.by_query else None,
                must_query=spec.fit_on == WAREHOUSE,
            ),
        )
        columns = fitting.columns
        facts = WarehouseFacts(
            ticket=reading.ticket.written(),
            principal=connection.principal,
            query_bytes=reading.query_bytes,
            pass_bytes=reading.pass_bytes,
            lifetime_s=reading.lifetime_s,
            notes=reading.notes,
            count_read_bytes=reading.count_read_bytes,
        )
        chunks = reading.chunks or _open_chunks(task, look, reading)
        return opened(
            task,
            columns,
            snapshot=reading.ticket.snapshot,
            chunk_rows=reading.chunk_rows,
            chunks=chunks,
            totals={} if reading.chunks else _totals(columns, reading),
            warehouse=facts,
            fit_key=fitting.key,
        )


def _open_chunks(task: Open, look: Look, reading: Reading) -> tuple[PlannedChunk, ...]:
    """The first chunk of each lane of a session."""
    table = BigQueryTable(look.connection, look.settings, reading.ticket)
    shares = {split: rows / reading.source_rows for split, rows in reading.rows.items()}
    lanes = open_lanes(table.streams(), task.workers, reading.chunk_rows)
    return tuple(
        guess_chunk(PlannedChunk(pieces, lane, 0, 0, open=True), shares)
        for lane, pieces in enumerate(lanes)
    )


def _totals(columns: PreparedColumns, reading: Reading) -> dict[Split, SplitTotal]:
    """What the segments of each split will take: those of even chunks, and of a rest a stream."""
    session = reading.ticket.session
    assert session is not None, "only sessions have chunks that are open"
    chunks = -(-reading.source_rows // reading.chunk_rows) + len(session.streams)
    return {
        split: SplitTotal(rows, chunks * segment_bytes(columns, -(-rows // chunks)))
        for split, rows in reading.rows.items()
        if rows
    }
