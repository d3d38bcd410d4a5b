"""What a person sees of the demo: bars on a terminal, lines elsewhere, a table at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from faucet_client.status import CostStatus, Status
from faucetd.demo.progress import Batches, EpochEnd, Event
from faucetd.sizes import format_size


@dataclass
class Job:
    """One trainer: what it was asked, and what it has reported so far."""

    name: str
    learning_rate: float
    epochs: list[EpochEnd] = field(default_factory=list)


class Display(Protocol):
    """Shows the progress of the jobs, within its `with` block."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def update(self, job: Job, event: Event) -> None:
        """Shows an event of a job."""
        ...


def make_display(console: Console, jobs: Sequence[Job], epochs: int) -> Display:
    """The display that suits the console."""
    return LiveDisplay(console, jobs, epochs) if console.is_terminal else PlainDisplay(console)


class LiveDisplay:
    """A bar a job, redrawn in place."""

    def __init__(self, console: Console, jobs: Sequence[Job], epochs: int) -> None:
        self._epochs = epochs
        self._progress = Progress(
            TextColumn("learning rate {task.fields[learning_rate]:<7g}"),
            BarColumn(),
            TextColumn("{task.fields[state]:<34}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {
            job.name: self._progress.add_task(
                job.name, total=None, state="starting", learning_rate=job.learning_rate
            )
            for job in jobs
        }

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, job: Job, event: Event) -> None:
        """Moves the job's bar."""
        task = self._tasks[job.name]
        match event:
            case Batches(epoch, done, total, loss):
                self._progress.update(
                    task,
                    completed=epoch * total + done,
                    total=self._epochs * total,
                    state=f"epoch {epoch + 1} of {self._epochs}, loss {loss:.3f}",
                )
            case EpochEnd():
                self._progress.update(task, state=_epoch_text(event))
                if event.epoch + 1 == self._epochs:
                    self._progress.update(task, total=1, completed=1)


class PlainDisplay:
    """A line for each epoch, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, job: Job, event: Event) -> None:
        """Prints a line at the end of an epoch."""
        if isinstance(event, EpochEnd):
            self._console.print(f"learning rate {job.learning_rate:g}: {_epoch_text(event)}")


def _epoch_text(event: EpochEnd) -> str:
    return f"epoch {event.epoch + 1} done, AUC {event.auc:.4f}"


def results_table(jobs: Sequence[Job], epochs: int) -> Table:
    """What each trainer achieved."""
    table = Table(title="Four trainers, one table, one cache", title_justify="left")
    table.add_column("learning rate", justify="right")
    for number in range(1, epochs + 1):
        table.add_column(f"AUC, epoch {number}", justify="right")
    table.add_column("rows/s", justify="right")
    table.add_column("waited for data", justify="right")
    for job in jobs:
        rows_per_s = sum(e.rows for e in job.epochs) / sum(e.train_s for e in job.epochs)
        table.add_row(
            f"{job.learning_rate:g}",
            *(f"{epoch.auc:.4f}" for epoch in job.epochs),
            f"{rows_per_s:,.0f}",
            f"{job.epochs[-1].seconds_waited:.2f} s",
        )
    return table


def daemon_lines(status: Status, table_rows: int, jobs: int, epochs: int) -> list[str]:
    """What the daemon did for them."""
    rows_read = sum(dataset.source_rows_read for dataset in status.datasets)
    bytes_read = sum(dataset.source_bytes_read for dataset in status.datasets)
    chunks_made = sum(dataset.chunks_made for dataset in status.datasets)
    alone = jobs * epochs * table_rows
    costs = [dataset.cost for dataset in status.datasets if dataset.cost is not None]
    # A warehouse reads the whole table for each split, so that its line has another figure.
    saved = [_cost_line(cost) for cost in costs] or [
        f"{jobs} trainers that read it themselves would have read {alone:,} rows."
    ]
    times = "once" if rows_read == table_rows else f"{rows_read / table_rows:.2f} times"
    used = f"{format_size(status.memory.peak_bytes)} of {format_size(status.memory.budget_bytes)}"
    return [
        f"The daemon read the table {times}: {rows_read:,} rows, {format_size(bytes_read)}.",
        *saved,
        f"It made {chunks_made} chunks, and had at most {used} shared memory in use.",
    ]


def _cost_line(cost: CostStatus) -> str:
    """What the warehouse has billed; each read of a split would have been one of the table."""
    alone = format_size(round(cost.passes_served * cost.pass_bytes))
    return (
        f"BigQuery billed {format_size(cost.query_bytes)} of queries and "
        f"{format_size(cost.read_bytes)} of reading; without the cache, "
        f"{cost.passes_served:.0f} reads of the table, one for each trainer, epoch and split, "
        f"would have been {alone}."
    )
