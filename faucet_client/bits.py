"""Sets of small numbers as bytes: bit n % 8, from the least, of byte n / 8 is number n."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray


def bits_of(numbers: Collection[int]) -> bytes:
    """The set as bytes, as few as hold the largest number."""
    flags = np.zeros(max(numbers, default=-1) + 1, np.bool_)
    flags[list(numbers)] = True
    return np.packbits(flags, bitorder="little").tobytes()


def array_of(bits: bytes) -> NDArray[np.int64]:
    """The set that `bits_of` has written: int64 [numbers], ascending."""
    return np.flatnonzero(np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little"))


def numbers_of(bits: bytes) -> frozenset[int]:
    """The set that `bits_of` has written."""
    return frozenset(array_of(bits).tolist())
