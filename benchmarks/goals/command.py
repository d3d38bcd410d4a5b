"""`python -m benchmarks goals`: measures them, and prints goal, measured, verdict."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.goals import from_suite, growing, handing_out, ingesting
from benchmarks.goals.daemons import CHUNK_ROWS
from benchmarks.goals.table import GOALS
from benchmarks.goals.verdicts import Values, failed, judge
from benchmarks.suite.campaign import Results
from benchmarks.suite.tables import make_table

CACHE = Path(__file__).parents[2] / ".cache"

Measurement = Callable[[Path], dict[str, Values]]


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        rows: Of the tables; of the one that grows, an eighth.
        repeats: Of each figure.
        budget_mib: Of the daemon whose table is 100 times as large.
    """

    rows: int
    repeats: int
    budget_mib: int


SIZES = {"quick": Size(3 * CHUNK_ROWS, 3, 8), "full": Size(2_097_152, 9, 32)}

WORDS = {
    "G3": "Chunks of 64 MiB; mapping them and giving them back are in it",
    "G4": "All processes, connecting included; trainers take batches and do nothing with them",
    "G5": "Round by round",
    "G6": "Round by round; the peers that convert the table have done so beforehand",
    "G10": "From when `open()` has returned",
    "G12": "Private pages, shares of mapped files, and each shared segment once",
    "G13": "Daemon and client; the table 100-fold with as large chunks",
}


def measurements(size: Size, say: Callable[[str], None]) -> dict[tuple[str, ...], Measurement]:
    """By the goals that they are of."""

    def loader(folder: Path) -> dict[str, Values]:
        # A pass that is short beside connecting would say of that alone; a longer one would fill
        # so much memory that what this costs drowns the rest.
        table = make_table(CACHE / "tables", "criteo", 12 * CHUNK_ROWS)
        return from_suite.measure_loader(folder, table, size.repeats // 2 + 1, say)

    def memory(folder: Path) -> dict[str, Values]:
        table = make_table(CACHE / "tables", "numbers", size.rows)
        further = from_suite.measure_further_trainer(folder, table, min(size.repeats, 3))
        flat = growing.measure_memory(folder, size.budget_mib)
        return {"G12": {**further["G12"], **flat["G12"]}}

    return {
        ("G1", "G2", "G3", "G9"): lambda folder: handing_out.measure(
            folder, size.rows, size.repeats
        ),
        ("G4",): loader,
        ("G7",): lambda _: ingesting.measure_preparing(300_000, size.repeats),
        ("G8", "G10", "G11"): lambda folder: ingesting.measure_ingest(
            folder, size.rows // 2, size.repeats
        ),
        ("G12",): memory,
        ("G13",): lambda folder: growing.measure_cost(
            folder, size.rows // 8, size.rows, min(size.repeats, 3)
        ),
    }


def measure_goals(
    mode: str,
    runs: Sequence[dict[str, Any]],
    say: Callable[[str], None],
    names: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """All goals' lines, or those of some.

    Args:
        mode: "quick" or "full".
        runs: The suite's, for what they say of the goals.
        say: Is told what goes on.
        names: Which; by default all.
    """
    values: dict[str, dict[str, Sequence[float]]] = {}
    errors: dict[str, str] = {}

    def take(found: dict[str, Values]) -> None:
        for goal, figures in found.items():
            values.setdefault(goal, {}).update(figures)

    take(from_suite.from_runs(runs))
    for goals, measurement in measurements(SIZES[mode], say).items():
        if names and not set(goals) & set(names):
            continue
        say(f"measuring {', '.join(goals)} ...")
        try:
            with tempfile.TemporaryDirectory() as folder:
                take(measurement(Path(folder)))
        except Exception:  # noqa: BLE001  # it is told, and the other goals are measured
            errors |= dict.fromkeys(goals, traceback.format_exc())
    return [
        failed(goal, errors[goal.name])
        if goal.name in errors
        else judge(goal, values.get(goal.name, {}), WORDS.get(goal.name, ""))
        for goal in GOALS
        if not names or goal.name in names
    ]


def print_goals(lines: Sequence[dict[str, Any]]) -> None:
    """Goal, measured, verdict."""
    for line in lines:
        click.echo(f"{line['name']:>4}  {line['statement']}")
        for title in ("threshold", "measured", "verdict"):
            click.echo(f"      {title if title != 'threshold' else 'goal'}: {line[title]}")


@click.command()
@click.option("--mode", type=click.Choice(list(SIZES)), default="quick", show_default=True)
@click.option("--only", "names", multiple=True, help="A goal, as G7; several times for several.")
@click.option(
    "--results",
    "path",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A results.json of the suite, for what its runs say of the goals; they are written there.",
)
def goals(mode: str, names: tuple[str, ...], path: Path | None) -> None:
    """The goals of speed: goal, measured, verdict. Those beside peers need the suite's results."""
    results = Results() if path is None else Results.load(path)
    found = measure_goals(mode, results.runs, click.echo, names)
    print_goals(found)
    if path is not None:
        known = {goal["name"]: goal for goal in (*results.goals, *found)}
        results.goals = [known[goal.name] for goal in GOALS if goal.name in known]
        results.save(path)
