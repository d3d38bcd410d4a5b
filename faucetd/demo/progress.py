"""What a trainer of the demo tells the demo, as lines of JSON."""

from __future__ import annotations

import sys

import msgspec


class Batches(msgspec.Struct, tag="batches", frozen=True):
    """A trainer is in the middle of an epoch.

    Attributes:
        epoch: From 0.
        done: Batches of this epoch that it has trained on.
        total: Batches of this epoch in all.
        loss: Of the last batch.
    """

    epoch: int
    done: int
    total: int
    loss: float


class EpochEnd(msgspec.Struct, tag="epoch", frozen=True):
    """A trainer has trained and evaluated one epoch.

    Attributes:
        epoch: From 0.
        rows: Rows that it trained on in this epoch.
        train_s: Seconds that training took, without the evaluation.
        seconds_waited: Seconds that it waited for training data, over all epochs so far.
        auc: Of the eval split.
    """

    epoch: int
    rows: int
    train_s: float
    seconds_waited: float
    auc: float


class Failure(msgspec.Struct, tag="failure", frozen=True):
    """A trainer gives up."""

    message: str


Event = Batches | EpochEnd | Failure

_decoder = msgspec.json.Decoder(Event)


def write_event(event: Event) -> None:
    """Writes `event` to standard output, at once."""
    sys.stdout.buffer.write(msgspec.json.encode(event) + b"\n")
    sys.stdout.buffer.flush()


def read_event(line: bytes) -> Event:
    """The event that a line holds.

    Raises:
        ValueError: it holds none.
    """
    event: Event = _decoder.decode(line)
    return event
