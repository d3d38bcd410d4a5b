"""What a client says when it starts a reader, as the daemon's dataclasses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import cast

from faucet_protos.v1 import conduit_pb2, faucet_pb2

from faucet_client.bits import numbers_of
from faucet_client.spec import ORDERS, REMAINDERS, SHUFFLES, SPLITS, Split
from faucetd.errors import SpecError
from faucetd.schedule.earlier import Earlier
from faucetd.schedule.parts import Part, RowRange
from faucetd.schedule.shares import Ranges, Remainder, Shape
from faucetd.serve.backend import ReaderRequest, Told

MAX_NAME = 256
MAX_CREDITS = 64
MAX_EPOCHS = 1_000_000
MAX_PARTS = 4_096
MAX_RANKS = 65_536
MAX_STRIPE = 2**48

MAX_CHUNKS = 2**17
"""That a dataset may have, as far as what a reader has had is concerned."""

MAX_PIECES = 1_000_000
"""Chunks and rows of chunks that were had, over all readers that are told of: each is looked at, on
the event loop, and takes about a hundred bytes. Packed as bits they take next to nothing."""

_MOST_ROWS = 2**62


def reader_request_from(message: faucet_pb2.StartReader) -> ReaderRequest:
    """The described reader.

    Raises:
        SpecError: a number is out of its range, or a name is unknown.
    """
    _require(message.split in SPLITS, f"split must be one of {SPLITS}, not {message.split!r}")
    _require(
        0 < len(message.job) <= MAX_NAME and message.job.isprintable(),
        f"job must have 1 to {MAX_NAME} printable characters",
    )
    _require(message.shuffle in SHUFFLES, f"shuffle must be one of {SHUFFLES}")
    _require(message.order in ORDERS, f"order must be one of {ORDERS}")
    _require(1 <= message.epochs <= MAX_EPOCHS, f"epochs must be 1 to {MAX_EPOCHS}")
    _require(message.first_epoch + message.epochs < 2**32, "there are too many epochs")
    _require(message.credits <= MAX_CREDITS, f"credits must be at most {MAX_CREDITS}")
    _require(len(message.earlier) <= MAX_RANKS, f"earlier has more than {MAX_RANKS} readers")
    _check_sizes(message)
    return ReaderRequest(
        dataset_key=message.dataset_key,
        split=cast("Split", message.split),
        job=message.job,
        worker=message.worker,
        first_epoch=message.first_epoch,
        epochs=message.epochs,
        shape=_shape_from(message),
        shuffled=message.shuffle != "none",
        deterministic=message.order == "deterministic",
        seed=message.seed,
        credits=message.credits,
        had=numbers_of(message.had),
        before=_ranges_from(message.before),
        earlier=tuple(
            Earlier(_shape_from(each), each.had, _ranges_from(each.partly))
            for each in message.earlier
        ),
    )


def _check_sizes(message: faucet_pb2.StartReader) -> None:
    """Refuses what would take memory or time out of proportion, before anything is unpacked."""
    pieces = len(message.before) + sum(len(each.partly) for each in message.earlier)
    for had in (message.had, *(each.had for each in message.earlier)):
        _require(len(had) <= MAX_CHUNKS // 8, f"it had chunks beyond number {MAX_CHUNKS:,}")
        pieces += int.from_bytes(had, "little").bit_count()
    _require(
        pieces <= MAX_PIECES,
        f"its state tells of {pieces:,} chunks and rows of chunks, and at most {MAX_PIECES:,} are "
        "possible: load states that were saved between epochs, or keep the number of ranks",
    )


def told_from(message: conduit_pb2.Credit) -> Told:
    """How far the reader is; what is no number counts as none."""
    times = (message.seconds_waited, message.position_epochs)
    waited, position = (each if math.isfinite(each) else 0.0 for each in times)
    return Told(message.rows_consumed, waited, position)


def _require(truth: bool, what: str) -> None:
    if not truth:
        raise SpecError(f"a reader cannot start: {what}")


def _shape_from(message: faucet_pb2.StartReader | faucet_pb2.EarlierReader) -> Shape:
    _require(1 <= message.parts <= MAX_PARTS, f"parts must be 1 to {MAX_PARTS}")
    _require(message.part < message.parts, "part must be below parts")
    _require(1 <= message.stripe_rows <= MAX_STRIPE, f"stripe_rows must be 1 to {MAX_STRIPE}")
    _require(1 <= message.world_size <= MAX_RANKS, f"world_size must be 1 to {MAX_RANKS}")
    _require(message.rank < message.world_size, "rank must be below world_size")
    _require(message.remainder in REMAINDERS, f"remainder must be one of {REMAINDERS}")
    return Shape(
        message.rank,
        message.world_size,
        cast("Remainder", message.remainder),
        Part(message.part, message.parts, message.stripe_rows),
    )


def _ranges_from(messages: Iterable[faucet_pb2.ChunkRows]) -> Mapping[int, Ranges]:
    found: dict[int, list[RowRange]] = {}
    for message in messages:
        fits = message.first_row <= _MOST_ROWS and message.rows <= _MOST_ROWS
        _require(fits, "there is no chunk with so many rows")
        found.setdefault(message.chunk, []).append(RowRange(message.first_row, message.rows))
    return {chunk: tuple(ranges) for chunk, ranges in found.items()}
