"""What all processes of a run have used, measured from outside.

A run's processes are told by a variable in their environment, which they inherit: so those that a
peer starts as daemons of their own are found too.

- **Processor time** is exact to the nanosecond for the living (Linux's clock of a process) and to
  two ticks of 10 ms for children that have ended, whose time is their parent's.
- **Memory** is what would be free if the run ended: each process's private pages and its share of
  mapped files, and each shared segment once, whether anybody maps it or only holds its descriptor.
- **Bytes read** are those of read calls, ended children's included; mapped files are not in it.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

MARK = "FAUCET_BENCHMARK_RUN"
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_BLOCK = 512  # st_blocks counts these, whatever the file system's own are


@dataclass(frozen=True)
class Usage:
    """What a run's processes have used so far.

    Attributes:
        cpu_s: Processor time, of the kernel's work for them too.
        read_bytes: By read calls, of files and pipes.
    """

    cpu_s: float
    read_bytes: int

    def since(self, earlier: Usage) -> Usage:
        """The difference."""
        return Usage(self.cpu_s - earlier.cpu_s, self.read_bytes - earlier.read_bytes)


@dataclass(frozen=True)
class Memory:
    """Memory of a run's processes, in bytes.

    Attributes:
        private: Pages of their own, and their shares (PSS) of mapped files.
        shared: Shared segments, each once.
        processes: How many processes there are.
    """

    private: int
    shared: int
    processes: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.private + self.shared


def marked(mark: str) -> list[int]:
    """The processes of a run."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            environment = Path(entry.path, "environ").read_bytes()
        except OSError:  # it has ended, or is another user's
            continue
        if wanted in environment.split(b"\0"):
            found.append(int(entry.name))
    return found


def usage(mark: str) -> Usage:
    """What a run has used so far."""
    cpu_s, read_bytes = 0.0, 0
    for pid in marked(mark):
        try:
            cpu_s += time.clock_gettime(~pid << 3 | 2)  # the clock of that process: clock_getres(2)
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            cpu_s += (int(fields[13]) + int(fields[14])) * _TICK_S  # of children that have ended
            read_bytes += int(Path(f"/proc/{pid}/io").read_text().split()[1])
        except OSError:
            continue
    return Usage(cpu_s, read_bytes)


def memory(mark: str) -> Memory:
    """What a run holds now. Takes milliseconds a process: its trainers should be at rest."""
    pids = marked(mark)
    private = 0
    shared: dict[tuple[int, int], int] = {}
    unopened = 0.0
    for pid in pids:
        shared |= _open_segments(pid)
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps").read_text()
        except OSError:
            continue
        for pss, key in _mappings(text):
            if key is None:
                private += pss
            elif key not in shared:
                unopened += pss  # its descriptor was closed: count the pages that are mapped
    return Memory(private, sum(shared.values()) + round(unopened), len(pids))


def _open_segments(pid: int) -> dict[tuple[int, int], int]:
    """Bytes of the shared memory that a process has descriptors of, by device and inode."""
    found = {}
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return {}
    for name in names:
        try:
            if not os.readlink(f"{folder}/{name}").startswith(("/memfd:", "/dev/shm/")):
                continue
            facts = os.stat(f"{folder}/{name}")
        except OSError:
            continue
        found[facts.st_dev, facts.st_ino] = facts.st_blocks * _BLOCK
    return found


def _mappings(smaps: str) -> list[tuple[int, tuple[int, int] | None]]:
    """Bytes (PSS) of each mapping, and the shared segment it is of, if it is."""
    found: list[tuple[int, tuple[int, int] | None]] = []
    key: tuple[int, int] | None = None
    for line in smaps.splitlines():
        head, _, rest = line.partition(" ")
        if "-" in head and not head.endswith(":"):
            fields = rest.split(maxsplit=4)
            path = fields[4] if len(fields) > 4 else ""
            shared = path.startswith(("/memfd:", "/dev/shm/", "/SYSV", "/dev/zero"))
            major, minor = (int(part, 16) for part in fields[2].split(":"))
            key = (os.makedev(major, minor), int(fields[3])) if shared else None
        elif head == "Pss:":
            found.append((int(rest.split()[0]) * 1024, key))
    return found


def end_all(mark: str, patience_s: float = 5.0) -> None:
    """Ends what a run has left behind, and waits until it is gone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in marked(mark):
            _signal(pid, number)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            if not marked(mark):
                return
            time.sleep(0.02)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
