"""Memory of a daemon that was killed: while trainers map it, it counts for the next one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest

from faucet_client import Batch, BudgetError
from faucet_client.holdings import Mapped
from faucet_client.session import Session
from faucet_client.status import MemoryStatus
from tests.processes.daemons import StartDaemon, WatchedDaemon
from tests.processes.rows import assert_exact, ids_of
from tests.processes.tables import MakeTable
from tests.processes.trainers import StartTrainer
from tests.processes.waiting import eventually

PATIENCE_S = 60.0


def mapped_by(pids: Iterable[int]) -> dict[int, int]:
    """The segments that processes map: by inode, their bytes."""
    found = {}
    for pid in pids:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            if "/memfd:faucet-segment" in line:
                place, _, _, _, inode, _ = line.split(maxsplit=5)
                first, stop = (int(bound, 16) for bound in place.split("-"))
                found[int(inode)] = stop - first
    return found


def open_in(daemon: WatchedDaemon) -> dict[int, int]:
    """The segments that the daemon has."""
    found = {}
    folder = Path(f"/proc/{daemon.process.pid}/fd")
    for name in os.listdir(folder):
        try:
            if os.readlink(folder / name).startswith("/memfd:faucet-segment"):
                info = (folder / name).stat()
                found[info.st_ino] = info.st_blocks * 512
        except FileNotFoundError:
            continue  # closed since it was listed
    return found


def orphaned(memory: MemoryStatus, mapped: Mapping[int, int], daemon: WatchedDaemon) -> bool:
    """Whether the daemon counts what is mapped and not its own; and all is within its budget."""
    own = open_in(daemon)
    others = sum(size for inode, size in mapped.items() if inode not in own)
    return memory.orphaned_bytes == others and sum(own.values()) + others <= memory.budget_bytes


def test_what_trainers_still_map_of_a_killed_daemon_counts_until_they_let_go(
    start_daemon: StartDaemon, make_table: MakeTable, start_trainer: StartTrainer
) -> None:
    table = make_table(rows=60_000)
    daemon = start_daemon("1MiB")  # a third of the table
    trainers = [start_trainer(daemon, table, patience_s=PATIENCE_S) for _ in range(2)]
    for trainer in trainers:
        trainer.start(500)
        trainer.ask("read", count=8, keep=8)
    before = mapped_by(trainer.pid for trainer in trainers)
    assert before
    client = daemon.client(PATIENCE_S)
    for _ in range(2):  # what is of the first daemon counts for the third one, too
        daemon.kill()
        daemon.restart()
        eventually(lambda: len(client.status().readers) == 2, 30.0)
        eventually(
            lambda: orphaned(client.status().memory, mapped_by(t.pid for t in trainers), daemon),
            30.0,
        )
        assert client.status().memory.orphaned_bytes >= sum(before.values()) // 2
    # One lets go, the other is killed.
    trainers[0].ask("let_go")
    trainers[0].ask("read")
    assert_exact(trainers[0].ids(), table.rows)
    held = mapped_by([trainers[1].pid])
    eventually(lambda: orphaned(client.status().memory, held, daemon), 30.0)
    trainers[1].kill()
    eventually(lambda: client.status().memory.orphaned_bytes == 0)


def test_a_closed_client_s_batches_are_let_go_of_one_by_one(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    table = make_table(rows=60_000)
    client = daemon.client(PATIENCE_S)
    batches = client.open(table.spec()).batches(batch_size=500)
    kept = [next(batches) for _ in range(24)]
    daemon.kill()
    daemon.restart()
    kept += [next(batches) for _ in range(8)]
    client.close()
    watcher = daemon.client()

    def count() -> int:
        return watcher.status().memory.orphaned_bytes

    first = eventually(count)
    del kept[:12]
    second = eventually(lambda: 0 < count() < first and count())
    del kept, batches  # what was mapped ahead goes with the iterator
    eventually(lambda: count() == 0)
    assert 0 < second < first
    eventually(lambda: watcher.status().memory.leased_bytes == 0)


def test_who_cannot_go_on_for_what_trainers_keep_is_told_so(
    start_daemon: StartDaemon, make_table: MakeTable
) -> None:
    table = make_table(rows=60_000, features=8)
    daemon = start_daemon("8MiB")
    dataset = daemon.client(PATIENCE_S).open(table.spec())
    batches = dataset.batches(batch_size=500)
    kept: list[Batch] = []
    for batch in batches:  # all views: the whole split has its place, twice
        kept.append(batch)
        if len(kept) == 100:
            break
    daemon.kill()
    daemon.restart(memory_budget="512KiB")
    with pytest.raises(BudgetError, match=r"of an earlier daemon that trainers still hold.*clone"):
        kept.extend(batches)
    ids = np.concatenate([ids_of(batch) for batch in kept])
    assert len(np.unique(ids)) == len(ids)


def test_memory_that_could_not_be_mapped_after_all_is_not_counted_for_ever(
    daemon: WatchedDaemon,
) -> None:
    """A feed was about to map a segment of one daemon when another reader found the next one."""
    client = daemon.client()
    before = client.session()
    with Session.connect(before.address, before):
        before.adopt(7, Mapped(77, 4_096))
        eventually(lambda: client.status().memory.orphaned_bytes == 4_096)
        before.disown(7)
        eventually(lambda: client.status().memory.orphaned_bytes == 0)
