"""Hashes of values that are the same everywhere: on any machine, in any release, in any process.

A spec with HASHED features is served by them, and samples are chosen by them. They are part of what
a spec means: whoever changes one changes ids that models were trained with.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray


def hash_of_text(text: str) -> int:
    """BLAKE2b (RFC 7693) with a digest of 8 bytes, of the UTF-8, read as a little-endian uint64."""
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def hashes_of_texts(texts: Iterable[str]) -> NDArray[np.uint64]:
    """`hash_of_text` of each: uint64 [n]."""
    return np.array([hash_of_text(text) for text in texts], np.uint64)


def hashes_of_integers(values: NDArray[np.int64]) -> NDArray[np.uint64]:
    """`mixed` of each number's 64 bits, in two's complement: uint64 [n]."""
    return mixed(values.view(np.uint64))


def mixed(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of uint64 that scatters near keys: the finalizer of SplitMix64.

    G. L. Steele, D. Lea and C. H. Flood, "Fast splittable pseudorandom number generators", OOPSLA
    2014, figure 18; the increment before it is the one for a stream's first number.
    """
    with np.errstate(over="ignore"):
        z = keys + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
