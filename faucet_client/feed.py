"""The feed: pulls a reader's grants and maps them ahead, in a thread of its own.

The thread knows the feed and nothing above it, so that dropping an iterator ends it.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections import deque
from functools import partial

from faucet_client._memory import is_sealed, page_rounded
from faucet_client.channel import Grant, ReaderCall, ReaderRequest, Started
from faucet_client.errors import (
    AccessDenied,
    DaemonError,
    DaemonUnreachable,
    FaucetError,
    InternalError,
    IteratorError,
)
from faucet_client.mapping import Columns, map_segment
from faucet_client.session import Session, keep_in_children

PREFETCH_GRANTS = 3
"""Grants that are under way or mapped beside the one being sliced."""

START_TIMEOUT_S = 30.0

_log = logging.getLogger(__name__)
_warned: set[str] = set()  # keys of datasets


def warn_once(dataset_key: str, note: str) -> None:
    """Logs what the daemon says of a dataset, once a process however many readers hear it."""
    if dataset_key not in _warned:
        _warned.add(dataset_key)
        _log.warning("%s", note)


class Run:
    """A mapped grant."""

    __slots__ = ("chunk", "columns", "epoch", "first_row", "lease", "nbytes", "rows")

    def __init__(self, grant: Grant, columns: Columns) -> None:
        self.columns = columns
        self.lease = grant.lease
        self.epoch = grant.epoch
        self.chunk = grant.chunk
        self.first_row = grant.first_row
        self.rows = grant.rows
        self.nbytes = grant.layout.nbytes


class Ledger:
    """What of the consumed segments the caller keeps, by the trainer's thread.

    Finalizers of mapped memory hold on to `dead`, and append to it from anywhere.
    """

    def __init__(self) -> None:
        self.passed_bytes = 0  # not less than what is kept; `kept_bytes` makes it exact
        self.dead: deque[int] = deque()
        self._passed: dict[int, int] = {}  # lease -> bytes

    def passed(self, run: Run) -> None:
        """The run is consumed; from now on it is the caller's tensors that keep it."""
        self._passed[run.lease] = run.nbytes
        self.passed_bytes += run.nbytes

    def kept_bytes(self) -> int:
        """Bytes of the consumed segments that still live."""
        while self.dead:
            self.passed_bytes -= self._passed.pop(self.dead.popleft(), 0)
        return self.passed_bytes


class Stream:
    """A reader's stream to the daemon, which either side may end."""

    def __init__(self, call: ReaderCall) -> None:
        self.call = call
        self._pid = os.getpid()
        self._open = True

    @property
    def open(self) -> bool:
        """Whether the stream still takes messages."""
        return self._open

    def credit(self, rows_consumed: int, seconds_waited: float) -> None:
        """Takes one grant more, and tells how far the reader is."""
        if self._open:
            self.call.credit(1, rows_consumed, seconds_waited)

    def advance(self, epoch: int, rows_consumed: int, seconds_waited: float) -> None:
        """Tells how far the reader is, and gives up what has not come yet of earlier epochs."""
        if self._open:
            self.call.credit(0, rows_consumed, seconds_waited)
            self.call.advance(epoch)

    def close(self) -> None:
        """Wants no more. Idempotent; does nothing in a forked child.

        A finalizer calls it in the midst of anything, so it takes no lock.
        """
        if self._open and self._pid == os.getpid():
            self._open = False
            self.call.finish()

    def ended(self) -> None:
        """Nothing comes any more; ends the stream on this side as well."""
        self._open = False
        self.call.cancel()


class Feed:
    """Pulls grants and maps them ahead, in a thread of its own."""

    def __init__(self, session: Session, request: ReaderRequest) -> None:
        self.ready: queue.SimpleQueue[Run | FaucetError] = queue.SimpleQueue()
        self.bytes_mapped = 0
        self.largest_nbytes = 0
        self._session = session
        self._dataset_key = request.dataset_key
        self._started: queue.SimpleQueue[Started | FaucetError] = queue.SimpleQueue()
        self.ledger = Ledger()
        self.stream = Stream(session.channel.read(request))
        keep_in_children(self.stream.call)
        threading.Thread(target=self._pull, name="faucet-feed", daemon=True).start()

    def wait_started(self) -> Started:
        """The daemon's word that the reader may read.

        Raises:
            FaucetError: its word that it may not.
        """
        try:
            started = self._started.get(timeout=START_TIMEOUT_S)
        except queue.Empty:
            raise DaemonUnreachable(
                f"the daemon at {self._session.address} did not admit the reader within "
                f"{START_TIMEOUT_S:.0f} s; see `faucetd status` and its log"
            ) from None
        if isinstance(started, FaucetError):
            raise started
        return started

    def _pull(self) -> None:
        end: FaucetError = IteratorError("the iterator is closed")
        try:
            for message in self.stream.call:
                if isinstance(message, Started):
                    self._started.put(message)
                elif self.stream.open:  # else it is not fetched, and the daemon takes it back
                    try:
                        self._map(message)
                    except AccessDenied as error:
                        # It has been taken back, since the stream is at its end, which says why.
                        end = error
                        self.stream.close()
        except FaucetError as error:
            end = error
        except Exception as error:  # noqa: BLE001  # the trainer's thread raises it
            end = InternalError(f"the client's feed failed: {error!r}")
        self.stream.ended()
        self._started.put(end)
        self.ready.put(end)

    def _map(self, grant: Grant) -> None:
        fd = self._session.handoff.fetch(grant.handle)
        mapped = False
        try:
            if not is_sealed(fd) or page_rounded(os.fstat(fd).st_size) != grant.layout.nbytes:
                raise InternalError(f"the daemon sent another memory than that of grant {grant}")
            bury = partial(self._session.bury, grant.lease, self.ledger.dead.append)
            columns = map_segment(fd, grant.layout, bury)
            mapped = True
        except OSError as error:
            raise DaemonError(
                f"a segment of {grant.layout.nbytes:,} bytes cannot be mapped: {error}; is there a "
                "limit on this process's address space (ulimit -v)?"
            ) from error
        finally:
            os.close(fd)
            if not mapped:
                self._session.handoff.release((grant.lease,))
        if grant.note:
            warn_once(self._dataset_key, grant.note)
        self._session.adopt()
        self.bytes_mapped += grant.layout.nbytes
        self.largest_nbytes = max(self.largest_nbytes, grant.layout.nbytes)
        self.ready.put(Run(grant, columns))
