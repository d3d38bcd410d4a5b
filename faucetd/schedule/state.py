"""What the scheduler knows. Data with bookkeeping; it decides nothing (see policy.py)."""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from faucet_client.spec import SPLITS, Split
from faucetd.schedule.events import ChunkInfo, Totals
from faucetd.schedule.instructions import SegmentId
from faucetd.schedule.parts import Part, RowRange

FLOOR_SEGMENTS = 3
"""Segments that each reader may always lease: the one that its last batch still pins, the one that
it slices, and the next. With fewer it would wait for itself, or copy for no reason."""

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

    def __init__(
        self,
        reader: int,
        dataset: str,
        split: Split,
        ranges: list[RowRange | None],
        rows_per_epoch: int,
        part: Part,
        first_epoch: int,
        epochs: int,
        in_order: bool,
        seed: int,
    ) -> None:
        self.id = reader
        self.dataset = dataset
        self.split: Split = split
        self.ranges = ranges  # by chunk; None as long as the chunk is open
        self.rows_per_epoch = rows_per_epoch
        self.part = part
        self.chunks = [
            chunk
            for chunk, rows in enumerate(ranges)
            if rows_per_epoch and (rows is None or rows.rows)
        ]
        self.epoch = first_epoch - 1
        self.last_epoch = first_epoch + epochs - 1
        self.in_order = in_order
        self.seed = seed
        self.credits = 0
        self.limit_bytes = 0
        self.held_bytes = 0
        self.held_leases = 0
        self.rows_granted = 0
        self.epoch_rows_granted = 0
        self.left = False
        self.waiting_since: int | None = None
        self.rank: dict[int, int] = {}
        self.pending: set[int] = set()
        self.absent = 0  # pending chunks that are neither resident nor being made
        self.ready: list[tuple[int, int]] = []
        self._next_in_order = 0

    @property
    def epochs_left(self) -> int:
        """Epochs after the current one."""
        return self.last_epoch - self.epoch

    def segment(self, chunk: int) -> SegmentId:
        return SegmentId(self.dataset, chunk, self.split)

    def start_epoch(self, epoch: int) -> None:
        """Makes all chunks pending again, in this epoch's order."""
        self.epoch = epoch
        order = list(self.chunks)
        if not self.in_order:
            seed = f"{self.dataset}/{self.split}/{self.seed}/{epoch}"
            random.Random(seed).shuffle(order)  # noqa: S311  # a shuffle, no secret
        self.rank = {chunk: rank for rank, chunk in enumerate(order)}
        self.pending = set(order)
        self.absent = 0
        self.ready = []
        self.epoch_rows_granted = 0
        self._next_in_order = 0

    def follow(self, chunk: int) -> None:
        """The dataset has one more chunk, an open one."""
        self.ranges.append(None)
        if self.rows_per_epoch:
            self.chunks.append(chunk)
            self.rank[chunk] = len(self.rank)

    def find(self, chunk: int, rows: RowRange) -> None:
        """An open chunk has turned out to have these rows for the reader."""
        self.ranges[chunk] = rows
        if not rows.rows and self.rows_per_epoch:
            self.chunks.remove(chunk)

    def rows_of(self, chunk: int) -> RowRange:
        """The reader's rows of a chunk that is not open."""
        rows = self.ranges[chunk]
        assert rows is not None, "only what was loaded is granted, and so it is known"
        return rows

    def completes_epoch(self, chunk: int) -> bool:
        """Whether the chunk's rows are the last that the epoch still lacks."""
        return self.epoch_rows_granted + self.rows_of(chunk).rows >= self.rows_per_epoch

    def offer(self, chunk: int) -> None:
        """The chunk's segment has become resident."""
        if chunk in self.pending:
            heapq.heappush(self.ready, (self.rank[chunk], chunk))

    def next_in_order(self) -> int | None:
        """The only chunk that an in-order reader can take next."""
        while self._next_in_order < len(self.chunks):
            chunk = self.chunks[self._next_in_order]
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
        self.open: set[int] = set()
        self.successor: dict[int, int] = {}  # the chunk after a chunk in its lane
        self.owners: dict[int, int] = {}  # by open chunk: the worker that read up to it
        self.attempts: dict[int, int] = {}
        self.bytes_a_row: dict[Split, float] = {}
        self.readers: dict[int, Reader] = {}
        # Of each split and chunk: the position of its first row (see parts.py).
        self.starts: dict[Split, list[int]] = {split: [] for split in SPLITS}
        self._found_rows: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        # By split and chunk: how many readers have it pending; and the wanted that are absent.
        self.wanted: dict[Split, list[int]] = {split: [] for split in SPLITS}
        self.missing: dict[Split, set[int]] = {split: set() for split in SPLITS}
        self.largest_segment_bytes: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        self.split_bytes: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        self._known_bytes: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        self._totals = dict(totals)
        self._last_in_lane: dict[int, int] = {}
        for info in chunks:
            self.append(info)

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
        self.open.remove(chunk)
        self.owners.pop(chunk, None)
        self.chunks[chunk] = info
        for split in SPLITS:
            self.starts[split][chunk] = self._found_rows[split]
        self._count(chunk)
        for split in SPLITS:
            self._grow(chunk, split, before[split])

    def range_of(self, chunk: int, split: Split, part: Part) -> RowRange | None:
        """A part's rows of a chunk; None as long as it is open."""
        if chunk in self.open:
            return None
        return part.range_at(self.starts[split][chunk], self.chunks[chunk].rows.get(split, 0))

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
        if chunk not in self.missing[split]:
            self.missing[split].add(chunk)
            self._count_absent(chunk, split, 1)

    def end_missing(self, chunk: int, split: Split) -> None:
        """The chunk is resident or being made."""
        if chunk in self.missing[split]:
            self.missing[split].discard(chunk)
            self._count_absent(chunk, split, -1)

    def _count_absent(self, chunk: int, split: Split, change: int) -> None:
        for reader in self.active(split):
            if chunk in reader.pending:
                reader.absent += change

    def active(self, split: Split) -> list[Reader]:
        return [reader for reader in self.readers.values() if reader.split == split]
