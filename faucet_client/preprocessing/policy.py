"""What is done about values before they are transformed: by declaration, and counted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from faucet_client.errors import SpecError
from faucet_client.preprocessing.checks import finite_number, flag, put, shown
from faucet_client.preprocessing.transforms import Categorical, Hashed, Transform, Vector


@dataclass(frozen=True)
class Policy:
    """What is done about a feature's values before they are transformed, in this order.

    A value that is NaN or infinite counts as missing, always. What is there is clipped; what is
    missing is replaced by `impute`, and transformed like any other value; without `impute` a
    missing value is 0 in every output of its feature.

    Args:
        impute: The number that replaces a missing value, in units of the module's input (for
            times microseconds since 1970); None for none.
        missing_flag: Adds an output, `name.missing`, after the feature's own ones: 1 where the
            value was missing, imputed or not, else 0.
        clip: The smallest and the largest value, in the same units; None for no bounds.

    Raises:
        SpecError: a number is not finite or beyond float32, or the bounds are in the wrong order.
    """

    type: ClassVar[str] = "policy"
    impute: float | None = None
    missing_flag: bool = False
    clip: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.impute is not None:
            put(self, "impute", finite_number("policy.impute", self.impute))
        flag(self, "missing_flag")
        if self.clip is not None:
            put(self, "clip", bounds("policy.clip", self.clip))

    def check(self, transform: Transform) -> None:
        """Refuses what makes no sense with `transform`.

        Raises:
            SpecError: naming the policy.
        """
        if isinstance(transform, Vector) and self != NO_POLICY:
            raise SpecError(
                "a VECTOR takes no policy: its numbers are handed on as they are, a missing one as "
                "0; clip or impute in the source's query"
            )
        if not isinstance(transform, Categorical | Hashed):
            return
        for name in ("impute", "clip"):
            if getattr(self, name) is not None:
                raise SpecError(
                    f"policy.{name} is for numbers and times, and {transform.type} has neither: a "
                    "missing value has the id 0, and one that is not listed 1; use missing_flag"
                )


NO_POLICY = Policy()
"""Nothing is clipped, imputed or flagged."""


def bounds(where: str, given: object) -> tuple[float, float]:
    """Two numbers, the first below the second.

    Raises:
        SpecError: they are not; the message begins with `where`.
    """
    pair = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else ()
    if len(pair) != 2:
        raise SpecError(f"{where} must be two numbers, low and high, not {shown(given)}")
    low, high = (finite_number(where, each) for each in pair)
    if not low < high:
        raise SpecError(f"{where} must be low, then high, above it, not {shown(given)}")
    return low, high
