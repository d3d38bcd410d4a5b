"""What this machine, or the container around this process, allows: memory and processors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


@dataclass(frozen=True)
class MemoryLimit:
    """The least of the limits that bind this process.

    Attributes:
        nbytes: The limit.
        origin: Whose it is, for a person: "this machine's memory" or a cgroup's file.
    """

    nbytes: int
    origin: str


def memory_limit(root: Path = _ROOT) -> MemoryLimit:
    """What this process may use: the machine's memory, or a limit of its cgroup below that.

    Args:
        root: Stands for `/` in tests.
    """
    limits = [_machine_memory(root), *_cgroup_limits(root)]
    return min(limits, key=lambda limit: limit.nbytes)


def cpu_count() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0))


def _machine_memory(root: Path) -> MemoryLimit:
    for line in (root / "proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return MemoryLimit(int(line.split()[1]) * 1024, "this machine's memory")
    raise RuntimeError("/proc/meminfo has no MemTotal")


def _cgroup_limits(root: Path) -> Iterator[MemoryLimit]:
    """The limits of this process's cgroup and of those above it, as far as they can be seen.

    /proc/self/cgroup names the cgroup as `hierarchy:controllers:path`, version 2 as `0::path`;
    /proc/self/mountinfo tells where each hierarchy is mounted, and which part of it (cgroups(7)).
    """
    memberships: dict[str, str] = {}
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, cgroup = line.split(":", 2)
        memberships[controllers] = cgroup
    for line in _lines(root / "proc/self/mountinfo"):
        fields, _, filesystem = line.partition(" - ")
        mounted_part, mount_point = fields.split()[3:5]
        kind, _, options = filesystem.split()[:3]
        path: str | None
        if kind == "cgroup2":
            file, path = "memory.max", memberships.get("")
        elif kind == "cgroup" and "memory" in options.split(","):
            file = "memory.limit_in_bytes"
            path = next((p for c, p in memberships.items() if "memory" in c.split(",")), None)
        else:
            continue
        if path is not None:
            yield from _limits_up(root, _unescape(mount_point), _unescape(mounted_part), path, file)


def _limits_up(
    root: Path, mount_point: str, mounted_part: str, path: str, file: str
) -> Iterator[MemoryLimit]:
    mount = root / mount_point.lstrip("/")
    # A container may be shown its own cgroup as the mount's top, by a path that does not exist
    # below it: then the top is the only one that has a file.
    cgroup = PurePosixPath(os.path.normpath(path))
    inside = cgroup.is_relative_to(mounted_part)
    folder = mount / cgroup.relative_to(mounted_part) if inside else mount
    while True:
        for text in _lines(folder / file):
            # Version 1 says "no limit" by a number next to 2^63; the machine's memory is below it.
            if text != "max":
                shown = "/" + str((folder / file).relative_to(root))
                yield MemoryLimit(int(text), f"the limit in {shown}")
        if folder == mount:
            return
        folder = folder.parent


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _unescape(field: str) -> str:
    # mountinfo writes a space, a tab, a newline and a backslash in octal (proc_pid_mountinfo(5)).
    for code, character in (("040", " "), ("011", "\t"), ("012", "\n"), ("134", "\\")):
        field = field.replace("\\" + code, character)
    return field
