"""What becomes of one feature: a closed list of transforms, as inert data.

Invariants: a transform that exists is valid. Its numbers are finite and fit into float32, so that
`Preprocessor` needs no checks of its own; `-0.0` is stored as `0.0`, so that equal transforms have
equal JSON. The order of `TRANSFORMS` is the order of the outputs' columns; new types are appended,
and a number that a type gets later has a default that means what there was before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

from faucet_client.errors import SpecError
from faucet_client.preprocessing.checks import (
    EXACT_INTEGER,
    MAX_VALUES,
    SMALLEST_STDDEV,
    check_ascending,
    finite_number,
    flag,
    listed,
    number,
    put,
    shown,
    stddev,
    whole,
)

SMALLEST_LAMBDA = 1e-6
"""Below it, a Box-Cox transform is the logarithm: write 0."""
LARGEST_LAMBDA = 100.0
LONGEST_VALUE = 1_024
"""The most characters of a value of a CATEGORICAL; a longer text counts as not listed."""
MAX_BUCKETS = 2**31 - 1
TIMESTAMP_PARTS = ("hour", "weekday", "yearday")
MISSING_ID = 0
UNLISTED_ID = 1
FIRST_ID = 2
"""The id of a CATEGORICAL's first value."""


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
        put(self, "mean", number(self, "mean"))
        put(self, "stddev", stddev(self))


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
            put(self, field, number(self, field))
        put(self, "stddev", stddev(self))
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
        values = listed(self, "values", 1)
        put(self, "values", tuple(_exact(self, value) for value in values))
        check_ascending(self, "values", self.values)


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
        boundaries = listed(self, "boundaries", 2)
        where = f"{self.type}.boundaries"
        put(self, "boundaries", tuple(finite_number(where, each) for each in boundaries))
        check_ascending(self, "boundaries", self.boundaries)


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
            put(self, field, number(self, field))
        if not self.high - self.low >= SMALLEST_STDDEV:
            raise SpecError(
                f"CONTINUOUS_ACTION.high must be above low, not {self.high!r} with low "
                f"{self.low!r}: a constant cannot be scaled; exclude the feature, or use CONTINUOUS"
            )


@dataclass(frozen=True)
class DoNotPreprocess:
    """The value as it is, in float32."""

    type: ClassVar[str] = "DO_NOT_PREPROCESS"


@dataclass(frozen=True)
class Log1p:
    """(ln(1 + max(x, 0)) − mean) / stddev: for counts and amounts with a heavy tail.

    Args:
        mean: Of the logarithms.
        stddev: Of the logarithms, above 0. Fitting makes it at least 1.
    """

    type: ClassVar[str] = "LOG1P"
    mean: float
    stddev: float

    def __post_init__(self) -> None:
        put(self, "mean", number(self, "mean"))
        put(self, "stddev", stddev(self))


@dataclass(frozen=True)
class Categorical:
    """An id for an embedding: 0 for a missing value, 1 for one that is not listed, 2 + i for
    values[i].

    Args:
        values: Texts of at most 1,024 characters, or int64 numbers, each once. Fitting lists them
            by falling count, those of one count ascending.
        one_hot: Dense outputs instead of an id, `name=value` for each value, all zeros for a
            missing value and for one that is not listed.
    """  # noqa: D205  # one sentence

    type: ClassVar[str] = "CATEGORICAL"
    values: tuple[str, ...] | tuple[int, ...]
    one_hot: bool = False

    def __post_init__(self) -> None:
        one_hot = flag(self, "one_hot")
        values = listed(self, "values", 1 if one_hot else 0)
        of_text = bool(values) and isinstance(values[0], str)
        check = _category_text if of_text else _category_number
        checked = tuple(check(self, value) for value in values)
        if len(set(checked)) < len(checked):
            raise SpecError(f"{self.type}.values must each be there once")
        put(self, "values", checked)

    @property
    def of_text(self) -> bool | None:
        """Whether its values are texts; None where it has none."""
        return isinstance(self.values[0], str) if self.values else None


@dataclass(frozen=True)
class Hashed:
    """An id for an embedding: 0 for a missing value, else 1 + hash(value) mod buckets.

    The hash is `hashing.hash_of_text` or `hashing.hash_of_integers`, the same everywhere.

    Args:
        buckets: From 1 to 2^31 − 1.
    """

    type: ClassVar[str] = "HASHED"
    buckets: int

    def __post_init__(self) -> None:
        remedy = f"from 1 to {MAX_BUCKETS:,}, not {{}}"
        put(self, "buckets", whole(self, "buckets", self.buckets, 1, MAX_BUCKETS, remedy))


