"""Batches for a device: what may be asked for, and what the parts do with a fake one."""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from faucet_client import DeviceError, SourceReadError, SpecError, Transfer, _memory
from faucet_client.batch import Block
from faucet_client.device import BACKENDS, Ahead, Carrier, transfer_to
from faucet_client.device.columns import parted, put_together, taken_apart
from faucet_client.device.pages import PageLocks
from faucet_client.device.ring import SLOTS, Ring
from faucet_client.device.transfer import Kind
from faucet_client.mapping import Columns, Ragged, TextColumn
from tests.processes.gpu import FakeGpu

ROWS = 100

no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")


@pytest.fixture
def gpu() -> Iterator[FakeGpu]:
    gpu = FakeGpu(torch.device("cuda"))
    yield gpu
    gpu.end()
    assert gpu.faults == []


def columns_of_all_kinds(rows: int = ROWS) -> Columns:
    """Lists and texts of different lengths, some of them empty."""
    numbers = torch.arange(rows)
    lengths = numbers % 4
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    texts = [f"{'é' * (row % 3)}{row}" for row in range(rows)]
    encoded = [text.encode() for text in texts]
    bounds = np.cumsum([0, *map(len, encoded)])
    valid = numbers % 5 > 0
    return Columns(
        rows,
        torch.rand(rows, 3),
        labels={"y": torch.rand(rows, 1)},
        weights=torch.rand(rows),
        ids={"city": numbers * 7},
        ragged={"tags": Ragged(torch.arange(int(offsets[-1])), offsets)},
        passthrough={
            "day": numbers.to(torch.int32),
            "flag": numbers % 2 == 0,
            "text": TextColumn(bounds, np.frombuffer(b"".join(encoded), np.uint8), valid),
            "object": np.array(texts, dtype=object),
        },
        valid={"text": valid, "y": numbers % 3 > 0},
        valid_names=("y", "day", "text"),
    )


@pytest.mark.parametrize("nothing", [None, "cpu", "cpu:0", torch.device("cpu"), Transfer("cpu")])
def test_the_cpu_is_as_no_device_at_all(nothing: Any) -> None:
    assert transfer_to(nothing) is None


@no_cuda
@pytest.mark.parametrize("device", ["cuda", "cuda:1", 3, torch.device("cuda"), Transfer("cuda:0")])
def test_without_cuda_the_error_says_what_to_do(device: Any) -> None:
    with pytest.raises(DeviceError, match=r"there is no cuda.*leave device out"):
        transfer_to(device)


@pytest.mark.parametrize(
    "nonsense",
    [
        "meta",
        "mps",
        "cudaa",
        "",
        "cuda:-1",
        "cuda:256",
        -1,
        256,
        True,
        1.5,
        [],
        torch.device("meta"),
    ],
)
def test_what_is_no_device_for_batches_is_refused_by_name(nonsense: Any) -> None:
    with pytest.raises(SpecError, match="device"):
        transfer_to(nonsense)


@pytest.mark.parametrize("wrong", [{"ahead": 0}, {"block_nbytes": 0}, {"ahead": "2"}])
def test_a_transfer_that_is_out_of_its_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=next(iter(wrong))):
        transfer_to(Transfer("cpu", **wrong))


def test_cuda_is_not_asked_for_anything_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> bool:
        raise AssertionError("CUDA was asked for")

    monkeypatch.setattr(torch.cuda, "is_available", refuse)
    assert transfer_to("cpu") is None


