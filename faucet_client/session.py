"""One process's session with the daemon: its connections, and the leases that it still holds.

A session belongs to the process that opened it. In a forked child it is *stale*: its sockets and
gRPC threads are the parent's; whoever meets a stale session connects anew (dataset.py).

Leases end here, by finalizers of mapped memory. These may run in any thread, in the midst of
anything, so they take no lock and wait for nobody: they unmap, and send the daemon one packet. Only
what the daemon is too busy to take, and the session's own end, are left to a thread.
"""

from __future__ import annotations

import contextlib
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
from faucet_client.errors import DaemonLost, IteratorError
from faucet_client.holdings import Holdings, Mapped
from faucet_client.profile import Profile
from faucet_client.status import Status
from faucet_client.wire.channel import Channel
from faucet_client.wire.conduit import Conduit
from faucet_client.wire.handoff import Handoff
from faucet_client.wire.values import ReaderRequest, Started

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


class _Locked(NamedTuple):
    """Page-locked memory that is used up: to unlock it may take long."""

    address: int
    nbytes: int
    lease: int
    locks: _memory.Locks


class _Orphan(NamedTuple):
    """Memory of a daemon that is gone, which is not mapped any more, and its lease of then."""

    lease: int
    mapped: Mapped


class Session:
    """A live connection to a daemon. A context manager that closes it."""

    def __init__(self, address: Address, before: Session | None = None) -> None:
        self.address = address
        self.pid = os.getpid()
        self.handoff = Handoff(address)
        self.channel = Channel(address, self.handoff.session_id, self.handoff.secret)
        keep_in_children(self)
        self._conduits: weakref.WeakSet[Conduit] = weakref.WeakSet()
        self._closed = False
        self._over = False
        self._ending = threading.Lock()  # or a mapping could be made that nobody would bury
        # What the session's thread is to do: leases to end, orphaned memory to tell the end of;
        # None: to look whether the session is over.
        self._to_do: queue.SimpleQueue[int | _Orphan | _Locked | None] = queue.SimpleQueue()
        same = before is not None and not before.stale
        self.holdings: Holdings = before.holdings if before is not None and same else Holdings()
        self.holdings.move_to(self)
        threading.Thread(target=self._finish, name="faucet-session", daemon=True).start()

    @classmethod
    def connect(cls, address: Address, before: Session | None = None) -> Self:
        """Connects to the daemon at `address`.

        Args:
            address: Where it listens.
            before: The session whose daemon is gone. What this process still maps of its memory,
                and of that of sessions before it, the new daemon is told.

        Raises:
            DaemonUnreachable: nobody listens there; the message says how to start a daemon.
            VersionMismatch: the daemon is of another version.
            AccessDenied: this user may not use it.
        """
        return cls(address, before)

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

    def read(self, request: ReaderRequest) -> tuple[Started, Conduit]:
        """Starts a reader and attaches its conduit.

        Raises:
            FaucetError: the daemon refuses it, or is gone.
        """
        started = self.channel.start_reader(request)
        conduit = Conduit(self.address, started.ticket)
        self._conduits.add(conduit)
        if self._closed:  # meanwhile
            conduit.cancel(_client_closed())
        return started, conduit

    def adopt(self, lease: int, mapped: Mapped) -> None:
        """One more mapping will be buried here, sooner or later. To be called before it is made.

        Raises:
            IteratorError: the session is over, so that nobody would bury it.
        """
        with self._ending:
            if self._over:
                raise _client_closed()
            self.holdings.add(self, lease, mapped)

    def disown(self, lease: int) -> None:
        """A mapping that was adopted could not be made."""
        mapped, of_now = self.holdings.take_off(self, lease)
        if of_now or mapped is None:
            self.holdings.settled(self, lease)
            self.wake()
        else:  # its daemon is gone, and the next one was told of it
            self._to_do.put(_Orphan(lease, mapped))

    def orphaned(self, held: dict[int, int], released: tuple[int, ...]) -> None:
        """Tells the daemon what is mapped of the memory of daemons before it; see Handoff."""
        self.handoff.orphaned(held, released)

    def wake(self) -> None:
        """Has the session's thread look whether anything is left to wait for."""
        self._to_do.put(None)

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
        if self.stale:
            return  # a fork's copy goes with the fork
        note()
        if locks is None:
            self._end(lease, address, nbytes)
        else:
            self._to_do.put(_Locked(address, nbytes, lease, locks))

    def _end(self, lease: int, address: int, nbytes: int) -> None:
        _memory.unmap(address, nbytes)
        mapped, of_now = self.holdings.take_off(self, lease)
        if of_now or mapped is None:
            self.release(lease)
            self.holdings.settled(self, lease)
        else:  # its daemon is gone, and the next one was told of it
            self._to_do.put(_Orphan(lease, mapped))
        if self._closed:
            self.wake()

    def release(self, lease: int) -> None:
        """Ends a lease on memory that is not mapped. Callable from a finalizer."""
        try:
            heard = self.handoff.release(lease, wait=False)
        except DaemonLost as error:  # then the lease has ended with the daemon
            _log.debug("a lease ended with its daemon: %s", error.message)
        else:
            if not heard:
                self._to_do.put(lease)

    def close(self, *, abandoned: bool = False) -> None:
        """Ends the session's calls. Tensors over its memory stay valid, leased till they die.

        Args:
            abandoned: Since its daemon is gone, which is what calls that are under way shall tell.
        """
        if self.stale:
            return
        self.channel.close(abandoned=abandoned)
        self._closed = True
        for conduit in list(self._conduits):
            conduit.cancel(
                DaemonLost(f"the daemon at {self.address} went away")
                if abandoned
                else _client_closed()
            )
        self.wake()

    def _finish(self) -> None:
        """The session's thread: until it is closed and nothing is mapped any more."""
        while not self._is_over():
            match self._to_do.get():
                case _Locked() as locked:
                    locked.locks.unlock(locked.address)
                    self._end(locked.lease, locked.address, locked.nbytes)
                case _Orphan(lease, mapped):
                    self.holdings.ended(self, lease, mapped)
                case int() as lease:
                    with contextlib.suppress(DaemonLost):  # then the lease has ended with it
                        self.handoff.release(lease, wait=True)
        self.handoff.goodbye()

    def _is_over(self) -> bool:
        with self._ending:
            self._over = self._closed and self._to_do.empty() and self.holdings.over(self)
            return self._over

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _client_closed() -> IteratorError:
    return IteratorError("the client was closed, and this iterator with it")
