"""Medians and spreads of a campaign's runs: what report and plots are made of."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Where = tuple[str, int, int]
"""Table, batch size, trainers."""


@dataclass(frozen=True)
class Spread:
    """Some figures of repeated runs: their median and their extremes.

    Attributes:
        median, low, high: Of the runs.
        runs: How many.
    """

    median: float
    low: float
    high: float
    runs: int

    def text(self, digits: int = 2) -> str:
        """The median, and the extremes where there are several runs."""
        if self.runs == 1:
            return f"{self.median:,.{digits}f}"
        return f"{self.median:,.{digits}f} [{self.low:,.{digits}f}, {self.high:,.{digits}f}]"


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    return Spread(statistics.median(values), min(values), max(values), len(values))


Figure = Callable[[dict[str, Any]], float]
"""A figure of one run, as it stands in the results."""


def rate(phase: str) -> Figure:
    """Million rows a second, of all trainers together."""
    return lambda run: run[phase]["rows"] / run[phase]["seconds"] / 1e6


def cpu(phase: str) -> Figure:
    """Microseconds of processor time a row, of all processes."""
    return lambda run: run[phase]["cpu_s"] * 1e6 / run[phase]["rows"]


def read_bytes(phase: str) -> Figure:
    """Bytes read a row that a trainer got."""
    return lambda run: run[phase]["read_bytes"] / run[phase]["rows"]


def next_us(percentile: str) -> Figure:
    """Of warm epochs, in microseconds: the median of the trainers' percentiles."""
    return lambda run: statistics.median(each[percentile] for each in run["warm"]["next_us"])


def memory_mib(run: dict[str, Any]) -> float:
    """MiB of all processes in the middle of an epoch."""
    return float(run["memory_bytes"]) / 2**20


class Summary:
    """Runs by contender and setting."""

    def __init__(self, runs: Sequence[dict[str, Any]]) -> None:
        self._runs: dict[tuple[str, Where], list[dict[str, Any]]] = {}
        for run in runs:
            if "error" not in run:
                where = (run["table"], run["batch_size"], run["trainers"])
                self._runs.setdefault((run["contender"], where), []).append(run)

    def settings(self) -> list[Where]:
        """Those that anybody ran in."""
        return sorted({where for _, where in self._runs})

    def contenders(self, where: Where) -> list[str]:
        """Who ran there, the fastest first."""
        names = {name for name, there in self._runs if there == where}
        found = {name: self.of(name, where, rate("warm")) for name in names}
        return sorted(names, key=lambda name: -(found[name] or spread([0.0])).median)

    def of(self, contender: str, where: Where, figure: Figure) -> Spread | None:
        """A figure of a contender's runs; None where there are none."""
        runs = self._runs.get((contender, where))
        return spread([figure(run) for run in runs]) if runs else None

    def ratios(self, one: str, other: str, where: Where, figure: Figure) -> list[float]:
        """One's figure over the other's, of each round that both have run in.

        Rounds are compared in themselves, since what the machine does changes between them.
        """
        first = {run["round"]: figure(run) for run in self._runs.get((one, where), [])}
        second = {run["round"]: figure(run) for run in self._runs.get((other, where), [])}
        return [first[number] / second[number] for number in sorted(first.keys() & second.keys())]

    def exact(self, contender: str, where: Where) -> str:
        """Whether all runs were: "yes", or what was missing or came twice."""
        runs = self._runs.get((contender, where), [])
        phases = [run[name] for run in runs for name in ("cold", "warm", "last")]
        rows = sum(phase["rows"] for phase in phases)
        missing = sum(phase["missing"] for phase in phases)
        repeated = sum(phase["repeated"] for phase in phases)
        if missing or repeated:
            share = 100 * missing / max(rows - repeated + missing, 1)
            return f"**no**: {missing:,} missing ({share:.2g} %), {repeated:,} repeated"
        return "yes" if all(phase["sums_right"] for phase in phases) else "**no**: wrong values"
