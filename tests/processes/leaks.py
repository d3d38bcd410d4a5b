"""What must be gone when a daemon and its clients are: processes, files, memory, descriptors."""

from __future__ import annotations

import gc
import os
import re
import threading
from collections import Counter
from pathlib import Path

from tests.processes.daemons import WatchedDaemon
from tests.processes.waiting import eventually_gone

_WATCHED = ("socket:", "pipe:", "/memfd:", "anon_inode:[pidfd]")
"""Kinds of descriptors that are somebody's; gRPC keeps event queues of its own for the process."""


_KEPT = re.compile(
    r"scratch/plans-[0-9a-f]{16}(/[0-9a-f]{32}\.plan)?"
    r"|scratch/specs(/[0-9a-f]{32}\.(json|lock|profile\.json))?"
    r"|scratch/dealt-[0-9a-f]{16}(/[0-9a-f]{32}(\.lock|(/(manifest\.json|\d+\.arrows))?))?"
)
"""Plan journals, fitted specs and dealt rows outlive the daemon: the next one goes on with them."""


def worker_pids(daemon_pid: int) -> list[int]:
    """Workers of a daemon, dead or alive, as long as they are no zombies: by their command line."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"faucetd.worker.process" in arguments and str(daemon_pid).encode() in arguments:
            found.append(int(folder.name))
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def descriptors(pid: int | str = "self") -> Counter[str]:
    """How many descriptors of each watched kind a process has open."""
    found: Counter[str] = Counter()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue  # closed since it was listed
        found.update(kind for kind in _WATCHED if target.startswith(kind))
    return found


def memfd_mappings() -> list[str]:
    """This process's mappings of segments."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in maps if "memfd:faucet" in line]


def faucet_threads() -> list[str]:
    """This process's threads that belong to sessions and iterators."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("faucet")]


def files_below(folder: Path) -> set[str]:
    """Everything in a folder, with the paths from there."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def possessions() -> Counter[str]:
    """What this process has of what daemons and clients may leave: to be compared with later.

    Tests before may have left some of it for good, such as threads of what they tried alone.
    """
    return descriptors() + Counter(memfd_mappings()) + Counter(faucet_threads())


def assert_nothing_is_left(daemon: WatchedDaemon, before: Counter[str]) -> None:
    """No process, file, memory, descriptor, thread; and no fault in the log.

    To be called after `daemon.stop()`, and before its folder is removed.

    Args:
        daemon: Stopped.
        before: This process's possessions before it was started.
    """
    # gRPC itself logs that it cancels the streams that are cut off when the daemon stops.
    faults = daemon.log.count("Traceback") - daemon.log.count("asyncio.exceptions.CancelledError")
    assert faults == 0, daemon.log
    eventually_gone(lambda: [worker for pid in daemon.pids for worker in worker_pids(pid)])
    left = {path for path in files_below(daemon.folder) if not _KEPT.fullmatch(path)}
    assert left <= {"log", "scratch", "sockets", "sockets/faucetd.sock.lock"}
    gc.collect()
    eventually_gone(lambda: possessions() - before)
