"""Which rows are train, which eval, and which are left out: a hash of one column decides.

The bucket of a row is BigQuery's
`ABS(MOD(FARM_FINGERPRINT(COALESCE(CAST(h AS STRING), '')), n))`, so a table that is exported to
files splits as it does in the warehouse. FARM_FINGERPRINT is FarmHash's Fingerprint64, read as a
signed number; SQL's MOD truncates towards zero, so ABS cannot overflow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import farmhash
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from faucet_client.spec import SplitBuckets
from faucetd.errors import ColumnError
from faucetd.fetch.pieces import Piece
from faucetd.fetch.source import Column, Source

TRAIN = 0
EVAL = 1
OUTSIDE = -1
"""The codes of a row: in the train split, in the eval split, or outside the sample."""

Codes = npt.NDArray[np.int8]


class Splitter:
    """Assigns rows to splits by the hash of one column.

    Args:
        column: The hash column, of integers, text or dates.
        buckets: Which buckets are whose.

    Raises:
        ColumnError: the column is of another type.
    """

    def __init__(self, column: Column, buckets: SplitBuckets) -> None:
        if not _hashable(column.type):
            raise ColumnError(
                f"hash_column {column.name!r} is of type {column.type}; only integers, text and "
                f"dates have one text that all warehouses agree on: {_remedy(column.type)}"
            )
        self.hash_column = column.name
        self._buckets = buckets

    def assign(self, column: pa.Array[Any]) -> Codes:
        """The code of each row, int8 [rows]: TRAIN, EVAL or OUTSIDE.

        Args:
            column: The rows' values in the hash column.
        """
        bucket = buckets_of(column, self._buckets.buckets)
        codes = np.full(len(column), OUTSIDE, dtype=np.int8)
        codes[bucket < self._buckets.eval_end] = EVAL
        codes[bucket < self._buckets.train_end] = TRAIN
        return codes


def no_split(rows: int) -> Codes:
    """The codes of `rows` rows of a dataset without a hash column: all train."""
    return np.full(rows, TRAIN, dtype=np.int8)


def buckets_of(column: pa.Array[Any], buckets: int) -> npt.NDArray[np.int64]:
    """The bucket of each value, int64 [rows], each in [0, buckets)."""
    text = column if _is_text(column.type) else column.cast(pa.string())
    # As bytes: text of unknown origin need not be valid UTF-8, and bytes hash as they are.
    filled = text.cast(pa.large_binary()).fill_null(b"")
    values = filled.to_numpy(zero_copy_only=False)
    unsigned = np.fromiter(map(farmhash.fingerprint64, values), np.uint64, len(values))
    # fmod truncates, as SQL's MOD does; numpy's % would floor.
    remainder: npt.NDArray[np.int64] = np.fmod(unsigned.view(np.int64), buckets)
    return np.abs(remainder)


def read_split(
    source: Source, pieces: Sequence[Piece], columns: Sequence[str], splitter: Splitter | None
) -> Iterator[tuple[pa.RecordBatch, Codes]]:
    """The rows of one chunk: batches of `columns`, with the code of each of their rows.

    The hash column is read once, be it among `columns` or not.

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
    for piece in pieces:
        for fetched in source.read(piece, read):
            batch = fetched.batch
            if splitter is None:
                codes = no_split(batch.num_rows)
            else:
                codes = splitter.assign(batch.column(read.index(splitter.hash_column)))
            if len(read) > len(columns):
                batch = batch.remove_column(len(read) - 1)
            yield batch, codes


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _hashable(kind: pa.DataType) -> bool:
    return _is_text(kind) or pa.types.is_integer(kind) or pa.types.is_date(kind)


def _remedy(kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind):
        return "name a column that holds the date alone, or the time as text"
    if pa.types.is_decimal(kind) or pa.types.is_floating(kind):
        return "name a column that holds whole numbers as integers, or write the value as text"
    return "name another column, or one that holds the value as text"
