"""`python -m benchmarks suite` and `report`: runs a campaign, and writes its report."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.suite import publish as publishing
from benchmarks.suite.campaign import FULL, QUICK, Campaign, Plan, Results
from benchmarks.suite.plots import draw
from benchmarks.suite.registry import CONTENDERS, contender
from benchmarks.suite.report import write_report

CACHE = Path(__file__).parents[2] / ".cache"
RESULTS = CACHE / "benchmarks"
PLANS = {plan.mode: plan for plan in (QUICK, FULL)}


def write_all(results: Results, folder: Path) -> None:
    """Report and plots beside the results, made of nothing else."""
    draw(results, folder / "results.svg")
    write_report(results, folder / "results.md", "results.svg")


def measure(plan: Plan, names: Sequence[str], folder: Path) -> Results:
    """Runs a plan with some contenders, or all, and writes what came out.

    Args:
        plan: What to run.
        names: Of contenders; none for all.
        folder: Where `results.json`, `results.md` and `results.svg` go.
    """
    chosen = [contender(name) for name in names] if names else list(CONTENDERS)
    results = Campaign(plan, chosen, folder, CACHE, click.echo).run()
    write_all(results, folder)
    click.echo(f"written: {folder}/results.md, results.svg, results.json")
    return results


LIMITS = (
    click.option("--minutes", type=float, help="No run begins after so many."),
    click.option("--rounds", type=int, help="Rounds at most, of the first setting."),
    click.option("--other-rounds", type=int, help="Of the other settings; by default as many."),
    click.option("--rows", type=int, help="Rows of each table."),
    click.option("--timeout", "timeout_s", type=float, help="Seconds of a phase of a run."),
)
"""Options that make less of a plan."""


def limited(plan: Plan, rounds: int | None = None, rows: int | None = None, **other: Any) -> Plan:
    """A plan with what `LIMITS` were given, where they were."""
    if rounds is not None:
        other = {"rounds": rounds} | other
        if other.get("other_rounds") is None:
            other["other_rounds"] = rounds
    if rows is not None:
        other["tables"] = tuple((kind, rows) for kind, _ in plan.tables)
    return dataclasses.replace(
        plan, **{name: value for name, value in other.items() if value is not None}
    )


def with_limits(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the options `LIMITS`."""
    for option in reversed(LIMITS):
        command = option(command)
    return command


@click.command()
@click.option("--mode", type=click.Choice(list(PLANS)), default="quick", show_default=True)
@click.option("--only", "names", multiple=True, help="A contender; several times for several.")
@click.option(
    "--setting",
    "settings",
    multiple=True,
    type=(int, int),
    help="A batch size and a number of trainers, instead of the mode's; several times for several.",
)
@with_limits
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=RESULTS,
    help="Where results go.",
)
def suite(
    mode: str,
    names: tuple[str, ...],
    settings: tuple[tuple[int, int], ...],
    out: Path,
    **limits: Any,
) -> None:
    """Faucet ML beside its peers, on the same table with the same step."""
    measure(limited(PLANS[mode], settings=settings or None, **limits), names, out.resolve())


@click.command()
@click.argument(
    "results", type=click.Path(path_type=Path, exists=True, dir_okay=False), nargs=-1, required=True
)
def publish(results: tuple[Path, ...]) -> None:
    """Writes docs/results.md, its plot and the README's part, of one results.json or several."""
    whole = functools.reduce(Results.with_those_of, map(Results.load, results))
    publishing.publish(whole, Path(__file__).parents[2])


@click.command()
@click.argument("results", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def report(results: Path) -> None:
    """Writes report and plots of a results.json again."""
    write_all(Results.load(results), results.parent)
