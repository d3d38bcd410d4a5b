"""What stays flat as things grow: the second half of G12, and G13.

A large table is a small file under many names, so that it takes no disk: the daemon reads each of
them as a file of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.goals.daemons import (
    CHUNK_ROWS,
    FEATURES,
    Measured,
    measured_daemon,
    rows_spec,
    write_rows,
)
from benchmarks.goals.verdicts import Values
from faucet_client.dataset import Dataset

BATCH_SIZE = 1_024
FOLD = 100
FINE_ROWS = CHUNK_ROWS // 12
"""Of chunks that are many; a row group, since a part of one is decoded from its start on."""
NARROW = 8
"""Features of the table that grows: a row is cheap, so that what is not of rows would show."""


def many_names(folder: Path, name: str, rows: int, features: int, count: int) -> Path:
    """A table of `count` files that are one."""
    table = folder / name
    table.mkdir()
    first = table / "part-000000.parquet"
    write_rows(first, rows, features)
    for number in range(1, count):
        os.link(first, table / f"part-{number:06d}.parquet")
    return table


def measure_memory(folder: Path, budget_mib: int) -> dict[str, Values]:
    """G12: the daemon's memory on its way through a table that is 100 times its budget."""
    rows_a_file = budget_mib * 2**20 // (4 * (NARROW + 1))
    table = many_names(folder, "over-budget", rows_a_file, NARROW, FOLD)
    with measured_daemon(folder, memory_budget=f"{budget_mib}MiB", workers=1) as daemon:
        dataset = daemon.client.open(rows_spec(table, NARROW, chunk_rows=rows_a_file // 8))
        epoch = next(dataset.epochs(count=1, batch_size=65_536, shuffle="none"))
        held = []
        every = max(len(epoch) // 20, 1)
        for number, _ in enumerate(epoch, 1):
            if number % every == 0:
                held.append(daemon.memory_bytes())
        tenth = max(len(held) // 10, 1)
        return {"G12": {"end over beginning": [max(held[-tenth:]) / max(held[: 2 * tenth])]}}


def measure_cost(folder: Path, rows: int, wide_rows: int, repeats: int) -> dict[str, Values]:
    """G13: processor time a row, of daemon and client, each pair of passes in turn.

    Args:
        folder: For the tables.
        rows: Of the smallest table; the largest has 100 times as many.
        wide_rows: Of the table whose chunks become more: at first they have 64 MiB.
        repeats: Pairs of passes.
    """
    small = many_names(folder, "small", rows, NARROW, 1)
    large = many_names(folder, "large", rows, NARROW, FOLD)
    wide = folder / "wide.parquet"
    write_rows(wide, wide_rows, group_rows=FINE_ROWS)
    found: dict[str, list[float]] = {"table": [], "chunks": [], "jobs": []}
    # In little memory: where a machine is virtual, what has not been touched before is dear, and
    # only the large table would ever come to it.
    with measured_daemon(folder, memory_budget="128MiB", workers=1) as daemon:
        _pass_us_a_row(daemon, large, rows // 4)
        for _ in range(repeats):
            base = _mean(_pass_us_a_row(daemon, small, rows // 4) for _ in range(10))
            found["table"].append(_pass_us_a_row(daemon, large, rows // 4) / base)
    with measured_daemon(folder, memory_budget="1GiB", workers=1) as daemon:
        _pass_us_a_row(daemon, wide, CHUNK_ROWS, FEATURES)
        for _ in range(repeats):
            fine = _pass_us_a_row(daemon, wide, FINE_ROWS, FEATURES)
            found["chunks"].append(fine / _pass_us_a_row(daemon, wide, CHUNK_ROWS, FEATURES))
        dataset = daemon.client.open(rows_spec(small, NARROW, chunk_rows=rows // 16))
        for _ in range(repeats):
            one = _mean(_jobs_us_a_row(daemon, dataset, 1) for _ in range(8))
            found["jobs"].append(_jobs_us_a_row(daemon, dataset, 64) / one)
    return {"G13": found}


def _mean(values: object) -> float:
    """Of a few passes, which one alone would be too short to time."""
    found: Sequence[float] = list(values)  # type: ignore[call-overload]
    return sum(found) / len(found)


def _pass_us_a_row(daemon: Measured, table: Path, chunk_rows: int, features: int = NARROW) -> float:
    """Of a pass over a table that is read, once it is open."""
    dataset = daemon.client.open(rows_spec(table, features, chunk_rows=chunk_rows))
    before = daemon.cpu_s() + time.process_time()
    rows = 0
    for batch in dataset.batches(batch_size=BATCH_SIZE):
        rows += len(batch.features)
    used = daemon.cpu_s() + time.process_time() - before
    del batch
    daemon.drop(dataset.info.key)
    return used * 1e6 / rows


def _jobs_us_a_row(daemon: Measured, dataset: Dataset, jobs: int) -> float:
    """Of an epoch of each of so many jobs at once, whose chunks are in memory."""
    before = daemon.cpu_s() + time.process_time()
    readings = [dataset.batches(batch_size=BATCH_SIZE, seed=seed) for seed in range(jobs)]
    rows = 0
    while readings:
        going = []
        for batches in readings:
            batch = next(batches, None)
            if batch is None:
                batches.close()
            else:
                rows += len(batch.features)
                going.append(batches)
        readings = going
    return (daemon.cpu_s() + time.process_time() - before) * 1e6 / rows
