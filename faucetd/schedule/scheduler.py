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

A plan need not be known as a whole. The last chunk of a lane may be **open**: one that nobody has
read yet. It is wanted and loaded like any other, and loading it tells what it has and whether a
further one follows. The rows of each split are known nevertheless, so readers know their epochs'
lengths, and whoever has counted the rows can tell when a pass has too many or too few.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

from faucet_client import chunk_map
from faucet_client.spec import SPLITS, Split
from faucetd.errors import BudgetError
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
    ReaderJoined,
    ReaderLeft,
    WorkerDied,
    WorkerIdle,
    WorkerTaken,
)
from faucetd.schedule.instructions import (
    AbandonLoad,
    AdmitReader,
    AllowBytes,
    Evict,
    FailReader,
    Grant,
    Instruction,
    Load,
    RefuseReader,
    SegmentId,
)
from faucetd.schedule.state import (
    FLOOR_SEGMENTS,
    UNLIMITED_BYTES,
    Dataset,
    Lease,
    LoadState,
    Reader,
    Segment,
)

MAX_ATTEMPTS = 3
"""Workers that a chunk may kill before it is an error."""

COMFORT_SEGMENTS = 8
"""Segments beyond which a promise to a reader brings it nothing."""


class InvalidTransition(Exception):
    """An event that cannot be true: a bug in whoever sent it. Carries the events before it."""

    def __init__(self, event: Event, reason: str, recent: list[Event]) -> None:
        story = "\n".join(f"    {past}" for past in recent)
        super().__init__(f"{reason}: {event}\n  after\n{story}")
        self.event = event
        self.recent = recent


