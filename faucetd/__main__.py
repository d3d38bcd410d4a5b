"""`python -m faucetd` is `faucetd`."""

from faucetd.cli import main

main()
