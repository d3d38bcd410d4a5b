"""chunking="hash" of files: the same chunks whatever the files; a folder that can be trusted."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from faucet_client import Batch, DatasetSpec, FaucetClient, OpenProgress, ParquetSource
from faucet_client.errors import BudgetError, ConfigError, DatasetInUse, FaucetError
from tests.processes.daemons import StartDaemon, WatchedDaemon
from tests.processes.leaks import worker_pids
from tests.processes.waiting import eventually

ROWS = 30_000
SEED = 11


def table_of(rows: int) -> pa.Table:
    random = np.random.default_rng(0)
    number = np.arange(rows)
    return pa.table(
        {
            "id": number,
            "key": pa.array([None if n % 50 == 0 else f"user {n // 3}" for n in number.tolist()]),
            "a": random.random(rows, np.float32),
            "b": pa.array([None if n % 9 == 0 else n % 7 for n in number.tolist()]),
            "word": [f"w{n % 40}" for n in number.tolist()],
            "y": (number > rows // 2).astype(np.int8),
        }
    )


def write(folder: Path, table: pa.Table, files: int = 1, group: int = 5_000) -> Path:
    folder.mkdir()
    size = -(-table.num_rows // files)
    for number in range(files):
        part = table.slice(number * size, size)
        pq.write_table(part, folder / f"{number}.parquet", row_group_size=group)
    return folder


def spec_of(folder: Path, **changes: object) -> DatasetSpec:
    options = {
        "features": ["a", "b", "word"],
        "labels": ["y"],
        "passthrough": ["id", "key"],
        "hash_column": "key",
        "eval_percent": 20,
        "sample_percent": 90,
        "chunking": "hash",
    } | changes
    if options.get("preprocessing") != "none":
        options = {"fit_rows": 5_000} | options
    return DatasetSpec(ParquetSource(str(folder)), **options)  # type: ignore[arg-type]  # brevity


def epoch_of(client: FaucetClient, spec: DatasetSpec) -> list[torch.Tensor]:
    """All that the batches of an epoch of each split have, bit for bit, in their order."""
    dataset = client.open(spec)
    found = []
    for split, shuffle in (("train", "none"), ("eval", "none")):
        for batch in dataset.batches(split, batch_size=500, seed=SEED, shuffle=shuffle):  # type: ignore[arg-type]  # a split
            found += [batch.features.clone(), batch.labels["y"].clone()]
            found.append(torch.as_tensor(batch.passthrough["id"]).clone())
            found += [ids.clone() for ids in batch.ids.values()]
    return found


def dealt_folders(daemon: WatchedDaemon) -> list[Path]:
    return sorted(path for path in daemon.folder.glob("scratch/dealt-*/*") if path.is_dir())


def stages(client: FaucetClient, spec: DatasetSpec) -> set[str]:
    """What opening it tells."""
    told: list[OpenProgress] = []
    client.open(spec, on_progress=told.append)
    return {progress.stage for progress in told}


def ids_in(batches: list[torch.Tensor]) -> list[int]:
    return [
        n for one in batches if one.dtype == torch.int64 and one.ndim == 1 for n in one.tolist()
    ]


def drop(client: FaucetClient, key: str) -> None:
    """Drops a dataset, as soon as the last batch is let go of."""

    def dropped() -> bool:
        try:
            client.session().drop(key)
        except DatasetInUse:
            return False
        return True

    assert eventually(dropped)


@pytest.mark.parametrize("preprocessing", ["none", "auto"])
def test_the_same_rows_in_other_files_make_the_same_batches(
    start_daemon: StartDaemon, tmp_path: Path, preprocessing: str
) -> None:
    table = table_of(ROWS)
    shuffled = table.take(np.random.default_rng(1).permutation(ROWS))
    one = write(tmp_path / "one", table)
    other = write(tmp_path / "other", shuffled, files=3, group=777)
    features = ["a", "b"] if preprocessing == "none" else ["a", "b", "word"]
    changes = {"preprocessing": preprocessing, "features": features}
    alone = start_daemon("64MiB", workers=1).client()
    several = start_daemon("16MiB", workers=3).client()
    specs = spec_of(one, **changes), spec_of(other, **changes)
    keys = alone.open(specs[0]).info.key, several.open(specs[1]).info.key
    assert keys[0] == keys[1]
    ours, theirs = epoch_of(alone, specs[0]), epoch_of(several, specs[1])
    assert len(ours) == len(theirs) > 50
    assert all(
        np.array_equal(a.numpy(), b.numpy(), equal_nan=a.is_floating_point())
        for a, b in zip(ours, theirs, strict=True)
    )
    # In one daemon, they are one dataset.
    assert alone.open(specs[1]).info.key == keys[0]
    assert len(alone.status().datasets) == 1
    assert [t.shape for t in epoch_of(alone, specs[1])] == [t.shape for t in ours]


def bits_of(batch: Batch) -> tuple[bytes, ...]:
    """All that a batch has but its text, as bytes."""
    ids = torch.as_tensor(batch.passthrough["id"])
    tensors = [batch.features, batch.labels["y"], ids, *batch.ids.values()]
    return tuple(tensor.numpy().tobytes() for tensor in tensors)


@pytest.mark.parametrize("shuffle", ["batches", "rows"])
def test_deterministic_batches_are_the_same_whatever_workers_and_budget(
    start_daemon: StartDaemon, tmp_path: Path, shuffle: Literal["batches", "rows"]
) -> None:
    spec = spec_of(write(tmp_path / "t", table_of(ROWS)), chunk_rows=1_000)
    found, made = [], []
    for budget, workers in (("64MiB", 1), ("512KiB", 3)):
        client = start_daemon(budget, workers=workers).client()
        dataset = client.open(spec)
        with dataset.batches(
            batch_size=300, epochs=2, shuffle=shuffle, order="deterministic", seed=SEED
        ) as batches:
            found.append([bits_of(batch) for batch in batches])
        (status,) = client.status().datasets
        made.append(status.chunks_made - status.chunks)
    assert made[0] == 0 < made[1]  # of one, memory did not hold all chunks, so they were made again
    assert found[0] == found[1]
    first, second = found[0][: len(found[0]) // 2], found[0][len(found[0]) // 2 :]
    assert len(first) == len(second) > 60
    assert first != second


def test_dealing_is_told_and_what_was_dealt_is_found_again_checked_and_dropped(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    spec = spec_of(write(tmp_path / "t", table_of(ROWS * 30)), chunk_rows=50_000)
    daemon = start_daemon()
    client = daemon.client()
    assert "dealing rows to chunks" in stages(client, spec)
    (folder,) = dealt_folders(daemon)
    (status,) = client.status().datasets
    assert "dealt_budget=" in status.notes[0]
    assert status.count_rows_read == ROWS * 30
    dataset = client.open(spec)
    first = epoch_of(client, spec)
    client.close()

    daemon.kill()
    daemon.restart()
    client = daemon.client()
    assert "dealing rows to chunks" not in stages(client, spec)
    (status,) = client.status().datasets
    assert (status.key, status.count_rows_read) == (dataset.info.key, 0)
    assert "dealt to chunks by hash before, were found" in status.notes[0]
    assert len(epoch_of(client, spec)) == len(first)
    client.close()

    daemon.kill()
    file = max(folder.glob("*.arrows"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)
    daemon.restart()
    client = daemon.client()
    assert "dealing rows to chunks" in stages(client, spec)  # it is not taken for what it was
    assert sorted(ids_in(epoch_of(client, spec))) == sorted(ids_in(first))
    drop(client, client.open(spec).info.key)
    assert dealt_folders(daemon) == []
    assert sorted(ids_in(epoch_of(client, spec))) == sorted(ids_in(first))


def test_what_was_dealt_of_files_that_have_changed_is_gone_after_the_next_start(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    folder = write(tmp_path / "t", table_of(ROWS))
    daemon = start_daemon()
    client = daemon.client()
    client.open(spec_of(folder))
    (before,) = dealt_folders(daemon)
    client.close()
    daemon.kill()
    os.utime(folder / "0.parquet")
    (before.parent / "unfinished.part").mkdir()
    daemon.restart()
    assert dealt_folders(daemon) == []
    client = daemon.client()
    assert client.open(spec_of(folder)).info.rows["train"] > 0


def test_two_datasets_share_what_was_dealt_until_both_are_dropped(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    folder = write(tmp_path / "t", table_of(ROWS))
    daemon = start_daemon()
    client = daemon.client()
    features = ["a", "b"]
    one = client.open(spec_of(folder, features=features, chunk_rows=3_000, preprocessing="none"))
    spec = spec_of(folder, features=features, chunk_rows=3_000)
    assert "dealing rows to chunks" not in stages(client, spec)
    other = client.open(spec)
    assert one.info.key != other.info.key
    assert len(dealt_folders(daemon)) == 1
    drop(client, one.info.key)
    assert len(dealt_folders(daemon)) == 1
    assert sum(len(batch) for batch in other.batches("eval", batch_size=999)) > 0
    drop(client, other.info.key)
    assert dealt_folders(daemon) == []


@pytest.mark.parametrize("victim", ["worker", "daemon"])
def test_a_sigkill_in_the_midst_of_dealing_costs_nothing_but_time(
    start_daemon: StartDaemon, tmp_path: Path, victim: str
) -> None:
    table = table_of(ROWS)
    folder = write(tmp_path / "t", pa.concat_tables([table] * 60), group=20_000)
    spec = spec_of(folder, preprocessing="none", features=["a", "b"], passthrough=["id", "key"])
    daemon = start_daemon()
    client = daemon.client()
    dealing = threading.Event()
    failed: list[FaucetError] = []

    def told(progress: OpenProgress) -> None:
        if progress.stage == "dealing rows to chunks":
            dealing.set()

    def open_it() -> None:
        try:
            client.open(spec, on_progress=told)
        except FaucetError as error:
            failed.append(error)

    opening = threading.Thread(target=open_it)
    opening.start()
    assert dealing.wait(60)
    (part,) = eventually(lambda: dealt_folders(daemon))
    assert part.suffix == ".part"
    if victim == "worker":
        (worker,) = worker_pids(daemon.process.pid)
        os.kill(worker, signal.SIGKILL)
    else:
        daemon.kill()
    opening.join(60)
    assert bool(failed) == (victim == "daemon")
    if victim == "daemon":
        assert part.exists()
        daemon.restart()
        assert dealt_folders(daemon) == []
    client = daemon.client()
    dataset = client.open(spec)
    (whole,) = dealt_folders(daemon)
    assert whole.suffix == ""
    counts = np.zeros(ROWS, np.int64)
    for split in ("train", "eval"):
        for batch in dataset.batches(split, batch_size=5_000):
            counts += np.bincount(torch.as_tensor(batch.passthrough["id"]).numpy(), minlength=ROWS)
    assert set(counts.tolist()) == {0, 60}
    assert int(counts.sum()) == sum(dataset.info.rows.values())


def test_more_than_dealt_budget_is_refused_with_the_figures_and_leaves_nothing(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    folder = write(tmp_path / "t", table_of(ROWS))
    daemon = start_daemon(dealt_budget="300KiB")
    with pytest.raises(BudgetError, match=r"dealt_budget=300 KiB.*faucetd drop"):
        daemon.client().open(spec_of(folder))
    assert dealt_folders(daemon) == []


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A filesystem of 1 MiB, where this user may mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_an_error_by_name(start_daemon: StartDaemon, tmp_path: Path) -> None:
    folder = write(tmp_path / "t", table_of(ROWS))
    with small_disk(tmp_path / "disk") as disk:
        daemon = start_daemon(scratch_dir=str(disk), dealt_budget="1GiB")
        client = daemon.client()
        with pytest.raises(ConfigError, match=r"that disk is full: make room there.*chunking"):
            client.open(spec_of(folder))
        assert list(disk.glob("dealt-*/*/")) == []
        auto = client.open(spec_of(folder, chunking="auto", preprocessing="none", features=["a"]))
        assert sum(len(batch) for batch in auto.batches("train", batch_size=1_000)) > 0
        client.close()
        daemon.stop()


def test_arrival_is_for_warehouses_alone() -> None:
    with pytest.raises(FaucetError, match=r'leave it "auto".*or choose "hash"'):
        spec_of(Path("/t"), chunking="arrival")
