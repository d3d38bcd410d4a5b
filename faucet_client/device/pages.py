"""Shared memory that is page-locked while it is mapped, so that a device can read it by itself."""

from __future__ import annotations

import logging

from faucet_client.device.backend import Backend

_log = logging.getLogger(__name__)

_warned: set[str] = set()  # devices


class PageLocks:
    """One reader's. After a failure it tries no more, and copies go another way.

    Locks are taken in the feed's thread and given back in the reaper's, by address: an address is
    mapped again only after it was given back.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._locked: set[int] = set()
        self._given_up = False

    def lock(self, address: int, nbytes: int) -> bool:
        """Page-locks a mapping; False if it cannot be."""
        if self._given_up:
            return False
        why = self._backend.lock(address, nbytes)
        if why is None:
            self._locked.add(address)
            return True
        self._given_up = True
        device = str(self._backend.device)
        if device not in _warned:
            _warned.add(device)
            _log.warning(
                "%d bytes of shared memory cannot be page-locked for %s: %s. Batches are copied to "
                "pinned memory first, which costs processor time; nothing is lost",
                nbytes,
                device,
                why,
            )
        return False

    def unlock(self, address: int) -> None:
        """Undoes `lock`, where it has succeeded; to be called before the memory is unmapped."""
        if address not in self._locked:
            return
        self._locked.discard(address)
        why = self._backend.unlock(address)
        if why is not None:
            _log.warning(
                "page-locked memory for %s was not let go of: %s", self._backend.device, why
            )
