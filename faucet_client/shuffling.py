"""shuffle="rows": batches of rows drawn from several chunks at a time, by a thread of their own.

A window of chunks is open. Each has its rows in a permutation of this epoch's own, and each batch
takes the next ones of every open chunk, of all about as many. A chunk that is used up is replaced
by the next one that comes.

Invariants:

- What was had of a chunk is a number of rows: so many of its permutation, which is a function of
  seed, epoch and chunk. A state is these numbers (progress.py), and needs no row.
- Which chunk gives how many rows to a batch is a function of the window, seed, epoch and the
  batch's number. With `order="deterministic"` chunks come in an order of their own, and the window
  has the same size wherever it is read, so that batches are the same on each run, and after each
  resumption.
- The thread holds the segments of the open chunks and no others; batches are copies, and keep none.
  It unmaps them itself: left to the finalizer, C++ would call that, and were the interpreter to end
  just then, that would end the process.
- It knows the feed and nothing above it, so that dropping an iterator ends it: the feed's end, and
  `close`, wake it wherever it waits.
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from faucet_client.errors import FaucetError, InternalError
from faucet_client.feed import Feed, Run
from faucet_client.gather import Picked, gather_rows
from faucet_client.mapping import Columns
from faucet_client.state import Partly
from faucet_client.wire.values import ReaderRequest, Told

WINDOW_CHUNKS = 8
"""Chunks that a batch is drawn from, where the daemon's promise holds so many."""

SURE_CHUNKS = 2
"""Chunks that every reader can hold open, beside the next one that comes (the daemon promises three
segments); with `order="deterministic"` the window, since it must not depend on a budget."""

BLOCK_NBYTES = 8 << 20
"""About as much is gathered at a time, and held ahead of the trainer twice."""

_BLOCKS_AHEAD = 2
_DRAWS = 64


class Move(NamedTuple):
    """What a block of batches has of a chunk.

    Attributes:
        chunk: Which.
        rows: All of its rows that are the reader's.
        counts: int64 [batches], how many rows of each batch are the chunk's.
    """

    chunk: int
    rows: int
    counts: NDArray[np.int64]


class Mixed(NamedTuple):
    """A block of batches, `number` the first one's; all but the epoch's last are full."""

    epoch: int
    number: int
    columns: Columns
    moves: tuple[Move, ...]


class Beginnings(Protocol):
    """Where epochs begin (progress.py)."""

    def first_batch(self, epoch: int) -> int:
        """The number of the first batch."""
        ...

    def rows_to_come(self, epoch: int) -> int:
        """Rows to come of an epoch."""
        ...

    def partly_had(self, epoch: int) -> Mapping[int, Partly]:
        """Chunks of which some rows were had before the epoch begins, here."""
        ...


@dataclass
class _Open:
    """An open chunk: its rows in this epoch's permutation, and how many are taken."""

    run: Run
    rows: torch.Tensor
    taken: int

    @property
    def left(self) -> int:
        return len(self.rows) - self.taken

    def take(self, count: int) -> torch.Tensor:
        """The next rows: int64 [count], places in the segment."""
        self.taken += count
        return self.rows[self.taken - count : self.taken]


