"""Fit options as JSON, the way they travel to the daemon: canonical, so that equal options are one
request.

The text comes from anywhere; what it may hold is checked by the dataclasses themselves.
"""  # noqa: D205  # one sentence

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from faucet_client.errors import SpecError
from faucet_client.preprocessing import document
from faucet_client.preprocessing.identify import FitOptions

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
    overrides = plain.get("feature_overrides", {})
    if not isinstance(overrides, dict):
        raise SpecError("feature_overrides must be an object")
    plain["feature_overrides"] = {
        name: given if isinstance(given, str) else document.read_transform(given)
        for name, given in overrides.items()
    }
    return FitOptions(**plain)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            name: each if isinstance(each, str) else document.transform(each)
            for name, each in value.items()
        }
    return list(value) if isinstance(value, tuple) else value
