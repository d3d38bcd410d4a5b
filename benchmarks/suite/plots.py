"""Plots of a campaign's results: rates, processor time and memory by the number of trainers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.suite.campaign import Results
from benchmarks.suite.registry import LIMIT, OURS
from benchmarks.suite.summary import Figure as RunFigure
from benchmarks.suite.summary import Summary, cpu, memory_mib, rate

_PANELS: tuple[tuple[str, RunFigure], ...] = (
    ("M rows/s warm, all trainers", rate("warm")),
    ("M rows/s cold, all trainers", rate("cold")),
    ("µs of processor a row, warm", cpu("warm")),
    ("MiB, all processes", memory_mib),
)
_BATCH_SIZE = 1_024


def draw(results: Results, path: Path) -> None:
    """One row of plots a table; whiskers reach from the lowest to the highest round."""
    mpl.rcParams["svg.hashsalt"] = "faucetml"  # the same figures, the same file
    summary = Summary(results.runs)
    kinds = list(dict.fromkeys(kind for kind, _, _ in summary.settings()))
    contenders: dict[str, dict[str, Any]] = results.facts["contenders"]
    rows = max(len(kinds), 1)
    figure = Figure(figsize=(4.2 * len(_PANELS), 4.2 * rows + 1), layout="constrained")
    panels = figure.subplots(rows, len(_PANELS), squeeze=False)
    for line, kind in zip(panels, kinds, strict=False):
        for axes, (title, of) in zip(line, _PANELS, strict=True):
            for number, name in enumerate(contenders):
                _curve(axes, summary, (kind, name), of, (number, contenders[name]["title"]))
            axes.set(xscale="log", yscale="log", xlabel="trainers", title=f"{kind}: {title}")
            axes.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
            axes.minorticks_off()
            axes.grid(alpha=0.3)
    curves: dict[str, Any] = {}  # of all tables: not everybody runs on each
    for axes in panels[:, 0]:
        handles, labels = axes.get_legend_handles_labels()
        curves |= dict(zip(labels, handles, strict=True))
    if curves:
        figure.legend(
            list(curves.values()), list(curves), loc="outside lower center", ncols=4, frameon=False
        )
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _curve(
    axes: Axes, summary: Summary, what: tuple[str, str], of: RunFigure, style: tuple[int, str]
) -> None:
    kind, name = what
    number, title = style
    found = {
        trainers: summary.of(name, (kind, _BATCH_SIZE, trainers), of)
        for table, batch_size, trainers in summary.settings()
        if table == kind and batch_size == _BATCH_SIZE
    }
    points = {trainers: spread for trainers, spread in found.items() if spread is not None}
    if not points:
        return
    medians = [spread.median for spread in points.values()]
    axes.errorbar(
        list(points),
        medians,
        yerr=[
            [spread.median - spread.low for spread in points.values()],
            [spread.high - spread.median for spread in points.values()],
        ],
        label=title,
        color="black" if name == LIMIT else f"C{number % 10}",
        linestyle="--" if name == LIMIT else "-" if number < 10 else ":",
        linewidth=2.5 if name == OURS else 1.2,
        marker="o",
        markersize=4,
        capsize=2,
    )
