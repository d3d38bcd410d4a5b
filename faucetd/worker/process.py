"""A worker: one process that opens sources and makes chunks, one task at a time.

    fetch (Arrow batches, split codes) → prepare (permuted tensors) → publish (sealed segments)

Run as `python -m faucetd.worker.process SOCKET_FD DAEMON_PID` by pool.py. It dies with its daemon:
the kernel kills it, whatever it is in the midst of.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import logging
import os
import signal
import socket
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

import torch

from faucet_client.spec import SPLITS, DatasetSpec, Split
from faucetd.errors import BudgetError, FaucetError, InternalError, SourceEmpty
from faucetd.fetch.opening import current_snapshot, open_source
from faucetd.fetch.pieces import PlannedChunk
from faucetd.fetch.plan import choose_chunk_rows, count, cut
from faucetd.fetch.source import Source
from faucetd.fetch.split import Splitter, read_split
from faucetd.prepare.chunk import ChunkPreparer
from faucetd.prepare.columns import PreparedColumns, resolve
from faucetd.prepare.permutation import ChunkId
from faucetd.publish.arrow_file import FixedColumn
from faucetd.publish.segment import SealedSegment, SegmentWriter, estimate_nbytes
from faucetd.worker import wire
from faucetd.worker.messages import (
    Abandoned,
    Allow,
    CheckSnapshot,
    Counts,
    ExtraBytes,
    Failed,
    FromWorker,
    LoadChunk,
    Loaded,
    Open,
    Opened,
    Progress,
    Ready,
    SnapshotIs,
    ToWorker,
    read_spec,
)

_log = logging.getLogger(__name__)

PREPARE_VERSION = 1
"""Part of every dataset's key: raised when the same rows would become other bytes."""

MAX_MESSAGE = 2_000
"""Characters of an error; it travels in gRPC's metadata, which holds 8 KiB."""

OPEN_SOURCES = 2
"""Sources that a worker keeps open: the one that it reads, and one to change to and fro."""

IDLE_S = 5.0
"""Without a task for so long, a worker closes its sources."""

PROGRESS_INTERVAL_S = 0.1

TEXT_BYTES_GUESS = 32
"""Characters a row that are reserved for a text column, before any row has been seen."""

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


