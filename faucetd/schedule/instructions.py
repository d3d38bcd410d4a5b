"""What the scheduler wants done. Plain values: the conductor carries them out, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from faucet_client.spec import Split
from faucetd.schedule.shares import Ranges


class SegmentId(NamedTuple):
    """One split of one chunk of one dataset: what is cached, leased and evicted."""

    dataset: str
    chunk: int
    split: Split


@dataclass(frozen=True)
class Load:
    """The worker makes the chunk; `splits` become segments, other rows are dropped."""

    worker: int
    dataset: str
    chunk: int
    splits: tuple[Split, ...]
    reserved_bytes: int


@dataclass(frozen=True)
class AllowBytes:
    """The worker may take the extra bytes that it asked for."""

    worker: int


@dataclass(frozen=True)
class AbandonLoad:
    """The worker drops what it is making: there is no room, and the chunk is tried again later."""

    worker: int


@dataclass(frozen=True)
class Evict:
    """Close the segment; nobody leases it."""

    segment: SegmentId


@dataclass(frozen=True)
class Spill:
    """Write the segment's file. Until that is done or has failed, the segment is not evicted."""

    segment: SegmentId


@dataclass(frozen=True)
class DropSpilled:
    """Remove the segment's file, before any file is written that is asked for later."""

    segment: SegmentId


@dataclass(frozen=True)
class RestoreSegment:
    """Read the segment's file into memory, of which `nbytes` are reserved for it."""

    restore: int
    segment: SegmentId
    nbytes: int


@dataclass(frozen=True)
class AdmitReader:
    """The reader may read; it can hold at most `lease_limit_bytes` of segments at a time.

    Attributes:
        rows_per_epoch: Its rows of an epoch.
        first_epoch_rows: Those of its first one, of which it may have had some.
        before: Rows that are nobody's in the first epoch, by chunk.
    """

    reader: int
    rows_per_epoch: int
    lease_limit_bytes: int
    first_epoch_rows: int
    before: Mapping[int, Ranges] = field(default_factory=dict)


@dataclass(frozen=True)
class RefuseReader:
    """The reader cannot be promised the memory that it needs, or has had what there is not."""

    reader: int
    code: str
    message: str


@dataclass(frozen=True)
class Grant:
    """The reader gets its rows of a segment, all of them, and a lease on it."""

    lease: int
    reader: int
    segment: SegmentId
    epoch: int
    rows: Ranges


@dataclass(frozen=True)
class FailReader:
    """The reader cannot finish its epoch; it has left."""

    reader: int
    code: str
    message: str


Instruction = (
    Load
    | AllowBytes
    | AbandonLoad
    | Evict
    | Spill
    | DropSpilled
    | RestoreSegment
    | AdmitReader
    | RefuseReader
    | Grant
    | FailReader
)
