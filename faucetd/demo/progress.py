"""What a trainer of the demo tells the demo, as lines of JSON."""

from __future__ import annotations

import sys

import msgspec


class Resumed(msgspec.Struct, tag="resumed", frozen=True):
    """A trainer goes on from its checkpoint, and has not had a batch yet.

    Attributes:
        epoch: From 0.
        done: Batches of this epoch that the model in the checkpoint was trained on.
        rows: Rows that it was trained on, over all epochs.
    """

    epoch: int
    done: int
    rows: int


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


class Saved(msgspec.Struct, tag="saved", frozen=True):
    """A trainer has written a checkpoint.

    Attributes:
        epoch: From 0.
        done: Batches of this epoch that the model in it was trained on.
    """

    epoch: int
    done: int


class EpochEnd(msgspec.Struct, tag="epoch", frozen=True):
    """A trainer has trained and evaluated one epoch.

    Attributes:
        epoch: From 0.
        rows: Rows of this epoch that this process trained on: fewer than the epoch has, if it went
            on from a checkpoint.
        train_s: Seconds that this took, without the evaluation.
        seconds_waited: Seconds of these in which it waited for data.
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


Event = Resumed | Batches | Saved | EpochEnd | Failure

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
