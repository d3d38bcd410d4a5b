"""What a daemon says of itself: the message `Status` of faucet.proto, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # NumPy comes with it, and a health probe must start at once
    from faucet_client.spec import Split


@dataclass(frozen=True)
class MemoryStatus:
    """Shared memory, in bytes.

    Attributes:
        budget_bytes: What segments may take at most.
        used_bytes: Segments that exist, leased or not, and those being made.
        leased_bytes: Segments that some trainer holds.
        peak_bytes: The most that was ever used.
        orphaned_bytes: Segments of daemons before this one that trainers still map. They count
            against the budget, beside what is used.
    """

    budget_bytes: int
    used_bytes: int
    leased_bytes: int
    peak_bytes: int
    orphaned_bytes: int = 0


@dataclass(frozen=True)
class WorkerStatus:
    """A process that reads the source and makes chunks."""

    pid: int
    state: str  # "starting", "idle", "opening" or "loading"


@dataclass(frozen=True)
class ColumnCounts:
    """Values of a column that preparing changed or could not fill.

    Counted over the chunks made so far; a chunk made again counts again.

    Attributes:
        column: The column's name.
        nulls: Nulls, which became NaN in features, labels and weights.
        rounded: Integers beyond 2^24 that float32 cannot hold exactly.
        overflowed: Finite numbers beyond float32's range, which became infinite.
        not_finite: Values that were NaN or infinite already in the source.
        imputed: Missing values that were replaced as the preprocessing spec says.
        clipped: Values outside the spec's range, put at its end.
        unseen: Values that are none of those that the spec lists.
    """

    column: str
    nulls: int
    rounded: int
    overflowed: int
    not_finite: int
    imputed: int = 0
    clipped: int = 0
    unseen: int = 0


@dataclass(frozen=True)
class LabelStatus:
    """How a label varies between chunks, over those made so far; see `faucetd/spread.py`.

    Attributes:
        split: "train" or "eval".
        label: Its name.
        between_share: Of its variance, the share between chunks: 0 to 1 (eta squared).
        random_share: What that share would be on average, were rows dealt to chunks at random.
        chunks: Chunks that it stands on.
        rows: Rows that it stands on; nulls are left out.
    """

    split: Split
    label: str
    between_share: float
    random_share: float
    chunks: int
    rows: int


@dataclass(frozen=True)
class CostStatus:
    """What a warehouse charges for a dataset.

    Attributes:
        query_bytes: Bytes that queries were billed for: counting rows, materializing a view.
        read_bytes: Bytes that reading was billed for, by the warehouse's estimate of a pass and
            the rows read.
        pass_bytes: The estimate for one pass.
        passes_served: Passes over a split that readers have been given, in all. Without a cache
            each would have been a pass over the table.
        query_price_per_tib: Money for 2^40 bytes of `query_bytes`; 0 if not known.
        read_price_per_tib: Money for 2^40 bytes of `read_bytes`; 0 if not known.
    """

    query_bytes: int
    read_bytes: int
    pass_bytes: int
    passes_served: float
    query_price_per_tib: float
    read_price_per_tib: float


@dataclass(frozen=True)
class DatasetStatus:
    """An open dataset.

    Attributes:
        key: The hash that names it, hexadecimal.
        source: Where its rows are, for a person.
        state: "ready", or "failed" with the reason in `error`.
        error: Why it failed, or the empty text.
        train_rows: Rows of the train split, exact.
        eval_rows: Rows of the eval split, exact.
        chunks: Chunks of its plan.
        chunks_resident: Chunks of which at least one split is in memory.
        chunks_made: Chunks made so far; one made again counts again.
        resident_bytes: Bytes of its segments in memory.
        source_rows_read: Rows that passes over the table have read.
        source_bytes_read: The same, as bytes of Arrow data.
        count_rows_read: Rows read apart, to count the splits when the dataset was opened.
        count_bytes_read: The same, as bytes of Arrow data.
        counts: What the conversion to float32 changed; columns where it did.
        cost: What the warehouse charges; None for files.
        notes: What a person should know of how the rows are read, each a sentence.
        finding_chunks: Whether a first pass still finds the chunks: `chunks` are those so far.
        chunks_spilled: Chunks of which at least one split is on disk, in `spill_dir`.
        spilled_bytes: What they take there.
        chunks_restored: How many times a split of a chunk came back from disk, instead of from the
            source.
        rows_served: Rows that readers have been given, over all their epochs.
        source_bytes_saved: What these rows would have been beyond `source_bytes_read`, had each
            been read for each reader and epoch.
        train_chunk_map: The state of each chunk's train rows; see `faucet_client.chunk_map`.
        eval_chunk_map: The same of its eval rows.
        labels: How each label varies between chunks, by split.
    """

    key: str
    source: str
    state: Literal["ready", "failed"]
    error: str
    train_rows: int
    eval_rows: int
    chunks: int
    chunks_resident: int
    chunks_made: int
    resident_bytes: int
    source_rows_read: int
    source_bytes_read: int
    count_rows_read: int
    count_bytes_read: int
    counts: tuple[ColumnCounts, ...] = ()
    cost: CostStatus | None = None
    notes: tuple[str, ...] = ()
    finding_chunks: bool = False
    chunks_spilled: int = 0
    spilled_bytes: int = 0
    chunks_restored: int = 0
    rows_served: int = 0
    source_bytes_saved: int = 0
    train_chunk_map: bytes = b""
    eval_chunk_map: bytes = b""
    labels: tuple[LabelStatus, ...] = ()


@dataclass(frozen=True)
class ReaderStatus:
    """One reader: a trainer, or a DataLoader worker of one, in one split.

    Attributes:
        job: The training run's name.
        rank: Its rank in that run.
        worker: Its DataLoader worker, 0 without.
        split: "train" or "eval".
        dataset_key: The key of the dataset that it reads.
        pid: Its process.
        epoch: The epoch that it is in, from 0.
        rows_granted: Rows granted to it, over all epochs so far.
        rows_consumed: Rows that it has taken as batches, over all epochs so far.
        rows_per_epoch: Its share of the split.
        seconds_waited: Time that its `next()` waited for data.
        leased_bytes: Bytes of the segments that it holds.
        lease_limit_bytes: What it may hold before it is handed copies.
        first_epoch: The epoch that it began with.
        epochs: How many epochs it reads.
        position_epochs: Where its trainer is: 2.25 is a quarter into its third epoch. It tells
            when it goes on to the next chunk, and no more often.
        lag_epochs: By how much another reader of the split is further, at most.
    """

    job: str
    rank: int
    worker: int
    split: Split
    dataset_key: str
    pid: int
    epoch: int
    rows_granted: int
    rows_consumed: int
    rows_per_epoch: int
    seconds_waited: float
    leased_bytes: int
    lease_limit_bytes: int
    first_epoch: int = 0
    epochs: int = 0
    position_epochs: float = 0.0
    lag_epochs: float = 0.0


@dataclass(frozen=True)
class Status:
    """Everything that `faucetd status` shows.

    Attributes:
        version: The daemon's version.
        pid: Its main process.
        uptime_s: Seconds since it started.
        memory: Shared memory, over all datasets.
        workers: The processes that make chunks.
        datasets: The open datasets.
        readers: The live readers.
        spill_budget_bytes: What copies of chunks may take on disk; 0 without a `spill_dir`.
        spill_used_bytes: What they take, those being written and those of datasets that nobody has
            opened yet included.
        alerts: What went wrong without any trainer's noticing, and wants a person to look.
    """

    version: str
    pid: int
    uptime_s: float
    memory: MemoryStatus
    workers: tuple[WorkerStatus, ...]
    datasets: tuple[DatasetStatus, ...]
    readers: tuple[ReaderStatus, ...]
    spill_budget_bytes: int = 0
    spill_used_bytes: int = 0
    alerts: tuple[str, ...] = ()
