"""Batches on a real CUDA device: the same bits as in the host's memory, and no private copy of it.

Without one these are skipped; test_device.py has what can be tested without.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from faucet_client import Dataset, Transfer
from tests.processes.daemons import StartDaemon, wait_idle
from tests.processes.kinds import differences, values_of, write_all_kinds
from tests.processes.rows import assert_exact, feature, label
from tests.processes.tables import MakeTable

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="there is no CUDA device here"
)

MIB = 1 << 20


def private_bytes_of_segments() -> int:
    """What this process has of its mapped segments as copies of its own."""
    found, segment = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            segment = "memfd:faucet" in line
        elif segment and line.startswith("Anonymous:"):
            found += int(line.split()[1]) * 1024
    return found


@pytest.fixture
def dataset(start_daemon: StartDaemon, make_table: MakeTable) -> Dataset:
    """400,000 rows of 164 bytes in chunks of 8 MiB."""
    table = make_table(rows=400_000, features=38, chunk_rows=50_000)
    return start_daemon("256MiB").client().open(table.spec())


@pytest.mark.parametrize("shuffle", ["batches", "rows", "none"])
@pytest.mark.parametrize("page_lock", [True, False])
def test_all_kinds_of_columns_have_the_same_bits_as_in_the_hosts_memory(
    start_daemon: StartDaemon, tmp_path: Path, shuffle: str, page_lock: bool
) -> None:
    spec = write_all_kinds(tmp_path / "all.parquet", 20_000)
    dataset = start_daemon().client().open(spec)
    wishes: dict[str, Any] = {"batch_size": 64, "epochs": 2, "shuffle": shuffle}
    host = dataset.batches("train", order="deterministic", **wishes)
    device = Transfer("cuda", block_nbytes=100_000, page_lock=page_lock)
    placed = dataset.batches("train", order="deterministic", device=device, **wishes)
    for one, other in zip(host, placed, strict=True):
        assert other.features.is_cuda
        assert all(label.is_cuda for label in other.labels.values())
        assert not differences(values_of(one), values_of(other)), other
        assert not differences(values_of(one), values_of(other.clone())), other


@pytest.mark.parametrize("page_lock", [True, False])
def test_a_large_epoch_is_right_while_the_gpu_is_busy_and_no_segment_becomes_private(
    dataset: Dataset, page_lock: bool, caplog: pytest.LogCaptureFixture
) -> None:
    work = torch.rand(2_048, 2_048, device="cuda")
    work = torch.tanh(work @ work)  # takes its own workspace now
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    ids, sums, private = [], [], 0
    device = Transfer("cuda", page_lock=page_lock)
    with dataset.batches("train", batch_size=1_000, device=device) as batches:
        for number, batch in enumerate(batches):
            if number % 10 == 0:
                work = torch.tanh(work @ work)  # so that the stream is behind the host
                private = max(private, private_bytes_of_segments())
            ids.append(torch.as_tensor(batch.passthrough["id"]).clone())
            sums.append(torch.cat([batch.features, batch.labels["y"]], 1).double().sum(1))
    found = torch.cat(ids).cpu().numpy()
    assert_exact(found, 400_000)
    expected = np.sum([feature(found, number) for number in range(38)], 0, np.float64)
    assert np.array_equal(torch.cat(sums).cpu().numpy(), expected + label(found))
    assert private == 0
    kept = 400_000 * 16 + 2_048 * 2_048 * 4 * 3
    blocks = (device.ahead + 3) * (device.block_nbytes + MIB)
    assert torch.cuda.max_memory_allocated() - before < kept + blocks
    stats = batches.stats()
    if page_lock and not caplog.records:
        assert stats.bytes_staged < stats.bytes_to_device / 10
    else:  # what the machine refuses is said once, and costs nothing but time
        assert stats.bytes_staged == stats.bytes_to_device


def test_batches_are_right_on_a_side_stream_and_when_their_memory_is_used_again(
    dataset: Dataset,
) -> None:
    streams = torch.cuda.Stream(), torch.cuda.Stream()
    device = Transfer("cuda", ahead=1, block_nbytes=MIB)
    busy = torch.rand(4_096, 4_096, device="cuda")
    wrong = [torch.zeros((), dtype=torch.int64, device="cuda") for _ in streams]
    torch.cuda.synchronize()
    batches = dataset.batches("train", batch_size=1_000, device=device)
    for number in range(len(batches)):
        with torch.cuda.stream(streams[number % 2]):
            batch = next(batches)
            # It is dropped while the device is far from having read it.
            torch.mm(busy, busy)
            expected = (torch.as_tensor(batch.passthrough["id"]) % 7).to(torch.float32)
            wrong[number % 2] += (expected != batch.labels["y"][:, 0]).sum()
    torch.cuda.synchronize()
    assert [each.item() for each in wrong] == [0, 0]


def test_page_locks_end_with_the_iterator(dataset: Dataset) -> None:
    batches = dataset.batches("train", batch_size=1_000, device="cuda")
    next(batches)
    batches.close()
    del batches
    wait_idle(dataset._client.status)
    assert private_bytes_of_segments() == 0
