"""A ring of pinned memory, for rows that do not lie in memory that is page-locked already."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from faucet_client.device.backend import Backend, Event

_log = logging.getLogger(__name__)

SLOTS = 2
"""While one is being copied from, the other is filled."""

_ALIGNMENT = 64


@dataclass
class Slot:
    """Pinned memory, uint8, and the event behind the last copy from it."""

    memory: torch.Tensor
    read: Event | None = None


class Ring:
    """Used by the carrier's thread alone."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._slots = [Slot(torch.empty(0, dtype=torch.uint8)) for _ in range(SLOTS)]
        self._turn = 0
        self._given_up = False

    def stage(self, tensors: Iterable[torch.Tensor]) -> tuple[list[torch.Tensor], Slot | None]:
        """Copies tensors into the next slot, once what was copied from it is done.

        Returns:
            The tensors there, and the slot, whose `read` is to be set to the event behind the
            copies from it. Where no pinned memory can be had, the tensors themselves, and None:
            they can be copied too, slowly.
        """
        whole = list(tensors)
        nbytes = sum(_padded(tensor.nbytes) for tensor in whole)
        slot = self._slots[self._turn]
        if slot.read is not None:
            slot.read.synchronize()
            slot.read = None
        if slot.memory.numel() < nbytes and not self._grown(slot, nbytes):
            return whole, None
        self._turn = (self._turn + 1) % SLOTS
        staged, start = [], 0
        for tensor in whole:
            place = slot.memory[start : start + tensor.nbytes].view(tensor.dtype)
            staged.append(place.view(tensor.shape).copy_(tensor))
            start += _padded(tensor.nbytes)
        return staged, slot

    def _grown(self, slot: Slot, nbytes: int) -> bool:
        if self._given_up:
            return False
        try:
            # A power of two, which is what torch takes from the system anyway.
            slot.memory = self._backend.staging(1 << (nbytes - 1).bit_length())
        except RuntimeError as error:
            self._given_up = True
            _log.warning(
                "%d bytes of pinned memory cannot be had for %s: %s. Batches are copied from "
                "ordinary memory, which is slow; nothing is lost",
                nbytes,
                self._backend.device,
                str(error),  # a record that is kept would keep the error's frames, and the rows
            )
            return False
        return True


def _padded(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT
