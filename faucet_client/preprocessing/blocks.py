"""What the module does for each type of transform: one block for all features of a type.

The invariants are those of `module.py`. A block gets its features' columns, [n, f], and has the
numbers of their transforms as buffers, in float64; it computes in the dtype of what it gets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from faucet_client.errors import SpecError
from faucet_client.preprocessing.checks import FLOAT32_MAX
from faucet_client.preprocessing.transforms import (
    FIRST_ID,
    Binary,
    BoxCox,
    Categorical,
    Continuous,
    ContinuousAction,
    DoNotPreprocess,
    Enumeration,
    Hashed,
    Log1p,
    Probability,
    Quantile,
    Timestamp,
    Transform,
    Vector,
    outputs_of,
)

_ACTION_MARGIN = 1e-6
_SMALLEST_BOXCOX = 1e-6
_EXACT_IN_FLOAT32 = 2**24
_DAY = 86_400e6
_FARTHEST = 2.0**63


class Block(nn.Module):
    """All features of one type: [n, f] and where they are there -> float32 [n, their outputs].

    `compute` gives numbers, of which NaN and infinity are then taken care of, or bool.
    """

    def forward(self, values: Tensor, there: Tensor) -> Tensor:
        """The block's outputs, 0 where a feature is not there."""
        output, mask = self.compute(values), self.spread(there)
        if output.dtype == torch.bool:
            return (output & mask).to(torch.float32)
        output = output.to(torch.float32)
        # Infinite is what is too large for float32.
        output = torch.nan_to_num(output, nan=0.0, posinf=FLOAT32_MAX, neginf=-FLOAT32_MAX)
        return output * mask  # two times faster than `where`

    def spread(self, there: Tensor) -> Tensor:
        """Where the outputs are there: a column for each of theirs."""
        return there

    def compute(self, values: Tensor) -> Tensor:
        """The outputs of what is there, in any floating-point dtype, or bool for 1 and 0."""
        raise NotImplementedError

    def number(self, name: str, numbers: Sequence[float] | Sequence[Sequence[float]]) -> None:
        """Keeps numbers as a buffer, in float64."""
        self.register_buffer(name, torch.tensor(numbers, dtype=torch.float64))


class _Binary(Block):
    def __init__(self, transforms: Sequence[Binary]) -> None:
        del transforms
        super().__init__()

    def compute(self, values: Tensor) -> Tensor:
        return values != 0


class _Probability(Block):
    def __init__(self, transforms: Sequence[Probability]) -> None:
        del transforms
        super().__init__()

    def compute(self, values: Tensor) -> Tensor:
        return -torch.log(1.0 / torch.clamp(values, 0.01, 0.99) - 1.0)


class _Continuous(Block):
    mean: Tensor
    stddev: Tensor

    def __init__(self, transforms: Sequence[Continuous]) -> None:
        super().__init__()
        self.number("mean", [each.mean for each in transforms])
        self.number("stddev", [each.stddev for each in transforms])

    def compute(self, values: Tensor) -> Tensor:
        return (values - self.mean.to(values.dtype)) / self.stddev.to(values.dtype)


class _BoxCox(Block):
    """(t^λ − 1) / λ as expm1(λ ln t) / λ, which keeps its digits when λ is small."""

    mean: Tensor
    stddev: Tensor
    shift: Tensor
    exponent: Tensor

    def __init__(self, transforms: Sequence[BoxCox]) -> None:
        super().__init__()
        for name in ("mean", "stddev", "shift", "exponent"):
            self.number(name, [getattr(each, name) for each in transforms])
        self._any_logarithm = any(each.exponent == 0 for each in transforms)

    def compute(self, values: Tensor) -> Tensor:
        kind = values.dtype
        exponent = self.exponent.to(kind)
        logarithm = torch.log(torch.clamp(values + self.shift.to(kind), min=_SMALLEST_BOXCOX))
        if self._any_logarithm:
            is_zero = exponent == 0
            divisor = torch.where(is_zero, 1.0, exponent)
            powers = torch.expm1(logarithm * divisor) / divisor
            powers = torch.where(is_zero, logarithm, powers)
        else:
            powers = torch.expm1(logarithm * exponent) / exponent
        return (powers - self.mean.to(kind)) / self.stddev.to(kind)


