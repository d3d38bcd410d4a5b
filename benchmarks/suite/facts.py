"""What stands beside every result: the machine, and the versions of what was measured."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from benchmarks.suite.environments import Environments
from benchmarks.suite.registry import Contender

_OURS = ("torch", "numpy", "pyarrow", "grpcio")


def machine() -> dict[str, Any]:
    """The machine's facts; nothing that names it."""
    return {
        "processor": _processor(),
        "processors": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
        "when": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


def versions(contenders: list[Contender], environments: Environments) -> dict[str, dict[str, str]]:
    """Versions by environment; "" is the project's own."""
    found = {"": {name: importlib.metadata.version(name) for name in ("faucetml", *_OURS)}}
    for each in contenders:
        if each.environment:
            found[each.environment] = environments.versions(each.environment)
    return found


def available_bytes() -> int:
    """Memory that processes can have without paging."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo says nothing of MemAvailable")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
