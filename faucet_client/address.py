"""Where the daemon listens: one Unix socket, and the files that lie beside it.

Daemon and client agree on the address without being told: both use `builtin_address()` unless a
setting, an argument or FAUCET_ADDRESS says otherwise.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from faucet_client.errors import ConfigError

ADDRESS_VARIABLE = "FAUCET_ADDRESS"
"""The environment variable that tells a client where its daemon listens."""

PATIENCE_VARIABLE = "FAUCET_PATIENCE_S"
"""The environment variable that tells a client how long to wait for a daemon that went away."""

DEFAULT_PATIENCE_S = 60.0

HANDOFF_SUFFIX = ".handoff"
LOCK_SUFFIX = ".lock"

SOCKET_PATH_LIMIT_BYTES = 107
"""`sun_path` has 108 bytes, one of them the closing NUL (unix(7))."""

PATH_LIMIT_BYTES = SOCKET_PATH_LIMIT_BYTES - len(HANDOFF_SUFFIX)
"""What is left for the daemon's own path, since the handoff socket's is longer."""

_SCHEME = "unix://"


@dataclass(frozen=True)
class Address:
    """A daemon's address. `str(address)` is its `unix://` form.

    Attributes:
        path: The absolute path of the gRPC socket.
    """

    path: str

    def __str__(self) -> str:
        return _SCHEME + self.path

    @property
    def folder(self) -> str:
        """The folder that holds the sockets and the lock."""
        return os.path.dirname(self.path)

    @property
    def handoff_path(self) -> str:
        """The socket that checks peers and passes descriptors (protos/faucet/v1/handoff.proto)."""
        return self.path + HANDOFF_SUFFIX

    @property
    def lock_path(self) -> str:
        """The file whose `flock` keeps a second daemon off this address."""
        return self.path + LOCK_SUFFIX

    @property
    def grpc_target(self) -> str:
        """The address as gRPC takes it, on both sides: a URI, so `#`, `?` and `%` are escaped."""
        return _SCHEME + quote(self.path)


def parse_address(text: str) -> Address:
    """Reads `unix:///folder/faucetd.sock`, or a bare absolute path.

    Raises:
        ConfigError: it is neither, or the path is too long for a Unix socket.
    """
    path = text.removeprefix(_SCHEME) if text.startswith(_SCHEME) else text
    if not path.startswith("/"):
        raise ConfigError(
            f"the address {text!r} is not a Unix socket: write unix:///folder/faucetd.sock, with "
            "three slashes and an absolute path (memory cannot be shared over a network)"
        )
    if "\0" in path or path.endswith("/"):
        raise ConfigError(f"the address {text!r} does not name a socket file")
    path = os.path.normpath("/" + path.lstrip("/"))
    nbytes = len(os.fsencode(path))
    if nbytes > PATH_LIMIT_BYTES:
        raise ConfigError(
            f"the socket's path {path!r} has {nbytes} bytes, and at most {PATH_LIMIT_BYTES} fit: "
            f"the system's limit is {SOCKET_PATH_LIMIT_BYTES}, and {HANDOFF_SUFFIX!r} is appended "
            "for the second socket; choose a shorter folder"
        )
    return Address(path)


def builtin_address(environ: Mapping[str, str] | None = None) -> Address:
    """Where a daemon listens if nobody says otherwise.

    That is `$XDG_RUNTIME_DIR/faucetd/faucetd.sock`, and without that variable (in containers,
    under cron) `/tmp/faucetd-<uid>/faucetd.sock`.
    """
    runtime = (os.environ if environ is None else environ).get("XDG_RUNTIME_DIR", "")
    # The XDG specification has relative paths ignored.
    folder = f"{runtime}/faucetd" if runtime.startswith("/") else f"/tmp/faucetd-{os.getuid()}"
    return parse_address(f"{folder}/faucetd.sock")


def default_address(environ: Mapping[str, str] | None = None) -> Address:
    """Where a client looks for its daemon: FAUCET_ADDRESS, else the built-in address.

    Raises:
        ConfigError: FAUCET_ADDRESS is not an address.
    """
    text = (os.environ if environ is None else environ).get(ADDRESS_VARIABLE, "")
    if not text:
        return builtin_address(environ)
    try:
        return parse_address(text)
    except ConfigError as error:
        raise ConfigError(f"{ADDRESS_VARIABLE}: {error}") from None


def why_unreachable(address: Address) -> str:
    """Why nobody could be reached at `address`, and what to do: the text of a DaemonUnreachable."""
    try:
        mode = os.stat(address.path).st_mode
        if not stat.S_ISSOCK(mode):
            reason = "the file there is not a socket"
        elif not os.access(address.path, os.R_OK | os.W_OK):
            reason = "this user may not use the socket there; see the daemon's allowed_uids"
        else:
            reason = "the socket is there, but no process listens on it"
    except FileNotFoundError:
        reason = "there is no such socket"
    except PermissionError:
        reason = f"this user may not look into {address.folder}; see the daemon's allowed_uids"
    except OSError as error:
        reason = f"{error.strerror}"
    return (
        f"no daemon at {address}: {reason}. Start one with `faucetd serve`, or set "
        f"{ADDRESS_VARIABLE} to where one listens"
    )


def default_patience_s() -> float:
    """How long a client waits for a daemon that went away, in seconds.

    Raises:
        ConfigError: FAUCET_PATIENCE_S is no number of seconds.
    """
    text = os.environ.get(PATIENCE_VARIABLE, "")
    if not text:
        return DEFAULT_PATIENCE_S
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ConfigError(f"{PATIENCE_VARIABLE}={text!r} is no number of seconds, 0 or more")
    return seconds
