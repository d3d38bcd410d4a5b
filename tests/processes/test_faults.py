"""Real processes die, stop and are replaced; what must hold, holds (shared/FAULTS.md)."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from faucet_client import FaucetClient
from faucet_client.address import parse_address
from faucet_client.status import Status
from faucetd.probe import probe
from tests.processes.daemons import StartDaemon, WatchedDaemon, is_idle, reader_of, wait_idle
from tests.processes.leaks import descriptors, files_below, is_alive, worker_pids
from tests.processes.rows import assert_exact, check, ids_of
from tests.processes.tables import Described, MakeTable, write_rows
from tests.processes.trainers import StartTrainer, Trainer
from tests.processes.waiting import Stopwatch, eventually, eventually_gone

BATCH = 500
FREED_S = 1.0
"""How soon a dead trainer's leases must be free."""
STOPPED_S = 90.0
"""Longer than gRPC would wait for the answer to a ping."""


def read_exactly(client: FaucetClient, table: Described) -> None:
    """A fresh reader gets each row of the table once, with its own values."""
    ids = []
    for batch in client.open(table.spec()).batches(batch_size=BATCH):
        check(batch)
        ids.append(ids_of(batch))
    assert_exact(np.concatenate(ids), table.rows)


def has_read(status: Status, job: str) -> bool:
    """Whether a job's reader has told of rows that it has had."""
    reader = reader_of(status, job)
    return reader is not None and reader.rows_consumed > 0


def catch_loading(read_status: Callable[[], Status]) -> int:
    """Waits until a worker is loading; its pid."""

    def loading() -> int:
        return next((w.pid for w in read_status().workers if w.state == "loading"), 0)

    return eventually(loading, 20.0, poll_s=0.001)


# The daemon.


def test_batches_outlive_a_killed_daemon_and_the_next_one_serves(
    daemon: WatchedDaemon, make_table: MakeTable, start_trainer: StartTrainer
) -> None:
    table = make_table()
    trainer = start_trainer(daemon, table)
    batches = trainer.start(BATCH)
    trainer.ask("read", count=10, keep=6)
    checksum = trainer.ask("checksum")
    client = daemon.client()
    (worker,) = (worker.pid for worker in client.status().workers)
    client.close()
    os.kill(worker, signal.SIGSTOP)  # it cannot notice by itself: the kernel has to kill it
    daemon.kill()
    eventually_gone(lambda: is_alive(worker), 1.0)
    assert worker_pids(daemon.pids[0]) == []

    assert trainer.ask("checksum") == checksum
    rest = trainer.ask("read")
    assert rest["error"] == "DaemonLost"
    assert "faucetd serve" in rest["message"]
    assert 0 < rest["read"] < batches - 10  # what was mapped already, and not all
    again = trainer.ask("read")
    assert (again["error"], again["read"]) == ("DaemonLost", 0)
    ids = trainer.ids()
    assert len(np.unique(ids)) == len(ids) == BATCH * (10 + rest["read"])
    assert trainer.ask("checksum")["held"] == 0  # the reads above let go of them

    daemon.restart()
    read_exactly(daemon.client(), table)


