"""How far a reader is in its epoch: what makes its state, and what it goes on from.

Invariants:

- A reader hands out the rows of the grants in the order in which they came, so how many rows it has
  handed out tells which: `state` costs nothing while batches are handed out.
- A chunk's rows are a circle, handed out from one of them on (`first_of`). So those of a chunk that
  were had are an arc, which tells where to go on: the chunk is granted again as a whole, and they
  are left out. Only where rows are mixed is it but their number that tells (shuffling.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b
from typing import NamedTuple

from faucet_client.errors import StateError
from faucet_client.shuffling import Move
from faucet_client.state import Partly, Ranges, ReaderState


class _Taken(NamedTuple):
    """A grant of this epoch: its rows in the order in which they are handed out."""

    chunk: int
    ranges: Ranges
    left_out: int


class Progress:
    """One reader's.

    Args:
        state: What it goes on from.
        first_epoch_rows: Its rows of that epoch, those included that it had.
        rows_per_epoch: Its rows of each other epoch.
    """

    def __init__(self, state: ReaderState, first_epoch_rows: int, rows_per_epoch: int) -> None:
        self._first = state
        self._first_epoch_rows = first_epoch_rows
        self._rows_per_epoch = rows_per_epoch
        self._begun = state
        self._taken: list[_Taken] = []
        self._mixed: list[tuple[Move, ...]] = []

    def begin(self, epoch: int) -> None:
        """The reader begins an epoch, or goes on with its first one."""
        self._begun = self.beginning_of(epoch)
        self._taken = []
        self._mixed = []

    def first_batch(self, epoch: int) -> int:
        """The number of the first batch to come of an epoch that is to begin."""
        return self.beginning_of(epoch).batch

    def rows_to_come(self, epoch: int) -> int:
        """Rows to come of an epoch that is to begin."""
        if epoch == self._first.epoch:
            return self._first_epoch_rows - self._first.rows
        return self._rows_per_epoch

    def part_of_epoch(self, rows: int) -> float:
        """How much of the epoch so many rows are, with those before it was begun here."""
        begun = self._begun
        first = begun.epoch == self._first.epoch
        total = self._first_epoch_rows if first else self._rows_per_epoch
        return (begun.rows + rows) / total if total else 0.0

    def left_out(self, chunk: int) -> int:
        """Rows of the chunk that were had, and are left out when it is granted again."""
        partly = self._begun.partly.get(chunk)
        return 0 if partly is None else partly.rows

    def take(self, chunk: int, ranges: Ranges, first: int = 0) -> Ranges:
        """Notes a grant, and says in which order its rows are handed out.

        May be called before the rows of grants before it were handed out.

        Args:
            chunk: The chunk's number.
            ranges: Its rows, as they were granted.
            first: Which of them comes first; they are a circle. Without effect where some of them
                were had: it goes on after those.

        Raises:
            StateError: those that were had are not of this grant.
        """
        partly = self._begun.partly.get(chunk)
        if partly is not None and partly.ranges is not None:
            first = _begin_of(ranges, chunk, partly)
        before, after = _split(ranges, first)
        ranges, left_out = after + before, self.left_out(chunk)
        self._taken.append(_Taken(chunk, ranges, left_out))
        return _split(ranges, left_out)[1]

    def partly_had(self, epoch: int) -> Mapping[int, Partly]:
        """Chunks of which some rows were had before the epoch begins, here."""
        return self.beginning_of(epoch).partly

    def take_mixed(self, moves: tuple[Move, ...]) -> None:
        """Notes batches whose rows come from several chunks, before they are handed out."""
        self._mixed.append(moves)

    def state(self, batches: int, rows: int) -> ReaderState:
        """The state after so many batches and rows of this epoch, counted since it was begun."""
        begun = self._begun
        if rows == 0:
            return begun
        had, partly = self._had_mixed(batches) if self._mixed else self._had_in_turn(rows)
        return replace(
            begun,
            batch=begun.batch + batches,
            rows=begun.rows + rows,
            had=frozenset(had),
            partly=partly,
        )

    def _had_mixed(self, batches: int) -> tuple[set[int], dict[int, Partly]]:
        counts: Counter[int] = Counter()
        sizes: dict[int, int] = {}
        for moves in self._mixed:
            for chunk, rows, of_batches in moves:
                counts[chunk] += int(of_batches[:batches].sum())
                sizes[chunk] = rows
            batches -= len(moves[0].counts)
            if batches <= 0:
                break
        had, partly = set(self._begun.had), dict(self._begun.partly)
        for chunk, count in counts.items():
            taken = count + self.left_out(chunk)
            if taken == sizes[chunk]:
                had.add(chunk)
                partly.pop(chunk, None)
            elif taken:
                partly[chunk] = Partly(taken, None)
        return had, partly

    def _had_in_turn(self, rows: int) -> tuple[set[int], dict[int, Partly]]:
        begun = self._begun
        had, partly = set(begun.had), dict(begun.partly)
        left = rows
        for chunk, ranges, left_out in self._taken:
            count = sum(size for _, size in ranges) - left_out
            if count <= left:
                had.add(chunk)
                partly.pop(chunk, None)
                left -= count
            else:
                if left:
                    handed = left_out + left
                    partly[chunk] = Partly(handed, _ascending(_split(ranges, handed)[0]))
                break
        return had, partly

    def beginning_of(self, epoch: int) -> ReaderState:
        """The state in which an epoch begins."""
        if epoch == self._first.epoch:
            return self._first
        return replace(
            self._first, epoch=epoch, batch=0, rows=0, had=frozenset(), partly={}, before={}
        )


def first_of(rows: int, place: tuple[int, int, int]) -> int:
    """Which of a chunk's rows comes first, where they are shuffled: another one each epoch.

    It is any row, not one where a batch begins: else a batch would have the same rows each epoch.

    Args:
        rows: How many there are; they are a circle.
        place: Seed, epoch and chunk, which it is drawn from.
    """
    # A digest is drawn from quicker than a generator is set up.
    digest = blake2b("/".join(map(str, place)).encode(), digest_size=16).digest()
    return int.from_bytes(digest) % rows


def _begin_of(ranges: Ranges, chunk: int, partly: Partly) -> int:
    """Which row of the circle is the first of those that were had, an arc of it."""
    had = partly.ranges or ()
    found: list[tuple[int, int]] = []
    before = 0
    for first, rows in ranges:
        for had_first, had_rows in had:
            begin, end = max(first, had_first), min(first + rows, had_first + had_rows)
            if begin < end:
                found.append((before + begin - first, end - begin))
        before += rows
    arcs = _ascending(tuple(found))
    if sum(rows for _, rows in found) == partly.rows:
        match arcs:
            case ((begin, _),):
                return begin
            case ((0, _), (begin, rows)) if begin + rows == before:
                return begin
    raise StateError(
        f"of chunk {chunk} the state has had {partly.rows:,} rows, {had}, which this reader would "
        f"not have got in a row (they are its rows {arcs} of {before:,}): it is damaged, or of "
        "another dataset"
    )


def _split(ranges: Ranges, rows: int) -> tuple[Ranges, Ranges]:
    """The first `rows` rows, and the others."""
    before, after = [], []
    for first, count in ranges:
        taken = min(rows, count)
        rows -= taken
        if taken:
            before.append((first, taken))
        if taken < count:
            after.append((first + taken, count - taken))
    return tuple(before), tuple(after)


def _ascending(ranges: Ranges) -> Ranges:
    """The same rows, ascending, with no gapless neighbours."""
    found: list[tuple[int, int]] = []
    for first, rows in sorted(ranges):
        if found and sum(found[-1]) == first:
            found[-1] = (found[-1][0], found[-1][1] + rows)
        else:
            found.append((first, rows))
    return tuple(found)
