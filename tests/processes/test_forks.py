"""A process that uses the client may fork, as DataLoaders do; nobody hangs, and all is exact."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tests.processes.daemons import WatchedDaemon, wait_idle
from tests.processes.loader_script import BATCH, EPOCHS
from tests.processes.nursery import ROOT
from tests.processes.rows import assert_exact
from tests.processes.tables import MakeTable, Table


def run(module: str, daemon: WatchedDaemon, table: Table, **config: Any) -> tuple[list[Any], str]:
    """Runs a script to its end; its answers, and its stderr."""
    config |= {"address": daemon.address, "spec": table.fields()}
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-m", f"tests.processes.{module}", json.dumps(config)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1_000,
    )
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()], ended.stderr


@pytest.mark.parametrize("forks", [8, pytest.param(100, marks=pytest.mark.soak)])
def test_forks_of_a_client_in_use_all_read_exactly_and_the_parent_is_unharmed(
    forks: int, daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    table = make_table(rows=1_250 * forks + 7, chunk_rows=1_000)
    (children, parent), stderr = run("fork_script", daemon, table, rows=table.rows, forks=forks)
    assert children["ends"] == ["exit 0"] * forks, stderr
    assert parent == {"parent": "exact", "readers": []}
    assert stderr == ""
    wait_idle(daemon.client().status)


@pytest.mark.parametrize("forks", [12, pytest.param(300, marks=pytest.mark.soak)])
def test_forks_while_other_threads_use_the_client_leave_no_child_to_hang(
    forks: int, daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    table = make_table(rows=40_000, chunk_rows=300)
    (answer,), stderr = run("busy_fork_script", daemon, table, forks=forks)
    assert answer == {"ends": ["exit 0"] * forks, "failures": []}, stderr
    assert stderr == ""
    wait_idle(daemon.client().status)


@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
@pytest.mark.parametrize(("workers", "context"), [(0, ""), (2, "fork"), (2, "spawn")])
def test_a_dataloader_s_workers_share_the_rows_exactly(
    workers: int, context: str, used: bool, daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    table = make_table(rows=10_007, chunk_rows=1_000)
    (epochs,), stderr = run(
        "loader_script", daemon, table, workers=workers, context=context, used=used
    )
    assert stderr == ""
    assert len(epochs) == EPOCHS
    for epoch in epochs:
        assert_exact(np.array(epoch["ids"]), table.rows)
        assert epoch["length"] == len(epoch["sizes"]) == -(-table.rows // BATCH)
        assert sorted(epoch["sizes"])[1:] == [BATCH] * (epoch["length"] - 1)
        if workers:  # copies: a view would have shipped its whole chunk
            assert epoch["storage_nbytes"] == BATCH * table.features * 4
    assert epochs[0]["ids"] != epochs[1]["ids"]
    wait_idle(daemon.client().status)
