"""The features as a fitted preprocessing spec makes them: the matrix, and ids for embeddings.

Invariant: a row's bytes are those that a model server gets for that row alone, out of
`faucet_client.preprocessing.encode` and the spec's exported module, whatever batch and tile it came
in. So what is served is what was trained on. What most columns are, numbers to be standardized and
whole numbers to be hashed, takes shorter ways to the same bytes (`standardized.py`, `hashed.py`);
a test compares them.

Of all else, a tile of rows goes through at a time: gathered column by column into a buffer that
stays in the cache, computed there, each column contiguous, and written into the matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from faucet_client.preprocessing.encode import Encoder, PolicyCounts
from faucet_client.preprocessing.spec import Feature, PreprocessingSpec
from faucet_client.preprocessing.transforms import (
    Categorical,
    Continuous,
    Hashed,
    Timestamp,
    Vector,
)
from faucetd.prepare.columns import SourceColumn
from faucetd.prepare.counts import ColumnCounts, Tally
from faucetd.prepare.hashed import HashedColumn, HashedNumbers, is_hashed_number
from faucetd.prepare.raw import raw_column
from faucetd.prepare.standardized import Standardized, standardized_names
from faucetd.prepare.values import null_mask, numbers

_TILE_ROWS = 16_384
_FEWEST_ROWS = 1_024
_TILE_NBYTES = 2 << 20


class _Plain(NamedTuple):
    """A column of numbers, whole: its values [rows], and which of them are null."""

    values: NDArray[Any]
    nulls: NDArray[np.bool_] | None


class _Ids(NamedTuple):
    """Where the ids of a tile go: one a row, or lists."""

    single: Mapping[str, NDArray[np.int64]]
    ragged: Mapping[str, list[pa.Array[Any]]]


class FittedFeatures:
    """Makes rows of the matrix and ids from rows of the source. Not safe for threads.

    Args:
        features: The columns of the spec's features.
        spec: What becomes of them.
    """

    def __init__(self, features: Sequence[SourceColumn], spec: PreprocessingSpec) -> None:
        self._sources = {feature.name: feature.source for feature in features}
        types = {feature.name: feature.type for feature in features}
        standardized = [spec.feature(name) for name in standardized_names(spec)]
        self._standardized = Standardized(
            [self._sources[feature.name] for feature in standardized],
            [cast(Continuous, feature.transform) for feature in standardized],
            spec.outputs_of(standardized[0].name).start if standardized else 0,
        )
        hashed = [f for f in spec.features if is_hashed_number(f, types[f.name])]
        self._hashed = HashedNumbers(
            [
                HashedColumn(self._sources[f.name], f.name, cast(Hashed, f.transform).buckets)
                for f in hashed
            ]
        )
        done = {feature.name for feature in (*standardized, *hashed)}
        self._others: _Others | None = None
        if len(done) < len(spec.features):
            firsts = [spec.outputs_of(name).start for name in _first_names(spec.exclude(done))]
            self._others = _Others(self._sources, spec.exclude(done), firsts)

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
            ids: int64 [rows] for each of `spec.id_names`, contiguous.
            ragged: For each of `spec.ragged_names`, what the rows' lists of ids are appended to.
            tally: Gets what the policies changed, by source column; the caller counts nulls.

        Raises:
            ColumnError: a column's values are not what the spec takes them for.
        """
        self._standardized.apply(batch, matrix, tally)
        self._hashed.apply(batch, ids)
        if self._others is not None:
            self._others.apply(batch, matrix, _Ids(ids, ragged), tally)


