"""How a label varies within one chunk, so that it can be told whether it does between chunks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Moments:
    """Of the values of a label in a split of a chunk that are numbers.

    Attributes:
        rows: How many these are: nulls, NaN and infinities are left out.
        mean: Their mean.
        squares: The sum of their squared deviations from it.
    """

    rows: int
    mean: float
    squares: float


def moments_of(values: NDArray[np.float32]) -> Moments:
    """The moments of float32 [rows], in float64."""
    known = values[np.isfinite(values)].astype(np.float64)
    if not len(known):
        return Moments(0, 0.0, 0.0)
    mean = float(known.mean())
    return Moments(len(known), mean, float(np.square(known - mean).sum()))