@dataclass(frozen=True)
class Timestamp:
    """Where a time lies in the day, the week and the year, as angles, and how long ago it is.

    The input is microseconds since 1970-01-01 00:00 UTC, exact in float64 until the year 2255, and
    to 32 µs until 9999. Each part gives the sine and the cosine of 2π times a fraction: "hour", of
    the day that has passed; "weekday", its day from Monday, 0, over 7; "yearday", the days of the
    year before it over the days of that year (Gregorian, also before 1582). Then comes `elapsed`,
    (seconds since 1970 − mean) / stddev.

    Args:
        parts: Of "hour", "weekday" and "yearday", each at most once; kept in this order. A date has
            no hour.
        mean: In seconds since 1970.
        stddev: In seconds, above 0. Fitting makes it at least 1.
    """

    type: ClassVar[str] = "TIMESTAMP"
    parts: tuple[str, ...]
    mean: float
    stddev: float

    def __post_init__(self) -> None:
        parts = listed(self, "parts", 0)
        for part in parts:
            if part not in TIMESTAMP_PARTS or parts.count(part) > 1:
                raise SpecError(
                    f"{self.type}.parts must be of {', '.join(TIMESTAMP_PARTS)}, each at most "
                    f"once, not {shown(part)} in {shown(parts)}"
                )
        put(self, "parts", tuple(part for part in TIMESTAMP_PARTS if part in parts))
        put(self, "mean", number(self, "mean"))
        put(self, "stddev", stddev(self))


@dataclass(frozen=True)
class Vector:
    """The numbers of a list, such as an embedding, as they are, in float32: `name[0]` and so on.

    A missing element is 0, and so are all of a missing or an empty list.

    Args:
        width: How many there are in every list, from 1 to 100,000.
    """

    type: ClassVar[str] = "VECTOR"
    width: int

    def __post_init__(self) -> None:
        remedy = f"from 1 to {MAX_VALUES:,}, not {{}}"
        put(self, "width", whole(self, "width", self.width, 1, MAX_VALUES, remedy))


Transform = (
    Binary
    | Probability
    | Continuous
    | BoxCox
    | Enumeration
    | Quantile
    | ContinuousAction
    | DoNotPreprocess
    | Log1p
    | Categorical
    | Hashed
    | Timestamp
    | Vector
)

TRANSFORMS: dict[str, type[Transform]] = {kind.type: kind for kind in get_args(Transform)}
"""Every transform by the name of its type, in the order of the outputs' columns."""


def outputs_of(transform: Transform) -> tuple[str, ...]:
    """What follows a feature's name in the names of its columns of the output, one a column.

    Nothing, once, for most; `=value` for one-hot values; `.part` for times; `[0]` and so on for
    vectors; no column for ids.
    """
    match transform:
        case Vector():
            return inputs_of(transform)
        case Enumeration(values) | Categorical(values, True):
            return tuple(f"={value}" for value in values)
        case Categorical() | Hashed():
            return ()
        case Timestamp(parts):
            angles = [f".{part}_{function}" for part in parts for function in ("sin", "cos")]
            return (*angles, ".elapsed")
        case _:
            return ("",)


def inputs_of(transform: Transform) -> tuple[str, ...]:
    """What follows a feature's name in the names of its columns of the input, one a column.

    Nothing, once, but for vectors.
    """
    if isinstance(transform, Vector):
        return tuple(f"[{place}]" for place in range(transform.width))
    return ("",)


def gives_ids(transform: Transform) -> bool:
    """Whether the feature is delivered as ids, for an embedding."""
    return isinstance(transform, Hashed) or (
        isinstance(transform, Categorical) and not transform.one_hot
    )


def cardinality_of(transform: Categorical | Hashed) -> int:
    """How many ids there may be: the rows of an embedding."""
    if isinstance(transform, Hashed):
        return transform.buckets + 1
    return len(transform.values) + FIRST_ID


def _exact(owner: Enumeration, value: object) -> int:
    remedy = (
        "within ±2^53, not {}: beyond it neighbours are the same float64; read such ids as text, "
        "declare them CATEGORICAL, or hand them over as they are (passthrough)"
    )
    return whole(owner, "values", value, -EXACT_INTEGER, EXACT_INTEGER, remedy)


def _category_number(owner: Categorical, value: object) -> int:
    remedy = "int64, and {} is not"
    return whole(owner, "values", value, -(2**63), 2**63 - 1, remedy)


def _category_text(owner: Categorical, value: object) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_VALUE:
        raise SpecError(
            f"{owner.type}.values must all be texts, of at most {LONGEST_VALUE:,} characters, not "
            f"{shown(value)}"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise SpecError(
            f"{owner.type}.values must be of valid Unicode, not {shown(value)}"
        ) from None
    return str(value)
