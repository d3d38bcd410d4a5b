"""The hash split: BigQuery's buckets, and rows that are in exactly one of train, eval, outside."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import farmhash
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faucet_client.spec import DatasetSpec, ParquetSource, SplitBuckets
from faucetd.errors import ColumnError
from faucetd.fetch.pieces import Piece, Stream
from faucetd.fetch.source import Column, Fetched
from faucetd.fetch.split import EVAL, OUTSIDE, TRAIN, Splitter, buckets_of, no_split, read_split

# FARM_FINGERPRINT in Google's documentation of BigQuery's hash functions (the rows of its example,
# each CONCAT(CAST(x AS STRING), y, CAST(z AS STRING))), and farmFingerprint64 in Amazon's of
# Redshift's.
DOCUMENTED = {
    "1footrue": -1541654101129638711,
    "2applefalse": 2794438866806483259,
    "3true": -4880158226897771312,
    "Amazon Redshift": 8085098817162212970,
}


def bucket_by_hand(text: str, buckets: int) -> int:
    """ABS(MOD(fingerprint, buckets)), in exact arithmetic."""
    unsigned = int(farmhash.fingerprint64(text.encode()))
    signed = unsigned - (1 << 64) if unsigned >= 1 << 63 else unsigned
    quotient = int(Fraction(signed, buckets))  # towards zero
    return abs(signed - quotient * buckets)


@pytest.mark.parametrize(("text", "fingerprint"), DOCUMENTED.items())
@pytest.mark.parametrize("buckets", [1_000, 1_000_000])
def test_buckets_are_those_of_the_documented_fingerprints(
    text: str, fingerprint: int, buckets: int
) -> None:
    # The last digits of a decimal number are its remainder, truncated, without its sign.
    digits = len(str(buckets)) - 1
    assert buckets_of(pa.array([text]), buckets).tolist() == [int(str(fingerprint)[-digits:])]


@given(st.lists(st.one_of(st.none(), st.text(max_size=100)), max_size=50))
def test_text_hashes_as_its_utf8_bytes_and_null_as_the_empty_text(
    values: list[str | None],
) -> None:
    for kind in (pa.string(), pa.large_string()):
        got = buckets_of(pa.array(values, kind), 1_000).tolist()
        assert got == [bucket_by_hand(value or "", 1_000) for value in values]


@given(st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), max_size=50))
def test_integers_hash_as_their_decimal_text(values: list[int | None]) -> None:
    got = buckets_of(pa.array(values, pa.int64()), 1_000_000).tolist()
    texts = ["" if value is None else str(value) for value in values]
    assert got == [bucket_by_hand(text, 1_000_000) for text in texts]


@pytest.mark.parametrize(
    "kind", [pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint32(), pa.uint64()], ids=str
)
def test_the_width_of_an_integer_does_not_matter(kind: pa.DataType) -> None:
    array = pa.array([0, 7, 120, None]).cast(kind)
    expected = [bucket_by_hand(text, 1_000) for text in ("0", "7", "120", "")]
    assert buckets_of(array, 1_000).tolist() == expected


@given(st.lists(st.one_of(st.none(), st.dates()), max_size=50))
def test_dates_hash_as_iso_text(values: list[datetime.date | None]) -> None:
    texts = ["" if value is None else value.isoformat() for value in values]
    for kind in (pa.date32(), pa.date64()):
        got = buckets_of(pa.array(values, kind), 1_000).tolist()
        assert got == [bucket_by_hand(text, 1_000) for text in texts]


def test_text_that_is_not_utf8_hashes_as_its_bytes() -> None:
    array = pa.array([b"\xff\xfe"], pa.binary()).view(pa.string())
    expected = farmhash.fingerprint64(b"\xff\xfe")
    signed = expected - (1 << 64) if expected >= 1 << 63 else expected
    assert buckets_of(array, 10).tolist() == [int(str(signed)[-1])]


def test_a_slice_hashes_like_the_whole() -> None:
    array = pa.array([None, "a", "b", None, "c", ""])
    whole = buckets_of(array, 1_000).tolist()
    assert buckets_of(array.slice(2, 3), 1_000).tolist() == whole[2:5]


@given(
    sample=st.integers(1, 1_000), train=st.integers(0, 1_000), values=st.lists(st.text(max_size=9))
)
def test_codes_are_the_half_open_ranges_of_buckets(
    sample: int, train: int, values: list[str]
) -> None:
    buckets = SplitBuckets(1_000, min(train, sample), sample)
    codes = Splitter(Column("h", pa.string()), buckets).assign(pa.array(values, pa.string()))
    assert codes.dtype == np.int8
    for value, code in zip(values, codes.tolist(), strict=True):
        bucket = bucket_by_hand(value, 1_000)
        expected = TRAIN if bucket < buckets.train_end else EVAL if bucket < sample else OUTSIDE
        assert code == expected


def test_the_bounds_of_the_ranges_belong_to_the_upper_side() -> None:
    value = next(str(n) for n in range(10_000) if bucket_by_hand(str(n), 1_000) == 500)
    column, array = Column("h", pa.string()), pa.array([value])
    codes = [
        Splitter(column, SplitBuckets(1_000, train, stop)).assign(array).tolist()
        for train, stop in ((501, 501), (500, 501), (499, 500), (500, 500))
    ]
    assert codes == [[TRAIN], [EVAL], [OUTSIDE], [OUTSIDE]]


def test_shares_are_near_what_was_asked_for() -> None:
    spec = DatasetSpec(
        ParquetSource("/t"), "f", hash_column="h", sample_percent=50, eval_percent=20
    )
    splitter = Splitter(Column("h", pa.int64()), spec.split_buckets())
    codes = splitter.assign(pa.array(range(100_000)))
    shares = [np.mean(codes == code) for code in (TRAIN, EVAL, OUTSIDE)]
    assert shares == pytest.approx([0.4, 0.1, 0.5], abs=0.01)


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        (pa.float64(), "whole numbers as integers"),
        (pa.decimal128(38, 0), "whole numbers as integers"),
        (pa.timestamp("us"), "the date alone"),
        (pa.bool_(), "name another column"),
        (pa.binary(), "name another column"),
        (pa.list_(pa.int64()), "name another column"),
        (pa.null(), "name another column"),
    ],
)
def test_a_hash_column_of_another_type_is_refused_by_name_and_type(
    kind: pa.DataType, remedy: str
) -> None:
    with pytest.raises(ColumnError) as error:
        Splitter(Column("moment", kind), SplitBuckets(1_000, 800, 1_000))
    assert "hash_column 'moment' is of type" in error.value.message
    assert str(kind) in error.value.message
    assert remedy in error.value.message


def test_without_a_split_every_row_is_train() -> None:
    codes = no_split(3)
    assert codes.dtype == np.int8
    assert codes.tolist() == [TRAIN] * 3


class Numbers:
    """A source of one stream: n, twice n. Notes which columns each read asked for."""

    snapshot = "numbers"

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def columns(self) -> Sequence[Column]:
        return [Column("n", pa.int64()), Column("twice", pa.int64())]

    def streams(self) -> Sequence[Stream]:
        return [Stream("0", 0, 100, 100)]

    def count(self, piece: Piece) -> int:
        return piece.stop - piece.start

    def read(
        self, piece: Piece, columns: Sequence[str], position: int | None = None
    ) -> Iterator[Fetched]:
        self.asked.append(list(columns))
        for start in range(piece.start, piece.stop, 30):
            stop = min(start + 30, piece.stop)
            values: dict[str, Any] = {
                "n": range(start, stop),
                "twice": range(0, 2 * (stop - start), 2),
            }
            arrays = [pa.array(values[name], pa.int64()) for name in columns]
            yield Fetched(pa.RecordBatch.from_arrays(arrays, names=list(columns)), stop)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("columns", "read"),
    [(["twice"], ["twice", "n"]), (["n", "twice"], ["n", "twice"]), ([], ["n"])],
)
def test_a_chunk_is_read_with_its_hash_column_once(columns: list[str], read: list[str]) -> None:
    source = Numbers()
    splitter = Splitter(Column("n", pa.int64()), SplitBuckets(1_000, 600, 900))
    pieces = [Piece("0", 40, 100), Piece("0", 0, 10)]
    batches = list(read_split(source, pieces, columns, splitter))
    assert source.asked == [read, read]
    assert [codes.size for _, codes in batches] == [30, 30, 10]
    assert all(batch.schema.names == columns for batch, _ in batches)
    numbers = [*range(40, 100), *range(10)]
    expected = splitter.assign(pa.array(numbers)).tolist()
    assert [code for _, codes in batches for code in codes.tolist()] == expected
    assert len(set(expected)) == 3


def test_a_chunk_without_a_split_is_read_as_it_is() -> None:
    source = Numbers()
    ((batch, codes),) = read_split(source, [Piece("0", 0, 20)], ["twice"], None)
    assert source.asked == [["twice"]]
    assert batch.num_rows == 20
    assert codes.tolist() == [TRAIN] * 20
