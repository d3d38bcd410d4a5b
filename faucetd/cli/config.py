"""`faucetd check-config` and `faucetd config show`."""

from __future__ import annotations

import json
from collections.abc import Collection

import click

from faucetd.cli.options import Sourced, read_settings, settings_options, sourced_values
from faucetd.sizes import format_size

HIDDEN = "(hidden)"


@click.command("check-config")
@settings_options
@click.pass_context
def check_config(ctx: click.Context, /, **_: object) -> None:
    """Says whether a daemon would start with these settings, and starts none.

    It exits 0, or 78 with what is wrong. It takes the options and the variables of `serve`.

    \b
    Examples:
      faucetd check-config --config faucetd.toml
      faucetd check-config --memory-budget 64GiB
    """
    settings = read_settings(ctx)
    click.echo(
        f"the settings are valid: {settings.workers} workers, "
        f"{format_size(settings.memory_budget)} of shared memory, at {settings.listen}"
    )
    if not settings.allowed_roots:
        click.echo(
            "but no file may be opened yet: name a folder by allowed_roots, such as "
            "--allowed-roots /data"
        )


@click.group()
def config() -> None:
    """Shows the settings."""


@config.command()
@settings_options
@click.pass_context
def show(ctx: click.Context, /, **_: object) -> None:
    """Prints each setting as the daemon would have it, and where its value comes from.

    The output is a settings file. It takes the options and the variables of `serve`.

    \b
    Examples:
      faucetd config show
      FAUCETD_WORKERS=2 faucetd config show --config faucetd.toml
      faucetd config show > faucetd.toml
    """
    for line in show_lines(sourced_values(ctx)):
        click.echo(line)
    read_settings(ctx)


def show_lines(values: Collection[Sourced]) -> list[str]:
    """The settings as lines of TOML, each with its source in a comment; secrets are hidden."""
    assignments = [
        f"{one.setting.name} = {_toml(HIDDEN if one.setting.secret else one.value)}"
        for one in values
    ]
    column = max(map(len, assignments))
    return [
        f"{assignment:<{column}}  # {_comment(one)}"
        for assignment, one in zip(assignments, values, strict=True)
    ]


def _comment(one: Sourced) -> str:
    # Sizes are exact in the value, and readable here.
    readable = one.setting.name == "memory_budget" and not one.setting.secret
    return f"{one.source} ({format_size(one.value)})" if readable else one.source


def _toml(value: object) -> str:
    if isinstance(value, int):
        return str(value)
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    # A JSON string is a TOML basic string, but for DEL, which no setting has.
    return json.dumps(str(value), ensure_ascii=False)
