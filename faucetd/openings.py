"""Opening datasets: who asks for the same waits for the same, and joins what is open already.

`WorkerTasks` is what waits for a worker, `Openings` what clients wait for. Everything runs on the
event loop; the conductor hands tasks to workers and tells what they say.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from faucet_client.spec import SPLITS, BigQuerySource, DatasetSpec
from faucetd.config import Settings
from faucetd.dataset import OpenDataset, rows_of
from faucetd.dealt import DealtFolders
from faucetd.errors import (
    BudgetError,
    ChunkFailed,
    ConfigError,
    FaucetError,
    SourceEmpty,
    SpecError,
)
from faucetd.journal import PlanJournal
from faucetd.schedule import events
from faucetd.schedule.promises import required_bytes
from faucetd.schedule.scheduler import MAX_ATTEMPTS, Scheduler
from faucetd.schedule.state import FLOOR_SEGMENTS
from faucetd.serve.backend import DatasetInfo, OpenProgress
from faucetd.spilling import Spilling
from faucetd.worker import messages

_log = logging.getLogger(__name__)

MAX_CHUNKS = 20_000
"""Of one dataset. More would cost the scheduler more than they can bring."""

MOST_UNUSED = 16
"""Of the datasets that nobody reads and nobody can join, so many are kept: a client may still hold
one, and read it again. Which were not used for longest go first."""

Task = messages.Open | messages.CheckSnapshot
Reply = messages.Opened | messages.SnapshotIs


@dataclass(eq=False)
class _Waiting:
    """A task that one or more clients wait for."""

    task: Task
    done: asyncio.Future[Reply]
    progress: OpenProgress | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    attempts: int = 0
    started: bool = False


class WorkerTasks:
    """Tasks for workers, first come, first served, and who does which.

    An `Open` may take an hour, which a warehouse's query may. So that chunks are loaded meanwhile,
    it waits while too many workers open already; what comes after it and is short does not.

    Args:
        wake: Called when there is a new task, for idle workers to be given it.
        most_opens: So many workers may be opening now.
    """

    def __init__(self, wake: Callable[[], None], most_opens: Callable[[], int]) -> None:
        self._wake = wake
        self._most_opens = most_opens
        self._waiting: list[_Waiting] = []
        self._running: dict[int, _Waiting] = {}

    def __bool__(self) -> bool:
        """Whether a worker may start one now."""
        return self._next() is not None

    def add(self, task: Task) -> _Waiting:
        """One more task; `done` of what comes back has its reply, or raises."""
        waiting = _Waiting(task, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._wake()
        return waiting

    def start(self, worker: int) -> Task:
        """The next task, which this worker does from now on."""
        waiting = self._next()
        assert waiting is not None, "who asks has looked"
        self._waiting.remove(waiting)
        self._running[worker] = waiting
        waiting.started = True
        return waiting.task

    def _next(self) -> _Waiting | None:
        # What nobody waits for any more is over before it began.
        self._waiting = [one for one in self._waiting if not one.done.done()]
        opens = sum(isinstance(one.task, messages.Open) for one in self._running.values())
        full = opens >= self._most_opens()
        for waiting in self._waiting:
            if not (full and isinstance(waiting.task, messages.Open)):
                return waiting
        return None

    def progressed(self, worker: int, message: messages.Progress) -> None:
        """The worker has come so far."""
        waiting = self._running[worker]
        waiting.progress = OpenProgress(message.stage, message.rows_done, message.rows_total)
        waiting.changed.set()

    def replied(self, worker: int, reply: Reply) -> None:
        """The worker has done it."""
        waiting = self._running.pop(worker)
        if not waiting.done.done():
            waiting.done.set_result(reply)

    def failed(self, worker: int, error: FaucetError) -> bool:
        """What the worker does cannot be done. False if that was no task of these."""
        waiting = self._running.pop(worker, None)
        if waiting is not None:
            _fail(waiting, error)
        return waiting is not None

    def died(self, worker: int, story: str) -> None:
        """The worker's process is gone; another one tries, unless too many have."""
        waiting = self._running.pop(worker, None)
        if waiting is None:
            return
        waiting.started = False
        waiting.attempts += 1
        if waiting.attempts < MAX_ATTEMPTS:
            self._waiting.insert(0, waiting)
            return
        message = (
            f"opening the dataset killed {waiting.attempts} workers; the last one {story}. The "
            "daemon's log has their last words"
        )
        _fail(waiting, ChunkFailed(message))

    def fail_all(self, error: FaucetError) -> None:
        """Nobody will ever do what waits."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            _fail(one, error)


def _fail(waiting: _Waiting, error: FaucetError) -> None:
    if not waiting.done.done():
        waiting.done.set_exception(error)


class Openings:
    """Opens datasets, and joins them.

    Args:
        settings: The daemon's.
        access: What workers may read.
        journal: Where plans of earlier daemons are.
        tasks: Where work for workers is left.
        datasets: The open datasets by key, which this adds to.
        scheduler: Is asked what is in memory and in use.
        happened: Tells the scheduler.
        is_read: Whether a live reader reads the dataset of a key.
        spilling: Removes the spill files of datasets that are forgotten.
        dealt: The folders of dealt rows.
        spill_budget: Bytes of disk that prepared chunks may take.
    """

    def __init__(
        self,
        settings: Settings,
        access: messages.Access,
        journal: PlanJournal,
        tasks: WorkerTasks,
        datasets: dict[str, OpenDataset],
        scheduler: Scheduler,
        happened: Callable[[events.Event], None],
        is_read: Callable[[str], bool],
        spilling: Spilling,
        dealt: DealtFolders,
        spill_budget: int,
    ) -> None:
        self._settings = settings
        self._access = access
        self._journal = journal
        self._tasks = tasks
        self._datasets = datasets
        self._scheduler = scheduler
        self._happened = happened
        self._is_read = is_read
        self._spilling = spilling
        self._dealt = dealt
        self._spill_budget = spill_budget
        self._by_request: dict[DatasetSpec, asyncio.Task[str]] = {}
        self._clients: Counter[asyncio.Task[str]] = Counter()  # who wait for its end
        self._progress: dict[DatasetSpec, _Waiting] = {}

    async def open(self, spec: DatasetSpec, key: str) -> AsyncIterator[OpenProgress | DatasetInfo]:
        """Opens the dataset, or joins it; see serve.backend.Backend.open_dataset."""
        if self._known(spec, key):
            yield self._datasets[key].info()
            return
        task = self._by_request.get(spec)
        if task is None:
            task = asyncio.create_task(self._open(spec))
            self._by_request[spec] = task
            task.add_done_callback(lambda done: self._ended(spec, done))
        self._clients[task] += 1
        try:
            async for progress in self._progress_of(spec, task):
                yield progress
            yield self._datasets[task.result()].info()
        finally:
            self._clients[task] -= 1
            self._drop_if_alone(spec, task)

    async def _progress_of(
        self, spec: DatasetSpec, task: asyncio.Task[str]
    ) -> AsyncIterator[OpenProgress]:
        """How far an opening is, until its end."""
        while not task.done():
            waiting = self._progress.get(spec)
            if waiting is None:
                await asyncio.wait([task], timeout=0.2)
                continue
            waiting.changed.clear()
            changed = asyncio.ensure_future(waiting.changed.wait())
            await asyncio.wait([task, changed], return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            if not task.done() and waiting.progress is not None:
                yield waiting.progress

    def _drop_if_alone(self, spec: DatasetSpec, task: asyncio.Task[str]) -> None:
        """Ends an opening whose clients have all gone, unless a worker has begun with it."""
        if self._clients[task]:
            return
        del self._clients[task]
        waiting = self._progress.get(spec)
        if not task.done() and (waiting is None or not waiting.started):
            task.cancel()
            del self._by_request[spec]

    def _ended(self, spec: DatasetSpec, task: asyncio.Task[str]) -> None:
        if self._by_request.get(spec) is task:
            del self._by_request[spec]
        self._sweep_dealt()
        if not task.cancelled() and (error := task.exception()) is not None:
            # Whoever waited is told, and nobody may have waited: a failure is never cached.
            _log.info("opening %s failed: %s", spec.source, error)

    async def _open(self, spec: DatasetSpec) -> str:
        """The key of the dataset, which is open when this returns."""
        if isinstance(spec.source, BigQuerySource):
            joined = self._join_warehouse(spec)
        else:
            joined = await self._join_files(spec)
        if joined is not None:
            return joined
        described = messages.describe_spec(spec)
        opened = await self._run(
            spec,
            messages.Open(
                described,
                self._access,
                os.getuid(),
                self._settings.workers,
                self._tiers_bytes,
            ),
        )
        assert isinstance(opened, messages.Opened)
        dataset = OpenDataset(spec, opened, time.time())
        self._check(dataset)
        if dataset.ticket:
            self._write_down(dataset)
        if dataset.key in self._datasets:
            # The same chunks, dealt anew by the warehouse because those before end soon; or the
            # same rows, from other files.
            before = self._datasets[dataset.key]
            if before.dealt not in ("", dataset.dealt):
                self._dealt.leave(before.dealt)
            before.renew(opened, dataset.opened_at)
        else:
            self._add(dataset)
        self.retire()
        return dataset.key

    @property
    def _tiers_bytes(self) -> int:
        """What all tiers together hold of prepared chunks: chunking="auto" asks for it."""
        return self._settings.memory_budget + self._spill_budget

    async def _run(self, spec: DatasetSpec, task: Task) -> Reply:
        waiting = self._tasks.add(task)
        self._progress[spec] = waiting
        try:
            return await waiting.done
        finally:
            waiting.changed.set()
            if self._progress.get(spec) is waiting:
                del self._progress[spec]

    def _write_down(self, dataset: OpenDataset) -> None:
        try:
            self._journal.begin(
                messages.describe_spec(dataset.spec), dataset.opened, dataset.opened_at
            )
        except OSError as error:
            raise ConfigError(
                f"the plan of {dataset.spec.source} cannot be written down in scratch_dir "
                f"{self._settings.scratch_dir}: {error}; make room there, or choose another one"
            ) from error

    def _add(self, dataset: OpenDataset) -> None:
        self._datasets[dataset.key] = dataset
        self._happened(dataset.added())
        chunks = f"{len(dataset.chunks)} chunks" if dataset.complete else "chunks to be found"
        _log.info("opened %s as %s: %s", dataset.spec.source, dataset.key, chunks)

    # Leaving.

    def remove(self, key: str) -> None:
        """Forgets a dataset that no reader and no lease uses, if only disk has it left."""
        self._happened(events.DatasetRemoved(key))
        self._spilling.remove_dataset(key)
        dataset = self._datasets.pop(key, None)
        if dataset is None or dataset.ticket:
            self._journal.forget(key)
        if dataset is not None and dataset.dealt:
            self._dealt.leave(dataset.dealt)
            self._sweep_dealt()

    def retire(self) -> None:
        """Forgets datasets that nobody uses and nobody can join, but for the `MOST_UNUSED` last.

        To be called when a dataset was opened, and when its last reader has left. Files' datasets
        stay: whoever opens the same files joins them; but for those that take disk, once their
        files have changed and somebody has opened them since.
        """
        if len(self._datasets) <= MOST_UNUSED:
            return
        unused = [
            dataset
            for dataset in self._datasets.values()
            if not self._scheduler.in_use(dataset.key) and self._cannot_be_joined(dataset)
        ]
        unused.sort(key=lambda dataset: dataset.used_at, reverse=True)
        for dataset in unused[MOST_UNUSED:]:
            _log.info("%s is forgotten: nobody uses or can join it", dataset.key)
            self.remove(dataset.key)

    def _cannot_be_joined(self, dataset: OpenDataset) -> bool:
        if isinstance(dataset.spec.source, BigQuerySource):
            return dataset.spec.source.snapshot == "new" or not self._joinable(dataset)
        return bool(dataset.dealt) and any(
            other.spec == dataset.spec and other.opened_at > dataset.opened_at
            for other in self._datasets.values()
        )

    def _sweep_dealt(self) -> None:
        """Removes dealt rows that no dataset uses; later, if an opening might just find them."""
        if not self._by_request:
            self._dealt.sweep({dataset.dealt for dataset in self._datasets.values()})

    # Joining.

    async def _join_files(self, spec: DatasetSpec) -> str | None:
        """The key of an open dataset of the same spec whose files have not changed since."""
        for key, dataset in list(self._datasets.items()):
            if dataset.spec == spec:
                described = messages.describe_spec(spec)
                now = await self._run(spec, messages.CheckSnapshot(described, self._access))
                assert isinstance(now, messages.SnapshotIs)
                if now.snapshot == dataset.source_snapshot and key in self._datasets:
                    return key
        return None

    def _join_warehouse(self, spec: DatasetSpec) -> str | None:
        """The key of an open dataset of the same spec that may be shared, or of a journalled one.

        The table may have been written to since: those who ask for the same get the same rows.
        """
        assert isinstance(spec.source, BigQuerySource)
        if spec.source.snapshot == "new":
            return None
        self._restore(spec)
        for key, dataset in self._datasets.items():
            if dataset.spec == spec and self._joinable(dataset):
                return key
        return None

    def _known(self, spec: DatasetSpec, key: str) -> bool:
        """Whether a client that had this dataset before can have it again: of a warehouse."""
        if not (key and isinstance(spec.source, BigQuerySource)):
            return False
        if key not in self._datasets:
            self._restore(spec)
        dataset = self._datasets.get(key)
        return dataset is not None and dataset.describes(spec) and not dataset.broken

    def _joinable(self, dataset: OpenDataset) -> bool:
        held = self._scheduler.resident(dataset.key).keys() | self._scheduler.spilled(dataset.key)
        whole = sum(rows_of(chunk, split) > 0 for chunk in dataset.chunks for split in SPLITS)
        return dataset.joinable(
            being_read=self._is_read(dataset.key),
            all_held=dataset.complete and len(held) == whole,
            max_age_s=self._settings.bigquery.snapshot_max_age_s,
        )

    def _restore(self, spec: DatasetSpec) -> None:
        """Opens what an earlier daemon has written down of this spec, and does not forget it."""

        def wanted(described: dict[str, Any]) -> bool:
            return messages.read_spec(described) == spec

        def held(key: str) -> bool:
            return bool(self._scheduler.spilled(key))

        for plan in self._journal.plans(wanted, self._datasets, held):
            dataset = OpenDataset(spec, plan.opened, plan.opened_at)
            added = dataset.added()
            try:
                self._check(dataset)
                # All of it before the scheduler hears of any: a journal may contradict itself.
                found = []
                for number, read in plan.found:
                    dataset.check(number, read)
                    found.append((number, dataset.find(number, read)))
            except FaucetError as error:  # or the budget is another one now
                _log.warning("the plan of %s is not taken up: %s", dataset.key, error)
                continue
            self._datasets[dataset.key] = dataset
            self._happened(added)
            for number, chunk in found:
                self._happened(events.ChunkFound(dataset.key, number, chunk))
            _log.info("took up %s from its journal", dataset.key)

    def _check(self, dataset: OpenDataset) -> None:
        """Refuses a dataset that this daemon cannot serve.

        Raises:
            SourceEmpty: it has no rows.
            SpecError: it has too many chunks.
            BudgetError: its chunks are too large.
        """
        spec, opened = dataset.spec, dataset.opened
        rows = sum(dataset.rows(split) for split in SPLITS)
        if not rows:
            raise SourceEmpty(f"{spec.source} has no rows that the sample and the splits keep")
        chunks = max(len(opened.chunks), -(-rows // opened.chunk_rows) if opened.totals else 0)
        if chunks > MAX_CHUNKS:
            raise SpecError(
                f"chunk_rows={opened.chunk_rows:,} cuts {spec.source} into {chunks:,} chunks, and "
                f"at most {MAX_CHUNKS:,} are possible; choose a larger one"
            )
        largest = max(size for sizes in opened.segment_bytes.values() for size in sizes)
        needed = required_bytes(largest)
        if needed > self._settings.memory_budget:
            raise BudgetError(
                f"memory_budget={self._settings.memory_budget:,} bytes is too small for "
                f"{spec.source}: its largest segment takes {largest:,} bytes (of up to "
                f"{opened.chunk_rows:,} rows), and a reader needs {FLOOR_SEGMENTS} of them and one "
                f"more while it is made, {FLOOR_SEGMENTS + 1} x {largest:,} = {needed:,}. Raise "
                "memory_budget, or open the dataset with a smaller chunk_rows than "
                f"{opened.chunk_rows:,}"
            )
