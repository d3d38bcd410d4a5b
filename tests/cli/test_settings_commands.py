from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Faucetd

WriteFile = Callable[[str], str]


def sources(output: str) -> dict[str, str]:
    """Where each setting comes from, out of `config show`."""
    above_tables, *_ = output.split("\n\n")
    lines = [line.split("  # ") for line in above_tables.splitlines()]
    return {assignment.split(" = ")[0]: comment for assignment, comment in lines}


def test_the_defaults_are_valid_and_say_that_no_file_may_be_opened(faucetd: Faucetd) -> None:
    done = faucetd("check-config")
    assert (done.returncode, done.stderr) == (0, "")
    assert "the settings are valid" in done.stdout
    assert "--allowed-roots /data" in done.stdout


def test_without_allowed_roots_there_is_bigquery_and_that_is_no_fault(faucetd: Faucetd) -> None:
    done = faucetd("check-config", "--bigquery-project", "my-project")
    assert done.returncode == 0
    assert "clients may open tables of BigQuery; to let them open files too" in done.stdout
    assert "but no" not in done.stdout


def test_settings_without_a_value_say_what_then_holds(faucetd: Faucetd) -> None:
    lines = faucetd("config", "show").stdout.splitlines()
    unset = [line.partition("  # ")[0].rstrip() for line in lines if line.startswith("# ")]
    assert "# max_streams = four a worker" in unset
    assert "# project = the credentials' own" in unset
    assert not any(line.endswith("=") for line in unset)


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["--bigquery-storage-insecure"], True),
        (["--bigquery-storage-insecure", "--workers", "1"], True),
        (["--bigquery-storage-insecure", "true"], True),
        (["--bigquery-storage-insecure", "false", "--workers", "1"], False),
        ([], False),
    ],
)
def test_a_flag_of_true_and_false_may_stand_alone(
    faucetd: Faucetd, arguments: list[str], value: bool
) -> None:
    shown = tomllib.loads(faucetd("config", "show", *arguments).stdout)
    assert shown["bigquery"]["storage_insecure"] is value


def test_a_good_file_is_valid(faucetd: Faucetd, settings_file: WriteFile, tmp_path: Path) -> None:
    file = settings_file(f'memory_budget = "64MiB"\nallowed_roots = ["{tmp_path}"]\nworkers = 1\n')
    done = faucetd("check-config", "--config", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 workers, 64.0 MiB of shared memory" in done.stdout
    assert "allowed_roots" not in done.stdout


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("memory_budgt = 1", "did you mean memory_budget?"),
        ("workers = 'two'", "workers: 'two' is not a whole number"),
        ("workers =", "is not TOML"),
        ("memory_budget = '900TiB'", "above 80 % of"),
        ("allowed_roots = ['/no/such/folder']", "/no/such/folder does not exist"),
        ("[bigquery]\ncredentials = '/no/key.json'", "there is no file /no/key.json"),
        ("[bigquery]\napi_endpoint = '127.0.0.1:9050'", "is not the URL of a server"),
        ("bigquery_project = 'p'", "write it as project in the table [bigquery]"),
    ],
)
def test_a_bad_file_exits_with_78_and_one_line(
    faucetd: Faucetd, settings_file: WriteFile, text: str, complaint: str
) -> None:
    done = faucetd("check-config", "--config", settings_file(text))
    assert done.returncode == 78
    assert done.stdout == ""
    assert done.stderr.startswith("faucetd: ")
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_file_that_is_missing_exits_with_78(faucetd: Faucetd) -> None:
    assert faucetd("check-config", "--config", "none.toml").returncode == 78
    done = faucetd("check-config", env={"FAUCETD_CONFIG": "none.toml"})
    assert done.returncode == 78
    assert "none.toml cannot be read" in done.stderr


def test_a_wrong_flag_is_wrong_usage_and_a_wrong_variable_a_wrong_setting(
    faucetd: Faucetd,
) -> None:
    flag = faucetd("check-config", "--workers", "two")
    assert flag.returncode == 2
    assert "--workers" in flag.stderr
    variable = faucetd("check-config", env={"FAUCETD_WORKERS": "two"})
    assert variable.returncode == 78
    assert variable.stderr == "faucetd: FAUCETD_WORKERS: 'two' is not a whole number\n"


def test_an_unknown_variable_is_warned_about_and_no_more(faucetd: Faucetd) -> None:
    done = faucetd("check-config", env={"FAUCETD_WORKER": "2"})
    assert done.returncode == 0
    assert "FAUCETD_WORKER is not a setting; did you mean FAUCETD_WORKERS?" in done.stderr


