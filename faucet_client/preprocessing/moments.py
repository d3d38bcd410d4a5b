"""Sums of powers, exact: the same for any order and any partition of the values.

A float64 is a whole number M of at most 53 bits times a power of two, so that Σ x^k is a sum of
whole numbers M^k, each shifted. They are added up as Python's integers, in units of 2^(-1126 k),
and nothing is rounded before a moment is asked for. To be fast, M is cut into limbs of 18 bits:
products and sums of them over a block of rows stay below 2^53, where float64 is exact, and one
`reduceat` adds up a limb for each run of one exponent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

_Limbs = list[NDArray[np.float64]]

_BITS = 18
_LIMB = float(1 << _BITS)
_BLOCK_ROWS = 1 << 14
"""At most 6 products of 36 bits a limb, times 2^14 rows, is below 2^53."""
_MANTISSA = 53
_UNIT = 1_126
"""No float64 has a bit below 2^-1126 when its mantissa is written with 53 bits."""


@dataclass(frozen=True)
class PowerSums:
    """How many values, and the sums of their first four powers.

    Attributes:
        count: How many.
        sums: Σ x, Σ x², Σ x³ and Σ x⁴, in units of 2^(-1126 k).
    """

    count: int = 0
    sums: tuple[int, int, int, int] = (0, 0, 0, 0)

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> PowerSums:
        """The sums of finite values, float64 [n]."""
        totals = [0, 0, 0, 0]
        for start in range(0, len(values), _BLOCK_ROWS):
            _add_block(values[start : start + _BLOCK_ROWS], totals)
        return cls(len(values), (totals[0], totals[1], totals[2], totals[3]))

    @classmethod
    def of_sums(cls, count: int, sums: Sequence[Fraction]) -> PowerSums:
        """Those of sums that somebody else has made: Σ x, Σ x², Σ x³ and Σ x⁴."""
        a, b, c, d = (round(each * 2 ** (_UNIT * power)) for power, each in enumerate(sums, 1))
        return cls(count, (a, b, c, d))

    def __add__(self, other: PowerSums) -> PowerSums:
        a, b = self.sums, other.sums
        added = (a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3])
        return PowerSums(self.count + other.count, added)

    @property
    def mean(self) -> float:
        """The mean, rounded once; there must be a value."""
        return _quotient(self.sums[0], self.count << _UNIT)

    @property
    def stddev(self) -> float:
        """The standard deviation with n − 1, good to the last bits; there must be 2 values."""
        return _root(self._spread(), (self.count * (self.count - 1)) << 2 * _UNIT)

    @property
    def skewness(self) -> float:
        """m₃ / m₂^1.5 with central moments over n; the values must not all be equal."""
        n, (s1, s2, s3, _) = self.count, self.sums
        third = n * n * s3 - 3 * n * s1 * s2 + 2 * s1**3
        size = _root(third * third, self._spread() ** 3)
        return -size if third < 0 else size

    @property
    def kurtosis(self) -> float:
        """m₄ / m₂² with central moments over n; the values must not all be equal."""
        n, (s1, s2, s3, s4) = self.count, self.sums
        fourth = n**3 * s4 - 4 * n * n * s1 * s3 + 6 * n * s1 * s1 * s2 - 3 * s1**4
        return _quotient(fourth, self._spread() ** 2)

    def _spread(self) -> int:
        """n² times the second central moment."""
        return self.count * self.sums[1] - self.sums[0] ** 2


def _add_block(values: NDArray[np.float64], totals: list[int]) -> None:
    fractions, exponents = np.frexp(values)
    order = np.argsort(exponents.astype(np.int16), kind="stable")  # a radix sort
    fractions, exponents = fractions[order], exponents[order]
    starts = np.flatnonzero(np.diff(exponents, prepend=exponents[0] - 1))
    of_run = exponents[starts].tolist()
    negative = fractions < 0
    whole = np.ldexp(np.abs(fractions), _MANTISSA).astype(np.int64)
    used = int(np.bitwise_or.reduce(whole))
    if used == 0:
        return
    unused = (used & -used).bit_length() - 1  # low bits that are 0 in all values
    limbs = _limbs(whole >> unused, used.bit_length() - unused)
    squares = _carried(_product(limbs, limbs))
    powers = (limbs, squares, _product(squares, limbs), _product(squares, squares))
    for power, parts in enumerate(powers, 1):
        shift = power * (unused - _MANTISSA + _UNIT)
        for place, part in enumerate(parts):
            weights = np.where(negative, -part, part) if power % 2 else part
            sums = np.add.reduceat(weights, starts).tolist()
            for exponent, exact in zip(of_run, sums, strict=True):
                totals[power - 1] += int(exact) << (shift + power * exponent + _BITS * place)


def _limbs(whole: NDArray[np.int64], bits: int) -> _Limbs:
    mask = (1 << _BITS) - 1
    return [(whole >> place & mask).astype(np.float64) for place in range(0, bits, _BITS)]


def _product(a: _Limbs, b: _Limbs) -> _Limbs:
    places: _Limbs = [np.zeros_like(a[0]) for _ in range(len(a) + len(b) - 1)]
    for i, left in enumerate(a):
        for j, right in enumerate(b):
            places[i + j] += left * right
    return places


def _carried(places: _Limbs) -> _Limbs:
    """The same number, with each limb below 2^18."""
    carried: _Limbs = []
    carry = np.zeros_like(places[0])
    for place in places:
        total = place + carry
        carry = np.floor(total / _LIMB)
        carried.append(total - carry * _LIMB)
    carried.append(carry)
    return carried


def _quotient(numerator: int, denominator: int) -> float:
    try:
        return numerator / denominator  # Python rounds the quotient of integers once
    except OverflowError:
        return math.inf if numerator > 0 else -math.inf


def _root(numerator: int, denominator: int) -> float:
    """√(numerator / denominator), to a relative 2^-62."""
    if numerator <= 0:
        return 0.0
    shift = 126 - numerator.bit_length() + denominator.bit_length()
    shift += shift % 2
    scaled = numerator << shift if shift >= 0 else numerator >> -shift
    try:
        return math.ldexp(math.isqrt(scaled // denominator), -shift // 2)
    except OverflowError:
        return math.inf
