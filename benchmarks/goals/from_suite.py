"""What runs as those of the suite say of the goals: G4, G5, G6, and the first half of G12."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.goals.table import GOALS
from benchmarks.goals.verdicts import Values
from benchmarks.suite.registry import OURS, contender
from benchmarks.suite.run import Runner, Setting
from benchmarks.suite.summary import Figure, Summary, Where, cpu, rate
from benchmarks.suite.tables import Table

TRAINERS = 4
BATCH_SIZE = 1_024
_MOST = 16

_G6 = next(goal for goal in GOALS if goal.name == "G6")


def measure_loader(
    folder: Path, table: Table, repeats: int, say: Callable[[str], None]
) -> dict[str, Values]:
    """G4: processor time of all processes for the pass that reads, by numbers of trainers.

    Trainers take batches and do nothing with them, so that all is the loader's. As many are started
    each time, or many would leave a worker only such memory as nobody has touched yet, which a
    virtual machine first gets from its host, as processor time.
    """
    runner = Runner(lambda _: Path(sys.executable), folder)
    found: dict[str, list[float]] = {"4 over 1": [], "16 over 1": []}
    for number in range(repeats):
        used = {}
        for trainers in (1, 4, _MOST):
            setting = Setting(
                table, BATCH_SIZE, trainers, warm_epochs=1, step="none", idle=_MOST - trainers
            )
            used[trainers] = runner.run(contender(OURS), setting).cold.cpu_s
        say(f"G4, pass {number + 1}: processor seconds by trainers {used}")
        found["4 over 1"].append(used[4] / used[1])
        found["16 over 1"].append(used[_MOST] / used[1])
    return {"G4": found}


def measure_further_trainer(folder: Path, table: Table, repeats: int) -> dict[str, Values]:
    """G12: what 4 trainers hold beyond 1, their imports apart, a trainer; MiB."""
    runner = Runner(lambda _: Path(sys.executable), folder)
    found = []
    for _ in range(repeats):
        held = {}
        for trainers in (1, TRAINERS):
            run = runner.run(contender(OURS), Setting(table, BATCH_SIZE, trainers, warm_epochs=1))
            held[trainers] = (run.memory_bytes - run.idle_bytes) / 2**20
        found.append((held[TRAINERS] - held[1]) / (TRAINERS - 1))
    return {"G12": {"further trainer": found}}


def from_runs(runs: Sequence[dict[str, Any]]) -> dict[str, Values]:
    """G5 and G6, as far as there are runs: round by round, over all tables."""
    summary = Summary(runs)
    places = [where for where in summary.settings() if where[1:] == (BATCH_SIZE, TRAINERS)]
    expert = "dataloader_chunks"
    names = [bound.name.removeprefix("rate over ") for bound in _G6.bounds]
    return {
        "G5": {
            f"rate over {expert}": _ratios(summary, expert, places, rate("warm")),
            f"cpu over {expert}": _ratios(summary, expert, places, cpu("warm")),
        },
        "G6": {f"rate over {name}": _ratios(summary, name, places, rate("warm")) for name in names},
    }


def _ratios(summary: Summary, other: str, places: Sequence[Where], figure: Figure) -> list[float]:
    return [ratio for where in places for ratio in summary.ratios(OURS, other, where, figure)]
