"""What a job had in an epoch when it had another number of ranks. Pure.

A job of 64 ranks that has had 10,000 chunks tells of 640,000 pieces, and does so for each of its
new ranks, while everybody waits for the event loop: so it is all done in arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from faucet_client.bits import array_of
from faucetd.schedule.parts import Numbers, RowRange
from faucetd.schedule.shares import Ranges, Shape, Share


@dataclass(frozen=True)
class Earlier:
    """What one reader of a job had in an epoch, when the job had another number of ranks.

    Attributes:
        shape: Who it was.
        had: Chunks whose rows it had, all that were its own; as `faucet_client.bits` has them.
        partly: Rows that it had of other chunks.
    """

    shape: Shape
    had: bytes
    partly: Mapping[int, Ranges]

    def chunks(self) -> Numbers:
        """The chunks whose rows it had: int64 [chunks], ascending."""
        return array_of(self.had)


def had_before(
    before: Mapping[int, Ranges],
    earlier: Sequence[Earlier],
    starts: Sequence[int],
    rows: Sequence[int],
    total: int,
) -> dict[int, Ranges]:
    """By chunk, the rows in `before`, and those that earlier readers had.

    Args:
        before: What was had before these.
        earlier: Who has had some of the others.
        starts: The position of each chunk's first row (parts.py).
        rows: How many rows each chunk has.
        total: How many there are in all.
    """
    if not earlier:
        return dict(before)
    starts_of, rows_of = np.array(starts, np.int64), np.array(rows, np.int64)
    then = Share(Shape(), before, starts)
    pieces = _Pieces()
    pieces.add(before)
    for reader in earlier:
        share = then.of_another(reader.shape)
        chunks = reader.chunks()
        firsts, counts = share.places(chunks, starts_of[chunks], rows_of[chunks], total)
        if before:
            scattered = np.isin(chunks, list(before))
            places = (chunks[scattered], firsts[scattered], counts[scattered])
            for chunk, first, count in zip(*(each.tolist() for each in places), strict=True):
                if count:
                    of_chunk = share.at(chunk, rows[chunk], RowRange(first, count))
                    pieces.add({chunk: of_chunk})
            chunks, firsts, counts = (each[~scattered] for each in (chunks, firsts, counts))
        pieces.arrays.append(np.stack([chunks, firsts, counts]))
        pieces.add(reader.partly)
    return pieces.together(starts_of)


class _Pieces:
    """Rows of chunks, as arrays: int64 [3, pieces] each, of chunk, first row and rows."""

    def __init__(self) -> None:
        self.arrays: list[Numbers] = []

    def add(self, ranges: Mapping[int, Ranges]) -> None:
        flat = [(chunk, *each) for chunk, several in ranges.items() for each in several]
        self.arrays.append(np.array(flat, np.int64).reshape(-1, 3).T)

    def together(self, starts: Numbers) -> dict[int, Ranges]:
        """Each row once: by chunk, ascending, with no gapless neighbours.

        Args:
            starts: The position of each chunk's first row: chunks have positions of their own, so
                that all can be gone through at once.
        """
        chunks, firsts, counts = np.concatenate(self.arrays, axis=1)
        if not counts.all():
            some = counts > 0
            chunks, firsts, counts = chunks[some], firsts[some], counts[some]
        positions = starts[chunks] + firsts
        order = np.argsort(positions, kind="stable")  # of arrays that are sorted, one after another
        chunks, positions, counts = chunks[order], positions[order], counts[order]
        reached = np.maximum.accumulate(positions + counts)
        # A piece begins another range where it is beyond all before it, or the first of its chunk.
        begins = np.ones(len(chunks), np.bool_)
        begins[1:] = (positions[1:] > reached[:-1]) | (chunks[1:] != chunks[:-1])
        ends = np.ones(len(chunks), np.bool_)
        ends[:-1] = begins[1:]
        chunks, positions, reached = chunks[begins], positions[begins], reached[ends]
        return _by_chunk(chunks, positions - starts[chunks], reached - positions)


def _by_chunk(chunks: Numbers, firsts: Numbers, counts: Numbers) -> dict[int, Ranges]:
    ranges = list(map(RowRange._make, zip(firsts.tolist(), counts.tolist(), strict=True)))
    begins = np.flatnonzero(np.diff(chunks, prepend=-1))
    bounds = [*begins.tolist(), len(ranges)]
    return {
        chunk: tuple(ranges[start:stop])
        for chunk, start, stop in zip(chunks[begins].tolist(), bounds, bounds[1:], strict=False)
    }


def chunks_told_of(readers: Iterable[Earlier]) -> Iterable[Numbers]:
    """The chunks of which each of these has had something: int64 [chunks]."""
    for reader in readers:
        yield reader.chunks()
        yield np.array(list(reader.partly), np.int64)
