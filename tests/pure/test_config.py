import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from faucet_client.address import parse_address
from faucetd.config import (
    SETTINGS,
    Setting,
    Settings,
    check_budget,
    default_memory_budget,
    make_settings,
    read_settings_file,
    unknown_variables,
)
from faucetd.errors import ConfigError
from faucetd.fetch.bigquery.settings import BigQuerySettings
from faucetd.machine import MemoryLimit

GIB = 2**30


def defaults() -> dict[str, Any]:
    return {setting.name: setting.default() for setting in SETTINGS}


def settings_file(folder: Path, text: str) -> Path:
    path = folder / "faucetd.toml"
    path.write_text(text)
    return path


def test_every_setting_is_described_and_in_the_order_of_settings() -> None:
    plain = [setting.name for setting in SETTINGS if not setting.table]
    assert [*plain, "bigquery"] == [field.name for field in dataclasses.fields(Settings)]
    bigquery = [setting.key for setting in SETTINGS if setting.table == "bigquery"]
    assert bigquery == list(BigQuerySettings.__struct_fields__)


def test_the_defaults_suit_any_machine_and_allow_nothing() -> None:
    settings = make_settings(defaults())
    assert settings.allowed_roots == ()
    assert settings.allowed_uids == {os.getuid()}
    assert 1 <= settings.workers <= 4
    assert not settings.scratch_dir.is_relative_to("/tmp")


def test_the_default_budget_is_a_quarter_of_what_binds() -> None:
    assert default_memory_budget(MemoryLimit(8 * GIB, "x")) == 2 * GIB


def test_a_budget_of_80_percent_is_taken_and_a_byte_more_is_refused_with_the_figures() -> None:
    limit = MemoryLimit(10 * GIB, "the limit in /sys/fs/cgroup/memory.max")
    check_budget(8 * GIB, limit)
    with pytest.raises(ConfigError) as refusal:
        check_budget(8 * GIB + 1, limit)
    for figure in ("8589934593 bytes", "80 %", "10.0 GiB", "8589934592 bytes", limit.origin):
        assert figure in str(refusal.value)


def test_settings_with_a_budget_above_this_machines_memory_are_refused() -> None:
    with pytest.raises(ConfigError, match="memory_budget"):
        make_settings({**defaults(), "memory_budget": 2**60})


def test_an_allowed_root_that_is_not_there_is_refused(tmp_path: Path) -> None:
    make_settings({**defaults(), "allowed_roots": (tmp_path,)})
    with pytest.raises(ConfigError, match="gone does not exist"):
        make_settings({**defaults(), "allowed_roots": (tmp_path / "gone",)})


def test_a_budget_for_disk_without_a_folder_there_is_refused(tmp_path: Path) -> None:
    assert make_settings(defaults()).spill_dir is None
    make_settings({**defaults(), "spill_dir": tmp_path, "spill_budget": GIB})
    with pytest.raises(ConfigError, match=r"spill_budget: 1\.00 GiB .* no folder .*spill_dir"):
        make_settings({**defaults(), "spill_budget": GIB})


def test_a_key_file_that_is_not_there_is_refused_and_words_are_no_files(tmp_path: Path) -> None:
    key = tmp_path / "key.json"
    with pytest.raises(
        ConfigError, match=r"\[bigquery\] credentials: there is no file .*key\.json"
    ):
        make_settings({**defaults(), "bigquery_credentials": str(key)})
    with pytest.raises(ConfigError, match="credentials"):
        make_settings({**defaults(), "bigquery_credentials": str(tmp_path)})
    key.touch()
    for credentials in (str(key), "default", "anonymous"):
        settings = make_settings({**defaults(), "bigquery_credentials": credentials})
        assert settings.bigquery.credentials == credentials


def setting(name: str) -> Setting:
    return next(setting for setting in SETTINGS if setting.name == name)


WRONG = {
    "bigquery_project": ["", "my project", " p", "p\n"],
    "bigquery_api_endpoint": [
        *("127.0.0.1:9050", "localhost", "ftp://host", "http://", "http://host:port"),
        *(
            "https://bigquery.googleapis.com/bigquery/v2",
            "http://a b",
            "http://host?x=1",
            "http://[",
        ),
    ],
    "bigquery_storage_endpoint": [
        *("127.0.0.1", "http://127.0.0.1:9060", "host:", ":9060", "host:99999", "host:0", "a b:1"),
        *("host:9060/", "host:٣"),
    ],
    "bigquery_result_dataset": ["", "a.b.c d", "my-dataset", "p.", ".d", "p.d e", "`p.d`"],
    "bigquery_labels": [
        *("Team=a", "team=A", "team=a b", f"{'k' * 64}=v", f"k={'v' * 64}", "1k=v", "k=a.b"),
    ],
}

