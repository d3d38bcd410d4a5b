from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from faucet_client._version import PROTOCOL_VERSION, __version__
from faucet_client.errors import (
    BudgetError,
    ConfigError,
    DaemonUnreachable,
    FaucetError,
    LockHeld,
)
from faucetd.cli.exits import exit_code
from tests.cli.conftest import Faucetd

COMMANDS = [
    *("serve", "demo", "status", "top", "health", "drop", "profile"),
    *("check-config", "config", "version"),
    "config show",
]


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_explains_itself(faucetd: Faucetd, words: str) -> None:
    done = faucetd(*words.split(), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Usage: faucetd {words}" in done.stdout
    if words not in ("config", "version"):
        assert "xample" in done.stdout or "python -c" in done.stdout


def test_the_help_of_status_explains_its_columns(faucetd: Faucetd) -> None:
    said = faucetd("status", "--help").stdout
    for words in ("4/16+", "ROWS READ", "BYTES READ", "billed", "HOLDS"):
        assert words in said


def test_the_help_lists_all_commands_and_the_exit_codes(faucetd: Faucetd) -> None:
    done = faucetd("--help")
    listed = done.stdout.partition("Commands:")[2]
    for words in COMMANDS:
        assert f"\n  {words.split()[0]} " in listed
    assert "75 another daemon" in done.stdout


def test_the_version_is_printed_with_that_of_the_protocol(faucetd: Faucetd) -> None:
    lines = faucetd("version").stdout.splitlines()
    assert lines[:2] == [f"faucetd {__version__}", f"protocol {PROTOCOL_VERSION}"]
    assert faucetd("--version").stdout == f"faucetd {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["serve", "--nonsense"], ["drop"], ["top", "--svg", "x.svg"]]
)
def test_wrong_usage_exits_with_2(faucetd: Faucetd, arguments: list[str]) -> None:
    done = faucetd(*arguments)
    assert done.returncode == 2
    assert "Usage:" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        *(["health"], ["status"], ["status", "--json"], ["top", "--once"]),
        *(["drop", "a"], ["profile"]),
    ],
)
def test_without_a_daemon_one_line_says_how_to_start_one(
    faucetd: Faucetd, tmp_path: Path, arguments: list[str]
) -> None:
    done = faucetd(*arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"no daemon at unix://{tmp_path}/faucetd/faucetd.sock" in done.stderr
    assert "`faucetd serve`" in done.stderr
    assert "--address" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_address_that_is_none_is_wrong_usage(faucetd: Faucetd) -> None:
    done = faucetd("health", "--address", "localhost:50051")
    assert done.returncode == 2
    assert "unix:///" in done.stderr


@pytest.fixture
def health_service(tmp_path: Path) -> Iterator[tuple[str, health.HealthServicer]]:
    """A gRPC server that is nothing but healthy, and its address."""
    address = f"unix://{tmp_path}/health.sock"
    servicer = health.HealthServicer()
    server = grpc.server(futures.ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(address)
    server.start()
    yield address, servicer
    server.stop(None).wait()


@pytest.mark.parametrize("variable", ["FAUCET_ADDRESS", "FAUCETD_LISTEN"])
def test_health_finds_the_daemon_by_either_sides_variable(
    faucetd: Faucetd, health_service: tuple[str, health.HealthServicer], variable: str
) -> None:
    address, servicer = health_service
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    done = faucetd("health", env={variable: address})
    assert (done.returncode, done.stdout, done.stderr) == (0, "SERVING\n", "")


def test_health_of_a_daemon_that_does_not_serve_exits_with_1(
    faucetd: Faucetd, health_service: tuple[str, health.HealthServicer]
) -> None:
    address, servicer = health_service
    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    done = faucetd("health", "--address", address)
    assert (done.returncode, done.stdout) == (1, "")
    assert "NOT SERVING" in done.stderr


def test_health_of_a_daemon_that_hangs_ends_after_its_deadline(
    faucetd: Faucetd, tmp_path: Path
) -> None:
    path = tmp_path / "hung.sock"
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(path))
        hung.listen()  # connections are made by the kernel, and nobody ever takes them
        done = faucetd("health", "--address", f"unix://{path}")
    assert done.returncode == 1
    assert "does not answer within 5 s" in done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LockHeld("x"), 75),
        (ConfigError("x"), 78),
        (FaucetError("x"), 1),
        (BudgetError("x"), 1),
        (DaemonUnreachable("x"), 1),
    ],
)
def test_the_exit_code_is_the_errors(error: FaucetError, code: int) -> None:
    assert exit_code(error) == code


@pytest.mark.parametrize(
    ("missing", "extra"), [("click", "daemon"), ("grpc_health", "daemon"), ("rich", "demo")]
)
def test_without_an_extra_one_line_says_what_to_install(missing: str, extra: str) -> None:
    done = python(
        f"import sys; sys.modules[{missing!r}] = None\n"
        f"sys.argv = ['faucetd', {'demo' if extra == 'demo' else 'health'!r}]\n"
        "from faucetd.cli import main; main()"
    )
    assert done.returncode == 1
    assert f"pip install 'faucetml[{extra}]>=0.1'" in done.stderr
    assert f"pip install '.[{extra}]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_reader_of_our_output_may_leave_early() -> None:
    done = python(
        "import os, sys\n"
        "sys.argv = ['faucetd', 'config', 'show']\n"
        "reader, writer = os.pipe(); os.close(reader); os.dup2(writer, 1)\n"
        "from faucetd.cli import main; main()"
    )
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        ("faucetd.daemon, faucetd.config", {"torch", "duckdb", "pandas"}),
        ("faucet_client.session, faucetd.cli.inspect", {"torch", "duckdb", "pandas", "pyarrow"}),
        ("faucetd.cli.app, faucetd.probe", {"torch", "duckdb", "pandas", "pyarrow", "numpy"}),
    ],
    ids=["the main process", "status and drop", "health"],
)
def test_what_must_start_at_once_imports_nothing_heavy(modules: str, unwanted: set[str]) -> None:
    done = python(f"import sys, {modules}; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    assert not unwanted & {name.partition(".")[0] for name in done.stdout.split()}


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