class _Enumeration(Block):
    feature: Tensor
    values: Tensor

    def __init__(self, transforms: Sequence[Enumeration]) -> None:
        super().__init__()
        self._needs_float64 = any(
            abs(value) > _EXACT_IN_FLOAT32 for each in transforms for value in each.values
        )
        feature = [number for number, each in enumerate(transforms) for _ in each.values]
        self.register_buffer("feature", torch.tensor(feature, dtype=torch.int64))
        self.number("values", [float(value) for each in transforms for value in each.values])

    def spread(self, there: Tensor) -> Tensor:
        return torch.index_select(there, 1, self.feature)

    def compute(self, values: Tensor) -> Tensor:
        if self._needs_float64 and values.dtype != torch.float64:
            raise SpecError(
                "an ENUM has values beyond 2^24, where float32 takes neighbours for one: give the "
                "values as float64"
            )
        return torch.index_select(values, 1, self.feature) == self.values.to(values.dtype)


class _Quantile(Block):
    """Boundaries are padded with the last one, where the output is 1 by rule."""

    boundaries: Tensor
    lowest: Tensor
    highest: Tensor
    last: Tensor
    offset: Tensor

    def __init__(self, transforms: Sequence[Quantile]) -> None:
        super().__init__()
        longest = max(len(each.boundaries) for each in transforms)
        self.number(
            "boundaries",
            [
                [*each.boundaries, *[each.boundaries[-1]] * (longest - len(each.boundaries))]
                for each in transforms
            ],
        )
        self.number("lowest", [each.boundaries[0] for each in transforms])
        self.number("highest", [each.boundaries[-1] for each in transforms])
        last = torch.tensor([len(each.boundaries) - 2 for each in transforms], dtype=torch.int64)
        self.register_buffer("last", last)
        self.register_buffer("offset", torch.arange(len(transforms)) * longest)

    def compute(self, values: Tensor) -> Tensor:
        kind = values.dtype
        boundaries = self.boundaries.to(kind)
        values = torch.maximum(values, self.lowest.to(kind))
        if torch.compiler.is_compiling():
            # The same number, of operations that ONNX has; an exported graph takes this way too.
            above = (values.unsqueeze(2) >= boundaries).sum(2)
        else:
            above = torch.searchsorted(boundaries, values.t().contiguous(), right=True).t()
        left = torch.minimum(torch.clamp(above - 1, min=0), self.last)
        flat = boundaries.flatten()
        index = left + self.offset
        low, high = flat[index], flat[index + 1]
        # Halved, so that no difference of two numbers leaves float32.
        part = (values * 0.5 - low * 0.5) / (high * 0.5 - low * 0.5)
        between = (left.to(kind) + part) / (self.last + 1).to(kind)
        # Not left to the line above: in float32 the last boundaries may be equal.
        return torch.where(values >= self.highest.to(kind), 1.0, between)


class _ContinuousAction(Block):
    low: Tensor
    scale: Tensor

    def __init__(self, transforms: Sequence[ContinuousAction]) -> None:
        super().__init__()
        span = 2.0 * (1.0 - _ACTION_MARGIN)
        self.number("low", [each.low for each in transforms])
        self.number("scale", [span / (each.high - each.low) for each in transforms])

    def compute(self, values: Tensor) -> Tensor:
        kind = values.dtype
        limit = 1.0 - _ACTION_MARGIN
        scaled = (values - self.low.to(kind)) * self.scale.to(kind) - limit
        return torch.clamp(scaled, -limit, limit)


class _DoNotPreprocess(Block):
    def __init__(self, transforms: Sequence[DoNotPreprocess]) -> None:
        del transforms
        super().__init__()

    def compute(self, values: Tensor) -> Tensor:
        return values


class _Log1p(Block):
    mean: Tensor
    stddev: Tensor

    def __init__(self, transforms: Sequence[Log1p]) -> None:
        super().__init__()
        self.number("mean", [each.mean for each in transforms])
        self.number("stddev", [each.stddev for each in transforms])

    def compute(self, values: Tensor) -> Tensor:
        kind = values.dtype
        logarithm = torch.log1p(torch.clamp(values, min=0))
        return (logarithm - self.mean.to(kind)) / self.stddev.to(kind)


class _Categorical(Block):
    """Ids, as numbers, to one-hot columns; to none where they are delivered as ids."""

    feature: Tensor
    ids: Tensor

    def __init__(self, transforms: Sequence[Categorical]) -> None:
        super().__init__()
        hot = [(n, i) for n, each in enumerate(transforms) for i in range(len(outputs_of(each)))]
        self.register_buffer("feature", torch.tensor([n for n, _ in hot], dtype=torch.int64))
        self.number("ids", [float(FIRST_ID + i) for _, i in hot])

    def spread(self, there: Tensor) -> Tensor:
        return torch.index_select(there, 1, self.feature)

    def compute(self, values: Tensor) -> Tensor:
        return torch.index_select(values, 1, self.feature) == self.ids.to(values.dtype)


