"""Keeps this process's threads out of gRPC while it forks.

gRPC brings its own threads to a stand before a fork (its doc/fork_support.md), but not ours: one
that is just starting a call holds a lock of the channel. The child inherits it locked, and gRPC's
handler in the child waits for it for ever.

So whatever is done with gRPC is done inside the one `Gate` of the process, which shuts before a
fork until nothing is under way.

Invariants:

- Who is `calling` is either on its way in gRPC, or waits for an answer in
  `threading.Condition.wait`, where it holds no lock that the child needs. gRPC cannot be asked
  which; the interpreter's frames tell (`sys._current_frames`). Who wakes up while the gate is shut
  leaves, and does not come in again.
- gRPC's own handlers run between ours: before a fork, handlers that were registered last run
  first, so `install` comes after gRPC was first used.
- There is no lock here that a child could inherit, or a signal's handler wait for. Who comes in
  says so, and then looks whether somebody forks; who forks says so, and then looks who is inside.
- A fork that has shut the gate opens it, whatever happens: Python ignores what a fork's handler
  raises, such as the KeyboardInterrupt of a Ctrl-C just then, so what shuts and opens is one step
  of the interpreter each, which nothing can come between.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial

_log = logging.getLogger(__name__)

PATIENCE_S = 30.0
"""How long a fork waits for a thread that does not come to a stand."""

_POLL_S = 0.0005


class _Visit:
    """Somebody inside, and which thread that is."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()


class Gate:
    """Who is inside gRPC. A thread that is inside should neither enter again nor fork."""

    def __init__(self) -> None:
        self._inside: set[_Visit] = set()
        self._forks: list[None] = []  # one for each that is under way
        self._forking: set[int] = set()  # their threads
        self._installed = False

    def install(self) -> None:
        """Shuts the gate before each fork from now on. To be called once gRPC has been used."""
        if self._installed:
            return
        self._installed = True
        # Before a fork the second of these runs first.
        os.register_at_fork(
            before=self._await_stillness,
            after_in_parent=self._forks.pop,
            after_in_child=self._forks.clear,
        )
        os.register_at_fork(
            before=partial(self._forks.append, None),
            after_in_parent=self._forked,
            after_in_child=self._inside.clear,  # the threads that were inside are not there
        )

    @contextlib.contextmanager
    def calling(self) -> Iterator[None]:
        """Inside while a call is started, and its answer waited for."""
        visit = _Visit()
        try:
            self._enter(visit)
            yield
        finally:
            self._inside.discard(visit)

    def _enter(self, visit: _Visit) -> None:
        while True:
            self._inside.add(visit)
            # Python may run a finalizer in the thread that forks, which must not wait for itself.
            if not self._forks or visit.thread in self._forking:
                return
            self._inside.discard(visit)
            time.sleep(_POLL_S)

    def _await_stillness(self) -> None:
        self._forking.add(threading.get_ident())
        deadline = time.monotonic() + PATIENCE_S
        while self._moving():
            if time.monotonic() > deadline:
                _log.warning(
                    "a call to the daemon has been on its way for %.0f s: the process forks "
                    "nevertheless, and the child may hang when it uses the client",
                    PATIENCE_S,
                )
                return
            time.sleep(_POLL_S)

    def _moving(self) -> bool:
        """Whether anybody inside is on their way."""
        frames = sys._current_frames()  # noqa: SLF001  # documented, despite its name
        for visit in self._inside.copy():
            if visit.thread == threading.get_ident():
                continue  # a signal's handler forks: it would wait for itself
            frame = frames.get(visit.thread)
            if frame is None:
                continue  # it ended without leaving, as threads do when the interpreter ends
            if frame.f_code is not threading.Condition.wait.__code__:
                return True
        return False

    def _forked(self) -> None:
        self._forking.discard(threading.get_ident())


GRPC = Gate()
"""The gate of this process."""
