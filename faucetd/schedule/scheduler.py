"""The scheduler: events in, instructions out. It knows no clock, socket, thread or file.

Who decides: this state machine alone, with the choices of policy.py. Who acts: the conductor,
which sends every observed event here, one at a time, and carries out what comes back in order.

Invariants, after every event:

1. A reader is granted each row of its part exactly once an epoch, and no epoch starts before the
   one before it is granted (or given up by the reader) in full.
2. Resident segments and reservations of loads never exceed the budget.
3. What is leased is not evicted; what is evicted is not granted.
4. Readers are only admitted while the memory that is promised to all of them, and one load beside
   it, fit the budget. A promise is `lease_limit_bytes`, at least FLOOR_SEGMENTS segments; readers
   of one split together never need more than the whole split.
5. Hence progress is always possible: whatever readers do with what they hold, there is room to
   load a chunk by evicting what nobody leases, and a reader that holds less than its promise is
   granted the next segment as soon as it is resident.
   But for memory that trainers still map of daemons before this one: it is orphaned, counts against
   the budget as well, and is nobody's promise. Loads wait for what it takes, and who waits too long
   for it is failed by name: how long that is, the clock of another decides (orphans.py).
6. Spill files, written and being written, never exceed the spill budget. A segment is not evicted
   while its file is written; that ends, so 5 holds.
7. What is on disk is never read from the source again, unless its file turns out not to be what was
   written. Hence of a dataset that fits the tiers each segment is made once, whatever readers do.

Every segment that is made is written to disk, if the spill budget has room for it, so that a daemon
that is started again need not read it either.

A plan need not be known as a whole. The last chunk of a lane may be **open**: one that nobody has
read yet. It is wanted and loaded like any other, and loading it tells what it has and whether a
further one follows. The rows of each split are known nevertheless, so readers know their epochs'
lengths, and whoever has counted the rows can tell when a pass has too many or too few.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from functools import partial

from faucet_client import chunk_map
from faucet_client.spec import SPLITS, Split
from faucetd.errors import BudgetError, StateError
from faucetd.errors import ChunkFailed as ChunkFailedError
from faucetd.schedule import policy
from faucetd.schedule.events import (
    ChunkFailed,
    ChunkFound,
    ChunkLoaded,
    CreditsGiven,
    DatasetAdded,
    DatasetRemoved,
    EpochAdvanced,
    Event,
    ExtraBytesWanted,
    Found,
    LeasesReleased,
    OrphanedMemory,
    ReaderJoined,
    ReaderLeft,
    ReaderStarved,
    RestoreFailed,
    SegmentRestored,
    SegmentSpilled,
    SpillFailed,
    SpillFound,
    SpillRetried,
    WorkerDied,
    WorkerIdle,
    WorkerTaken,
)
from faucetd.schedule.instructions import (
    AbandonLoad,
    AdmitReader,
    AllowBytes,
    FailReader,
    Grant,
    Instruction,
    Load,
    RefuseReader,
    SegmentId,
)
from faucetd.schedule.orders import to_bits
from faucetd.schedule.promises import Promises
from faucetd.schedule.shares import rows_in
from faucetd.schedule.spilled import SpillView
from faucetd.schedule.state import Dataset, Lease, LoadState, Reader
from faucetd.schedule.store import MemoryView, Store

MAX_ATTEMPTS = 3
"""Workers that a chunk may kill before it is an error."""


class InvalidTransition(Exception):
    """An event that cannot be true: a bug in whoever sent it. Carries the events before it."""

    def __init__(self, event: Event, reason: str, recent: list[Event]) -> None:
        story = "\n".join(f"    {past}" for past in recent)
        super().__init__(f"{reason}: {event}\n  after\n{story}")
        self.event = event
        self.recent = recent


@dataclass(frozen=True)
class ReaderView:
    """A reader, now."""

    epoch: int
    rows_granted: int
    rows_per_epoch: int
    leased_bytes: int
    lease_limit_bytes: int
    left: bool


class Scheduler:
    """See the module's docstring. `handle` is the only method that changes anything."""

    def __init__(
        self, budget_bytes: int, most_segments: int = 2**31, spill_budget_bytes: int = 0
    ) -> None:
        self._budget_bytes = budget_bytes
        self._datasets: dict[str, Dataset] = {}
        self._readers: dict[int, Reader] = {}
        self._stirred: set[int] = set()  # readers that may be granted something now, or may wait
        self._waiting: dict[int, Reader] = {}  # those that could take a grant
        self._leases: dict[int, Lease] = {}
        self._promises = Promises(budget_bytes, self._datasets, self._readers)
        self._store = Store(
            budget_bytes,
            most_segments,
            spill_budget_bytes,
            self._datasets,
            lambda instruction: self._out.append(instruction),
            self._require,
        )
        self._idle: dict[int, None] = {}  # workers, in the order in which they became idle
        self._loads: dict[int, LoadState] = {}
        self._last: dict[int, tuple[str, int]] = {}  # by worker: the dataset and chunk it made
        self._finishing: int | None = None  # the worker that will be idle next
        self._too_large: set[tuple[str, int]] = set()  # chunks abandoned since memory was freed
        self._next_lease = 1
        self._clock = 0
        self._recent: deque[Event] = deque(maxlen=20)
        self._event: Event | None = None
        self._out: list[Instruction] = []

    def handle(self, event: Event) -> list[Instruction]:  # noqa: C901  # one line an event
        """What is to be done now that `event` has happened, in this order.

        Raises:
            InvalidTransition: the event cannot be true; this scheduler must not be used any more.
        """
        self._event = event
        self._finishing = event.worker if isinstance(event, ChunkLoaded) else None
        self._clock += 1
        self._store.clock = self._clock
        self._out = []
        match event:
            case DatasetAdded():
                self._add_dataset(event)
            case DatasetRemoved():
                self._remove_dataset(event)
            case WorkerIdle():
                self._require(event.worker not in self._loads, "the worker is loading")
                self._idle[event.worker] = None
            case WorkerTaken():
                self._idle.pop(event.worker, None)
            case WorkerDied():
                self._worker_died(event.worker)
            case ChunkLoaded():
                self._chunk_loaded(event)
            case ChunkFound():
                self._require(event.dataset in self._datasets, "no such dataset")
                self._find(self._datasets[event.dataset], event.chunk, event.found)
            case ChunkFailed():
                load = self._end_load(event.worker)
                self._fail_chunk(load, event.code, event.message)
            case ExtraBytesWanted():
                self._extra_bytes(event)
            case SpillFound():
                self._store.take_up(event.nbytes)
            case SegmentSpilled():
                self._store.spilled(event.segment)
            case SpillFailed():
                self._store.spill_failed(event.segment)
            case SpillRetried():
                self._store.disk.start()
            case SegmentRestored():
                self._stirred.update(self._store.restored(event.restore))
            case RestoreFailed():
                self._store.restore_failed(event.restore)
            case OrphanedMemory():
                self._promises.orphaned_bytes = event.nbytes
                self._store.take_up_orphaned(event.nbytes)
            case ReaderStarved():
                starved = self._reader(event.reader)
                self._out.append(FailReader(starved.id, event.code, event.message))
                self._leave(starved)
            case ReaderJoined():
                self._join(event)
            case CreditsGiven():
                self._reader(event.reader).credits += event.grants
                self._stirred.add(event.reader)
            case EpochAdvanced():
                self._advance(self._reader(event.reader), event.epoch)
            case LeasesReleased():
                for lease in event.leases:
                    self._release(lease)
            case ReaderLeft():
                self._leave(self._reader(event.reader))
        if not isinstance(event, CreditsGiven | WorkerIdle | WorkerTaken | ExtraBytesWanted):
            self._too_large.clear()
        self._recent.append(event)
        self._grant_all()
        self._restore_all()
        self._load_all()
        return self._out

    # What others may look at.

    def memory(self) -> MemoryView:
        """The budget's use, now."""
        return self._store.memory()

    def knows(self, reader: int) -> bool:
        """Whether the reader exists: from its admission until it has left and holds no lease."""
        return reader in self._readers

    def reader(self, reader: int) -> ReaderView:
        """What a reader that exists has had and holds."""
        state = self._readers[reader]
        return ReaderView(
            state.epoch,
            state.rows_granted,
            state.rows_per_epoch,
            state.held_bytes,
            state.limit_bytes,
            state.left,
        )

    def resident(self, dataset: str) -> dict[SegmentId, int]:
        """The dataset's segments in memory, with their bytes."""
        return self._store.resident_of(dataset)

    def nbytes(self, dataset: str) -> int:
        """What all segments of the dataset take, as far as known."""
        return sum(self._datasets[dataset].split_bytes.values())

    def spill(self) -> SpillView:
        """The spill budget's use, now."""
        return self._store.disk.view()

    def spilled(self, dataset: str) -> dict[SegmentId, int]:
        """The dataset's segments that are on disk, with their bytes."""
        return self._store.disk.segments(dataset)

    def spilled_datasets(self) -> list[str]:
        """The datasets that are on disk, whether somebody has opened them or not."""
        return self._store.disk.datasets()

    def chunk_map(self, dataset: str) -> dict[Split, bytes]:
        """The state of each chunk of the dataset, by split; see `faucet_client.chunk_map`."""
        known = self._datasets[dataset]
        states = {
            split: bytearray(
                chunk_map.ABSENT if info.rows.get(split) else chunk_map.NO_ROWS
                for info in known.chunks
            )
            for split in SPLITS
        }
        for split, of_split in states.items():
            for chunk in self._store.disk.chunks(dataset, split):
                if chunk < len(of_split):  # else an earlier daemon has found more than this one yet
                    of_split[chunk] = chunk_map.SPILLED
            for chunk in self._loading(dataset, split):
                of_split[chunk] = chunk_map.LOADING
        # A reader that goes on to its next epoch may lease a segment twice.
        leasing = Counter(
            segment
            for _, segment in {(lease.reader, lease.segment) for lease in self._leases.values()}
        )
        for segment in self._store.resident:
            if segment.dataset == dataset:
                states[segment.split][segment.chunk] = chunk_map.resident(leasing[segment])
        return {split: bytes(found) for split, found in states.items()}

    def leases(self) -> dict[int, tuple[int, SegmentId]]:
        """All leases: the reader and the segment of each."""
        return {number: (lease.reader, lease.segment) for number, lease in self._leases.items()}

    def in_use(self, dataset: str) -> bool:
        """Whether a reader, or a lease of one that has left, uses the dataset.

        Or it is loaded, and its chunks are found while they are read: when it is opened anew, what
        the load tells would be taken for a chunk of another plan.
        """
        if any(reader.dataset == dataset for reader in self._readers.values()):
            return True
        known = self._datasets.get(dataset)
        loads = [*self._loads.values()] if known is not None and known.found_by_reading else []
        return any(load.dataset == dataset for load in loads)

    def starved(self) -> list[int]:
        """Readers that orphaned memory keeps from their next chunk, and nothing else.

        By invariant 5 there would be room for it without.
        """
        if not self._store.orphaned_bytes or self._loads or self._store.is_moving:
            return []
        return [reader.id for reader in self._unserved()] if self._idle else []

    # Datasets.

    def _add_dataset(self, event: DatasetAdded) -> None:
        self._require(event.dataset not in self._datasets, "the dataset exists")
        self._datasets[event.dataset] = Dataset(event.dataset, event.chunks, event.totals)

    def _remove_dataset(self, event: DatasetRemoved) -> None:
        known = event.dataset in self._datasets or event.dataset in self._store.disk.datasets()
        self._require(known, "no such dataset")
        self._require(not self.in_use(event.dataset), "the dataset is in use")
        self._store.remove_dataset(event.dataset)
        self._datasets.pop(event.dataset, None)

    # Readers.

    def _join(self, event: ReaderJoined) -> None:
        self._require(event.reader not in self._readers, "the reader exists")
        self._require(event.dataset in self._datasets, "no such dataset")
        dataset = self._datasets[event.dataset]
        if reason := dataset.why_not(event):
            message = (
                f"the state that was loaded is not of this dataset: {reason}. Load the state of a "
                f"reader of {dataset.key}, or begin without one"
            )
            self._out.append(RefuseReader(event.reader, StateError.code, message))
            return
        reader = Reader(event, dataset)
        try:
            reader.limit_bytes = self._promises.make(dataset, event.split)
        except BudgetError as error:
            self._out.append(RefuseReader(event.reader, error.code, error.message))
            return
        self._readers[reader.id] = reader
        dataset.enter(reader)
        self._store.disk.touch(dataset.key, self._clock)
        self._out.append(
            AdmitReader(
                reader.id,
                reader.rows_per_epoch,
                reader.limit_bytes,
                reader.first_epoch_rows,
                reader.first_share.before,
            )
        )
        if reader.rows_per_epoch and event.epochs > 0:
            self._start_epoch(reader, event.first_epoch)
            self._end_epoch_if_done(reader)

    def _keep_promises(self) -> None:
        """Segments have proved larger than planned: the last readers may be too many now."""
        while (error := self._promises.broken()) is not None:
            reader = [reader for reader in self._readers.values() if not reader.left][-1]
            self._out.append(FailReader(reader.id, error.code, error.message))
            self._leave(reader)

    def _start_epoch(self, reader: Reader, epoch: int) -> None:
        split = reader.split
        dataset = self._datasets[reader.dataset]
        reader.start_epoch(epoch, dataset)
        dataset.want(reader.pending, split)
        absent = reader.pending - dataset.resident[split] - self._loading(reader.dataset, split)
        # Who else wants these counts them as absent already.
        dataset.missing[split].update(absent)
        reader.absent = len(absent)
        self._stirred.add(reader.id)

    def _unwant(self, reader: Reader, chunk: int) -> None:
        """The reader does not want the chunk (any more) in this epoch."""
        reader.pending.discard(chunk)
        dataset = self._datasets[reader.dataset]
        if chunk in dataset.missing[reader.split]:
            reader.absent -= 1
        dataset.want_no_more(chunk, reader.split)

    def _advance(self, reader: Reader, epoch: int) -> None:
        if reader.left or epoch <= reader.epoch:
            return
        for chunk in list(reader.pending):
            self._unwant(reader, chunk)
        self._stirred.add(reader.id)
        reader.waiting_since = None
        if epoch <= reader.last_epoch:
            self._start_epoch(reader, epoch)

    def _leave(self, reader: Reader) -> None:
        if reader.left:
            return
        for chunk in list(reader.pending):
            self._unwant(reader, chunk)
        reader.left = True
        self._waiting.pop(reader.id, None)
        self._store.disk.touch(reader.dataset, self._clock)
        self._datasets[reader.dataset].leave(reader)
        self._forget_if_gone(reader)

    def _release(self, number: int) -> None:
        self._require(number in self._leases, f"no lease {number}")
        lease = self._leases.pop(number)
        reader = self._readers[lease.reader]
        reader.held_bytes -= lease.nbytes
        reader.held_leases -= 1
        self._store.release(lease.segment)
        self._stirred.add(reader.id)
        self._forget_if_gone(reader)

    def _forget_if_gone(self, reader: Reader) -> None:
        if reader.left and not reader.held_leases:
            del self._readers[reader.id]

    # Workers and loads.

    def _worker_died(self, worker: int) -> None:
        self._last.pop(worker, None)
        if worker in self._idle:
            del self._idle[worker]
        if worker not in self._loads:
            return
        load = self._end_load(worker)
        dataset = self._datasets.get(load.dataset)
        if dataset is None:
            return
        attempts = dataset.attempts[load.chunk] = dataset.attempts.get(load.chunk, 0) + 1
        if attempts < MAX_ATTEMPTS:
            self._back_to_missing(load)
            return
        self._fail_chunk(
            load,
            ChunkFailedError.code,
            f"chunk {load.chunk} of {load.dataset} killed {attempts} workers, one after another; "
            "the daemon's log has their last words. Is there enough memory outside memory_budget?",
        )

    def _chunk_loaded(self, event: ChunkLoaded) -> None:
        load = self._end_load(event.worker)
        dataset = self._datasets.get(load.dataset)
        if dataset is not None:
            is_open = load.chunk in dataset.open
            self._require(is_open == (event.found is not None), "an open chunk was not found out")
            if event.found is not None:
                self._find(dataset, load.chunk, event.found, event.worker)
                for split, nbytes in event.nbytes.items():
                    dataset.record_bytes(load.chunk, split, nbytes)
                self._keep_promises()
        for split, nbytes in event.nbytes.items():
            segment = SegmentId(load.dataset, load.chunk, split)
            self._require(
                nbytes <= load.reserved_bytes, "more than was reserved or allowed was published"
            )
            self._stirred.update(self._store.publish(segment, nbytes))
            if dataset is not None:
                self._store.write_behind(dataset, segment)
        if dataset is not None:
            dataset.attempts.pop(load.chunk, None)
            self._last[event.worker] = load.dataset, load.chunk

    def _find(self, dataset: Dataset, chunk: int, found: Found, worker: int | None = None) -> None:
        """An open chunk is known now, and so is the one that follows it."""
        dataset.find(chunk, found.chunk)
        self._stirred.update(dataset.readers)
        here = [reader for reader in dataset.readers.values() if chunk in reader.pending]
        for reader in dataset.readers.values():
            rows = reader.range_in(chunk, dataset)
            assert rows is not None, "it has just been found"
            reader.find(chunk, rows)
            if not rows and chunk in reader.pending:
                self._unwant(reader, chunk)
        if found.following is not None:
            following = dataset.append(found.following)
            if worker is not None:
                dataset.owners[following] = worker
            for reader in dataset.readers.values():
                reader.follow(following)
            for reader in here:
                # Whoever is in the midst of an epoch wants all chunks that are found meanwhile.
                reader.pending.add(following)
                dataset.want_too(following, reader.split)
            for split in {reader.split for reader in here}:
                dataset.add_missing(following, split)
        for reader in here:
            self._end_epoch_if_done(reader)
        self._keep_promises()

    def _extra_bytes(self, event: ExtraBytesWanted) -> None:
        self._require(event.worker in self._loads, "the worker loads nothing")
        load = self._loads[event.worker]
        total = load.reserved_bytes + event.nbytes
        dataset = self._datasets.get(load.dataset)
        # Of an open chunk nobody knows here how many rows take these bytes, and of which split.
        if dataset is not None and load.chunk not in dataset.open:
            rows = {split: dataset.chunks[load.chunk].rows.get(split, 0) for split in load.splits}
            for split in load.splits:
                nbytes = total * rows[split] // sum(rows.values())
                dataset.learn_bytes(load.chunk, split, nbytes)
            self._stirred.update(dataset.readers)  # larger segments, larger promises
            self._keep_promises()
        if self._store.make_room(event.nbytes, len(self._loads), wanted_too=True):
            load.reserved_bytes = total
            self._store.reserve(event.nbytes)
            self._out.append(AllowBytes(event.worker))
            return
        self._out.append(AbandonLoad(event.worker))
        self._too_large.add((load.dataset, load.chunk))
        self._end_load(event.worker)
        if self._loads or self._store.will_free:
            self._back_to_missing(load)
            return
        self._fail_chunk(
            load,
            BudgetError.code,
            f"chunk {load.chunk} of {load.dataset} needs {total:,} bytes, and "
            f"memory_budget={self._budget_bytes:,}; raise it, or open the dataset with a smaller "
            "chunk_rows",
        )

    def _end_load(self, worker: int) -> LoadState:
        self._require(worker in self._loads, "the worker loads nothing")
        load = self._loads.pop(worker)
        self._store.give_back(load.reserved_bytes)
        return load

    def _back_to_missing(self, load: LoadState) -> None:
        dataset = self._datasets.get(load.dataset)
        if dataset is None:
            return
        for split in load.splits:
            if dataset.wanted[split][load.chunk]:
                dataset.add_missing(load.chunk, split)

    def _fail_chunk(self, load: LoadState, code: str, message: str) -> None:
        """Whoever wants the chunk fails. Nothing is remembered: the next reader tries again."""
        dataset = self._datasets.get(load.dataset)
        if dataset is None:
            return
        dataset.attempts.pop(load.chunk, None)
        for reader in list(dataset.readers.values()):
            if reader.split in load.splits and load.chunk in reader.pending:
                self._out.append(FailReader(reader.id, code, message))
                self._leave(reader)

    # Deciding.

    def _grant_all(self) -> None:
        while self._stirred:
            stirred, self._stirred = self._stirred, set()
            for number in sorted(stirred):
                reader = self._readers.get(number)
                if reader is None or reader.left:
                    continue
                while reader.credits and reader.pending and self._grant_one(reader):
                    pass
                if not (reader.credits and reader.pending):
                    reader.waiting_since = None
                    self._waiting.pop(number, None)
                elif reader.waiting_since is None:
                    reader.waiting_since = self._clock
                    self._waiting[number] = reader

    def _grant_one(self, reader: Reader) -> bool:
        if not self._promises.allow(reader, 0):
            return False
        dataset = self._datasets[reader.dataset]
        segment = policy.next_grant(reader, dataset, self._store.resident)
        if segment is None or not self._promises.allow(reader, segment.nbytes):
            return False
        chunk = segment.id.chunk
        lease = self._next_lease
        self._next_lease += 1
        self._leases[lease] = Lease(reader.id, segment.id, segment.nbytes)
        self._store.lease(segment)
        reader.held_bytes += segment.nbytes
        reader.held_leases += 1
        reader.credits -= 1
        rows = reader.rows_of(chunk)
        reader.rows_granted += rows_in(rows)
        self._out.append(Grant(lease, reader.id, segment.id, reader.epoch, rows))
        reader.epoch_rows_granted += rows_in(rows)
        self._unwant(reader, chunk)
        self._end_epoch_if_done(reader)
        return True

    def _end_epoch_if_done(self, reader: Reader) -> None:
        if not reader.pending and reader.epochs_left > 0:
            self._start_epoch(reader, reader.epoch + 1)

    def _restore_all(self) -> None:
        while self._store.may_restore and self._restore_one():
            pass

    def _restore_one(self) -> bool:
        """Has a segment that is wanted read back, if disk has one and memory has room for it."""
        unserved = self._unserved()
        choice = policy.next_load(self._datasets, [*unserved, *self._behind()], self._to_restore)
        if choice is None:
            return False
        dataset, chunk, reader = choice
        segment = reader.segment(chunk)
        nbytes = self._store.disk.nbytes(segment)
        if not self._store.make_room(nbytes, len(self._loads), wanted_too=reader in unserved):
            return False
        self._store.restore(dataset, segment)
        return True

    def _to_restore(self, dataset: Dataset, reader: Reader) -> int:
        """The chunks that the reader wants and disk has, as bits."""
        on_disk = self._store.on_disk(dataset, reader.split)
        chunks = reader.pending.bits & dataset.missing[reader.split].bits & on_disk
        if reader.in_order and reader.waiting_since is not None:
            # Whoever waits for one chunk is not helped by another.
            chunks &= reader.takes_bits()
        return chunks

    def _load_all(self) -> None:
        if not self._idle:
            return
        unserved = self._unserved()
        while self._idle and (load := self._load_one(unserved)):
            unserved = [reader for reader in unserved if not _serves(load, reader)]

    def _load_one(self, unserved: list[Reader]) -> LoadState | None:
        """Gives an idle worker a chunk to load, if there is one for it and room for that."""
        behind = self._behind() if self._store.has_room_ahead() else []
        if not unserved and not behind:
            return None
        for worker in self._idle:
            last = self._last.get(worker)
            choice = policy.next_load(
                self._datasets, unserved + behind, partial(self._to_load, worker), last
            )
            if choice is None:
                continue
            dataset, chunk, reader = choice
            splits = self._splits_to_make(dataset, chunk, reader.split, urgent=reader in unserved)
            if splits:
                return self._start_load(worker, dataset, chunk, splits)
            if not unserved:
                return None  # there is no room for what nobody waits for, whoever loads it
        return None

    def _start_load(
        self, worker: int, dataset: Dataset, chunk: int, splits: tuple[Split, ...]
    ) -> LoadState:
        reserved = sum(dataset.segment_bytes(chunk, split) for split in splits)
        self._store.reserve(reserved)
        load = self._loads[worker] = LoadState(dataset.key, chunk, splits, reserved)
        for split in splits:
            dataset.end_missing(chunk, split)
        del self._idle[worker]
        self._out.append(Load(worker, dataset.key, chunk, splits, reserved))
        return load

    def _splits_to_make(
        self, dataset: Dataset, chunk: int, split: Split, *, urgent: bool
    ) -> tuple[Split, ...]:
        """What of a chunk is made now, for which there is room: none if that has to wait.

        The other split is read anyway. If nobody wants it, it is kept where there is room; and made
        room for where disk will have it, at the cost of waiting for what is written there just now.
        """
        nbytes = dataset.segment_bytes(chunk, split)
        (other,) = (each for each in SPLITS if each != split)
        if self._could_keep(dataset, chunk, other):
            more = dataset.segment_bytes(chunk, other)
            to_disk = self._store.disk.has_room(more)
            worth = to_disk or chunk in dataset.missing[other]
            if self._store.make_room(
                nbytes + more, len(self._loads), wanted_too=False, evict=worth
            ):
                return split, other
            if to_disk and self._store.disk.writing:
                return ()
        if self._store.make_room(nbytes, len(self._loads), wanted_too=urgent):
            return (split,)
        return ()

    def _to_load(self, worker: int, dataset: Dataset, reader: Reader) -> int:
        """The chunks that the reader wants and the worker may read from the source, as bits.

        What disk has is not among them.
        """
        chunks = reader.pending.bits & dataset.missing[reader.split].bits
        for others in (
            self._store.on_disk(dataset, reader.split),
            to_bits(self._not_for(dataset, worker)),
        ):
            if others:
                chunks &= ~others
        return chunks

    def _not_for(self, dataset: Dataset, worker: int) -> set[int]:
        """Chunks that this worker must not, or had better not, load.

        One that was just abandoned, since it needs more than is free, would be read and abandoned
        again and again. An open one that is being loaded, for whichever split, is about to be found
        out: a second load would find it out twice. And one that follows what another worker has
        just read is left to it: its connections stand where the chunk begins; anybody else would
        have to open them anew.
        """
        too_large = {chunk for key, chunk in self._too_large if key == dataset.key}
        if not dataset.open:
            return too_large
        loading = {load.chunk for load in self._loads.values() if load.dataset == dataset.key}
        return too_large | {
            chunk
            for chunk in dataset.open
            if chunk in loading
            or (
                (owner := dataset.owners.get(chunk, worker)) != worker
                and (owner in self._idle or owner == self._finishing)
            )
        }

    def _could_keep(self, dataset: Dataset, chunk: int, split: Split) -> bool:
        """Whether a load of the chunk would yield the split, and nobody has it or makes it."""
        return (
            bool(dataset.chunks[chunk].rows.get(split))
            and SegmentId(dataset.key, chunk, split) not in self._store.resident
            and not self._store.on_disk(dataset, split) >> chunk & 1
            and chunk not in self._loading(dataset.key, split)
        )

    def _unserved(self) -> list[Reader]:
        """Readers that wait, may hold more, and have no load under way for them; longest first."""
        found = []
        coming: dict[tuple[str, Split], int] = {}  # chunks that are being made, as bits
        for reader in self._waiting.values():
            if not reader.absent:
                continue
            dataset = self._datasets[reader.dataset]
            if policy.has_grant(reader, dataset, self._store.resident):
                continue  # it waits to be rid of a lease, not for a chunk
            key = reader.dataset, reader.split
            if key not in coming:
                coming[key] = to_bits(self._loading(*key))
            if not reader.takes_bits() & coming[key] and self._promises.allow(
                reader, dataset.largest_segment_bytes[reader.split]
            ):
                found.append(reader)
        found.sort(key=lambda reader: (reader.waiting_since, reader.id))
        return found

    def _loading(self, dataset: str, split: Split) -> set[int]:
        return {
            load.chunk
            for load in self._loads.values()
            if load.dataset == dataset and split in load.splits
        } | self._store.coming_back(dataset, split)

    def _behind(self) -> list[Reader]:
        """Readers that could be granted few chunks more, resident or being made; fewest first."""
        found = [
            (count, reader.id, reader)
            for dataset in self._datasets.values()
            for reader in dataset.readers.values()
            if reader.absent
            and (count := len(reader.pending) - reader.absent) < policy.READ_AHEAD_CHUNKS
        ]
        found.sort()
        return [reader for *_, reader in found]

    def _reader(self, reader: int) -> Reader:
        self._require(reader in self._readers, f"no reader {reader}")
        return self._readers[reader]

    def _require(self, truth: bool, reason: str) -> None:
        if not truth:
            assert self._event is not None
            raise InvalidTransition(self._event, reason, list(self._recent))


def _serves(load: LoadState, reader: Reader) -> bool:
    """Whether the load makes something that the reader can be granted next."""
    return (
        load.dataset == reader.dataset
        and reader.split in load.splits
        and bool(reader.takes_bits() >> load.chunk & 1)
    )
