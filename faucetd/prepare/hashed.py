"""Whole numbers as ids by hash: a column at a time, straight into the memory where ids are staged.

The same ids as `Encoder` gives, and nothing to count: no value is unseen, and the caller counts
nulls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from faucet_client.preprocessing.hashing import put_buckets
from faucet_client.preprocessing.policy import NO_POLICY
from faucet_client.preprocessing.spec import Feature
from faucet_client.preprocessing.transforms import MISSING_ID, Hashed
from faucetd.prepare.values import null_mask, numbers

_TILE_ROWS = 32_768
"""Of 8 bytes, once in the ids and once in the scratch, so that both stay in a cache of 1 MiB."""


class HashedColumn(NamedTuple):
    """A column of the source, by its path, and the feature that its ids are of."""

    source: str
    name: str
    buckets: int


def is_hashed_number(feature: Feature, kind: pa.DataType) -> bool:
    """Whether `HashedNumbers` makes the ids of a feature whose column is of this type."""
    whole = pa.types.is_integer(kind) and not pa.types.is_uint64(kind)
    return bool(
        whole
        and isinstance(feature.transform, Hashed)
        and not feature.of_lists
        and feature.policy == NO_POLICY
    )


class HashedNumbers:
    """Makes ids of columns of whole numbers. Not safe for threads: the scratch is reused."""

    def __init__(self, columns: Sequence[HashedColumn]) -> None:
        self._columns = tuple(columns)
        self._scratch = np.empty(_TILE_ROWS if columns else 0, np.uint64)

    def apply(self, batch: pa.RecordBatch, ids: Mapping[str, NDArray[np.int64]]) -> None:
        """Writes the ids of all rows.

        Args:
            batch: At least the columns, by their dotted paths.
            ids: int64 [rows] for each feature, contiguous.
        """
        for column in self._columns:
            array = batch.column(column.source)
            self._hash(numbers(array), null_mask(array), column.buckets, ids[column.name])

    def _hash(
        self,
        values: NDArray[Any],
        nulls: NDArray[np.bool_] | None,
        buckets: int,
        out: NDArray[np.int64],
    ) -> None:
        for start in range(0, len(values), _TILE_ROWS):
            tile = out[start : start + _TILE_ROWS]
            part = values[start : start + _TILE_ROWS]
            put_buckets(part, buckets, tile, self._scratch[: len(tile)])
            if nulls is not None:
                np.putmask(tile, nulls[start : start + _TILE_ROWS], MISSING_ID)
