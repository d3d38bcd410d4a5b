"""Mini-batches: slices of mapped segments, each row exactly once an epoch.

A background thread (the feed's) keeps grants ahead and mapped; the trainer's thread only slices,
so `next()` on a mapped segment costs about as much as slicing a local tensor.

Invariants:

- An epoch is over when its exact number of rows has been handed out, never before and never after.
- Batches are views, but for two cases, which copy: a batch that lies across the end of a segment
  (or of the circle through it) is joined; and when the caller keeps so many batches that further
  views would need more memory than the daemon has promised, batches are copied (`stats()` tells).
- The feed's thread knows the feed and nothing above it, so that dropping an iterator ends it.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from faucet_client._memory import is_sealed, page_rounded
from faucet_client.channel import Grant, ReaderCall, ReaderRequest, Started
from faucet_client.errors import (
    AccessDenied,
    DaemonError,
    DaemonUnreachable,
    FaucetError,
    InternalError,
    IteratorError,
)
from faucet_client.mapping import Columns, ColumnViews, Piece, copy_rows, map_segment
from faucet_client.session import Session, keep_in_children

_log = logging.getLogger(__name__)

PREFETCH_GRANTS = 3
"""Grants that are under way or mapped beside the one being sliced."""

START_TIMEOUT_S = 30.0
PATIENCE_S = 30.0
"""A wait for data after which the log says so, again each time it has doubled."""


class _Block:
    """Batches that lie one after another in the same columns, and what they have in common.

    The views of a column are made for all batches at once, when the first one asks: that is faster
    than slicing batch by batch.
    """

    __slots__ = (
        "_features",
        "_labels",
        "batches",
        "batches_per_epoch",
        "columns",
        "epoch",
        "first_number",
        "first_row",
        "size",
        "stop_row",
    )

    def __init__(
        self, columns: Columns, rows: tuple[int, int], size: int, place: tuple[int, int, int]
    ) -> None:
        """Rows [first, stop) of `columns`; `place`: epoch, first batch's number, batches."""
        self.columns = columns
        self.first_row, self.stop_row = rows
        self.size = size
        self.batches = -(-(self.stop_row - self.first_row) // size)
        self.epoch, self.first_number, self.batches_per_epoch = place
        self._labels: dict[str, Sequence[torch.Tensor]] = {}

    def features(self) -> Sequence[torch.Tensor]:
        """The features of each batch."""
        try:
            return self._features
        except AttributeError:
            self._features: Sequence[torch.Tensor] = self._split(self.columns.features)
            return self._features

    def label(self, name: str) -> Sequence[torch.Tensor]:
        """A label of each batch."""
        try:
            return self._labels[name]
        except KeyError:
            self._labels[name] = self._split(self.columns.labels[name])
            return self._labels[name]

    def _split(self, whole: torch.Tensor) -> Sequence[torch.Tensor]:
        views: Sequence[torch.Tensor] = whole[self.first_row : self.stop_row].split(self.size)
        return views

    def rows(self, index: int) -> tuple[int, int]:
        """The rows [first, stop) of the columns that a batch has."""
        first = self.first_row + index * self.size
        return first, min(first + self.size, self.stop_row)


class _Labels(Mapping[str, torch.Tensor]):
    """The labels of one batch."""

    __slots__ = ("_block", "_index")

    def __init__(self, block: _Block, index: int) -> None:
        self._block = block
        self._index = index

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._block.label(name)[self._index]

    def __iter__(self) -> Iterator[str]:
        return iter(self._block.columns.labels)

    def __len__(self) -> int:
        return len(self._block.columns.labels)

    def __repr__(self) -> str:
        return f"{{{', '.join(self)}}}"


class Batch:
    """A mini-batch. Its tensors are made when they are first asked for.

    They are views of memory that the daemon shares with other trainers, mapped copy-on-write: an
    in-place operation is safe and changes this process's view alone. A batch that is kept keeps
    its whole chunk in memory; keep a `clone()` instead.
    """

    __slots__ = ("_block", "_index")

    def __init__(self, block: _Block, index: int) -> None:
        self._block = block
        self._index = index

    def __len__(self) -> int:
        """Rows of the batch."""
        first, stop = self._block.rows(self._index)
        return stop - first

    def __repr__(self) -> str:
        return f"Batch({len(self)} rows, {self.batch_num} of epoch {self.epoch})"

    @property
    def epoch(self) -> int:
        """The epoch's number."""
        return self._block.epoch

    @property
    def batch_num(self) -> int:
        """The batch's number in its epoch, from 0."""
        return self._block.first_number + self._index

    @property
    def batches_per_epoch(self) -> int:
        """How many batches the epoch has."""
        return self._block.batches_per_epoch

    @property
    def features(self) -> torch.Tensor:
        """float32 [n, F], in the order of `dataset.info.features`; null is NaN."""
        return self._block.features()[self._index]

    @property
    def labels(self) -> Mapping[str, torch.Tensor]:
        """float32 [n, 1] each, by name; null is NaN."""
        return _Labels(self._block, self._index)

    @property
    def weights(self) -> torch.Tensor | None:
        """float32 [n], null is NaN; None without a weight column."""
        first, stop = self._block.rows(self._index)
        whole = self._block.columns.weights
        return None if whole is None else whole[first:stop]

    @property
    def passthrough(self) -> Mapping[str, torch.Tensor | NDArray[np.object_]]:
        """[n] each, by name: tensors; text as an object array of str, decoded when asked for."""
        columns = self._block.columns
        first, stop = self._block.rows(self._index)

        def make(name: str) -> torch.Tensor | NDArray[np.object_]:
            column = columns.passthrough[name]
            if isinstance(column, torch.Tensor):
                return column[first:stop]
            return columns.text(name, first, stop)

        return ColumnViews(tuple(columns.passthrough), make)

    @property
    def valid(self) -> Mapping[str, torch.Tensor]:
        """Bool [n] each, for labels, weights and passthrough: False where the source had null."""
        columns = self._block.columns
        first, stop = self._block.rows(self._index)
        return ColumnViews(columns.valid_names, lambda name: columns.valid_rows(name, first, stop))

    def clone(self) -> Batch:
        """The same rows in memory of their own, which keeps no chunk."""
        block = self._block
        return single_batch(
            copy_rows([(block.columns, *block.rows(self._index))]),
            (block.epoch, self.batch_num, block.batches_per_epoch),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickling a view would ship its whole chunk.
        block = self._block
        rows = copy_rows([(block.columns, *block.rows(self._index))])
        return single_batch, (rows, (block.epoch, self.batch_num, block.batches_per_epoch))


def single_batch(columns: Columns, place: tuple[int, int, int]) -> Batch:
    """All rows of `columns` as one batch; `place`: epoch, batch number, batches per epoch."""
    return Batch(_Block(columns, (0, columns.rows), columns.rows, place), 0)


@dataclass(frozen=True)
class Stats:
    """What an iterator has done so far.

    Attributes:
        rows: Rows handed out.
        batches: Batches handed out.
        seconds_waited: Time that `next()` waited for data.
        bytes_mapped: Bytes of the segments that were mapped.
        batches_joined: Batches copied since they lay across the end of a segment.
        batches_copied: Batches copied since the caller keeps so many others.
    """

    rows: int
    batches: int
    seconds_waited: float
    bytes_mapped: int
    batches_joined: int
    batches_copied: int


@dataclass(frozen=True)
class Reading:
    """How to read: one reader's wishes, checked.

    Attributes:
        request: What the daemon is asked for.
        batch_size: Rows a batch.
        drop_last: Whether a last batch that would be short is left out.
        clone: Whether batches are copied, so that they can be sent to another process.
    """

    request: ReaderRequest
    batch_size: int
    drop_last: bool
    clone: bool = False


class _Run:
    """A mapped grant."""

    __slots__ = ("chunk", "columns", "epoch", "first_row", "lease", "nbytes", "rows")

    def __init__(self, grant: Grant, columns: Columns) -> None:
        self.columns = columns
        self.lease = grant.lease
        self.epoch = grant.epoch
        self.chunk = grant.chunk
        self.first_row = grant.first_row
        self.rows = grant.rows
        self.nbytes = grant.layout.nbytes


class _Ledger:
    """What of the consumed segments the caller keeps, by the trainer's thread.

    Finalizers of mapped memory hold on to `dead`, and append to it from anywhere.
    """

    def __init__(self) -> None:
        self.passed_bytes = 0  # not less than what is kept; `kept_bytes` makes it exact
        self.dead: deque[int] = deque()
        self._passed: dict[int, int] = {}  # lease -> bytes

    def passed(self, run: _Run) -> None:
        """The run is consumed; from now on it is the caller's tensors that keep it."""
        self._passed[run.lease] = run.nbytes
        self.passed_bytes += run.nbytes

    def kept_bytes(self) -> int:
        """Bytes of the consumed segments that still live."""
        while self.dead:
            self.passed_bytes -= self._passed.pop(self.dead.popleft(), 0)
        return self.passed_bytes


class _Stream:
    """A reader's stream to the daemon, which either side may end."""

    def __init__(self, call: ReaderCall) -> None:
        self.call = call
        self._pid = os.getpid()
        self._open = True

    @property
    def open(self) -> bool:
        """Whether the stream still takes messages."""
        return self._open

    def credit(self, rows_consumed: int, seconds_waited: float) -> None:
        """Takes one grant more, and tells how far the reader is."""
        if self._open:
            self.call.credit(1, rows_consumed, seconds_waited)

    def advance(self, epoch: int) -> None:
        """Gives up what has not come yet of the epochs before `epoch`."""
        if self._open:
            self.call.advance(epoch)

    def close(self) -> None:
        """Wants no more. Idempotent; does nothing in a forked child.

        A finalizer calls it in the midst of anything, so it takes no lock.
        """
        if self._open and self._pid == os.getpid():
            self._open = False
            self.call.finish()

    def ended(self) -> None:
        """Nothing comes any more; ends the stream on this side as well."""
        self._open = False
        self.call.cancel()


class _Feed:
    """Pulls grants and maps them ahead, in a thread of its own."""

    def __init__(self, session: Session, request: ReaderRequest) -> None:
        self.ready: queue.SimpleQueue[_Run | FaucetError] = queue.SimpleQueue()
        self.bytes_mapped = 0
        self.largest_nbytes = 0
        self._session = session
        self._started: queue.SimpleQueue[Started | FaucetError] = queue.SimpleQueue()
        self.ledger = _Ledger()
        self.stream = _Stream(session.channel.read(request))
        keep_in_children(self.stream.call)
        threading.Thread(target=self._pull, name="faucet-feed", daemon=True).start()

    def wait_started(self) -> Started:
        """The daemon's word that the reader may read.

        Raises:
            FaucetError: its word that it may not.
        """
        try:
            started = self._started.get(timeout=START_TIMEOUT_S)
        except queue.Empty:
            raise DaemonUnreachable(
                f"the daemon at {self._session.address} did not admit the reader within "
                f"{START_TIMEOUT_S:.0f} s; see `faucetd status` and its log"
            ) from None
        if isinstance(started, FaucetError):
            raise started
        return started

    def _pull(self) -> None:
        end: FaucetError = IteratorError("the iterator is closed")
        try:
            for message in self.stream.call:
                if isinstance(message, Started):
                    self._started.put(message)
                elif self.stream.open:  # else it is not fetched, and the daemon takes it back
                    try:
                        self._map(message)
                    except AccessDenied as error:
                        # It has been taken back, since the stream is at its end, which says why.
                        end = error
                        self.stream.close()
        except FaucetError as error:
            end = error
        except Exception as error:  # noqa: BLE001  # the trainer's thread raises it
            end = InternalError(f"the client's feed failed: {error!r}")
        self.stream.ended()
        self._started.put(end)
        self.ready.put(end)

    def _map(self, grant: Grant) -> None:
        fd = self._session.handoff.fetch(grant.handle)
        mapped = False
        try:
            if not is_sealed(fd) or page_rounded(os.fstat(fd).st_size) != grant.layout.nbytes:
                raise InternalError(f"the daemon sent another memory than that of grant {grant}")
            bury = partial(self._session.bury, grant.lease, self.ledger.dead.append)
            columns = map_segment(fd, grant.layout, bury)
            mapped = True
        except OSError as error:
            raise DaemonError(
                f"a segment of {grant.layout.nbytes:,} bytes cannot be mapped: {error}; is there a "
                "limit on this process's address space (ulimit -v)?"
            ) from error
        finally:
            os.close(fd)
            if not mapped:
                self._session.handoff.release((grant.lease,))
        self._session.adopt()
        self.bytes_mapped += grant.layout.nbytes
        self.largest_nbytes = max(self.largest_nbytes, grant.layout.nbytes)
        self.ready.put(_Run(grant, columns))


class Reader:
    """One reader: its feed, its place in the epochs, and its statistics."""

    def __init__(self, owner: object, session: Session, reading: Reading) -> None:
        """Starts to read. Keeps `owner` alive, whose end is the session's.

        Raises:
            ReaderConflict: a live reader has the same name.
            BudgetError: the daemon has no memory for another reader.
            DatasetNotFound: the dataset was dropped.
        """
        self.reading = reading
        self._owner = owner
        self._feed = _Feed(session, reading.request)
        self._finalizer = weakref.finalize(self, self._feed.stream.close)
        self._finalizer.atexit = False
        started = self._feed.wait_started()
        self.rows_per_epoch = started.rows_per_epoch
        self.batches_per_epoch = batches_in(
            started.rows_per_epoch, reading.batch_size, reading.drop_last
        )
        self._lease_limit_bytes = started.lease_limit_bytes
        self._epoch: int | None = None
        self._rows = 0
        self._batches = 0
        self._joined = 0
        self._copies = 0
        self._seconds_waited = 0.0
        self._failure: FaucetError | None = None
        self.ended = False
        _readers.add(self)

    def stats(self) -> Stats:
        """What was done so far."""
        return Stats(
            self._rows,
            self._batches,
            self._seconds_waited,
            self._feed.bytes_mapped,
            self._joined,
            self._copies,
        )

    def close(self) -> None:
        """Ends the reader. Batches that were handed out stay valid."""
        self._feed.stream.close()

    def mark_forked(self) -> None:
        """This is a forked child's copy: its next batch is an error."""
        self._failure = IteratorError(_FORKED)

    def check(self) -> None:
        """Refuses to go on after an error: a generator that raised would just seem to have ended.

        Raises:
            FaucetError: the same error again.
        """
        if self._failure is not None:
            raise _again(self._failure)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch, which must come after the last one that was begun.

        Raises:
            IteratorError: the epoch was begun before, or this is a forked child.
        """
        if self._epoch is not None and epoch <= self._epoch:
            raise IteratorError(
                f"epoch {epoch} was begun before; each epoch can be iterated over once"
            )
        if self._epoch is not None:
            self._feed.stream.advance(epoch)  # a no-op where the last one was read to its end
        self._epoch = epoch
        return self._batches_of(epoch)

    def _batches_of(self, epoch: int) -> Iterator[Batch]:
        ledger = self._feed.ledger
        blocks = self._blocks(epoch)
        while (block := next(blocks, None)) is not None:
            keep_bytes = self._keep_bytes()
            for index in range(block.batches):
                self._batches += 1
                if ledger.passed_bytes > keep_bytes and self._must_copy(block, keep_bytes):
                    yield self._copied(Batch(block, index))
                else:
                    yield Batch(block, index)
                if self._failure is not None:
                    raise _again(self._failure)
            self._rows += block.stop_row - block.first_row
            del block  # the next one may be long in coming

    def _blocks(self, epoch: int) -> Iterator[_Block]:
        """The epoch's rows: views of segments, and between them the batches that must be joined."""
        size, total = self.reading.batch_size, self.batches_per_epoch
        rows_left = self.rows_per_epoch
        number = 0
        carry: list[Piece] = []  # rows that do not fill a batch yet
        carried = 0
        while rows_left > 0:
            run = self._next_run(epoch)
            rows_left -= run.rows
            for start, stop in self._circle(run):
                if carried:
                    taken = min(size - carried, stop - start)
                    carry.append((run.columns, start, start + taken))
                    start += taken
                    carried += taken
                    if carried < size:
                        # Many small pieces: own memory, or they would pin all their segments.
                        carry = [_own(carry)] if len(carry) > 1 else carry
                        continue
                    yield self._join(carry, (epoch, number, total))
                    number += 1
                    carry = []
                carried = (stop - start) % size
                stop -= carried
                if start < stop:
                    block = _Block(run.columns, (start, stop), size, (epoch, number, total))
                    number += block.batches
                    yield block
                    del block
                if carried:
                    carry.append((run.columns, stop, stop + carried))
                    if self._feed.ledger.kept_bytes() > self._keep_bytes():
                        carry = [_own(carry)]  # or it would pin what the next grant waits for
            self._feed.ledger.passed(run)
            del run
        if rows_left < 0:
            raise InternalError(f"{-rows_left} rows too many were granted in epoch {epoch}")
        if carried and not self.reading.drop_last:
            yield self._join(carry, (epoch, number, total))

    def _circle(self, run: _Run) -> Iterator[tuple[int, int]]:
        """The run's rows from a row that varies by seed and epoch, then those before it."""
        first, stop = run.first_row, run.first_row + run.rows
        if self.reading.request.shuffle == "none":
            return iter(((first, stop),))
        seed = f"{self.reading.request.seed}/{run.epoch}/{run.chunk}"
        start = first + random.Random(seed).randrange(run.rows)  # noqa: S311  # a shuffle, no secret
        return iter(((start, stop), (first, start)) if start > first else ((first, stop),))

    def _keep_bytes(self) -> int:
        """What the caller may keep of consumed segments, and the reader still gets on.

        That is what the daemon has promised, less the segment being sliced, which the caller may
        keep as well, and the one that must come next.
        """
        if self.reading.clone:
            return -1  # nothing
        return self._lease_limit_bytes - 2 * self._feed.largest_nbytes

    def _join(self, pieces: list[Piece], place: tuple[int, int, int]) -> _Block:
        rows = copy_rows(pieces)
        self._joined += 1
        return _Block(rows, (0, rows.rows), rows.rows, place)

    def _must_copy(self, block: _Block, keep_bytes: int) -> bool:
        if block.batches == 1 and block.columns.rows == block.size:
            return False  # it is a copy already
        return self._feed.ledger.kept_bytes() > keep_bytes

    def _copied(self, batch: Batch) -> Batch:
        if not self.reading.clone:
            if not self._copies:
                _log.warning(
                    "the caller keeps so many batches that the memory promised to this reader "
                    "(%d bytes) is full; further batches are copies. Keep batch.clone(), or fewer",
                    self._lease_limit_bytes,
                )
            self._copies += 1
        return batch.clone()

    def _next_run(self, epoch: int) -> _Run:
        while True:
            if epoch != self._epoch:
                raise IteratorError(f"epoch {epoch} was given up when epoch {self._epoch} began")
            run = self._pop()
            self._feed.stream.credit(self._rows, self._seconds_waited)
            if run.epoch == epoch:
                return run
            if run.epoch > epoch:
                raise InternalError(f"epoch {run.epoch} was granted within epoch {epoch}")
            self._feed.ledger.passed(run)  # of an epoch that was given up

    def _pop(self) -> _Run:
        self.check()
        ready = self._feed.ready
        try:
            run = ready.get_nowait()
        except queue.Empty:
            began = time.monotonic()
            run = self._wait(ready)
            self._seconds_waited += time.monotonic() - began
        if isinstance(run, FaucetError):
            self._failure = run
            raise run
        return run

    def _wait(self, ready: queue.SimpleQueue[_Run | FaucetError]) -> _Run | FaucetError:
        patience_s = PATIENCE_S
        waited_s = 0.0
        while True:
            try:
                return ready.get(timeout=patience_s)
            except queue.Empty:
                waited_s += patience_s
                _log.warning(
                    "waited %.0f s for the next chunk; `faucetd status` shows what the daemon does "
                    "and who holds its memory",
                    waited_s,
                )
                patience_s = waited_s


_FORKED = (
    "this iterator belongs to the parent process, which goes on with it; make one of its own in "
    "the child, with dataset.batches(...)"
)

_readers: weakref.WeakSet[Reader] = weakref.WeakSet()


def _mark_forked() -> None:
    for reader in list(_readers):
        reader.mark_forked()


os.register_at_fork(after_in_child=_mark_forked)


def _again(error: FaucetError) -> FaucetError:
    """The same error without its traceback, which would keep the memory of all that it went by."""
    return type(error)(error.message)


def _own(pieces: list[Piece]) -> Piece:
    rows = copy_rows(pieces)
    return rows, 0, rows.rows


def batches_in(rows: int, batch_size: int, drop_last: bool) -> int:
    """Batches of `batch_size` that `rows` rows make."""
    return rows // batch_size if drop_last else -(-rows // batch_size)


class _Batches:
    """An iterator over batches that never lets an error, or an interruption, pass for the end."""

    def __init__(self, reader: Reader, batches: Iterator[Batch], count: int) -> None:
        self._reader = reader
        self._next = batches.__next__
        self._left = count

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        try:
            batch = self._next()
        except StopIteration:
            self._reader.check()
            if self._left:
                raise IteratorError(
                    "this iterator was interrupted or closed before its end; make a new one"
                ) from None
            raise
        self._left -= 1
        return batch


class _Iteration:
    """What iterators over batches and over epochs have in common. A context manager."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def stats(self) -> Stats:
        """What was done so far."""
        return self._reader.stats()

    def close(self) -> None:
        """Ends it. Batches that were handed out stay valid."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class BatchIterator(_Iteration):
    """All batches of one or more epochs, in a row. Iterating twice goes on, it does not begin anew.

    Use it in a `with` block, or `close()` it, where it may not be read to its end.
    """

    def __init__(self, reader: Reader) -> None:
        super().__init__(reader)
        self._batches = _Batches(reader, _flat(reader), len(self))

    def __iter__(self) -> Iterator[Batch]:
        self._reader.check()
        if self._reader.ended:
            raise IteratorError(
                "this iterator has come to its end; make a new one, with dataset.batches(...), or "
                "ask for several epochs"
            )
        return self._batches

    def __next__(self) -> Batch:
        return next(self._batches)

    def __len__(self) -> int:
        """Batches of all its epochs."""
        return self._reader.batches_per_epoch * self._reader.reading.request.epochs


def _flat(reader: Reader) -> Iterator[Batch]:
    request = reader.reading.request
    try:
        for epoch in range(request.first_epoch, request.first_epoch + request.epochs):
            yield from reader.epoch(epoch)
        reader.ended = True
    finally:
        reader.close()


class Epoch:
    """One epoch; iterable once.

    Attributes:
        number: The epoch's number.
    """

    def __init__(self, reader: Reader, number: int) -> None:
        self._reader = reader
        self.number = number

    def __iter__(self) -> Iterator[Batch]:
        return _Batches(self._reader, self._reader.epoch(self.number), len(self))

    def __len__(self) -> int:
        """Batches of the epoch."""
        return self._reader.batches_per_epoch


class EpochIterator(_Iteration):
    """Epochs one after another, by one reader: the next one's data is fetched ahead.

    An epoch that is left early is given up, and the next begins at once.
    """

    def __init__(self, reader: Reader) -> None:
        super().__init__(reader)
        request = reader.reading.request
        self._numbers = iter(range(request.first_epoch, request.first_epoch + request.epochs))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Epoch:
        try:
            return Epoch(self._reader, next(self._numbers))
        except StopIteration:
            self.close()
            raise
