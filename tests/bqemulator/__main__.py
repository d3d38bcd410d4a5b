"""`make bigquery-emulator`: runs it until Ctrl-C, and says which settings reach it."""

from __future__ import annotations

import argparse
import signal
import sys
from types import FrameType

from tests.bqemulator import Emulator, EmulatorError

_PREFIX = "bigquery_"


def main() -> int:
    """Runs the emulator; the exit code."""
    parser = argparse.ArgumentParser(prog="make bigquery-emulator")
    parser.add_argument("--rest-port", type=int, default=0)
    parser.add_argument("--storage-port", type=int, default=0)
    parser.add_argument("--project", default="emulated")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with Emulator(
            arguments.project,
            rest_port=arguments.rest_port,
            storage_port=arguments.storage_port,
        ) as emulator:
            sys.stdout.write(describe(emulator))
            sys.stdout.flush()
            code = emulator.process.wait()
            sys.stderr.write(f"The emulator ended with {code}; its log:\n{emulator.log[-2_000:]}\n")
            return 1
    except EmulatorError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 0


def describe(emulator: Emulator) -> str:
    """How to reach it: for a shell, and for a settings file."""
    variables = [f"export FAUCETD_{k.upper()}={v}" for k, v in emulator.settings.items()]
    keys = []
    for name, value in emulator.settings.items():
        written = value if value == "true" else f'"{value}"'
        keys.append(f"{name.removeprefix(_PREFIX)} = {written}")
    return "\n".join(
        [
            "bqemulator runs until Ctrl-C, and forgets its tables then. For another terminal:",
            "",
            *variables,
            "",
            "or in a settings file (faucetd serve --config FILE):",
            "",
            "[bigquery]",
            *keys,
            "",
            "A first try, with few rows, since it is slow at hashing:",
            "",
            "faucetd demo --bigquery --rows 20000",
            "",
        ]
    )


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
