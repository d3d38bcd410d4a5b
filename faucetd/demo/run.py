"""Runs the demo: a table, a daemon, four trainers, a display. It leaves nothing behind.

The table is in a DuckDB file, and is loaded into BigQuery from there if it is to be in BigQuery.
"""

from __future__ import annotations

import os
import queue
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from faucet_client.address import ADDRESS_VARIABLE, Address, parse_address
from faucet_client.errors import DaemonUnreachable, FaucetError
from faucet_client.status import Status
from faucetd.config import VARIABLE_PREFIX
from faucetd.demo.bigquery import DemoTable, Warehouse, cost_lines
from faucetd.demo.display import Job, daemon_lines, make_display, results_table
from faucetd.demo.interrupts import Interrupts
from faucetd.demo.processes import Child, Processes
from faucetd.demo.progress import EpochEnd, Event, Failure, read_event
from faucetd.demo.table import LATE_MINUTES, make_table
from faucetd.probe import probe

LEARNING_RATES = (0.1, 0.01, 0.001, 0.0001)
EPOCHS = 2
MEMORY_BUDGET = "256MiB"

START_TIMEOUT_S = 30.0
SILENCE_TIMEOUT_S = 60.0
"""A trainer reports several times a second, once it has imported torch and opened the table."""

OPENING_TIMEOUT_S = 600.0
"""Until then, BigQuery counts the table's rows, which a local server does slowly."""

_Report = tuple[Job, Event | None]


def run(warehouse: Warehouse | None = None, rows: int | None = None) -> None:
    """Runs the demo.

    Args:
        warehouse: Where the table goes; by default into a file.
        rows: Flights to take at most; by default all.

    Raises:
        FaucetError: the daemon, a trainer or BigQuery failed; the message has the end of the log.
        ModuleNotFoundError: the demo's table is not installed.
    """
    console = Console(highlight=False)
    started = time.monotonic()
    with ExitStack() as stack:
        # They end in the opposite order: the processes first, then the table in BigQuery, then the
        # folder, then the signals.
        interrupts = stack.enter_context(Interrupts())
        with interrupts.held():
            temporary = tempfile.TemporaryDirectory(prefix="faucetd-demo-")
            folder = Path(stack.enter_context(temporary))
        address = parse_address(f"{folder}/faucetd.sock")

        console.print("Writing the flights of 2013 into a DuckDB file …")
        database = folder / "flights.duckdb"
        table_rows = make_table(database, rows)
        source = ["--database", str(database)]
        options = {"allowed-roots": str(folder)}
        if warehouse is not None:
            table = stack.enter_context(DemoTable(warehouse, console, interrupts))
            console.print(f"Loading them into {table.name} …")
            for line in cost_lines(table.write(database), table_rows):
                console.print(line)
            source = ["--table", table.name]
            options = _reaching(warehouse, folder)

        environ = _environ(address, folder)
        processes = stack.enter_context(Processes(folder, environ, interrupts))
        daemon = _start_daemon(processes, address, folder, options)
        console.print(
            f"Training on {table_rows:,} flights: which arrive more than {LATE_MINUTES} minutes "
            "late?"
        )
        jobs = _train(processes, daemon, source, console)
        status = _status(address)

    console.print()
    console.print(results_table(jobs, EPOCHS))
    for line in daemon_lines(status, table_rows, len(jobs), EPOCHS):
        console.print(line)
    console.print(f"All of it took {time.monotonic() - started:.0f} s.\n")
    own = "--allowed-roots /your/folder" if warehouse is None else "--bigquery-project your-project"
    console.print("What to try next:")
    console.print(f"  read the script that trained   {Path(__file__).parent / 'trainer.py'}")
    console.print(f"  serve your own tables          faucetd serve {own}")
    console.print("  watch the daemon at work       faucetd top")


def _reaching(warehouse: Warehouse, folder: Path) -> dict[str, str]:
    """The daemon's options to read from BigQuery."""
    file = folder / "faucetd.toml"
    file.write_text("\n".join([*warehouse.settings_file, ""]))
    # One worker is quick enough for this table, and never takes over another's stream in the
    # middle, which a local server may not know how to do.
    return {"config": str(file), "workers": "1"}


