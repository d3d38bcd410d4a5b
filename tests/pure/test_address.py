import socket
from pathlib import Path

import pytest

from faucet_client.address import (
    PATH_LIMIT_BYTES,
    builtin_address,
    default_address,
    parse_address,
    why_unreachable,
)
from faucet_client.errors import ConfigError


@pytest.mark.parametrize("text", ["unix:///run/faucetd/f.sock", "/run/faucetd/f.sock"])
def test_an_address_is_a_unix_url_or_an_absolute_path(text: str) -> None:
    address = parse_address(text)
    assert address.path == "/run/faucetd/f.sock"
    assert str(address) == "unix:///run/faucetd/f.sock"
    assert address.folder == "/run/faucetd"


def test_the_handoff_socket_and_the_lock_lie_beside_the_socket() -> None:
    address = parse_address("/run/f.sock")
    assert (address.handoff_path, address.lock_path) == ("/run/f.sock.handoff", "/run/f.sock.lock")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "f.sock",
        "unix://f.sock",
        "unix:f.sock",
        "tcp://host:80",
        "localhost:50051",
        "/run/",
        "/",
    ],
)
def test_what_is_not_a_unix_socket_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="address"):
        parse_address(text)


def test_a_path_is_as_long_as_both_sockets_can_be_bound_and_no_longer(tmp_path: Path) -> None:
    folder = "/tmp/" + "é" * 30  # two bytes each
    longest = f"{folder}/{'x' * (PATH_LIMIT_BYTES - len(folder.encode()) - 1)}"
    address = parse_address(longest)
    with socket.socket(socket.AF_UNIX) as bound:
        # The kernel looks at the length before it looks for the folder, which is not there.
        with pytest.raises(FileNotFoundError):
            bound.bind(address.handoff_path)
        with pytest.raises(OSError, match="too long"):
            bound.bind(address.handoff_path + "x")
    with pytest.raises(ConfigError, match=r"100 bytes, and at most 99 fit"):
        parse_address(longest + "x")


def test_characters_that_mean_something_in_a_url_are_escaped_for_grpc() -> None:
    assert parse_address("/run/a#b?c%20.sock").grpc_target == "unix:///run/a%23b%3Fc%2520.sock"


def test_the_built_in_address_is_in_the_users_runtime_folder_else_in_tmp() -> None:
    assert builtin_address({"XDG_RUNTIME_DIR": "/run/user/7"}).path == (
        "/run/user/7/faucetd/faucetd.sock"
    )
    fallback = builtin_address({}).path
    assert fallback.startswith("/tmp/faucetd-")
    assert builtin_address({"XDG_RUNTIME_DIR": "relative"}).path == fallback


def test_a_client_follows_faucet_address_and_names_it_when_it_is_wrong() -> None:
    assert default_address({"FAUCET_ADDRESS": "/run/f.sock"}).path == "/run/f.sock"
    assert default_address({"FAUCET_ADDRESS": ""}) == builtin_address({})
    with pytest.raises(ConfigError, match="FAUCET_ADDRESS: the address 'tcp://x'"):
        default_address({"FAUCET_ADDRESS": "tcp://x"})


def test_the_reason_why_nobody_answers_says_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "f.sock"
    address = parse_address(str(path))
    assert "there is no such socket. Start one with `faucetd serve`" in why_unreachable(address)
    path.write_text("")
    assert "the file there is not a socket" in why_unreachable(address)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(str(path))
    assert "no process listens on it" in why_unreachable(address)