RIGHT = {
    "bigquery_project": ["p", "my-project", "example.com:my-project"],
    "bigquery_api_endpoint": ["http://127.0.0.1:9050", "https://bigquery.googleapis.com"],
    "bigquery_storage_endpoint": ["127.0.0.1:9060", "localhost:1", "[::1]:9060"],
    "bigquery_result_dataset": [
        "results",
        "my-project.results_1",
        "example.com:my-project.results",
    ],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_what_bigquery_could_not_use_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=r"write|lower-case"):
        setting(name).parse(value)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in RIGHT.items() for value in values]
)
def test_what_bigquery_can_use_is_taken_as_it_is(name: str, value: str) -> None:
    assert setting(name).parse(value) == value


def test_a_label_is_taken_and_an_address_without_its_slash() -> None:
    assert setting("bigquery_labels").parse("cost-centre_1=größe-2") == ("cost-centre_1", "größe-2")
    assert setting("bigquery_labels").parse(f"{'k' * 63}=") == ("k" * 63, "")
    assert setting("bigquery_api_endpoint").parse("http://host:1/") == "http://host:1"


def test_a_settings_file_may_have_every_key(tmp_path: Path) -> None:
    path = settings_file(
        tmp_path,
        """
        listen = "unix:///run/f.sock"
        memory_budget = "2GiB"
        workers = 3
        allowed_roots = ["/data", "/more/../other"]
        allowed_uids = [0, 1000]
        scratch_dir = "/scratch"
        spill_dir = "/disk/spill"
        spill_budget = "3GiB"
        log_level = "debug"
        """,
    )
    assert read_settings_file(path) == {
        "listen": parse_address("/run/f.sock"),
        "memory_budget": 2 * GIB,
        "workers": 3,
        "allowed_roots": (Path("/data"), Path("/other")),
        "allowed_uids": (0, 1000),
        "scratch_dir": Path("/scratch"),
        "spill_dir": Path("/disk/spill"),
        "spill_budget": 3 * GIB,
        "log_level": "debug",
    }


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("memory_budgt = 1", r"no setting 'memory_budgt'; did you mean memory_budget\?"),
        (
            "zzz = 1",
            "no setting 'zzz'; there are allowed_roots, allowed_uids, dealt_budget, listen",
        ),
        ("[bigqueri]\nproject = 'p'", r"no table \[bigqueri\]; did you mean bigquery"),
        ("[bigquery]\nprojet = 'p'", r"\[bigquery\] there is no setting 'projet'; did you mean"),
        ("[bigquery]\nmax_streams = 0", "max_streams: 0 is not a number from 1"),
        ("[bigquery]\nlabels = ['team']", "labels: 'team' is not a label"),
        ("[bigquery]\ncredentials = 'key.json'", "absolute path of a key file"),
        ("[bigquery]\nstall_timeout_s = 0", "must be above 0"),
        ("bigquery_project = 'p'", r"write it as project in the table \[bigquery\]"),
        ("project = 'p'", r"write it as project in the table \[bigquery\]"),
        ("[bigquery]\nbigquery_project = 'p'", r"write it as project in the table \[bigquery\]"),
        ("[bigquery]\nworkers = 2", "write it as workers above all tables"),
        ("[bigquery]\nproject = 'my project'", "project: 'my project' is no project"),
        ("memory_budget = 'lots'", "memory_budget: 'lots' is not a size"),
        ("memory_budget = 0", "memory_budget: a budget must be at least one byte"),
        ("memory_budget = 1.5", "memory_budget: 1.5 is not a whole number"),
        ("workers = true", "workers: True is not a whole number"),
        ("workers = 0", "workers: at least one worker"),
        ("allowed_roots = '/data'", r"allowed_roots: '/data' is not a list: write \["),
        ("allowed_roots = ['data']", "allowed_roots: 'data' is not an absolute path"),
        ("allowed_uids = [-1]", "allowed_uids: -1 is not a user's number"),
        ("listen = 'tcp://host:1'", "listen: the address 'tcp://host:1' is not a Unix socket"),
        ("scratch_dir = 3", "scratch_dir: 3 is not a text"),
        ("spill_dir = 'spill'", "spill_dir: 'spill' is not an absolute path"),
        ("spill_budget = 0", "spill_budget: a budget must be at least one byte"),
        ("log_level = 'loud'", "log_level: 'loud' is none of debug, info, warning, error"),
        ("workers = = 2", "is not TOML: .*line 1"),
        ("workers = 1\nworkers = 2", "is not TOML"),
    ],
)
def test_a_wrong_line_is_refused_by_file_and_key(tmp_path: Path, line: str, complaint: str) -> None:
    path = settings_file(tmp_path, line)
    with pytest.raises(ConfigError, match=complaint) as refusal:
        read_settings_file(path)
    assert str(path) in str(refusal.value)


def test_a_settings_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_settings_file(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="not a regular file"):
        read_settings_file(tmp_path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not TOML"):
        read_settings_file(binary)


def test_unknown_variables_are_warned_about_and_others_are_not() -> None:
    names = ["FAUCETD_MEM_BUDGET", "FAUCETD_WORKERS", "FAUCETD_CONFIG", "FAUCET_ADDRESS", "PATH"]
    [warning] = unknown_variables(names)
    assert "FAUCETD_MEM_BUDGET is not a setting; did you mean FAUCETD_MEMORY_BUDGET?" in warning
