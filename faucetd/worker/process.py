"""A worker: one process that opens sources and makes chunks, one task at a time.

    fetch (Arrow batches, split codes) → prepare (permuted tensors) → publish (sealed segments)

Run as `python -m faucetd.worker.process SOCKET_FD DAEMON_PID [warehouse]` by pool.py. It dies with
its daemon: the kernel kills it, whatever it is in the midst of.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import logging
import os
import signal
import socket
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass

import torch

from faucet_client.spec import BigQuerySource, Split
from faucetd.errors import BudgetError, FaucetError, InternalError
from faucetd.fetch.opening import current_snapshot
from faucetd.fetch.pieces import Piece, PlannedChunk
from faucetd.fetch.plan import following
from faucetd.fetch.source import Source
from faucetd.fetch.split import Splitter, read_split
from faucetd.prepare.chunk import ChunkPreparer
from faucetd.prepare.columns import PreparedColumns
from faucetd.prepare.permutation import ChunkId
from faucetd.publish.arrow_file import FixedColumn
from faucetd.publish.segment import SealedSegment, SegmentWriter
from faucetd.worker import wire
from faucetd.worker.messages import (
    Abandoned,
    Allow,
    CheckSnapshot,
    Counts,
    ExtraBytes,
    Failed,
    FoundChunk,
    FromWorker,
    LabelMoments,
    LoadChunk,
    Loaded,
    Open,
    Ready,
    SnapshotIs,
    StageSeconds,
    ToWorker,
    read_spec,
)
from faucetd.worker.opening import (
    guess_chunk,
    open_dataset,
    open_to_load,
    segment_bytes,
    split_rows,
)
from faucetd.worker.pool import WAREHOUSE

_log = logging.getLogger(__name__)

MAX_MESSAGE = 2_000
"""Characters of an error; it travels in gRPC's metadata, which holds 8 KiB."""

OPEN_SOURCES = 2
"""Sources that a worker keeps open: the one that it reads, and one to change to and fro."""

IDLE_S = 5.0
"""Without a task for so long, a worker closes its files and gives back its staging memory."""

