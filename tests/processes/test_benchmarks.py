"""The benchmark's own harness, at a tiny size: what it writes, and that it sees what is wrong."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.goals.table import GOALS, Bound
from benchmarks.goals.verdicts import failed, judge
from benchmarks.suite import processes
from benchmarks.suite.campaign import FULL, Campaign, Plan, Results
from benchmarks.suite.command import limited, write_all
from benchmarks.suite.publish import BEGIN, END, publish
from benchmarks.suite.registry import CONTENDERS, Contender, contender
from benchmarks.suite.run import Child, RunFailed
from benchmarks.suite.tables import make_table

ROWS = 20_000
OWN = ("local", "faucet", "dataloader_chunks", "dataloader_batches")
CHEAT = Contender(
    "skipping",
    "one that skips a row",
    kinds=("criteo",),
    why="To be found out.",
    package="tests.processes.contenders",
)
ABSENT = Contender("absent", "one that does not exist")

pytestmark = pytest.mark.timeout(600)

Measure = Callable[..., Results]


@pytest.fixture
def measure(tmp_path: Path) -> Measure:
    def run(*contenders: Contender, **changed: Any) -> Results:
        plan: dict[str, Any] = {
            "mode": "tiny",
            "tables": (("numbers", ROWS),),
            "settings": ((1_024, 2),),
            "rounds": 1,
            "other_rounds": 1,
            "minutes": 10.0,
            "warm_epochs": 1,
        } | changed
        said: list[str] = []
        campaign = Campaign(
            Plan(**plan), contenders, tmp_path / "out", tmp_path / "cache", said.append
        )
        results = campaign.run()
        write_all(results, tmp_path / "out")
        return results

    return run


def test_a_campaign_writes_results_report_and_plot(measure: Measure, tmp_path: Path) -> None:
    loaders = [replace(contender(name), kinds=("criteo",)) for name in OWN[2:]]
    results = measure(
        *map(contender, OWN[:2]), *loaders, CHEAT, tables=(("numbers", ROWS), ("criteo", ROWS))
    )

    out = tmp_path / "out"
    written = json.loads((out / "results.json").read_text())
    assert written["runs"] == json.loads(json.dumps(results.runs))
    assert {"processors", "kernel", "python"} <= written["facts"]["machine"].keys()
    assert written["facts"]["versions"][""]["torch"]
    runs = {(run["contender"], run["table"]): run for run in written["runs"]}
    assert {name for name, kind in runs if kind == "numbers"} == set(OWN[:2])
    assert {name for name, kind in runs if kind == "criteo"} == {*OWN, "skipping"}
    cheat = runs.pop(("skipping", "criteo"))
    assert not cheat["exact"]
    assert cheat["warm"]["missing"] == cheat["warm"]["repeated"] == 2
    for run in runs.values():
        assert run["exact"], run
        assert run["cold"]["rows"] == run["warm"]["rows"] == 2 * ROWS
        assert run["cold"]["cpu_s"] > 0
        assert run["memory_bytes"] > 2**20
        assert len(run["warm"]["next_us"]) == 2
    report = (out / "results.md").read_text()
    for name in OWN:
        assert contender(name).title in report
    cheats = [line for line in report.splitlines() if line.startswith("| one that skips")]
    assert len(cheats) == 1
    assert "**no**: 6 missing" in cheats[0]
    assert (out / "results.svg").read_text().count("<svg") == 1
    root = tmp_path / "root"
    (root / "docs").mkdir(parents=True)
    (root / "README.md").write_text(f"before\n{BEGIN}what was\n{END}\nafter\n")
    for _ in range(2):  # and again in the same place
        publish(results, root)
        readme = (root / "README.md").read_text()
        assert readme.startswith(f"before\n{BEGIN}")
        assert readme.endswith(f"{END}\nafter\n")
        assert "what was" not in readme
        assert readme.count(contender("faucet").title) == 1
    assert (root / "docs/results.md").read_text() == report
    # The same results, the same report.
    before = report, (out / "results.svg").read_bytes()
    write_all(Results.load(out / "results.json"), out)
    assert ((out / "results.md").read_text(), (out / "results.svg").read_bytes()) == before


def test_who_fails_is_left_out_with_what_it_said(measure: Measure, tmp_path: Path) -> None:
    results = measure(contender("local"), ABSENT)

    ran, broken = results.runs
    assert ran["exact"]
    assert "No module named 'benchmarks.suite.contenders.absent'" in broken["error"]
    assert "Traceback" in broken["error"]
    assert "one that does not exist" in (tmp_path / "out" / "results.md").read_text()


def test_who_cannot_be_installed_is_left_out(
    measure: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requirements = tmp_path / "requirements"
    requirements.mkdir()
    (requirements / "broken.txt").write_text("not a requirement ==\n")
    monkeypatch.setattr("benchmarks.suite.environments.REQUIREMENTS", requirements)

    results = measure(
        contender("local"),
        Contender("uninstalled", "one that needs what is not", environment="broken"),
    )

    assert [run["contender"] for run in results.runs] == ["local"]
    (skipped,) = results.skipped
    assert skipped["reason"] == "could not be installed"
    assert "not a requirement" in skipped["error"]
    assert "could not be installed" in (tmp_path / "out" / "results.md").read_text()


def test_what_time_did_not_allow_is_told(measure: Measure) -> None:
    results = measure(contender("local"), contender("faucet"), minutes=0.0)

    assert results.runs == []
    assert {each["reason"] for each in results.skipped} == {"the time was over"}
    assert [each["contender"] for each in results.skipped] == ["local", "faucet"]


def test_other_settings_may_have_fewer_rounds(measure: Measure) -> None:
    limit = contender("local")
    results = measure(limit, settings=((1_024, 1), (512, 1)), rounds=2)

    assert [(run["batch_size"], run["round"]) for run in results.runs] == [
        (1_024, 0),
        (512, 0),
        (1_024, 1),
    ]
    assert not results.skipped


def test_two_campaigns_make_one_report(measure: Measure, tmp_path: Path) -> None:
    limit = contender("local")
    first, other = (measure(limit, settings=((size, 1),)) for size in (1_024, 512))
    both = first.with_those_of(other)

    assert [run["batch_size"] for run in both.runs] == [1_024, 512]
    write_all(both, tmp_path)
    text = (tmp_path / "results.md").read_text()
    assert text.count("Mode: tiny") == 2
    assert "batches of 1,024; trainers: 1" in text
    assert "batches of 512; trainers: 1" in text


def test_a_plan_can_be_made_less() -> None:
    less = limited(FULL, rounds=2, rows=1_000, minutes=5.0, timeout_s=None, other_rounds=None)
    assert (less.rounds, less.other_rounds, less.minutes) == (2, 2, 5.0)
    assert less.tables == (("criteo", 1_000), ("numbers", 1_000))
    assert (less.settings, less.timeout_s) == (FULL.settings, FULL.timeout_s)
    assert limited(FULL, other_rounds=1).rounds == FULL.rounds
    assert limited(FULL) == FULL


def test_a_table_is_the_same_each_time(tmp_path: Path) -> None:
    first, second = (make_table(tmp_path / name, "criteo", 5_000) for name in ("a", "b"))

    assert first.feature_sum == second.feature_sum
    assert first.feature_sum > 1_000
    (one,), (other,) = (Path(table.folder).glob("*.parquet") for table in (first, second))
    assert one.read_bytes() == other.read_bytes()


def test_usage_counts_all_processes_of_a_run(tmp_path: Path) -> None:
    script = (
        "import json, os, subprocess, sys, time\n"
        "work = 'import time; sum(range(10**7)); print(time.process_time())'\n"
        "spent = subprocess.run([sys.executable, '-c', work], capture_output=True).stdout\n"
        "fd = os.memfd_create('held'); os.write(fd, bytes(1 << 26))\n"
        "facts = {'event': 'ready', 'spent': float(spent), 'own': time.process_time()}\n"
        "print(json.dumps(facts), flush=True)\n"
        "sys.stdin.read()\n"
    )
    child = Child(
        [sys.executable, "-c", script], os.environ | {processes.MARK: "here"}, tmp_path / "log"
    )
    try:
        ready = child.hear("ready", time.monotonic() + 60)
        assert processes.marked("here") == [child.pid]
        ticks_s = 2 * 0.01  # the ended child's time as a user and in the kernel, each cut to ticks
        used_s = processes.usage("here").cpu_s
        assert ready["spent"] + ready["own"] - ticks_s <= used_s
        held = processes.memory("here")
        assert held.shared == 1 << 26
        assert 2**20 < held.private < 2**26
        with pytest.raises(RunFailed, match="no 'more' in time"):
            child.hear("more", time.monotonic() + 0.01)
    finally:
        child.end()
    assert processes.marked("here") == []


def test_goals_are_thirteen_and_judged_by_their_bounds() -> None:
    assert [goal.name for goal in GOALS] == [f"G{number}" for number in range(1, 14)]
    goal = GOALS[0]
    ratios = [0.97, 1.01, 1.02]
    met = judge(goal, {"fed over local": ratios, "fed over local, worst": ratios})
    assert met["verdict"] == "met"
    assert met["measured"].startswith("throughput: 1.01 [0.97, 1.02]")
    low = [0.94, 1.01, 1.02]
    missed = judge(goal, {"fed over local": low, "fed over local, worst": low})
    assert missed["verdict"] == "**missed** (1 of 2 met)"
    assert judge(goal, {})["verdict"] == "not measured"
    assert "boom" in failed(goal, "boom")["measured"]
    assert not Bound("x", "x", at_most=1.0).met(0.0, 1.1, 2.0)


def test_every_contender_says_why_and_pins_what_it_needs() -> None:
    peers = Path(__file__).parents[2] / "benchmarks" / "peers"
    for each in CONTENDERS:
        assert each.why, each.name
        if each.environment:
            lines = (peers / f"{each.environment}.txt").read_text().splitlines()
            pins = [line for line in lines if not line.startswith("#")]
            assert all(re.fullmatch(r"[\w.\-]+==[\w.]+", pin) for pin in pins), pins
    assert np.unique([each.name for each in CONTENDERS]).size == len(CONTENDERS)
