"""All contenders in all settings, in turn, round after round.

Whatever else the machine does falls on all alike, since a round has one run of each contender in
each setting. After every run the results are on disk. A contender that cannot be installed, or
fails, is left out with a word, and what it said stays in the results.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.suite import facts
from benchmarks.suite.environments import EnvironmentFailed, Environments
from benchmarks.suite.registry import LIMIT, Contender
from benchmarks.suite.run import Run, RunFailed, Runner, Setting
from benchmarks.suite.tables import Table, make_table

_MOST_FAILURES = 2
"""A contender that failed so often in a setting is not tried there again."""


@dataclass(frozen=True)
class Plan:
    """What is to be measured.

    Attributes:
        mode: Its name, for the report.
        tables: Kinds of tables and their rows.
        settings: Batch sizes and numbers of trainers, in order of importance.
        rounds: How many at most of the first setting.
        other_rounds: Of the other settings.
        minutes: No run begins after so many; what was not reached is told.
        warm_epochs: Epochs after the first that are timed.
        timeout_s: A run whose phase takes longer has failed.
    """

    mode: str
    tables: tuple[tuple[str, int], ...]
    settings: tuple[tuple[int, int], ...]
    rounds: int
    other_rounds: int
    minutes: float
    warm_epochs: int = 2
    timeout_s: float = 600.0


QUICK = Plan("quick", (("numbers", 393_216),), ((1_024, 4), (1_024, 1)), 3, 3, 3.0, timeout_s=60.0)

FULL = Plan(
    "full",
    (("criteo", 2_097_152), ("numbers", 1_048_576)),
    (
        (1_024, 4),
        (1_024, 1),
        (1_024, 16),
        (128, 4),
        (8_192, 4),
        (1_024, 2),
        (1_024, 8),
        (128, 1),
        (8_192, 1),
    ),
    3,
    3,
    360.0,
)


@dataclass
class Results:
    """What a campaign has found so far; JSON, but for nothing.

    Attributes:
        facts: Machine, versions, plan.
        runs: One a run: contender, setting, round, and the run's figures or its `error`.
        conversions: What contenders' own copies of the tables have cost.
        skipped: Who was left out where, and why.
        goals: What the goals' own measurements have found.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    conversions: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    goals: list[dict[str, Any]] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Writes it as JSON."""
        beside = path.with_suffix(".part")
        beside.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")
        beside.replace(path)

    @classmethod
    def load(cls, path: Path) -> Results:
        """What `save` has written."""
        return cls(**json.loads(path.read_text()))

    def with_those_of(self, other: Results) -> Results:
        """One report of two campaigns; facts are the first one's, and say when the other was."""
        facts = self.facts | {"others": [*self.facts.get("others", []), other.facts]}
        known = {each["name"]: each for each in (*self.goals, *other.goals)}
        conversions = [*self.conversions]
        conversions += [each for each in other.conversions if each not in conversions]
        return Results(
            facts,
            [*self.runs, *other.runs],
            conversions,
            [*self.skipped, *other.skipped],
            list(known.values()),
        )


