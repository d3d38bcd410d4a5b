"""A thread for work that may hang, such as on a disk that does not answer.

Its work is done in the order in which it was given. Who gives it work can see for how long nothing
has come of it, and the process can end though it hangs.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

_T = TypeVar("_T")


class PatientThread:
    """See the module's docstring."""

    def __init__(self, name: str) -> None:
        self._todo: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None]
        self._todo = queue.SimpleQueue()
        self._moved_at: float | None = None  # None while there is nothing to do
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def do(self, work: Callable[[], _T]) -> Future[_T]:
        """Has it done, after all that was given before."""
        future: Future[_T] = Future()
        self._todo.put((work, future))
        return future

    def moves(self) -> None:
        """Called by the work, now and then: it does not hang."""
        self._moved_at = time.monotonic()

    @property
    def hangs_for_s(self) -> float:
        """For how long nothing has come of what is being done; 0 if nothing is."""
        moved_at = self._moved_at
        return 0.0 if moved_at is None else time.monotonic() - moved_at

    def stop(self, timeout_s: float) -> None:
        """Ends it after what it was given, unless that takes longer."""
        self._todo.put(None)
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while (todo := self._todo.get()) is not None:
            work, future = todo
            self.moves()
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001  # whoever waits for it raises it
                future.set_exception(error)
            self._moved_at = None
