"""Processes that are forked from a server in which torch, Lightning and the client are imported.

So each costs no seconds of imports. `fork_server` in conftest.py starts the server: before a test's
daemon, as its pipes stay.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import socket
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PRELOADED = ["tests.processes.lightning_script", "tests.processes.ddp_script"]

_context = multiprocessing.get_context("forkserver")


def start_server() -> None:
    """Starts the server."""
    _context.set_forkserver_preload(PRELOADED)
    multiprocessing.forkserver.ensure_running()


def start(target: Callable[[Any], None], config: dict[str, Any]) -> BaseProcess:
    """A process that runs `target(config)`."""
    process = _context.Process(target=target, args=(config,))
    process.start()
    return process


def redirect_stderr(path: Path) -> None:
    """Has all that this process says go into a file."""
    with path.open("wb") as log:
        os.dup2(log.fileno(), 2)


def end(process: BaseProcess, expected: int, stderr: Path) -> None:
    """Waits for its end; an AssertionError with its stderr, if its exit code is another."""
    process.join(60)
    code = process.exitcode
    if code is None:
        process.kill()
        process.join()
    process.close()
    assert code == expected, (code, stderr.read_text())


def free_port() -> int:
    """A port of the loopback at which nobody listens now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
