"""How far the evaluation rows are from the train rows, as two numbers.

Both are computed from samples, so that two samples of one distribution differ, too. PSI says how
much of it may be chance (`psi_by_chance`); without that, a report of 500 features over a few
hundred evaluation rows would warn of most of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_DECILES = np.arange(1, 10) / 10
_ONE_IN_A_THOUSAND = 3.0902
"""The 99.9 % quantile of the normal distribution."""


def psi(train: Sequence[int], evaluation: Sequence[int]) -> float:
    """The population stability index of two histograms over the same bins: Σ (p − q) ln(p / q).

    N. Siddiqi, "Credit Risk Scorecards", Wiley (2006); as a divergence it is older: H. Jeffreys,
    "An invariant form for the prior probability in estimation problems", Proc. R. Soc. A 186
    (1946). A bin without rows would make it infinite, so half a row is added to each bin of both
    sides. Bins that are empty on both sides are left out.

    Args:
        train: Rows a bin; at least one row.
        evaluation: Likewise.

    Returns:
        0 or more; 0 where the shares are equal.
    """
    p, q = np.asarray(train, np.float64), np.asarray(evaluation, np.float64)
    used = (p > 0) | (q > 0)
    p, q = p[used] + 0.5, q[used] + 0.5
    p, q = p / p.sum(), q / q.sum()
    return float(((p - q) * np.log(p / q)).sum())


def psi_by_chance(train: Sequence[int], evaluation: Sequence[int]) -> float:
    """What the PSI of two samples of one distribution exceeds once in a thousand times.

    For n and m rows in B bins PSI · nm / (n + m) is about χ² with B − 1 degrees of freedom: B.
    Yurdakul and J. Naranjo, "Statistical properties of the population stability index", J. Risk
    Model Validation 14 (2020). The quantile of χ² is E. B. Wilson and M. M. Hilferty's, "The
    distribution of chi-square", PNAS 17 (1931).
    """
    n, m = sum(train), sum(evaluation)
    used = sum(a > 0 or b > 0 for a, b in zip(train, evaluation, strict=True))
    freedom = max(used - 1, 1)
    spread = 2 / (9 * freedom)
    chi2 = freedom * (1 - spread + _ONE_IN_A_THOUSAND * spread**0.5) ** 3
    return float(chi2 * (n + m) / (n * m))


def ks(train: NDArray[np.float64], evaluation: NDArray[np.float64]) -> float:
    """The two-sample statistic of Kolmogorov and Smirnov: max |F − G|, from 0 to 1.

    Args:
        train: float64 [n], n > 0, in any order, finite.
        evaluation: float64 [m], likewise.
    """
    first, second = np.sort(train), np.sort(evaluation)
    at = np.concatenate([first, second])
    f = np.searchsorted(first, at, side="right") / len(first)
    g = np.searchsorted(second, at, side="right") / len(second)
    return float(np.abs(f - g).max())


def bounds(train: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where a PSI over these values has its bins: at deciles, or one a value where they are few.

    Deciles alone would put a column that is 1 in 95 of 100 rows into one single bin.

    Args:
        train: float64 [n], n > 0, finite.

    Returns:
        float64 [b − 1], ascending: a bin reaches up to its bound, which belongs to it.
    """
    different = np.unique(train)
    if len(different) <= len(_DECILES) + 1:
        return different[:-1]
    return np.unique(np.quantile(train, _DECILES, method="inverted_cdf"))


def counts(values: NDArray[np.float64], at: NDArray[np.float64]) -> list[int]:
    """Rows a bin, for the bounds that `bounds` gave."""
    places = np.searchsorted(at, values, side="left")
    found: list[int] = np.bincount(places, minlength=len(at) + 1).tolist()
    return found