def test_flags_go_before_variables_before_the_file_before_defaults(
    faucetd: Faucetd, settings_file: WriteFile
) -> None:
    file = settings_file("workers = 5\nmemory_budget = 1_000_000\nlog_level = 'error'\n")
    env = {"FAUCETD_WORKERS": "6", "FAUCETD_MEMORY_BUDGET": "2MB", "FAUCETD_CONFIG": file}
    done = faucetd("config", "show", "--workers", "7", env=env)
    assert done.returncode == 0
    shown = tomllib.loads(done.stdout)
    assert (shown["workers"], shown["memory_budget"], shown["log_level"]) == (7, 2_000_000, "error")
    assert sources(done.stdout) == {
        "listen": "default",
        "memory_budget": "FAUCETD_MEMORY_BUDGET (1.91 MiB)",
        "workers": "--workers",
        "allowed_roots": "default",
        "allowed_uids": "default",
        "scratch_dir": "default",
        "# dealt_budget": "default",
        "# spill_dir": "default",
        "# spill_budget": "default",
        "log_level": file,
        "# metrics": "default",
    }


@pytest.mark.parametrize(
    ("arguments", "variables", "source"),
    [
        (["--allowed-roots", "/bin", "--allowed-roots", "/usr"], {}, "--allowed-roots"),
        ([], {"FAUCETD_ALLOWED_ROOTS": "/bin:/usr"}, "FAUCETD_ALLOWED_ROOTS"),
    ],
)
def test_a_list_replaces_that_of_a_lower_place_and_is_never_merged_with_it(
    faucetd: Faucetd,
    settings_file: WriteFile,
    arguments: list[str],
    variables: dict[str, str],
    source: str,
) -> None:
    file = settings_file("allowed_roots = ['/tmp']")
    done = faucetd("config", "show", "--config", file, *arguments, env=variables)
    assert tomllib.loads(done.stdout)["allowed_roots"] == ["/bin", "/usr"]
    assert sources(done.stdout)["allowed_roots"] == source


def test_users_are_listed_with_commas_in_the_variable(faucetd: Faucetd) -> None:
    done = faucetd("config", "show", env={"FAUCETD_ALLOWED_UIDS": "0, 1000"})
    assert tomllib.loads(done.stdout)["allowed_uids"] == [0, 1000]


def test_what_config_show_prints_is_a_settings_file(
    faucetd: Faucetd, settings_file: WriteFile
) -> None:
    def values(*arguments: str) -> dict[str, Any]:
        return tomllib.loads(faucetd("config", "show", *arguments).stdout)

    first = values("--workers", "3", "--allowed-roots", "/tmp", "--listen", '/run/"quoted".sock')
    assert first["listen"] == 'unix:///run/"quoted".sock'
    written = faucetd("config", "show", "--workers", "3", "--listen", '/run/"quoted".sock').stdout
    again = values("--config", settings_file(written))
    assert again == {**first, "allowed_roots": []}


def test_wrong_settings_are_shown_and_then_refused(faucetd: Faucetd) -> None:
    done = faucetd("config", "show", "--memory-budget", "900TiB")
    assert "memory_budget = " in done.stdout
    assert done.returncode == 78


def test_a_warehouses_settings_are_a_table_of_the_file_and_have_flags_and_variables(
    faucetd: Faucetd, settings_file: WriteFile
) -> None:
    file = settings_file(
        "[bigquery]\nproject = 'one'\nmax_bytes_billed = '1GiB'\nlabels = ['team=a']\n"
        "storage_insecure = true\nretry_deadline_s = 5\n"
    )
    done = faucetd(
        "config", "show", "--config", file, "--bigquery-project", "two",
        env={"FAUCETD_BIGQUERY_LABELS": "team=b,cost=c"},
    )  # fmt: skip
    shown = tomllib.loads(done.stdout)["bigquery"]
    assert shown["project"] == "two"
    assert shown["labels"] == ["team=b", "cost=c"]
    assert shown["max_bytes_billed"] == 2**30
    assert shown["storage_insecure"] is True
    assert shown["retry_deadline_s"] == 5.0
    assert "result_dataset" not in shown


@pytest.mark.parametrize("address", ["0.0.0.0:9464", "10.1.2.3:9464", "example.com:9464"])
def test_metrics_for_other_machines_are_refused_by_name(faucetd: Faucetd, address: str) -> None:
    for done in (
        faucetd("check-config", "--metrics", address),
        faucetd("check-config", env={"FAUCETD_METRICS": address}),
    ):
        assert done.returncode == 78
        assert f"metrics: {address.split(':')[0]} is no loopback address" in done.stderr
