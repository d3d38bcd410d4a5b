"""What the scheduler knows. Data with bookkeeping; it decides nothing (see policy.py)."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from faucet_client.spec import SPLITS, Split
from faucetd.schedule.earlier import Earlier, chunks_told_of, had_before
from faucetd.schedule.events import ChunkInfo, ReaderJoined, Totals
from faucetd.schedule.instructions import SegmentId
from faucetd.schedule.orders import ChunkSet, EvictionOrder, HadOrder, first_from
from faucetd.schedule.shares import Ranges, Share, rows_in, union

FLOOR_SEGMENTS = 3
"""Segments that each reader may always lease: the one that its last batch still pins, the one that
it slices, and the next. With fewer it would wait for itself, or copy for no reason."""

SOON_CHUNKS = 64
"""How far ahead in its order chunks are loaded for a reader that takes no others."""

UNLIMITED_BYTES = 2**62
"""What a reader is promised whose whole split has its place in the budget."""


@dataclass
class Segment:
    """A resident segment; `spilling` while its file is written, `spilled` once disk has it too."""

    id: SegmentId
    nbytes: int
    leases: int = 0
    last_used: int = 0
    spilling: bool = False
    spilled: bool = False


@dataclass
class LoadState:
    """A chunk that a worker is making."""

    dataset: str
    chunk: int
    splits: tuple[Split, ...]
    reserved_bytes: int


@dataclass
class Restore:
    """A segment that is read back from disk."""

    segment: SegmentId
    nbytes: int


@dataclass
class Lease:
    """A reader's hold on a segment."""

    reader: int
    segment: SegmentId
    nbytes: int


