"""Fit options as JSON, the way they travel to the daemon: canonical, so that equal options are one
request.

The text comes from anywhere; what it may hold is checked by the dataclasses themselves.
"""  # noqa: D205  # one sentence

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, fields
from typing import Any

from faucet_client.errors import SpecError
from faucet_client.preprocessing import document
from faucet_client.preprocessing.options import FitOptions, FitPolicy
from faucet_client.preprocessing.transforms import Transform

_LARGEST_NBYTES = 4 << 20


def options_to_json(options: FitOptions) -> str:
    """The canonical JSON of what differs from the defaults; "" where nothing does."""
    plain = {}
    for each in fields(options):
        value = getattr(options, each.name)
        default = each.default_factory() if each.default_factory is not MISSING else each.default
        if value != default:
            plain[each.name] = _plain(value)
    return document.canonical(plain).decode() if plain else ""


def options_from_json(text: str) -> FitOptions:
    """The options that `options_to_json` wrote.

    Raises:
        SpecError: it is no such JSON, or an option is out of range.
    """
    if not text:
        return FitOptions()
    if len(text) > _LARGEST_NBYTES:
        raise SpecError(f"fit options may have {_LARGEST_NBYTES >> 20} MiB of JSON")
    try:
        plain = json.loads(text)
    except RecursionError:
        raise SpecError("the fit options are nested too deep") from None
    except ValueError as error:
        raise SpecError(f"the fit options are no JSON: {str(error)[:200]}") from None
    known = {each.name for each in fields(FitOptions)}
    if not isinstance(plain, dict) or not plain.keys() <= known:
        raise SpecError(f"fit options must be an object with some of {', '.join(sorted(known))}")
    for name, read in _READERS.items():
        given = plain.get(name, {})
        if not isinstance(given, dict):
            raise SpecError(f"{name} must be an object")
        plain[name] = {column: read(each) for column, each in given.items()}
    return FitOptions(**plain)


def _override(given: object) -> str | Transform:
    return given if isinstance(given, str) else document.read_transform(given)


def _policy(given: object) -> FitPolicy:
    known = {each.name for each in fields(FitPolicy)}
    if not isinstance(given, dict) or not given.keys() <= known:
        raise SpecError(f"a policy must be an object with some of {', '.join(sorted(known))}")
    return FitPolicy(**given)


_READERS: dict[str, Callable[[object], Any]] = {"feature_overrides": _override, "policies": _policy}


def _plain(value: Any) -> Any:
    match value:
        case Mapping():
            return {name: _plain(each) for name, each in value.items()}
        case FitPolicy():
            return asdict(value)
        case tuple():
            return list(value)
        case None | str() | bool() | int() | float():
            return value
        case _:
            return document.transform(value)
