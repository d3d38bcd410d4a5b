"""Runs the command `faucetd` as a person does: as a process, with an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import pytest


def command() -> list[str]:
    """The installed script, or the module where only the source tree is there."""
    script = Path(sys.executable).with_name("faucetd")
    return [str(script)] if script.exists() else [sys.executable, "-m", "faucetd"]


def clean_environ() -> dict[str, str]:
    """This process's environment without anything that is a setting of ours."""
    ours = ("FAUCET", "XDG_RUNTIME_DIR")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


class Faucetd(Protocol):
    """Runs `faucetd` with some arguments to its end."""

    def __call__(
        self, *arguments: str, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def faucetd(tmp_path: Path) -> Faucetd:
    """Runs `faucetd` in an empty folder, with an address of its own."""

    def run(
        *arguments: str, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command(), *arguments],
            cwd=tmp_path,
            env={**clean_environ(), "XDG_RUNTIME_DIR": str(tmp_path), **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


@pytest.fixture
def settings_file(tmp_path: Path) -> Callable[[str], str]:
    """Writes a settings file, and returns its path."""

    def write(text: str) -> str:
        path = tmp_path / "settings.toml"
        path.write_text(text)
        return str(path)

    return write
