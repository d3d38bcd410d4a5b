"""The carrier: begins the copies of one reader's blocks, in a thread of its own.

Invariants:

- Blocks are copied in the order in which they were sent.
- The columns that a block was sent with are held until the event behind its copies has come, after
  a failure too. Waiting for that is done when there is nothing to begin.
- The thread knows the device and nothing above it, so that dropping an iterator ends it.
- It has ended before the interpreter does: one that came back from CUDA to an interpreter that is
  gone would abort the process.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import threading
import time
import weakref
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from faucet_client.batch import Batch, Block
from faucet_client.device.backend import Backend, Event
from faucet_client.device.columns import put_together, taken_apart
from faucet_client.device.pages import PageLocks
from faucet_client.device.ring import Ring
from faucet_client.device.transfer import Transfer, backend_of
from faucet_client.errors import DeviceError, FaucetError, IteratorError

_LOOK_S = 1.0
"""How often who waits for a copy to begin looks whether the thread still lives."""

_END_TIMEOUT_S = 10.0


@dataclass
class Placed:
    """A block on the device, which may not have arrived there yet.

    Attributes:
        block: Its columns are on the device.
        copied: The event behind its copies.
        tensors: All that lies on the device.
    """

    block: Block
    copied: Event
    tensors: list[torch.Tensor]
    _backend: Backend
    _stream: Any = field(default=None)

    def batch(self, index: int) -> Batch:
        """A batch of it, for the current stream of the thread that asks."""
        stream = self._backend.current_stream()
        if stream != self._stream:
            self._backend.hand_over(stream, self.copied, self.tensors)
            self._stream = stream
        return Batch(self.block, index)


class _Order(NamedTuple):
    block: Block
    placed: Future[Placed]


class _Flying(NamedTuple):
    """Copies that were begun, and what they read; it is held for its life alone."""

    copied: Event
    read: tuple[object, ...]


class Carrier:
    """Copies one reader's blocks to a device.

    Attributes:
        locks: For the feed, which page-locks what it maps; None if that is not wanted.
        bytes_copied: Bytes of which copies were begun; and those of them that went through pinned
            memory.
        seconds_waited: How long it was waited for copies to begin.

    Raises:
        DeviceError: there is no such device, or it is not for this process.
    """

    def __init__(self, transfer: Transfer) -> None:
        self.transfer = transfer
        self.bytes_copied = (0, 0)
        self.seconds_waited = 0.0
        self._backend = backend_of(transfer)
        self.locks = PageLocks(self._backend) if transfer.page_lock else None
        self._ring = Ring(self._backend)
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._failure: FaucetError | None = None
        self._closed = False
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._work, name="faucet-device", daemon=True)
        _carriers.add(self)

    def send(self, block: Block) -> Future[Placed]:
        """Has a block copied; see `take`.

        Raises:
            IteratorError: it is closed.
            DeviceError: the device has failed.
        """
        self._refuse_if_closed()
        if self._thread.ident is None:
            self._thread.start()
        order = _Order(block, Future())
        self._orders.put(order)
        if self._closed:  # meanwhile, so that the thread may have ended
            self._refuse_all()
            self._orders.put(None)  # or may not, and not have seen the end that was among them
            self._refuse_if_closed()
        return order.placed

    def take(self, sent: Future[Placed]) -> Placed:
        """A block that was sent, as soon as its copies have begun.

        Raises:
            DeviceError: it cannot be copied.
            IteratorError: it is closed, or this is a forked child.
        """
        began = time.monotonic()
        try:
            while True:
                try:
                    placed = sent.result(timeout=_LOOK_S)
                except TimeoutError:
                    if not self._thread.is_alive() and not sent.done():
                        raise self._end() from None
                    continue
                self.seconds_waited += time.monotonic() - began
                return placed
        finally:
            del sent  # it has the error, whose traceback has this frame

    def close(self) -> None:
        """Begins no more copies. Blocks that were taken stay valid.

        A finalizer calls it in the midst of anything, so it takes no lock, and waits for nothing.
        """
        self._closed = True
        if self._pid == os.getpid():
            self._orders.put(None)

    def join(self, timeout_s: float) -> None:
        """Waits until the thread has ended, after `close`."""
        if self._pid == os.getpid() and self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _work(self) -> None:
        flying: deque[_Flying] = deque()
        try:
            while self._begin_next(flying):
                pass
            self._refuse_all()
            while flying:
                _let_go_of_first(flying)
        except Exception as error:  # noqa: BLE001  # the trainer's thread raises it
            self._failure = self._named(error)  # of an event: nothing that was begun will end
        finally:
            self._closed = True
            self._refuse_all()
            self._ring = Ring(self._backend)  # without the pinned memory

    def _refuse_all(self) -> None:
        """Lets go of the blocks that nobody will copy any more."""
        with contextlib.suppress(queue.Empty):
            while True:
                if (order := self._orders.get_nowait()) is not None:
                    order.placed.set_exception(self._end())

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise self._end()

    def _end(self) -> FaucetError:
        """Why nothing more is copied."""
        if self._failure is None:
            return IteratorError(_CLOSED)
        return type(self._failure)(self._failure.message)

    def _begin_next(self, flying: deque[_Flying]) -> bool:
        """Begins a block's copies; False at the end. Holds nothing of the block when it returns."""
        order = self._next(flying)
        if order is None or self._closed:
            if order is not None:
                order.placed.set_exception(self._end())
            return False
        try:
            order.placed.set_result(self._copy(order.block, flying))
        except Exception as error:  # noqa: BLE001  # the trainer's thread raises it
            order.placed.set_exception(self._named(error))
        return True

    def _next(self, flying: deque[_Flying]) -> _Order | None:
        """The next order, or None at the end; what has been copied meanwhile is let go of."""
        while flying:
            try:
                return self._orders.get_nowait()
            except queue.Empty:
                _let_go_of_first(flying)
        return self._orders.get()

    def _copy(self, block: Block, flying: deque[_Flying]) -> Placed:
        columns, first, stop = block.columns, block.first_row, block.stop_row
        tensors = taken_apart(columns, first, stop)
        nbytes = sum(tensor.nbytes for tensor in tensors.values())
        sources, slot = list(tensors.values()), None
        if not columns.page_locked:
            sources, slot = self._ring.stage(sources)
        copied_before, staged_before = self.bytes_copied
        self.bytes_copied = copied_before + nbytes, staged_before + nbytes * (slot is not None)
        with self._backend.copying():
            try:
                copies = [self._backend.to_device(source) for source in sources]
            finally:
                # After a failure too: what was begun reads its source until then.
                copied = self._backend.record()
                flying.append(_Flying(copied, (columns, sources)))
                if slot is not None:
                    slot.read = copied
        placed = put_together(columns, first, stop, dict(zip(tensors, copies, strict=True)))
        place = block.epoch, block.first_number, block.batches_per_epoch
        on_device = Block(placed, (0, stop - first), block.size, place)
        return Placed(on_device, copied, copies, self._backend)

    def _named(self, error: Exception) -> FaucetError:
        """The error as one of ours, without its traceback, which would hold the block's memory."""
        if isinstance(error, FaucetError):
            return error.with_traceback(None)
        device, transfer = self._backend.device, self.transfer
        if isinstance(error, torch.OutOfMemoryError):
            return DeviceError(
                f"{device} has no memory for another block of batches: {error} Keep fewer batches, "
                f"or keep batch.clone(); or copy less ahead than device=Transfer(device, "
                f"ahead={transfer.ahead}, block_nbytes={transfer.block_nbytes}) does"
            )
        return DeviceError(f"batches cannot be copied to {device}: {error!r}")


def _let_go_of_first(flying: deque[_Flying]) -> None:
    """Waits for the oldest copies, and only then lets go of what they read."""
    flying[0].copied.synchronize()
    flying.popleft()


_CLOSED = "the iterator is closed"

_carriers: weakref.WeakSet[Carrier] = weakref.WeakSet()


@atexit.register
def _end() -> None:
    carriers = list(_carriers)
    for carrier in carriers:
        carrier.close()
    for carrier in carriers:
        carrier.join(_END_TIMEOUT_S)