class Worker:
    """See the module's docstring."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._datasets: OrderedDict[str, _OpenDataset] = OrderedDict()

    def run(self) -> None:
        """Does what it is told until the daemon is gone."""
        self._say(Ready())
        while (task := self._next_task()) is not None:
            try:
                match task:
                    case Open():
                        self._say(self._open(task))
                    case CheckSnapshot():
                        spec = read_spec(task.spec)
                        now = current_snapshot(spec.source, allowed_roots=task.allowed_roots)
                        self._say(SnapshotIs(now))
                    case LoadChunk():
                        self._load(task)
                    case Allow():
                        _log.error("an answer came without a question")
            except _AbandonedError:
                self._say(Abandoned())
            except FaucetError as error:
                if isinstance(task, LoadChunk):
                    self._forget(task.dataset)  # next time it is opened anew, not read on
                self._say(Failed(error.code, _speakable(error.message)))
            except MemoryError as error:
                self._say(Failed(BudgetError.code, f"the worker is out of memory: {error}"))
            except Exception as error:  # noqa: BLE001  # whoever waits is told
                _log.exception("a task failed")
                self._say(
                    Failed(
                        InternalError.code,
                        _speakable(
                            f"{type(error).__name__}: {error}; please report this, with the trace "
                            "in the daemon's log"
                        ),
                    )
                )

    def _next_task(self) -> ToWorker | None:
        while True:
            try:
                return wire.receive_from_daemon(self._sock)
            except TimeoutError:
                # An open database keeps its writers out, and a preparer keeps a chunk's memory.
                for dataset in list(self._datasets):
                    self._forget(dataset)

    def _say(self, message: FromWorker, fds: Sequence[int] = ()) -> None:
        wire.send(self._sock, message, tuple(fds))

    # Opening.

    def _open(self, task: Open) -> Opened:
        spec = read_spec(task.spec)
        source = open_source(
            spec.source, scratch_dir=task.scratch_dir, allowed_roots=task.allowed_roots
        )
        with contextlib.closing(source):
            columns, splitter = _resolve(spec, source)
            total_rows = sum(stream.rows for stream in source.streams())
            if total_rows == 0:
                raise SourceEmpty(f"{spec.source} has no rows")
            chunk_rows = choose_chunk_rows(total_rows, columns.row_nbytes, spec.chunk_rows)
            cuts = cut(source.streams(), chunk_rows)
            counted = count(source, cuts, splitter, self._progress(total_rows))
            return Opened(
                key=_dataset_key(task, source.snapshot, chunk_rows),
                snapshot=source.snapshot,
                chunk_rows=chunk_rows,
                features=tuple(column.name for column in columns.features),
                labels=tuple(column.name for column in columns.labels),
                passthrough=tuple(column.name for column in columns.passthrough),
                weighted=columns.weight is not None,
                chunks=counted.chunks,
                segment_bytes={
                    split: tuple(
                        _segment_bytes(columns, _rows(chunk, split)) for chunk in counted.chunks
                    )
                    for split in SPLITS
                },
                count_rows_read=counted.rows_read,
                count_bytes_read=counted.bytes_read,
            )

    def _progress(self, total_rows: int) -> Callable[[int], None]:
        last = time.monotonic()

        def tell(rows: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= PROGRESS_INTERVAL_S:
                last = now
                self._say(Progress("counting rows", rows, total_rows))

        return tell

    # Loading.

    def _load(self, task: LoadChunk) -> None:
        dataset = self._dataset(task)
        rows = {split: _rows(task.chunk, split) for split in SPLITS}
        sealed: dict[Split, SealedSegment] = {}
        with contextlib.ExitStack() as cleanup:
            writers = {
                split: cleanup.enter_context(_writer(dataset.columns, rows[split]))
                for split in task.splits
            }
            spare = task.reserved_bytes - sum(writer.fixed_nbytes for writer in writers.values())

            def before_grow(nbytes: int) -> None:
                nonlocal spare
                spare -= nbytes
                if spare < 0:
                    self._ask_for_bytes(-spare)
                    spare = 0

            rows_read = bytes_read = 0
            dataset.preparer.start(ChunkId(task.dataset, "rows", task.number), rows)
            for batch, codes in read_split(
                dataset.source,
                task.chunk.pieces,
                dataset.columns.kept_columns,
                dataset.splitter,
            ):
                rows_read += batch.num_rows
                bytes_read += batch.nbytes
                dataset.preparer.add(batch, codes)
            try:
                for split, writer in writers.items():
                    appendix = dataset.preparer.fill(split, writer.arrays())
                    sealed[split] = writer.finish(appendix.texts, appendix.valid, before_grow)
                    cleanup.callback(os.close, sealed[split].fd)
            except OSError as error:
                raise BudgetError(
                    f"this machine has no shared memory left for chunk {task.number}: {error}; "
                    "lower memory_budget, or free memory"
                ) from error
            counts = dataset.preparer.counts()
            self._say(
                Loaded(
                    segments={split: segment.layout for split, segment in sealed.items()},
                    rows_read=rows_read,
                    bytes_read=bytes_read,
                    counts={column: Counts(*astuple(lost)) for column, lost in counts.items()},
                ),
                [segment.fd for segment in sealed.values()],
            )

    def _dataset(self, task: LoadChunk) -> _OpenDataset:
        if task.dataset not in self._datasets:
            while len(self._datasets) >= OPEN_SOURCES:
                self._forget(next(iter(self._datasets)))
            spec = read_spec(task.spec)
            source = open_source(
                spec.source,
                scratch_dir=task.scratch_dir,
                allowed_roots=task.allowed_roots,
                snapshot=task.snapshot,
            )
            columns, splitter = _resolve(spec, source)
            self._datasets[task.dataset] = _OpenDataset(
                source, columns, splitter, ChunkPreparer(columns)
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


def _resolve(spec: DatasetSpec, source: Source) -> tuple[PreparedColumns, Splitter | None]:
    columns = {column.name: column for column in source.columns()}
    prepared = resolve(spec, [(column.name, column.type) for column in columns.values()])
    if prepared.hash_column is None:
        return prepared, None
    return prepared, Splitter(columns[prepared.hash_column], spec.split_buckets())


def _rows(chunk: PlannedChunk, split: Split) -> int:
    return chunk.train_rows if split == "train" else chunk.eval_rows


def _writer(columns: PreparedColumns, rows: int) -> SegmentWriter:
    fixed = [FixedColumn(*column) for column in columns.fixed_columns()]
    return SegmentWriter(fixed, columns.text_columns(), rows)


def _segment_bytes(columns: PreparedColumns, rows: int) -> int:
    if rows == 0:
        return 0
    fixed = [FixedColumn(*column) for column in columns.fixed_columns()]
    texts = columns.text_columns()
    return estimate_nbytes(fixed, texts, rows) + len(texts) * rows * TEXT_BYTES_GUESS


def _dataset_key(task: Open, snapshot: str, chunk_rows: int) -> str:
    """Hash of all that decides the bytes of the dataset's segments, and of who may read them."""
    decides = {
        "spec": task.spec | {"chunk_rows": chunk_rows},
        "snapshot": snapshot,
        "principal": task.uid,
        "prepare_version": PREPARE_VERSION,
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]


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
        Worker(sock).run()


if __name__ == "__main__":
    main()
