"""The exit codes of `faucetd`, and the one place that chooses among them.

Wrong usage is 2, by click itself.
"""

from __future__ import annotations

from faucet_client.errors import ConfigError, FaucetError, LockHeld

OK = 0
RUNTIME = 1
LOCK_HELD = 75  # EX_TEMPFAIL of sysexits.h: try again when the other daemon has gone
CONFIG = 78  # EX_CONFIG of sysexits.h: trying again is useless
INTERRUPTED = 130  # as shells have it for SIGINT

_CODES: tuple[tuple[type[FaucetError], int], ...] = (
    (LockHeld, LOCK_HELD),
    (ConfigError, CONFIG),
    (FaucetError, RUNTIME),
)


def exit_code(error: FaucetError) -> int:
    """What the command exits with after `error`."""
    return next(code for kind, code in _CODES if isinstance(error, kind))
