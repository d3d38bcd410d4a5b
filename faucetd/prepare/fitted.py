"""The features as a fitted preprocessing spec makes them: the matrix, and ids for embeddings.

Invariant: a row's bytes are those that a model server gets for that row alone, out of
`faucet_client.preprocessing.encode` and the spec's exported module, whatever batch and tile it came
in. So what is served is what was trained on; the code is the same.

A tile of rows goes through at a time, so that its columns stay in the cache between the steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from faucet_client.preprocessing.encode import Encoder, PolicyCounts
from faucet_client.preprocessing.spec import PreprocessingSpec
from faucetd.prepare.columns import SourceColumn
from faucetd.prepare.counts import ColumnCounts, Tally
from faucetd.prepare.raw import raw_column

_TILE_ROWS = 16_384
_TILE_NBYTES = 4 << 20


class FittedFeatures:
    """Makes rows of the matrix and ids from rows of the source. Not safe for threads.

    Args:
        features: The columns of the spec's features.
        spec: What becomes of them.
    """

    def __init__(self, features: Sequence[SourceColumn], spec: PreprocessingSpec) -> None:
        self._sources = {feature.name: feature.source for feature in features}
        self._encoder = Encoder(spec)
        self._module = spec.preprocessor() if spec.width else None
        width = max(len(spec.input_names), 1)
        self._tile_rows = max(256, min(_TILE_ROWS, _TILE_NBYTES // (8 * width)))

    def apply(
        self,
        batch: pa.RecordBatch,
        matrix: NDArray[np.float32],
        ids: Mapping[str, NDArray[np.int64]],
        ragged: Mapping[str, list[pa.Array[Any]]],
        tally: Tally,
    ) -> None:
        """Writes what becomes of `batch`.

        Args:
            batch: At least the features' columns, by their dotted paths.
            matrix: float32 [rows, spec.width], contiguous.
            ids: int64 [rows] for each of `spec.id_names`.
            ragged: For each of `spec.ragged_names`, what the rows' lists of ids are appended to.
            tally: Gets what the policies changed, by source column; the caller counts nulls.

        Raises:
            ColumnError: a column's values are not what the spec takes them for.
        """
        for start in range(0, batch.num_rows, self._tile_rows):
            tile = batch.slice(start, self._tile_rows)
            stop = start + tile.num_rows
            encoded = self._encoder.encode(
                {name: raw_column(tile.column(path)) for name, path in self._sources.items()}
            )
            if self._module is not None:
                with torch.inference_mode():
                    made = self._module(
                        torch.from_numpy(encoded.values), torch.from_numpy(encoded.presence)
                    )
                matrix[start:stop] = made.numpy()
            for name, found in encoded.ids.items():
                ids[name][start:stop] = found
            for name, lists in encoded.ragged.items():
                ragged[name].append(id_lists(lists.offsets, lists.values))
            for name, counts in self._encoder.count(encoded).items():
                path = self._sources[name]
                if name in encoded.ragged:
                    # Null lists are counted by the caller; these are null elements.
                    changes = ColumnCounts(nulls=counts.missing, unseen=counts.unseen)
                else:
                    changes = _changes(counts, tile.column(path))
                tally.add(path, changes)


def id_lists(offsets: NDArray[np.int64], values: NDArray[np.int64]) -> pa.Array[Any]:
    """Lists of ids, [rows], over the same memory.

    Args:
        offsets: int64 [rows + 1], from 0.
        values: int64, of all rows, one after another.
    """
    kind = pa.large_list(pa.field("item", pa.int64(), nullable=False))
    buffers = [None, pa.array(offsets).buffers()[1]]
    return pa.Array.from_buffers(
        kind, len(offsets) - 1, buffers, null_count=0, children=[pa.array(values)]
    )


def _changes(counts: PolicyCounts, array: pa.Array[Any]) -> ColumnCounts:
    return ColumnCounts(
        not_finite=counts.missing - array.null_count + counts.infinite,
        imputed=counts.imputed,
        clipped=counts.clipped,
        unseen=counts.unseen,
    )
