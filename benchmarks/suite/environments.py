"""A virtual environment a peer, from exact versions, below `.cache/peers`.

What cannot be installed is an `EnvironmentFailed`, with what the installer said; the benchmark then
goes on without that peer and says so.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).parents[1] / "peers"
_TAIL = 4_000


class EnvironmentFailed(Exception):
    """An environment could not be made; the message is what the installer said."""


class Environments:
    """Environments by the name of their requirements file; "" is the running interpreter's.

    Args:
        folder: Where they are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def python(self, name: str) -> Path:
        """The interpreter of an environment that is there."""
        return self._folder / name / "bin" / "python" if name else Path(sys.executable)

    def is_ready(self, name: str) -> bool:
        """Whether it is there, and of the versions that are asked for now."""
        if not name:
            return True
        stamp = self._stamp(name)
        return stamp.exists() and stamp.read_text() == _digest(name)

    def make(self, name: str) -> None:
        """Makes it where it is not ready.

        Raises:
            EnvironmentFailed: it cannot be made on this machine.
        """
        if self.is_ready(name):
            return
        shutil.rmtree(self._folder / name, ignore_errors=True)
        requirements = str(REQUIREMENTS / f"{name}.txt")
        self._run([sys.executable, "-m", "venv", str(self._folder / name)])
        # They name all that is needed, so that nothing else is looked for.
        self._run(
            [
                str(self.python(name)),
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--requirement",
                requirements,
            ]
        )
        self._stamp(name).write_text(_digest(name))

    def versions(self, name: str) -> dict[str, str]:
        """The versions that its requirements name."""
        lines = (REQUIREMENTS / f"{name}.txt").read_text().splitlines()
        pins = (line.partition("==") for line in lines if "==" in line and line[0] != "#")
        return {project: version for project, _, version in pins}

    def _stamp(self, name: str) -> Path:
        return self._folder / name / "requirements.sha256"

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise EnvironmentFailed((done.stdout + done.stderr)[-_TAIL:])


def _digest(name: str) -> str:
    return hashlib.sha256((REQUIREMENTS / f"{name}.txt").read_bytes()).hexdigest()
