"""A GPU without a GPU: copies what it is told to, later, in a thread, and looks for foul play.

It is as careless as CUDA: a copy that was begun has an address and a size and holds nothing, so
that who lets its source go too early corrupts a batch, or the process. What "lies on the device" is
memory of the host, filled with rubbish until its copy is done.
"""

from __future__ import annotations

import contextlib
import ctypes
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

RUBBISH = 0xA5


class FakeEvent:
    """Comes when the stream is that far."""

    def __init__(self, gpu: FakeGpu) -> None:
        self.come = threading.Event()
        self._gpu = gpu

    def synchronize(self) -> None:
        if self._gpu.failure is not None:
            raise RuntimeError(self._gpu.failure)
        assert self.come.wait(60), "an event that never comes was waited for"


class FakeGpu:
    """Stands for `device.cuda.Cuda`.

    Attributes:
        refusal: Why nothing can be page-locked, if nothing can.
        pinned_nbytes: How much pinned memory can be had at a time.
        failure: What is raised by all that waits for it: a kernel of the trainer's has failed.
        copies_left: After so many copies its memory is full.
        locked: What is page-locked now: bytes by address.
        lockings: How often something was page-locked.
        direct: Copies straight from memory that was page-locked.
        pageable: Copies from ordinary memory.
        stream: The name of the current stream.
        handed: Streams that blocks were handed to, one after another, with the tensors' addresses.
        waits: Whether who is handed a block waits until it is there; a real stream would.
        faults: What was done wrong.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = torch.device("cuda", device.index or 0)
        self.refusal: str | None = None
        self.pinned_nbytes = 1 << 30
        self.failure: str | None = None
        self.copies_left = 1 << 30
        self.locked: dict[int, int] = {}
        self.lockings = 0
        self.direct = 0
        self.pageable = 0
        self.stream = "main"
        self.handed: list[tuple[str, list[int]]] = []
        self.waits = True
        self.faults: list[str] = []
        self._pinned: list[tuple[int, int]] = []
        self._pending: list[tuple[int, int]] = []  # what copies that are not done read
        self._lock = threading.Lock()
        self._runs = threading.Event()
        self._runs.set()
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._copy, name="gpu", daemon=True)
        self._thread.start()

    # As the device package knows it.

    def lock(self, address: int, nbytes: int) -> str | None:
        if self.refusal is not None:
            return self.refusal
        self.lockings += 1
        self.locked[address] = nbytes
        return None

    def unlock(self, address: int) -> str | None:
        with self._lock:
            nbytes = self.locked.pop(address, 0)
            if any(address <= start < address + nbytes for start, _ in self._pending):
                self.faults.append(f"memory at {address:x} was let go of while it was being read")
        return None

    def staging(self, nbytes: int) -> torch.Tensor:
        if nbytes > self.pinned_nbytes:
            raise RuntimeError("no pinned memory is left")
        pinned = torch.full((nbytes,), RUBBISH, dtype=torch.uint8)
        self._pinned.append((pinned.data_ptr(), nbytes))
        return pinned

    @contextlib.contextmanager
    def copying(self) -> Iterator[None]:
        yield

    def to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.copies_left == 0:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.copies_left -= 1
        assert tensor.is_contiguous()
        placed = torch.empty_like(tensor)
        source, target, nbytes = tensor.data_ptr(), placed.data_ptr(), tensor.nbytes
        if not nbytes:
            return placed
        ctypes.memset(target, RUBBISH, nbytes)
        locked = _within(source, self.locked.items())
        if not locked and not _within(source, self._pinned):
            self.pageable += 1
            ctypes.memmove(target, source, nbytes)  # CUDA, too, does not return before
            return placed
        self.direct += locked
        with self._lock:
            self._pending.append((source, nbytes))

        def copy(placed: torch.Tensor = placed) -> None:
            ctypes.memmove(target, source, nbytes)
            with self._lock:
                self._pending.remove((source, nbytes))

        self._work.put(copy)
        return placed

    def record(self) -> FakeEvent:
        event = FakeEvent(self)
        self._work.put(event.come.set)
        return event

    def current_stream(self) -> str:
        return self.stream

    def hand_over(self, stream: Any, copied: Any, tensors: Iterable[torch.Tensor]) -> None:
        if self.waits:
            copied.synchronize()
        self.handed.append((stream, [tensor.data_ptr() for tensor in tensors]))

    # For tests.

    def hold(self) -> None:
        """Begins no further copy until `go_on`; one may be under way."""
        self._runs.clear()

    def go_on(self) -> None:
        self._runs.set()

    @property
    def copies_pending(self) -> int:
        with self._lock:
            return len(self._pending)

    def end(self) -> None:
        self.go_on()
        self._work.put(None)
        self._thread.join()

    def _copy(self) -> None:
        while (work := self._work.get()) is not None:
            self._runs.wait()
            work()


def _within(address: int, ranges: Iterable[tuple[int, int]]) -> bool:
    return any(start <= address < start + nbytes for start, nbytes in list(ranges))
