"""How far from normal values are: the K² of D'Agostino and Pearson.

K² = Z₁² + Z₂², of two statistics that are about standard normal for normal values: Z₁ of the
skewness (R. B. D'Agostino, "Transformation to normality of the null distribution of g1", Biometrika
57, 1970), Z₂ of the kurtosis (F. J. Anscombe and W. J. Glynn, "Distribution of the kurtosis
statistic b2 for normal samples", Biometrika 70, 1983). Put together in R. D'Agostino and
E. S. Pearson, "Tests for departure from normality", Biometrika 60 (1973).
"""

from __future__ import annotations

import math

from faucet_client.preprocessing.moments import PowerSums

FEWEST_VALUES = 8
"""The approximation of Z₁ is for 8 values or more."""


def k_squared(sums: PowerSums) -> float:
    """K² of at least 8 values that are not all equal; 0 or more, in no unit."""
    z1 = _of_skewness(sums.skewness, sums.count)
    z2 = _of_kurtosis(sums.kurtosis, sums.count)
    return z1 * z1 + z2 * z2


def _of_skewness(skewness: float, n: int) -> float:
    y = skewness * math.sqrt((n + 1) * (n + 3) / (6 * (n - 2)))
    beta2 = 3 * (n * n + 27 * n - 70) * (n + 1) * (n + 3) / (n - 2)
    beta2 /= (n + 5) * (n + 7) * (n + 9)
    w_squared = math.sqrt(2 * (beta2 - 1)) - 1
    alpha = math.sqrt(2 / (w_squared - 1))
    return math.asinh(y / alpha) / math.sqrt(math.log(w_squared) / 2)


def _of_kurtosis(kurtosis: float, n: int) -> float:
    mean = 3 * (n - 1) / (n + 1)
    variance = 24 * n * (n - 2) * (n - 3) / ((n + 1) ** 2 * (n + 3) * (n + 5))
    x = (kurtosis - mean) / math.sqrt(variance)
    root_beta1 = 6 * (n * n - 5 * n + 2) / ((n + 7) * (n + 9))
    root_beta1 *= math.sqrt(6 * (n + 3) * (n + 5) / (n * (n - 2) * (n - 3)))
    a = 6 + 8 / root_beta1 * (2 / root_beta1 + math.sqrt(1 + 4 / root_beta1**2))
    divisor = 1 + x * math.sqrt(2 / (a - 4))
    if divisor == 0:
        return math.inf
    ratio = (1 - 2 / a) / divisor
    return (1 - 2 / (9 * a) - math.cbrt(ratio)) / math.sqrt(2 / (9 * a))
