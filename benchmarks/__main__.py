"""`python -m benchmarks`: what Faucet ML costs beside doing the least that could be done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from benchmarks import bigquery as wire
from benchmarks import feeding, preparing
from benchmarks import first as first_batch
from benchmarks import scale as scaling
from benchmarks import shuffle as shuffling
from benchmarks import simulate as simulating
from benchmarks.device import device
from benchmarks.goals import command as targets
from benchmarks.scale_model import Prices
from benchmarks.suite import command as suites


@click.group(invoke_without_command=True)
@click.pass_context
def main(context: click.Context) -> None:
    """Quick: Faucet ML beside its peers, and its goals, in five minutes; or one of the commands."""
    if context.invoked_subcommand is None:
        measure_all("quick")


@main.command()
@suites.with_limits
def full(**limits: Any) -> None:
    """All of it, in all settings: hours, if it is not limited."""
    measure_all("full", **limits)


def measure_all(mode: str, **limits: Any) -> None:
    """The suite and the goals; everything is written to `.cache/benchmarks`."""
    results = suites.measure(suites.limited(suites.PLANS[mode], **limits), (), suites.RESULTS)
    results.goals = targets.measure_goals(mode, results.runs, click.echo)
    results.save(suites.RESULTS / "results.json")
    suites.write_all(results, suites.RESULTS)
    targets.print_goals(results.goals)


@main.command()
@click.option("--rows", default=4_000_000, show_default=True, help="Rows of the table.")
@click.option("--repeats", default=11, show_default=True, help="Epochs of each kind.")
@click.option("--batch-size", default=1_024, show_default=True, help="Rows a batch.")
def feed(rows: int, repeats: int, batch_size: int) -> None:
    """A training loop fed by the daemon, against the same loop over local tensors."""
    feeding.run(rows, repeats, batch_size)


@main.command()
@click.option("--rows", default=1_000_000, show_default=True, help="Rows of the table.")
@click.option("--repeats", default=5, show_default=True, help="Passes of each kind.")
@click.option("--pace", default=250.0, show_default=True, help="MB/s of a service that is paced.")
def bigquery(rows: int, repeats: int, pace: float) -> None:
    """BigQuery's messages made into sealed segments, against only decoding them."""
    wire.run(rows, repeats, pace)


@main.command()
@click.option("--rows", default=2_000_000, show_default=True, help="Rows of the table.")
@click.option("--repeats", default=9, show_default=True, help="Cold datasets of each source.")
def first(rows: int, repeats: int) -> None:
    """From open() to the first batch, against reading the bytes of its chunk."""
    first_batch.run(rows, repeats)


@main.command()
@click.option("--rows", default=500_000, show_default=True, help="Rows of a chunk.")
@click.option("--repeats", default=7, show_default=True, help="Chunks of each kind.")
def prepare(rows: int, repeats: int) -> None:
    """Rows preprocessed and permuted on one thread, against the machine's memory."""
    preparing.run(rows, repeats)


@main.command()
@click.option("--jobs", default=8, show_default=True, help="Trainers.")
@click.option("--rate", default=1e6, show_default=True, help="Rows a second of each.")
@click.option("--epochs", default=3, show_default=True, help="Of each, over the large table.")
@click.option("--table-tb", default=100.0, show_default=True, help="The large table, in TB.")
@click.option("--read-tib-price", default=scaling.LIST_PRICES.read_tib, show_default=True)
@click.option("--core-hour-price", default=scaling.LIST_PRICES.core_hour, show_default=True)
@click.option(
    "--memory-gib-hour-price", default=scaling.LIST_PRICES.memory_gib_hour, show_default=True
)
@click.option(
    "--disk-gib-month-price", default=scaling.LIST_PRICES.disk_gib_month, show_default=True
)
@click.option("--repeats", default=7, show_default=True, help="Chunks that costs are medians of.")
@click.option("--write", type=click.Path(path_type=Path), help="Write the page here.")
def scale(
    jobs: int,
    rate: float,
    epochs: int,
    table_tb: float,
    read_tib_price: float,
    core_hour_price: float,
    memory_gib_hour_price: float,
    disk_gib_month_price: float,
    repeats: int,
    write: Path | None,
) -> None:
    """What a daemon needs, where it saturates, and what a large table costs, in dollars."""
    prices = Prices(read_tib_price, core_hour_price, memory_gib_hour_price, disk_gib_month_price)
    scaling.run(scaling.Question(jobs, rate, epochs, table_tb), prices, repeats, write)


@main.command()
@click.option("--chunks", default=10_000, show_default=True, help="Chunks of the dataset.")
@click.option("--readers", default=64, show_default=True, help="Readers of it.")
@click.option("--epochs", default=2, show_default=True, help="Epochs of each.")
@click.option(
    "--spread",
    default=30.0,
    show_default=True,
    help="How many times slower the slowest may be than the fastest.",
)
@click.option(
    "--cache",
    "cache_percents",
    default=(1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0, 80.0, 100.0),
    show_default=True,
    multiple=True,
    help="Memory, in percent of the dataset; several times for several sizes.",
)
@click.option("--seed", default=1, show_default=True, help="Of the readers' starts and speeds.")
@click.option("--plot", type=click.Path(path_type=Path), help="A file for a plot: .svg or .png.")
def simulate(
    chunks: int,
    readers: int,
    epochs: int,
    spread: float,
    cache_percents: tuple[float, ...],
    seed: int,
    plot: Path | None,
) -> None:
    """How often a dataset larger than memory is read, under a virtual clock."""
    simulating.run(chunks, readers, epochs, spread, cache_percents, seed, plot)


@main.command()
@click.option("--rows", default=1_000_000, show_default=True, help="Rows of the table.")
@click.option("--batch-size", default=1_024, show_default=True, help="Rows a batch.")
def shuffle(rows: int, batch_size: int) -> None:
    """How well rows are shuffled, of a table sorted by its label."""
    shuffling.run(rows, batch_size)


main.add_command(device)
main.add_command(suites.suite)
main.add_command(suites.report)
main.add_command(suites.publish)
main.add_command(targets.goals)


if __name__ == "__main__":
    main()
