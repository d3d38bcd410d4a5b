"""The spill tier's hands: threads that write segments to disk and read them back.

The scheduler decides what is written, removed and restored; here it is done, off the event loop,
which only starts it and hears of its end. One thread writes and removes, in the order in which it
was told to, so that what was removed has made its room before the next file is written; others read
back. They spend their time in system calls and checksums, without the interpreter's lock.

Whatever goes wrong with the disk is no error of a trainer's: it is an *alert*, for the log and the
status, and the scheduler is told, which then does without; after a while it is tried again. A disk
that hangs is one more such thing: memory is not kept for a file of which nothing comes for HUNG_S.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from faucet_client.layout import SegmentLayout
from faucetd.errors import ConfigError
from faucetd.locks import locked
from faucetd.patient_thread import PatientThread
from faucetd.publish.spill import (
    Leftover,
    Mark,
    SpillCancelled,
    SpillCorrupt,
    SpillFile,
    SpillFolder,
)
from faucetd.schedule import events
from faucetd.schedule.instructions import RestoreSegment, SegmentId
from faucetd.schedule.store import MOST_RESTORES

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

DEFAULT_BUDGET_PERCENT = 80
"""Of what the disk has left, the spill files that are there included."""

HUNG_S = 15.0
"""How long the disk may take for a MiB, or to remove a file."""

RETRY_S = 10.0
"""After a failure nothing is written for so long; each time that it fails again, twice as long."""

MOST_RETRY_S = 600.0

_LOOK_S = 1.0

_LOCK = "lock"

MOST_ALERTS = 16
"""Of those that were, so many of the last ones are shown."""


class Spilling:
    """The spill files of one daemon.

    Args:
        folder: Where they are; None where there is no spill tier.
        happened: Tells the scheduler.
    """

    def __init__(
        self, folder: SpillFolder | None, happened: Callable[[events.Event], None]
    ) -> None:
        self._folder = folder
        self._happened = happened
        self._writer = PatientThread("faucet-spill-write")
        self._readers = ThreadPoolExecutor(MOST_RESTORES, "faucet-spill-read")
        self._cancelled = _Cancelled(self._writer.moves)
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._retry_s = RETRY_S
        self._files: dict[SegmentId, SpillFile] = {}
        self._writing: dict[SegmentId, int] = {}  # the number of the write that counts
        self._writes = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._under_way = 0
        self.failed = ""
        self._last_failure = ""
        self.alerts: list[str] = []
        self.restored: Counter[str] = Counter()

    def take_up(self, leftovers: Iterable[Leftover]) -> None:
        """Tells the scheduler what an earlier daemon has left; to be called first of all."""
        for leftover in leftovers:
            files = {
                SegmentId(leftover.dataset, file.chunk, file.split): file for file in leftover.files
            }
            self._files |= files
            sizes = {segment: file.layout.nbytes for segment, file in files.items()}
            self._happened(events.SpillFound(sizes))

    def write(self, segment: SegmentId, mark: Mark, fd: int, layout: SegmentLayout) -> None:
        """Writes a segment; the scheduler hears `SegmentSpilled` or `SpillFailed`."""
        assert self._folder is not None, "without a folder the budget is 0"
        self._writes += 1
        self._writing[segment] = self._writes
        mine = os.dup(fd)  # the segment may be dropped meanwhile, with its dataset
        write = partial(
            self._folder.write,
            segment.dataset, mark, segment.chunk, segment.split, mine, layout, self._cancelled,
        )  # fmt: skip
        ended = partial(self._written, segment, self._writes)
        self._in_turn(partial(self._write, write, mine), ended)
        if self._timer is None:
            self._look()

    def remove(self, segment: SegmentId) -> None:
        """Removes a segment's file, or what is there of it once it has been written."""
        assert self._folder is not None, "there is a file"
        self._files.pop(segment, None)
        self._writing.pop(segment, None)
        remove = partial(self._folder.remove, segment.dataset, segment.chunk, segment.split)
        self._in_turn(remove, self._removed)

    def remove_dataset(self, dataset: str) -> None:
        """Removes what is left of a dataset whose segments were all removed."""
        if self._folder is not None:
            self._in_turn(partial(self._folder.remove_dataset, dataset), self._removed)

    def restore(
        self, restore: RestoreSegment, arrived: Callable[[SegmentId, int, SegmentLayout], str]
    ) -> None:
        """Reads a segment back; the scheduler hears `SegmentRestored` or `RestoreFailed`.

        Args:
            restore: The scheduler's word.
            arrived: Takes the descriptor over before the scheduler hears of it; or says what is
                wrong with it, and takes nothing.
        """
        assert self._folder is not None, "there is a file"
        file = self._files[restore.segment]
        read = partial(self._folder.read, restore.segment.dataset, file)
        future = asyncio.get_running_loop().run_in_executor(self._readers, read)
        self._follow(future, partial(self._read, restore, file, arrived))

    async def finish(self, timeout_s: float) -> None:
        """Waits until all is written, but no longer than that."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout_s)

    def close(self) -> None:
        """Ends the threads; what is being written is given up."""
        self._closed = True
        self._cancelled.set()
        if self._timer is not None:
            self._timer.cancel()
        self._writer.stop(0.0 if self._writer.hangs_for_s > HUNG_S else HUNG_S)
        self._readers.shutdown()

    def alert(self, message: str) -> None:
        """Tells people."""
        _log.error("%s", message)
        if message not in self.alerts:
            self.alerts = [*self.alerts, message][-MOST_ALERTS:]

    # Threads, and what comes of them.

    def _in_turn(self, work: Callable[[], _T], ended: Callable[[asyncio.Future[_T]], None]) -> None:
        self._follow(asyncio.wrap_future(self._writer.do(work)), ended)

    def _follow(
        self, future: asyncio.Future[_T], ended: Callable[[asyncio.Future[_T]], None]
    ) -> None:
        self._under_way += 1
        self._idle.clear()
        future.add_done_callback(self._ended)
        future.add_done_callback(ended)

    def _ended(self, _future: object) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._idle.set()

    def _write(self, write: Callable[[], SpillFile], fd: int) -> SpillFile:
        try:
            if self.failed:
                raise SpillCancelled
            return write()
        finally:
            os.close(fd)

    def _written(self, segment: SegmentId, number: int, future: asyncio.Future[SpillFile]) -> None:
        error = future.exception()
        counts = self._writing.get(segment) == number  # it was not removed meanwhile
        if self._closed:
            return
        if isinstance(error, OSError) and not self.failed:
            self._fail(f"{error}. Make room on the disk of spill_dir, or lower spill_budget")
        if not counts:
            return
        del self._writing[segment]
        if error is None:
            self._went_well()
            self._files[segment] = future.result()
            self._happened(events.SegmentSpilled(segment))
        elif isinstance(error, OSError | SpillCancelled):
            self._happened(events.SpillFailed(segment))
        else:
            raise error

    def _look(self) -> None:
        """Does without a disk that hangs, as long as there is something to write."""
        self._timer = None
        if self._writer.hangs_for_s >= HUNG_S and not self.failed:
            self._fail(
                f"its disk has not answered for {HUNG_S:.0f} s. Look after the disk of spill_dir"
            )
            given_up = list(self._writing)
            self._writing.clear()
            for segment in given_up:  # what still comes of these counts no more, and is removed
                self._happened(events.SpillFailed(segment))
        if self._writing and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_S, self._look)

    def _fail(self, why: str) -> None:
        self.failed = f"nothing more is spilled to disk for {self._retry_s:.0f} s: {why}"
        self.alert(self.failed)
        self._retry_later()

    def _retry_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._retry_s, self._retry)
        self._retry_s = min(2 * self._retry_s, MOST_RETRY_S)

    def _retry(self) -> None:
        self._timer = None
        if self._writer.hangs_for_s >= HUNG_S:
            self._retry_later()
            return
        self._last_failure, self.failed = self.failed, ""
        self._happened(events.SpillRetried())

    def _went_well(self) -> None:
        """A file was written: what failed before is over."""
        self._retry_s = RETRY_S
        if self._last_failure:
            _log.info("segments are spilled to disk again")
            self.alerts = [alert for alert in self.alerts if alert != self._last_failure]
            self._last_failure = ""

    def _removed(self, future: asyncio.Future[None]) -> None:
        if isinstance(error := future.exception(), OSError):
            self.alert(f"a spill file cannot be removed: {error}")
        elif error is not None:
            raise error

    def _read(
        self,
        restore: RestoreSegment,
        file: SpillFile,
        arrived: Callable[[SegmentId, int, SegmentLayout], str],
        future: asyncio.Future[int],
    ) -> None:
        error = future.exception()
        if self._closed:
            if error is None:
                os.close(future.result())
            return
        wrong = ""
        if error is None:
            fd = future.result()
            wrong = arrived(restore.segment, fd, file.layout)
            if not wrong:
                self.restored[restore.segment.dataset] += 1
                self._happened(events.SegmentRestored(restore.restore))
                return
            os.close(fd)
        elif not isinstance(error, OSError | SpillCorrupt):
            raise error
        self.alert(f"{wrong or error}; it is read from the source again")
        self._happened(events.RestoreFailed(restore.restore))


class _Cancelled(threading.Event):
    """Asked before each block that is written, which shows that the disk does not hang."""

    def __init__(self, moves: Callable[[], None]) -> None:
        super().__init__()
        self._moves = moves

    def is_set(self) -> bool:
        self._moves()
        return super().is_set()


@contextlib.contextmanager
def claim(path: Path) -> Iterator[SpillFolder]:
    """The folder of spill files, which nobody else uses meanwhile; made if it is missing.

    Raises:
        ConfigError: it cannot be used, or others could read or change what is in it.
        LockHeld: another daemon uses it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = path.stat()
        if info.st_uid != os.getuid():
            raise ConfigError(
                f"spill_dir {path} belongs to user {info.st_uid}, not to this one ({os.getuid()}); "
                "choose a folder inside it, which is made if it does not exist"
            )
        if info.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(
                f"spill_dir {path} is open to others (mode {stat.S_IMODE(info.st_mode):o}), and "
                "rows of tables will be in it: chmod 700 it, or choose a folder inside it, which "
                "is made if it does not exist"
            )
    except OSError as error:
        raise ConfigError(f"cannot use spill_dir {path}: {error}") from None
    with _only_one(path):
        yield SpillFolder(path)


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    held = f"another faucetd uses spill_dir {path}: {{holder}}; stop it, or choose another one"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(path / _LOCK, 0o600, held))
        except OSError as error:
            raise ConfigError(f"cannot use spill_dir {path}: {error}") from None
        yield


def default_budget(path: Path, used_bytes: int) -> int:
    """The default of spill_budget, in bytes, where files of ours take `used_bytes` already."""
    disk = os.statvfs(path)
    free = disk.f_bavail * disk.f_frsize
    return (free + used_bytes) * DEFAULT_BUDGET_PERCENT // 100