def _environ(address: Address, folder: Path) -> dict[str, str]:
    # The settings of the person's own daemon are not the demo's.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(VARIABLE_PREFIX)}
    return {
        **inherited,
        ADDRESS_VARIABLE: str(address),
        # Four trainers share the processors: a thread pool in each would only get in the way.
        "OMP_NUM_THREADS": "1",
        # torch leaves a cache in the folder for temporary files, so that is to go with ours.
        "TMPDIR": str(folder),
    }


def _start_daemon(
    processes: Processes, address: Address, folder: Path, further: Mapping[str, str]
) -> Child:
    options = {
        "listen": str(address),
        "memory-budget": MEMORY_BUDGET,
        "scratch-dir": str(folder / "scratch"),
        **further,
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    daemon = processes.start("daemon", "faucetd", ["serve", *arguments])
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _serves(address):
        if daemon.process.poll() is not None or time.monotonic() > deadline:
            raise FaucetError(f"the demo's daemon did not start; its log:\n{daemon.log_tail()}")
        time.sleep(0.05)
    return daemon


def _serves(address: Address) -> bool:
    try:
        return probe(address, timeout_s=1.0) == "serving"
    except DaemonUnreachable:
        return False


def _train(
    processes: Processes, daemon: Child, source: Sequence[str], console: Console
) -> list[Job]:
    jobs = [Job(f"lr-{rate:g}", rate) for rate in LEARNING_RATES]
    reports: queue.SimpleQueue[_Report] = queue.SimpleQueue()
    with make_display(console, jobs, EPOCHS) as display:
        children = {job.name: _start_trainer(processes, job, source, reports) for job in jobs}
        silent_since = time.monotonic()
        patience_s = OPENING_TIMEOUT_S
        running = len(jobs)
        while running:
            try:
                job, event = reports.get(timeout=0.5)
            except queue.Empty:
                if daemon.process.poll() is not None:
                    raise FaucetError(
                        f"the demo's daemon ended; its log:\n{daemon.log_tail()}"
                    ) from None
                if time.monotonic() - silent_since > patience_s:
                    raise FaucetError(
                        f"no trainer made progress for {patience_s:.0f} s; the daemon's "
                        f"log:\n{daemon.log_tail()}"
                    ) from None
                continue
            silent_since, patience_s = time.monotonic(), SILENCE_TIMEOUT_S
            if event is None:
                _check_end(children[job.name], job)
                running -= 1
                continue
            if isinstance(event, Failure):
                raise FaucetError(f"the trainer {job.name} failed: {event.message}")
            if isinstance(event, EpochEnd):
                job.epochs.append(event)
            display.update(job, event)
    return jobs


def _start_trainer(
    processes: Processes, job: Job, source: Sequence[str], reports: queue.SimpleQueue[_Report]
) -> Child:
    arguments = [*source, "--job", job.name]
    arguments += ["--learning-rate", str(job.learning_rate), "--epochs", str(EPOCHS)]
    child = processes.start(job.name, "faucetd.demo.trainer", arguments, piped=True)
    threading.Thread(target=_forward, args=(child, job, reports), daemon=True).start()
    return child


def _forward(child: Child, job: Job, reports: queue.SimpleQueue[_Report]) -> None:
    """Puts what a trainer writes into the queue, and None at its end. Runs in a thread."""
    output = child.process.stdout
    assert output is not None
    with output:
        for line in output:
            try:
                reports.put((job, read_event(line)))
            except ValueError:
                reports.put((job, Failure(f"it wrote what nobody understands: {line!r}")))
    reports.put((job, None))


def _check_end(child: Child, job: Job) -> None:
    code = child.process.wait()
    if code != 0 or len(job.epochs) != EPOCHS:
        raise FaucetError(
            f"the trainer {job.name} ended early, with code {code}; its log:\n{child.log_tail()}"
        )


def _status(address: Address) -> Status:
    from faucet_client.session import Session

    with Session.connect(address) as session:
        return session.status()
