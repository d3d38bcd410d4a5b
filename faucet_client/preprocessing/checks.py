"""What a number or a list in a spec must be, and what is said where it is not.

`owner` is the dataclass that is being made; its `type` begins each message.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any, SupportsFloat, SupportsIndex

from faucet_client.errors import SpecError

FLOAT32_MAX = 3.4028234663852886e38
SMALLEST_STDDEV = 1e-30
"""Below it, a quotient of ordinary numbers leaves float32."""
EXACT_INTEGER = 2**53
"""Integers up to this magnitude are exact in float64."""
MAX_VALUES = 100_000
"""The most values of an ENUM or a CATEGORICAL, and the most boundaries of a QUANTILE."""


def finite_number(where: str, value: object) -> float:
    """`value` as a float, `-0.0` as `0.0`.

    Raises:
        SpecError: it is no number, not finite, or beyond float32; the message begins with `where`.
    """
    if isinstance(value, bool) or not isinstance(value, SupportsFloat):
        raise SpecError(f"{where} must be a number, not {shown(value)}")
    try:
        found = float(value)
    except (OverflowError, TypeError, ValueError):
        found = math.inf
    if not abs(found) <= FLOAT32_MAX:
        raise SpecError(
            f"{where} must be a finite number within float32's range, ±3.4e38, not "
            f"{shown(value)}: fit the feature anew, or scale or exclude it"
        )
    return found + 0.0


def number(owner: Any, field: str) -> float:
    """The field as `finite_number`."""
    return finite_number(f"{owner.type}.{field}", getattr(owner, field))


def stddev(owner: Any) -> float:
    """The field `stddev`, far enough above 0 to divide by."""
    found = number(owner, "stddev")
    if found < SMALLEST_STDDEV:
        raise SpecError(
            f"{owner.type}.stddev must be at least {SMALLEST_STDDEV:g}, not {found!r}: "
            "use 1 for a feature that hardly varies"
        )
    return found


def whole(owner: Any, field: str, value: object, low: int, high: int, remedy: str) -> int:
    """`value` as an int from low to high."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise SpecError(f"{owner.type}.{field} must be whole numbers, not {shown(value)}")
    found = value.__index__()
    if not low <= found <= high:
        raise SpecError(f"{owner.type}.{field} must be {remedy.format(shown(found))}")
    return found


def listed(owner: Any, field: str, at_least: int) -> tuple[object, ...]:
    """The field as a tuple of from `at_least` to MAX_VALUES entries."""
    value = getattr(owner, field)
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise SpecError(f"{owner.type}.{field} must be a list, not {shown(value)}")
    found = tuple(value)
    if not at_least <= len(found) <= MAX_VALUES:
        raise SpecError(
            f"{owner.type}.{field} must have from {at_least} to {MAX_VALUES:,} entries, not "
            f"{len(found):,}"
        )
    return found


def flag(owner: Any, field: str) -> bool:
    """The field, which must be True or False."""
    value = getattr(owner, field)
    if not isinstance(value, bool):
        raise SpecError(f"{owner.type}.{field} must be True or False, not {shown(value)}")
    return value


def check_ascending(owner: Any, field: str, values: tuple[float, ...]) -> None:
    """Refuses values that do not ascend strictly."""
    for before, after in itertools.pairwise(values):
        if not before < after:
            raise SpecError(
                f"{owner.type}.{field} must ascend, each once, but {after!r} follows {before!r}"
            )


def put(owner: Any, field: str, value: object) -> None:
    """Sets a field of a frozen dataclass, in its `__post_init__`."""
    object.__setattr__(owner, field, value)


def shown(value: object) -> str:
    """`value` for a message, of bounded length."""
    if isinstance(value, int) and abs(value) > 10**40:
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
