"""One process's session with the daemon: its connections, and the leases that it still holds.

A session belongs to the process that opened it. In a forked child it is *stale*: its sockets and
gRPC threads are the parent's; whoever meets a stale session connects anew (dataset.py).

Leases end here. Finalizers of mapped memory may run in any thread, in the midst of anything, so
they only put into a queue; one thread per session, the reaper, unmaps and tells the daemon.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

from faucet_client import _memory
from faucet_client.address import Address
from faucet_client.channel import Channel, Handoff
from faucet_client.errors import DaemonLost
from faucet_client.profile import Profile
from faucet_client.status import Status

_log = logging.getLogger(__name__)

# A forked child must neither use nor destroy the parent's gRPC objects: destroying them talks to
# threads that do not exist in the child. It keeps them here instead, for ever.
_alive: weakref.WeakSet[object] = weakref.WeakSet()
_of_the_parent: list[object] = []


def keep_in_children(grpc_object: object) -> None:
    """Has forked children keep their copy of `grpc_object` from being destroyed."""
    _alive.add(grpc_object)


def _in_child() -> None:
    _of_the_parent.extend(_alive)
    _alive.clear()


os.register_at_fork(after_in_child=_in_child)


class _DeadMapping(NamedTuple):
    """What a finalizer leaves for the reaper: memory to unmap, and the lease that ends with it."""

    address: int
    nbytes: int
    lease: int
    locks: _memory.Locks | None


class Session:
    """A live connection to a daemon. A context manager that closes it."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.pid = os.getpid()
        self.handoff = Handoff(address)
        self.channel = Channel(address, self.handoff.session_id, self.handoff.secret)
        keep_in_children(self)
        self._mapped = 0
        self._mapped_lock = threading.Lock()
        self._dead: queue.SimpleQueue[_DeadMapping | None] = queue.SimpleQueue()
        threading.Thread(target=self._reap, name="faucet-reaper", daemon=True).start()

    @classmethod
    def connect(cls, address: Address) -> Self:
        """Connects to the daemon at `address`.

        Raises:
            DaemonUnreachable: nobody listens there; the message says how to start a daemon.
            VersionMismatch: the daemon is of another version.
            AccessDenied: this user may not use it.
        """
        return cls(address)

    @property
    def stale(self) -> bool:
        """Whether this is the forked copy of another process's session."""
        return os.getpid() != self.pid

    @property
    def usable(self) -> bool:
        """Whether this process can go on with it: it is no fork's copy, and the daemon is there."""
        return not self.stale and self.handoff.alive()

    def status(self) -> Status:
        """What the daemon says of itself."""
        return self.channel.status()

    def profile(self, key: str) -> Profile:
        """The profile of an open dataset, by its key or the beginning of it."""
        return self.channel.profile(key)

    def drop(self, key: str) -> tuple[str, int]:
        """Forgets a dataset; its whole key, and the bytes that this freed."""
        return self.channel.drop(key)

    def adopt(self) -> None:
        """One more mapping will be buried here, sooner or later."""
        with self._mapped_lock:
            self._mapped += 1

    def bury(
        self,
        lease: int,
        note: Callable[[], None],
        address: int,
        nbytes: int,
        locks: _memory.Locks | None = None,
    ) -> None:
        """Takes over memory whose last user is gone. Callable from a finalizer.

        Args:
            lease: The lease that ends with it.
            note: Called at once, in the finalizer: it may do no more than append to a deque, and
                must not hold on to mapped memory.
            address: Where the memory is mapped.
            nbytes: Its size.
            locks: What may have page-locked it.
        """
        if not self.stale:  # a fork's copy goes with the fork
            note()
            self._dead.put(_DeadMapping(address, nbytes, lease, locks))

    def close(self, *, abandoned: bool = False) -> None:
        """Ends the session's calls. Tensors over its memory stay valid, leased till they die.

        Args:
            abandoned: Since its daemon is gone, which is what calls that are under way shall tell.
        """
        if not self.stale:
            self.channel.close(abandoned=abandoned)
            self._dead.put(None)

    def _reap(self) -> None:
        """The reaper's thread: until the session is closed and nothing is mapped any more."""
        closed = False
        while not (closed and self._mapped == 0):
            dead = self._dead.get()
            if dead is None:
                closed = True
                continue
            if dead.locks is not None:
                dead.locks.unlock(dead.address)
            _memory.unmap(dead.address, dead.nbytes)
            with self._mapped_lock:
                self._mapped -= 1
            # Not by the reader's stream: what is sent when the daemon has just ended it is lost.
            try:
                self.handoff.release((dead.lease,))
            except DaemonLost as error:  # then the lease has ended with the daemon
                _log.debug("a lease ended with its daemon: %s", error)
        self.handoff.goodbye()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
