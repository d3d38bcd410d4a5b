"""The options that several commands share.

`settings_options` makes click look a setting up in its four places: click knows flags, variables
and defaults by itself, and takes the settings file as its `default_map`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from faucet_client.address import ADDRESS_VARIABLE, Address, builtin_address, parse_address
from faucetd.config import (
    CONFIG_VARIABLE,
    SETTINGS,
    Setting,
    Settings,
    make_settings,
    read_settings_file,
    unknown_variables,
)
from faucetd.errors import ConfigError

Command = Callable[..., Any]

OTHER_ADDRESS = "; or name another one by --address"
"""What an unreachable daemon's error ends with, of a command that has that option."""


class _SettingType(click.ParamType[object]):
    """One setting's values, as click sees them."""

    name = "setting"

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def split_envvar_value(self, rv: str) -> list[str]:
        """The values of a list, out of its environment variable."""
        return rv.split(self._setting.separator)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> object:
        """Parses what came from a flag or a variable; a ConfigError names the variable."""
        if not isinstance(value, str):
            return value  # out of the settings file or a default: parsed already
        source = ctx.get_parameter_source(self._setting.name) if ctx else None
        if source in (ParameterSource.DEFAULT_MAP, ParameterSource.DEFAULT):
            return value
        try:
            return self._setting.parse(value)
        except ValueError as error:
            if source is ParameterSource.ENVIRONMENT:
                raise ConfigError(f"{self._setting.variable}: {error}") from None
            self.fail(str(error), param, ctx)


class _AddressType(click.ParamType[Address]):
    name = "address"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Address:
        """Parses an address."""
        if isinstance(value, Address):
            return value
        try:
            return parse_address(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


def _read_file(ctx: click.Context, _param: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and not ctx.resilient_parsing:
        ctx.default_map = read_settings_file(path)
    return path


def settings_options(command: Command, settings: Sequence[Setting] = SETTINGS) -> Command:
    """Adds `--config` and a flag for each setting; `read_settings` then makes a `Settings`."""
    for setting in reversed(settings):
        bare: dict[str, Any] = {}
        if setting.bare is not None:
            bare = {"is_flag": False, "flag_value": setting.bare}
        command = click.option(
            setting.flag,
            setting.name,
            type=_SettingType(setting),
            metavar=setting.metavar,
            envvar=setting.variable,
            show_envvar=True,
            multiple=setting.separator is not None,
            default=setting.default,
            show_default=setting.default_text,
            help=setting.help,
            **bare,
        )(command)
    return click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        envvar=CONFIG_VARIABLE,
        show_envvar=True,
        is_eager=True,
        callback=_read_file,
        help="Settings file in TOML, with a key for each setting below.",
    )(command)


@dataclass(frozen=True)
class Sourced:
    """A setting's value and, for a person, where it came from."""

    setting: Setting
    value: Any
    source: str


def sourced_values(ctx: click.Context, settings: Sequence[Setting] = SETTINGS) -> list[Sourced]:
    """The value of each setting, of a command that has `settings_options` for them."""
    file = ctx.params["config_file"]
    found = []
    for setting in settings:
        match ctx.get_parameter_source(setting.name):
            case ParameterSource.COMMANDLINE:
                source = setting.flag
            case ParameterSource.ENVIRONMENT:
                source = setting.variable
            case ParameterSource.DEFAULT_MAP:
                source = str(file)
            case _:
                source = "default"
        found.append(Sourced(setting, ctx.params[setting.name], source))
    return found


def read_settings(ctx: click.Context) -> Settings:
    """The settings of a command that has `settings_options`; warns about unknown variables.

    Raises:
        ConfigError: they do not go together, or not with this machine.
    """
    for warning in unknown_variables(os.environ):
        click.echo(f"faucetd: warning: {warning}", err=True)
    return make_settings({sourced.setting.name: sourced.value for sourced in sourced_values(ctx)})


def address_option(command: Command) -> Command:
    """Adds `--address`, the daemon that a command asks."""
    return click.option(
        "--address",
        type=_AddressType(),
        # The daemon's own variable too: a probe runs in the daemon's container.
        envvar=[ADDRESS_VARIABLE, "FAUCETD_LISTEN"],
        show_envvar=True,
        default=builtin_address,
        show_default="where `faucetd serve` listens by default",
        metavar="ADDRESS",
        help="The daemon's socket, as unix:///folder/faucetd.sock.",
    )(command)
