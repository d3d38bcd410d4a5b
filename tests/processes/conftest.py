"""Real daemons, real trainers and real tables for the tests, and proof that nothing is left."""

from __future__ import annotations

import contextlib
import runpy
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.bigquery_server.local import LocalBigQuery
from tests.processes import forked, tables_2020
from tests.processes.bigquery import Warehouse, lend
from tests.processes.daemons import StartDaemon, WatchedDaemon
from tests.processes.leaks import assert_nothing_is_left, possessions
from tests.processes.nursery import Nursery
from tests.processes.tables import Described, MakeTable, Table, write_rows
from tests.processes.trainers import StartTrainer, Trainer

_failed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Notes which tests failed: their tracebacks hold what the leak check would complain of."""
    report = yield
    if report.failed:
        for node in item.listchain():
            node.stash[_failed] = True
    return report


@pytest.fixture
def make_table(tmp_path: Path) -> MakeTable:
    """Writes tables into the test's folder; options are `pyarrow.parquet.write_table`'s."""
    folder = tmp_path / "tables"
    folder.mkdir()

    def make(
        rows: int = 40_000, features: int = 4, chunk_rows: int = 2_000, **options: Any
    ) -> Table:
        path = folder / f"rows{len(list(folder.iterdir()))}.parquet"
        write_rows(path, 0, rows, features, **{"row_group_size": 10 * chunk_rows} | options)
        return Table(path, rows, features, chunk_rows)

    return make


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the table of a test is, under what the daemon may read."""
    return tmp_path / "table.parquet"


@pytest.fixture
def spill_dir(tmp_path: Path) -> Path:
    """Where the daemons of a test spill to."""
    return tmp_path / "spill"


@contextlib.contextmanager
def daemons(roots: Sequence[Path], node: pytest.Item | pytest.Collector) -> Iterator[StartDaemon]:
    """Starts daemons that may read `roots`; at the end nothing of them may be left."""
    before = possessions()
    started: list[WatchedDaemon] = []

    def start(memory_budget: str = "64MiB", workers: int = 1, **settings: str) -> WatchedDaemon:
        daemon = WatchedDaemon(
            roots, memory_budget=memory_budget, workers=workers, settings=settings
        )
        started.append(daemon)
        return daemon

    yield start
    try:
        for daemon in started:
            daemon.stop()
        if not node.stash.get(_failed, False):
            for daemon in started:
                assert_nothing_is_left(daemon, before)
    finally:
        for daemon in started:
            if daemon.process.poll() is None:
                daemon.kill()
            shutil.rmtree(daemon.folder, ignore_errors=True)


@pytest.fixture
def start_daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StartDaemon]:
    """Starts daemons that may read the test's folder; at the end nothing of them may be left."""
    with daemons([tmp_path], request.node) as start:
        yield start


@pytest.fixture(scope="module")
def start_shared_daemon(request: pytest.FixtureRequest) -> Iterator[StartDaemon]:
    """The same for all tests of a module together. They close their clients themselves."""
    with daemons([], request.node) as start:
        yield start


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> WatchedDaemon:
    """A small daemon with one worker."""
    return start_daemon()


@pytest.fixture(scope="session")
def bigquery_server() -> Iterator[LocalBigQuery]:
    """One server for all tests; what they do to it is undone by `lent_server`."""
    with LocalBigQuery() as server:
        yield server


@pytest.fixture
def lent_server(bigquery_server: LocalBigQuery) -> Iterator[LocalBigQuery]:
    """The server, as new; at the end no call may be open."""
    yield from lend(bigquery_server)


@pytest.fixture
def bigquery(lent_server: LocalBigQuery, start_daemon: StartDaemon) -> Warehouse:
    """A local BigQuery and daemons that read from it. Ask for it before `start_trainer`."""
    return Warehouse(lent_server, start_daemon)


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """The process that all trainers are forked from."""
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture(scope="session")
def fork_server() -> None:
    """What forked.py's processes are forked from."""
    forked.start_server()


@pytest.fixture
def start_trainer(
    nursery: Nursery, start_daemon: StartDaemon, tmp_path: Path
) -> Iterator[StartTrainer]:
    """Starts trainers as processes of their own; those that still run at the end are killed."""
    started: list[Trainer] = []

    def start(
        daemon: WatchedDaemon, table: Described, *, patience_s: float = 0.0, **changes: Any
    ) -> Trainer:
        trainer = Trainer(
            nursery,
            daemon.address,
            table.fields(**changes),
            tmp_path,
            f"trainer-{len(started)}",
            patience_s,
        )
        started.append(trainer)
        return trainer

    yield start
    for trainer in started:
        trainer.kill()


@pytest.fixture
def warehouse(
    request: pytest.FixtureRequest,
    start_daemon: StartDaemon,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tables_2020.Warehouse]:
    """Where tables of 2020 are: files, unless a test asks for both kinds, or for BigQuery."""
    if getattr(request, "param", "files") == "files":
        daemon = start_daemon()
        monkeypatch.setenv("FAUCET_ADDRESS", daemon.address)
        yield tables_2020.Files(daemon, tmp_path, monkeypatch)
        return
    with LocalBigQuery() as server:
        daemon = tables_2020.start_reader(start_daemon, server, "anonymous")
        monkeypatch.setenv("FAUCET_ADDRESS", daemon.address)
        yield tables_2020.BigQuery(daemon, server)


@pytest.fixture
def example() -> Callable[[int], pa.Table]:
    """The examples' table, of so many rows."""
    module = runpy.run_path(str(tables_2020.EXAMPLES / "passengers.py"))
    passengers: Callable[[int], pa.Table] = module["passengers"]
    return passengers
