"""The command `faucetd`.

`main` imports everything else late: the package is installed with the client alone too, and then
the command says what is missing.
"""

from __future__ import annotations

import sys

_OURS = ("faucetd", "faucet_client", "faucet_protos")

_EXTRAS = ("demo", "top")
"""Commands that need more than the daemon, which are extras of the same names."""


def main() -> None:
    """Runs the command line, and exits with a code of `faucetd.cli.exits`."""
    try:
        from faucetd.cli.app import run

        code = run()
    except ModuleNotFoundError as error:
        # A module of ours that is missing is a fault, and shows its traceback.
        missing = (error.name or "").partition(".")[0]
        if not missing or missing in _OURS:
            raise
        command = "".join(sys.argv[1:2])
        extra = command if command in _EXTRAS else "daemon"
        print(
            f"faucetd: the Python module {missing!r} is missing; install what this command needs "
            f"with: pip install 'faucetml[{extra}]>=0.1', or from a clone pip install '.[{extra}]'",
            file=sys.stderr,
        )
        code = 1
    sys.exit(code)
