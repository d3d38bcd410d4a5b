"""The features as they are, preprocessing="none": one matrix, cast to float32.

What a fitted preprocessing spec makes of them is in `fitted.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from faucetd.prepare.columns import SourceColumn
from faucetd.prepare.counts import Tally
from faucetd.prepare.values import limit_of, losses, null_mask, numbers, put_nan

_TILE_ROWS = 16_384
_TILE_NBYTES = 4 << 20


class RawFeatures:
    """The features as they are, cast to float32, with NaN for null.

    Values come column after column, the matrix has row after row, and a strided write of a whole
    column would touch every cache line of the matrix once a column. So a tile of rows is cast
    column by column into a buffer that stays in the cache, and transposed from there at once: 1.3
    to 3 times faster. Not safe for threads: the tile is reused.
    """

    def __init__(self, features: Sequence[SourceColumn]) -> None:
        self._sources = tuple(feature.source for feature in features)
        self._limits = np.array([limit_of(feature.type) for feature in features], np.float32)
        width = len(features)
        self._tile_rows = max(256, min(_TILE_ROWS, _TILE_NBYTES // (4 * width)))
        self._tile = np.empty(self._tile_rows * width, np.float32)

    def apply(
        self, columns: Mapping[str, pa.Array[Any]], out: NDArray[np.float32], tally: Tally
    ) -> None:
        """Casts the features of a batch into `out`.

        Args:
            columns: At least the features' source columns, [rows], by their dotted paths.
            out: float32 [rows, features], contiguous.
            tally: Gets what was lost on the way, by source column; the caller counts nulls.
        """
        arrays = [columns[source] for source in self._sources]
        values_of = [numbers(array) for array in arrays]
        nulls = [(row, mask) for row, a in enumerate(arrays) if (mask := null_mask(a)) is not None]
        suspicious = np.zeros(len(arrays), np.bool_)
        target = torch.from_numpy(out)
        for start in range(0, len(out), self._tile_rows):
            stop = min(start + self._tile_rows, len(out))
            # Contiguous also when it is the last and shorter: torch is fast only for those.
            tile = self._tile[: len(arrays) * (stop - start)].reshape(len(arrays), -1)
            with np.errstate(over="ignore", invalid="ignore"):
                for row, values in zip(tile, values_of, strict=True):
                    np.copyto(row, values[start:stop], casting="unsafe")
                # Written so that NaN, which compares with nothing, is suspicious.
                suspicious |= ~(
                    (tile.max(axis=1) < self._limits) & (tile.min(axis=1) > -self._limits)
                )
            for row_number, mask in nulls:
                put_nan(tile[row_number], mask[start:stop])
            target[start:stop].copy_(torch.from_numpy(tile).t())
        for number in np.flatnonzero(suspicious):
            tally.add(self._sources[number], losses(arrays[number]))