@pytest.mark.parametrize(("first", "stop"), [(0, ROWS), (13, 57), (99, 100)])
def test_columns_are_the_same_when_they_are_put_together_again(first: int, stop: int) -> None:
    columns = columns_of_all_kinds()
    copies = {key: tensor.clone() for key, tensor in taken_apart(columns, first, stop).items()}
    placed = put_together(columns, first, stop, copies)
    assert placed.rows == stop - first
    assert torch.equal(placed.features, columns.features[first:stop])
    assert torch.equal(placed.labels["y"], columns.labels["y"][first:stop])
    assert columns.weights is not None
    assert torch.equal(placed.weights, columns.weights[first:stop])  # type: ignore[arg-type]
    assert torch.equal(placed.ids["city"], columns.ids["city"][first:stop])
    assert list(placed.passthrough) == list(columns.passthrough)
    for name in ("day", "flag"):
        assert torch.equal(placed.tensor(name), columns.tensor(name)[first:stop])
    for name in ("text", "object"):
        assert list(placed.text(name, 0, stop - first)) == list(columns.text(name, first, stop))
    for name in ("y", "day", "text"):
        assert torch.equal(
            placed.valid_rows(name, 0, stop - first), columns.valid_rows(name, first, stop)
        )
    for start in range(first, stop, 10):
        end = min(start + 10, stop)
        found = placed.ragged["tags"].rows(start - first, end - first)
        expected = columns.ragged["tags"].rows(start, end)
        assert torch.equal(found.values, expected.values)
        assert torch.equal(found.offsets, expected.offsets)


def test_placed_text_keeps_no_memory_of_the_segment() -> None:
    columns = columns_of_all_kinds()
    placed = put_together(columns, 10, 20, taken_apart(columns, 10, 20))
    text, whole = placed.passthrough["text"], columns.passthrough["text"]
    assert isinstance(text, TextColumn)
    assert isinstance(whole, TextColumn)
    assert not np.shares_memory(text.data, whole.data)
    assert not np.shares_memory(text.offsets, whole.offsets)
    assert text.valid is not None
    assert whole.valid is not None
    assert text.valid.untyped_storage().data_ptr() != whole.valid.untyped_storage().data_ptr()


@pytest.mark.parametrize(("nbytes", "batches"), [(1, 1), (10**9, 13)])
def test_blocks_are_parted_into_whole_batches(nbytes: int, batches: int) -> None:
    block = Block(columns_of_all_kinds(), (2, 99), 8, (4, 20, 77))
    parts = list(parted(block, nbytes))
    assert max(part.batches for part in parts) == batches
    assert [part.rows(index) for part in parts for index in range(part.batches)] == [
        block.rows(index) for index in range(block.batches)
    ]
    assert [part.first_number for part in parts] == list(range(20, 33, batches))
    assert {(part.epoch, part.batches_per_epoch) for part in parts} == {(4, 77)}


def test_the_ring_fills_a_slot_again_only_when_it_was_read(gpu: FakeGpu) -> None:
    ring = Ring(gpu)
    gpu.hold()
    numbers = [torch.full((50,), value) for value in range(SLOTS + 1)]
    copies = []
    for tensor in numbers[:SLOTS]:
        (staged,), slot = ring.stage([tensor])
        assert slot is not None
        copies.append(gpu.to_device(staged))
        slot.read = gpu.record()
    done = threading.Event()

    def one_more() -> None:
        ring.stage([numbers[SLOTS]])
        done.set()

    thread = threading.Thread(target=one_more)
    thread.start()
    assert not done.wait(0.2)  # it waits for a slot, or it never will
    gpu.go_on()
    thread.join(10)
    assert done.is_set()
    gpu.record().synchronize()
    assert all(map(torch.equal, copies, numbers))
    assert gpu.pageable == 0


def test_the_ring_takes_all_dtypes_and_shapes_and_grows(gpu: FakeGpu) -> None:
    ring = Ring(gpu)
    for rows in (10, 1_000, 3):
        whole = list(taken_apart(columns_of_all_kinds(rows), 0, rows).values())
        whole.append(torch.empty(rows, 0))
        staged, slot = ring.stage(whole)
        assert slot is not None
        assert all(map(torch.equal, staged, whole))
        assert [each.dtype for each in staged] == [each.dtype for each in whole]


