"""The project's own pages about speed: what they say is made of a results.json.

`docs/results.md` and its plot are the whole report; between two marks in the README stand its
tables in short.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.suite.campaign import Results
from benchmarks.suite.plots import draw
from benchmarks.suite.report import markdown_table, write_report
from benchmarks.suite.summary import Figure, Summary, Where, cpu, memory_mib, rate

BEGIN = "<!-- made by `python -m benchmarks publish`: begin -->\n"
END = "<!-- end -->"


def publish(results: Results, root: Path) -> None:
    """Writes `docs/results.md`, `docs/results.svg` and the README's part.

    Args:
        results: Of a campaign, with its goals.
        root: The project's folder.

    Raises:
        ValueError: the README has not both marks.
    """
    draw(results, root / "docs/results.svg")
    write_report(results, root / "docs/results.md", "results.svg")
    readme = root / "README.md"
    before, begin, rest = readme.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme} has not both marks: {BEGIN!r} and {END!r}")
    readme.write_text(before + BEGIN + "\n" + in_short(results) + "\n" + END + after)


def in_short(results: Results) -> str:
    """The contenders of the setting that most of them ran in, and the goals, as Markdown.

    Of several such settings, the one that the plan has first.
    """
    summary = Summary(results.runs)
    ranks = {tuple(each): rank for rank, each in enumerate(results.facts["plan"]["settings"])}
    where = max(
        summary.settings(),
        key=lambda one: (len(summary.contenders(one)), -ranks.get(one[1:], len(ranks))),
    )
    _, batch_size, trainers = where
    machine = results.facts["machine"]
    titles = {name: each["title"] for name, each in results.facts["contenders"].items()}
    rows = [
        [
            titles[name],
            _text(summary, name, where, rate("warm"), 2),
            _text(summary, name, where, rate("cold"), 2),
            _text(summary, name, where, cpu("warm"), 3),
            _text(summary, name, where, memory_mib, 0),
            summary.exact(name, where),
        ]
        for name in summary.contenders(where)
    ]
    head = ["", "M rows/s warm", "cold", "µs of processor a row, warm", "MiB", "exact"]
    words = (
        f"{trainers} trainers at once, batches of {batch_size:,}; {machine['processors']} "
        f"processors ({machine['processor']}), {machine['when'][:10]}; medians over rounds. All "
        "that was measured, how, and why who loses: [docs/results.md](docs/results.md)."
    )
    goals = [[goal["name"], goal["statement"], goal["verdict"]] for goal in results.goals]
    parts = [words, markdown_table(head, rows)]
    if goals:
        parts.append(markdown_table(["goal", "what", "verdict"], goals))
    parts.append("![Rates, processor time and memory](docs/results.svg)")
    return "\n\n".join(parts) + "\n"


def _text(summary: Summary, name: str, where: Where, figure: Figure, digits: int) -> str:
    found = summary.of(name, where, figure)
    if found is None:
        return ""
    return f"{found.median:,.{digits + 2 if found.median < 0.1 else digits}f}"