def test_a_killed_daemon_leaves_nothing_that_its_next_start_does_not_remove(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    table = make_table()
    read_exactly(daemon.client(), table)
    daemon.kill()
    left = files_below(daemon.folder)
    assert {"sockets/faucetd.sock", "sockets/faucetd.sock.handoff"} <= left
    (scratch,) = (daemon.folder / "scratch").iterdir()
    (scratch / "half-written").write_text("of the one that was killed")
    daemon.restart()
    assert files_below(daemon.folder) == left - {f"scratch/{scratch.name}/half-written"}


def test_sigterm_lets_a_running_reader_finish_and_leaves_no_sockets(
    daemon: WatchedDaemon, make_table: MakeTable, start_trainer: StartTrainer
) -> None:
    table = make_table()
    trainer = start_trainer(daemon, table)
    trainer.start(BATCH)
    trainer.ask("read", count=3)
    address = parse_address(daemon.address)
    assert probe(address, 5.0) == "serving"
    daemon.process.send_signal(signal.SIGTERM)
    eventually(lambda: probe(address, 5.0) == "not serving", 2.0)
    assert trainer.ask("read") == {"read": table.rows // BATCH - 3}
    assert_exact(trainer.ids(), table.rows)
    with Stopwatch() as stopping:
        assert daemon.process.wait(10) == 0
    assert stopping.seconds < 3.0  # it did not wait for the end of its patience
    assert files_below(daemon.folder / "sockets") == {"faucetd.sock.lock"}


def test_a_second_sigterm_ends_the_drain_and_the_reader_learns_of_it(
    daemon: WatchedDaemon, make_table: MakeTable, start_trainer: StartTrainer
) -> None:
    trainer = start_trainer(daemon, make_table())
    trainer.start(BATCH)
    trainer.ask("read", count=1, keep=1)
    address = parse_address(daemon.address)
    daemon.process.send_signal(signal.SIGTERM)
    eventually(lambda: probe(address, 5.0) == "not serving", 2.0)
    assert daemon.process.poll() is None
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(5) == 0
    assert trainer.ask("read")["error"] == "DaemonLost"


def serve_at(listen: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Runs `faucetd serve`, which is expected to refuse."""
    return subprocess.run(
        [sys.executable, "-m", "faucetd", "serve", "--listen", listen],
        env={**os.environ, "FAUCETD_SCRATCH_DIR": str(tmp_path / "scratch")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
    )


def test_a_second_daemon_exits_at_once_and_names_the_first_which_goes_on(
    daemon: WatchedDaemon, make_table: MakeTable, tmp_path: Path
) -> None:
    table = make_table()
    client = daemon.client()
    dataset = client.open(table.spec())
    batches = dataset.batches(batch_size=BATCH)
    ids = [ids_of(next(batches))]
    with Stopwatch() as refusal:
        second = serve_at(daemon.address, tmp_path)
    assert second.returncode == 75, second.stderr
    assert f"pid {daemon.process.pid}" in second.stderr
    assert "--listen" in second.stderr
    assert refusal.seconds < 3.0  # of which most is Python's own start
    ids.extend(ids_of(batch) for batch in batches)
    assert_exact(np.concatenate(ids), table.rows)
    read_exactly(daemon.client(), table)


def test_a_folder_that_others_can_write_to_is_refused_with_a_remedy(tmp_path: Path) -> None:
    folder = tmp_path / "open-to-all"
    folder.mkdir()
    folder.chmod(0o777)
    refused = serve_at(f"unix://{folder}/faucetd.sock", tmp_path)
    assert refused.returncode == 78, refused.stderr
    assert "can be written by others (mode 777)" in refused.stderr
    assert "--listen unix://" in refused.stderr
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")
def test_a_folder_of_another_user_is_refused_with_a_remedy(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o755)
    os.chown(folder, 65534, -1)
    refused = serve_at(f"unix://{folder}/faucetd.sock", tmp_path)
    assert refused.returncode == 78, refused.stderr
    assert "belongs to user 65534" in refused.stderr
    assert "--listen unix://" in refused.stderr


# Trainers.


@pytest.mark.parametrize("forked", [False, True], ids=["alone", "with a forked child"])
def test_a_killed_trainer_s_leases_are_free_in_a_second_and_its_peer_is_exact(
    forked: bool, daemon: WatchedDaemon, make_table: MakeTable, start_trainer: StartTrainer
) -> None:
    table = make_table()
    victim, peer = start_trainer(daemon, table), start_trainer(daemon, table)
    for trainer in (victim, peer):
        trainer.start(BATCH)
        trainer.ask("read", count=12, keep=9)
    client = daemon.client()
    dead = reader_of(client.status(), victim.name)
    assert dead is not None
    assert dead.leased_bytes > 0
    # The child inherits every socket of its parent, so no connection ends with the parent.
    child = victim.ask("fork")["pid"] if forked else 0
    victim.kill()

    def only_the_peer_holds_memory() -> bool:
        status = client.status()
        held = reader_of(status, peer.name)
        return (
            held is not None
            and len(status.readers) == 1
            and status.memory.leased_bytes == held.leased_bytes > 0
        )

    try:
        eventually(only_the_peer_holds_memory, FREED_S)
        assert not child or is_alive(child)
        peer.ask("read")
        assert_exact(peer.ids(), table.rows)
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
    assert peer.end() == 0
    wait_idle(client.status)


def test_a_stopped_trainer_keeps_its_leases_and_nobody_waits_for_it(
    start_daemon: StartDaemon, make_table: MakeTable, start_trainer: StartTrainer
) -> None:
    table = make_table(rows=80_000)
    daemon = start_daemon("1MiB")  # less than half of the table
    stopped, peer = start_trainer(daemon, table), start_trainer(daemon, table)
    for trainer in (stopped, peer):
        trainer.start(BATCH)
    stopped.ask("read", count=7, keep=3)
    client = daemon.client()

    def held() -> int:
        reader = reader_of(client.status(), stopped.name)
        assert reader is not None
        return reader.leased_bytes

    stopped.signal(signal.SIGSTOP)
    try:
        before = eventually(held)
        peer.ask("read")
        assert_exact(peer.ids(), table.rows)
        assert peer.end() == 0
        eventually(lambda: client.status().memory.leased_bytes == held())
        assert held() >= before
    finally:
        stopped.signal(signal.SIGCONT)
    stopped.ask("read")
    assert_exact(stopped.ids(), table.rows)
    memory = client.status().memory
    assert memory.peak_bytes <= memory.budget_bytes


@pytest.mark.soak
def test_trainers_that_were_stopped_in_the_midst_of_reading_for_minutes_go_on(
    start_daemon: StartDaemon, make_table: MakeTable, start_trainer: StartTrainer
) -> None:
    table = make_table(rows=200_000, chunk_rows=500)
    daemon = start_daemon("1MiB")
    trainers = [start_trainer(daemon, table) for _ in range(4)]
    for trainer in trainers:
        trainer.start(BATCH)
        trainer.send("read", pause_s=0.01)
    client = daemon.client()
    for trainer in trainers:
        eventually(lambda: has_read(client.status(), trainer.name))  # noqa: B023  # called at once
        trainer.signal(signal.SIGSTOP)
    time.sleep(STOPPED_S)
    for trainer in trainers:
        trainer.signal(signal.SIGCONT)
    for trainer in trainers:
        assert "error" not in trainer.answer(120.0)
        assert_exact(trainer.ids(), table.rows)


def test_after_thirty_random_kills_nothing_is_leased_and_a_fresh_reader_is_exact(
    start_daemon: StartDaemon, make_table: MakeTable, start_trainer: StartTrainer
) -> None:
    table = make_table(chunk_rows=1_000)
    daemon = start_daemon("1MiB")
    client = daemon.client()
    client.open(table.spec())
    before = descriptors(daemon.process.pid)
    chance = random.Random(5)
    for _ in range(6):
        victims = [start_trainer(daemon, table) for _ in range(5)]
        for victim in victims:
            victim.start(100, epochs=1_000, seed=chance.randrange(100))
            victim.send("read", keep=chance.randrange(4), pause_s=0.001)
        for victim in chance.sample(victims, len(victims)):
            rows = chance.randrange(5_000)

            def has_read(victim: Trainer = victim, rows: int = rows) -> bool:
                reader = reader_of(client.status(), victim.name)
                return reader is not None and reader.rows_consumed >= rows

            eventually(has_read)
            victim.kill()
        eventually(lambda: is_idle(client.status()), FREED_S)
    after = client.status()
    read_exactly(client, table)
    assert after.memory.leased_bytes == 0
    assert after.memory.peak_bytes <= after.memory.budget_bytes

    def no_more_descriptors_than_segments() -> bool:
        (dataset,) = client.status().datasets
        allowed = before + Counter({"/memfd:": dataset.chunks_resident})
        return not descriptors(daemon.process.pid) - allowed

    eventually(no_more_descriptors_than_segments)


# Workers.


def test_a_worker_killed_while_loading_is_replaced_and_no_row_is_lost(
    daemon: WatchedDaemon, make_table: MakeTable, start_trainer: StartTrainer
) -> None:
    table = make_table()
    trainer = start_trainer(daemon, table)
    trainer.opened()
    client = daemon.client()
    (worker,) = client.status().workers
    os.kill(worker.pid, signal.SIGSTOP)  # so that it is certainly killed within a load
    trainer.start(BATCH)
    assert catch_loading(client.status) == worker.pid
    os.kill(worker.pid, signal.SIGKILL)
    assert trainer.ask("read") == {"read": table.rows // BATCH}
    assert_exact(trainer.ids(), table.rows)
    status = client.status()
    assert [other.pid for other in status.workers] != [worker.pid]
    (dataset,) = status.datasets
    assert dataset.source_rows_read == table.rows
    assert dataset.chunks_made == dataset.chunks
    assert not is_alive(worker.pid)
    assert f"worker {worker.pid} was killed by signal 9" in daemon.log


def test_a_chunk_that_kills_three_workers_is_an_error_and_the_next_reader_tries_again(
    start_daemon: StartDaemon, make_table: MakeTable, start_trainer: StartTrainer
) -> None:
    # Chunks that take a worker long enough to be caught at it.
    table = make_table(rows=2_000_000, chunk_rows=1_000_000, row_group_size=2_000_000)
    daemon = start_daemon("128MiB")
    trainer = start_trainer(daemon, table)
    trainer.start(BATCH)
    client = daemon.client()
    for _ in range(3):
        worker = catch_loading(client.status)
        os.kill(worker, signal.SIGKILL)
        eventually_gone(lambda pid=worker: [w for w in client.status().workers if w.pid == pid])  # type: ignore[misc]  # the default is bound
    told = trainer.ask("read")
    assert told["error"] == "ChunkFailed"
    assert re.search(r"chunk [01] of .* killed 3 workers", told["message"])
    (dataset,) = client.status().datasets
    assert dataset.chunks_made == 0
    read_exactly(client, table)
    (dataset,) = client.status().datasets
    assert dataset.state == "ready"
    assert dataset.source_rows_read == table.rows


# Sources.


def test_a_source_replaced_in_mid_epoch_is_an_error_and_never_mixed_rows(
    start_daemon: StartDaemon, make_table: MakeTable, start_trainer: StartTrainer
) -> None:
    table = make_table(rows=200_000)
    daemon = start_daemon("1MiB")
    trainer = start_trainer(daemon, table)
    trainer.start(BATCH)
    trainer.ask("read", count=20)
    write_rows(table.path, 1_000_000, 1_000_000 + table.rows, table.features)
    told = trainer.ask("read")
    assert told["error"] == "SourceChanged"
    assert str(table.path) in told["message"]
    ids = trainer.ids()
    assert ids.max() < table.rows
    assert len(np.unique(ids)) == len(ids) < table.rows
    new = start_trainer(daemon, table)
    new.start(BATCH)
    new.ask("read")
    assert_exact(new.ids(), table.rows, first=1_000_000)


def test_a_corrupted_page_is_an_error_that_names_the_file(
    daemon: WatchedDaemon, make_table: MakeTable, start_trainer: StartTrainer
) -> None:
    table = make_table(write_page_checksum=True, compression="none")
    column = pq.ParquetFile(table.path).metadata.row_group(1).column(2)
    with table.path.open("r+b") as file:
        file.seek(column.data_page_offset + column.total_compressed_size // 2)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0xFF]))
    trainer = start_trainer(daemon, table)
    for _ in range(15):  # grants and the error come at the same time, in one order or the other
        trainer.start(BATCH)
        told = trainer.ask("read")
        assert told["error"] == "SourceReadError", told
        assert str(table.path) in told["message"]
        assert "row group 1" in told["message"]
    trainer.ask("close")
    wait_idle(daemon.client().status)
