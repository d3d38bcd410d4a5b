"""Where metrics are to be had: a port of this machine alone, or a Unix socket."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass

_HOST_PORT = re.compile(r"(\[[^\]]+\]|[^\s:/\[\]]+):([0-9]{1,5})", re.ASCII)
_UNIX = "unix://"
_PATH_LIMIT_BYTES = 107  # sun_path of sockaddr_un, and its NUL


@dataclass(frozen=True)
class Endpoint:
    """One of two: `path` of a socket, or `host` and `port` (0 is any free one)."""

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.path:
            return f"{_UNIX}{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_endpoint(text: str) -> Endpoint:
    """Reads `127.0.0.1:9464`, `[::1]:9464`, `localhost:9464` or `unix:///folder/metrics.sock`.

    Raises:
        ValueError: it is none of these. Whose host it is, nobody has asked yet.
    """
    if text.startswith(_UNIX):
        path = text.removeprefix(_UNIX)
        if not os.path.isabs(path) or path.endswith("/") or "\0" in path:
            raise ValueError(f"{text!r} does not name a socket: write unix:///folder/metrics.sock")
        if len(os.fsencode(path)) > _PATH_LIMIT_BYTES:
            raise ValueError(
                f"{path!r} is longer than the {_PATH_LIMIT_BYTES} bytes of a socket's path"
            )
        return Endpoint(path=os.path.normpath(path))
    found = _HOST_PORT.fullmatch(text)
    if found is None or int(found[2]) >= 2**16:
        raise ValueError(
            f"{text!r} is neither host:port, as 127.0.0.1:9464, nor unix:///folder/metrics.sock"
        )
    return Endpoint(host=found[1].strip("[]"), port=int(found[2]))
