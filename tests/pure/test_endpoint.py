"""Addresses of metrics: what is read, and what only this machine can reach."""

from __future__ import annotations

import pytest

from faucetd.endpoint import Endpoint, parse_endpoint


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("127.0.0.1:9464", Endpoint("127.0.0.1", 9464)),
        ("[::1]:0", Endpoint("::1", 0)),
        ("localhost:65535", Endpoint("localhost", 65535)),
        ("unix:///run/faucetd/metrics.sock", Endpoint(path="/run/faucetd/metrics.sock")),
    ],
)
def test_an_address_is_read_and_written_as_it_was(text: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(text) == endpoint
    assert str(endpoint) == text
    assert endpoint.is_local


@pytest.mark.parametrize(
    "text",
    [
        *("", "9464", "127.0.0.1", "127.0.0.1:", ":9464", "::1:9464", "127.0.0.1:65536"),
        *("http://127.0.0.1:9464", "unix://relative", "unix:///folder/", "unix:///" + "x" * 200),
        "127.0.0.1:９４６４",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"unix:///folder/metrics\.sock|107 bytes"):
        parse_endpoint(text)


@pytest.mark.parametrize(
    "text", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "169.254.1.1:1", "localhost.example.com:1"]
)
def test_others_can_reach_what_is_no_loopback(text: str) -> None:
    assert not parse_endpoint(text).is_local
