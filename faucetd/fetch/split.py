"""Which rows are train, which eval, and which are left out: a hash of one column decides.

The bucket of a row is BigQuery's
`ABS(MOD(FARM_FINGERPRINT(COALESCE(CAST(h AS STRING), '')), n))`, so a table that is exported to
files splits as it does in the warehouse. FARM_FINGERPRINT is FarmHash's Fingerprint64, read as a
signed number; SQL's MOD truncates towards zero, so ABS cannot overflow. BYTES are hashed as they
are, without the CAST, which would fail on what is no UTF-8 and change nothing else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from faucet_client.spec import SplitBuckets
from faucetd.errors import ColumnError, SourceReadError
from faucetd.fetch.fingerprint import fingerprints
from faucetd.fetch.pieces import Piece
from faucetd.fetch.source import Column, Fetched, Source

TRAIN = 0
EVAL = 1
OUTSIDE = -1
"""The codes of a row: in the train split, in the eval split, or outside the sample."""

Codes = npt.NDArray[np.int8]


class Splitter:
    """Assigns rows to splits by the hash of one column.

    Args:
        column: The hash column, of a type that `is_hashable`; or one of int64 buckets.
        buckets: Which buckets are whose.
        holds_buckets: Whether the column's values are the buckets themselves, which somebody else
            has computed, in [0, buckets.buckets).

    Raises:
        ColumnError: the column is of another type.
    """

    def __init__(
        self, column: Column, buckets: SplitBuckets, *, holds_buckets: bool = False
    ) -> None:
        if holds_buckets:
            if not pa.types.is_int64(column.type):
                raise ColumnError(f"buckets are int64; {column.name!r} is of type {column.type}")
        elif not is_hashable(column.type):
            raise ColumnError(
                f"hash_column {column.name!r} is of type {column.type}; only integers, decimals, "
                "booleans, text, bytes and dates have one text that all warehouses agree on: "
                f"{_remedy(column)}"
            )
        self.hash_column = column.name
        self._buckets = buckets
        self._holds_buckets = holds_buckets

    def assign(self, column: pa.Array[Any]) -> Codes:
        """The code of each row, int8 [rows]: TRAIN, EVAL or OUTSIDE.

        Args:
            column: The rows' values in the hash column.

        Raises:
            SourceReadError: a column of buckets has a null, or a value that is none.
        """
        if self._holds_buckets:
            bucket = self._checked(column)
        else:
            bucket = buckets_of(column, self._buckets.buckets)
        return split_of(bucket, self._buckets)

    def _checked(self, column: pa.Array[Any]) -> npt.NDArray[np.int64]:
        values = column.fill_null(-1).to_numpy(zero_copy_only=False)
        wrong = (values < 0) | (values >= self._buckets.buckets)
        if wrong.any():
            found = column[int(np.argmax(wrong))].as_py()
            raise SourceReadError(
                f"{self.hash_column!r} should hold buckets from 0 to "
                f"{self._buckets.buckets - 1:,}, but it holds {found}"
            )
        return values


def split_of(bucket: npt.NDArray[np.int64], buckets: SplitBuckets) -> Codes:
    """The code of each row, int8 [rows], by its bucket, [rows]."""
    codes = np.full(len(bucket), OUTSIDE, dtype=np.int8)
    codes[bucket < buckets.eval_end] = EVAL
    codes[bucket < buckets.train_end] = TRAIN
    return codes


def no_split(rows: int) -> Codes:
    """The codes of `rows` rows of a dataset without a hash column: all train."""
    return np.full(rows, TRAIN, dtype=np.int8)


def buckets_of(column: pa.Array[Any], buckets: int) -> npt.NDArray[np.int64]:
    """The bucket of each value, int64 [rows], each in [0, buckets)."""
    # As bytes: text of unknown origin need not be valid UTF-8, and bytes hash as they are.
    filled = _text(column).cast(pa.large_binary()).fill_null(b"")
    unsigned = fingerprints(filled)
    # fmod truncates, as SQL's MOD does; numpy's % would floor.
    remainder: npt.NDArray[np.int64] = np.fmod(unsigned.view(np.int64), buckets)
    return np.abs(remainder)


class SplitBatch(NamedTuple):
    """Rows of a piece.

    Attributes:
        piece: The number of the piece, from 0.
        batch: The rows.
        codes: int8 [rows]: the code of each row.
        position: The position in the piece's stream right after the last row.
    """

    piece: int
    batch: pa.RecordBatch
    codes: Codes
    position: int


def read_split(
    source: Source, pieces: Sequence[Piece], columns: Sequence[str], splitter: Splitter | None
) -> Iterator[SplitBatch]:
    """The rows of one chunk: batches of `columns`, with the code of each of their rows.

    The hash column is read once, be it among `columns` or not. Pieces come one after another, or in
    turns, a batch of each, where that suits the source; the rows of a piece are always in order.

    Args:
        source: Where the pieces are read.
        pieces: The chunk's pieces, in order.
        columns: Names of leaves.
        splitter: How to split; None makes every row train.

    Raises:
        ColumnError: there is no column of such a name.
        SourceChanged: the source is not the snapshot any more.
        SourceReadError: reading failed.
    """
    hashed = None if splitter is None else splitter.hash_column
    read = list(columns) if hashed is None or hashed in columns else [*columns, hashed]
    for number, fetched in _read_pieces(source, pieces, read):
        batch = fetched.batch
        if splitter is None:
            codes = no_split(batch.num_rows)
        else:
            codes = splitter.assign(batch.column(read.index(splitter.hash_column)))
        if len(read) > len(columns):
            batch = batch.remove_column(len(read) - 1)
        yield SplitBatch(number, batch, codes, fetched.position)


def _read_pieces(
    source: Source, pieces: Sequence[Piece], columns: Sequence[str]
) -> Iterator[tuple[int, Fetched]]:
    if not source.interleaves:
        for number, piece in enumerate(pieces):
            for fetched in source.read(piece, columns):
                yield number, fetched
        return
    turns = deque((number, source.read(piece, columns)) for number, piece in enumerate(pieces))
    while turns:
        number, reading = turns.popleft()
        batch = next(reading, None)
        if batch is not None:
            turns.append((number, reading))
            yield number, batch


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)


def _text(column: pa.Array[Any]) -> pa.Array[Any]:
    """What BigQuery's CAST makes of the values; text and bytes as they are."""
    if _is_text(column.type) or _is_bytes(column.type):
        return column
    text = column.cast(pa.string())
    return _without_zeros(text) if pa.types.is_decimal(column.type) else text


