"""Chromium without a window, driven by its own protocol over two pipes: no port, no other package.

The protocol (https://chromedevtools.github.io/devtools-protocol/): JSON messages that end in a zero
byte, written to the browser's descriptor 3 and read from its descriptor 4.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)
DEADLINE_S = 60.0


def chromium() -> str | None:
    """The browser's path; None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Page:
    """A page of a running browser.

    Attributes:
        complaints: What the page logged as a warning or an error, and what it threw.
    """

    def __init__(self, requests: int, replies: int) -> None:
        self.complaints: list[str] = []
        self._requests, self._replies = requests, replies
        self._unread = b""
        self._events: list[str] = []
        self._last_id = 0
        self._session: str | None = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def open(self, path: Path, *, width: int = 1440, height: int = 900, dark: bool = False) -> None:
        """Opens a file, and waits until it has loaded."""
        self.resize(width, height)
        self.colours(dark=dark)
        self._events.clear()
        self.send("Page.navigate", url=path.as_uri())
        while "Page.loadEventFired" not in self._events:
            self._take(self._receive())

    def resize(self, width: int, height: int) -> None:
        """Gives the page another size, in CSS pixels."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def colours(self, *, dark: bool) -> None:
        """Says which colours the person likes."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript, which may be a promise of one.

        Raises:
            AssertionError: it threw.
        """
        found = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Waits, frame by frame, until an expression is true; the deadline is every message's."""
        self.evaluate(
            f"new Promise(done => {{ const look = () => ({condition}) ? done(true) "
            ": requestAnimationFrame(look); look(); })"
        )

    def press(self, key: str) -> None:
        """Presses a key: "Tab", or "Enter"."""
        code = {"Tab": 9, "Enter": 13}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        of = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.send("Input.dispatchKeyEvent", type="keyDown", **of, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **of)

    def write(self, text: str) -> None:
        """Writes into what has the focus."""
        self.send("Input.insertText", text=text)

    def screenshot(self, path: Path) -> None:
        """Saves what can be seen as a PNG."""
        shot = self.send("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Calls a method of the protocol, and returns its result.

        Raises:
            AssertionError: the browser refused it.
            TimeoutError: there was no reply in time.
        """
        self._last_id += 1
        message: dict[str, Any] = {"id": self._last_id, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        unsent = json.dumps(message).encode() + b"\0"
        while unsent:
            unsent = unsent[os.write(self._requests, unsent) :]
        while True:
            reply = self._receive()
            if reply.get("id") == self._last_id:
                assert "error" not in reply, f"{method}: {reply['error']}"
                result: dict[str, Any] = reply["result"]
                return result
            self._take(reply)

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + DEADLINE_S
        while b"\0" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._replies], [], [], left)[0]:
                raise TimeoutError(f"Chromium did not answer for {DEADLINE_S:.0f} s")
            read = os.read(self._replies, 1 << 16)
            if not read:
                raise ConnectionError("Chromium has ended")
            self._unread += read
        message, _, self._unread = self._unread.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def _take(self, event: dict[str, Any]) -> None:
        method, parameters = event.get("method", ""), event.get("params", {})
        self._events.append(method)
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(parameters["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
            self.complaints.append(json.dumps(parameters["args"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.complaints.append(json.dumps(parameters["entry"]))


@contextmanager
def running_page(folder: Path) -> Iterator[Page]:
    """A page of a browser of its own, whose profile is in the empty folder `folder`."""
    path = chromium()
    assert path is not None
    theirs_in, requests = os.pipe()
    replies, theirs_out = os.pipe()
    # Away from 3 and 4, which they become in the browser.
    theirs = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 10) for each in (theirs_in, theirs_out)]
    for each in (theirs_in, theirs_out):
        os.close(each)
    log = os.open(folder / "chromium.log", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    actions = [
        (os.POSIX_SPAWN_DUP2, log, 1),
        (os.POSIX_SPAWN_DUP2, log, 2),
        (os.POSIX_SPAWN_DUP2, theirs[0], 3),
        (os.POSIX_SPAWN_DUP2, theirs[1], 4),
    ]
    arguments = [path, *_FLAGS, f"--user-data-dir={folder / 'user'}", "about:blank"]
    # A group of its own, so that its helpers end with it.
    process = os.posix_spawn(path, arguments, os.environ, file_actions=actions, setpgroup=0)
    for each in (*theirs, log):
        os.close(each)
    try:
        yield Page(requests, replies)
    finally:
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(requests)
        os.close(replies)
