"""Measured values beside the bounds, as lines of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.goals.table import Bound, Goal
from benchmarks.suite.summary import spread

Values = Mapping[str, Sequence[float]]
"""Repetitions of each of a goal's figures, by its name."""


def judge(goal: Goal, values: Values, words: str = "") -> dict[str, Any]:
    """One goal's line: what was aimed at, what was measured, whether that is met.

    Args:
        goal: Which.
        values: What was measured; figures that are missing were not.
        words: What else a reader should know of the measurement.
    """
    measured, met = [], []
    for bound in goal.bounds:
        found = values.get(bound.name)
        if not found:
            measured.append(f"{bound.what}: not measured")
            continue
        measured.append(f"{bound.what}: {_figure(bound, found)}")
        middle = spread(found)
        met.append(bound.met(middle.low, middle.median, middle.high))
    return {
        "name": goal.name,
        "statement": goal.statement,
        "threshold": "; ".join(bound.text() for bound in goal.bounds),
        "measured": "; ".join(measured) + (f". {words}" if words else ""),
        "verdict": _verdict(met, len(goal.bounds)),
        "values": {name: list(found) for name, found in values.items()},
    }


def failed(goal: Goal, error: str) -> dict[str, Any]:
    """The line of a goal whose measurement failed."""
    return judge(goal, {}, f"Failed: {error}")


def _figure(bound: Bound, found: Sequence[float]) -> str:
    middle = spread(found)
    digits = 0 if max(map(abs, found)) >= 100 else 2
    return middle.text(digits) + (f" {bound.unit}" if bound.unit else "")


def _verdict(met: Sequence[bool], bounds: int) -> str:
    if not met:
        return "not measured"
    if not all(met):
        return "**missed**" if bounds == 1 else f"**missed** ({met.count(True)} of {bounds} met)"
    return "met" if len(met) == bounds else f"met, as far as measured ({len(met)} of {bounds})"
