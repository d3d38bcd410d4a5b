"""Hashes of values that are the same everywhere: on any machine, in any release, in any process.

A spec with HASHED features is served by them, and samples are chosen by them. They are part of what
a spec means: whoever changes one changes ids that models were trained with.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

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
    z = keys + _INCREMENT
    _finish(z, np.empty_like(z))
    return z


def put_buckets(
    values: NDArray[Any], buckets: int, out: NDArray[np.int64], scratch: NDArray[np.uint64]
) -> None:
    """`out = 1 + hashes_of_integers(values) % buckets`, without memory of its own.

    Args:
        values: [n], of any integer dtype but uint64.
        buckets: From 1 to 2^31 - 1.
        out: int64 [n], contiguous; may be `values`.
        scratch: uint64 [n]; what it has before and after does not matter.
    """
    np.add(values, _INCREMENT.view(np.int64), out=out)
    z = out.view(np.uint64)
    _finish(z, scratch)
    # numpy's `%` divides number by number; its `//` by one number is vectorized: 4 times faster.
    np.floor_divide(z, np.uint64(buckets), out=scratch)
    scratch *= np.uint64(buckets)
    z -= scratch
    z += np.uint64(1)


_INCREMENT = np.uint64(0x9E3779B97F4A7C15)


def _finish(z: NDArray[np.uint64], scratch: NDArray[np.uint64]) -> None:
    """The finalizer after its increment, in place; `scratch` is as large as `z`."""
    np.right_shift(z, np.uint64(30), out=scratch)
    z ^= scratch
    z *= np.uint64(0xBF58476D1CE4E5B9)
    np.right_shift(z, np.uint64(27), out=scratch)
    z ^= scratch
    z *= np.uint64(0x94D049BB133111EB)
    np.right_shift(z, np.uint64(31), out=scratch)
    z ^= scratch
