"""Becomes the emulator, which is killed when its parent dies; the emulator's Python runs it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """`launch.py PARENT ARGUMENTS...`: `bqemulator ARGUMENTS...`, unless the parent is dead."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent has died")
    command = str(Path(sys.executable).with_name("bqemulator"))
    os.execv(command, [command, *sys.argv[2:]])


if __name__ == "__main__":
    main()
