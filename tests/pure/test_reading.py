"""What a client says when it starts a reader: what is out of proportion is refused by name."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from faucet_protos.v1 import faucet_pb2

from faucetd.errors import SpecError
from faucetd.serve.reading import MAX_CHUNKS, MAX_PIECES, reader_request_from


def start(**fields: Any) -> faucet_pb2.StartReader:
    shape: dict[str, Any] = {"parts": 1, "stripe_rows": 1, "world_size": 1, "remainder": "drop"}
    wish: dict[str, Any] = {
        "split": "train",
        "job": "j",
        "epochs": 1,
        "shuffle": "batches",
        "order": "shared",
    }
    return faucet_pb2.StartReader(**(shape | wish | fields))


def test_what_was_had_comes_as_it_was_sent() -> None:
    earlier = faucet_pb2.EarlierReader(
        world_size=2, parts=1, stripe_rows=1, remainder="drop", had=b"\x03"
    )
    request = reader_request_from(start(had=b"\x05", earlier=[earlier]))
    assert request.had == {0, 2}
    assert request.earlier[0].chunks().tolist() == [0, 1]


def test_bits_that_would_unpack_to_gigabytes_are_refused_before_they_are() -> None:
    messages = [
        (start(had=b"\xff" * (7 << 20)), f"beyond number {MAX_CHUNKS:,}"),
        (
            start(
                earlier=[
                    faucet_pb2.EarlierReader(
                        world_size=1, parts=1, stripe_rows=1, remainder="drop", had=b"\xff" * 16_000
                    )
                ]
                * 400
            ),
            f"at most {MAX_PIECES:,}",
        ),
    ]
    tracemalloc.start()
    try:
        for message, match in messages:
            with pytest.raises(SpecError, match=match):
                reader_request_from(message)
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()
