"""Fits a preprocessing spec to rows as they are read.

Invariants:

- Only rows of the train split are looked at: what is known of an eval row must not be learnt from.
- Which rows are looked at, and the spec, follow from the rows and their keys alone, whatever the
  batches, streams or workers they came in: rows are chosen by their key, and the statistics merge
  exactly (`faucet_client.preprocessing.statistics`).
- Memory is bounded by the sample, not by the table: rows are gathered into blocks, and of each
  only its statistics are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from faucet_client.preprocessing import FitOptions, Lists, Texts, merged, spec_of, statistics_of
from faucet_client.preprocessing.spec import PreprocessingSpec
from faucet_client.preprocessing.transforms import LONGEST_VALUE
from faucet_client.spec import SPLITS, Split
from faucetd.prepare.columns import SourceColumn
from faucetd.prepare.raw import joined, raw_column
from faucetd.prepare.values import is_text, own_text

TRAIN_CODE = 0
"""The split code of train rows, as in `SPLITS`."""

_BLOCK_ROWS = 1 << 17
_BLOCK_NBYTES = 64 << 20

RowKeys = NDArray[np.uint64]


def share_of(wanted_rows: int, rows: int) -> float:
    """The share of rows to choose, so that about `wanted_rows` of `rows` are."""
    return min(wanted_rows / rows, 1.0) if rows else 1.0


class Fitter:
    """Takes batches, in any order, and gives a spec.

    Args:
        features: The columns to fit.
        options: How.
        share: Which share of the train rows to fit to, by their keys.
        look_share: Which share of all rows to keep for a profile.
    """

    def __init__(
        self,
        features: Sequence[SourceColumn],
        options: FitOptions,
        share: float,
        look_share: float = 0.0,
    ) -> None:
        self._features = tuple(features)
        self._options = options
        self._bound = None if share >= 1 else np.uint64(share * 2.0**64)
        self.looked_at = RowsToLookAt(self._features, look_share)
        self._block: list[tuple[pa.RecordBatch, RowKeys]] = []
        self._block_rows = self._block_nbytes = 0
        self._statistics: Mapping[str, Any] | None = None
        self.rows = 0

    def add(self, batch: pa.RecordBatch, codes: NDArray[np.int8], keys: RowKeys) -> None:
        """Looks at the train rows of a batch.

        Args:
            batch: At least the features' source columns.
            codes: int8 [rows], each row's split.
            keys: uint64 [rows], uniform hashes: the same for a row whenever it is read, and
                different for different rows.
        """
        self.looked_at.add(batch, codes, keys)
        wanted = codes == TRAIN_CODE
        if self._bound is not None:
            wanted &= keys < self._bound
        if not wanted.all():
            batch, keys = batch.filter(pa.array(wanted)), keys[wanted]
        if not batch.num_rows:
            return
        batch = batch.select([f.source for f in self._features])
        self._block.append((batch, keys))
        self._block_rows += batch.num_rows
        self._block_nbytes += batch.nbytes  # long texts fill memory before there are many rows
        self.rows += batch.num_rows
        if self._block_rows >= _BLOCK_ROWS or self._block_nbytes >= _BLOCK_NBYTES:
            self._flush()

    def spec(self) -> PreprocessingSpec:
        """The fitted spec.

        Raises:
            ColumnError: a column cannot be fitted; the message names it, the rule and the remedy.
            SpecError: no row was there to look at.
        """
        self._flush()
        if self._statistics is None:
            none = pa.RecordBatch.from_pydict(
                {f.source: pa.array([], f.type) for f in self._features}
            )
            self._block = [(none, np.empty(0, np.uint64))]
            self._flush()
        assert self._statistics is not None
        return spec_of(self._statistics, self._options)

    def _flush(self) -> None:
        if not self._block:
            return
        table = pa.Table.from_batches([batch for batch, _ in self._block])
        keys = np.concatenate([keys for _, keys in self._block])
        columns = {
            feature.name: raw_column(feature.source, joined(table.column(place)))
            for place, feature in enumerate(self._features)
        }
        found = statistics_of(columns, self._options, row_keys=keys)
        self._statistics = found if self._statistics is None else merged([self._statistics, found])
        self._block, self._block_rows, self._block_nbytes = [], 0, 0


def _shortened(column: pa.Array[Any]) -> pa.Array[Any]:
    """A column of which long texts are cut: a person is not shown their ends."""
    if not is_text(column.type):
        return column
    text = own_text(column)
    if not len(text) or pc.max(pc.binary_length(text)).as_py() in range(LONGEST_VALUE + 1):
        return text
    values = text.cast(pa.large_binary()).to_pylist()
    cut = [
        each if each is None else each[:LONGEST_VALUE].decode(errors="ignore") for each in values
    ]
    return pa.array(cut, pa.large_utf8())


class RowsToLookAt:
    """Rows of both splits, chosen by their keys, for a person to be shown what they hold.

    Of a text the first LONGEST_VALUE bytes are kept: the rows must fit into memory.
    """

    def __init__(self, features: Sequence[SourceColumn], share: float) -> None:
        self._features = tuple(features)
        self._bound = np.uint64(min(int(share * 2.0**64), 2**64 - 1))
        self._kept: dict[int, list[pa.RecordBatch]] = {}

    def add(self, batch: pa.RecordBatch, codes: NDArray[np.int8], keys: RowKeys) -> None:
        """Keeps what is chosen of a batch."""
        chosen = keys < self._bound
        for code in range(len(SPLITS)):
            wanted = chosen & (codes == code)
            if wanted.any():
                names = list(dict.fromkeys(f.source for f in self._features))
                some = batch.select(names).filter(pa.array(wanted))
                short = [_shortened(column) for column in some.columns]
                kept = pa.RecordBatch.from_arrays(short, names)
                self._kept.setdefault(code, []).append(kept)

    def columns(self, split: Split) -> dict[str, Any] | None:
        """What was kept of a split: by feature, arrays, masked where they have nulls."""
        kept = self._kept.get(SPLITS.index(split))
        if not kept:
            return None
        table = pa.Table.from_batches(kept)
        found = {}
        for feature in self._features:
            array = joined(table.column(feature.source))
            column = raw_column(feature.source, array)
            if isinstance(column, Texts | Lists):
                column = np.empty(len(array), object)
                column[:] = array.to_pylist()
            found[feature.name] = column
        return found
