"""What a person sees of the demo while it runs: maps and bars on a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from faucet_client.address import Address
from faucet_client.errors import FaucetError
from faucet_client.status import Status
from faucetd.demo.interrupts import Interrupts
from faucetd.demo.jobs import Job
from faucetd.demo.progress import Batches, EpochEnd, Event, Resumed
from faucetd.top.frame import chunk_maps, legend
from faucetd.top.rates import Look
from faucetd.top.watch import Watch, Watcher

REFRESHES_A_SECOND = 10
LOOK_INTERVAL_S = 0.1

_LEAVING_S = 1.0
"""How long the end waits for a call to the daemon that is under way."""


class Display(Protocol):
    """Shows the progress of the jobs, from its start until it is stopped."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def started(self, job: Job) -> None:
        """A job's trainer was started."""
        ...

    def update(self, job: Job, event: Event) -> None:
        """A job's trainer has said something."""
        ...

    def killed(self, job: Job, last: Batches) -> None:
        """A job's trainer was killed, after it had said this; another one is started."""
        ...


def make_display(console: Console, jobs: Sequence[Job], epochs: int, address: Address) -> Display:
    """The display that suits the console."""
    if console.is_terminal:
        return LiveDisplay(console, jobs, epochs, Watch(address))
    return PlainDisplay(console)


@contextmanager
def showing(display: Display, interrupts: Interrupts) -> Iterator[None]:
    """Shows the display in this block; a terminal is as before in any case."""
    with interrupts.held():
        display.start()
    try:
        yield
    finally:
        with interrupts.held():
            display.stop()


class PlainDisplay:
    """A line for whatever happens, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def started(self, job: Job) -> None:
        """Prints a line."""
        self._console.print(f"{_name(job)}: started")

    def update(self, job: Job, event: Event) -> None:
        """Prints a line at the end of an epoch, and where a trainer goes on after a kill."""
        if isinstance(event, EpochEnd):
            self._console.print(f"{_name(job)}: {_end_text(event)}")
        elif isinstance(event, Resumed):
            self._console.print(_resumed_line(job, event))

    def killed(self, job: Job, last: Batches) -> None:
        """Prints a line."""
        self._console.print(_killed_line(job, last))


class LiveDisplay:
    """The map of the chunks, and a bar a job, redrawn in place.

    The daemon is looked at in a thread, and drawn in another (rich's); what they share is the
    status, which is replaced as a whole, and the bars, which have a lock of their own.
    """

    def __init__(self, console: Console, jobs: Sequence[Job], epochs: int, watch: Watch) -> None:
        self._console = console
        self._epochs = epochs
        self._status: Status | None = None
        self._watcher = Watcher(watch, LOOK_INTERVAL_S, self._see)
        self._progress = Progress(
            TextColumn("learning rate {task.fields[learning_rate]:<6g}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[state]:<32}"),
            TimeElapsedColumn(),
            console=console,
            expand=True,
        )
        self._tasks: dict[str, TaskID] = {
            job.name: self._progress.add_task(
                job.name,
                start=False,
                total=1.0,
                state="waits for its start",
                learning_rate=job.learning_rate,
            )
            for job in jobs
        }
        self._live = Live(
            console=console,
            get_renderable=self._picture,
            refresh_per_second=REFRESHES_A_SECOND,
        )

    def start(self) -> None:
        self._live.start()
        self._watcher.start()

    def stop(self) -> None:
        self._live.stop()
        self._watcher.end(_LEAVING_S)

    def started(self, job: Job) -> None:
        """Its clock begins to run."""
        self._progress.start_task(self._tasks[job.name])
        self._say(job, "starts")

    def update(self, job: Job, event: Event) -> None:
        """Moves the job's bar."""
        match event:
            case Batches(epoch, done, total, loss):
                self._move(job, epoch + done / total)
                again = " [green]resumed" if job.resumption else ""
                self._say(job, f"epoch {epoch + 1} of {self._epochs}, loss {loss:.3f}{again}")
            case EpochEnd():
                self._move(job, event.epoch + 1.0)
                self._say(job, _end_text(event))
            case Resumed():
                self._console.print(_resumed_line(job, event))
                self._say(job, f"[green]goes on at {_place(event.epoch, event.done)}")

    def killed(self, job: Job, last: Batches) -> None:
        """Says so, in its bar's line, and above all for those who did not look."""
        self._console.print(_killed_line(job, last))
        self._say(job, f"[red]killed at {_place(last.epoch, last.done)}")

    def _move(self, job: Job, epochs: float) -> None:
        self._progress.update(self._tasks[job.name], completed=epochs / self._epochs)

    def _say(self, job: Job, state: str) -> None:
        self._progress.update(self._tasks[job.name], state=state)

    def _see(self, found: Look | FaucetError) -> None:
        if isinstance(found, Look):
            self._status = found.status

    def _picture(self) -> RenderableType:
        chunks = chunk_lines(self._status, self._console.width)
        return Group(Text(), *chunks, Text(), self._progress.get_renderable())


def chunk_lines(status: Status | None, width: int) -> list[RenderableType]:
    """What has become of the table's chunks, in lines of at most `width` cells."""
    if status is None or not status.datasets:
        return [Text("  the table is not open yet", "bright_black")]
    dataset = status.datasets[0]
    figures = Text(
        f"  read {dataset.source_rows_read:,} rows of the source, "
        f"served {dataset.rows_served:,} to trainers"
    )
    return [*chunk_maps(dataset, width), figures, Text("  ").append_text(legend())]


def _name(job: Job) -> str:
    return f"learning rate {job.learning_rate:g}"


def _place(epoch: int, done: int) -> str:
    return f"epoch {epoch + 1}, batch {done}"


def _end_text(event: EpochEnd) -> str:
    return f"epoch {event.epoch + 1} done, AUC {event.auc:.4f}"


def _killed_line(job: Job, last: Batches) -> str:
    place = _place(last.epoch, last.done)
    return f"{_name(job)}: killed (SIGKILL) at {place} of {last.total}; starts again"


def _resumed_line(job: Job, event: Resumed) -> str:
    return f"{_name(job)}: goes on from its checkpoint, {_place(event.epoch, event.done)}"