class Shuffler:
    """Turns a feed's runs into blocks of mixed batches, ahead of the trainer.

    Attributes:
        blocks: What it has made; an error is the end.
        told: How far the reader is, which it passes on.
    """

    def __init__(self, feed: Feed, request: ReaderRequest, batch_size: int, at: Beginnings) -> None:
        self.blocks: queue.SimpleQueue[Mixed | FaucetError] = queue.SimpleQueue()
        self.told = Told(0, 0.0, request.first_epoch)
        self._feed = feed
        self._request = request
        self._size = batch_size
        self._at = at
        self._ahead: Run | None = None
        self._closed = False
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()  # places for blocks
        for _ in range(_BLOCKS_AHEAD):
            self._free.put(None)
        threading.Thread(target=self._work, name="faucet-shuffle", daemon=True).start()

    def used_up(self) -> None:
        """A block was taken: there is place for another."""
        self._free.put(None)

    def close(self) -> None:
        """Wants no more, and ends the thread, wherever it waits. Callable from a finalizer."""
        self._closed = True
        self._feed.stream.close()
        self._free.put(None)
        self._drop_blocks()

    def _drop_blocks(self) -> None:
        """Lets go of what nobody will take any more."""
        with contextlib.suppress(queue.Empty):
            while not isinstance(found := self.blocks.get_nowait(), FaucetError):
                pass
            self.blocks.put(found)  # another thread may wait for it

    def _work(self) -> None:
        request = self._request
        try:
            for epoch in range(request.first_epoch, request.first_epoch + request.epochs):
                if self._closed:
                    break
                _Epoch(self, epoch).mix()
            while True:  # nothing more comes but the end
                self.next_run(request.first_epoch + request.epochs)
        except FaucetError as error:
            end = error
        except Exception as error:  # noqa: BLE001  # the trainer's thread raises it
            end = InternalError(f"the client's shuffle failed: {error!r}")
        if self._ahead is not None:
            self._ahead.columns.unmap()
        # Its traceback has the frames of the window, and this one, which has it: a ring.
        self.blocks.put(end.with_traceback(None))

    # What an epoch needs.

    @property
    def request(self) -> ReaderRequest:
        """What is read."""
        return self._request

    @property
    def batch_size(self) -> int:
        """Rows a batch."""
        return self._size

    @property
    def beginnings(self) -> Beginnings:
        """Where epochs begin."""
        return self._at

    def next_run(self, epoch: int) -> Run | None:
        """The epoch's next run, as soon as there is one; None if the epoch was given up."""
        while True:
            run = self._ahead or self._feed.ready.get()
            self._ahead = None
            if isinstance(run, FaucetError):
                raise run
            if run.epoch > epoch:
                self._ahead = run
                return None
            self._feed.stream.credit(self.told)
            if run.epoch == epoch:
                return run
            run.columns.unmap()  # of an epoch that was given up
            del run

    def window_chunks(self) -> int:
        """How many chunks may be open at a time."""
        if self._request.order == "deterministic":
            return SURE_CHUNKS
        held = self._feed.lease_limit_bytes // max(self._feed.largest_nbytes, 1)
        return min(max(held - 1, SURE_CHUNKS), WINDOW_CHUNKS)

    def given_up(self, epoch: int) -> bool:
        """Whether nobody wants more of the epoch."""
        return self._closed or self._feed.stream.least_epoch > epoch

    def hand_out(self, mixed: Mixed) -> bool:
        """Hands a block out, as soon as there is place; False if nobody wants it any more."""
        self._free.get()
        if self.given_up(mixed.epoch):
            self._free.put(None)
            return False
        self.blocks.put(mixed)
        if self._closed:  # meanwhile
            self._drop_blocks()
        return True


