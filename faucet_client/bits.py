"""Sets of small numbers as bytes: bit n % 8, from the least, of byte n / 8 is number n."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np


def bits_of(numbers: Collection[int]) -> bytes:
    """The set as bytes, as few as hold the largest number."""
    flags = np.zeros(max(numbers, default=-1) + 1, np.bool_)
    flags[list(numbers)] = True
    return np.packbits(flags, bitorder="little").tobytes()


def numbers_of(bits: bytes) -> frozenset[int]:
    """The set that `bits_of` has written."""
    flags = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")
    return frozenset(np.flatnonzero(flags).tolist())
