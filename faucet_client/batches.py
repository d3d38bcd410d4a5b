"""Mini-batches: slices of mapped segments, each row exactly once an epoch.

A background thread (the feed's) keeps grants ahead and mapped; the trainer's thread only slices,
so `next()` on a mapped segment costs about as much as slicing a local tensor.

Invariants:

- An epoch is over when its exact number of rows has been handed out, never before and never after.
- Batches are views, but for two cases, which copy: a batch that lies across the end of a segment
  (or of the circle through it) is joined; and when the caller keeps so many batches that further
  views would need more memory than the daemon has promised, batches are copied (`stats()` tells).
- With a device, blocks are copied there before their batches are handed out (device/); what is
  counted, and when, stays the same.
- The feed's thread knows the feed and nothing above it, so that dropping an iterator ends it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

from faucet_client.batch import Batch, Block
from faucet_client.device import Ahead, Carrier, Transfer
from faucet_client.errors import (
    FaucetError,
    InternalError,
    IteratorError,
    StateError,
)
from faucet_client.feed import Feed, Patience, Run
from faucet_client.mapping import Piece, copy_rows
from faucet_client.progress import Progress, first_of
from faucet_client.session import Session
from faucet_client.shuffling import Mixed, Shuffler
from faucet_client.state import Ranges, ReaderState
from faucet_client.wire.values import ReaderRequest, Told

_log = logging.getLogger(__name__)

T = TypeVar("T")

State: TypeAlias = Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""What `state_dict` has returned, or a list of what it has returned to each rank."""

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
        reconnections: Times that the daemon was lost, and there again.
        bytes_to_device: Bytes that were copied to a device, those copied ahead included.
        bytes_staged: Those of them that were copied to pinned memory first.
    """

    rows: int
    batches: int
    seconds_waited: float
    bytes_mapped: int
    batches_joined: int
    batches_copied: int
    reconnections: int
    bytes_to_device: int = 0
    bytes_staged: int = 0


@dataclass(frozen=True)
class Reading:
    """How to read: one reader's wishes, checked.

    Attributes:
        request: What the daemon is asked for.
        batch_size: Rows a batch.
        drop_last: Whether a last batch that would be short is left out.
        state: What the reader has had already.
        clone: Whether batches are copied, so that they can be sent to another process.
        transfer: How batches come to a device; None if they stay in the host's memory.
    """

    request: ReaderRequest
    batch_size: int
    drop_last: bool
    state: ReaderState
    clone: bool = False
    transfer: Transfer | None = None

    @property
    def last_epoch(self) -> int:
        """The number of the last epoch."""
        return self.request.first_epoch + self.request.epochs - 1


class Reader:
    """One reader: its feed, its place in the epochs, and its statistics.

    Attributes:
        reading: What is read, and how.
        ended: Whether one more was asked for after the last batch of all.
    """

    def __init__(
        self, owner: object, session: Session, reading: Reading, patience: Patience
    ) -> None:
        """Starts to read. Keeps `owner` alive, whose end is the session's.

        Raises:
            ReaderConflict: a live reader has the same name.
            BudgetError: the daemon has no memory for another reader.
            DatasetNotFound: the dataset was dropped.
            StateError: the daemon knows of nothing that the state says was had.
            DeviceError: the device is not there, or not for this process.
        """
        self.reading = reading
        self._owner = owner
        self._carrier = None if reading.transfer is None else Carrier(reading.transfer)
        # Shuffled rows are gathered by this process: no device reads the segments.
        mixes = reading.request.shuffle == "rows"
        locks = None if self._carrier is None or mixes else self._carrier.locks
        self._feed = Feed(session, reading.request, patience, locks)
        if self._carrier is not None:
            weakref.finalize(self, self._carrier.close).atexit = False
        weakref.finalize(self, self._feed.stream.close).atexit = False
        started = self._feed.wait_started()
        self._progress = Progress(
            replace(reading.state, before=started.before),
            started.first_epoch_rows,
            started.rows_per_epoch,
        )
        self._shuffler: Shuffler | None = None
        if reading.request.shuffle == "rows":
            self._shuffler = Shuffler(
                self._feed, reading.request, reading.batch_size, self._progress
            )
            weakref.finalize(self, self._shuffler.close).atexit = False
        self._epoch: int | None = None
        self._batches_before = 0  # this epoch
        self._rows_before = 0
        # Rows are counted by the block, since they are asked for more seldom than batches: rows and
        # batches before the one of now, its rows a batch, its rows.
        self._counted = (0, 0, 0, 0)
        self._batches = 0
        self._joined = 0
        self._copies = 0
        self._seconds_waited = 0.0
        self._failure: FaucetError | None = None
        self._forked = False
        self._going: weakref.ref[Generator[Batch, None, None]] | None = None  # the epoch's
        self._whole_epochs: set[int] = set()  # after whose last batch one more was asked for
        self.ended = False
        _readers.add(self)

    def stats(self) -> Stats:
        """What was done so far."""
        return Stats(
            self._rows_had,
            self._batches,
            self._waited_s,
            self._feed.bytes_mapped,
            self._joined,
            self._copies,
            self._feed.reconnections,
            *((0, 0) if self._carrier is None else self._carrier.bytes_copied),
        )

    def batches_of(self, epoch: int) -> int:
        """Batches of an epoch, those included that a state that was loaded has had."""
        return self._progress.first_batch(epoch) + self.batches_to_come(epoch)

    def batches_to_come(self, epoch: int) -> int:
        """Batches to come of an epoch that is to begin."""
        reading = self.reading
        rows = self._progress.rows_to_come(epoch)
        return batches_in(rows, reading.batch_size, reading.drop_last)

    @property
    def batches_in_all(self) -> int:
        """Batches of all epochs, those included that a state that was loaded has had."""
        first, more = self.reading.request.first_epoch, self.reading.request.epochs - 1
        return self.batches_of(first) + more * self.batches_of(first + 1)

    def state(self) -> ReaderState:
        """What was handed out so far."""
        epoch = self._epoch
        if epoch is None:
            return self._progress.state(0, 0)
        batches = self._batches - self._batches_before
        if batches < self.batches_to_come(epoch):
            return self._progress.state(batches, batches * self.reading.batch_size)
        return self._progress.beginning_of(epoch + 1)

    @property
    def _rows_had(self) -> int:
        rows, batches, size, most = self._counted
        return rows + min((self._batches - batches) * size, most)

    def _told(self) -> Told:
        """How far it is."""
        epoch = self.reading.request.first_epoch if self._epoch is None else self._epoch
        rows = self._rows_had
        return Told(
            rows, self._waited_s, epoch + self._progress.part_of_epoch(rows - self._rows_before)
        )

    @property
    def _waited_s(self) -> float:
        carrier = self._carrier
        return self._seconds_waited + (0.0 if carrier is None else carrier.seconds_waited)

    def close(self) -> None:
        """Ends the reader, and what it has ahead. Batches that were handed out stay valid."""
        if self._failure is None and not self.ended:
            self._failure = IteratorError(_CLOSED)
        self._feed.stream.close()
        self._let_go()
        self._feed.drop_ahead()
        if self._shuffler is not None:
            self._shuffler.close()
        if self._carrier is not None:
            self._carrier.close()

    def _let_go(self) -> None:
        """Ends the epoch that was begun: suspended, it would keep the memory of its chunk."""
        going = None if self._going is None else self._going()
        if going is not None:
            with contextlib.suppress(ValueError):  # in another thread, or further up in this one
                going.close()

    def mark_forked(self) -> None:
        """This is a forked child's copy: its next batch is an error."""
        self._forked = True
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
            FaucetError: the reader's error.
        """
        self.check()  # a forked child would end its parent's epoch
        if self._epoch is not None and epoch <= self._epoch:
            raise IteratorError(
                f"epoch {epoch} was begun before; each epoch can be iterated over once"
            )
        if epoch > self.reading.request.first_epoch:
            # Of grants it gives up none where the last epoch was read to its end.
            self._feed.stream.advance(epoch, self._told())
        self._let_go()
        self._epoch = epoch
        self._batches_before = self._batches
        self._rows_before = self._rows_had
        self._progress.begin(epoch)
        going = self._batches_of(epoch) if self._carrier is None else self._placed(epoch)
        self._going = weakref.ref(going)
        return going

    def check_end(self) -> None:
        """Refuses to take the end of all batches for theirs where it is not.

        Raises:
            FaucetError: why it is not.
        """
        if not self.ended:
            self.check()
            raise IteratorError(_CLOSED)

    def check_end_of(self, epoch: int) -> None:
        """The same of one epoch.

        Raises:
            FaucetError: why it is not.
        """
        if epoch not in self._whole_epochs:
            self.check()
            self._refuse_if_given_up(epoch)
            raise IteratorError(_CLOSED)

    def _placed(self, epoch: int) -> Generator[Batch, None, None]:
        """The batches of an epoch, on the device."""
        assert self._carrier is not None, "there is one where there is a device"
        come: queue.SimpleQueue[Any] = self._feed.ready
        blocks = self._blocks(epoch)
        if self._shuffler is not None:
            come, blocks = self._shuffler.blocks, self._mixed_blocks(epoch)
        # Not an attribute: it has the blocks, which have this reader.
        ahead = Ahead(self._carrier, blocks, lambda: not come.empty())
        batches = iter(ahead)
        while (batch := self._next_placed(batches)) is not None:
            self._refuse_placed(epoch, ahead)  # another thread may have closed it meanwhile
            self._counted = (self._rows_had + len(batch), 0, 0, 0)
            self._batches += 1
            yield batch
            self._refuse_placed(epoch, ahead)  # or a forked child would wait for the carrier
        self._whole_epochs.add(epoch)

    def _refuse_placed(self, epoch: int, ahead: Ahead) -> None:
        # An error that is only ahead has its turn after the batches before it.
        if self._failure is not None and (ahead.failure is None or self._forked):
            raise _again(self._failure)
        self._refuse_if_given_up(epoch)

    def _next_placed(self, batches: Iterator[Batch]) -> Batch | None:
        try:
            return next(batches, None)
        except FaucetError as error:
            self._failure = _again(error)
            raise

    def _batches_of(self, epoch: int) -> Generator[Batch, None, None]:
        ledger = self._feed.ledger
        blocks = self._blocks(epoch) if self._shuffler is None else self._mixed_blocks(epoch)
        while (block := self._next_block(blocks)) is not None:
            keep_bytes = self._keep_bytes()
            rows = block.stop_row - block.first_row
            self._counted = (self._rows_had, self._batches, block.size, rows)
            for index in range(block.batches):
                batch = Batch(block, index)
                if ledger.passed_bytes > keep_bytes and self._must_copy(block, keep_bytes):
                    batch = self._copied(batch)
                # Here, and not after the `yield`: another thread may have closed it meanwhile, and
                # a generator that is not run any more keeps its chunk.
                if self._failure is not None:
                    raise _again(self._failure)
                if self._epoch != epoch:
                    self._refuse_if_given_up(epoch)
                # Last of all: what an interruption has kept from the caller was not handed out.
                self._batches += 1
                yield batch
            del block  # the next one may be long in coming
        self._whole_epochs.add(epoch)

    def _next_block(self, blocks: Iterator[Block]) -> Block | None:
        try:
            return next(blocks, None)
        except (InternalError, StateError) as error:
            self._failure = _again(error)  # rows are lost to this epoch: no other may follow
            raise

    def _blocks(self, epoch: int) -> Iterator[Block]:
        """The epoch's rows: views of segments, and between them the batches that must be joined."""
        size, total = self.reading.batch_size, self.batches_of(epoch)
        rows_left = self._progress.rows_to_come(epoch)
        number = self._progress.first_batch(epoch)
        carry: list[Piece] = []  # rows that do not fill a batch yet
        carried = 0
        while rows_left > 0:
            run = self._next_run(epoch)
            try:
                for start, rows in self._in_turn(run):
                    stop = start + rows
                    rows_left -= rows
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
            finally:  # of an epoch that is given up, too: its batches may be kept
                self._feed.ledger.passed(run)
            del run
        if rows_left < 0:
            raise InternalError(f"{-rows_left} rows too many were granted in epoch {epoch}")
        if carried and not self.reading.drop_last:
            yield self._join(carry, (epoch, number, total))

    def _mixed_blocks(self, epoch: int) -> Iterator[Block]:
        """The epoch's rows, mixed and copied already."""
        assert self._shuffler is not None, "there is one where rows are shuffled"
        size, total = self.reading.batch_size, self.batches_of(epoch)
        rows_left = self._progress.rows_to_come(epoch)
        while rows_left > 0:
            mixed = self._next_mixed(epoch, self._shuffler)
            self._progress.take_mixed(mixed.moves)
            rows = mixed.columns.rows
            rows_left -= rows
            if self.reading.drop_last:
                rows -= rows % size
            if rows:
                yield Block(mixed.columns, (0, rows), size, (epoch, mixed.number, total))
            del mixed
        if rows_left < 0:
            raise InternalError(f"{-rows_left} rows too many were mixed in epoch {epoch}")

    def _next_mixed(self, epoch: int, shuffler: Shuffler) -> Mixed:
        while True:
            self._refuse_if_given_up(epoch)
            mixed = self._pop(shuffler.blocks)
            shuffler.told = self._told()
            shuffler.used_up()
            if mixed.epoch == epoch:
                return mixed

    def _in_turn(self, run: Run) -> Ranges:
        """The run's rows in the order in which they are handed out, less those that were had."""
        request, first = self.reading.request, 0
        if request.shuffle != "none":
            first = first_of(run.rows, (request.seed, run.epoch, run.chunk))
        return self._progress.take(run.chunk, run.ranges, first)

    def _keep_bytes(self) -> int:
        """What the caller may keep of consumed segments, and the reader still gets on.

        That is what the daemon has promised, less the segment being sliced, which the caller may
        keep as well, and the one that must come next.
        """
        if self.reading.clone:
            return -1  # nothing
        return self._feed.lease_limit_bytes - 2 * self._feed.largest_nbytes

    def _join(self, pieces: list[Piece], place: tuple[int, int, int]) -> Block:
        rows = copy_rows(pieces)
        self._joined += 1
        return Block(rows, (0, rows.rows), rows.rows, place)

    def _must_copy(self, block: Block, keep_bytes: int) -> bool:
        if block.batches == 1 and block.columns.rows == block.size and not block.columns.mapped:
            return False  # it is a copy already
        return self._feed.ledger.kept_bytes() > keep_bytes

    def _copied(self, batch: Batch) -> Batch:
        if not self.reading.clone:
            if not self._copies:
                _log.warning(
                    "the caller keeps so many batches that the memory promised to this reader "
                    "(%d bytes) is full; further batches are copies. Keep batch.clone(), or fewer",
                    self._feed.lease_limit_bytes,
                )
            self._copies += 1
        return batch.clone()

    def _next_run(self, epoch: int) -> Run:
        while True:
            self._refuse_if_given_up(epoch)
            run = self._pop(self._feed.ready)
            self._feed.stream.credit(self._told())
            if run.epoch == epoch:
                return run
            if run.epoch > epoch:
                raise InternalError(f"epoch {run.epoch} was granted within epoch {epoch}")
            self._feed.ledger.passed(run)  # of an epoch that was given up
            del run  # the next one may wait for its memory

    def _refuse_if_given_up(self, epoch: int) -> None:
        if epoch != self._epoch:
            raise IteratorError(f"epoch {epoch} was given up when epoch {self._epoch} began")

    def _pop(self, ready: queue.SimpleQueue[T | FaucetError]) -> T:
        self.check()
        try:
            found = ready.get_nowait()
        except queue.Empty:
            began = time.monotonic()
            found = self._wait(ready)
            self._seconds_waited += time.monotonic() - began
        if isinstance(found, FaucetError):
            self._failure = found
            raise _again(found)  # kept with a traceback, it would be a ring with this reader
        return found

    def _wait(self, ready: queue.SimpleQueue[T | FaucetError]) -> T | FaucetError:
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


