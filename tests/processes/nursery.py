"""Trainers without the seconds that each would import torch for: one process forks them all.

It has imported everything and used nothing, so its children are as good as fresh interpreters; what
a fork from a process in use does is for test_forks.py. Run as `python -m tests.processes.nursery
SOCKET_FD`; a request is one packet of JSON, with the child's stdin, stdout and stderr beside it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

from tests.processes import trainer_script

ROOT = Path(__file__).parents[2]


class Child:
    """A forked trainer, from the test's side."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self.pid = pid
        self._nursery = nursery
        self._pidfd: int | None = os.pidfd_open(pid)  # it waits for its first line, so it lives
        self._code = 0

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal, unless it is gone."""
        if self._pidfd is not None:
            signal.pidfd_send_signal(self._pidfd, number)

    def wait(self, timeout_s: float) -> int:
        """Waits for its end; its exit code, or minus the signal that ended it."""
        if self._pidfd is not None:
            ready, _, _ = select.select([self._pidfd], [], [], timeout_s)
            assert ready, f"process {self.pid} did not end in {timeout_s} s"
            self._code = self._nursery.bury(self.pid)
            os.close(self._pidfd)
            self._pidfd = None
        return self._code


class Nursery:
    """The forking process, from the tests' side. A context manager."""

    def __init__(self) -> None:
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                cwd=ROOT,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )

    def fork(self, stdin: int, stdout: int, stderr: int) -> Child:
        """A new trainer; its first line of stdin is its configuration."""
        socket.send_fds(self._sock, [b'{"fork": true}'], [stdin, stdout, stderr])
        return Child(self, self._answer())

    def bury(self, pid: int) -> int:
        """Reaps a child that has ended; its exit code."""
        self._sock.send(json.dumps({"bury": pid}).encode())
        return self._answer()

    def close(self) -> None:
        self._sock.close()
        self._process.wait(10)

    def _answer(self) -> int:
        data = self._sock.recv(100)
        assert data, "the nursery is gone"
        return int(data)


def main() -> None:
    """The process."""
    # The numeric libraries have threads, which a fork leaves behind; they know how to go on.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        while True:
            data, fds, _, _ = socket.recv_fds(sock, 1_000, 3)
            if not data:
                return
            request: dict[str, Any] = json.loads(data)
            if "bury" in request:
                _, status = os.waitpid(request["bury"], 0)
                sock.send(str(os.waitstatus_to_exitcode(status)).encode())
                continue
            pid = os.fork()
            if pid == 0:
                for target, fd in enumerate(fds):
                    os.dup2(fd, target)
                    os.close(fd)
                break
            for fd in fds:
                os.close(fd)
            sock.send(str(pid).encode())
    trainer_script.main()  # the child's, with the end of its own that an interpreter has


if __name__ == "__main__":
    main()