WAREHOUSE_IDLE_S = 300.0
"""The same for a warehouse, whose connections are dear to open and hinder nobody: a trainer that
takes its time with a chunk shall not pay for that with each of them."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class _AbandonedError(Exception):
    """The daemon has no room for the chunk now."""


@dataclass
class _OpenDataset:
    """A dataset that this worker has read chunks of."""

    source: Source
    columns: PreparedColumns
    splitter: Splitter | None
    preparer: ChunkPreparer
    ticket: str
    used_at: float

    @property
    def idle_limit_s(self) -> float:
        return WAREHOUSE_IDLE_S if self.source.interleaves else IDLE_S


class Worker:
    """See the module's docstring."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._datasets: OrderedDict[str, _OpenDataset] = OrderedDict()

    def run(self, *, reads_warehouse: bool = False) -> None:
        """Does what it is told until the daemon is gone.

        Args:
            reads_warehouse: Imports a warehouse's libraries at once. They take a second, which
                whoever opens the first dataset would wait for; a task that comes meanwhile waits
                no longer than it would have.
        """
        self._say(Ready())
        if reads_warehouse:
            importlib.import_module("faucetd.worker.warehouse")
        while (task := self._next_task()) is not None:
            try:
                match task:
                    case Open():
                        self._say(open_dataset(task, self._say))
                    case CheckSnapshot():
                        self._say(SnapshotIs(self._current_snapshot(task)))
                    case LoadChunk():
                        self._load(task)
                    case Allow():
                        _log.error("an answer came without a question")
            except _AbandonedError:
                self._say(Abandoned())
            except FaucetError as error:
                self._fail(task, error.code, error.message)
            except MemoryError as error:
                self._fail(task, BudgetError.code, f"the worker is out of memory: {error}")
            except Exception as error:  # noqa: BLE001  # whoever waits is told
                _log.exception("a task failed")
                self._fail(
                    task,
                    InternalError.code,
                    f"{type(error).__name__}: {error}; please report this, with the trace in the "
                    "daemon's log",
                )

    def _fail(self, task: ToWorker, code: str, message: str) -> None:
        if isinstance(task, LoadChunk):
            # Next time it is opened anew, not read on; nor is its staging memory kept.
            self._forget(task.dataset)
        self._say(Failed(code, _speakable(message)))

    def _next_task(self) -> ToWorker | None:
        while True:
            try:
                return wire.receive_from_daemon(self._sock)
            except TimeoutError:
                # An open database keeps its writers out, and a preparer keeps a chunk's memory.
                for key, dataset in list(self._datasets.items()):
                    if time.monotonic() - dataset.used_at >= dataset.idle_limit_s:
                        self._forget(key)
                    else:
                        dataset.preparer = ChunkPreparer(dataset.columns)

    def _say(self, message: FromWorker, fds: Sequence[int] = ()) -> None:
        wire.send(self._sock, message, tuple(fds))

    # Loading.

    def _load(self, task: LoadChunk) -> None:
        dataset = self._dataset(task)
        chunk = task.chunk
        # Rows of several pieces may come in turns; those that come in order need no more room
        # than they take.
        slots = None
        if chunk.open or dataset.source.interleaves:
            slots = [piece.stop - piece.start for piece in chunk.pieces]
        dataset.preparer.start(
            ChunkId(task.dataset, "rows", task.number),
            None if chunk.open else split_rows(chunk),
            slots,
        )
        with contextlib.ExitStack() as cleanup:
            segments = _SegmentsAhead(task, dataset.columns, cleanup)
            timer = _StageTimer()
            rows_read = bytes_read = 0
            positions = [piece.start for piece in chunk.pieces]
            for piece, batch, codes, position in read_split(
                dataset.source, chunk.pieces, dataset.columns.kept_columns, dataset.splitter
            ):
                timer.ends("fetch")
                segments.take()  # an open chunk may turn out to be the end of its streams
                rows_read += batch.num_rows
                bytes_read += batch.nbytes
                dataset.preparer.add(batch, codes, piece if slots else 0)
                positions[piece] = position
                timer.ends("prepare")
            timer.ends("fetch")
            rows = dataset.preparer.finish()
            found = _found(task, dataset.columns, positions, rows) if chunk.open else None
            sealed, labels = self._publish(task, dataset, segments.writers(rows), timer, cleanup)
            counts = dataset.preparer.counts()
            self._say(
                Loaded(
                    segments={split: segment.layout for split, segment in sealed.items()},
                    rows_read=rows_read,
                    bytes_read=bytes_read,
                    counts={column: Counts(*astuple(lost)) for column, lost in counts.items()},
                    found=found,
                    labels=labels,
                    seconds=StageSeconds(**timer.seconds),
                ),
                [segment.fd for segment in sealed.values()],
            )
        dataset.used_at = time.monotonic()

    def _publish(
        self,
        task: LoadChunk,
        dataset: _OpenDataset,
        writers: dict[Split, SegmentWriter],
        timer: _StageTimer,
        cleanup: contextlib.ExitStack,
    ) -> tuple[dict[Split, SealedSegment], dict[Split, dict[str, LabelMoments]]]:
        """The staged chunk in sealed segments, which `cleanup` closes here; its labels' moments."""
        sealed: dict[Split, SealedSegment] = {}
        labels: dict[Split, dict[str, LabelMoments]] = {}
        spare = task.reserved_bytes - sum(writer.fixed_nbytes for writer in writers.values())
        if spare < 0:  # an open chunk has more rows than was guessed
            self._ask_for_bytes(-spare)
            spare = 0

        def before_grow(nbytes: int) -> None:
            nonlocal spare
            spare -= nbytes
            if spare < 0:
                self._ask_for_bytes(-spare)
                spare = 0

        with _short_of_memory(task):
            for split, writer in writers.items():
                timer.ends("prepare")
                arrays = writer.arrays()
                timer.ends("publish")
                appendix = dataset.preparer.fill(split, arrays)
                del arrays  # nothing may be written any more
                timer.ends("prepare")
                labels[split] = {
                    name: LabelMoments(*astuple(moments))
                    for name, moments in appendix.labels.items()
                }
                sealed[split] = writer.finish(appendix.variable, appendix.valid, before_grow)
                cleanup.callback(os.close, sealed[split].fd)
                timer.ends("publish")
        return sealed, labels

    @staticmethod
    def _current_snapshot(task: CheckSnapshot) -> str:
        source = read_spec(task.spec).source
        assert not isinstance(source, BigQuerySource), "only files are asked for their state"
        return current_snapshot(source, allowed_roots=task.access.allowed_roots)

    def _dataset(self, task: LoadChunk) -> _OpenDataset:
        if task.dataset in self._datasets and self._datasets[task.dataset].ticket != _ticket(task):
            self._forget(task.dataset)
        if task.dataset not in self._datasets:
            while len(self._datasets) >= OPEN_SOURCES:
                self._forget(next(iter(self._datasets)))
            source, columns, splitter = open_to_load(task)
            self._datasets[task.dataset] = _OpenDataset(
                source, columns, splitter, ChunkPreparer(columns), _ticket(task), time.monotonic()
            )
        self._datasets.move_to_end(task.dataset)
        return self._datasets[task.dataset]

    def _forget(self, dataset: str) -> None:
        if dataset in self._datasets:
            self._datasets.pop(dataset).source.close()

    def _ask_for_bytes(self, nbytes: int) -> None:
        """More than was reserved is needed. Waits for the daemon's word.

        Raises:
            _AbandonedError: there is no room; the chunk is tried again later.
        """
        self._say(ExtraBytes(nbytes))
        self._sock.settimeout(None)
        answer = wire.receive_from_daemon(self._sock)
        self._sock.settimeout(IDLE_S)
        if answer is None:
            raise SystemExit(0)
        if not isinstance(answer, Allow):
            raise InternalError(f"expected an answer, got {type(answer).__name__}")
        if not answer.allowed:
            raise _AbandonedError


