"""Runs the demo: a table, a daemon, four trainers, a display, a check. It leaves nothing behind.

The table is in a DuckDB file, and is loaded into BigQuery from there if it is to be in BigQuery.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from faucet_client.address import ADDRESS_VARIABLE, Address, parse_address
from faucet_client.errors import DaemonUnreachable, FaucetError
from faucet_client.status import Status
from faucetd.config import VARIABLE_PREFIX
from faucetd.demo.bigquery import DemoTable, Warehouse, cost_lines
from faucetd.demo.display import make_display, showing
from faucetd.demo.interrupts import Interrupts
from faucetd.demo.jobs import Job
from faucetd.demo.processes import Child, Processes
from faucetd.demo.rows import compare
from faucetd.demo.summary import daemon_lines, kill_text, results_table, rows_lines, verdict
from faucetd.demo.sweep import Plan, Sweep
from faucetd.demo.table import LATE_MINUTES, make_table, read_ids
from faucetd.probe import probe

LEARNING_RATES = (0.1, 0.01, 0.001, 0.0001)
TO_KILL = 0.01
EPOCHS = 3
MEMORY_BUDGET = "256MiB"

START_TIMEOUT_S = 30.0


def run(warehouse: Warehouse | None, rows: int | None, interval_s: float) -> None:
    """Runs the demo.

    Args:
        warehouse: Where the table goes, if not into a file.
        rows: Flights to take at most, if not all.
        interval_s: Between the starts of two trainers.

    Raises:
        FaucetError: the daemon, a trainer or BigQuery failed, and the message has the end of the
            log; or a trainer was not given each row once.
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
        jobs = [Job(f"lr-{rate:g}", rate) for rate in LEARNING_RATES]
        names = [job.name for job in jobs]
        plan = Plan(source, folder, EPOCHS, interval_s, f"lr-{TO_KILL:g}")
        display = make_display(console, jobs, EPOCHS, address)
        with showing(display, interrupts):
            Sweep(plan, processes, daemon, display).run(jobs)
        status = _status(address)
        given = compare(folder, names, EPOCHS, read_ids(database))

    console.print()
    console.print(results_table(jobs, given))
    [killed] = [job for job in jobs if job.name == plan.to_kill]
    console.print(f"* {kill_text(killed)}")
    console.print()
    console.print(verdict(status, table_rows, given), style="bold")
    for line in [*daemon_lines(status, table_rows, len(jobs) * EPOCHS), *rows_lines(given)]:
        console.print(line)
    if not all(epoch.exact for epochs in given.values() for epoch in epochs):
        raise FaucetError("some trainer was not given each row once, see above")
    console.print(f"All of it took {time.monotonic() - started:.0f} s.")
    console.print()
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


def _status(address: Address) -> Status:
    from faucet_client.session import Session

    with Session.connect(address) as session:
        return session.status()
