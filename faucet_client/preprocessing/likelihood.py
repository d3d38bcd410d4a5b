"""Which Box-Cox transform makes values most like normal ones.

The log-likelihood of lambda, for n positive values t, is (λ − 1) Σ ln t − n/2 ln var(t^λ / λ):
G. E. P. Box and D. R. Cox, "An analysis of transformations", J. R. Stat. Soc. B 26 (1964),
section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faucet_client.preprocessing.minimum import minimum
from faucet_client.preprocessing.transforms import LARGEST_LAMBDA, SMALLEST_LAMBDA

MARGIN = 1e-4
"""The smallest value that is fitted: the least of a column is shifted to 0, and raised to this."""


@dataclass(frozen=True)
class Candidate:
    """The most likely transform, and what it makes of the values.

    Attributes:
        exponent: Lambda.
        shift: What was added to the values before.
        values: The transformed values, in the dtype and the order of those given.
    """

    exponent: float
    shift: float
    values: NDArray[Any]


def most_likely(values: NDArray[np.float64] | NDArray[np.float32]) -> Candidate | None:
    """The Box-Cox transform of greatest likelihood, for values that are not all equal.

    Args:
        values: [n]; in float64, sorted, the result is the same on every machine but for the last
            digits of its functions. In float32, arithmetic is as in the package of 2020, whose
            rounding moves lambda by up to some 1e-3.

    Returns:
        None where no lambda is most likely, or only one beyond ±100.
    """
    shift = -float(values.min())
    with np.errstate(all="ignore"):
        positive = np.maximum(values + shift, MARGIN)
        logarithms = np.log(positive)
        total = float(np.sum(logarithms))

        def unlikeliness(exponent: float) -> float:
            if exponent == 0:
                variance = float(np.log(np.var(logarithms)))
            else:
                variance = float(np.log(np.var(positive**exponent / exponent)))
            found = -((exponent - 1) * total - len(values) / 2 * variance)
            return found if math.isfinite(found) else math.inf

        exponent = minimum(unlikeliness, -2.0, 2.0)
        if exponent is None or not abs(exponent) <= LARGEST_LAMBDA:
            return None
        if abs(exponent) < SMALLEST_LAMBDA:
            return Candidate(0.0, shift, logarithms)
        return Candidate(exponent, shift, np.expm1(logarithms * exponent) / exponent)
