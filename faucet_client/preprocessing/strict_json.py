"""Values of JSON that comes from anywhere, each read as what it must be, or refused by name.

`where` begins each message: which field of what.
"""

from __future__ import annotations

import json
import math
from typing import Any

from faucet_client.errors import SpecError


def parsed(text: str | bytes) -> Any:
    """The value of a text: no name twice in an object, no NaN, no Infinity.

    Raises:
        ValueError: it is no such JSON.
        RecursionError: it is nested too deep.
    """
    return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)


def text_of(where: str, value: object) -> str:
    """A text, of valid Unicode.

    Raises:
        SpecError: it is none.
    """
    if not isinstance(value, str):
        raise SpecError(f"{where} must be a text, not {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise SpecError(f"{where} must be of valid Unicode, not {shown(value)}") from None
    return value


def count(where: str, value: object) -> int:
    """A whole number from 0, within int64.

    Raises:
        SpecError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise SpecError(f"{where} must be a whole number from 0, not {shown(value)}")
    return value


def flag(where: str, value: object) -> bool:
    """True or false.

    Raises:
        SpecError: it is neither.
    """
    if not isinstance(value, bool):
        raise SpecError(f"{where} must be true or false, not {shown(value)}")
    return value


def real(where: str, value: object) -> float:
    """A finite number.

    Raises:
        SpecError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SpecError(f"{where} must be a number, not {shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise SpecError(f"{where} must be a finite number, not {shown(value)}")
    return number


def shown(value: object) -> str:
    """A value for a message, short whatever it is."""
    if isinstance(value, int) and abs(value) > 10**40:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, list | dict):
        return f"a {type(value).__name__} of {len(value):,}"
    found = repr(value)
    return found if len(found) <= 80 else f"{found[:77]}..."


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
