"""`faucetd version`."""

from __future__ import annotations

import platform

import click

from faucet_client._version import PROTOCOL_VERSION, __version__


@click.command()
def version() -> None:
    """Prints the version, that of the protocol, and that of Python.

    Client and daemon must speak the same protocol; their own versions may differ.
    """
    click.echo(f"faucetd {__version__}")
    click.echo(f"protocol {PROTOCOL_VERSION}")
    click.echo(f"python {platform.python_version()}")
