"""Memory stays where it was promised, whatever the table's size and the trainers' habits."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from tests.processes.daemons import StartDaemon, WatchedDaemon, reader_of, wait_idle
from tests.processes.leaks import worker_pids
from tests.processes.rows import assert_exact
from tests.processes.tables import MakeTable
from tests.processes.trainers import StartTrainer

MIB = 1 << 20
BATCH = 1_000

GROWTH_MIB = 40
"""What daemon and workers together may take beside the budget over the second half of a table, more
than they ever took over the first: a quarter of what the second half has. On a crowded machine one
of the workers comes late, and allocators differ in what they keep: 30 MiB was seen."""


def anonymous_bytes(pids: Iterable[int]) -> int:
    """Private memory of processes: heaps and stacks, without libraries and shared memory."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Anonymous:"):
                total += int(line.split()[1]) * 1024
    return total


def memfd_bytes(pids: Iterable[int]) -> int:
    """What the memfds that processes hold take of the machine's memory, each counted once."""
    sizes: dict[int, int] = {}
    for pid in pids:
        for name in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{name}"
            try:
                if os.readlink(path).startswith("/memfd:"):
                    info = os.stat(path)
                    sizes[info.st_ino] = info.st_blocks * 512
            except FileNotFoundError:
                continue  # closed since it was listed
    return sum(sizes.values())


def processes_of(daemon: WatchedDaemon) -> list[int]:
    return [daemon.process.pid, *worker_pids(daemon.process.pid)]


def test_a_table_forty_times_the_budget_streams_through_in_flat_memory(
    start_daemon: StartDaemon, make_table: MakeTable, start_trainer: StartTrainer
) -> None:
    table = make_table(rows=2_000_000, features=40, chunk_rows=8_000)
    budget = 8 * MIB
    row_nbytes = (40 + 1) * 4 + 8  # features, label, id
    segment_nbytes = table.chunk_rows * row_nbytes
    assert table.rows * row_nbytes > 40 * budget
    daemon = start_daemon("8MiB", workers=2)
    trainer = start_trainer(daemon, table)
    trainer.start(BATCH)
    client = daemon.client()
    processes = processes_of(daemon)
    trainer.send("read")

    def consumed() -> int:
        reader = reader_of(client.status(), trainer.name)
        if reader is None:  # it has not begun, or is done
            return table.rows if trainer.has_answered() else 0
        return reader.rows_consumed

    peaks = {"first half": 0, "second half": 0}
    while not trainer.has_answered():
        half = "first half" if consumed() < table.rows // 2 else "second half"
        memory = client.status().memory
        assert memory.used_bytes <= memory.budget_bytes == budget
        # The two looks are not at one moment: a segment may be gone in one, and new in the other.
        assert memfd_bytes(processes) <= budget + segment_nbytes
        peaks[half] = max(peaks[half], anonymous_bytes(processes))
    assert trainer.answer() == {"read": table.rows // BATCH}
    assert_exact(trainer.ids(), table.rows)
    assert peaks["first half"] > 0
    assert peaks["second half"] - peaks["first half"] < GROWTH_MIB * MIB, peaks
    status = client.status()
    assert status.memory.peak_bytes <= budget
    (dataset,) = status.datasets
    assert dataset.source_rows_read == table.rows
    assert processes_of(daemon) == processes  # nobody died on the way


def test_a_trainer_that_keeps_every_batch_gets_copies_and_does_not_stop_its_peer(
    start_daemon: StartDaemon, make_table: MakeTable, start_trainer: StartTrainer
) -> None:
    table = make_table(rows=200_000, features=28, chunk_rows=8_000)
    daemon = start_daemon("8MiB", workers=2)
    hoarder, peer = start_trainer(daemon, table), start_trainer(daemon, table)
    everything = 10**9
    hoarder.start(BATCH)
    hoarder.ask("read", count=100, keep=everything)
    peer.start(BATCH)
    assert peer.ask("read") == {"read": 200}
    assert_exact(peer.ids(), table.rows)
    hoarder.ask("read", keep=everything)
    assert_exact(hoarder.ids(), table.rows)
    assert hoarder.ask("check_held") == {"held": 200}
    stats = hoarder.ask("stats")
    assert stats["batches_copied"] > 100  # most: what the budget has no room for
    memory = daemon.client().status().memory
    assert 0 < memory.leased_bytes <= memory.peak_bytes <= memory.budget_bytes
    assert "keep batch.clone()" in hoarder.log.lower()
    hoarder.ask("let_go")
    wait_idle(daemon.client().status)


def test_a_trainer_that_keeps_its_last_two_batches_gets_no_copies(
    daemon: WatchedDaemon, make_table: MakeTable, start_trainer: StartTrainer
) -> None:
    table = make_table(rows=200_000, features=28, chunk_rows=8_000)
    trainer = start_trainer(daemon, table)
    trainer.start(BATCH)
    trainer.ask("read", keep=2)
    assert_exact(trainer.ids(), table.rows)
    stats = trainer.ask("stats")
    assert (stats["rows"], stats["batches_copied"]) == (table.rows, 0)
    assert "copies" not in trainer.log
