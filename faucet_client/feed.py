"""The feed: pulls a reader's grants and maps them ahead, in a thread of its own.

The thread knows the feed and nothing above it, so that dropping an iterator ends it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from faucet_client._memory import Locks, is_sealed, page_rounded
from faucet_client.errors import (
    DaemonError,
    DaemonLost,
    DaemonUnreachable,
    FaucetError,
    InternalError,
    IteratorError,
)
from faucet_client.holdings import Mapped
from faucet_client.mapping import Columns, map_segment
from faucet_client.session import Session
from faucet_client.state import Ranges
from faucet_client.wire.conduit import Conduit
from faucet_client.wire.values import Grant, ReaderRequest, Started, Told

_log = logging.getLogger(__name__)

PREFETCH_GRANTS = 3
"""Grants that are under way or mapped beside the one being sliced."""

START_TIMEOUT_S = 30.0

RETRY_S = 0.1
"""Between attempts to connect to a daemon that is not there."""
_warned: set[str] = set()  # keys of datasets


def warn_once(dataset_key: str, note: str) -> None:
    """Logs what the daemon says of a dataset, once a process however many readers hear it."""
    if dataset_key not in _warned:
        _warned.add(dataset_key)
        _log.warning("%s", note)


class Run:
    """A mapped grant; `number` is its own, whichever daemon it came from."""

    __slots__ = ("chunk", "columns", "epoch", "nbytes", "number", "ranges", "rows")

    def __init__(self, grant: Grant, columns: Columns, number: int) -> None:
        self.columns = columns
        self.number = number
        self.epoch = grant.epoch
        self.chunk = grant.chunk
        self.ranges = grant.ranges
        self.rows = sum(rows for _, rows in grant.ranges)
        self.nbytes = grant.layout.nbytes


class Ledger:
    """What of the consumed segments the caller keeps, by the trainer's thread.

    Finalizers of mapped memory hold on to `dead`, and append to it from anywhere.
    """

    def __init__(self) -> None:
        self.passed_bytes = 0  # not less than what is kept; `kept_bytes` makes it exact
        self.dead: deque[int] = deque()
        self._passed: dict[int, int] = {}  # by a run's number: its bytes

    def passed(self, run: Run) -> None:
        """The run is consumed; from now on it is the caller's tensors that keep it."""
        self._passed[run.number] = run.nbytes
        self.passed_bytes += run.nbytes

    def kept_bytes(self) -> int:
        """Bytes of the consumed segments that still live."""
        while self.dead:
            self.passed_bytes -= self._passed.pop(self.dead.popleft(), 0)
        return self.passed_bytes


class Stream:
    """A reader's conduits to one daemon after another, seen as one that either side may end."""

    def __init__(self, grants: int) -> None:
        """Begins without a conduit; `grants` are those that its first one is asked for at once."""
        self.conduit: Conduit | None = None
        self.least_epoch = 0
        self._pid = os.getpid()
        self._open = True
        self.credits_given = grants  # ever, to whichever daemon
        self._told = Told(0, 0.0, 0.0)
        self._replacing = threading.Lock()  # or a credit would be given to both, or to none

    @property
    def open(self) -> bool:
        """Whether more is wanted."""
        return self._open

    def credit(self, told: Told) -> None:
        """Takes one grant more, and tells how far the reader is."""
        with self._replacing:
            self.credits_given += 1
            self._told = told
            if self._open and self.conduit is not None:
                self.conduit.credit(1, told)

    def advance(self, epoch: int, told: Told) -> None:
        """Tells how far the reader is, and gives up what has not come yet of earlier epochs."""
        self.least_epoch = epoch
        if self._open and self.conduit is not None:
            self.conduit.credit(0, told)
            self.conduit.advance(epoch)

    def close(self) -> None:
        """Wants no more. Idempotent; does nothing in a forked child.

        A finalizer calls it in the midst of anything, so it takes no lock.
        """
        if self._open and self._pid == os.getpid():
            self._open = False
            if self.conduit is not None:
                self.conduit.finish()

    def begin(self, conduit: Conduit, first_epoch: int, credits_given: int) -> None:
        """Goes on by another conduit.

        Args:
            conduit: It.
            first_epoch: With which its reader begins.
            credits_given: As it was when its reader was asked for.
        """
        with self._replacing:
            self.conduit = conduit
            if more := self.credits_given - credits_given:
                conduit.credit(more, self._told)
        # Whatever was said on the old one meanwhile, nobody has heard.
        if self.least_epoch > first_epoch:
            conduit.advance(self.least_epoch)
        if not self._open:
            conduit.finish()

    def ended(self) -> None:
        """Nothing comes any more."""
        self._open = False