_CLOSED = "this iterator was interrupted or closed before its end; make a new one"
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


class _End:
    """Follows the batches of an iterator, and lets no error and no interruption pass for the end.

    A generator that raised, or was closed, just seems to have ended when it is asked again.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        self._check()
        raise StopIteration


Restart = Callable[[State], Callable[[], Reader]]
"""Checks a state; what it returns starts another reader of the same wishes, from that state on."""


class _Iteration:
    """What iterators over batches and over epochs have in common. A context manager."""

    def __init__(self, reader: Reader, restart: Restart) -> None:
        self._restart = restart
        self._begin(reader)

    def _begin(self, reader: Reader) -> None:
        self._reader = reader

    def state_dict(self) -> dict[str, Any]:
        """What was handed out so far: plain data for a checkpoint, a few KiB.

        Batches that were handed out count as had. Whoever goes on from it gets the others of the
        epoch, each row once.
        """
        return self._reader.state().to_dict()

    def load_state_dict(self, state: State) -> None:
        """Goes on from where `state_dict` was asked, in this process or in another.

        Args:
            state: What it has returned; or, for another number of ranks, the list of what it has
                returned to each of them at the same batch. The batch size may be another.

        Raises:
            StateError: it is damaged, of another dataset or reader, or a rank is missing. This
                iterator goes on as if nothing had been loaded.
        """
        start = self._restart(state)
        self._reader.close()  # two cannot have one name
        self._begin(start())

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

    def _begin(self, reader: Reader) -> None:
        super()._begin(reader)
        self._batches = chain(_flat(reader), _End(reader.check_end))

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
        """Batches of all its epochs, those included of the first that a loaded state has had."""
        return self._reader.batches_in_all


def _flat(reader: Reader) -> Iterator[Batch]:
    first, last = reader.reading.request.first_epoch, reader.reading.last_epoch
    try:
        for epoch in range(first, last + 1):
            yield from reader.epoch(epoch)
            reader.check_end_of(epoch)  # or it was closed
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
        reader, number = self._reader, self.number
        return chain(reader.epoch(number), _End(lambda: reader.check_end_of(number)))

    def __len__(self) -> int:
        """Batches of the epoch, those included that a state that was loaded has had."""
        return self._reader.batches_of(self.number)


class EpochIterator(_Iteration):
    """Epochs one after another, by one reader: the next one's data is fetched ahead.

    An epoch that is left early is given up, and the next begins at once.
    """

    def _begin(self, reader: Reader) -> None:
        super()._begin(reader)
        request = reader.reading.request
        self._numbers = iter(range(request.first_epoch, reader.reading.last_epoch + 1))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Epoch:
        try:
            return Epoch(self._reader, next(self._numbers))
        except StopIteration:
            self.close()
            raise
