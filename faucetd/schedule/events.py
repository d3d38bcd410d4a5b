"""What the scheduler is told. Plain values: whoever observes a thing sends its event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from faucet_client.spec import Split
from faucetd.schedule.earlier import Earlier
from faucetd.schedule.instructions import SegmentId
from faucetd.schedule.shares import Ranges, Shape


@dataclass(frozen=True)
class ChunkInfo:
    """A chunk of a dataset's plan.

    Attributes:
        lane: Chunks of one lane are cheapest loaded one after another by one worker.
        rows: Rows of each split; splits without rows are left out.
        nbytes: Bytes of the segment that each split will need, as far as known.
        open: Nobody has read so far yet: its rows and bytes are estimates, and only loading it
            tells what it has, and whether its lane goes on after it.
    """

    lane: int
    rows: Mapping[Split, int]
    nbytes: Mapping[Split, int]
    open: bool = False


@dataclass(frozen=True)
class Totals:
    """A split as a whole, where not all of its chunks are known.

    Attributes:
        rows: Exact.
        nbytes: Bytes of all its segments, rather too many than too few.
    """

    rows: int
    nbytes: int


@dataclass(frozen=True)
class DatasetAdded:
    """A dataset may be read from now on.

    Attributes:
        chunks: Those that are known; at most the last one of a lane is open.
        totals: Of each split, where a chunk is open.
    """

    dataset: str
    chunks: tuple[ChunkInfo, ...]
    totals: Mapping[Split, Totals] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetRemoved:
    """Nobody may read the dataset any more, nor what disk has of it.

    Only sent when no reader and no lease uses it. It need not be open, if disk has some of it.
    """

    dataset: str


@dataclass(frozen=True)
class WorkerIdle:
    """The worker has nothing to do: it is new, or has finished something."""

    worker: int


@dataclass(frozen=True)
class WorkerTaken:
    """A worker that is idle, or was about to be, was given something else to do than to load."""

    worker: int


@dataclass(frozen=True)
class WorkerDied:
    """The worker's process is gone, whatever it was doing."""

    worker: int


@dataclass(frozen=True)
class Found:
    """What an open chunk has turned out to be.

    Attributes:
        chunk: Its exact rows, none of either split if its lane had ended before it.
        following: The open chunk after it in its lane, which gets the next number; None at the
            lane's end.
    """

    chunk: ChunkInfo
    following: ChunkInfo | None


@dataclass(frozen=True)
class ChunkLoaded:
    """The worker's chunk stands in sealed segments of these sizes; `found` if it was open."""

    worker: int
    nbytes: Mapping[Split, int]
    found: Found | None = None


@dataclass(frozen=True)
class ChunkFound:
    """An open chunk was found out, without being loaded: an earlier daemon has read it."""

    dataset: str
    chunk: int
    found: Found


@dataclass(frozen=True)
class ChunkFailed:
    """The worker could not make its chunk, and trying again would not help."""

    worker: int
    code: str
    message: str


@dataclass(frozen=True)
class ExtraBytesWanted:
    """A chunk turned out larger than was reserved for it (text has no size known beforehand)."""

    worker: int
    nbytes: int


@dataclass(frozen=True)
class SpillFound:
    """An earlier daemon has left valid files of these segments; of these bytes in memory each.

    Datasets that were not used for longest are told of first, and each before it is added.
    """

    nbytes: Mapping[SegmentId, int]


@dataclass(frozen=True)
class SegmentSpilled:
    """The segment's file is written."""

    segment: SegmentId


@dataclass(frozen=True)
class SpillFailed:
    """The segment's file could not be written, and no other will be: the disk is full or broken."""

    segment: SegmentId


@dataclass(frozen=True)
class SpillRetried:
    """The disk may take files again, after it did not."""


@dataclass(frozen=True)
class SegmentRestored:
    """The segment was read back, and stands in sealed memory."""

    restore: int


@dataclass(frozen=True)
class RestoreFailed:
    """The segment's file is not what was written, or cannot be read."""

    restore: int


@dataclass(frozen=True)
class OrphanedMemory:
    """Trainers map so many bytes, from now on, of the memory of daemons before this one."""

    nbytes: int


@dataclass(frozen=True)
class ReaderStarved:
    """Orphaned memory has kept the reader from its next chunk for too long."""

    reader: int
    code: str
    message: str


@dataclass(frozen=True)
class ReaderJoined:
    """A reader wants `epochs` epochs of a split, from `first_epoch` on.

    Attributes:
        credits: Grants that it can take now.
        shape: Who it is among the readers of its job, which decides what its rows are.
        shuffled: Whether the order of chunks varies, by seed and epoch.
        in_order: Chunks must come in that order; otherwise it is only what it would rather have.
        seed: Decides the order, with the epoch.
        had: Chunks of which it needs nothing more in its first epoch.
        before: Rows of chunks that are nobody's in the first epoch; see shares.py.
        earlier: Readers whose rows are to be added to these.
    """

    reader: int
    dataset: str
    split: Split
    first_epoch: int
    epochs: int
    credits: int
    shape: Shape = field(default_factory=Shape)
    shuffled: bool = True
    in_order: bool = False
    seed: int = 0
    had: frozenset[int] = frozenset()
    before: Mapping[int, Ranges] = field(default_factory=dict)
    earlier: tuple[Earlier, ...] = ()


@dataclass(frozen=True)
class CreditsGiven:
    """The reader can take further grants."""

    reader: int
    grants: int


@dataclass(frozen=True)
class EpochAdvanced:
    """The reader gives up what it has not had yet of the epochs before `epoch`."""

    reader: int
    epoch: int


@dataclass(frozen=True)
class LeasesReleased:
    """The last tensors over these segments are gone, or their process is."""

    leases: tuple[int, ...]


@dataclass(frozen=True)
class ReaderLeft:
    """No more grants. Leases stay until they are released."""

    reader: int


Event = (
    DatasetAdded
    | DatasetRemoved
    | WorkerIdle
    | WorkerTaken
    | WorkerDied
    | ChunkLoaded
    | ChunkFound
    | ChunkFailed
    | ExtraBytesWanted
    | SpillFound
    | SegmentSpilled
    | SpillFailed
    | SpillRetried
    | SegmentRestored
    | RestoreFailed
    | OrphanedMemory
    | ReaderStarved
    | ReaderJoined
    | CreditsGiven
    | EpochAdvanced
    | LeasesReleased
    | ReaderLeft
)
