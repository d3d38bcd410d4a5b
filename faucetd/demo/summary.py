"""What the demo says at its end. All of it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from faucet_client.status import CostStatus, Status
from faucetd.demo.jobs import Job
from faucetd.demo.rows import EpochRows
from faucetd.sizes import format_size

RowsOfJobs = Mapping[str, Sequence[EpochRows]]
"""The rows that each job was given, an epoch after another, by the job's name."""


def results_table(jobs: Sequence[Job], rows: RowsOfJobs) -> Table:
    """What each training achieved."""
    table = Table(title="Four trainers, one table, one cache", title_justify="left")
    table.add_column("learning rate", justify="right")
    table.add_column("AUC after each epoch", justify="right")
    table.add_column("rows/s", justify="right")
    table.add_column("waited", justify="right")
    table.add_column("rows trained on", justify="right")
    for job in jobs:
        ends = [job.epochs[number] for number in sorted(job.epochs)]
        rows_per_s = sum(end.rows for end in ends) / sum(end.train_s for end in ends)
        table.add_row(
            f"{'* ' if job.resumption else ''}{job.learning_rate:g}",
            "  ".join(f"{end.auc:.4f}" for end in ends),
            f"{rows_per_s:,.0f}",
            f"{sum(end.seconds_waited for end in ends):.2f} s",
            _rows_text([epoch.trained for epoch in rows[job.name]]),
        )
    return table


def _rows_text(counts: Sequence[int]) -> str:
    if len(set(counts)) == 1:
        return f"{len(counts)} × {counts[0]:,}"
    return " + ".join(f"{count:,}" for count in counts)


def kill_text(job: Job) -> str:
    """What the kill of a job's trainer cost."""
    found = job.resumption
    if found is None:
        return f"The trainer {job.name} was to be killed, and had ended before that."
    killed = found.killed
    return (
        f"Killed (SIGKILL) in epoch {killed.epoch + 1}, at batch {killed.done} of "
        f"{killed.total}. After {found.seconds:.1f} s another process went on, from the checkpoint "
        f"of epoch {found.epoch + 1}, batch {found.done}: the {found.rows_again:,} rows since then "
        "were given again, since its model had not seen them."
    )


def verdict(status: Status, table_rows: int, rows: RowsOfJobs) -> str:
    """The outcome in a few words."""
    exact = "rows exact" if not _wrong(rows) else "rows NOT exact"
    return f"Read {_times(status, table_rows)}, {exact}."


def rows_lines(rows: RowsOfJobs) -> list[str]:
    """Whether each row was given once an epoch, by their ids; where not, what was wrong."""
    if wrong := _wrong(rows):
        return wrong
    epochs = [epoch for of_job in rows.values() for epoch in of_job]
    line = (
        f"In each of {len(epochs)} epochs, each row id of the table came once: "
        f"{epochs[0].trained:,} to train on, {epochs[0].evaluated:,} to evaluate."
    )
    return [line]


def _wrong(rows: RowsOfJobs) -> list[str]:
    return [
        f"{job}, epoch {number}: {epoch.missing:,} rows missing, {epoch.surplus:,} too many, "
        f"{epoch.moved:,} in the other split."
        for job, of_job in rows.items()
        for number, epoch in enumerate(of_job, 1)
        if not epoch.exact
    ]


def daemon_lines(status: Status, table_rows: int, passes: int) -> list[str]:
    """What the daemon did for the trainers.

    Args:
        status: At the end.
        table_rows: Rows of the table.
        passes: Over the table, by which these trainings would have read it alone.
    """
    bytes_read = sum(dataset.source_bytes_read for dataset in status.datasets)
    rows_served = sum(dataset.rows_served for dataset in status.datasets)
    chunks_made = sum(dataset.chunks_made for dataset in status.datasets)
    costs = [dataset.cost for dataset in status.datasets if dataset.cost is not None]
    # A warehouse reads the whole table for each split, so that its line has another figure.
    saved = [_cost_line(cost) for cost in costs] or [
        f"Trainers that read it themselves would have read {passes * table_rows:,} rows."
    ]
    read = f"{_rows_read(status):,} rows, {format_size(bytes_read)}, in {chunks_made} chunks"
    used = f"{format_size(status.memory.peak_bytes)} of {format_size(status.memory.budget_bytes)}"
    line = (
        f"The daemon read the table {_times(status, table_rows)}: {read}. It served "
        f"{rows_served:,} rows, out of at most {used} shared memory."
    )
    return [line, *saved]


def _times(status: Status, table_rows: int) -> str:
    rows_read = _rows_read(status)
    return "once" if rows_read == table_rows else f"{rows_read / table_rows:.2f} times"


def _rows_read(status: Status) -> int:
    return sum(dataset.source_rows_read for dataset in status.datasets)


def _cost_line(cost: CostStatus) -> str:
    """What the warehouse has billed; each read of a split would have been one of the table."""
    alone = format_size(round(cost.passes_served * cost.pass_bytes))
    return (
        f"BigQuery billed {format_size(cost.query_bytes)} of queries and "
        f"{format_size(cost.read_bytes)} of reading; without the cache, "
        f"{cost.passes_served:.0f} reads of the table, one for each trainer, epoch and split, "
        f"would have been {alone}."
    )
