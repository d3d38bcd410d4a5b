"""The torch module that does what a preprocessing spec says. Imported only when it is asked for.

Invariants:
- A row's output depends on that row alone, bit for bit: not on its place in the batch, the batch's
  size, the memory's layout or the number of threads. So only operations are used that round each
  element in one way, wherever it stands. torch's `pow` and `sigmoid` do not (2.13, CPU: vectorized
  and scalar code differ in the last bit); `log`, `log1p`, `exp`, `expm1`, `sin` and `cos` do, and a
  test watches them.
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
from faucet_client.preprocessing.blocks import BLOCKS, Block
from faucet_client.preprocessing.policy import NO_POLICY, Policy
from faucet_client.preprocessing.transforms import inputs_of, outputs_of

if TYPE_CHECKING:
    from faucet_client.preprocessing.spec import PreprocessingSpec


class Preprocessor(nn.Module):
    """Makes dense float32 features of a table's numbers; made by `PreprocessingSpec.preprocessor`.

    A value counts as missing where its presence is 0, and where it is NaN or infinite; a missing
    value is 0 in every output of its feature, unless its policy says otherwise. Times go in as
    microseconds since 1970, one-hot categories as ids; `encode.py` makes those of raw columns. What
    is computed is computed in the input's dtype: give float64 for times and large ids. Fastest is
    an input whose columns are contiguous (the transpose of a [F, n] tensor).

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
        blocks: list[nn.Module] = []
        self._sizes: list[int] = []
        for make, kind in BLOCKS:
            alike = [f for f in spec.dense_features if isinstance(f.transform, kind)]
            if not alike:
                continue
            block = make([feature.transform for feature in alike])
            policies = [feature.policy for feature in alike]
            if any(policy != NO_POLICY for policy in policies):
                widths = [len(outputs_of(feature.transform)) for feature in alike]
                blocks.append(_WithPolicies(block, policies, widths))
            else:
                blocks.append(block)
            self._sizes.append(sum(len(inputs_of(feature.transform)) for feature in alike))
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
        if not self._sizes:
            return values.new_zeros((values.shape[0], 0), dtype=torch.float32)
        outputs = self.outputs(values, presence)
        return torch.cat(outputs, 1) if len(outputs) > 1 else outputs[0].contiguous()

    def outputs(self, values: Tensor, presence: Tensor) -> list[Tensor]:
        """What `forward` gives, in parts from left to right: float32 [n, …] each.

        For who has a place to put them; the arguments are as of `forward`, and not checked.
        """
        # A third of the time that `isfinite` takes; NaN is not less than anything.
        finite = values.abs() < math.inf
        there = finite & (presence if presence.dtype == torch.bool else presence != 0)
        return [
            block(of_block, mask)
            for block, of_block, mask in zip(
                self.blocks,
                torch.split(values, self._sizes, 1),
                torch.split(there, self._sizes, 1),
                strict=True,
            )
        ]

    def _check(self, values: Tensor, presence: Tensor) -> None:
        for name, given in (("values", values), ("presence", presence)):
            if not isinstance(given, Tensor):
                raise SpecError(
                    f"{name} must be a tensor, not {type(given).__name__}; of an array, "
                    "torch.from_numpy(array)"
                )
        shape = f"[n, {len(self.input_names)}], a column for each of input_names"
        if values.dtype not in (torch.float32, torch.float64):
            raise SpecError(f"values must be float32 or float64, not {values.dtype}")
        if values.ndim != 2 or values.shape[1] != len(self.input_names):
            raise SpecError(f"values must be {shape}, not {list(values.shape)}")
        if presence.dtype not in (torch.bool, torch.uint8):
            raise SpecError(f"presence must be bool or uint8, not {presence.dtype}")
        if presence.ndim != 2 or presence.shape[1] != len(self.input_names):
            raise SpecError(f"presence must be {shape}, not {list(presence.shape)}")


class _WithPolicies(nn.Module):
    """A block whose features have policies: clips and imputes before it, and adds missing flags."""

    low: Tensor
    high: Tensor
    imputed: Tensor
    impute: Tensor
    flagged: Tensor
    order: Tensor

    def __init__(self, block: Block, policies: Sequence[Policy], widths: Sequence[int]) -> None:
        super().__init__()
        self.block = block
        clips = [policy.clip or (-math.inf, math.inf) for policy in policies]
        self._clips = any(policy.clip is not None for policy in policies)
        self.register_buffer("low", torch.tensor([x for x, _ in clips], dtype=torch.float64))
        self.register_buffer("high", torch.tensor([x for _, x in clips], dtype=torch.float64))
        imputes = [policy.impute for policy in policies]
        self._imputes = any(impute is not None for impute in imputes)
        self.register_buffer("imputed", torch.tensor([x is not None for x in imputes]))
        self.register_buffer("impute", torch.tensor([x or 0.0 for x in imputes]).double())
        # The flags come after all outputs of the block; `order` moves each behind its feature's.
        flagged = [number for number, policy in enumerate(policies) if policy.missing_flag]
        order: list[int] = []
        own, flag = 0, sum(widths)
        for policy, width in zip(policies, widths, strict=True):
            order += range(own, own + width)
            own += width
            if policy.missing_flag:
                order.append(flag)
                flag += 1
        self._flags = bool(flagged)
        self.register_buffer("flagged", torch.tensor(flagged, dtype=torch.int64))
        self.register_buffer("order", torch.tensor(order, dtype=torch.int64))

    def forward(self, values: Tensor, there: Tensor) -> Tensor:
        known = there
        if self._clips:
            kind = values.dtype
            values = torch.minimum(torch.maximum(values, self.low.to(kind)), self.high.to(kind))
        if self._imputes:
            values = torch.where(there, values, self.impute.to(values.dtype))
            there = there | self.imputed
        output: Tensor = self.block(values, there)
        if not self._flags:
            return output
        missing = ~torch.index_select(known, 1, self.flagged)
        joined = torch.cat([output, missing.to(torch.float32)], 1)
        return torch.index_select(joined, 1, self.order)
