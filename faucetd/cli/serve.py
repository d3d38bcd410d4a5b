"""`faucetd serve`."""

from __future__ import annotations

import click

from faucetd.cli.options import read_settings, settings_options


@click.command()
@settings_options
@click.pass_context
def serve(ctx: click.Context, /, **_: object) -> None:
    """Runs the daemon until it gets SIGTERM or SIGINT; then it drains and exits.

    Each option is also a key of the settings file and an environment variable. An option has
    precedence over the variable, that over the file, and that over the default.

    \b
    Examples:
      faucetd serve --allowed-roots /data
      faucetd serve --allowed-roots /data --allowed-roots /more --memory-budget 8GiB
      faucetd serve --config faucetd.toml
      FAUCETD_ALLOWED_ROOTS=/data:/more faucetd serve

    \b
    A settings file:
      listen = "unix:///run/faucetd/faucetd.sock"
      memory_budget = "8GiB"
      allowed_roots = ["/data"]
    """
    settings = read_settings(ctx)
    from faucetd import daemon

    daemon.serve(settings)
