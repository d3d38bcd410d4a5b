"""A training loop on a GPU that Faucet ML feeds, against ways that it might be fed otherwise.

The limit of any loader is the same loop slicing a tensor that lies on the GPU. The ways to it:

- straight: `device=`, copied from the shared memory, which is page-locked;
- ring: the same, through a ring of pinned memory, as where nothing can be page-locked;
- by hand: batches of the host's memory, `pin_memory()` and a copy of each, in the loop.

Epochs of all ways alternate, and end with the GPU's work, so that what else the machine does falls
on all. Printed are GB/s of a loop that does nothing, the ratio of each loop to that over the tensor
on the GPU, for steps of several lengths, and what memory of its own each way takes.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import torch

from benchmarks.feeding import FEATURES, write_table
from faucet_client import DatasetSpec, ParquetSource, Transfer
from faucet_client.dataset import Dataset
from faucet_client.device import Target
from faucet_client.testing import LocalDaemon

LAYERS = (0, 2, 8, 32)
WIDTH = 1_024

Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]
Way = Callable[[], Batches]
Step = Callable[[torch.Tensor, torch.Tensor], None]

_MIB = 1 << 20


@dataclass(frozen=True)
class Machine:
    """A device, and how to wait until it has done all its work."""

    device: torch.device
    straight: Target
    ring: Target
    synchronize: Callable[[], None]


def ways(dataset: Dataset, batch_size: int, machine: Machine) -> dict[str, Way]:
    """How to come by an epoch's batches on the device: features, and a label."""
    rows = dataset.info.rows["train"]
    features = torch.rand(rows, FEATURES, device=machine.device)
    labels = torch.rand(rows, 1, device=machine.device)

    def resident() -> Batches:
        return zip(features.split(batch_size), labels.split(batch_size), strict=True)

    def fed(target: Target) -> Batches:
        with dataset.batches("train", batch_size=batch_size, device=target) as batches:
            for batch in batches:
                yield batch.features, batch.labels["y"]

    def by_hand() -> Batches:
        with dataset.batches("train", batch_size=batch_size) as batches:
            for batch in batches:
                both = batch.features, batch.labels["y"]
                first, second = (
                    tensor.pin_memory().to(machine.device, non_blocking=True) for tensor in both
                )
                yield first, second

    return {
        "on the GPU": resident,
        "straight": lambda: fed(machine.straight),
        "ring": lambda: fed(machine.ring),
        "by hand": by_hand,
    }


def make_step(layers: int, device: torch.device) -> Step:
    """A step over a batch: sums, after so many layers of 1,024 x 1,024."""
    first = torch.rand(FEATURES, WIDTH, device=device)
    middle = torch.rand(WIDTH, WIDTH, device=device)

    def step(features: torch.Tensor, labels: torch.Tensor) -> None:
        if layers:
            hidden = features @ first
            for _ in range(layers - 1):
                hidden = torch.relu(hidden @ middle)
            hidden.sum()
        features.sum()
        labels.sum()

    return step


def time_epoch(way: Way, step: Step, machine: Machine) -> float:
    """Seconds of an epoch, until the device is done."""
    machine.synchronize()
    began = time.perf_counter()
    for features, labels in way():
        step(features, labels)
    machine.synchronize()
    return time.perf_counter() - began


def compare(
    of: Mapping[str, Way], step: Step, machine: Machine, repeats: int
) -> dict[str, list[float]]:
    """Seconds of each way's epochs, the first of which warms up and is left out."""
    seconds: dict[str, list[float]] = {name: [] for name in of}
    for _ in range(repeats + 1):
        for name, way in of.items():
            seconds[name].append(time_epoch(way, step, machine))
    return {name: each[1:] for name, each in seconds.items()}


def private_bytes() -> int:
    """This process's memory that no other shares: what it takes from the machine for itself."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    kib = [int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:")]
    return kib[0] * 1024


def most_private(way: Way) -> int:
    """By how much private memory grows within an epoch at most, looked at every 50 batches."""
    gc.collect()
    before, most = private_bytes(), 0
    for number, _ in enumerate(way()):
        if number % 50 == 0:
            most = max(most, private_bytes() - before)
    return most


def report(dataset: Dataset, batch_size: int, repeats: int, machine: Machine) -> None:
    """Prints what the ways cost."""
    found = ways(dataset, batch_size, machine)
    epoch_nbytes = dataset.info.rows["train"] * (FEATURES + 1) * 4
    nothing = compare(found, lambda _features, _labels: None, machine, repeats)
    click.echo("way              GB/s: median       min     max    private memory")
    for name, way in found.items():
        rates = [epoch_nbytes / seconds / 1e9 for seconds in nothing[name]]
        speed = f"{statistics.median(rates):>13.2f} {min(rates):>9.2f} {max(rates):>7.2f}"
        if name == "on the GPU":
            click.echo(f"{name:<15} {'(nothing is copied)':>40}")
        else:
            click.echo(f"{name:<15} {speed} {most_private(way) / _MIB:>12.1f} MiB")
    click.echo("step, layers     way         way / on the GPU: median [quartiles]      min     max")
    for layers in LAYERS:
        seconds = compare(found, make_step(layers, machine.device), machine, repeats)
        limit = seconds.pop("on the GPU")
        for name, each in seconds.items():
            ratios = [alone / fed for alone, fed in zip(limit, each, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            click.echo(
                f"{layers:>12}     {name:<12} {middle:>24.3f} [{low:.3f}, {high:.3f}] "
                f"{min(ratios):>8.3f} {max(ratios):>7.3f}"
            )


def with_dataset(rows: int, then: Callable[[Dataset], None]) -> None:
    """Calls `then` with an open dataset of so many rows, all of which are in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        write_table(path, rows)
        with LocalDaemon([folder], memory_budget="2GiB") as daemon:
            names = [f"f{n}" for n in range(FEATURES)]
            spec = DatasetSpec(
                ParquetSource(str(path)), features=names, labels=["y"], preprocessing="none"
            )
            then(daemon.client().open(spec))


def run(rows: int, repeats: int, batch_size: int) -> None:
    """Prints the comparison; where there is no CUDA device, that there is none."""
    if not torch.cuda.is_available():
        click.echo("no CUDA device here: not measured")
        return
    device = torch.device("cuda", torch.cuda.current_device())
    machine = Machine(
        device, Transfer(device), Transfer(device, page_lock=False), torch.cuda.synchronize
    )
    click.echo(
        f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}: {rows:,} rows x "
        f"{FEATURES} float32, batches of {batch_size:,}, {repeats} epochs each, alternating"
    )
    with_dataset(rows, lambda dataset: report(dataset, batch_size, repeats, machine))
    peak = torch.cuda.max_memory_allocated(device) / _MIB
    click.echo(f"the GPU's memory, at most: {peak:,.0f} MiB, the resident tensors included")


@click.command()
@click.option("--rows", default=4_000_000, show_default=True, help="Rows of the table.")
@click.option("--repeats", default=7, show_default=True, help="Epochs of each kind.")
@click.option("--batch-size", default=1_024, show_default=True, help="Rows a batch.")
def device(rows: int, repeats: int, batch_size: int) -> None:
    """A training loop on a GPU, fed in several ways."""
    run(rows, repeats, batch_size)