class _Epoch:
    """One epoch's window."""

    def __init__(self, shuffler: Shuffler, epoch: int) -> None:
        self._shuffler = shuffler
        self._epoch = epoch
        self._seed = shuffler.request.seed
        self._size = shuffler.batch_size
        self._number = shuffler.beginnings.first_batch(epoch)
        self._unopened = shuffler.beginnings.rows_to_come(epoch)
        self._partly = shuffler.beginnings.partly_had(epoch)
        self._window: list[_Open] = []
        self._draws: tuple[int, NDArray[np.float64]] = (-1, np.empty(0))

    def mix(self) -> None:
        """Hands out all batches of the epoch, unless it is given up."""
        try:
            while not self._shuffler.given_up(self._epoch) and self._fill() and self._window:
                mixed = self._many() or self._one()
                if mixed is None or not self._shuffler.hand_out(mixed):
                    return
                self._number += len(mixed.moves[0].counts)
        finally:
            for each in self._window:
                each.run.columns.unmap()

    def _fill(self) -> bool:
        """Opens chunks until the window is full or none is left; False if the epoch is over."""
        for each in self._window:
            if not each.left:
                each.run.columns.unmap()
        self._window = [each for each in self._window if each.left]
        while self._unopened > 0 and (
            not self._window or len(self._window) < self._shuffler.window_chunks()
        ):
            run = self._shuffler.next_run(self._epoch)
            if run is None:
                return False
            partly = self._partly.get(run.chunk)
            taken = 0 if partly is None else partly.rows
            self._window.append(_Open(run, self._permuted(run), taken))
            self._unopened -= self._window[-1].left
        return True

    def _permuted(self, run: Run) -> torch.Tensor:
        rows = torch.cat([torch.arange(first, first + count) for first, count in run.ranges])
        digest = hashlib.blake2b(f"{self._seed}/{run.epoch}/{run.chunk}".encode(), digest_size=8)
        generator = torch.Generator().manual_seed(int.from_bytes(digest.digest(), "little"))
        return rows[torch.randperm(len(rows), generator=generator)]

    def _many(self) -> Mixed | None:
        """As many batches as a block has and the open chunks give; None if that is none."""
        run = self._window[0].run
        nbytes = run.nbytes // max(run.columns.rows, 1) * self._size
        most = max(BLOCK_NBYTES // max(nbytes, 1), 1)
        counts = np.concatenate(
            [self._counts(number) for number in range(self._number, self._number + most)]
        )
        fits = (np.cumsum(counts, 0) <= [each.left for each in self._window]).all(1)
        batches = most if fits.all() else int(np.argmin(fits))
        if not batches:
            return None
        counts = counts[:batches]
        pieces = [
            (each.run.columns, each.take(int(count)))
            for each, count in zip(self._window, counts.sum(0), strict=True)
        ]
        # Gathered chunk by chunk, and put in the order of the batches.
        of_chunk = np.cumsum(counts, 0) - counts
        starts = (of_chunk + np.concatenate([[0], np.cumsum(counts.sum(0))[:-1]])).ravel()
        lengths = counts.ravel()
        ends = np.cumsum(lengths)
        order = np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1])
        moves = tuple(
            Move(each.run.chunk, each.run.rows, counts[:, place])
            for place, each in enumerate(self._window)
        )
        return Mixed(self._epoch, self._number, gather_rows(pieces, torch.from_numpy(order)), moves)

    def _one(self) -> Mixed | None:
        """One batch in which chunks end; None if the epoch was given up."""
        pieces: list[Picked] = []
        moves: list[Move] = []
        lacking = self._size
        wanted = self._counts(self._number)[0]
        while lacking and self._window:
            for place, count in enumerate(wanted):
                chunk = self._window[place]
                taken = min(int(count), chunk.left, lacking)
                if taken:
                    pieces.append((chunk.run.columns, chunk.take(taken)))
                    moves.append(Move(chunk.run.chunk, chunk.run.rows, np.array([taken])))
                    lacking -= taken
                del chunk
            if lacking:
                # Own memory, or it would hold chunks that the next one may wait to be rid of.
                rows = gather_rows(pieces)
                pieces = [(rows, torch.arange(rows.rows))]
                if not self._fill():
                    return None
            # What chunks that ended lack, the others give, as far as they go.
            wanted = np.full(len(self._window), -(-lacking // max(len(self._window), 1)))
        return Mixed(self._epoch, self._number, gather_rows(pieces), tuple(moves))

    def _counts(self, number: int) -> NDArray[np.int64]:
        """How many rows a batch takes of each open chunk: int64 [1, chunks], as even as it goes."""
        group, place = divmod(number, _DRAWS)
        if self._draws[0] != group:
            draws = np.random.default_rng([self._seed, self._epoch, group]).random(_DRAWS)
            self._draws = group, draws
        chunks = len(self._window)
        bounds = self._size * np.arange(chunks + 1) / chunks + self._draws[1][place]
        counts: NDArray[np.int64] = np.diff(np.floor(bounds).astype(np.int64))
        return counts[None, :]
