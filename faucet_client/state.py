"""What a reader has had: small, plain data that goes into a trainer's checkpoint.

Invariants:

- A state is of one reader, at a batch: what it has handed out counts as had, whether or not the
  trainer has used it.
- What was had is told by chunk, and not by the order of the chunks, which is the daemon's choice:
  chunks of which nothing more is needed, and of the few others how many rows, in the order in which
  the reader hands a chunk's rows out. A chunk is a bit, so a state of 10,000 chunks has few KiB.
- As a dict it has numbers, texts, lists and None alone, so that torch's `weights_only` loading and
  JSON take it.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from faucet_client.bits import bits_of, numbers_of
from faucet_client.errors import StateError

VERSION = 1

Ranges = tuple[tuple[int, int], ...]
"""Rows of a chunk: the first, and how many, of each of several pieces; ascending, disjoint."""

_FORMAT = "faucet-reader-state"


@dataclass(frozen=True)
class Partly:
    """A chunk of which a reader has had some rows.

    Attributes:
        rows: How many of its own.
        ranges: Which; None where they lie scattered.
    """

    rows: int
    ranges: Ranges | None


@dataclass(frozen=True)
class ReaderState:
    """See the module's docstring.

    Attributes:
        dataset: The dataset's key.
        split: "train" or "eval".
        shuffle: As it was asked for.
        order: As it was asked for.
        seed: As it was asked for.
        rank: The reader's.
        world_size: How many ranks the job has.
        remainder: As it was asked for.
        part: The DataLoader worker.
        parts: How many there are.
        stripe_rows: The batch size, by which rows are dealt to the workers.
        epoch: The epoch that is under way, or comes next.
        batch: Batches of it that were handed out.
        rows: Rows of it that were handed out, since the job has this number of ranks.
        had: Chunks of which nothing more is needed.
        partly: Chunks of which some rows were had.
        before: Rows that were had when the job had another number of ranks, by chunk.
    """

    dataset: str
    split: str
    shuffle: str
    order: str
    seed: int
    rank: int
    world_size: int
    remainder: str
    part: int
    parts: int
    stripe_rows: int
    epoch: int = 0
    batch: int = 0
    rows: int = 0
    had: frozenset[int] = frozenset()
    partly: Mapping[int, Partly] = field(default_factory=dict)
    before: Mapping[int, Ranges] = field(default_factory=dict)

    @property
    def chunks(self) -> int:
        """The least number of chunks of a dataset of which this can be the state."""
        return max((*self.had, *self.partly, *self.before), default=-1) + 1

    def to_dict(self) -> dict[str, Any]:
        """The state as plain data."""
        known = {each.name: getattr(self, each.name) for each in fields(self)}
        return (
            {"format": _FORMAT, "version": VERSION}
            | known
            | {
                "had": _text_of(bits_of(self.had)),
                "partly": [
                    [
                        chunk,
                        each.rows,
                        None if each.ranges is None else list(map(list, each.ranges)),
                    ]
                    for chunk, each in sorted(self.partly.items())
                ],
                "before": _text_of(_packed(self.before)),
            }
        )

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> ReaderState:
        """The inverse of `to_dict`.

        Raises:
            StateError: it is no such dict, or one of a newer version.
        """
        marked: object = given
        if not isinstance(marked, Mapping) or marked.get("format") != _FORMAT:
            raise StateError(
                f"{given!r:.200} is no state of a reader: load what state_dict() has returned"
            )
        if given.get("version") != VERSION:
            raise StateError(
                f"the state has version {given.get('version')!r}, and this release knows "
                f"{VERSION}: load it with the release that has written it"
            )
        try:
            plain = {
                each.name: _checked(each.name, given[each.name], str(each.type))
                for each in fields(cls)
                if each.type in ("int", "str")
            }
            _check_below("rank", "world_size", plain)
            _check_below("part", "parts", plain)
            partly = {
                _checked("partly", chunk, "int"): Partly(
                    _checked("partly", rows, "int"),
                    None if ranges is None else tuple((int(a), int(b)) for a, b in ranges),
                )
                for chunk, rows, ranges in given["partly"]
            }
            had, before = numbers_of(_bytes_of(given["had"])), _unpacked(_bytes_of(given["before"]))
        except (KeyError, TypeError, ValueError, binascii.Error, zlib.error) as error:
            raise StateError(
                f"the state is damaged ({type(error).__name__}: {error}): load another checkpoint"
            ) from None
        return cls(**plain, had=had, partly=partly, before=before)

    def check(self, wanted: ReaderState) -> None:
        """Refuses a state that is not of a reader like `wanted`.

        Raises:
            StateError: naming what differs.
        """
        if self.dataset != wanted.dataset:
            raise StateError(
                f"the state is of dataset {self.dataset}, and this one is {wanted.dataset}: the "
                "table, its snapshot, the spec or its preprocessing are others than when it was "
                "saved. Open what was opened then, for which its plan or a fixed snapshot must "
                "still exist, or begin the epoch anew without the state"
            )
        for name in ("split", "shuffle", "order", "seed", "part", "parts"):
            then, now = getattr(self, name), getattr(wanted, name)
            if then != now:
                raise StateError(
                    f"the state was saved with {_SAID.get(name, name)}={then!r}, and this reader "
                    f"has {now!r}: give it the same"
                )
        if self.parts > 1 and self.stripe_rows != wanted.stripe_rows:
            raise StateError(
                f"the state was saved with batch_size={self.stripe_rows}, by which rows are dealt "
                f"to DataLoader workers, and this reader has {wanted.stripe_rows}: give it the same"
            )


_SAID = {"part": "worker", "parts": "num_workers"}


def resumed(given: Sequence[ReaderState], wanted: ReaderState) -> tuple[ReaderState, bool]:
    """What a reader goes on from, and whether the ranks are others than before.

    Args:
        given: One state, or those of all ranks.
        wanted: The reader that shall go on, with nothing had.

    Returns:
        The state that it begins with. Where the ranks are others, it has had nothing, and what all
        of `given` had is to be left out for everybody.

    Raises:
        StateError: they are not of such a reader, or do not belong together.
    """
    for state in given:
        state.check(wanted)
    first = given[0]
    same = [s for s in given if (s.rank, s.world_size) == (wanted.rank, wanted.world_size)]
    if len(given) == 1 and not same and first.world_size > 1:
        raise StateError(
            f"the state is of rank {first.rank} of {first.world_size}, and this reader is rank "
            f"{wanted.rank} of {wanted.world_size}: load the list of the states of all ranks, at "
            "the same batch"
        )
    if len(given) > 1:
        _check_together(given)
    if same and same[0].remainder == wanted.remainder:
        return replace(same[0], stripe_rows=wanted.stripe_rows), False
    if any(each.ranges is None for state in given for each in state.partly.values()):
        raise StateError(
            'with shuffle="rows", the rows that were had in mid-epoch cannot be dealt to another '
            "number of ranks: save states between epochs, or keep the ranks"
        )
    if any(state.parts > 1 for state in given):
        raise StateError(
            "states of DataLoader workers cannot be dealt to another number of ranks in "
            "mid-epoch: use num_workers=0, or save states between epochs"
        )
    return replace(wanted, epoch=first.epoch, batch=first.batch, before=first.before), True


def _check_together(given: Sequence[ReaderState]) -> None:
    first = given[0]
    ranks = sorted(state.rank for state in given)
    if ranks != list(range(first.world_size)):
        raise StateError(
            f"states of ranks {ranks} were given, of a job of {first.world_size}: all are needed, "
            "each once, or rows would be lost"
        )
    for name in ("world_size", "remainder", "epoch", "batch", "before"):
        if any(getattr(state, name) != getattr(first, name) for state in given):
            told = ", ".join(f"{state.epoch}/{state.batch}" for state in given)
            raise StateError(
                f"the states are not of the same moment: they differ in {name} (epoch/batch of "
                f"each: {told}). Load those of one checkpoint"
            )


def _checked(name: str, value: Any, kind: str) -> Any:
    fits = isinstance(value, str)
    if kind == "int":
        fits = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not fits:
        raise ValueError(f"{name}={value!r}")
    return value


def _check_below(name: str, number: str, plain: Mapping[str, Any]) -> None:
    if plain[name] >= plain[number]:
        raise ValueError(f"{name}={plain[name]} of {number}={plain[number]}")


def _packed(ranges: Mapping[int, Ranges]) -> bytes:
    rows = [(chunk, *piece) for chunk, pieces in sorted(ranges.items()) for piece in pieces]
    return zlib.compress(np.array(rows, "<i8").reshape(-1, 3).T.tobytes(), 9)


def _unpacked(packed: bytes) -> dict[int, Ranges]:
    columns = np.frombuffer(zlib.decompress(packed), "<i8").reshape(3, -1)
    found: dict[int, list[tuple[int, int]]] = {}
    for chunk, first, rows in columns.T.tolist():
        found.setdefault(chunk, []).append((first, rows))
    return {chunk: tuple(pieces) for chunk, pieces in found.items()}


def _text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes_of(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
