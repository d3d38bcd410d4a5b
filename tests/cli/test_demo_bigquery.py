"""The demo with its table in BigQuery, as a person runs it against the local emulator.

That is `make bigquery-emulator`'s, and the settings that it prints.
"""

from __future__ import annotations

import re
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from tests.bqemulator import Emulator
from tests.bqemulator.__main__ import describe
from tests.bqemulator.tables import client_of, load, table_names
from tests.cli.conftest import Faucetd
from tests.cli.test_demo import assert_nothing_is_left, child_of, read_until, running_demo

ROWS = 6_000
FEW = ("--bigquery", "--rows", str(ROWS), "--interval", "0.1")

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def config(emulator: Emulator, tmp_path: Path) -> str:
    """A settings file: what the emulator's make target prints for one."""
    path = tmp_path / "faucetd.toml"
    lines = describe(emulator).partition("[bigquery]\n")[2].partition("\n\n")[0]
    path.write_text(f"workers = 7\n[bigquery]\n{lines}\n")
    return str(path)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="t-") as path:
        yield Path(path)


def test_four_trainers_learn_from_bigquery_and_the_table_is_gone_afterwards(
    emulator: Emulator, config: str, folder: Path
) -> None:
    with running_demo(folder, *FEW, config=config) as demo:
        read_until(demo, "Training on")
        (table,) = table_names(emulator)
        assert re.fullmatch(r"faucetml_demo\.flights_[0-9a-f]{8}", table)
        output, errors = demo.communicate()
    assert (demo.returncode, errors) == (0, "")
    assert "Read once, rows exact." in output
    assert f"read the table once: {ROWS:,} rows" in output
    assert "BigQuery billed " in output
    assert len(re.findall(r"│ +\*? ?0\.\d+ │ 0\.\d+  0\.\d+  0\.\d+ │", output)) == 4
    assert table_names(emulator) == []
    assert_nothing_is_left(folder)


@pytest.mark.parametrize("moment", ["Loading them", "Training on"])
def test_ctrl_c_leaves_nothing_in_bigquery_but_what_is_others(
    emulator: Emulator, config: str, folder: Path, moment: str
) -> None:
    load(emulator, "others.rows", pa.table({"x": [1, 2, 3]}))
    arguments = [*FEW, "--bigquery-dataset", f"{emulator.project}.others"]
    with running_demo(folder, *arguments, config=config) as demo:
        read_until(demo, moment)
        demo.send_signal(signal.SIGINT)
        _, errors = demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert "Traceback" not in errors
    assert table_names(emulator) == ["others.rows"]
    assert_nothing_is_left(folder)
    with client_of(emulator) as client:
        client.delete_dataset("others", delete_contents=True, retry=None, timeout=30)


def test_a_daemon_that_dies_leaves_nothing_in_bigquery(
    emulator: Emulator, config: str, folder: Path
) -> None:
    with running_demo(folder, *FEW, config=config) as demo:
        read_until(demo, "will bill")
        read_until(demo, "Training on")
        child_of(demo, "serve").kill()
        _, errors = demo.communicate(timeout=60)
    assert demo.returncode == 1
    assert errors.startswith("faucetd: the demo's daemon was killed by SIGKILL")
    assert table_names(emulator) == []
    assert_nothing_is_left(folder)


def test_a_flag_counts_more_than_the_settings_file(faucetd: Faucetd, config: str) -> None:
    done = faucetd("demo", *FEW, "--config", config, "--bigquery-project", "No Project!")
    assert done.returncode == 2
    assert "'No Project!' is no project" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--bigquery-project", "p"], "without --bigquery there is no --bigquery-project"),
        (["--bigquery-dataset", "d"], "without --bigquery there is no --bigquery-dataset"),
        (["--bigquery", "--bigquery-projekt", "p"], "--bigquery-project"),
        (["--bigquery", "--bigquery-max-streams", "0"], "from 1 to 1,000"),
        (["--rows", "10"], "x>=5000"),
    ],
)
def test_wrong_usage_is_told(faucetd: Faucetd, arguments: list[str], told: str) -> None:
    done = faucetd("demo", *arguments)
    assert done.returncode == 2
    assert told in done.stderr


def test_a_dataset_that_is_none_is_told(faucetd: Faucetd, config: str) -> None:
    done = faucetd("demo", *FEW, "--config", config, "--bigquery-dataset", "no dataset")
    assert done.returncode == 1
    assert "'no dataset' of project 'emulated' is no dataset" in done.stderr


def test_a_bigquery_that_cannot_be_reached_ends_the_demo_with_the_reason(
    faucetd: Faucetd,
) -> None:
    done = faucetd(
        *("demo", "--bigquery", "--rows", "5000", "--bigquery-project", "p"),
        *("--bigquery-credentials", "anonymous", "--bigquery-api-endpoint", "http://127.0.0.1:9"),
    )
    assert done.returncode == 1
    assert "127.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr
