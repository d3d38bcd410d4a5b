"""Fingerprints of columns against pyfarmhash, which Google's test vectors agree with."""

from __future__ import annotations

from typing import Any

import farmhash
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faucetd.fetch.fingerprint import fingerprints, row_fingerprints


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


LISTS = [["a", "b"], ["b", "a"], ["a"], ["ab"], ["a", None], [None], [], None, ["a", "b", ""]]
NUMBERS = [[1, 2], [2, 1], [1], [3], [1, None], [None], [0], [], None, [-1], [1, 2, 0]]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (LISTS, pa.list_(pa.string())),
        (NUMBERS, pa.list_(pa.int64())),
        (NUMBERS, pa.list_(pa.float64())),
        (NUMBERS, pa.large_list(pa.float32())),
        (NUMBERS, pa.list_(pa.decimal128(9, 2))),
    ],
)
def test_different_lists_have_different_fingerprints_whatever_rows_are_beside_them(
    values: list[Any], kind: pa.DataType
) -> None:
    found = list_fingerprints(pa.array(values, kind))
    assert len(set(found)) == len(values)
    assert list_fingerprints(pa.array([values[0], *values], kind).slice(1)) == found
    assert list_fingerprints(pa.array(values[::-1], kind)) == found[::-1]


def list_fingerprints(column: pa.Array[Any]) -> list[int]:
    found: list[int] = row_fingerprints(pa.RecordBatch.from_arrays([column], ["x"])).tolist()
    return found