class Campaign:
    """Runs a plan.

    Args:
        plan: What.
        contenders: Who.
        folder: Where results and logs go.
        cache: Where tables, copies of them and environments are kept.
        say: Is told what goes on, a line at a time.
    """

    def __init__(
        self,
        plan: Plan,
        contenders: Sequence[Contender],
        folder: Path,
        cache: Path,
        say: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._contenders = list(contenders)
        self._folder = folder
        self._cache = cache
        self._say = say
        self._environments = Environments(cache / "peers")
        folder.mkdir(parents=True, exist_ok=True)
        self._runner = Runner(self._environments.python, folder, timeout_s=plan.timeout_s)
        self._failures: dict[tuple[Any, ...], int] = {}
        self._converted: dict[tuple[Any, ...], Path] = {}
        self.results = Results()

    def run(self) -> Results:
        """All rounds, or as many as there is time for."""
        self._install()
        plan = self._plan
        self.results.facts = {
            "machine": facts.machine(),
            "plan": dataclasses.asdict(plan),
            "versions": facts.versions(self._contenders, self._environments),
            "contenders": {each.name: dataclasses.asdict(each) for each in self._contenders},
        }
        tables = {
            kind: make_table(self._cache / "tables", kind, rows) for kind, rows in plan.tables
        }
        self._convert_all(tables)
        began = time.monotonic()
        for number, contender, setting in self._order(tables):
            if time.monotonic() - began > 60 * plan.minutes:
                self._say(f"the time of {plan.minutes:g} minutes is over in round {number + 1}")
                break
            self._one(number, contender, setting)
            self.results.save(self._folder / "results.json")
        self._note_unreached(tables)
        self.results.save(self._folder / "results.json")
        return self.results

    def _order(self, tables: dict[str, Table]) -> Iterator[tuple[int, Contender, Setting]]:
        """Rounds of settings of contenders; who begins changes by round."""
        plan = self._plan
        for number in range(max(plan.rounds, plan.other_rounds)):
            for place, (batch_size, trainers) in enumerate(plan.settings):
                if number >= (plan.other_rounds if place else plan.rounds):
                    continue
                for kind in tables:
                    turn = number % len(self._contenders)
                    for contender in self._contenders[turn:] + self._contenders[:turn]:
                        if kind in contender.kinds:
                            table = self._table(contender, tables[kind])
                            yield number, contender, self._setting(table, batch_size, trainers)

    def _setting(self, table: Table, batch_size: int, trainers: int) -> Setting:
        return Setting(table, batch_size, trainers, self._plan.warm_epochs)

    def _one(self, number: int, contender: Contender, setting: Setting) -> None:
        where = (contender.name, setting.table.kind, setting.batch_size, setting.trainers)
        entry = {
            "contender": contender.name,
            "table": setting.table.kind,
            "rows": setting.table.rows,
            "batch_size": setting.batch_size,
            "trainers": setting.trainers,
            "round": number,
        }
        reason = self._reason_to_skip(contender, setting)
        if reason:
            if number == 0:
                self._skip(contender, reason, "", where)
            return
        try:
            run = self._runner.run(contender, setting, self._converted.get(where[:3]))
        except RunFailed as error:
            self._failures[where] = self._failures.get(where, 0) + 1
            self.results.runs.append(entry | {"error": str(error)})
            self._say(f"{_named(where)}: failed: {_last_line(str(error))}")
            return
        self.results.runs.append(entry | dataclasses.asdict(run) | {"exact": run.exact})
        self._say(f"{_named(where)}: {_told(run)}")

    def _reason_to_skip(self, contender: Contender, setting: Setting) -> str:
        where = (contender.name, setting.table.kind, setting.batch_size, setting.trainers)
        if self._failures.get(where, 0) >= _MOST_FAILURES:
            return f"failed {_MOST_FAILURES} times"
        if contender.converts and where[:3] not in self._converted:
            return "its conversion failed"
        if contender.name == LIMIT:
            needed = setting.trainers * setting.table.rows * (4 * setting.table.width + 16) * 1.3
            if needed > facts.available_bytes():
                return f"needs {needed / 2**30:.0f} GiB, more than is free"
        return ""

    def _install(self) -> None:
        """Makes the environments; who has none is left out."""
        ready = []
        for contender in self._contenders:
            if not self._environments.is_ready(contender.environment):
                self._say(f"installing {contender.environment} into {self._cache}/peers ...")
            try:
                self._environments.make(contender.environment)
            except EnvironmentFailed as error:
                self._skip(contender, "could not be installed", str(error), (contender.name,))
            else:
                ready.append(contender)
        self._contenders = ready

    def _convert_all(self, tables: dict[str, Table]) -> None:
        """Has contenders make their own copies of the tables, one a batch size."""
        for contender in self._contenders:
            for whole in tables.values():
                if not contender.converts or whole.kind not in contender.kinds:
                    continue
                for batch_size in dict.fromkeys(size for size, _ in self._plan.settings):
                    self._convert(contender, self._table(contender, whole), batch_size)

    def _convert(self, contender: Contender, table: Table, batch_size: int) -> None:
        where = (contender.name, table.kind, batch_size)
        name = "-".join(map(str, (contender.name, table.kind, table.rows, batch_size)))
        folder = self._cache / "converted" / name
        facts_file = folder.with_suffix(".json")
        if not facts_file.exists():
            self._say(f"{_named(where)}: converting the table ...")
            shutil.rmtree(folder, ignore_errors=True)
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                cpu_s = self._runner.convert(contender, table, batch_size, folder)
            except RunFailed as error:
                self._skip(contender, "its conversion failed", str(error), where)
                return
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            facts_file.write_text(json.dumps({"cpu_s": cpu_s, "bytes": size}))
        self._converted[where] = folder
        entry = {"contender": contender.name, "table": table.kind, "batch_size": batch_size}
        self.results.conversions.append(
            entry | {"rows": table.rows} | json.loads(facts_file.read_text())
        )

    def _table(self, contender: Contender, whole: Table) -> Table:
        if contender.row_share == 1:
            return whole
        rows = max(round(whole.rows * contender.row_share), 1)
        return make_table(self._cache / "tables", whole.kind, rows)

    def _skip(self, contender: Contender, reason: str, error: str, where: Sequence[object]) -> None:
        self._say(f"{_named(where)}: left out: {reason}")
        self.results.skipped.append(
            {
                "contender": contender.name,
                "where": _named(where[1:]),
                "reason": reason,
                "error": error,
            }
        )

    def _note_unreached(self, tables: dict[str, Table]) -> None:
        """Says which settings were never run, since the time was over."""
        tried = {
            (run["contender"], run["table"], run["batch_size"], run["trainers"])
            for run in self.results.runs
        }
        left_out = {(entry["contender"], entry["where"]) for entry in self.results.skipped}
        for _, contender, setting in self._order(tables):
            where = (contender.name, setting.table.kind, setting.batch_size, setting.trainers)
            if where not in tried and (contender.name, _named(where[1:])) not in left_out:
                tried.add(where)
                self._skip(contender, "the time was over", "", where)


def _named(where: Sequence[object]) -> str:
    """A setting in words: contender, table, batch size, trainers, as far as they are given."""
    return " ".join(map(str, where))


def _told(run: Run) -> str:
    rates = " / ".join(f"{phase.rows_per_s / 1e6:.2f}" for phase in (run.cold, run.warm))
    exact = "" if run.exact else ", NOT EXACT"
    return (
        f"{rates} M rows/s cold / warm, {run.warm.cpu_us_per_row:.3f} µs of processor a row warm, "
        f"{run.memory_bytes / 2**20:,.0f} MiB{exact}"
    )


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "without a word"
