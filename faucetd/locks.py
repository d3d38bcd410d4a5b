"""Lock files: what one process alone may use at a time, and who does."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from faucet_client._version import __version__
from faucetd.errors import LockHeld


@contextlib.contextmanager
def locked(path: Path, mode: int, held: str) -> Iterator[None]:
    """Holds a lock file, which says who does.

    The file stays: removing it would let two processes lock two files of the same name.

    Args:
        path: Of the file.
        mode: That it is made with.
        held: What is wrong where another process has it, with {holder} in the place of its name.

    Raises:
        LockHeld: another process has it.
        OSError: the file cannot be used.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 200).decode(errors="replace").strip() or "an unknown process"
            raise LockHeld(held.replace("{holder}", holder)) from None
        os.ftruncate(fd, 0)
        os.write(fd, f"pid {os.getpid()}, faucetml {__version__}\n".encode())
        yield
        os.ftruncate(fd, 0)
    finally:
        os.close(fd)