class Reader:
    """One reader: what it has not had of its epoch yet, what it holds, what it may hold."""

    def __init__(self, wish: ReaderJoined, dataset: Dataset) -> None:
        self.id = wish.reader
        self.dataset = wish.dataset
        self.split: Split = wish.split
        self.share = Share(wish.shape, {}, ())
        before = dataset.had_before(wish.split, wish.before, wish.earlier)
        starts = dataset.starts[wish.split]
        self.first_share = Share(wish.shape, before, starts) if before else self.share
        self.had = wish.had
        total = dataset.total_rows(wish.split)
        self.rows_per_epoch = self.share.rows(total)
        self.first_epoch_rows = self.first_share.rows(total)
        self.ranges: list[Ranges | None] = []  # by chunk; None as long as the chunk is open
        self.chunks: list[int] = []
        self._deal(self.first_share, dataset)
        self.first_epoch = wish.first_epoch
        self.epoch = wish.first_epoch - 1
        self.last_epoch = wish.first_epoch + wish.epochs - 1
        self.shuffled = wish.shuffled
        self.in_order = wish.in_order
        self.seed = wish.seed
        self.credits = wish.credits
        self.limit_bytes = 0
        self.held_bytes = 0
        self.held_leases = 0
        self.rows_granted = 0
        self.epoch_rows_granted = 0
        self.left = False
        self.waiting_since: int | None = None
        self.pending = ChunkSet()
        self.absent = 0  # pending chunks that are neither resident nor being made
        self._order: list[int] = []
        self._next_in_order = 0

    def _deal(self, share: Share, dataset: Dataset) -> None:
        """Decides which rows of each chunk are the reader's from now on."""
        self._dealt = share
        self._has_rows = share.rows(dataset.total_rows(self.split)) > 0
        self.ranges = dataset.ranges_of(self.split, share)
        # Where nothing is the reader's in all, no open chunk has anything for it either.
        self.chunks = [
            chunk for chunk, rows in enumerate(self.ranges) if self._has_rows and rows != ()
        ]

    @property
    def epochs_left(self) -> int:
        """Epochs after the current one."""
        return self.last_epoch - self.epoch

    def segment(self, chunk: int) -> SegmentId:
        return SegmentId(self.dataset, chunk, self.split)

    @property
    def epoch_rows(self) -> int:
        """The reader's rows of the current epoch, those included that it had at first."""
        first = self.epoch == self.first_epoch
        return self.first_epoch_rows if first else self.rows_per_epoch

    def start_epoch(self, epoch: int, dataset: Dataset) -> None:
        """Makes all chunks pending again, in this epoch's order."""
        self.epoch = epoch
        first = epoch == self.first_epoch
        if not first and self._dealt is not self.share:
            self._deal(self.share, dataset)
        order = list(range(len(self.ranges)))
        if self.shuffled:
            # All parts and ranks of a job have the same order, so that they want the same chunks.
            seed = f"{self.dataset}/{self.split}/{self.seed}/{epoch}"
            random.Random(seed).shuffle(order)  # noqa: S311  # a shuffle, no secret
        mine = set(self.chunks)
        self._order = [chunk for chunk in order if chunk in mine]
        self.pending = ChunkSet(mine - self.had if first else mine)
        had = (self.rows_of(chunk) for chunk in mine - self.pending)
        self.epoch_rows_granted = sum(map(rows_in, had))
        self._next_in_order = 0

    def near_order(self, bits: int, turn: int) -> int:
        """One of these chunks, of which there are some, nearly as the reader's order has them.

        It is the one that the order has at `turn`, counted from its end, or the next of the plan.
        So turns that count down give the order itself, as long as all its chunks are there.
        """
        return first_from(bits, self._order[turn - 1])

    def first_in_order(self, bits: int) -> int | None:
        """Of these chunks the one that is next in the order, if it is soon."""
        self.next_in_order()
        soon = 0
        for place in range(self._next_in_order, len(self._order)):
            chunk = self._order[place]
            if bits >> chunk & 1:
                return chunk
            soon += chunk in self.pending
            if soon == SOON_CHUNKS:
                break
        return None

    def follow(self, chunk: int) -> None:
        """The dataset has one more chunk, an open one."""
        self.ranges.append(None)
        if self._has_rows:
            self.chunks.append(chunk)
            self._order.append(chunk)

    def find(self, chunk: int, rows: Ranges) -> None:
        """An open chunk has turned out to have these rows for the reader."""
        self.ranges[chunk] = rows
        if not rows and self._has_rows:
            self.chunks.remove(chunk)

    def range_in(self, chunk: int, dataset: Dataset) -> Ranges | None:
        """The reader's rows of a chunk in this epoch; None as long as it is open."""
        return dataset.range_of(chunk, self.split, self._dealt)

    def rows_of(self, chunk: int) -> Ranges:
        """The reader's rows of a chunk that is not open."""
        rows = self.ranges[chunk]
        assert rows is not None, "only what was loaded is granted, and so it is known"
        return rows

    def completes_epoch(self, chunk: int) -> bool:
        """Whether the chunk's rows are the last that the epoch still lacks."""
        return self.epoch_rows_granted + rows_in(self.rows_of(chunk)) >= self.epoch_rows

    def takes_bits(self) -> int:
        """The chunks that the reader could take next, as bits: of its order the next one alone."""
        if not self.in_order:
            return self.pending.bits
        chunk = self.next_in_order()
        return 0 if chunk is None else 1 << chunk

    def next_in_order(self) -> int | None:
        """The only chunk that an in-order reader can take next."""
        while self._next_in_order < len(self._order):
            chunk = self._order[self._next_in_order]
            if chunk in self.pending:
                return chunk
            self._next_in_order += 1
        return None


