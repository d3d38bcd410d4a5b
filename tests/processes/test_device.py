"""Batches that are copied to a device ahead, from real daemons, to a GPU that is a fake (gpu.py).

What a real one does with them is in test_cuda.py.
"""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from faucet_client import (
    Batch,
    BatchIterator,
    DaemonLost,
    Dataset,
    DeviceError,
    FaucetDataset,
    IteratorError,
    SpecError,
    Transfer,
)
from faucet_client.batch import Block
from faucet_client.device import BACKENDS, Carrier
from faucet_client.device.transfer import Kind
from faucet_client.holdings import Mapped
from faucet_client.mapping import Columns, map_segment
from tests.processes.daemons import StartDaemon, WatchedDaemon, wait_idle
from tests.processes.gpu import FakeGpu
from tests.processes.kinds import differences, values_of, write_all_kinds
from tests.processes.leaks import faucet_threads, memfd_mappings
from tests.processes.rows import assert_exact, check, ids_of
from tests.processes.tables import MakeTable, Table
from tests.processes.waiting import eventually, eventually_gone

SIZE = 256
SMALL = 20_000
"""Bytes of a block: two batches of a `make_table` of four features, and the rest of a third."""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """The only CUDA device there is."""
    gpu = FakeGpu(torch.device("cuda"))
    monkeypatch.setitem(BACKENDS, "cuda", Kind(lambda _device: None, lambda _device: gpu))
    monkeypatch.setattr("faucet_client.device.pages._warned", set())
    yield gpu
    gpu.end()
    assert gpu.faults == []
    assert gpu.locked == {}, "page-locked memory was unmapped"


@pytest.fixture
def dataset(daemon: WatchedDaemon, make_table: MakeTable) -> Dataset:
    """40,000 rows in 20 chunks."""
    return daemon.client().open(make_table().spec())


def on_gpu(dataset: Dataset, **changes: Any) -> BatchIterator:
    """An epoch of the train split, in blocks of two batches or so."""
    wishes: dict[str, Any] = {
        "batch_size": SIZE,
        "device": Transfer("cuda", block_nbytes=SMALL),
    }
    return dataset.batches("train", **wishes | changes)


