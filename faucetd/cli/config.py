"""`faucetd check-config` and `faucetd config show`."""

from __future__ import annotations

import json
from collections.abc import Collection

import click

from faucetd.cli.options import Sourced, read_settings, settings_options, sourced_values
from faucetd.sizes import format_size


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
            "clients may open tables of BigQuery; to let them open files too, name a folder by "
            "allowed_roots, such as --allowed-roots /data"
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
    """The settings as lines of TOML, each with its source in a comment.

    A setting without a value is a comment that says what then holds, since TOML cannot.
    """
    assignments = {one.setting.name: _assignment(one) for one in values}
    column = max(map(len, assignments.values()))
    lines: list[str] = []
    table = ""
    for one in values:
        if one.setting.table != table:
            table = one.setting.table
            lines += ["", f"[{table}]"]
        lines.append(f"{assignments[one.setting.name]:<{column}}  # {_comment(one)}")
    return lines


def _assignment(one: Sourced) -> str:
    if one.value is None:
        return f"# {one.setting.key} = {one.setting.default_text}"
    return f"{one.setting.key} = {_toml(one.value)}"


def _comment(one: Sourced) -> str:
    # Sizes are exact in the value, and readable here.
    readable = one.setting.name in ("memory_budget", "spill_budget", "bigquery_max_bytes_billed")
    if readable and one.value is not None:
        return f"{one.source} ({format_size(one.value)})"
    return one.source


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, tuple):
        # A label is a pair; everything else that is listed is one value an item.
        items = ["=".join(item) if isinstance(item, tuple) else item for item in value]
        return f"[{', '.join(map(_toml, items))}]"
    # A JSON string is a TOML basic string, but for DEL, which no setting has.
    return json.dumps(str(value), ensure_ascii=False)
