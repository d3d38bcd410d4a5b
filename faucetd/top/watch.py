"""Asks a daemon for its status again and again, whether it is there or not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from faucet_client.address import Address
from faucet_client.errors import FaucetError
from faucet_client.session import Session
from faucetd.top.rates import Look


class Watch:
    """One daemon, through its restarts. Not safe for threads.

    Args:
        address: The daemon's.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._session: Session | None = None

    def look(self) -> Look:
        """The daemon's status; connects where there is no live connection.

        Raises:
            FaucetError: it is not there, or does not answer. Looking again is worth while.
        """
        if self._session is not None and not self._session.usable:
            self.close()
        if self._session is None:
            self._session = Session.connect(self._address)
        return Look(self._session.status(), time.monotonic())

    def close(self) -> None:
        """Ends the connection, if there is one."""
        if self._session is not None:
            self._session.close()
            self._session = None


class Watcher(threading.Thread):
    """Looks every so often and says what it saw, in a thread of its own.

    A daemon thread, since a call to a daemon that is stopped takes seconds to fail, and nobody who
    quits shall wait for that.

    Args:
        watch: What to look at; closed at the end.
        interval_s: Between two looks.
        tell: Called in this thread with each status, or with why there is none.
    """

    def __init__(
        self, watch: Watch, interval_s: float, tell: Callable[[Look | FaucetError], object]
    ) -> None:
        super().__init__(name="faucet-top", daemon=True)
        self._watch = watch
        self._interval_s = interval_s
        self._tell = tell
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                seen: Look | FaucetError = self._watch.look()
            except FaucetError as error:
                seen = error
            if not self._ended.is_set():
                self._tell(seen)
            self._ended.wait(self._interval_s)
        self._watch.close()

    def end(self, patience_s: float) -> None:
        """Ends it, and waits so long for that at most."""
        self._ended.set()
        self.join(patience_s)
