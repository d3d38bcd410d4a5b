"""A training loop that Faucet ML feeds, against one over local tensors.

The limit of any loader is the same loop slicing a tensor in its own memory. Both loops do the same
step on batches of the same shape; epochs of the two alternate, so that what else the machine does
falls on both. Printed are the median ratio (1.00: as fast as local memory; above: faster), its
quartiles, and its extremes.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from faucet_client import DatasetSpec, Epoch, ParquetSource
from faucet_client.dataset import Dataset
from faucet_client.testing import LocalDaemon

FEATURES = 40
MATMULS = (0, 1, 4, 16)

Step = Callable[[torch.Tensor, torch.Tensor], None]


def write_table(path: Path, rows: int, group_rows: int | None = None) -> None:
    """`rows` rows of 40 float32 features and a label; in row groups of as many as is usual."""
    generator = np.random.default_rng(0)
    columns = {f"f{n}": generator.random(rows, np.float32) for n in range(FEATURES)}
    columns["y"] = generator.integers(0, 2, rows).astype(np.float32)
    pq.write_table(pa.table(columns), path, row_group_size=group_rows)


def make_step(matmuls: int) -> Step:
    """A step over a batch: sums, after so many products with a 40 x 16 matrix."""
    weights = torch.rand(FEATURES, 16)

    def step(features: torch.Tensor, labels: torch.Tensor) -> None:
        for _ in range(matmuls):
            torch.mm(features, weights)
        features.sum()
        labels.sum()

    return step


def time_local(features: torch.Tensor, labels: torch.Tensor, batch_size: int, step: Step) -> float:
    """Seconds of an epoch over tensors in this process's own memory."""
    gc.collect()  # or one would pay for what others have left
    began = time.perf_counter()
    batches = zip(features.split(batch_size), labels.split(batch_size), strict=True)
    for batch_features, batch_labels in batches:
        step(batch_features, batch_labels)
    return time.perf_counter() - began


def time_fed(epoch: Epoch, step: Step) -> float:
    """Seconds of an epoch that the daemon feeds."""
    gc.collect()
    began = time.perf_counter()
    for batch in epoch:
        step(batch.features, batch.labels["y"])
    return time.perf_counter() - began


def compare(
    dataset: Dataset,
    local: tuple[torch.Tensor, torch.Tensor],
    batch_size: int,
    step: Step,
    repeats: int,
) -> tuple[list[float], float, float]:
    """Ratios of throughput, fed over local; µs of a local batch; seconds waited an epoch."""
    ratios = []
    local_seconds = []
    epochs = dataset.epochs("train", count=repeats + 1, batch_size=batch_size)
    waited_before = 0.0
    for epoch in epochs:
        fed = time_fed(epoch, step)
        alone = time_local(*local, batch_size, step)
        if epoch.number == 0:  # reads the source, and warms both up
            waited_before = epochs.stats().seconds_waited
            continue
        ratios.append(alone / fed)
        local_seconds.append(alone / len(epoch))
    waited = (epochs.stats().seconds_waited - waited_before) / repeats
    return ratios, statistics.median(local_seconds) * 1e6, waited


def compare_shuffles(dataset: Dataset, batch_size: int, step: Step, repeats: int) -> list[float]:
    """Ratios of throughput, shuffle="rows" over shuffle="batches"; epochs of the two alternate."""
    seconds: dict[str, list[float]] = {"batches": [], "rows": []}
    readings = {
        shuffle: dataset.epochs("train", count=repeats + 1, batch_size=batch_size, shuffle=shuffle)
        for shuffle in seconds
    }
    for _ in range(repeats + 1):
        for shuffle, epochs in readings.items():
            seconds[shuffle].append(time_fed(next(epochs), step))
    for epochs in readings.values():
        epochs.close()
    pairs = zip(seconds["batches"], seconds["rows"], strict=True)
    return [batches / rows for batches, rows in pairs][1:]


def run(rows: int, repeats: int, batch_size: int) -> None:
    """Prints the comparison for steps of several lengths."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        write_table(path, rows)
        with LocalDaemon([folder], memory_budget="2GiB") as daemon:
            names = [f"f{n}" for n in range(FEATURES)]
            spec = DatasetSpec(
                ParquetSource(str(path)), features=names, labels=["y"], preprocessing="none"
            )
            dataset = daemon.client().open(spec)
            local = torch.rand(rows, FEATURES), torch.rand(rows, 1)
            click.echo(
                f"{rows:,} rows x {FEATURES} float32 in {dataset.info.chunks} chunks, batches of "
                f"{batch_size:,}, one torch thread, {repeats} epochs each, alternating"
            )
            click.echo("local step    fed / local: median [quartiles]    min     max    waited")
            for matmuls in MATMULS:
                ratios, step_us, waited = compare(
                    dataset, local, batch_size, make_step(matmuls), repeats
                )
                low, middle, high = statistics.quantiles(ratios, n=4)
                click.echo(
                    f"{step_us:>7.1f} µs {middle:>17.3f} [{low:.3f}, {high:.3f}] "
                    f"{min(ratios):>15.3f} {max(ratios):>7.3f} {waited * 1e3:>6.1f} ms"
                )
            click.echo('local step    shuffle="rows" / "batches": median [quartiles]')
            for matmuls in MATMULS:
                ratios = compare_shuffles(dataset, batch_size, make_step(matmuls), repeats)
                low, middle, high = statistics.quantiles(ratios, n=4)
                click.echo(f"{matmuls:>2} products  {middle:>17.3f} [{low:.3f}, {high:.3f}]")
            (status,) = daemon.client().status().datasets
            click.echo(
                f"rows read from the source for all of this: {status.source_rows_read:,}, of a "
                f"table of {rows:,}"
            )
