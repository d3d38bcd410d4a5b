"""What is asked of a device's runtime, and no more; `cuda.py` has it of CUDA."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch


class Event(Protocol):
    """A point in a stream of copies."""

    def synchronize(self) -> None:
        """Waits, without the interpreter's lock, until all copies before it are done."""
        ...


class Backend(Protocol):
    """A device, and the stream on which it is copied to. All of it may be called in any thread."""

    @property
    def device(self) -> torch.device:
        """The device, with its number."""
        ...

    def lock(self, address: int, nbytes: int) -> str | None:
        """Page-locks memory that is mapped read-only; None, or why it cannot be."""
        ...

    def unlock(self, address: int) -> str | None:
        """Undoes `lock`, before the memory is unmapped; None, or what was wrong."""
        ...

    def staging(self, nbytes: int) -> torch.Tensor:
        """Page-locked memory of the host: uint8 [nbytes].

        Raises:
            RuntimeError: so much cannot be had.
        """
        ...

    def copying(self) -> AbstractContextManager[object]:
        """What is copied within goes to the stream of copies."""
        ...

    def to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """Begins a copy; the source must stay as it is until an event behind it has come."""
        ...

    def record(self) -> Event:
        """An event behind all copies that were begun within this `copying()`."""
        ...

    def current_stream(self) -> Any:
        """The stream of the thread that asks, on which batches are to be used; comparable."""
        ...

    def hand_over(self, stream: Any, copied: Event, tensors: Iterable[torch.Tensor]) -> None:
        """Has a stream wait for the event, and the tensors' memory for what the stream does."""
        ...
