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
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from faucet_client.batch import Batch, Block
from faucet_client.channel import ReaderRequest
from faucet_client.errors import (
    FaucetError,
    InternalError,
    IteratorError,
)
from faucet_client.feed import Feed, Run
from faucet_client.mapping import Piece, copy_rows
from faucet_client.session import Session

_log = logging.getLogger(__name__)

PATIENCE_S = 30.0
"""A wait for data after which the log says so, again each time it has doubled."""


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
        self._feed = Feed(session, reading.request)
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
            # Of grants it gives up none where the last epoch was read to its end.
            self._feed.stream.advance(epoch, self._rows, self._seconds_waited)
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

    def _blocks(self, epoch: int) -> Iterator[Block]:
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
                    block = Block(run.columns, (start, stop), size, (epoch, number, total))
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

    def _circle(self, run: Run) -> Iterator[tuple[int, int]]:
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

    def _join(self, pieces: list[Piece], place: tuple[int, int, int]) -> Block:
        rows = copy_rows(pieces)
        self._joined += 1
        return Block(rows, (0, rows.rows), rows.rows, place)

    def _must_copy(self, block: Block, keep_bytes: int) -> bool:
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

    def _next_run(self, epoch: int) -> Run:
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

    def _pop(self) -> Run:
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

    def _wait(self, ready: queue.SimpleQueue[Run | FaucetError]) -> Run | FaucetError:
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