class Reconnect(Protocol):
    """Connects to the daemon anew, and opens the dataset there as it was.

    Raises:
        DaemonUnreachable, DaemonLost: there is no daemon yet.
        FaucetError: there is one, and it cannot go on.
    """

    def __call__(self) -> Session:
        """The session to go on with."""
        ...


@dataclass(frozen=True)
class Patience:
    """How a reader gets over the loss of its daemon.

    Attributes:
        reconnect: See there.
        seconds: How long that is tried before the reader fails; 0 for not at all.
    """

    reconnect: Reconnect
    seconds: float


class Feed:
    """Pulls grants and maps them ahead, in a thread of its own.

    What it has mapped is had, as far as the daemon is concerned: it will be handed out, whatever
    becomes of the daemon. So after a loss it asks the next daemon for the rest.
    """

    def __init__(
        self,
        session: Session,
        request: ReaderRequest,
        patience: Patience,
        locks: Locks | None = None,
    ) -> None:
        self.ready: queue.SimpleQueue[Run | FaucetError] = queue.SimpleQueue()
        self.bytes_mapped = 0
        self.largest_nbytes = 0
        self.reconnections = 0
        self.lease_limit_bytes = 0
        self.ledger = Ledger()
        self._session = session
        self._request = request
        self._patience = patience
        self._locks = locks
        self._before: Mapping[int, Ranges] | None = None  # until it is admitted
        self._epoch = request.first_epoch
        self._mapped: set[int] = set()  # chunks of this epoch
        self._runs = 0
        self._lost_at: float | None = None  # since when no daemon has said anything
        self._started: queue.SimpleQueue[Started | FaucetError] = queue.SimpleQueue()
        self.stream = Stream(request.credits)
        threading.Thread(target=self._pull, name="faucet-feed", daemon=True).start()

    def drop_ahead(self) -> None:
        """Lets go of what nobody will slice any more.

        It is unmapped here: left to the finalizer, C++ would call that, and were the interpreter to
        end just then, that would end the process.
        """
        with contextlib.suppress(queue.Empty):
            while not isinstance(found := self.ready.get_nowait(), FaucetError):
                found.columns.unmap()
            self.ready.put(found)  # another thread may wait for it

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
        try:
            end = self._pull_from_this_daemon(self._request)
            while isinstance(end, DaemonLost | DaemonUnreachable) and self.stream.open:
                self._find_daemon(end)
                end = self._pull_from_this_daemon(self._rest())
        except FaucetError as error:
            end = error
        except Exception as error:  # noqa: BLE001  # the trainer's thread raises it
            end = InternalError(f"the client's feed failed: {error!r}")
        if not self.stream.open:
            self.drop_ahead()
        self.stream.ended()
        end = _bare(end)
        self._started.put(end)
        self.ready.put(end)

    def _pull_from_this_daemon(self, request: ReaderRequest) -> FaucetError:
        """Why nothing more comes of it."""
        session = self._session
        credits_given = self.stream.credits_given
        try:
            wanted = credits_given - self._runs
            started, conduit = session.read(replace(request, credits=wanted))
        except FaucetError as error:
            return _bare(error)
        self._lost_at = None
        self._before = started.before
        self.lease_limit_bytes = started.lease_limit_bytes
        self.stream.begin(conduit, request.first_epoch, credits_given)
        self._started.put(started)
        try:
            for grant, fd in conduit:
                if self.stream.open:
                    self._map(session, grant, fd)
                else:
                    _decline(session, grant, fd)
        except FaucetError as error:
            return _bare(error)
        finally:
            for grant, fd in conduit.rest():
                _decline(session, grant, fd)
        return IteratorError("the iterator is closed")

    def _find_daemon(self, lost: FaucetError) -> None:
        """Waits until there is a daemon again.

        Raises:
            DaemonLost: there was none for so long.
            FaucetError: there is one, and it cannot go on.
        """
        if self._lost_at is None:
            self._lost_at = time.monotonic()
            if self._patience.seconds > 0:
                _log.warning("%s. Waiting %g s for it", lost.message, self._patience.seconds)
        while self.stream.open:
            if time.monotonic() >= self._lost_at + self._patience.seconds:
                raise self._given_up(lost)
            time.sleep(RETRY_S)
            try:
                self._session = self._patience.reconnect()
            except (DaemonUnreachable, DaemonLost) as error:
                lost = error
                continue
            self.reconnections += 1
            return

    def _given_up(self, lost: FaucetError) -> FaucetError:
        seconds = self._patience.seconds
        if seconds <= 0:
            return lost
        return DaemonLost(
            f"the daemon at {self._session.address} was lost, and not there again within "
            f"{seconds:g} s: {lost.message}. Batches that were handed out stay valid; start it "
            "with `faucetd serve`, and go on from a state_dict(). How long to wait, patience_s of "
            "FaucetClient says, or FAUCET_PATIENCE_S"
        )

    def _rest(self) -> ReaderRequest:
        """What is asked for, less what was mapped."""
        asked = self._request
        if self._before is None:
            return asked
        last = asked.first_epoch + asked.epochs - 1
        epoch = min(max(self._epoch, self.stream.least_epoch), last)
        mapped = self._mapped if epoch == self._epoch else set()
        first = epoch == asked.first_epoch
        return replace(
            asked,
            first_epoch=epoch,
            epochs=last - epoch + 1,
            had=asked.had | mapped if first else frozenset(mapped),
            before=self._before if first else {},
            earlier=(),
        )

    def _map(self, session: Session, grant: Grant, fd: int) -> None:
        adopted = mapped = False
        try:
            memory = os.fstat(fd)
            if not is_sealed(fd) or page_rounded(memory.st_size) != grant.layout.nbytes:
                raise InternalError(f"the daemon sent another memory than that of grant {grant}")
            session.adopt(grant.lease, Mapped(memory.st_ino, grant.layout.nbytes))
            adopted = True
            self._runs += 1
            note = partial(self.ledger.dead.append, self._runs)
            bury = partial(session.bury, grant.lease, note, locks=self._locks)
            columns = map_segment(fd, grant.layout, bury, self._locks)
            mapped = True
        except OSError as error:
            raise DaemonError(
                f"a segment of {grant.layout.nbytes:,} bytes cannot be mapped: {error}; is there a "
                "limit on this process's address space (ulimit -v)?"
            ) from error
        finally:
            os.close(fd)
            if not mapped:
                session.release(grant.lease)
                if adopted:
                    session.disown(grant.lease)
        if grant.note:
            warn_once(self._request.dataset_key, grant.note)
        self.bytes_mapped += grant.layout.nbytes
        self.largest_nbytes = max(self.largest_nbytes, grant.layout.nbytes)
        if grant.epoch != self._epoch:
            self._epoch = grant.epoch
            self._mapped = set()
        self._mapped.add(grant.chunk)
        self.ready.put(Run(grant, columns, self._runs))
        if not self.stream.open:  # meanwhile: who closed it may have looked before
            self.drop_ahead()


def _bare(error: FaucetError) -> FaucetError:
    """The error without the frames that it came through, which have what is mapped, and sockets."""
    error.__context__ = None
    return error.with_traceback(None)


def _decline(session: Session, grant: Grant, fd: int) -> None:
    """Gives back what came too late."""
    os.close(fd)
    session.release(grant.lease)
