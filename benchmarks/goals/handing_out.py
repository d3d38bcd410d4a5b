"""What a batch costs once its chunk is in memory: G1, G2, G3, G9."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch

from benchmarks import feeding
from benchmarks.goals.daemons import (
    CHUNK_ROWS,
    FEATURES,
    Measured,
    exhaust,
    measured_daemon,
    rows_spec,
    write_rows,
)
from benchmarks.goals.verdicts import Values
from faucet_client.dataset import Dataset

BATCH_SIZE = 1_024
LEAST_STEP_US = 20.0


def measure(folder: Path, rows: int, repeats: int) -> dict[str, Values]:
    """Values of the four goals.

    Args:
        folder: For the table.
        rows: Of the table.
        repeats: Epochs of each kind; those of two that are compared alternate.
    """
    torch.set_num_threads(1)
    path = folder / "rows.parquet"
    write_rows(path, rows)
    with measured_daemon(folder) as daemon:
        dataset = daemon.client.open(rows_spec(path, chunk_rows=CHUNK_ROWS))
        local = torch.rand(rows, FEATURES), torch.rand(rows, 1)
        exhaust(dataset.batches(batch_size=BATCH_SIZE))  # reads the table
        return {
            "G1": _fed_over_local(dataset, local, repeats),
            "G2": {
                "next": _next_us(dataset, repeats),
                "with tensors over splits": _tensors_over_splits(dataset, local, repeats),
            },
            "G3": {"cpu a batch": _cpu_us_a_batch(daemon, dataset, repeats)},
            "G9": _shuffled(dataset, repeats),
        }


def _fed_over_local(
    dataset: Dataset, local: tuple[torch.Tensor, torch.Tensor], repeats: int
) -> Values:
    """With the shortest of the steps that takes long enough."""
    for matmuls in feeding.MATMULS:
        step = feeding.make_step(matmuls)
        if _step_us(local, step) >= LEAST_STEP_US:
            break
    ratios, _, _ = feeding.compare(dataset, local, BATCH_SIZE, step, repeats)
    return {"fed over local": ratios, "fed over local, worst": ratios}


def _step_us(local: tuple[torch.Tensor, torch.Tensor], step: feeding.Step) -> float:
    batches = -(-len(local[0]) // BATCH_SIZE)
    return 1e6 / batches * min(feeding.time_local(*local, BATCH_SIZE, step) for _ in range(3))


def _next_us(dataset: Dataset, repeats: int) -> list[float]:
    """Medians of `next()`, the clock's own time included."""
    medians = []
    now = time.perf_counter_ns
    for epoch in dataset.epochs(count=repeats, batch_size=BATCH_SIZE):
        batches = iter(epoch)
        took = []
        while True:
            began = now()
            batch = next(batches, None)
            took.append(now() - began)
            if batch is None:
                break
        medians.append(statistics.median(took) / 1e3)
    return medians


def _tensors_over_splits(
    dataset: Dataset, local: tuple[torch.Tensor, torch.Tensor], repeats: int
) -> list[float]:
    """The speed of a loop that takes features and a label of each batch, and does nothing.

    Of ours, what it waited for further leases is taken out: with nothing else to do, the loop runs
    away from them.
    """
    ratios = []
    epochs = dataset.epochs(count=repeats, batch_size=BATCH_SIZE)
    for epoch in epochs:
        waited = epochs.stats().seconds_waited
        fed = feeding.time_fed(epoch, _nothing) - (epochs.stats().seconds_waited - waited)
        ratios.append(feeding.time_local(*local, BATCH_SIZE, _nothing) / fed)
    return ratios


def _nothing(features: torch.Tensor, labels: torch.Tensor) -> None:
    del features, labels


def _cpu_us_a_batch(daemon: Measured, dataset: Dataset, repeats: int) -> list[float]:
    """Of this process, all its threads, and the daemon's."""
    found = []
    for epoch in dataset.epochs(count=repeats, batch_size=BATCH_SIZE):
        before = daemon.cpu_s() + time.process_time()
        for batch in epoch:
            _ = batch.features, batch.labels["y"]
        found.append((daemon.cpu_s() + time.process_time() - before) * 1e6 / len(epoch))
    return found


def _shuffled(dataset: Dataset, repeats: int) -> Values:
    """Epochs of the three kinds alternate; a step of some products, as training has."""
    step = feeding.make_step(4)
    kinds = ("none", "batches", "rows")
    readings = {
        kind: dataset.epochs(count=repeats + 1, batch_size=BATCH_SIZE, shuffle=kind)
        for kind in kinds
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(repeats + 1):
        for kind, epochs in readings.items():
            seconds[kind].append(feeding.time_fed(next(epochs), step))
    for epochs in readings.values():
        epochs.close()
    return {
        f"{kind} over none": [
            none / own for none, own in zip(seconds["none"], seconds[kind], strict=True)
        ][1:]
        for kind in ("batches", "rows")
    }
