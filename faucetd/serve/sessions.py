"""Who is connected: sessions, their tokens, and the death of their processes.

A session belongs to one process. It is opened on the handoff socket, where the kernel says who the
peer is, and ends when that process does: a pidfd tells, never a PID and never the end of a
connection alone, since a forked child may keep a connection open and a PID may be used again.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

from faucetd.errors import AccessDenied

MAX_SESSIONS_PER_UID = 1_024
_REPLAY_WINDOW = 1_024


@dataclass(eq=False)
class Session:
    """A connected process.

    Attributes:
        id: Names the session in RPCs; not a secret.
        secret: Known to this process and the daemon alone.
        pid: For people. Nothing is decided by it.
        said_goodbye: The process wants no more; what it still holds stays.
    """

    pid: int
    uid: int
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    said_goodbye: bool = False
    ended: bool = False
    _highest: int = 0
    _used: set[int] = field(default_factory=set)

    def check(self, method: str, number: int, mac: str) -> None:
        """Accepts each (method, number) under the secret once.

        Numbers may come out of order, as concurrent calls do, by up to 1,024 (the sliding window
        of RFC 4303, section 3.4.3).

        Raises:
            AccessDenied: the token is forged, or was used before.
        """
        expected = hmac.digest(self.secret, f"{method}.{number}".encode(), "sha256").hex()
        if not hmac.compare_digest(mac.encode(), expected.encode()):
            raise AccessDenied("the call's session token is forged")
        if number in self._used or number <= self._highest - _REPLAY_WINDOW:
            raise AccessDenied("the call's session token was used before")
        self._used.add(number)
        self._highest = max(self._highest, number)
        if len(self._used) > 2 * _REPLAY_WINDOW:
            self._used = {used for used in self._used if used > self._highest - _REPLAY_WINDOW}


class SessionTable:
    """All live sessions."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def add(self, session: Session) -> None:
        """Admits a session.

        Raises:
            AccessDenied: its user has too many already.
        """
        theirs = sum(other.uid == session.uid for other in self._sessions.values())
        if theirs >= MAX_SESSIONS_PER_UID:
            raise AccessDenied(
                f"user {session.uid} has {theirs} processes connected already, which is the most"
            )
        self._sessions[session.id] = session

    def remove(self, session: Session) -> None:
        """Forgets a session that has ended."""
        session.ended = True
        self._sessions.pop(session.id, None)

    def authenticate(self, method: str, token: str | None) -> Session:
        """The session that a call's token speaks for.

        Raises:
            AccessDenied: it speaks for none.
        """
        if token is None:
            raise AccessDenied("the call carries no session token; use faucet_client")
        try:
            session_id, number, mac = token.split(".")
            session = self._sessions[session_id]
            count = int(number)
        except (ValueError, KeyError):
            raise AccessDenied("the call's session token names no live session") from None
        session.check(method, count, mac)
        return session


def pidfd_names(pidfd: int, pid: int) -> bool:
    """Whether a pidfd that a peer sent is one of process `pid`."""
    try:
        with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as info:
            fields = dict(line.split(":", 1) for line in info if ":" in line)
    except OSError:
        return False
    return fields.get("Pid", "").strip() == str(pid) and os.path.exists(f"/proc/{pid}")