class _StageTimer:
    """Takes the time that the stages of a chunk take, in turns."""

    def __init__(self) -> None:
        self.seconds = {"fetch": 0.0, "prepare": 0.0, "publish": 0.0}
        self._last = time.perf_counter()

    def ends(self, stage: str) -> None:
        """What has happened since the last call was this stage."""
        now = time.perf_counter()
        self.seconds[stage] += now - self._last
        self._last = now


class _SegmentsAhead:
    """The segments of a chunk, whose memory is being taken while the chunk is read.

    Args:
        task: The chunk, of which an open one may have fewer rows than it says.
        columns: What its segments hold.
        cleanup: Ends the writers.
    """

    def __init__(
        self, task: LoadChunk, columns: PreparedColumns, cleanup: contextlib.ExitStack
    ) -> None:
        self._task = task
        self._columns = columns
        self._cleanup = cleanup
        self._writers: dict[Split, SegmentWriter] | None = None
        if not task.chunk.open:
            self.take()

    def take(self) -> None:
        """Begins to take the memory; later times do nothing."""
        if self._writers is not None:
            return
        self._writers = {}
        for split, rows in split_rows(self._task.chunk).items():
            if split in self._task.splits and rows:
                self._writers[split] = self._writer(rows)

    def writers(self, rows: dict[Split, int]) -> dict[Split, SegmentWriter]:
        """A writer for each split that is wanted and has rows, now that they are known."""
        ahead = self._writers or {}
        found = {}
        for split in self._task.splits:
            if not rows[split]:
                if split in ahead:
                    ahead[split].abort()
            elif split not in ahead:
                found[split] = self._writer(rows[split])
            else:
                found[split] = ahead[split]
                with _short_of_memory(self._task):
                    found[split].resize(rows[split])
        return found

    def _writer(self, rows: int) -> SegmentWriter:
        fixed = [FixedColumn(*column) for column in self._columns.fixed_columns()]
        with _short_of_memory(self._task):
            writer = SegmentWriter(fixed, self._columns.variable_columns(), rows)
        return self._cleanup.enter_context(writer)


