"""The calls of CUDA, by torch.

Page-locking is the CUDA runtime's `cudaHostRegister`, which torch hands through. It is asked for
memory that is mapped read-only (`cudaHostRegisterReadOnly`), which not every device has, and which
the driver may refuse for other reasons; what it refuses it says by a number.

A call that fails also leaves its error to the next one of the same thread that asks for one, which
torch does when it begins a kernel. The threads that lock and unlock (the feed's, the reaper's)
begin none.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, cast

import torch

from faucet_client.device.backend import Event
from faucet_client.errors import DeviceError

_HOST_REGISTER_READ_ONLY = 8  # of <driver_types.h>


def check(device: torch.device) -> None:
    """Says what is missing for `device`, if anything is. Sets up nothing.

    Raises:
        DeviceError: torch is a build without CUDA, or there is no such device.
    """
    instead = "or leave device out: batches are then in the host's memory"
    if not (_build("cuda") or _build("hip")):
        raise DeviceError(
            f"torch {torch.__version__} is a build without CUDA, so there is no {device}; "
            f"install one with it (https://pytorch.org/get-started), {instead}"
        )
    if not torch.cuda.is_available():
        raise DeviceError(
            f"torch finds no CUDA device, so there is no {device}; see that nvidia-smi lists "
            f"one and that CUDA_VISIBLE_DEVICES does not hide it, {instead}"
        )
    count, index = torch.cuda.device_count(), _index(device)
    if index is not None and not 0 <= index < count:
        raise DeviceError(
            f"there is no {device}: this process sees {count}, from cuda:0 on; name one of "
            f"these, {instead}"
        )


class Cuda:
    """A CUDA device, and a stream of copies to it.

    Raises:
        DeviceError: there is no such device, or it is not for this process.
    """

    def __init__(self, device: torch.device) -> None:
        check(device)
        try:
            index = _index(device)
            if index is None:
                index = torch.cuda.current_device()
            self._device = torch.device("cuda", index)
            self._copies = torch.cuda.Stream(self._device)
        except RuntimeError as error:  # in a forked child, of a device that another process has
            raise DeviceError(f"{device} cannot be used: {error}") from error

    @property
    def device(self) -> torch.device:
        """The device, with its number."""
        return self._device

    def lock(self, address: int, nbytes: int) -> str | None:
        """Page-locks memory that is mapped read-only; None, or why it cannot be."""
        if _build("hip"):
            return "ROCm has no way to page-lock memory that is mapped read-only"
        try:
            # Of this device: the thread's own may be another, which would be set up for nothing.
            with torch.cuda.device(self._device):
                runtime = torch.cuda.cudart()
                return _fault(runtime.cudaHostRegister(address, nbytes, _HOST_REGISTER_READ_ONLY))
        except RuntimeError as error:
            return str(error)

    def unlock(self, address: int) -> str | None:
        """Undoes `lock`, before the memory is unmapped; None, or what was wrong."""
        try:
            with torch.cuda.device(self._device):
                return _fault(torch.cuda.cudart().cudaHostUnregister(address))
        except RuntimeError as error:
            return str(error)

    def staging(self, nbytes: int) -> torch.Tensor:
        """Page-locked memory of the host: uint8 [nbytes].

        Raises:
            RuntimeError: so much cannot be had.
        """
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def copying(self) -> AbstractContextManager[object]:
        """What is copied within goes to the stream of copies."""
        return cast("AbstractContextManager[object]", torch.cuda.stream(self._copies))

    def to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """Begins a copy; the source must stay as it is until an event behind it has come."""
        return tensor.to(self._device, non_blocking=True)

    def record(self) -> Event:
        """An event behind all copies that were begun within this `copying()`."""
        # Blocking: who waits for it sleeps, and takes no processor from the trainer.
        event = torch.cuda.Event(blocking=True)
        event.record(self._copies)
        return event

    def current_stream(self) -> Any:
        """The stream of the thread that asks, on which batches are to be used; comparable."""
        return torch.cuda.current_stream(self._device)

    def hand_over(self, stream: Any, copied: Event, tensors: Iterable[torch.Tensor]) -> None:
        """Has a stream wait for the event, and the tensors' memory for what the stream does."""
        stream.wait_event(copied)
        for tensor in tensors:
            tensor.record_stream(stream)


def _build(kind: str) -> str | None:
    """The version of "cuda" or "hip" that torch was built for."""
    return cast("str | None", getattr(torch.version, kind, None))


def _index(device: torch.device) -> int | None:
    return cast("int | None", device.index)  # which torch declares to be there always


def _fault(code: Any) -> str | None:
    if int(code) == 0:
        return None
    return f"{torch.cuda.cudart().cudaGetErrorString(code)} (CUDA error {int(code)})"