def checked(batch: Batch) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Its ids, once all its values are seen to be right."""
    check(batch)
    return ids_of(batch)


# The same batches.


@pytest.mark.parametrize("shuffle", ["batches", "rows", "none"])
@pytest.mark.parametrize("page_lock", [True, False])
def test_batches_have_the_same_values_as_without_a_device(
    gpu: FakeGpu, daemon: WatchedDaemon, tmp_path: Path, shuffle: str, page_lock: bool
) -> None:
    dataset = daemon.client().open(write_all_kinds(tmp_path / "all.parquet", 3_000))
    wishes: dict[str, Any] = {"batch_size": 64, "shuffle": shuffle, "order": "deterministic"}
    transfer = Transfer("cuda", block_nbytes=SMALL, page_lock=page_lock)
    wishes |= {"epochs": 2, "drop_last": page_lock}
    host = [values_of(batch) for batch in dataset.batches("train", **wishes)]
    placed = dataset.batches("train", **wishes, device=transfer)
    assert len(placed) == len(host)
    for expected, batch in zip(host, placed, strict=True):
        assert not differences(expected, values_of(batch)), batch
        assert not differences(expected, values_of(batch.clone())), batch
    if page_lock and shuffle != "rows":
        assert gpu.direct > 0
    else:
        assert gpu.lockings == gpu.direct == 0
    assert gpu.pageable == 0


def test_most_bytes_go_straight_and_joined_batches_through_pinned_memory(
    gpu: FakeGpu, dataset: Dataset
) -> None:
    with on_gpu(dataset) as batches:
        ids = np.concatenate([checked(batch) for batch in batches])
    assert_exact(ids, 40_000)
    stats = batches.stats()
    assert stats.batches_joined > 0
    assert 0 < stats.bytes_staged < stats.bytes_to_device / 4
    assert stats.bytes_to_device == 40_000 * (4 * 4 + 4 + 8)  # features, label, id
    assert gpu.lockings >= 20


def test_ranks_and_epochs_are_as_everywhere(gpu: FakeGpu, dataset: Dataset) -> None:
    device = Transfer("cuda", block_nbytes=SMALL)
    for epoch in range(2):
        ids = []
        for rank in range(3):
            wishes: dict[str, Any] = {"rank": rank, "world_size": 3, "remainder": "pad"}
            epochs = dataset.epochs("train", count=2, batch_size=SIZE, device=device, **wishes)
            for each in epochs:
                batches = list(map(checked, each))
                assert len(batches) == len(each)
                if each.number == epoch:
                    ids += batches
        found = np.concatenate(ids)
        assert_exact(np.unique(found), 40_000)
        assert len(found) == 40_002


def test_an_epoch_that_is_left_early_is_given_up_and_the_next_begins(
    gpu: FakeGpu, dataset: Dataset
) -> None:
    device = Transfer("cuda", block_nbytes=SMALL)
    epochs = dataset.epochs("train", count=3, batch_size=SIZE, device=device)
    left = iter(next(epochs))
    next(left)
    assert_exact(np.concatenate(list(map(checked, next(epochs)))), 40_000)
    with pytest.raises(IteratorError, match="given up"):
        next(left)
    assert_exact(np.concatenate(list(map(checked, next(epochs)))), 40_000)


# Lives and streams.


def test_a_segment_stays_leased_until_it_was_copied_though_nobody_holds_a_batch(
    gpu: FakeGpu, daemon: WatchedDaemon, dataset: Dataset
) -> None:
    gpu.waits = False
    gpu.hold()
    # Unshuffled: else the first batch may be one of two ends of its chunk, and go through the ring.
    batches = on_gpu(dataset, shuffle="none")
    batch = next(batches)
    eventually(lambda: gpu.copies_pending)
    batches.close()
    del batches
    gc.collect()
    status = daemon.client().status
    eventually(lambda: not status().readers)
    # The reader is gone; what the device reads is mapped, page-locked and leased all the same.
    assert gpu.locked
    mapped = memfd_mappings()
    assert mapped
    assert all(" r--s " in line for line in mapped)  # a private one would be copied by the lock
    assert status().memory.leased_bytes > 0
    gpu.go_on()
    wait_idle(status)
    eventually_gone(memfd_mappings)
    assert not gpu.locked
    gpu.record().synchronize()
    check(batch)  # and its own memory is the device's


def test_a_session_that_is_over_adopts_no_mapping_and_is_not_over_before(
    daemon: WatchedDaemon,
) -> None:
    """It is the session's thread that unlocks what is page-locked, and unmaps it."""
    client = daemon.client()
    session = client.session()
    session.adopt(1, Mapped(1, 4_096))
    client.close()
    session.adopt(2, Mapped(2, 4_096))  # one that was under way
    session.disown(1)
    eventually(lambda: session._to_do.empty())  # its thread has looked
    assert not session._over
    session.disown(2)
    eventually(lambda: session._over)
    with pytest.raises(IteratorError, match="client was closed"):
        session.adopt(3, Mapped(3, 4_096))


