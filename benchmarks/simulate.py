"""Many readers of a dataset larger than memory, under a virtual clock: how often is it read?

The scheduler is the daemon's own (`faucetd.schedule`); `benchmarks/simulation/` says what is
simulated, who the rivals are, and how the bound is proved.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click
import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.simulation.measure import (
    OURS,
    POLICIES,
    SLOW,
    Outcome,
    cost_of_a_slow_reader,
    simulate_all,
)
from benchmarks.simulation.workload import Job, Workload, random_jobs

LANE_CHUNKS = 100


def run(
    chunks: int,
    readers: int,
    epochs: int,
    spread: float,
    cache_percents: Sequence[float],
    seed: int,
    plot: Path | None,
) -> None:
    """Prints the comparison, and draws it where `plot` says."""
    jobs = random_jobs(chunks, readers, epochs, spread, seed)
    workload = Workload(chunks, LANE_CHUNKS, tuple(jobs))
    click.echo(
        f"{chunks:,} chunks; {readers} readers of {epochs} epochs, the slowest up to {spread:g} "
        "times slower than the fastest, which start at random\n"
        "reads: of the source, a chunk; bound: what nobody can do without; slower: than alone "
        "with all in memory\n"
    )
    outcomes = simulate_all(workload, cache_percents, os.cpu_count() or 1)
    print_reads(outcomes, cache_percents)
    print_decisions([outcome for outcome in outcomes if outcome.policy == OURS])
    print_slow_reader(min(chunks, 2_000))
    if plot is not None:
        draw(outcomes, workload, plot)


def print_reads(outcomes: Sequence[Outcome], cache_percents: Sequence[float]) -> None:
    """Reads of the source by each policy, beside the bound."""
    click.echo(
        f"{'cache':>6} {OURS:>10} {'bound':>7} {'ratio':>6}"
        + "".join(f" {name:>9}" for name in POLICIES if name != OURS)
    )
    for percent in cache_percents:
        ours, *rivals = (outcome for outcome in outcomes if outcome.cache_percent == percent)
        click.echo(
            f"{percent:>5g}% {ours.loads_a_chunk:>10.2f} {ours.bound_a_chunk:>7.2f} "
            f"{ours.loads_a_chunk / ours.bound_a_chunk:>6.3f}"
            + "".join(f" {rival.loads_a_chunk:>9.2f}" for rival in rivals)
        )


def print_decisions(outcomes: Sequence[Outcome]) -> None:
    """How readers fared under our policy, and how long its decisions took."""
    click.echo(
        f"\n{'cache':>6} {'slower':>7} {'worst':>6} {'longest wait':>13} {'refused first':>14}"
        f" {'a decision: median':>19} {'p99':>9} {'longest':>9}"
    )
    for outcome in outcomes:
        click.echo(
            f"{outcome.cache_percent:>5g}% {outcome.mean_slowdown:>7.3f} "
            f"{outcome.worst_slowdown:>6.2f} {outcome.longest_wait_s:>11,.1f} s "
            f"{outcome.refused:>14} {outcome.median_us:>16.1f} µs {outcome.p99_us:>6.1f} µs"
            f" {outcome.longest_us / 1e3:>6.1f} ms"
        )


def print_slow_reader(chunks: int) -> None:
    """What a slow reader costs its peers."""
    peers = tuple(Job(chunks / 80 * number, 1.0) for number in range(8))
    workload = Workload(chunks, LANE_CHUNKS, peers)
    click.echo(f"\n8 readers of {chunks:,} chunks, and one that is {SLOW} times slower:")
    for percent in (5, 20, 50):
        found = cost_of_a_slow_reader(workload, percent)
        beside, without = found.loads_a_chunk
        click.echo(
            f"{percent:>5}% cache: costs its peers {found.cost:.2%} at most; reads of a chunk "
            f"{beside:.2f}, without it {without:.2f}; "
            f"it took {found.slowdown:.3f} times as long as alone"
        )


def draw(outcomes: Sequence[Outcome], workload: Workload, path: Path) -> None:
    """Reads of the source by the size of the cache."""
    mpl.rcParams["svg.hashsalt"] = "faucetml"  # the same figures, the same file
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for policy in POLICIES:
        mine = [outcome for outcome in outcomes if outcome.policy == policy]
        percents = [outcome.cache_percent for outcome in mine]
        reads = [outcome.loads_a_chunk for outcome in mine]
        axes.plot(percents, reads, marker="o", markersize=4, label=policy)
        if policy == OURS:
            bounds = [outcome.bound_a_chunk for outcome in mine]
            axes.plot(percents, bounds, "k--", linewidth=1, label="lower bound")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="memory, % of the dataset",
        ylabel="reads of each chunk from the source",
        title=f"{len(workload.jobs)} readers, {workload.chunks:,} chunks",
    )
    axes.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    axes.set_yticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    click.echo(f"\ndrawn: {path}")
