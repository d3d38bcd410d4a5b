"""What becomes of one feature: a closed list of transforms, as inert data.

Invariants: a transform that exists is valid. Its numbers are finite and fit into float32, so that
`Preprocessor` needs no checks of its own; `-0.0` is stored as `0.0`, so that equal transforms have
equal JSON. The order of `TRANSFORMS` is the order of the outputs' columns; new types are appended,
and a number that a type gets later has a default that means what there was before.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, SupportsFloat, SupportsIndex, get_args

from faucet_client.errors import SpecError

FLOAT32_MAX = 3.4028234663852886e38
SMALLEST_STDDEV = 1e-30
"""Below it, a quotient of ordinary numbers leaves float32."""
SMALLEST_LAMBDA = 1e-6
"""Below it, a Box-Cox transform is the logarithm: write 0."""
LARGEST_LAMBDA = 100.0
EXACT_INTEGER = 2**53
"""Integers up to this magnitude are exact in float64."""
MAX_VALUES = 100_000
"""The most values of an ENUM, and the most boundaries of a QUANTILE."""


@dataclass(frozen=True)
class Binary:
    """1 where the value is not 0, else 0."""

    type: ClassVar[str] = "BINARY"


@dataclass(frozen=True)
class Probability:
    """The logit, ln(p / (1 − p)), of the value clamped to [0.01, 0.99]."""

    type: ClassVar[str] = "PROBABILITY"


@dataclass(frozen=True)
class Continuous:
    """(x − mean) / stddev.

    Args:
        mean: In units of the feature.
        stddev: Above 0, in units of the feature. Fitting makes it at least 1.
    """

    type: ClassVar[str] = "CONTINUOUS"
    mean: float
    stddev: float

    def __post_init__(self) -> None:
        _set(self, "mean", _number(self, "mean"))
        _set(self, "stddev", _stddev(self))


@dataclass(frozen=True)
class BoxCox:
    """((max(x + shift, 1e-6) ^ lambda − 1) / lambda − mean) / stddev; ln where lambda is 0.

    Box, G. E. P. and Cox, D. R., "An analysis of transformations", J. R. Stat. Soc. B 26 (1964).

    Args:
        exponent: The paper's lambda: 0, or of a magnitude from 1e-6 to 100.
        shift: Added to the value, in its units.
        mean: Of the transformed values.
        stddev: Of the transformed values, above 0. Fitting makes it at least 1.
    """

    type: ClassVar[str] = "BOXCOX"
    exponent: float
    shift: float
    mean: float
    stddev: float

    def __post_init__(self) -> None:
        for field in ("exponent", "shift", "mean"):
            _set(self, field, _number(self, field))
        _set(self, "stddev", _stddev(self))
        if self.exponent and not SMALLEST_LAMBDA <= abs(self.exponent) <= LARGEST_LAMBDA:
            raise SpecError(
                f"BOXCOX.exponent must be 0, or of a magnitude from {SMALLEST_LAMBDA:g} to "
                f"{LARGEST_LAMBDA:g}, not {self.exponent!r}: use CONTINUOUS instead"
            )


@dataclass(frozen=True)
class Enumeration:
    """One column a value, 1 where the feature has it; a value that is not listed is all zeros.

    Args:
        values: Whole numbers, ascending, of magnitudes up to 2^53.
    """

    type: ClassVar[str] = "ENUM"
    values: tuple[int, ...]

    def __post_init__(self) -> None:
        _set(self, "values", tuple(_whole(self, value) for value in _listed(self, "values", 1)))
        _check_ascending(self, "values", self.values)


@dataclass(frozen=True)
class Quantile:
    """Where the value lies among quantiles: linear between neighbours, from 0 to 1, and constant
    beyond the first and the last.

    Args:
        boundaries: At least 2, ascending, in units of the feature.
    """  # noqa: D205  # one sentence

    type: ClassVar[str] = "QUANTILE"
    boundaries: tuple[float, ...]

    def __post_init__(self) -> None:
        listed = _listed(self, "boundaries", 2)
        _set(self, "boundaries", tuple(_number(self, "boundaries", each) for each in listed))
        _check_ascending(self, "boundaries", self.boundaries)


@dataclass(frozen=True)
class ContinuousAction:
    """Scaled linearly so that [low, high] becomes [−1 + 1e-6, 1 − 1e-6], and clamped to that.

    Args:
        low: The smallest value, in units of the feature.
        high: The largest, above `low`.
    """

    type: ClassVar[str] = "CONTINUOUS_ACTION"
    low: float
    high: float

    def __post_init__(self) -> None:
        for field in ("low", "high"):
            _set(self, field, _number(self, field))
        if not self.high - self.low >= SMALLEST_STDDEV:
            raise SpecError(
                f"CONTINUOUS_ACTION.high must be above low, not {self.high!r} with low "
                f"{self.low!r}: a constant cannot be scaled; exclude the feature, or use CONTINUOUS"
            )


@dataclass(frozen=True)
class DoNotPreprocess:
    """The value as it is, in float32."""

    type: ClassVar[str] = "DO_NOT_PREPROCESS"


Transform = (
    Binary
    | Probability
    | Continuous
    | BoxCox
    | Enumeration
    | Quantile
    | ContinuousAction
    | DoNotPreprocess
)

TRANSFORMS: dict[str, type[Transform]] = {kind.type: kind for kind in get_args(Transform)}
"""Every transform by the name of its type, in the order of the outputs' columns."""