class Dataset:
    """One dataset's plan, and what each chunk is wanted for."""

    def __init__(
        self, key: str, chunks: Sequence[ChunkInfo], totals: Mapping[Split, Totals]
    ) -> None:
        self.key = key
        self.chunks: list[ChunkInfo] = []
        self.open = ChunkSet()
        self.successor: dict[int, int] = {}  # the chunk after a chunk in its lane
        self.owners: dict[int, int] = {}  # by open chunk: the worker that read up to it
        self.attempts: dict[int, int] = {}
        self.bytes_a_row: dict[Split, float] = {}
        self.readers: dict[int, Reader] = {}
        self._of_split: dict[Split, dict[int, Reader]] = {split: {} for split in SPLITS}
        # Of each split and chunk: the position of its first row (see parts.py).
        self.starts: dict[Split, list[int]] = {split: [] for split in SPLITS}
        self._found_rows: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        # By split and chunk: how many readers have it pending; and the wanted that are absent.
        self.wanted: dict[Split, list[int]] = {split: [] for split in SPLITS}
        self.missing = {split: ChunkSet() for split in SPLITS}
        # By split: epochs begun by readers; chunks by how many have had them; resident chunks; and
        # those of them that may be evicted: those that disk has too, and the others.
        self.begun: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        self.by_had = {split: HadOrder() for split in SPLITS}
        self.resident = {split: ChunkSet() for split in SPLITS}
        self.evictable = {split: (EvictionOrder(), EvictionOrder()) for split in SPLITS}
        self.largest_segment_bytes: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        self.split_bytes: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        self._known_bytes: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        self._totals = dict(totals)
        self._last_in_lane: dict[int, int] = {}
        for info in chunks:
            self.append(info)

    @property
    def found_by_reading(self) -> bool:
        """Whether only reading tells which chunks there are, and what they have."""
        return bool(self._totals)

    def total_rows(self, split: Split) -> int:
        """Rows of the split, exact from the start."""
        if split in self._totals:
            return self._totals[split].rows
        return self._found_rows[split]

    def append(self, info: ChunkInfo) -> int:
        """One more chunk; its number."""
        number = len(self.chunks)
        self.chunks.append(info)
        if info.lane in self._last_in_lane:
            self.successor[self._last_in_lane[info.lane]] = number
        self._last_in_lane[info.lane] = number
        for split in SPLITS:
            self.wanted[split].append(0)
            self.by_had[split].add(number, self.begun[split])
            self.starts[split].append(self._found_rows[split])
        if info.open:
            self.open.add(number)
        else:
            self._count(number)
        for split in SPLITS:
            self._grow(number, split, 0)
        return number

    def find(self, chunk: int, info: ChunkInfo) -> None:
        """An open chunk has turned out to be `info`."""
        before = {split: self.segment_bytes(chunk, split) for split in SPLITS}
        self.open.discard(chunk)
        self.owners.pop(chunk, None)
        self.chunks[chunk] = info
        for split in SPLITS:
            self.starts[split][chunk] = self._found_rows[split]
        self._count(chunk)
        for split in SPLITS:
            self._grow(chunk, split, before[split])

    def range_of(self, chunk: int, split: Split, share: Share) -> Ranges | None:
        """A reader's rows of a chunk; None as long as it is open."""
        if chunk in self.open:
            return None
        rows = self.chunks[chunk].rows.get(split, 0)
        return share.of_chunk(chunk, self.starts[split][chunk], rows, self.total_rows(split))

    def ranges_of(self, split: Split, share: Share) -> list[Ranges | None]:
        """A reader's rows of all chunks; None of those that are open."""
        rows = np.array(self._rows_of(split), np.int64)
        starts = np.array(self.starts[split], np.int64)
        found: list[Ranges | None] = []
        found += share.of_chunks(np.arange(len(rows)), starts, rows, self.total_rows(split))
        for chunk in self.open:
            found[chunk] = None
        return found

    def why_not(self, wish: ReaderJoined) -> str:
        """Why what a reader says it had cannot be true; empty if it can."""
        told_of = [np.array([*wish.had, *wish.before], np.int64), *chunks_told_of(wish.earlier)]
        there = np.ones(len(self.chunks), np.bool_)
        there[list(self.open)] = False
        for chunks in told_of:
            unknown = chunks[~there[np.minimum(chunks, len(there) - 1)] | (chunks >= len(there))]
            if len(unknown):
                return f"it had chunk {unknown[0]}, which nobody has found yet"
        for partly in (wish.before, *(reader.partly for reader in wish.earlier)):
            for chunk, ranges in partly.items():
                rows = self.chunks[chunk].rows.get(wish.split, 0)
                if ranges != union(ranges) or any(first + count > rows for first, count in ranges):
                    return f"it had rows of chunk {chunk} that are not there"
        return ""

    def had_before(
        self, split: Split, before: Mapping[int, Ranges], earlier: Sequence[Earlier]
    ) -> dict[int, Ranges]:
        """By chunk, the rows in `before`, and those that earlier readers had."""
        rows = self._rows_of(split)
        return had_before(before, earlier, self.starts[split], rows, self.total_rows(split))

    def _rows_of(self, split: Split) -> list[int]:
        return [info.rows.get(split, 0) for info in self.chunks]

    def segment_bytes(self, chunk: int, split: Split) -> int:
        """What the segment will need: the plan's word, or more where text has proved longer.

        Of an open chunk the plan's word alone: its rows are a guess, which is corrected by asking
        for more while it is made.
        """
        info = self.chunks[chunk]
        planned = info.nbytes.get(split, 0)
        if info.open:
            return planned
        return max(planned, int(self.bytes_a_row.get(split, 0.0) * info.rows.get(split, 0)))

    def learn_bytes(self, chunk: int, split: Split, nbytes: int) -> None:
        """A segment turned out larger than the plan said; expect it of the others as well."""
        rows = self.chunks[chunk].rows.get(split, 0)
        if not rows or nbytes <= self.segment_bytes(chunk, split):
            return
        self.bytes_a_row[split] = max(self.bytes_a_row.get(split, 0.0), nbytes / rows)
        sizes = [self.segment_bytes(number, split) for number in range(len(self.chunks))]
        self.largest_segment_bytes[split] = max(sizes)
        self._known_bytes[split] = sum(sizes)
        self._sum_up(split)

    def record_bytes(self, chunk: int, split: Split, nbytes: int) -> None:
        """A chunk that was open has this segment, which says little about others' rows."""
        before = self.segment_bytes(chunk, split)
        if nbytes > before:
            info = self.chunks[chunk]
            self.chunks[chunk] = replace(info, nbytes={**info.nbytes, split: nbytes})
            self._grow(chunk, split, before)

    def _count(self, chunk: int) -> None:
        for split in SPLITS:
            self._found_rows[split] += self.chunks[chunk].rows.get(split, 0)

    def _grow(self, chunk: int, split: Split, before: int) -> None:
        nbytes = self.segment_bytes(chunk, split)
        self._known_bytes[split] += nbytes - before
        self.largest_segment_bytes[split] = max(self.largest_segment_bytes[split], nbytes)
        self._sum_up(split)

    def _sum_up(self, split: Split) -> None:
        planned = 0
        if split in self._totals:
            totals = self._totals[split]
            planned = max(totals.nbytes, int(self.bytes_a_row.get(split, 0.0) * totals.rows))
        self.split_bytes[split] = max(self._known_bytes[split], planned)

    def wanted_later(self, split: Split) -> bool:
        """Whether a reader of the split has epochs to come after the one that it is in."""
        return any(reader.epochs_left > 0 for reader in self.active(split))

    def add_missing(self, chunk: int, split: Split) -> None:
        """A wanted chunk is not (or no longer) resident or being made."""
        if chunk in self.missing[split]:
            return
        self.missing[split].add(chunk)
        for reader in self.active(split):
            if chunk in reader.pending:
                reader.absent += 1

    def end_missing(self, chunk: int, split: Split) -> None:
        """The chunk is resident or being made."""
        if chunk in self.missing[split]:
            self.missing[split].discard(chunk)
            for reader in self.active(split):
                if chunk in reader.pending:
                    reader.absent -= 1

    def may_evict(self, chunk: int, split: Split, *, spilled: bool) -> None:
        """Nobody holds the chunk's segment, nor is it being written; disk may have it too."""
        self.may_not_evict(chunk, split)
        self.evictable[split][not spilled].add(chunk, self.had(split, chunk))

    def may_not_evict(self, chunk: int, split: Split) -> None:
        """The chunk's segment is held, being written, or gone."""
        for order in self.evictable[split]:
            order.discard(chunk)

    def want(self, pending: ChunkSet, split: Split) -> None:
        """A reader has begun an epoch, of which it wants these."""
        wanted = self.wanted[split]
        for chunk in pending:
            wanted[chunk] += 1
        self.begun[split] += 1
        if len(pending) < len(self.chunks):
            self.by_had[split].raise_all(~pending.bits)
            for order in self.evictable[split]:
                order.refresh(partial(self.had, split))

    def want_too(self, chunk: int, split: Split) -> None:
        """A reader is in the midst of an epoch of which the chunk has just been found."""
        had = self.had(split, chunk)
        self.wanted[split][chunk] += 1
        self.by_had[split].move(chunk, had, had - 1)

    def want_no_more(self, chunk: int, split: Split) -> None:
        """A reader does not want the chunk any more in this epoch."""
        had = self.had(split, chunk)
        self.wanted[split][chunk] -= 1
        self.by_had[split].move(chunk, had, had + 1)
        if not self.wanted[split][chunk]:
            self.missing[split].discard(chunk)
        for order in self.evictable[split]:
            if chunk in order:
                order.add(chunk, self.had(split, chunk))

    def had(self, split: Split, chunk: int) -> int:
        """Epochs, of all that were begun, that do not want the chunk any more. It never falls."""
        return self.begun[split] - self.wanted[split][chunk]

    def enter(self, reader: Reader) -> None:
        """A reader of the dataset."""
        self.readers[reader.id] = reader
        self._of_split[reader.split][reader.id] = reader

    def leave(self, reader: Reader) -> None:
        """It wants no more."""
        del self.readers[reader.id]
        del self._of_split[reader.split][reader.id]

    def active(self, split: Split) -> Collection[Reader]:
        """The readers of a split."""
        return self._of_split[split].values()
