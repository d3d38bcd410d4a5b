"""The hash split: BigQuery's buckets, and rows that are in exactly one of train, eval, outside."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import farmhash
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faucet_client.spec import DatasetSpec, ParquetSource, SplitBuckets
from faucetd.errors import ColumnError, SourceReadError
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


# From the tests of GoogleSQL's numeric values: packed number, text.
NUMERICS = [
    (-99999999999999999999999999999999999999, "-99999999999999999999999999999.999999999"),
    (-123_000_000_000, "-123"),
    (-12_345_678_901, "-12.345678901"),
    (-10_000_000_000, "-10"),
    (-1_234_567_890, "-1.23456789"),
    (-123_000_000, "-0.123"),
    (-10, "-0.00000001"),
    (-1, "-0.000000001"),
    (0, "0"),
    (1, "0.000000001"),
    (500_000_000, "0.5"),
    (10_000_000_000, "10"),
    (9_997_000_000_000, "9997"),
    (18446744073709551615_000_000_000, "18446744073709551615"),
]


@pytest.mark.parametrize("kind", [pa.decimal128(38, 9), pa.decimal256(76, 38)], ids=str)
def test_decimals_hash_as_their_shortest_text(kind: pa.DataType) -> None:
    values = [Decimal((packed < 0, digits(packed), -9)) for packed, _ in NUMERICS]
    array = pa.array([*values, None], kind)
    expected = [bucket_by_hand(text, 1_000) for _, text in NUMERICS]
    assert buckets_of(array, 1_000).tolist() == [*expected, bucket_by_hand("", 1_000)]


def digits(packed: int) -> tuple[int, ...]:
    return tuple(int(digit) for digit in str(abs(packed)))


@given(st.lists(st.one_of(st.none(), st.integers(-(10**38) + 1, 10**38 - 1)), max_size=20))
def test_whole_decimals_hash_like_integers(values: list[int | None]) -> None:
    decimals = [None if value is None else Decimal(value) for value in values]
    expected = ["" if value is None else str(value) for value in values]
    got = buckets_of(pa.array(decimals, pa.decimal128(38, 0)), 1_000).tolist()
    assert got == [bucket_by_hand(text, 1_000) for text in expected]


def test_booleans_hash_as_words() -> None:
    expected = [bucket_by_hand(text, 1_000) for text in ("true", "false", "")]
    assert buckets_of(pa.array([True, False, None]), 1_000).tolist() == expected


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary(3)], ids=str)
def test_bytes_hash_as_they_are(kind: pa.DataType) -> None:
    # The third is farmhash's own number for b"\xff\xfe\xfd": no text has these bytes.
    signed = int(np.uint64(farmhash.fingerprint64(b"\xff\xfe\xfd")).astype(np.int64))
    expected = [bucket_by_hand("abc", 1_000), bucket_by_hand("", 1_000), abs(signed) % 1_000]
    assert buckets_of(pa.array([b"abc", None, b"\xff\xfe\xfd"], kind), 1_000).tolist() == expected


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


def test_buckets_that_somebody_else_computed_are_taken_as_they_are() -> None:
    splitter = Splitter(
        Column("_faucet_bucket", pa.int64()), SplitBuckets(10, 5, 8), holds_buckets=True
    )
    codes = splitter.assign(pa.array([0, 4, 5, 7, 8, 9], pa.int64())).tolist()
    assert codes == [TRAIN, TRAIN, EVAL, EVAL, OUTSIDE, OUTSIDE]


@pytest.mark.parametrize("wrong", [None, -1, 10])
def test_a_bucket_that_is_none_is_no_row_of_any_split(wrong: int | None) -> None:
    splitter = Splitter(
        Column("_faucet_bucket", pa.int64()), SplitBuckets(10, 5, 8), holds_buckets=True
    )
    with pytest.raises(SourceReadError, match=f"'_faucet_bucket' .* 0 to 9, but it holds {wrong}"):
        splitter.assign(pa.array([3, wrong, 7], pa.int64()))


def test_buckets_of_another_type_are_refused() -> None:
    with pytest.raises(ColumnError, match="int64"):
        Splitter(Column("b", pa.string()), SplitBuckets(10, 5, 8), holds_buckets=True)


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
        (pa.float32(), "CAST(moment AS STRING)"),
        (pa.timestamp("us"), "the date alone"),
        (pa.timestamp("us", "UTC"), "CAST(moment AS STRING)"),
        (pa.time64("us"), "CAST(moment AS STRING)"),
        (pa.month_day_nano_interval(), "name another column"),
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


@pytest.mark.parametrize(
    "array",
    [
        pa.array([7, None]),
        pa.array(["7", None]),
        pa.array([b"7", None]),
        pa.array([Decimal("7.0"), None], pa.decimal128(38, 9)),
    ],
    ids=lambda array: str(array.type),
)
def test_the_same_value_is_in_the_same_split_whatever_its_type(array: pa.Array[Any]) -> None:
    splitter = Splitter(Column("h", array.type), SplitBuckets(1_000, 400, 700))
    expected = Splitter(Column("h", pa.string()), SplitBuckets(1_000, 400, 700))
    assert splitter.assign(array).tolist() == expected.assign(pa.array(["7", None])).tolist()


def test_a_boolean_may_decide_the_split() -> None:
    splitter = Splitter(Column("h", pa.bool_()), SplitBuckets(1_000, 1_000, 1_000))
    assert splitter.assign(pa.array([True, False])).tolist() == [TRAIN, TRAIN]


def test_without_a_split_every_row_is_train() -> None:
    codes = no_split(3)
    assert codes.dtype == np.int8
    assert codes.tolist() == [TRAIN] * 3


class Numbers:
    """A source of one stream: n, twice n. Notes which columns each read asked for."""

    snapshot = "numbers"

    def __init__(self, *, interleaves: bool = False) -> None:
        self.interleaves = interleaves
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
    assert [(each.piece, each.codes.size, each.position) for each in batches] == [
        (0, 30, 70),
        (0, 30, 100),
        (1, 10, 10),
    ]
    assert all(each.batch.schema.names == columns for each in batches)
    numbers = [*range(40, 100), *range(10)]
    expected = splitter.assign(pa.array(numbers)).tolist()
    assert [code for each in batches for code in each.codes.tolist()] == expected
    assert len(set(expected)) == 3


def test_a_chunk_without_a_split_is_read_as_it_is() -> None:
    source = Numbers()
    ((_, batch, codes, _),) = read_split(source, [Piece("0", 0, 20)], ["twice"], None)
    assert source.asked == [["twice"]]
    assert batch.num_rows == 20
    assert codes.tolist() == [TRAIN] * 20


def test_a_source_that_interleaves_is_asked_for_a_batch_of_each_piece_in_turn() -> None:
    pieces = [Piece("0", 0, 70), Piece("0", 70, 80), Piece("0", 40, 90)]
    batches = read_split(Numbers(interleaves=True), pieces, ["n"], None)
    turns = [(each.piece, each.batch.column(0)[0].as_py(), each.position) for each in batches]
    assert turns == [(0, 0, 30), (1, 70, 80), (2, 40, 70), (0, 30, 60), (2, 70, 90), (0, 60, 70)]
