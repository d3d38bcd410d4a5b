"""What BigQuery charges is said before, at open, and after, by the status, beside what it saved."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from faucet_client import FaucetClient
from faucet_client.dataset import Dataset
from faucet_client.spec import Split
from faucet_client.status import CostStatus, DatasetStatus
from tests.bigquery_server import ReadFault
from tests.processes.bigquery import Table, Warehouse
from tests.processes.daemons import WatchedDaemon
from tests.processes.waiting import eventually

JOBS, EPOCHS = 3, 2
LEAST_BILLED = 10 << 20


def read(dataset: Dataset, job: str, epochs: int = 1, split: Split = "train") -> int:
    return sum(
        len(batch) for batch in dataset.batches(split, batch_size=100, epochs=epochs, job=job)
    )


def status_of(client: FaucetClient) -> DatasetStatus:
    [status] = client.status().datasets
    return status


def cost_of(client: FaucetClient) -> CostStatus:
    cost = status_of(client).cost
    assert cost is not None
    return cost


def shown(daemon: WatchedDaemon, *options: str) -> str:
    """What `faucetd status` prints."""
    command = [sys.executable, "-m", "faucetd", "status", "--address", daemon.address, *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def billed_by_queries(bigquery: Warehouse) -> int:
    return sum(job["bytes_billed"] for job in bigquery.server.stats()["jobs"])


def width(table: Table) -> int:
    """Bytes of a pass: the columns that are read, eight bytes each."""
    return 8 * (table.features + 2) * table.rows


def test_many_jobs_and_epochs_are_billed_for_one_pass(bigquery: Warehouse) -> None:
    daemon = bigquery.start_daemon(query_price_per_tib="6.25", read_price_per_tib="1500000")
    table = bigquery.load(rows=10_000)
    client = daemon.client()
    dataset = client.open(table.spec())
    assert dataset.info.query_bytes_billed == billed_by_queries(bigquery) == LEAST_BILLED
    assert dataset.info.read_bytes_estimated == width(table)
    before = cost_of(client)
    assert (before.query_bytes, before.read_bytes) == (LEAST_BILLED, 0)
    assert (before.pass_bytes, before.passes_served) == (width(table), 0)
    for job in range(JOBS):
        assert read(dataset, f"job {job}", EPOCHS) == EPOCHS * table.rows
    after = cost_of(client)
    assert after.read_bytes == width(table)
    assert after.passes_served == pytest.approx(JOBS * EPOCHS)
    assert bigquery.server.stats()["rows_sent"] == table.rows
    text = shown(daemon)
    assert "billed 469 KiB (0.65) for reading and 10.0 MiB (<0.01) for queries" in text
    assert "its 6.0 passes would have read 2.75 MiB (3.93)" in text
    [told] = json.loads(shown(daemon, "--json"))["datasets"]
    assert told["cost"]["read_bytes"] == width(table)
    assert told["cost"]["uncached_read_bytes"] == JOBS * EPOCHS * width(table)
    assert told["cost"]["read_price_per_tib"] == 1_500_000


def test_a_query_is_billed_and_so_is_reading_what_it_has_written(bigquery: Warehouse) -> None:
    client = bigquery.start_daemon().client()
    table = bigquery.load(rows=5_000)
    query = f"SELECT * FROM `{table.name}`"
    dataset = client.open(table.spec(bigquery={"query": query}))
    assert dataset.info.query_bytes_billed == billed_by_queries(bigquery) >= LEAST_BILLED
    assert read(dataset, "job") == table.rows
    cost = cost_of(client)
    assert cost.query_bytes == dataset.info.query_bytes_billed
    assert cost.read_bytes == cost.pass_bytes == dataset.info.read_bytes_estimated == width(table)


def test_who_may_not_run_queries_is_told_what_counting_by_reading_costs(
    bigquery: Warehouse,
) -> None:
    client = bigquery.start_daemon().client()
    table = bigquery.load(rows=5_000)
    bigquery.server.faults(deny=("bigquery.jobs.create",))
    dataset = client.open(table.spec(hash_column="id", eval_percent=20))
    assert dataset.info.query_bytes_billed == 8 * table.rows
    assert read(dataset, "job") + read(dataset, "job", split="eval") == table.rows
    cost = cost_of(client)
    # Both splits come from one pass, though each would have taken one.
    assert (cost.query_bytes, cost.read_bytes) == (0, width(table) + 8 * table.rows)
    assert cost.passes_served == pytest.approx(2)


def test_chunks_that_memory_does_not_hold_are_billed_each_time_that_they_are_read(
    bigquery: Warehouse,
) -> None:
    client = bigquery.start_daemon(memory_budget="1MiB", workers=1).client()
    table = bigquery.load(rows=60_000)
    dataset = client.open(table.spec())
    for job in range(2):
        assert read(dataset, f"job {job}") == table.rows
    cost = cost_of(client)
    sent = bigquery.server.stats()["rows_sent"]
    assert sent > table.rows
    assert width(table) < cost.read_bytes <= 2 * width(table)
    assert cost.passes_served == pytest.approx(2)


def test_the_status_tells_that_chunks_are_still_being_found(bigquery: Warehouse) -> None:
    daemon = bigquery.start_daemon(max_streams="2", workers=1)
    client = daemon.client()
    bigquery.server.configure(message_rows=500)
    table = bigquery.load(rows=10_000, chunk_rows=1_000)
    bigquery.server.faults(ReadFault("stall", at_message=5), ReadFault("stall", at_message=5))
    dataset = client.open(table.spec())
    assert status_of(client).finding_chunks
    with dataset.batches("train", batch_size=100, job="job") as batches:
        next(batches)
        assert re.search(r" \d+/\d+\+ ", shown(daemon))
        assert status_of(client).finding_chunks


def test_files_cost_nothing(start_daemon: Any, make_table: Any) -> None:
    daemon = start_daemon()
    dataset = daemon.client().open(make_table(rows=1_000, chunk_rows=100).spec())
    assert dataset.info.read_bytes_estimated == 0
    assert "billed" not in shown(daemon)
    assert eventually(lambda: daemon.client().status().datasets)[0].cost is None