def _without_zeros(text: pa.Array[Any]) -> pa.Array[Any]:
    """Arrow's texts of decimals as BigQuery writes them: no zeros at the end, and no exponent.

    So say the tests of GoogleSQL (zetasql, `numeric_value_test.cc`): "-0.00000001", "0", "-1".
    """
    trimmed = pc.utf8_rtrim(pc.utf8_rtrim(text, "0"), ".")
    has_fraction: Any = pc.match_substring(text, ".")
    shortest: Any = pc.if_else(has_fraction, trimmed, text)
    with_exponent: Any = pc.match_substring(text, "E")
    has_exponent = pc.fill_null(with_exponent, False)
    if has_exponent.true_count:
        rewritten = [_positional(str(value)) for value in text.filter(has_exponent).to_pylist()]
        shortest = pc.replace_with_mask(shortest, has_exponent, pa.array(rewritten, pa.string()))
    return cast("pa.Array[Any]", shortest)


def _positional(scientific: str) -> str:
    whole, _, fraction = format(Decimal(scientific), "f").partition(".")
    fraction = fraction.rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole


def is_hashable(kind: pa.DataType) -> bool:
    """Whether `buckets_of` knows the text that BigQuery hashes for values of this type."""
    types = pa.types
    return bool(
        _is_text(kind)
        or _is_bytes(kind)
        or types.is_integer(kind)
        or types.is_decimal(kind)
        or types.is_boolean(kind)
        or types.is_date(kind)
    )


def _remedy(column: Column) -> str:
    as_text = f"CAST({column.name} AS STRING) in the source's query"
    kind = column.type
    if pa.types.is_timestamp(kind):
        return f"name a column that holds the date alone, or the time as text ({as_text})"
    if pa.types.is_floating(kind):
        return (
            f"name a column that holds whole numbers as integers, or the value as text ({as_text})"
        )
    if pa.types.is_time(kind):
        return f"name another column, or one that holds the time as text ({as_text})"
    return "name another column, or one that holds the value as text"