def test_a_client_that_is_closed_while_a_segment_is_mapped_leaves_none(
    gpu: FakeGpu, daemon: WatchedDaemon, make_table: MakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = daemon.client()
    dataset = client.open(make_table().spec())
    session = client.session()

    def closed_meanwhile(*given: Any) -> Columns:
        client.close()
        eventually(lambda: session._to_do.empty())  # its thread has looked whether it is over
        return map_segment(*given)

    monkeypatch.setattr("faucet_client.feed.map_segment", closed_meanwhile)
    batches = on_gpu(dataset)
    with pytest.raises(IteratorError, match="client was closed"):
        list(batches)
    del batches
    eventually_gone(memfd_mappings)


def test_segments_go_while_the_trainer_thinks(
    gpu: FakeGpu, daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    dataset = daemon.client().open(make_table(rows=8_000).spec())  # four chunks
    batches = on_gpu(dataset, shuffle="none", device=Transfer("cuda", ahead=100))
    kept = [next(batches) for _ in range(len(batches))]
    # Nobody asks for more, and yet the last copies are waited for, and what they read is let go of;
    # but for the last chunk, as long as nobody has asked whether it was the last.
    memory = daemon.client().status().memory
    eventually(lambda: daemon.client().status().memory.leased_bytes == memory.used_bytes // 4)
    assert_exact(np.concatenate([checked(batch) for batch in kept]), 8_000)


def test_so_many_blocks_are_ahead_and_no_more_and_none_of_them_counts(
    gpu: FakeGpu, daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    dataset = daemon.client().open(make_table(rows=16_000, chunk_rows=8_000).spec())
    row_nbytes = 4 * 4 + 4 + 8
    block_nbytes = 2 * SIZE * row_nbytes
    for ahead in (1, 3):
        device = Transfer("cuda", ahead=ahead, block_nbytes=SMALL)
        with on_gpu(dataset, shuffle="none", device=device) as batches:
            next(batches)
            sent = (1 + ahead) * block_nbytes
            eventually(lambda: batches.stats().bytes_to_device == sent)  # noqa: B023  # at once
            assert batches.stats().rows == SIZE
            assert batches.state_dict()["batch"] == 1
            for _ in batches:
                stats = batches.stats()
                assert stats.bytes_to_device <= stats.rows * row_nbytes + sent
        assert batches.stats().bytes_to_device == 16_000 * row_nbytes


def test_a_block_is_handed_to_each_stream_that_uses_it_once(gpu: FakeGpu, dataset: Dataset) -> None:
    with on_gpu(dataset, shuffle="none") as batches:
        first = next(batches)
        assert [stream for stream, _ in gpu.handed] == ["main"]
        assert first.features.data_ptr() in gpu.handed[0][1]
        assert first.labels["y"].data_ptr() in gpu.handed[0][1]
        next(batches)
        assert len(gpu.handed) == 1  # of the same block, on the same stream
        next(batches)
        assert [stream for stream, _ in gpu.handed] == ["main"] * 2
        gpu.stream = "side"
        next(batches)
        assert [stream for stream, _ in gpu.handed] == ["main", "main", "side"]
        assert gpu.handed[2][1] == gpu.handed[1][1]


@pytest.mark.parametrize("kind", ["batches", "epochs"])
def test_an_iterator_that_is_dropped_ends_its_threads(
    gpu: FakeGpu, dataset: Dataset, kind: str
) -> None:
    if kind == "batches":
        batches: Any = on_gpu(dataset)
        kept = next(batches)
    else:
        batches = dataset.epochs("train", count=2, batch_size=SIZE, device="cuda")
        kept = next(iter(next(batches)))
    gc.disable()  # no ring of references holds it
    try:
        del batches
        eventually_gone(lambda: [name for name in faucet_threads() if name == "faucet-device"])
        eventually_gone(memfd_mappings)
    finally:
        gc.enable()
    check(kept)


# States and errors.


@pytest.mark.parametrize("shuffle", ["batches", "rows"])
def test_whoever_goes_on_from_a_state_gets_each_row_once(
    gpu: FakeGpu, dataset: Dataset, shuffle: str
) -> None:
    for taken in (0, 1, 7, 50):
        with on_gpu(dataset, shuffle=shuffle, seed=5) as batches:
            ids = [checked(next(batches)) for _ in range(taken)]
            state = batches.state_dict()
        assert state["batch"] == taken
        rest = on_gpu(dataset, shuffle=shuffle, seed=5, state=state)
        ids += [checked(batch) for batch in rest]
        assert_exact(np.concatenate(ids), 40_000)


def test_an_iterator_goes_on_from_its_own_state(gpu: FakeGpu, dataset: Dataset) -> None:
    batches = on_gpu(dataset)
    ids = [checked(next(batches)) for _ in range(10)]
    state = batches.state_dict()
    for _ in range(9):
        next(batches)
    batches.load_state_dict(state)
    ids += [checked(batch) for batch in batches]
    assert_exact(np.concatenate(ids), 40_000)


def test_an_error_in_the_loop_is_the_loops_own(gpu: FakeGpu, dataset: Dataset) -> None:
    batches = on_gpu(dataset)
    ids = []
    with pytest.raises(ZeroDivisionError):
        for batch in batches:
            ids.append(checked(batch))
            _ = 1 / (len(ids) - 5)
    ids += [checked(batch) for batch in batches]
    assert_exact(np.concatenate(ids), 40_000)


@pytest.mark.parametrize("page_lock", [True, False])
def test_a_device_that_is_full_is_an_error_by_name_and_keeps_nothing(
    gpu: FakeGpu, daemon: WatchedDaemon, dataset: Dataset, page_lock: bool
) -> None:
    gpu.copies_left = 3 * 10 + 1  # in the midst of the eleventh block
    transfer = Transfer("cuda", block_nbytes=SMALL, page_lock=page_lock)
    batches = on_gpu(dataset, device=transfer)
    ids = []
    with pytest.raises(DeviceError, match=r"cuda:0 has no memory.*ahead=2, block_nbytes=20000"):
        for batch in batches:
            ids.append(checked(batch))
    with pytest.raises(DeviceError, match="no memory"):  # not: the end
        next(batches)
    state = batches.state_dict()
    assert state["batch"] == len(ids)
    batches.close()
    wait_idle(daemon.client().status)
    gpu.copies_left = 1 << 30
    ids += [checked(batch) for batch in on_gpu(dataset, state=state)]
    assert_exact(np.concatenate(ids), 40_000)


def test_a_device_that_has_failed_is_an_error_by_name_and_keeps_nothing(
    gpu: FakeGpu, daemon: WatchedDaemon, dataset: Dataset
) -> None:
    gpu.waits = False
    batches = on_gpu(dataset, device=Transfer("cuda", block_nbytes=SMALL, page_lock=False))
    next(batches)
    gpu.failure = "an illegal memory access was encountered"
    with pytest.raises(DeviceError, match=r"cuda:0.*illegal memory access"):
        list(batches)
    batches.close()
    wait_idle(daemon.client().status)
    eventually_gone(memfd_mappings)


@pytest.mark.parametrize("used", [False, True])
def test_a_carrier_that_is_closed_takes_no_order_and_leaves_no_thread(
    gpu: FakeGpu, used: bool
) -> None:
    rows = Columns(SIZE, torch.zeros(SIZE, 4))
    for _ in range(20):
        carrier = Carrier(Transfer(torch.device("cuda")))
        if used:
            carrier.take(carrier.send(Block(rows, (0, SIZE), SIZE, (0, 0, 1))))
        carrier.close()  # its thread has yet to see it
        with pytest.raises(IteratorError, match="closed"):
            carrier.send(Block(rows, (0, SIZE), SIZE, (0, 0, 1)))
    eventually_gone(lambda: [name for name in faucet_threads() if "device" in name])


def test_a_carrier_that_is_closed_while_it_is_sent_an_order_leaves_no_thread(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Columns(SIZE, torch.zeros(SIZE, 4))
    carrier = Carrier(Transfer(torch.device("cuda")))

    def closed_meanwhile() -> Future[Any]:
        carrier.close()
        return Future()

    carrier.take(carrier.send(Block(rows, (0, SIZE), SIZE, (0, 0, 1))))
    monkeypatch.setattr("faucet_client.device.carrier.Future", closed_meanwhile)
    with pytest.raises(IteratorError, match="closed"):
        carrier.send(Block(rows, (0, SIZE), SIZE, (0, 0, 1)))
    carrier.join(10)
    assert not [name for name in faucet_threads() if "device" in name]


def test_a_daemons_loss_comes_after_the_batches_that_were_copied(
    gpu: FakeGpu, daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    dataset = daemon.client(patience_s=0).open(make_table().spec())
    batches = on_gpu(dataset, device=Transfer("cuda", ahead=8, block_nbytes=SMALL))
    ids = [checked(next(batches))]
    daemon.kill()
    with pytest.raises(DaemonLost):
        for batch in batches:
            ids.append(checked(batch))
    # All that the feed had mapped was handed out, but for rows that make no whole batch.
    assert batches.stats().rows == sum(map(len, ids))
    nbytes = batches.stats().bytes_to_device
    assert nbytes == batches.stats().rows * (4 * 4 + 4 + 8)
    assert len(np.unique(np.concatenate(ids))) == sum(map(len, ids))
    with pytest.raises(DaemonLost):
        next(batches)
    daemon.restart()  # which removes what the killed one has left


def test_an_iterator_goes_on_with_the_next_daemon(
    gpu: FakeGpu, daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    dataset = daemon.client(patience_s=60).open(make_table().spec())
    batches = on_gpu(dataset)
    ids = [checked(next(batches)) for _ in range(10)]
    daemon.kill()
    daemon.restart()
    ids += [checked(batch) for batch in batches]
    assert_exact(np.concatenate(ids), 40_000)
    assert batches.stats().reconnections == 1


def test_a_closed_iterator_says_so(gpu: FakeGpu, dataset: Dataset) -> None:
    batches = on_gpu(dataset)
    kept = next(batches)
    batches.close()
    with pytest.raises(IteratorError, match="closed"):
        list(batches)
    check(kept)


@pytest.mark.parametrize("shuffle", ["batches", "rows"])
def test_a_closed_iterator_keeps_only_what_the_device_reads(
    gpu: FakeGpu, daemon: WatchedDaemon, dataset: Dataset, shuffle: str
) -> None:
    gpu.waits = False
    gpu.hold()
    transfer = Transfer("cuda", ahead=8, block_nbytes=SMALL, page_lock=False)
    batches = on_gpu(dataset, device=transfer, shuffle=shuffle)
    next(batches)
    batches.close()  # a block waits for a place in the ring, and others for their turn
    gpu.go_on()
    wait_idle(daemon.client().status)
    eventually_gone(memfd_mappings)
    with pytest.raises(IteratorError, match="closed"):
        next(batches)


def test_a_forked_child_is_told_that_the_iterator_is_its_parents(
    gpu: FakeGpu, dataset: Dataset
) -> None:
    batches = on_gpu(dataset)
    ids = [checked(next(batches))]
    child = os.fork()
    if not child:
        try:
            next(batches)
        except IteratorError as error:
            os._exit(0 if "parent" in str(error) else 2)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    ids += [checked(batch) for batch in batches]
    assert_exact(np.concatenate(ids), 40_000)


EXIT = """
import atexit, os, sys, threading
names = lambda: [thread.name for thread in threading.enumerate()]
atexit.register(lambda: "faucet-device" in names() and os._exit(3))
import torch
from faucet_client import DatasetSpec, FaucetClient, ParquetSource
from faucet_client.device import BACKENDS, Carrier
from faucet_client.device.transfer import Kind
from faucet_client.holdings import Mapped
from faucet_client.mapping import Columns, map_segment
from tests.processes.gpu import FakeGpu
gpu = FakeGpu(torch.device("cuda"))
gpu.waits = False
gpu.hold()
ended = threading.Event()
close = Carrier.close
Carrier.close = lambda carrier: (close(carrier), ended.set())
threading.Thread(target=lambda: ended.wait() and gpu.go_on(), daemon=True).start()
BACKENDS["cuda"] = Kind(lambda _: None, lambda _: gpu)
spec = DatasetSpec(ParquetSource(sys.argv[2]), features=["f0"], preprocessing="none")
batches = FaucetClient(sys.argv[1]).open(spec).batches(batch_size=256, device="cuda")
next(batches)  # and now its copies go on until the iterator is closed, at the end
assert "faucet-device" in names()
"""


def test_the_thread_that_speaks_to_cuda_ends_before_the_interpreter(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    command = [sys.executable, "-c", EXIT, daemon.address, str(make_table().path)]
    assert subprocess.run(command, timeout=60, check=False).returncode == 0


# Other ways, and other doors.


def test_where_nothing_can_be_page_locked_all_goes_through_pinned_memory(
    gpu: FakeGpu, dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    gpu.refusal = "operation not supported (CUDA error 801)"
    for _ in range(2):
        with on_gpu(dataset) as batches:
            assert_exact(np.concatenate([checked(batch) for batch in batches]), 40_000)
        assert batches.stats().bytes_staged == batches.stats().bytes_to_device
    assert gpu.direct == gpu.pageable == 0
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "operation not supported" in warnings[0].message


def test_where_no_memory_can_be_pinned_either_batches_are_right_all_the_same(
    gpu: FakeGpu, dataset: Dataset
) -> None:
    gpu.refusal = "out of memory (CUDA error 2)"
    gpu.pinned_nbytes = 0
    with on_gpu(dataset) as batches:
        assert_exact(np.concatenate([checked(batch) for batch in batches]), 40_000)
    assert batches.stats().bytes_staged == gpu.direct == 0
    assert gpu.pageable > 0


def test_a_batch_larger_than_a_block_is_a_block(gpu: FakeGpu, dataset: Dataset) -> None:
    transfer = Transfer("cuda", block_nbytes=1)
    with on_gpu(dataset, batch_size=5_000, device=transfer) as batches:
        assert_exact(np.concatenate([checked(batch) for batch in batches]), 40_000)


def test_a_small_memory_budget_is_enough(
    gpu: FakeGpu, start_daemon: StartDaemon, make_table: MakeTable
) -> None:
    table: Table = make_table()
    daemon = start_daemon("1MiB")
    batches = on_gpu(daemon.client().open(table.spec()), device=Transfer("cuda", ahead=50))
    assert_exact(np.concatenate([checked(batch) for batch in batches]), 40_000)
    kept = list(on_gpu(daemon.client().open(table.spec())))  # a hoarder hoards the device's memory
    assert_exact(np.concatenate([checked(batch) for batch in kept]), 40_000)


def test_the_cpu_as_a_device_gives_views_as_ever(dataset: Dataset) -> None:
    with dataset.batches("train", batch_size=SIZE, device="cpu") as batches:
        next(batches)
        assert "faucet-device" not in faucet_threads()
        assert batches.stats().bytes_to_device == 0


def test_a_torch_dataset_has_a_device_but_its_workers_have_not(
    gpu: FakeGpu, dataset: Dataset
) -> None:
    rows = FaucetDataset(dataset, batch_size=SIZE, device=Transfer("cuda", block_nbytes=SMALL))
    loader = torch.utils.data.DataLoader(rows, batch_size=None)
    for _ in range(2):
        assert_exact(np.concatenate([checked(batch) for batch in loader]), 40_000)
    assert gpu.direct > 0
    workers = torch.utils.data.DataLoader(rows, batch_size=None, num_workers=1)
    with pytest.raises(SpecError, match="num_workers=0"):
        next(iter(workers))
