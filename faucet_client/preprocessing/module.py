"""The torch module that does what a preprocessing spec says. Imported only when it is asked for.

Invariants:
- A row's output depends on that row alone, bit for bit: not on its place in the batch, the batch's
  size, the memory's layout or the number of threads. So only operations are used that round each
  element in one way, wherever it stands. torch's `pow` and `sigmoid` do not (2.13, CPU: vectorized
  and scalar code differ in the last bit); `log`, `exp` and `expm1` do, and a test watches them.
- No NaN and no infinity leaves it, whatever comes in.
- Features of one type are computed together. The order of the input is the spec's, so each type's
  columns are one slice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from faucet_client.errors import SpecError
from faucet_client.preprocessing.transforms import (
    FLOAT32_MAX,
    Binary,
    BoxCox,
    Continuous,
    ContinuousAction,
    DoNotPreprocess,
    Enumeration,
    Probability,
    Quantile,
    Transform,
)

if TYPE_CHECKING:
    from faucet_client.preprocessing.spec import PreprocessingSpec

_ACTION_MARGIN = 1e-6
_SMALLEST_BOXCOX = 1e-6
_EXACT_IN_FLOAT32 = 2**24


class Preprocessor(nn.Module):
    """Makes dense float32 features of a table's numbers; made by `PreprocessingSpec.preprocessor`.

    A value counts as missing where its presence is 0, and where it is NaN or infinite; a missing
    value is 0 in every output of its feature. What is computed is computed in the input's dtype:
    give float64 for timestamps and large ids. Fastest is an input whose columns are contiguous (the
    transpose of a [F, n] tensor).

    It has no parameters, and the spec's numbers are its buffers, in float64.

    Args:
        spec: What is to be done.
    """

    def __init__(self, spec: PreprocessingSpec) -> None:
        super().__init__()
        self.spec = spec
        self.input_names: tuple[str, ...] = spec.input_names
        self.output_names: tuple[str, ...] = spec.output_names
        self.width: int = spec.width
        transforms = [feature.transform for feature in spec.features]
        blocks, self._sizes = [], []
        for block, kind in _BLOCKS:
            alike = [transform for transform in transforms if isinstance(transform, kind)]
            if alike:
                blocks.append(block(alike))
                self._sizes.append(len(alike))
        self.blocks = nn.ModuleList(blocks)
        self.eval()  # nothing here trains, and exporters warn of what would

    def outputs_of(self, name: str) -> range:
        """Which columns of the output are of the feature `name`.

        Raises:
            ColumnError: there is no such feature.
        """
        return self.spec.outputs_of(name)

    def forward(self, values: Tensor, presence: Tensor) -> Tensor:
        """The features' outputs.

        Args:
            values: float32 or float64 [n, F], a column for each of `input_names`, in that order.
            presence: bool or uint8 [n, F]: whether there is a value. What `values` has where there
                is none does not matter.

        Returns:
            float32 [n, width], a column for each of `output_names`.

        Raises:
            SpecError: a tensor is of another shape or dtype.
        """
        self._check(values, presence)
        # A third of the time that `isfinite` takes; NaN is not less than anything.
        finite = values.abs() < math.inf
        there = finite & (presence if presence.dtype == torch.bool else presence != 0)
        outputs = [
            block(of_block, mask)
            for block, of_block, mask in zip(
                self.blocks,
                torch.split(values, self._sizes, 1),
                torch.split(there, self._sizes, 1),
                strict=True,
            )
        ]
        return torch.cat(outputs, 1) if len(outputs) > 1 else outputs[0].contiguous()

    def _check(self, values: Tensor, presence: Tensor) -> None:
        shape = f"[n, {len(self.input_names)}], a column for each of input_names"
        if values.dtype not in (torch.float32, torch.float64):
            raise SpecError(f"values must be float32 or float64, not {values.dtype}")
        if values.ndim != 2 or values.shape[1] != len(self.input_names):
            raise SpecError(f"values must be {shape}, not {list(values.shape)}")
        if presence.dtype not in (torch.bool, torch.uint8):
            raise SpecError(f"presence must be bool or uint8, not {presence.dtype}")
        if presence.ndim != 2 or presence.shape[1] != len(self.input_names):
            raise SpecError(f"presence must be {shape}, not {list(presence.shape)}")


class _Block(nn.Module):
    """All features of one type: [n, f] and where they are there -> float32 [n, their outputs].

    `compute` gives numbers, of which NaN and infinity are then taken care of, or bool.
    """

    def forward(self, values: Tensor, there: Tensor) -> Tensor:
        output, mask = self.compute(values), self.spread(there)
        if output.dtype == torch.bool:
            return (output & mask).to(torch.float32)
        output = output.to(torch.float32)
        # Infinite is what is too large for float32.
        output = torch.nan_to_num(output, nan=0.0, posinf=FLOAT32_MAX, neginf=-FLOAT32_MAX)
        return output * mask  # two times faster than `where`

    def spread(self, there: Tensor) -> Tensor:
        return there

    def compute(self, values: Tensor) -> Tensor:
        raise NotImplementedError

    def number(self, name: str, numbers: Sequence[float] | Sequence[Sequence[float]]) -> None:
        """Keeps numbers as a buffer, in float64."""
        self.register_buffer(name, torch.tensor(numbers, dtype=torch.float64))


class _Binary(_Block):
    def __init__(self, transforms: Sequence[Binary]) -> None:
        del transforms
        super().__init__()

    def compute(self, values: Tensor) -> Tensor:
        return values != 0


class _Probability(_Block):
    def __init__(self, transforms: Sequence[Probability]) -> None:
        del transforms
        super().__init__()

    def compute(self, values: Tensor) -> Tensor:
        return -torch.log(1.0 / torch.clamp(values, 0.01, 0.99) - 1.0)


class _Continuous(_Block):
    mean: Tensor
    stddev: Tensor

    def __init__(self, transforms: Sequence[Continuous]) -> None:
        super().__init__()
        self.number("mean", [each.mean for each in transforms])
        self.number("stddev", [each.stddev for each in transforms])

    def compute(self, values: Tensor) -> Tensor:
        return (values - self.mean.to(values.dtype)) / self.stddev.to(values.dtype)


class _BoxCox(_Block):
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


class _Enumeration(_Block):
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


class _Quantile(_Block):
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


class _ContinuousAction(_Block):
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


class _DoNotPreprocess(_Block):
    def __init__(self, transforms: Sequence[DoNotPreprocess]) -> None:
        del transforms
        super().__init__()

    def compute(self, values: Tensor) -> Tensor:
        return values


_BLOCKS: tuple[tuple[type[_Block], type[Transform]], ...] = (
    (_Binary, Binary),
    (_Probability, Probability),
    (_Continuous, Continuous),
    (_BoxCox, BoxCox),
    (_Enumeration, Enumeration),
    (_Quantile, Quantile),
    (_ContinuousAction, ContinuousAction),
    (_DoNotPreprocess, DoNotPreprocess),
)
"""In the order of `TRANSFORMS`, which a test compares."""
