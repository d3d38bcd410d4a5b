"""The report: Markdown made of the results, no figure typed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.suite.campaign import Results
from benchmarks.suite.summary import (
    Summary,
    Where,
    cpu,
    memory_mib,
    next_us,
    rate,
    read_bytes,
)

_TABLES = {
    "numbers": "100 float32 columns, taken as they are",
    "criteo": "Criteo-like: 13 numbers with nulls and 26 integer categories, made into 39 float32",
}


def write_report(results: Results, path: Path, plot: str | None) -> None:
    """Writes all of it.

    Args:
        results: Of a campaign.
        path: Where to.
        plot: The plot's file name beside it, if there is one.
    """
    summary = Summary(results.runs)
    parts = ["# Benchmark", *_machine(results.facts), *_goals(results.goals)]
    if plot is not None:
        parts += [f"![Rates, processor time and memory by trainers]({plot})"]
    titles = {name: each["title"] for name, each in results.facts["contenders"].items()}
    for where in summary.settings():
        parts += _setting(summary, where, titles, results.runs)
    parts += _whys(results.facts["contenders"])
    parts += _conversions(results.conversions, titles)
    parts += _left_out(results, titles)
    parts += _versions(results.facts["versions"])
    path.write_text("\n\n".join(parts) + "\n")


def _campaign(facts: dict[str, Any]) -> str:
    machine, plan = facts["machine"], facts["plan"]
    return (
        f"{machine['processor']}, {machine['processors']} processors, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB; Linux {machine['kernel']}, Python "
        f"{machine['python']}; {machine['when']}, load {machine['load_before']:.1f} before. "
        f"Mode: {plan['mode']}; {plan['rounds']} rounds at most of the first setting, "
        f"{plan['other_rounds']} of the others."
    )


def _machine(facts: dict[str, Any]) -> list[str]:
    plan = facts["plan"]
    measured_on = "\n".join(map(_campaign, (facts, *facts.get("others", []))))
    words = (
        "Each figure is the median over rounds [lowest, highest]; a round has one run of every "
        "contender, in turn. *Cold*: the first epoch, from opening the data to the last row, "
        f"nothing prepared before. *Warm*: {plan['warm_epochs']} epochs after it. Rows a second "
        "are those of all trainers together; processor time and memory are those of all "
        "processes, servers and loaders included, torch and the step too. *Bytes read* are "
        "by read calls, a row that a trainer got, of the table, of the contender's own copy of "
        "it and of pipes; mapped files are not among them, and the files are in the page "
        "cache. *Exact*: each trainer saw each row once in each epoch, and its right values."
    )
    return [measured_on, words]


def _goals(goals: Sequence[dict[str, Any]]) -> list[str]:
    if not goals:
        return []
    rows = [
        [goal["name"], goal["statement"], goal["threshold"], goal["measured"], goal["verdict"]]
        for goal in goals
    ]
    return ["## Goals", markdown_table(["", "what", "goal", "measured", "verdict"], rows)]


def _setting(
    summary: Summary, where: Where, titles: dict[str, str], runs: Sequence[dict[str, Any]]
) -> list[str]:
    kind, batch_size, trainers = where
    head = [
        "contender",
        "rows",
        "M rows/s warm",
        "M rows/s cold",
        "µs of processor a row, warm",
        "cold",
        "`next()` p50, µs",
        "p99",
        "MiB",
        "bytes read a row, warm",
        "cold",
        "exact",
    ]
    body = []
    for name in summary.contenders(where):
        figures = [
            (rate("warm"), 2),
            (rate("cold"), 2),
            (cpu("warm"), 3),
            (cpu("cold"), 3),
            (next_us("p50"), 1),
            (next_us("p99"), 0),
            (memory_mib, 0),
            (read_bytes("warm"), 0),
            (read_bytes("cold"), 0),
        ]
        cells = []
        for figure, digits in figures:
            found = summary.of(name, where, figure)
            if found is not None and found.median < 0.1:
                digits += 2  # or the slowest would all be 0
            cells.append(found.text(digits) if found is not None else "")
        rows = next(
            run["rows"]
            for run in runs
            if run["contender"] == name and run["table"] == kind and "error" not in run
        )
        body.append([titles[name], f"{rows:,}", *cells, summary.exact(name, where)])
    return [
        f"## {_TABLES[kind]}; batches of {batch_size:,}; trainers: {trainers}",
        markdown_table(head, body),
    ]


def _whys(contenders: dict[str, dict[str, Any]]) -> list[str]:
    lines = [f"- **{each['title']}**: {each['why']}" for each in contenders.values()]
    return ["## Why", "\n".join(lines)]


def _conversions(conversions: Sequence[dict[str, Any]], titles: dict[str, str]) -> list[str]:
    if not conversions:
        return []
    rows = [
        [
            titles[each["contender"]],
            each["table"],
            f"{each['batch_size']:,}",
            f"{each['rows']:,}",
            f"{each['cpu_s'] * 1e6 / each['rows']:.2f}",
            f"{each['bytes'] / 2**20:,.0f}",
        ]
        for each in conversions
    ]
    head = ["contender", "table", "batch", "rows", "µs of processor a row", "MiB on disk"]
    return [
        "## Conversions",
        "Made once before all rounds, and in no figure above.",
        markdown_table(head, rows),
    ]


def _left_out(results: Results, titles: dict[str, str]) -> list[str]:
    names = {name: titles.get(name, name) for name in titles}
    lines = []
    for each in results.skipped:
        said = _last_line(each["error"])
        lines.append(
            f"- {names.get(each['contender'], each['contender'])} {each['where']}: "
            f"{each['reason']}" + (f": `{said}`" if said else "")
        )
    lines += [
        f"- {names[run['contender']]}, {run['table']}, batches of {run['batch_size']:,}, "
        f"trainers: {run['trainers']}, round {run['round'] + 1}: failed: "
        f"`{_last_line(run['error'])}`"
        for run in results.runs
        if "error" in run
    ]
    if not lines:
        return []
    return [
        "## Left out, and failed",
        "What they said in full stands in `results.json`.",
        "\n".join(lines),
    ]


def _versions(versions: dict[str, dict[str, str]]) -> list[str]:
    """The versions of the projects that were measured; all of them stand in the results."""
    lines = []
    for name, found in versions.items():
        wanted = (
            found
            if not name
            else {
                project: version
                for project, version in found.items()
                if project.partition("[")[0] in _PROJECTS
            }
        )
        said = ", ".join(f"{project} {version}" for project, version in wanted.items())
        lines.append(f"- {name or 'the project’s own environment'}: {said}")
    return ["## Versions", "\n".join(lines)]


_PROJECTS = (
    "litdata",
    "mosaicml-streaming",
    "tensorsocket",
    "tensorflow-cpu",
    "tensorflow_cpu",
    "ray",
    "faucetml",
    "torch",
    "pyarrow",
    "numpy",
)


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[:200].replace("`", "'") if lines else ""
