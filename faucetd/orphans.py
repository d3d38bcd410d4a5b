"""Memory of daemons before this one, which trainers still map: counted, and waited for.

A process that connects tells what it maps, by inode, which is the same in every process; so what
several map is counted once. It ends with the word of the last of them, or with its process. No
promise to a reader stands on it, so a budget may be too small for it and what readers need: then
who has waited for STARVED_S gets an error that says so, rather than wait for ever.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping

from faucetd.errors import AccessDenied, BudgetError
from faucetd.schedule import events
from faucetd.serve.sessions import Session

STARVED_S = 15.0
"""How long a reader waits for memory that is orphaned."""

_LOOK_S = 1.0

_MOST_MAPPED = 65_530
"""That a process may map: the kernel's own default (vm.max_map_count)."""


class Orphans:
    """All of it.

    Args:
        budget_bytes: The memory budget: beyond it nothing need be counted.
        happened: Tells the scheduler.
        starved: The readers that cannot be given their next chunk for it, now.
    """

    def __init__(
        self,
        budget_bytes: int,
        happened: Callable[[events.Event], None],
        starved: Callable[[], list[int]],
    ) -> None:
        self._budget_bytes = budget_bytes
        self._happened = happened
        self._starved = starved
        self._held: dict[Session, dict[int, int]] = {}
        self._told_bytes = 0
        self._since: dict[int, float] = {}  # by reader: since when it is starved
        self._timer: asyncio.TimerHandle | None = None

    def holds(self, session: Session) -> bool:
        """Whether the session's process maps any."""
        return session in self._held

    def change(self, session: Session, held: Mapping[int, int], released: Collection[int]) -> None:
        """The process maps this beside what it did, and does not map some any more.

        Raises:
            AccessDenied: no process maps so much.
        """
        now = {**self._held.get(session, {}), **held}
        if len(now) > _MOST_MAPPED:
            raise AccessDenied(f"no process maps {len(now):,} segments of earlier daemons")
        for inode in released:
            now.pop(inode, None)
        if now:
            self._held[session] = now
        else:
            self._held.pop(session, None)
        self._tell()

    def forget(self, session: Session) -> None:
        """Its process is gone."""
        if self._held.pop(session, None) is not None:
            self._tell()

    def close(self) -> None:
        """Looks no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _tell(self) -> None:
        together: dict[int, int] = {}
        for held in self._held.values():
            together |= held
        nbytes = min(sum(together.values()), self._budget_bytes)
        if nbytes == self._told_bytes:
            return
        self._told_bytes = nbytes
        self._happened(events.OrphanedMemory(nbytes))
        if nbytes and self._timer is None:
            self._look()

    def _look(self) -> None:
        """Ends the wait of those that have waited for too long, as long as there is any."""
        self._timer = None
        now = time.monotonic()
        self._since = {reader: self._since.get(reader, now) for reader in self._starved()}
        for reader, since in self._since.items():
            if now - since >= STARVED_S:
                self._happened(events.ReaderStarved(reader, BudgetError.code, self._why()))
                break  # what it lets go of may be enough for the others
        if self._told_bytes:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_S, self._look)

    def _why(self) -> str:
        pids = ", ".join(str(pid) for pid in sorted({session.pid for session in self._held}))
        return (
            f"no chunk can be loaded: of memory_budget={self._budget_bytes:,} bytes, "
            f"{self._told_bytes:,} are batches of an earlier daemon that trainers still hold "
            f"(process {pids}). Let go of them, keep batch.clone() of what is to be kept, or raise "
            "memory_budget"
        )
