"""What the server was asked, for tests to look at."""

from __future__ import annotations

import threading
from collections import Counter, deque
from typing import Any

_KEPT = 500
"""Jobs and sessions of which the details are kept."""


class Stats:
    """Counts and notes. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forgets all but which calls are open."""
        with self._lock:
            self._calls: Counter[str] = Counter()
            self._authorized: Counter[str] = Counter()
            self._headers: dict[str, dict[str, str]] = {}
            self._streams: dict[str, dict[str, int]] = {}
            self._jobs: deque[dict[str, Any]] = deque(maxlen=_KEPT)
            self._sessions: deque[dict[str, Any]] = deque(maxlen=_KEPT)
            self._errors: Counter[str] = Counter()
            self._open = getattr(self, "_open", 0)
            self._most_open = self._open

    def called(self, method: str, headers: dict[str, str]) -> None:
        """A call came; of a bearer token it is kept only that there was one."""
        kept = {name.lower(): value for name, value in headers.items()}
        with self._lock:
            self._calls[method] += 1
            if "authorization" in kept:
                kept["authorization"] = "present"
                self._authorized[method] += 1
            self._headers[method] = kept

    def failed(self, method: str, code: str) -> None:
        with self._lock:
            self._errors[f"{method} {code}"] += 1

    def job(self, **what: Any) -> None:
        with self._lock:
            self._jobs.append(what)

    def session(self, **what: Any) -> None:
        with self._lock:
            self._sessions.append(what)

    def sent(self, stream: str, rows: int, nbytes: int) -> None:
        """A message was handed to gRPC; it may not have arrived."""
        with self._lock:
            counts = self._streams.setdefault(stream, {"messages": 0, "rows": 0, "bytes": 0})
            counts["messages"] += 1
            counts["rows"] += rows
            counts["bytes"] += nbytes

    def opened(self) -> None:
        with self._lock:
            self._open += 1
            self._most_open = max(self._most_open, self._open)

    def closed(self) -> None:
        with self._lock:
            self._open -= 1

    def to_json(self) -> dict[str, Any]:
        with self._lock:
            streams = {name: dict(counts) for name, counts in self._streams.items()}
            return {
                "calls": dict(self._calls),
                "authorized_calls": dict(self._authorized),
                "last_headers": dict(self._headers),
                "errors": dict(self._errors),
                "streams": streams,
                "rows_sent": sum(counts["rows"] for counts in streams.values()),
                "bytes_sent": sum(counts["bytes"] for counts in streams.values()),
                "jobs": list(self._jobs),
                "sessions": list(self._sessions),
                "open_read_rows": self._open,
                "most_open_read_rows": self._most_open,
            }