class _Hashed(Block):
    """Ids have no columns of their own; this is here for the policies' missing flags."""

    def __init__(self, transforms: Sequence[Hashed]) -> None:
        del transforms
        super().__init__()

    def spread(self, there: Tensor) -> Tensor:
        return there[:, :0]

    def compute(self, values: Tensor) -> Tensor:
        return values[:, :0]


class _Timestamp(Block):
    mean: Tensor
    stddev: Tensor
    feature: Tensor
    order: Tensor

    def __init__(self, transforms: Sequence[Timestamp]) -> None:
        super().__init__()
        self.number("mean", [each.mean for each in transforms])
        self.number("stddev", [each.stddev for each in transforms])
        self._parts = [part for part in _TURNS if any(part in each.parts for each in transforms)]
        # All features get all parts that any has: the sine of each, the cosine of each, elapsed; a
        # column a feature in each. `order` takes what belongs to each feature, in its order.
        feature: list[int] = []
        order: list[int] = []
        for number, each in enumerate(transforms):
            places: list[int] = []
            for part in each.parts:
                place = self._parts.index(part)
                places += [place, len(self._parts) + place]
            places.append(2 * len(self._parts))
            order += [place * len(transforms) + number for place in places]
            feature += [number] * len(places)
        self.register_buffer("feature", torch.tensor(feature, dtype=torch.int64))
        self.register_buffer("order", torch.tensor(order, dtype=torch.int64))

    def spread(self, there: Tensor) -> Tensor:
        return torch.index_select(there, 1, self.feature)

    def compute(self, values: Tensor) -> Tensor:
        if values.dtype != torch.float64:
            raise SpecError(
                "microseconds since 1970 are exact in float64, and off by a minute in float32: "
                "give the values as float64"
            )
        values = torch.clamp(values, -_FARTHEST, _FARTHEST)
        days = torch.floor(values / _DAY)
        angles = [_TURNS[part](values, days) * math.tau for part in self._parts]
        elapsed = (values / 1e6 - self.mean) / self.stddev
        sines, cosines = [torch.sin(a) for a in angles], [torch.cos(a) for a in angles]
        return torch.index_select(torch.cat([*sines, *cosines, elapsed], 1), 1, self.order)


class _Vector(Block):
    def __init__(self, transforms: Sequence[Vector]) -> None:
        del transforms
        super().__init__()

    def compute(self, values: Tensor) -> Tensor:
        return values


def _hour(values: Tensor, days: Tensor) -> Tensor:
    return (values - days * _DAY) / _DAY


def _weekday(values: Tensor, days: Tensor) -> Tensor:
    del values
    monday_based = days + 3.0  # 1970-01-01 was a Thursday
    return (monday_based - torch.floor(monday_based / 7.0) * 7.0) / 7.0


def _yearday(values: Tensor, days: Tensor) -> Tensor:
    """Days before this one in its year, over the days of the year.

    Years are taken to begin on 1 March, so that a leap day is their last, in eras of 400 years,
    which all have 146,097 days. Whole numbers throughout, exact in float64.
    """
    del values
    days = days + 719_468.0  # since 0000-03-01
    of_era = days - torch.floor(days / 146_097.0) * 146_097.0
    leaps = torch.floor(of_era / 36_524.0) - torch.floor(of_era / 1_460.0)
    year = torch.floor((of_era + leaps - torch.floor(of_era / 146_096.0)) / 365.0)
    before = 365.0 * year + torch.floor(year / 4.0) - torch.floor(year / 100.0)
    from_march = of_era - before
    january = from_march >= 306.0
    year = year + january  # as the calendar counts, within the era
    fourth = year == torch.floor(year / 4.0) * 4.0
    hundredth = year == torch.floor(year / 100.0) * 100.0
    leap = (fourth & ~hundredth) | (year == torch.floor(year / 400.0) * 400.0)
    from_january = torch.where(january, from_march - 306.0, from_march + 59.0 + leap)
    return from_january / (365.0 + leap)


_TURNS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hour": _hour,
    "weekday": _weekday,
    "yearday": _yearday,
}
"""Each part of a time as a fraction of a turn: of microseconds and whole days since 1970."""


BLOCKS: tuple[tuple[type[Block], type[Transform]], ...] = (
    (_Binary, Binary),
    (_Probability, Probability),
    (_Continuous, Continuous),
    (_BoxCox, BoxCox),
    (_Enumeration, Enumeration),
    (_Quantile, Quantile),
    (_ContinuousAction, ContinuousAction),
    (_DoNotPreprocess, DoNotPreprocess),
    (_Log1p, Log1p),
    (_Categorical, Categorical),
    (_Hashed, Hashed),
    (_Timestamp, Timestamp),
    (_Vector, Vector),
)
"""In the order of `TRANSFORMS`, which a test compares."""