def test_without_pinned_memory_the_ring_says_so_once_and_gives_the_tensors_back(
    gpu: FakeGpu, caplog: pytest.LogCaptureFixture
) -> None:
    gpu.pinned_nbytes = 0
    ring = Ring(gpu)
    tensor = torch.rand(100)
    for _ in range(3):
        staged, slot = ring.stage([tensor])
        assert slot is None
        assert staged[0] is tensor
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "no pinned memory is left" in record.message


def test_a_refused_page_lock_is_said_once_a_device_and_not_tried_again(
    gpu: FakeGpu, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faucet_client.device.pages._warned", set())
    gpu.refusal = "operation not supported (CUDA error 801)"
    for _ in range(2):
        locks = PageLocks(gpu)
        assert not locks.lock(4096, 4096)
        gpu.refusal = None
        assert not locks.lock(8192, 4096)
        locks.unlock(4096)
        gpu.refusal = "again"
    assert gpu.lockings == 0
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "operation not supported" in record.message
    assert "nothing is lost" in record.message


@pytest.fixture
def carrier(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> Iterator[Carrier]:
    """Of blocks of any size, two of them ahead."""
    monkeypatch.setitem(BACKENDS, "cuda", Kind(lambda _device: None, lambda _device: gpu))
    transfer = transfer_to(Transfer("cuda", block_nbytes=1 << 30))
    assert transfer is not None
    carrier = Carrier(transfer)
    yield carrier
    carrier.close()
    carrier.join(10)


def test_what_was_copied_is_handed_out_before_anything_is_waited_for(carrier: Carrier) -> None:
    asked: list[int] = []

    def blocks() -> Iterator[Block]:
        for number in range(3):
            asked.append(number)
            yield Block(columns_of_all_kinds(20), (0, 20), 10, (0, 2 * number, 6))

    batches = iter(Ahead(carrier, blocks(), lambda: False))  # never is one there at once
    seen = [(next(batches).batch_num, len(asked)) for _ in range(6)]
    assert seen == [(0, 1), (1, 1), (2, 2), (3, 2), (4, 3), (5, 3)]
    assert next(batches, None) is None


def test_an_error_that_is_met_ahead_has_its_turn(carrier: Carrier) -> None:
    def blocks() -> Iterator[Block]:
        yield Block(columns_of_all_kinds(20), (0, 20), 10, (0, 0, 6))
        yield Block(columns_of_all_kinds(20), (0, 20), 10, (0, 2, 6))
        raise SourceReadError("a broken file")

    ahead = Ahead(carrier, blocks(), lambda: True)
    batches = iter(ahead)
    assert [next(batches).batch_num for _ in range(4)] == [0, 1, 2, 3]
    assert isinstance(ahead.failure, SourceReadError)
    with pytest.raises(SourceReadError, match="a broken file"):
        next(batches)


def sealed(content: bytes) -> int:
    fd = _memory.create_memfd("test", len(content))
    os.pwrite(fd, content, 0)
    _memory.seal(fd)
    return fd


@pytest.mark.parametrize("old_kernel", [False, True])
def test_sealed_memory_is_mapped_read_only_and_shared(
    monkeypatch: pytest.MonkeyPatch, old_kernel: bool
) -> None:
    content = os.urandom(3 * mmap.PAGESIZE)
    fd = sealed(content)
    aligned = _memory._map_aligned
    refused = []

    def before_linux_6_7(mapped: int, *rest: Any) -> int:
        if mapped == fd:
            refused.append(mapped)
            raise PermissionError
        return aligned(mapped, *rest)

    if old_kernel:
        monkeypatch.setattr(_memory, "_map_aligned", before_linux_6_7)
    address = _memory.map_read_only(fd, len(content))
    try:
        assert len(refused) == old_kernel
        assert ctypes.string_at(address, len(content)) == content
        assert address % _memory.HUGE_PAGE_NBYTES == 0
        with open("/proc/self/maps") as maps:
            (line,) = [line for line in maps if line.startswith(f"{address:x}-")]
        assert line.split()[1] == "r--s"
    finally:
        _memory.unmap(address, len(content))
        os.close(fd)
