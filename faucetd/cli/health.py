"""`faucetd health`."""

from __future__ import annotations

import click

from faucet_client.address import Address
from faucet_client.errors import DaemonUnreachable
from faucetd.cli.options import OTHER_ADDRESS, address_option

TIMEOUT_S = 5.0


@click.command()
@address_option
def health(address: Address) -> None:
    """Asks the daemon whether it serves: prints SERVING and exits 0, or says why not and exits 1.

    It answers within 5 seconds and is cheap, so it can be a probe:

    \b
      livenessProbe:
        exec:
          command: [faucetd, health, --address, "unix:///run/faucetd/faucetd.sock"]

    \b
    Examples:
      faucetd health
      faucetd health && python train.py
    """
    # gRPC is imported only where it is needed, so that `faucetd --help` does not wait for it.
    from faucetd.probe import probe

    try:
        state = probe(address, TIMEOUT_S)
    except DaemonUnreachable as error:
        raise DaemonUnreachable(f"{error}{OTHER_ADDRESS}") from None
    if state != "serving":
        raise DaemonUnreachable(
            f"the daemon at {address} is NOT SERVING: it is starting or stopping; try again, and "
            "look at its log if this lasts"
        )
    click.echo("SERVING")
