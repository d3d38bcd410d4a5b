"""bqemulator, a BigQuery that others wrote, as a process: for tests, and to try things with.

    with Emulator() as emulator:
        with LocalDaemon(settings=emulator.settings) as daemon:
            ...

`make .cache/bqemulator/.ready` installs it, and `make test` does so by itself. What it gets wrong
(1.4.0): ReadRows ignores `offset`, so a stream that is opened anew repeats its rows; nested
`selected_fields` are refused; results of queries cannot be read; dry runs run the query, and have
no bytes; FARM_FINGERPRINT takes 75 µs a row, so tables are best kept below 50,000 rows.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

HOME = Path(__file__).parents[2] / ".cache" / "bqemulator"
"""The environment that it runs in, with DuckDB's extensions below `home`."""

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 2.0
_POLL_S = 0.02


class EmulatorError(Exception):
    """The emulator is not installed, or did not start; the message says what to do."""


class Emulator:
    """An empty emulator on loopback, for the time of a `with` block, or until `stop`.

    Start it in a thread that lives as long as it does: it dies with that thread.

    Args:
        project: The project that it has.
        rest_port: Of the REST API; 0 for a free one.
        storage_port: Of the Storage Read API; 0 for a free one.

    Attributes:
        rest: As http://127.0.0.1:9050.
        storage: As 127.0.0.1:9060.

    Raises:
        EmulatorError: it is not installed, or does not start.
    """

    def __init__(
        self, project: str = "emulated", *, rest_port: int = 0, storage_port: int = 0
    ) -> None:
        if not (HOME / ".ready").exists():
            raise EmulatorError(
                f"bqemulator is not installed in {HOME}: run `make .cache/bqemulator/.ready`"
            )
        self.project = project
        self.folder = Path(tempfile.mkdtemp(prefix="bqemulator-"))
        self._log = self.folder / "log"
        self.process = self._start(rest_port, storage_port)
        try:
            ports = self._wait()
        except BaseException:
            self.stop()
            raise
        self.rest = f"http://127.0.0.1:{ports['rest.listen']}"
        self.storage = f"127.0.0.1:{ports['grpc.listen']}"

    @property
    def settings(self) -> dict[str, str]:
        """The daemon's settings for it, by name."""
        return {
            "bigquery_project": self.project,
            "bigquery_credentials": "anonymous",
            "bigquery_api_endpoint": self.rest,
            "bigquery_storage_endpoint": self.storage,
            "bigquery_storage_insecure": "true",
        }

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self._log.read_text(errors="replace")

    def stop(self) -> None:
        """Ends it, and removes what it has; a second time it does nothing."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                # It waits for connections that clients keep open.
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _start(self, rest_port: int, storage_port: int) -> subprocess.Popen[bytes]:
        python = HOME / "bin" / "python"
        launch = Path(__file__).with_name("launch.py")
        arguments = ["start", "--ephemeral", f"--project={self.project}", "--log-format=json"]
        arguments += [f"--rest-port={rest_port}", f"--grpc-port={storage_port}"]
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("BQEMU_", "PYTHON"))}
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [str(python), str(launch), str(os.getpid()), *arguments],
                cwd=self.folder,  # it reads .bqemu.toml there
                env={
                    **inherited,
                    "HOME": str(HOME / "home"),
                    "TMPDIR": str(self.folder),
                    # Also the size of a message that it sends: rows may be wide.
                    "BQEMU_WRITE_API_MAX_REQUEST_BYTES": str(256 * 2**20),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C in the terminal is its parent's to handle
            )

    def _wait(self) -> dict[str, int]:
        """The ports by what is logged when it listens there; the gRPC server comes last."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            ports = {event["event"]: event["port"] for event in self._events() if "port" in event}
            if {"rest.listen", "grpc.listen"} <= set(ports):
                return ports
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise EmulatorError(f"bqemulator did not start; its log:\n{self.log[-2_000:]}")
            time.sleep(_POLL_S)

    def _events(self) -> Iterator[dict[str, Any]]:
        for line in self.log.splitlines(keepends=True):
            if line.startswith("{") and line.endswith("\n"):
                yield json.loads(line)