def width_of(transform: Transform) -> int:
    """How many columns of the output a feature with this transform has."""
    return len(transform.values) if isinstance(transform, Enumeration) else 1


def finite_number(where: str, value: object) -> float:
    """`value` as a float, `-0.0` as `0.0`.

    Raises:
        SpecError: it is no number, not finite, or beyond float32; the message begins with `where`.
    """
    if isinstance(value, bool) or not isinstance(value, SupportsFloat):
        raise SpecError(f"{where} must be a number, not {_shown(value)}")
    try:
        number = float(value)
    except (OverflowError, TypeError, ValueError):
        number = math.inf
    if not abs(number) <= FLOAT32_MAX:
        raise SpecError(
            f"{where} must be a finite number within float32's range, ±3.4e38, not "
            f"{_shown(value)}: fit the feature anew, or scale or exclude it"
        )
    return number + 0.0


def _number(transform: Transform, field: str, value: object = None) -> float:
    value = getattr(transform, field) if value is None else value
    return finite_number(f"{transform.type}.{field}", value)


def _stddev(transform: Continuous | BoxCox) -> float:
    stddev = _number(transform, "stddev")
    if stddev < SMALLEST_STDDEV:
        raise SpecError(
            f"{transform.type}.stddev must be at least {SMALLEST_STDDEV:g}, not {stddev!r}: "
            "use 1 for a feature that hardly varies"
        )
    return stddev


def _whole(transform: Transform, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise SpecError(f"{transform.type}.values must be whole numbers, not {_shown(value)}")
    number = value.__index__()
    if abs(number) > EXACT_INTEGER:
        raise SpecError(
            f"{transform.type}.values must be within ±2^53, not {_shown(number)}: beyond it "
            "neighbours are the same float64; read such ids as text, or as passthrough"
        )
    return number


def _listed(transform: Transform, field: str, at_least: int) -> tuple[object, ...]:
    value = getattr(transform, field)
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise SpecError(f"{transform.type}.{field} must be a list, not {_shown(value)}")
    listed = tuple(value)
    if not at_least <= len(listed) <= MAX_VALUES:
        raise SpecError(
            f"{transform.type}.{field} must have from {at_least} to {MAX_VALUES:,} entries, not "
            f"{len(listed):,}"
        )
    return listed


def _check_ascending(transform: Transform, field: str, values: tuple[float, ...]) -> None:
    for before, after in itertools.pairwise(values):
        if not before < after:
            raise SpecError(
                f"{transform.type}.{field} must ascend, each once, but {after!r} follows {before!r}"
            )


def _set(transform: Transform, field: str, value: object) -> None:
    object.__setattr__(transform, field, value)


def _shown(value: object) -> str:
    if isinstance(value, int) and abs(value) > 10**40:
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
