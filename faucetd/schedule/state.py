"""What the scheduler knows. Data with bookkeeping; it decides nothing (see policy.py)."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

from faucet_client.spec import SPLITS, Split
from faucetd.schedule.events import ChunkInfo
from faucetd.schedule.instructions import SegmentId
from faucetd.schedule.parts import RowRange

FLOOR_SEGMENTS = 3
"""Segments that each reader may always lease: the one that its last batch still pins, the one that
it slices, and the next. With fewer it would wait for itself, or copy for no reason."""

UNLIMITED_BYTES = 2**62
"""What a reader is promised whose whole split has its place in the budget."""


@dataclass
class Segment:
    """A resident segment."""

    id: SegmentId
    nbytes: int
    leases: int = 0
    last_used: int = 0


@dataclass
class LoadState:
    """A chunk that a worker is making."""

    dataset: str
    chunk: int
    splits: tuple[Split, ...]
    reserved_bytes: int


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
        ranges: list[RowRange],
        first_epoch: int,
        epochs: int,
        in_order: bool,
        seed: int,
    ) -> None:
        self.id = reader
        self.dataset = dataset
        self.split: Split = split
        self.ranges = ranges
        self.chunks = [chunk for chunk, rows in enumerate(ranges) if rows.rows]
        self.epoch = first_epoch - 1
        self.last_epoch = first_epoch + epochs - 1
        self.in_order = in_order
        self.seed = seed
        self.credits = 0
        self.limit_bytes = 0
        self.held_bytes = 0
        self.held_leases = 0
        self.rows_granted = 0
        self.left = False
        self.waiting_since: int | None = None
        self.rank: dict[int, int] = {}
        self.pending: set[int] = set()
        self.absent = 0  # pending chunks that are neither resident nor being made
        self.ready: list[tuple[int, int]] = []
        self._next_in_order = 0

    @property
    def rows_per_epoch(self) -> int:
        return sum(rows.rows for rows in self.ranges)

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
        self._next_in_order = 0

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


@dataclass
class Dataset:
    """One dataset's plan, and what each chunk is wanted for."""

    key: str
    chunks: tuple[ChunkInfo, ...]
    attempts: dict[int, int] = field(default_factory=dict)
    bytes_a_row: dict[Split, float] = field(default_factory=dict)
    wanted: dict[Split, list[int]] = field(init=False)
    missing: dict[Split, set[int]] = field(init=False)
    largest_segment_bytes: dict[Split, int] = field(default_factory=dict)
    split_bytes: dict[Split, int] = field(default_factory=dict)
    readers: dict[int, Reader] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for split in SPLITS:
            self._sum_up(split)
        # By split and chunk: how many readers have it pending; and the wanted that are absent.
        self.wanted = {split: [0] * len(self.chunks) for split in SPLITS}
        self.missing = {split: set() for split in SPLITS}

    def segment_bytes(self, chunk: int, split: Split) -> int:
        """What the segment will need: the plan's word, or more where text has proved longer."""
        info = self.chunks[chunk]
        seen = int(self.bytes_a_row.get(split, 0.0) * info.rows.get(split, 0))
        return max(info.nbytes.get(split, 0), seen)

    def learn_bytes(self, chunk: int, split: Split, nbytes: int) -> None:
        """A segment turned out larger than the plan said; expect it of the others as well."""
        rows = self.chunks[chunk].rows.get(split, 0)
        if rows and nbytes > self.segment_bytes(chunk, split):
            self.bytes_a_row[split] = max(self.bytes_a_row.get(split, 0.0), nbytes / rows)
            self._sum_up(split)

    def _sum_up(self, split: Split) -> None:
        sizes = [self.segment_bytes(chunk, split) for chunk in range(len(self.chunks))]
        self.largest_segment_bytes[split] = max(sizes, default=0)
        self.split_bytes[split] = sum(sizes)

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
