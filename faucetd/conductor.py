"""The conductor: tells the scheduler what happens, and does what it says.

It owns what exists: datasets and their plans, sealed segments, handles, readers' streams. It
decides nothing that the scheduler could decide. Everything runs on the event loop, one event at a
time, and nothing in here blocks.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path

from msgspec.structs import astuple

from faucet_client._memory import is_sealed, page_rounded
from faucet_client._version import __version__
from faucet_client.layout import SegmentLayout
from faucet_client.spec import SPLITS, DatasetSpec
from faucet_client.status import (
    DatasetStatus,
    MemoryStatus,
    Status,
    WorkerStatus,
)
from faucetd.config import Settings
from faucetd.dataset import OpenDataset, rows_of
from faucetd.dealt import DealtFolders
from faucetd.errors import (
    DaemonLost,
    DaemonUnreachable,
    DatasetInUse,
    DatasetNotFound,
    FaucetError,
    InternalError,
    SourceChanged,
    SourceNotFound,
    SpecError,
    from_code,
)
from faucetd.journal import PlanJournal
from faucetd.openings import Openings, WorkerTasks
from faucetd.orphans import Orphans
from faucetd.progress import with_lag
from faucetd.publish.spill import Leftover, SpillFolder
from faucetd.readers import Reader, Readers
from faucetd.schedule import events, instructions
from faucetd.schedule.instructions import SegmentId
from faucetd.schedule.scheduler import (
    InvalidTransition,
    Scheduler,
)
from faucetd.serve.backend import (
    DatasetInfo,
    OpenProgress,
    Profiled,
    ReaderRequest,
)
from faucetd.serve.sessions import Session
from faucetd.spilling import Spilling
from faucetd.worker import messages
from faucetd.worker.pool import WorkerPool
from faucetd.worker.specs import profile_path

_log = logging.getLogger(__name__)


class Conductor:
    """Implements serve.backend.Backend and worker.pool.PoolListener."""

    def __init__(
        self,
        settings: Settings,
        scratch_dir: Path,
        journal: PlanJournal,
        dealt: DealtFolders,
        spill: SpillFolder | None = None,
        spill_budget: int = 0,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._access = messages.Access(
            tuple(str(root) for root in settings.allowed_roots),
            str(scratch_dir),
            settings.bigquery,
            specs_dir=str(settings.scratch_dir / "specs"),
            dealt_dir=str(dealt.folder),
            dealt_budget=dealt.budget_bytes,
            dealt_since=dealt.since,
        )
        self._scheduler = Scheduler(settings.memory_budget, _most_segments(), spill_budget)
        self._spilling = Spilling(spill, self.happened)
        self._orphans = Orphans(settings.memory_budget, self.happened, self._scheduler.starved)
        self._pool: WorkerPool | None = None
        self._forget_session: Callable[[Session], None] = lambda _session: None
        self._broken: Callable[[Exception], None] = lambda _error: None
        self._draining = False
        self._started_at = time.monotonic()
        self._datasets: dict[str, OpenDataset] = {}
        self._segments: dict[SegmentId, tuple[int, SegmentLayout]] = {}
        self._readers = Readers(
            self._scheduler,
            self.happened,
            self._reader_leaves,
            self._use_idle_workers_for_tasks,
            self._reader_is_over,
        )
        self._schedulable: dict[int, None] = {}  # idle workers that the scheduler disposes of
        self._loading: dict[int, instructions.Load] = {}
        self._tasks = WorkerTasks(self._use_idle_workers_for_tasks, self._most_opens)
        self._openings = Openings(
            settings,
            self._access,
            journal,
            self._tasks,
            self._datasets,
            self._scheduler,
            self.happened,
            self._is_read,
            self._spilling,
            dealt,
            spill_budget,
        )

    def wire(
        self,
        pool: WorkerPool,
        forget_session: Callable[[Session], None],
        broken: Callable[[Exception], None],
    ) -> None:
        """Hands over what could only be made once this existed.

        Args:
            pool: The workers.
            forget_session: Called when a session is over while its process lives.
            broken: Called with a bug after which nothing can be promised.
        """
        self._pool = pool
        self._forget_session = forget_session
        self._broken = broken

    def take_up_spilled(self, leftovers: Iterable[Leftover]) -> None:
        """An earlier daemon's spill files are used, once their datasets are opened."""
        self._spilling.take_up(leftovers)

    async def finish_spilling(self, timeout_s: float) -> None:
        """Waits for what is to be written to disk, but no longer than that."""
        await self._spilling.finish(timeout_s)

    def drain(self) -> None:
        """No new datasets and readers from now on."""
        self._draining = True

    def end_readers(self) -> None:
        """Tells the readers that are left that the daemon stops."""
        for reader in self._readers:
            reader.tell(DaemonLost("the daemon was stopped; start it again"))

    def workers_cannot_start(self, story: str) -> None:
        """Whoever waits for a dataset to be opened would wait for ever."""
        self._tasks.fail_all(
            InternalError(
                f"the daemon's workers cannot start: the last one {story}. Its last words are in "
                "the daemon's log"
            )
        )

    # Events and instructions.

    def happened(self, event: events.Event) -> None:
        """Tells the scheduler, and does what it says."""
        try:
            todo = self._scheduler.handle(event)
        except InvalidTransition as error:
            self._broken(error)
            raise
        for instruction in todo:
            self._carry_out(instruction)

    def _carry_out(self, instruction: instructions.Instruction) -> None:
        match instruction:
            case instructions.Load():
                self._load(instruction)
            case instructions.AllowBytes():
                self._workers().answer(instruction.worker, allowed=True)
            case instructions.AbandonLoad():
                self._workers().answer(instruction.worker, allowed=False)
            case instructions.Evict():
                fd, _ = self._segments.pop(instruction.segment)
                os.close(fd)
            case instructions.Spill():
                mark = self._datasets[instruction.segment.dataset].mark
                fd, layout = self._segments[instruction.segment]
                self._spilling.write(instruction.segment, mark, fd, layout)
            case instructions.DropSpilled():
                self._spilling.remove(instruction.segment)
            case instructions.RestoreSegment():
                self._spilling.restore(instruction, self._take_restored)
            case instructions.AdmitReader():
                self._readers.admit(instruction)
            case instructions.RefuseReader():
                self._readers.refuse(instruction)
            case instructions.FailReader():
                self._readers.fail(instruction)
            case instructions.Grant():
                segment = instruction.segment
                warning = self._datasets[segment.dataset].warning
                self._readers.grant(
                    instruction,
                    self._segments[segment],
                    warning if segment.split == "train" else "",
                )

    def _load(self, load: instructions.Load) -> None:
        dataset = self._datasets[load.dataset]
        self._schedulable.pop(load.worker)
        self._loading[load.worker] = load
        self._workers().give(
            load.worker,
            messages.LoadChunk(
                dataset=load.dataset,
                spec=dataset.described,
                snapshot=dataset.opened.snapshot,
                ticket=dataset.ticket,
                access=self._access,
                number=load.chunk,
                chunk=dataset.chunks[load.chunk],
                chunk_rows=dataset.opened.chunk_rows,
                splits=load.splits,
                reserved_bytes=load.reserved_bytes,
                preprocessing=dataset.opened.preprocessing,
                dealt=dataset.dealt,
            ),
        )

    def _take_restored(self, segment: SegmentId, fd: int, layout: SegmentLayout) -> str:
        """Takes over a segment that was read back; or says what is wrong with it."""
        dataset = self._datasets.get(segment.dataset)
        if dataset is not None:  # else it was removed meanwhile, and the scheduler evicts it
            rows = rows_of(dataset.chunks[segment.chunk], segment.split)
            if layout.rows != rows:
                return f"the spill file of {segment} has {layout.rows:,} rows instead of {rows:,}"
        self._segments[segment] = (fd, layout)
        return ""

    # What the workers say (PoolListener).

    def worker_ready(self, worker: int) -> None:
        self._give_work(worker)

    def worker_said(self, worker: int, message: messages.FromWorker, fds: list[int]) -> None:
        match message:
            case messages.Progress():
                self._tasks.progressed(worker, message)
            case messages.Opened() | messages.SnapshotIs():
                self._tasks.replied(worker, message)
                self._give_work(worker, has_opened=True)
            case messages.ExtraBytes():
                self.happened(events.ExtraBytesWanted(worker, message.nbytes))
            case messages.Loaded():
                self._loaded(worker, message, fds)
            case messages.Abandoned():
                del self._loading[worker]
                self._give_work(worker)
            case messages.Failed():
                self._failed(worker, message)
            case _:
                raise InternalError(f"worker {worker} said {message}")

    def worker_died(self, worker: int, story: str) -> None:
        self._schedulable.pop(worker, None)
        self._loading.pop(worker, None)
        self._tasks.died(worker, story)
        self.happened(events.WorkerDied(worker))
        self._use_idle_workers_for_tasks()

    def _loaded(self, worker: int, message: messages.Loaded, fds: list[int]) -> None:
        load = self._loading.pop(worker)
        dataset = self._datasets.get(load.dataset)
        for layout, fd in zip(message.segments.values(), fds, strict=True):
            if not is_sealed(fd) or page_rounded(os.fstat(fd).st_size) != layout.nbytes:
                raise InternalError(f"worker {worker} published a segment that is not sealed")
        found = None
        if dataset is not None:
            try:
                self._refuse_if_broken(dataset)  # by what another worker has read meanwhile
                if message.found is not None:
                    dataset.check(load.chunk, message.found)
                    self._write_down(load, message.found)
                    found = dataset.find(load.chunk, message.found)
            except SourceChanged as error:
                for fd in fds:
                    os.close(fd)
                self._break(dataset, error)
                self.happened(events.ChunkFailed(worker, error.code, error.message))
                self._give_work(worker)
                return
        for (split, layout), fd in zip(message.segments.items(), fds, strict=True):
            self._segments[SegmentId(load.dataset, load.chunk, split)] = (fd, layout)
        if dataset is not None:
            dataset.made(load.chunk, message)
        _log.debug(
            "chunk %d of %s is loaded: %d rows, fetch %.4f s, prepare %.4f s, publish %.4f s",
            load.chunk,
            load.dataset,
            message.rows_read,
            *astuple(message.seconds),
        )
        sizes = {split: layout.nbytes for split, layout in message.segments.items()}
        self.happened(events.ChunkLoaded(worker, sizes, found))
        self._give_work(worker)

    def _write_down(self, load: instructions.Load, found: messages.FoundChunk) -> None:
        try:
            self._journal.append(load.dataset, load.chunk, found)
        except OSError as error:
            raise SourceChanged(
                f"the plan of dataset {load.dataset} cannot be written down in scratch_dir "
                f"{self._settings.scratch_dir}: {error}; make room there, and open it anew"
            ) from error

    def _break(self, dataset: OpenDataset, error: FaucetError) -> None:
        """The dataset is not what it was opened as: all its readers fail, aloud."""
        self._give_up(dataset, error)
        for reader in self._readers.live(dataset.key):
            reader.tell(error)
            self._readers.left(reader)

    def _give_up(self, dataset: OpenDataset, error: FaucetError) -> None:
        """The dataset cannot be read as it was opened any more.

        Readers go on with what is in memory. No other begins; who asks for the same gets a new one.
        """
        if not dataset.broken:
            _log.error("%s: %s", dataset.key, error)
            dataset.broken = error.message
            self._journal.forget(dataset.key)

    def _refuse_if_broken(self, dataset: OpenDataset) -> None:
        """Raises SourceChanged if the dataset cannot be read any more."""
        if dataset.broken:
            raise SourceChanged(
                f"dataset {dataset.key} cannot be read any more; open it anew with "
                f"FaucetClient.open(). What happened: {dataset.broken}"
            )

    def _failed(self, worker: int, message: messages.Failed) -> None:
        error = from_code(message.code, message.message)
        is_task = self._tasks.failed(worker, error)
        if not is_task:
            load = self._loading.pop(worker)
            if (dataset := self._datasets.get(load.dataset)) is not None:
                if dataset.ticket and isinstance(error, SourceChanged | SourceNotFound):
                    error = type(error)(error.message + self._why_again(dataset, load.chunk))
                    self._give_up(dataset, error)
                dataset.failures[load.chunk] = error.message
            _log.error("chunk %d of %s: %s", load.chunk, load.dataset, error.message)
            self.happened(events.ChunkFailed(worker, error.code, error.message))
        self._give_work(worker, has_opened=is_task)

    def _why_again(self, dataset: OpenDataset, chunk: int) -> str:
        return dataset.why_again(
            chunk,
            self._scheduler.nbytes(dataset.key),
            self._settings.memory_budget,
            self._scheduler.spill().budget_bytes,
        )

    def _give_work(self, worker: int, *, has_opened: bool = False) -> None:
        """An idle worker opens what waits to be opened, else it is the scheduler's.

        After it has opened something, it is the scheduler's first: where there is one worker
        alone, openings and loads take turns.
        """
        self._workers().done(worker)
        if self._tasks and not has_opened:
            self._workers().give(worker, self._tasks.start(worker))
            self.happened(events.WorkerTaken(worker))
            return
        self._schedulable[worker] = None
        self.happened(events.WorkerIdle(worker))
        self._use_idle_workers_for_tasks()

    def _most_opens(self) -> int:
        """While anybody reads, one worker is left to load chunks, if there are several."""
        workers = self._settings.workers
        return max(workers - 1, 1) if self.has_readers() else workers

    def _is_read(self, key: str) -> bool:
        return bool(self._readers.live(key))

    def _use_idle_workers_for_tasks(self) -> None:
        while self._tasks and self._schedulable:
            worker = next(iter(self._schedulable))
            del self._schedulable[worker]
            self.happened(events.WorkerTaken(worker))
            self._workers().give(worker, self._tasks.start(worker))

    # Datasets (Backend).

    def open_dataset(
        self, spec: DatasetSpec, key: str
    ) -> AsyncIterator[OpenProgress | DatasetInfo]:
        """See serve.backend.Backend."""
        self._refuse_if_draining()
        return self._openings.open(spec, key)

    async def profile(self, key: str) -> Profiled:
        """See serve.backend.Backend.profile."""
        dataset = self._datasets[_whole_key(key, self._datasets)]
        fit_key = dataset.opened.fit_key
        path = profile_path(self._access.specs_dir, fit_key)
        try:
            read = partial(path.read_text, encoding="utf-8", errors="replace")
            text = await asyncio.to_thread(read) if fit_key else ""
        except FileNotFoundError:
            text = ""
        if not text:
            raise DatasetNotFound(
                f"the dataset {dataset.key} has no profile: one is made when a preprocessing is "
                'fitted; open it with preprocessing="auto"'
            )
        return Profiled(dataset.key, {split: dataset.rows(split) for split in SPLITS}, text)

    def drop(self, key: str) -> tuple[str, int]:
        """Forgets the dataset whose key begins with `key`."""
        open_or_spilled = [*self._datasets, *self._scheduler.spilled_datasets()]
        whole = _whole_key(key, list(dict.fromkeys(open_or_spilled)))
        if self._scheduler.in_use(whole):
            users = sorted(
                {
                    f"{reader.request.job} (pid {reader.session.pid})"
                    for reader in self._readers
                    if reader.request.dataset_key == whole
                }
            )
            if not users:
                raise DatasetInUse(
                    f"dataset {whole} is just being read from its source: try again in a moment"
                )
            raise DatasetInUse(
                f"dataset {whole} is in use by {', '.join(users)}: end these jobs, or let go of "
                "the tensors that they hold, and try again"
            )
        freed = sum(self._scheduler.resident(whole).values())
        freed += sum(self._scheduler.spilled(whole).values())
        self._openings.remove(whole)
        return whole, freed

    # Readers (Backend).

    async def read(self, session: Session, request: ReaderRequest) -> Reader:
        """Starts a reader, as soon as its name is free."""
        self._refuse_if_draining()
        self._refuse_unless_open(request.dataset_key)
        self._readers.refuse_if_too_many(session)
        await self._readers.name_is_free(session, request)
        self._refuse_unless_open(request.dataset_key)  # still, after that wait
        if request.deterministic and not self._datasets[request.dataset_key].reproducible:
            raise SpecError(
                f"dataset {request.dataset_key} has chunks as the warehouse's streams brought "
                'their rows, which another run would not: order="deterministic" needs the dataset '
                'to be opened with chunking="hash"'
            )
        return self._readers.start(session, request)

    def release(self, session: Session, leases: tuple[int, ...]) -> None:
        """See serve.backend.Backend."""
        self._readers.release(session, leases)

    def _reader_leaves(self, reader: Reader) -> None:
        if (dataset := self._datasets.get(reader.request.dataset_key)) is not None:
            dataset.rows_served[reader.request.split] += self._readers.rows_granted(reader)

    def _reader_is_over(self, reader: Reader) -> None:
        self._end_if_over(reader.session)
        if (dataset := self._datasets.get(reader.request.dataset_key)) is not None:
            dataset.used_at = time.monotonic()
            self._openings.retire()

    def _refuse_unless_open(self, key: str) -> None:
        dataset = self._datasets.get(key)
        if dataset is None:
            raise DatasetNotFound(
                f"dataset {key} is not open any more; open it anew with FaucetClient.open()"
            )
        self._refuse_if_broken(dataset)

    def _refuse_if_draining(self) -> None:
        if self._draining:
            raise DaemonUnreachable("this daemon is stopping; try again when it has been restarted")

    # Sessions (Backend).

    def orphaned(
        self, session: Session, held: Mapping[int, int], released: Collection[int]
    ) -> None:
        """See serve.backend.Backend."""
        self._orphans.change(session, held, released)
        self._end_if_over(session)

    def session_quiet(self, session: Session) -> None:
        """See serve.backend.Backend."""
        self._end_if_over(session)

    def session_died(self, session: Session) -> None:
        """See serve.backend.Backend."""
        self._readers.release_all_of(session)
        self._orphans.forget(session)

    def _end_if_over(self, session: Session) -> None:
        if session.ended or not session.said_goodbye:
            return
        if not self._readers.of_session(session) and not self._orphans.holds(session):
            self._forget_session(session)

    # Status (Backend).

    def status(self) -> Status:
        """See serve.backend.Backend."""
        memory, spill = self._scheduler.memory(), self._scheduler.spill()
        return Status(
            version=__version__,
            pid=os.getpid(),
            uptime_s=time.monotonic() - self._started_at,
            memory=MemoryStatus(
                memory.budget_bytes,
                memory.used_bytes,
                memory.leased_bytes,
                memory.peak_bytes,
                memory.orphaned_bytes,
            ),
            workers=tuple(WorkerStatus(pid, state) for pid, state in self._workers().states()),
            datasets=tuple(self._dataset_status(key) for key in self._datasets),
            readers=with_lag(self._readers.statuses()),
            spill_budget_bytes=spill.budget_bytes,
            spill_used_bytes=spill.used_bytes,
            alerts=tuple(self._spilling.alerts),
        )

    def _dataset_status(self, key: str) -> DatasetStatus:
        dataset = self._datasets[key]
        served = Counter(dataset.rows_served) + self._readers.rows_served(key)
        return dataset.status(
            self._scheduler.resident(key),
            self._scheduler.spilled(key),
            self._spilling.restored[key],
            self._scheduler.chunk_map(key),
            served,
            self._settings.bigquery,
        )

    def close(self) -> None:
        """Closes every segment; what trainers have mapped stays theirs."""
        self._spilling.close()
        self._orphans.close()
        for fd, _ in self._segments.values():
            os.close(fd)
        self._segments.clear()
        self._schedulable.clear()

    def has_readers(self) -> bool:
        """Whether a live reader is under way."""
        return bool(self._readers)

    def _workers(self) -> WorkerPool:
        assert self._pool is not None, "wire() comes before everything else"
        return self._pool


def _most_segments() -> int:
    """Segments that can exist at a time: each is an open descriptor, and sessions need some too."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(soft // 2, 64)


def _whole_key(key: str, known: Collection[str]) -> str:
    """The key that begins with `key`."""
    found = [one for one in known if key and one.startswith(key)]
    if not found:
        there = ", ".join(known) or "none"
        raise DatasetNotFound(f"no open dataset has the key {key!r}; open are: {there}")
    if len(found) > 1:
        raise DatasetNotFound(f"{key!r} begins several keys: {', '.join(found)}")
    return found[0]
