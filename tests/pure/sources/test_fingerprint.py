"""Fingerprints of columns against pyfarmhash, which Google's test vectors agree with."""

from __future__ import annotations

import farmhash
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faucetd.fetch.fingerprint import fingerprints


def expected(values: list[bytes]) -> list[int]:
    return [farmhash.fingerprint64(value) for value in values]


@pytest.mark.parametrize("length", range(101))
def test_every_length_has_the_fingerprint_of_the_library(length: int) -> None:
    values = [bytes((seed * 31 + at * 17) % 256 for at in range(length)) for seed in range(64)]
    assert fingerprints(pa.array(values, pa.large_binary())).tolist() == expected(values)


@given(values=st.lists(st.binary(max_size=80), max_size=40), skip=st.integers(0, 5))
def test_any_values_of_any_slice_have_the_fingerprints_of_the_library(
    values: list[bytes], skip: int
) -> None:
    column = pa.array(values, pa.large_binary()).slice(skip)
    assert fingerprints(column).tolist() == expected(values[skip:])
