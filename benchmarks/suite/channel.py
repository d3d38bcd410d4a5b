"""JSON lines between a contender's process and the run that started it.

The process's standard output is the channel; whatever libraries print goes to standard error,
which is the run's log.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


class Channel:
    """The contender's end."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._in = os.fdopen(os.dup(0), "r", encoding="utf-8")
        # A loader's own processes must not wait for words that are not theirs.
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)

    def tell(self, event: str, **facts: Any) -> None:
        """Sends one line."""
        self._out.write(json.dumps({"event": event} | facts) + "\n")
        self._out.flush()

    def hear(self) -> dict[str, Any]:
        """The next line; the process ends where there is none, as the run has gone."""
        line = self._in.readline()
        if not line:
            sys.exit(0)
        heard: dict[str, Any] = json.loads(line)
        return heard