class _Others:
    """What has no way of its own: by the encoder, or as plain numbers, through the module.

    Args:
        sources: The source column of each feature.
        spec: What becomes of these features.
        firsts: Where the outputs of each type begin in the matrix, in the order of the spec.
    """

    def __init__(
        self, sources: Mapping[str, str], spec: PreprocessingSpec, firsts: Sequence[int]
    ) -> None:
        self._sources = sources
        self._firsts = tuple(firsts)
        self._module = spec.preprocessor() if spec.width else None
        self._width = len(spec.input_names)
        places = {name: place for place, name in enumerate(spec.input_names)}
        plain = [feature.name for feature in spec.features if _is_plain(feature)]
        self._plain = [(self._sources[name], places[name]) for name in plain]
        self._encoder: Encoder | None = None
        self._encoded_places = np.empty(0, np.int64)
        if len(plain) < len(spec.features):
            rest = spec.exclude(plain)
            self._encoder = Encoder(rest)
            self._encoded_places = np.array([places[name] for name in rest.input_names], np.int64)
        by_bytes = _TILE_NBYTES // (8 * max(self._width, 1))
        self._tile_rows = max(_FEWEST_ROWS, min(_TILE_ROWS, by_bytes))
        self._values = np.zeros(self._tile_rows * self._width)
        self._present = np.empty(self._tile_rows * self._width, np.bool_)

    def apply(
        self, batch: pa.RecordBatch, matrix: NDArray[np.float32], ids: _Ids, tally: Tally
    ) -> None:
        """As of `FittedFeatures`."""
        columns = []
        for path, _ in self._plain:
            array = batch.column(path)
            columns.append(_Plain(numbers(array), null_mask(array)))
        target = torch.from_numpy(matrix)
        with torch.inference_mode():
            for start in range(0, batch.num_rows, self._tile_rows):
                stop = min(start + self._tile_rows, batch.num_rows)
                values, present = self._tile(stop - start)
                present[:] = True
                for (_, place), column in zip(self._plain, columns, strict=True):
                    np.copyto(values[place], column.values[start:stop], casting="unsafe")
                    if column.nulls is not None:
                        np.logical_not(column.nulls[start:stop], out=present[place])
                self._count_plain(columns, start, stop, values, tally)
                if self._encoder is not None:
                    tile = batch.slice(start, stop - start)
                    of_tile = {name: each[start:stop] for name, each in ids.single.items()}
                    self._encode(
                        self._encoder, tile, values, present, _Ids(of_tile, ids.ragged), tally
                    )
                if self._module is not None:
                    self._compute(self._module, values, present, target[start:stop])

    def _tile(self, rows: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The tile's values and presence, [inputs, rows], contiguous also when it is shorter."""
        size = self._width * rows
        shape = (self._width, rows)
        return self._values[:size].reshape(shape), self._present[:size].reshape(shape)

    def _count_plain(
        self,
        columns: Sequence[_Plain],
        start: int,
        stop: int,
        values: NDArray[np.float64],
        tally: Tally,
    ) -> None:
        """Counts NaN and infinity among values that are there."""
        if not self._plain:
            return
        # A sum has what its terms have, and is one pass; one that overflows is looked at in vain.
        with np.errstate(over="ignore", invalid="ignore"):
            suspicious = ~np.isfinite(values.sum(axis=1))
        for (path, place), column in zip(self._plain, columns, strict=True):
            if suspicious[place] and column.values.dtype.kind == "f":
                lost = ~np.isfinite(column.values[start:stop])
                if column.nulls is not None:
                    lost &= ~column.nulls[start:stop]
                tally.add(path, ColumnCounts(not_finite=int(np.count_nonzero(lost))))

    def _encode(
        self,
        encoder: Encoder,
        tile: pa.RecordBatch,
        values: NDArray[np.float64],
        present: NDArray[np.bool_],
        ids: _Ids,
        tally: Tally,
    ) -> None:
        """Puts what is no plain number into its places."""
        names = encoder.spec.feature_names
        arrays = {name: tile.column(self._sources[name]) for name in names}
        encoded = encoder.encode(
            {name: raw_column(self._sources[name], array) for name, array in arrays.items()}
        )
        values[self._encoded_places] = encoded.values.T
        present[self._encoded_places] = encoded.presence.T
        for name, found in encoded.ids.items():
            ids.single[name][:] = found
        for name, lists in encoded.ragged.items():
            ids.ragged[name].append(id_lists(lists.offsets, lists.values))
        for name, counts in encoder.count(encoded).items():
            if name in encoded.ragged:
                # Null lists are counted by the caller; these are null elements.
                changes = ColumnCounts(nulls=counts.missing, unseen=counts.unseen)
            else:
                changes = _changes(counts, arrays[name])
            tally.add(self._sources[name], changes)

    def _compute(
        self,
        module: Any,
        values: NDArray[np.float64],
        present: NDArray[np.bool_],
        target: torch.Tensor,
    ) -> None:
        """Writes a tile's rows of the matrix, the outputs of each type in one go."""
        parts = module.outputs(torch.from_numpy(values).t(), torch.from_numpy(present).t())
        for first, part in zip(self._firsts, parts, strict=True):
            target[:, first : first + part.shape[1]] = part


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


def _first_names(spec: PreprocessingSpec) -> list[str]:
    """The first dense feature of each type, in the order of the spec."""
    first: dict[str, str] = {}
    for feature in spec.dense_features:
        first.setdefault(feature.transform.type, feature.name)
    return list(first.values())


def _is_plain(feature: Feature) -> bool:
    """Whether a feature is a number with nothing to count but what is missing."""
    policy = feature.policy
    return (
        policy.clip is None
        and policy.impute is None
        and not (isinstance(feature.transform, Categorical | Hashed | Timestamp | Vector))
    )


def _changes(counts: PolicyCounts, array: pa.Array[Any]) -> ColumnCounts:
    return ColumnCounts(
        not_finite=counts.missing - array.null_count + counts.infinite,
        imputed=counts.imputed,
        clipped=counts.clipped,
        unseen=counts.unseen,
    )
