"""Waiting for what must come to be, with a deadline; never sleeping for luck."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_POLL_S = 0.01


def eventually(condition: Callable[[], T], timeout_s: float = 10.0, poll_s: float = _POLL_S) -> T:
    """The first true value of `condition`, or an AssertionError at the deadline, with the last."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not so within {timeout_s} s; the last look gave {value!r}")
        time.sleep(poll_s)


def eventually_gone(left: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Waits until `left()` is empty; at the deadline an AssertionError tells what is left."""
    deadline = time.monotonic() + timeout_s
    while found := left():
        assert time.monotonic() < deadline, f"still there after {timeout_s} s: {found}"
        time.sleep(_POLL_S)


class Stopwatch:
    """Measures a `with` block; `seconds` is how long it took."""

    seconds = 0.0

    def __enter__(self) -> Stopwatch:
        self._began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._began