@contextlib.contextmanager
def _short_of_memory(task: LoadChunk) -> Iterator[None]:
    """Says what it means that the system has no memory to give."""
    try:
        yield
    except OSError as error:
        raise BudgetError(
            f"this machine has no shared memory left for chunk {task.number}: {error}; "
            "lower memory_budget, or free memory"
        ) from error


def _ticket(task: LoadChunk) -> str:
    """Tells what the dataset is read from; another one's must be opened anew."""
    return task.ticket or task.dealt


def _found(
    task: LoadChunk, columns: PreparedColumns, positions: list[int], rows: dict[Split, int]
) -> FoundChunk:
    """What an open chunk has turned out to be, now that its pieces were read up to `positions`."""
    chunk = task.chunk
    read = tuple(
        Piece(piece.stream, piece.start, stop)
        for piece, stop in zip(chunk.pieces, positions, strict=True)
        if stop > piece.start
    )
    exact = PlannedChunk(read, chunk.lane, rows["train"], rows["eval"])
    follows = None
    if pieces := following(chunk.pieces, positions, task.chunk_rows):
        follows = _following_chunk(chunk, pieces, rows)
    return FoundChunk(
        exact,
        _bytes_of(columns, exact),
        follows,
        {} if follows is None else _bytes_of(columns, follows),
    )


def _following_chunk(
    chunk: PlannedChunk, pieces: tuple[Piece, ...], rows: dict[Split, int]
) -> PlannedChunk:
    """The open chunk after one that had `rows`: at least as many of each split as were guessed.

    The rows of a split may come all at once, and later.
    """
    span = sum(piece.stop - piece.start for piece in pieces)
    asked = sum(piece.stop - piece.start for piece in chunk.pieces)
    guess = guess_chunk(
        PlannedChunk(pieces, chunk.lane, 0, 0, open=True),
        {split: count / asked for split, count in rows.items()},
    )
    before = {split: -(-count * span // asked) for split, count in split_rows(chunk).items()}
    return PlannedChunk(
        pieces,
        chunk.lane,
        max(guess.train_rows, before["train"]),
        max(guess.eval_rows, before["eval"]),
        open=True,
    )


def _bytes_of(columns: PreparedColumns, chunk: PlannedChunk) -> dict[Split, int]:
    return {split: segment_bytes(columns, rows) for split, rows in split_rows(chunk).items()}


def _speakable(message: str) -> str:
    """The message as every side can carry it: paths may hold what is no UTF-8."""
    return message.encode(errors="backslashreplace").decode()[:MAX_MESSAGE]


def _die_with(daemon_pid: int) -> None:
    """Has the kernel kill this process when the daemon ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != daemon_pid:  # it ended before the call
        raise SystemExit(0)


def main() -> None:
    """The process."""
    sock_fd, daemon_pid = map(int, sys.argv[1:3])
    _die_with(daemon_pid)
    # Ctrl-C goes to the whole terminal; the daemon decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(format="%(asctime)s worker %(process)d %(levelname)s: %(message)s")
    torch.set_num_threads(1)
    with socket.socket(fileno=sock_fd) as sock:
        sock.settimeout(IDLE_S)
        Worker(sock).run(reads_warehouse=WAREHOUSE in sys.argv[3:])


if __name__ == "__main__":
    main()
