"""A daemon of your own for your tests: a real `faucetd`, in a temporary folder, for a `with` block.

    from faucet_client.testing import LocalDaemon

    def test_my_training_loop(tmp_path):
        write_parquet(tmp_path / "rows.parquet")
        with LocalDaemon(allowed_roots=[tmp_path]) as daemon:
            dataset = daemon.client().open(my_spec(tmp_path / "rows.parquet"))
            train(dataset)

It needs the daemon's dependencies: `pip install 'faucetml[daemon]>=0.1'`, or from a clone
`pip install '.[daemon]'`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from faucet_client.address import parse_address
from faucet_client.dataset import FaucetClient
from faucet_client.errors import DaemonError, DaemonUnreachable
from faucet_client.session import Session

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
_POLL_S = 0.02


class LocalDaemon:
    """Starts `faucetd serve` on a socket of its own; stops it, and removes all it left, at the end.

    Args:
        allowed_roots: Folders that it may read files from.
        memory_budget: For prepared chunks, as `faucetd serve --memory-budget` takes it.
        workers: Worker processes.
        settings: Further settings by name, as text.

    Attributes:
        address: Where it listens.
        folder: Its sockets, its log and its scratch files.
        process: The daemon's main process.
    """

    def __init__(
        self,
        allowed_roots: Sequence[str | os.PathLike[str]] = (),
        *,
        memory_budget: str = "256MiB",
        workers: int = 2,
        settings: dict[str, str] | None = None,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="faucetd-"))
        self.address = f"unix://{self.folder}/sockets/faucetd.sock"
        options = {
            "listen": self.address,
            "memory_budget": memory_budget,
            "workers": str(workers),
            "allowed_roots": os.pathsep.join(os.fspath(root) for root in allowed_roots),
            "scratch_dir": str(self.folder / "scratch"),
        } | (settings or {})
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith("FAUCETD_")
        } | {f"FAUCETD_{name.upper()}": value for name, value in options.items() if value}
        self._clients: list[FaucetClient] = []
        self.process = self._start()

    @property
    def log(self) -> str:
        """What the daemon and its workers have logged so far."""
        return (self.folder / "log").read_text(errors="replace")

    def client(self, patience_s: float | None = None) -> FaucetClient:
        """A client of this daemon; closed with it. For `patience_s` see FaucetClient."""
        client = FaucetClient(self.address, patience_s=patience_s)
        self._clients.append(client)
        return client

    def kill(self) -> None:
        """SIGKILLs the daemon, as a crash would."""
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Starts a daemon at the same address again, after `kill()`."""
        self.process = self._start()

    def stop(self) -> int:
        """Ends the daemon by SIGTERM and waits for it; its exit code.

        Raises:
            DaemonError: it does not end in time; it has been killed.
        """
        for client in self._clients:
            client.close()
        self._clients.clear()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise DaemonError(f"the daemon did not end in time; its log:\n{self.log}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "faucetd", "serve"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                Session.connect(parse_address(self.address)).close()
            except DaemonUnreachable:
                if process.poll() is not None:
                    raise DaemonError(
                        f"faucetd ended with {process.returncode} at its start:\n{self.log}"
                    ) from None
                if time.monotonic() > deadline:
                    process.kill()
                    process.wait()
                    raise
                time.sleep(_POLL_S)
            else:
                return process
