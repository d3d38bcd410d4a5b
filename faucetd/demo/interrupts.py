"""Ctrl-C and its kin, as one KeyboardInterrupt at a moment when it does no harm.

Python raises KeyboardInterrupt between any two steps: also after a process was started and before
anybody has noted that it must be ended, or in the middle of the cleaning up. Within `Interrupts`
such steps are `held()` together, and nothing interrupts any more after `ignore()`.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Within its block, the first SIGINT, SIGTERM or SIGHUP is a KeyboardInterrupt.

    Further ones are nothing: an impatient second Ctrl-C must not interrupt the cleaning up.
    """

    def __init__(self) -> None:
        self._handlers: dict[signal.Signals, Any] = {}
        self._held = False
        self._pending = False
        self._done = False

    def __enter__(self) -> Self:
        self._handlers = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """What is done in this block is done completely; a signal meanwhile counts at its end."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
            if self._pending:
                self._raise()

    def ignore(self) -> None:
        """From now on, signals are nothing."""
        self._done = True

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._held:
            self._pending = True
        else:
            self._raise()

    def _raise(self) -> None:
        self._pending = False
        if not self._done:
            self._done = True
            raise KeyboardInterrupt