@dataclass(frozen=True)
class MemoryView:
    """Bytes of the budget, now."""

    budget_bytes: int
    used_bytes: int
    leased_bytes: int
    peak_bytes: int


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

    def __init__(self, budget_bytes: int, most_segments: int = 2**31) -> None:
        self._budget_bytes = budget_bytes
        self._most_segments = most_segments
        self._used_bytes = 0
        self._leased_bytes = 0
        self._peak_bytes = 0
        self._datasets: dict[str, Dataset] = {}
        self._resident: dict[SegmentId, Segment] = {}
        self._readers: dict[int, Reader] = {}
        self._leases: dict[int, Lease] = {}
        self._idle: dict[int, None] = {}  # workers, in the order in which they became idle
        self._loads: dict[int, LoadState] = {}
        self._last: dict[int, tuple[str, int]] = {}  # by worker: the dataset and chunk it made
        self._finishing: int | None = None  # the worker that will be idle next
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
            case ReaderJoined():
                self._join(event)
            case CreditsGiven():
                self._reader(event.reader).credits += event.grants
            case EpochAdvanced():
                self._advance(self._reader(event.reader), event.epoch)
            case LeasesReleased():
                for lease in event.leases:
                    self._release(lease)
            case ReaderLeft():
                self._leave(self._reader(event.reader))
        self._recent.append(event)
        self._grant_all()
        self._load_all()
        return self._out

    # What others may look at.

    def memory(self) -> MemoryView:
        """The budget's use, now."""
        return MemoryView(
            self._budget_bytes, self._used_bytes, self._leased_bytes, self._peak_bytes
        )

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
        return {
            segment.id: segment.nbytes
            for segment in self._resident.values()
            if segment.id.dataset == dataset
        }

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
        for load in self._loads.values():
            if load.dataset == dataset:
                for split in load.splits:
                    states[split][load.chunk] = chunk_map.LOADING
        # A reader that goes on to its next epoch may lease a segment twice.
        leasing = Counter(
            segment
            for _, segment in {(lease.reader, lease.segment) for lease in self._leases.values()}
        )
        for segment in self._resident:
            if segment.dataset == dataset:
                states[segment.split][segment.chunk] = chunk_map.resident(leasing[segment])
        return {split: bytes(found) for split, found in states.items()}

    def leases(self) -> dict[int, tuple[int, SegmentId]]:
        """All leases: the reader and the segment of each."""
        return {number: (lease.reader, lease.segment) for number, lease in self._leases.items()}

    def in_use(self, dataset: str) -> bool:
        """Whether a reader, or a lease of one that has left, uses the dataset."""
        return any(reader.dataset == dataset for reader in self._readers.values())

    # Datasets.

    def _add_dataset(self, event: DatasetAdded) -> None:
        self._require(event.dataset not in self._datasets, "the dataset exists")
        self._datasets[event.dataset] = Dataset(event.dataset, event.chunks, event.totals)

    def _remove_dataset(self, event: DatasetRemoved) -> None:
        self._require(event.dataset in self._datasets, "no such dataset")
        self._require(not self.in_use(event.dataset), "the dataset is in use")
        for segment in [s for s in self._resident.values() if s.id.dataset == event.dataset]:
            self._evict(segment)
        del self._datasets[event.dataset]

    # Readers.

    def _join(self, event: ReaderJoined) -> None:
        self._require(event.reader not in self._readers, "the reader exists")
        self._require(event.dataset in self._datasets, "no such dataset")
        dataset = self._datasets[event.dataset]
        reader = Reader(
            event.reader,
            event.dataset,
            event.split,
            [
                dataset.range_of(chunk, event.split, event.part)
                for chunk in range(len(dataset.chunks))
            ],
            event.part.rows_before(dataset.total_rows(event.split)),
            event.part,
            event.first_epoch,
            event.epochs,
            event.in_order,
            event.seed,
        )
        try:
            reader.limit_bytes = self._promise(dataset, event.split)
        except BudgetError as error:
            self._out.append(RefuseReader(event.reader, error.message))
            return
        reader.credits = event.credits
        self._readers[reader.id] = reader
        dataset.readers[reader.id] = reader
        self._out.append(AdmitReader(reader.id, reader.rows_per_epoch, reader.limit_bytes))
        if reader.chunks and event.epochs > 0:
            self._start_epoch(reader, event.first_epoch)

    def _keep_promises(self) -> None:
        """Segments have proved larger than planned: the last readers may be too many now."""
        while (active := [r for r in self._readers.values() if not r.left]) and (
            self._promised_bytes() + self._largest_load_bytes() > self._budget_bytes
        ):
            reader = active[-1]
            segment = self._datasets[reader.dataset].largest_segment_bytes[reader.split]
            message = (
                f"segments of {reader.dataset} have turned out larger than was planned (text is "
                "longer, or chunks have more rows of one split), and "
                f"memory_budget={self._budget_bytes:,} bytes cannot hold {len(active)} readers of "
                f"{FLOOR_SEGMENTS} segments of up to {segment:,} each, and one load beside them. "
                "Raise memory_budget, or open the dataset with a smaller chunk_rows"
            )
            self._out.append(FailReader(reader.id, BudgetError.code, message))
            self._leave(reader)

    def _promised_bytes(self) -> int:
        return sum(
            min(limit, self._datasets[key].split_bytes[split])
            for (key, split), limit in self._limits().items()
        )

    def _largest_load_bytes(self) -> int:
        return max(
            (self._datasets[key].largest_segment_bytes[split] for key, split in self._limits()),
            default=0,
        )

    def _promise(self, dataset: Dataset, split: Split) -> int:
        """The bytes of leases that a new reader of the split can be promised (invariant 4)."""
        segment = dataset.largest_segment_bytes[split]
        whole = dataset.split_bytes[split]
        limits = self._limits()
        mine = limits.get((dataset.key, split), 0)
        promised = self._promised_bytes()
        load = max(segment, self._largest_load_bytes())
        free = self._budget_bytes - promised - load
        counted = min(mine, whole)
        if whole - counted <= free // 2:
            return UNLIMITED_BYTES
        floor = FLOOR_SEGMENTS * segment
        if min(mine + floor, whole) - counted > free:
            raise BudgetError(
                f"the memory budget cannot hold another reader of {dataset.key}: of "
                f"memory_budget={self._budget_bytes:,} bytes, {promised:,} are promised to "
                f"{len(self._readers)} readers and the tensors that they still hold, a load needs "
                f"{load:,}, and this reader needs {FLOOR_SEGMENTS} segments of {segment:,} = "
                f"{floor:,}. Raise memory_budget by {floor - free:,} bytes or more, open the "
                "dataset with a smaller chunk_rows, or end other readers"
            )
        return min(max(free // 4, floor), COMFORT_SEGMENTS * segment)

    def _limits(self) -> dict[tuple[str, Split], int]:
        limits: dict[tuple[str, Split], int] = {}
        for reader in self._readers.values():
            key = reader.dataset, reader.split
            limits[key] = limits.get(key, 0) + (
                reader.held_bytes if reader.left else self._limit(reader)
            )
        return limits

    def _limit(self, reader: Reader) -> int:
        segment = self._datasets[reader.dataset].largest_segment_bytes[reader.split]
        return max(reader.limit_bytes, FLOOR_SEGMENTS * segment)

    def _start_epoch(self, reader: Reader, epoch: int) -> None:
        reader.start_epoch(epoch)
        dataset = self._datasets[reader.dataset]
        wanted = dataset.wanted[reader.split]
        loading = self._loading(reader.dataset, reader.split)
        for chunk in reader.pending:
            wanted[chunk] += 1
            if reader.segment(chunk) in self._resident:
                reader.offer(chunk)
            elif chunk not in loading:
                # Who else wants it counts it as absent already.
                dataset.missing[reader.split].add(chunk)
                reader.absent += 1

    def _unwant(self, reader: Reader, chunk: int) -> None:
        """The reader does not want the chunk (any more) in this epoch."""
        reader.pending.discard(chunk)
        dataset = self._datasets[reader.dataset]
        if chunk in dataset.missing[reader.split]:
            reader.absent -= 1
        wanted = dataset.wanted[reader.split]
        wanted[chunk] -= 1
        if not wanted[chunk]:
            dataset.missing[reader.split].discard(chunk)

    def _advance(self, reader: Reader, epoch: int) -> None:
        if reader.left or epoch <= reader.epoch:
            return
        for chunk in list(reader.pending):
            self._unwant(reader, chunk)
        reader.waiting_since = None
        if epoch <= reader.last_epoch:
            self._start_epoch(reader, epoch)

    def _leave(self, reader: Reader) -> None:
        if reader.left:
            return
        for chunk in list(reader.pending):
            self._unwant(reader, chunk)
        reader.left = True
        del self._datasets[reader.dataset].readers[reader.id]
        self._forget_if_gone(reader)

    def _release(self, number: int) -> None:
        self._require(number in self._leases, f"no lease {number}")
        lease = self._leases.pop(number)
        reader = self._readers[lease.reader]
        reader.held_bytes -= lease.nbytes
        reader.held_leases -= 1
        segment = self._resident[lease.segment]
        segment.leases -= 1
        if not segment.leases:
            self._leased_bytes -= segment.nbytes
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
            segment = Segment(
                SegmentId(load.dataset, load.chunk, split), nbytes, last_used=self._clock
            )
            if dataset is None:  # removed while it was being loaded
                self._out.append(Evict(segment.id))
                continue
            self._require(
                nbytes <= load.reserved_bytes, "more than was reserved or allowed was published"
            )
            self._require(segment.id not in self._resident, "the segment is resident already")
            self._use(nbytes)
            self._resident[segment.id] = segment
            dataset.end_missing(load.chunk, split)
            for reader in dataset.active(split):
                reader.offer(load.chunk)
        if dataset is not None:
            dataset.attempts.pop(load.chunk, None)
            self._last[event.worker] = load.dataset, load.chunk

    def _find(self, dataset: Dataset, chunk: int, found: Found, worker: int | None = None) -> None:
        """An open chunk is known now, and so is the one that follows it."""
        dataset.find(chunk, found.chunk)
        here = [reader for reader in dataset.readers.values() if chunk in reader.pending]
        for reader in dataset.readers.values():
            rows = dataset.range_of(chunk, reader.split, reader.part)
            assert rows is not None, "it has just been found"
            reader.find(chunk, rows)
            if not rows.rows and chunk in reader.pending:
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
                dataset.wanted[reader.split][following] += 1
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
            self._keep_promises()
        if self._make_room(event.nbytes, wanted_too=True):
            load.reserved_bytes = total
            self._use(event.nbytes)
            self._out.append(AllowBytes(event.worker))
            return
        self._out.append(AbandonLoad(event.worker))
        self._end_load(event.worker)
        if self._loads or self._leased_bytes:
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
        self._used_bytes -= load.reserved_bytes
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
        for reader in list(self._readers.values()):
            if reader.left:
                continue
            while reader.credits and reader.pending and self._grant_one(reader):
                pass
            waits = reader.credits > 0 and bool(reader.pending)
            if not waits:
                reader.waiting_since = None
            elif reader.waiting_since is None:
                reader.waiting_since = self._clock

    def _grant_one(self, reader: Reader) -> bool:
        dataset = self._datasets[reader.dataset]
        segment = policy.next_grant(reader, dataset, self._resident)
        if segment is None:
            return False
        if not self._may_hold(reader, segment.nbytes):
            return False
        chunk = segment.id.chunk
        lease = self._next_lease
        self._next_lease += 1
        self._leases[lease] = Lease(reader.id, segment.id, segment.nbytes)
        if not segment.leases:
            self._leased_bytes += segment.nbytes
        segment.leases += 1
        segment.last_used = self._clock
        reader.held_bytes += segment.nbytes
        reader.held_leases += 1
        reader.credits -= 1
        rows = reader.rows_of(chunk)
        reader.rows_granted += rows.rows
        self._out.append(Grant(lease, reader.id, segment.id, reader.epoch, rows))
        reader.epoch_rows_granted += rows.rows
        self._unwant(reader, chunk)
        self._end_epoch_if_done(reader)
        return True

    def _end_epoch_if_done(self, reader: Reader) -> None:
        if not reader.pending and reader.epochs_left > 0:
            self._start_epoch(reader, reader.epoch + 1)

    def _may_hold(self, reader: Reader, nbytes: int) -> bool:
        return reader.held_leases < FLOOR_SEGMENTS or reader.held_bytes + nbytes <= self._limit(
            reader
        )

    def _load_all(self) -> None:
        while any(self._load_one(worker) for worker in list(self._idle)):
            pass

    def _load_one(self, worker: int) -> bool:
        """Gives an idle worker a chunk to load, if there is one for it and room for that."""
        unserved = self._unserved()
        choice = policy.next_load(
            self._datasets.values(),
            unserved,
            self._ready_chunks,
            self._last.get(worker),
            lambda dataset: self._not_for(dataset, worker),
        )
        if choice is None:
            return False
        dataset, chunk, reader = choice
        nbytes = dataset.segment_bytes(chunk, reader.split)
        if not self._make_room(nbytes, wanted_too=reader in unserved):
            return False
        self._start_load(worker, dataset, chunk, reader.split)
        return True

    def _not_for(self, dataset: Dataset, worker: int) -> set[int]:
        """Open chunks that this worker must not, or had better not, load.

        One that is being loaded, for whichever split, is about to be found out: a second load would
        find it out twice. And one that follows what another worker has just read is left to it: its
        connections stand where the chunk begins; anybody else would have to open them anew.
        """
        loading = {load.chunk for load in self._loads.values() if load.dataset == dataset.key}
        return {
            chunk
            for chunk in dataset.open
            if chunk in loading
            or (
                (owner := dataset.owners.get(chunk, worker)) != worker
                and (owner in self._idle or owner == self._finishing)
            )
        }

    def _start_load(self, worker: int, dataset: Dataset, chunk: int, split: Split) -> None:
        """Loads a chunk for one split, for which there is room, and keeps the other if it can."""
        splits = [split]
        reserved = dataset.segment_bytes(chunk, split)
        (other,) = (each for each in SPLITS if each != split)
        if self._could_keep(dataset, chunk, other):
            nbytes = dataset.segment_bytes(chunk, other)
            wanted = chunk in dataset.missing[other]
            if self._make_room(reserved + nbytes, wanted_too=False, evict=wanted):
                splits.append(other)
                reserved += nbytes
        self._use(reserved)
        self._loads[worker] = LoadState(dataset.key, chunk, tuple(splits), reserved)
        for each in splits:
            dataset.end_missing(chunk, each)
        del self._idle[worker]
        self._out.append(Load(worker, dataset.key, chunk, tuple(splits), reserved))

    def _could_keep(self, dataset: Dataset, chunk: int, split: Split) -> bool:
        """Whether a load of the chunk would yield the split, and nobody has it or makes it."""
        return (
            bool(dataset.chunks[chunk].rows.get(split))
            and SegmentId(dataset.key, chunk, split) not in self._resident
            and chunk not in self._loading(dataset.key, split)
        )

    def _unserved(self) -> list[Reader]:
        """Readers that wait, may hold more, and have no load under way for them; longest first."""
        found = []
        for reader in self._readers.values():
            if reader.left or reader.waiting_since is None:
                continue
            dataset = self._datasets[reader.dataset]
            if not reader.absent:
                continue
            if policy.next_grant(reader, dataset, self._resident) is not None:
                continue  # it waits to be rid of a lease, not for a chunk
            loading = self._loading(reader.dataset, reader.split)
            if reader.in_order:
                served = reader.next_in_order() in loading
            else:
                served = bool(loading & reader.pending)
            if not served and self._may_hold(reader, dataset.largest_segment_bytes[reader.split]):
                found.append(reader)
        found.sort(key=lambda reader: (reader.waiting_since, reader.id))
        return found

    def _loading(self, dataset: str, split: Split) -> set[int]:
        return {
            load.chunk
            for load in self._loads.values()
            if load.dataset == dataset and split in load.splits
        }

    def _ready_chunks(self, reader: Reader) -> int:
        return len(reader.pending) - reader.absent

    def _make_room(self, nbytes: int, *, wanted_too: bool, evict: bool = True) -> bool:
        """Evicts until `nbytes` are free, or evicts nothing and says that it cannot be done."""
        short = self._used_bytes + nbytes - self._budget_bytes
        # A load makes two segments at most.
        too_many = len(self._resident) + 2 * (len(self._loads) + 1) - self._most_segments
        if (short > 0 or too_many > 0) and not evict:
            return False
        chosen: list[Segment] = []
        if short > 0 or too_many > 0:
            for segment in policy.victims(
                self._resident.values(), self._datasets, wanted_too=wanted_too
            ):
                chosen.append(segment)
                short -= segment.nbytes
                too_many -= 1
                if short <= 0 and too_many <= 0:
                    break
            else:
                return False
        for segment in chosen:
            self._evict(segment)
        return True

    def _evict(self, segment: Segment) -> None:
        self._require(not segment.leases, f"{segment.id} is leased")
        del self._resident[segment.id]
        self._used_bytes -= segment.nbytes
        dataset = self._datasets[segment.id.dataset]
        if dataset.wanted[segment.id.split][segment.id.chunk]:
            dataset.add_missing(segment.id.chunk, segment.id.split)
        self._out.append(Evict(segment.id))

    def _use(self, nbytes: int) -> None:
        self._used_bytes += nbytes
        self._peak_bytes = max(self._peak_bytes, self._used_bytes)
        self._require(self._used_bytes <= self._budget_bytes, "the budget is exceeded")

    def _reader(self, reader: int) -> Reader:
        self._require(reader in self._readers, f"no reader {reader}")
        return self._readers[reader]

    def _require(self, truth: bool, reason: str) -> None:
        if not truth:
            assert self._event is not None
            raise InvalidTransition(self._event, reason, list(self._recent))


def required_bytes(largest_segment_bytes: int) -> int:
    """The least budget that one reader can get on with: what it may lease, and one load."""
    return (FLOOR_SEGMENTS + 1) * largest_segment_bytes
