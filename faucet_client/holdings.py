"""What memory of daemons this process maps, over all its sessions of one client.

A daemon that is restarted knows nothing of the memory that trainers still map of the one before,
and would fill its budget beside it. So whoever connects to it tells: memory whose daemon is gone is
*orphaned*, and belongs to the session of now, until its last mapping here ends.

Invariants:

- A session's memory is released by that session while it is the one of now, and is orphaned from
  the moment on at which another one is.
- What orphaned memory a daemon is told of, and its end, it hears in this order: both are said under
  the lock.
"""

from __future__ import annotations

import contextlib
import threading
from typing import NamedTuple, Protocol

from faucet_client.errors import DaemonLost


class Mapped(NamedTuple):
    """A mapping: the memory's number, the same wherever it is mapped, and its size."""

    inode: int
    nbytes: int


class Told(Protocol):
    """The session of now, as far as it is told."""

    def orphaned(self, held: dict[int, int], released: tuple[int, ...]) -> None:
        """Tells the daemon.

        Raises:
            DaemonLost: it is gone; the next one is told anew.
        """
        ...

    def wake(self) -> None:
        """Something of what it waits for may have ended."""
        ...


class Holdings:
    """The mappings of sessions that come one after another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: dict[Told, dict[int, Mapped]] = {}  # by session and lease
        self._now: Told | None = None
        self._ending: set[tuple[Told, int]] = set()  # of which nobody has been told yet

    def move_to(self, session: Told) -> None:
        """All that others have is orphaned, and `session` is the one of now."""
        with self._lock:
            self._of[session] = {}
            self._now = session
            if orphaned := self._orphaned():
                _tell(session, orphaned)

    def add(self, session: Told, lease: int, mapped: Mapped) -> None:
        """The session is about to map a segment."""
        with self._lock:
            self._of.setdefault(session, {})[lease] = mapped
            if session is not self._now and self._now is not None:  # its daemon is gone since
                _tell(self._now, {mapped.inode: mapped.nbytes})

    def take_off(self, session: Told, lease: int) -> tuple[Mapped | None, bool]:
        """The mapping has ended. Callable from a finalizer, so it takes no lock.

        Returns:
            What was mapped, and whether the session is the one of now. If so, its lease is to be
            ended, and `settled` is due; if not, `ended`. `move_to` says who is the one of now
            before it looks who has what.
        """
        self._ending.add((session, lease))  # first, or nothing would seem to be left meanwhile
        mapped = self._of.get(session, {}).pop(lease, None)
        return mapped, session is self._now or self._now is None

    def settled(self, session: Told, lease: int) -> None:
        """The lease has ended too. Callable from a finalizer."""
        self._ending.discard((session, lease))

    def ended(self, session: Told, lease: int, mapped: Mapped) -> None:
        """Orphaned memory is not mapped any more, at that place."""
        with self._lock:
            if self._now is not None and mapped.inode not in self._orphaned():
                _tell(self._now, {}, (mapped.inode,))
            self.settled(session, lease)
            if self._now is not None:
                self._now.wake()

    def over(self, session: Told) -> bool:
        """Whether nothing is left for which the session would have to stay."""
        with self._lock:
            ending = {one for one, _ in tuple(self._ending)}
            if self._of.get(session) or session in ending:
                return False
            if session is self._now:
                return not self._orphaned() and not ending
            self._of.pop(session, None)
            return True

    def _orphaned(self) -> dict[int, int]:
        return {
            mapped.inode: mapped.nbytes
            for session, leases in self._of.items()
            if session is not self._now
            for mapped in tuple(leases.values())  # finalizers take some off meanwhile
        }


def _tell(session: Told, held: dict[int, int], released: tuple[int, ...] = ()) -> None:
    with contextlib.suppress(DaemonLost):  # the next daemon is told anew
        session.orphaned(held, released)
