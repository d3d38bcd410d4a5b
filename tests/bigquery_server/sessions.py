"""Read sessions: a snapshot's rows, dealt to streams, and cut into messages.

A stream is a range of the session's rows. Message k of it starts at its row k * message_rows,
however the stream is read, so a resumed read finds its messages in the cache (messages.py); only
one that resumes in the midst of a message has that message cut anew.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from tests.bigquery_server.faults import SessionPlan
from tests.bigquery_server.settings import Settings


@dataclass(frozen=True)
class Stream:
    """Rows [start, stop) of a session."""

    name: str
    number: int
    start: int
    stop: int
    message_rows: int

    @property
    def rows(self) -> int:
        return self.stop - self.start

    @property
    def messages(self) -> int:
        return -(-self.rows // self.message_rows)

    def message_of(self, offset: int) -> int:
        """The number of the message that holds a row, counted from the stream's first."""
        return self.messages if offset >= self.rows else offset // self.message_rows

    def message_end(self, number: int) -> int:
        """The offset behind a message's last row."""
        return min((number + 1) * self.message_rows, self.rows)


@dataclass(frozen=True)
class Session:
    """A snapshot that is being read.

    Args:
        name: projects/…/locations/…/sessions/….
        table: "project.dataset.table".
        content: Equal for sessions that have the same rows in the same order.
        rows: The selected columns of the rows that pass the filter.
        compression: Of Arrow buffers: None, "lz4" or "zstd".
        lz4_responses: Whether a message is compressed as a whole.
        streams: All of them.
        expires_s: Seconds since 1970.
        plan: What is to go wrong.
    """

    name: str
    table: str
    content: tuple[object, ...]
    rows: pa.Table
    compression: str | None
    lz4_responses: bool
    streams: Sequence[Stream]
    expires_s: float
    plan: SessionPlan

    @property
    def schema_bytes(self) -> bytes:
        return self.rows.schema.serialize().to_pybytes()


def session_name(project: str, location: str) -> str:
    return f"projects/{project}/locations/{location.lower()}/sessions/{uuid.uuid4().hex}"


def deal(session: str, rows: int, streams: int, message_rows: int, how: str) -> list[Stream]:
    """Ranges of rows for `streams` streams."""
    shares = [1.0] * streams
    if how == "lopsided":
        shares = [2.0**-number for number in range(streams)]
    elif how == "empty" and streams:
        shares[min(1, streams - 1)] = 0.0
    made, start, taken, everything = [], 0, 0.0, sum(shares)
    for number, share in enumerate(shares):
        taken += share
        stop = round(rows * taken / everything) if everything else 0
        made.append(Stream(f"{session}/streams/{number:04d}", number, start, stop, message_rows))
        start = stop
    return made


def rows_per_message(rows: pa.Table, settings: Settings) -> int:
    if settings.message_rows is not None:
        return max(1, settings.message_rows)
    bytes_per_row = rows.nbytes / max(1, rows.num_rows)
    return max(1, int(settings.message_bytes / max(bytes_per_row, 1 / 8)))


class Sessions:
    """Those that are not forgotten. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}

    def add(self, session: Session) -> None:
        with self._lock:
            self._sessions[session.name] = session
            # Rows of a filtered session are its own: long expired ones would only hold memory.
            ended = time.time() - 3600
            for name in [name for name, old in self._sessions.items() if old.expires_s < ended]:
                del self._sessions[name]

    def find(self, stream_name: str) -> tuple[Session, Stream] | None:
        name, _, number = stream_name.partition("/streams/")
        with self._lock:
            session = self._sessions.get(name)
        if session is None or not number.isdigit() or int(number) >= len(session.streams):
            return None
        return session, session.streams[int(number)]
