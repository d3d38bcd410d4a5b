"""The demo's child processes: none of them outlives the `with` block of their `Processes`.

Each child leads a process group of its own. So a Ctrl-C in the terminal reaches the demo alone,
which then ends the children in order, with whatever they started.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from faucetd.demo.interrupts import Interrupts

STOP_TIMEOUT_S = 10.0
KILL_TIMEOUT_S = 2.0
_LOG_TAIL_LINES = 15


@dataclass(frozen=True)
class Child:
    """A process that was started, and the file that has what it logged."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def log_tail(self) -> str:
        """The last lines of its log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_LOG_TAIL_LINES:]) or "(it wrote no log)"

    def how_it_ended(self) -> str:
        """Of a process that has ended: `ended with code 1`, `was killed by SIGKILL`."""
        code = self.process.returncode
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with code {code}"


class Processes:
    """Starts Python modules as processes, and ends them when the block is left.

    Args:
        folder: Where their logs are written.
        environ: Their environment.
        interrupts: What may interrupt, but not between the start of a process and its noting.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str], interrupts: Interrupts) -> None:
        self._folder = folder
        self._environ = dict(environ)
        self._interrupts = interrupts
        self._children: list[Child] = []

    def start(
        self, name: str, module: str, arguments: Sequence[str], *, piped: bool = False
    ) -> Child:
        """Starts `python -m module arguments`; what it prints goes to its log, or to a pipe."""
        log = self._folder / f"{name}.log"
        with log.open("wb") as stderr, self._interrupts.held():
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else stderr,
                stderr=stderr,
                env=self._environ,
                start_new_session=True,
            )
            child = Child(name, process, log)
            self._children.append(child)
        return child

    def kill(self, child: Child) -> None:
        """SIGKILLs a child and whatever it started; it is gone afterwards.

        Its exit code tells whether it had ended before.
        """
        with self._interrupts.held():
            # Before it is waited for, after which its number may be another's.
            os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait()
            self._children.remove(child)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._interrupts.ignore()
        # The last one first: trainers before the daemon that feeds them.
        for child in reversed(self._children):
            _stop(child.process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
    # Whatever it left behind in its group, and itself if it did not want to end.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        # Killed is not yet gone. Where nobody reaps orphans they stay as zombies: hence the limit.
        deadline = time.monotonic() + KILL_TIMEOUT_S
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.01)
    process.wait()
