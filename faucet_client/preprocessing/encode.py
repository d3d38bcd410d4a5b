"""Raw columns as a spec's module and embeddings need them. NumPy alone.

Serving a row by hand, with `row` such as {"age": [31.0], "city": ["Bern"]} and a loaded spec:

    encoded = encode(spec, row)
    features = spec.preprocessor()(*map(torch.from_numpy, (encoded.values, encoded.presence)))
    ids = {name: torch.from_numpy(of_rows) for name, of_rows in encoded.ids.items()}
    bags = {name: tuple(map(torch.from_numpy, lists)) for name, lists in encoded.ragged.items()}

Keep the module, and an `Encoder` instead of `encode`, where more than one row is served.

Invariants: a row's encoding depends on that row alone; nothing but what is missing is 0 among the
ids; `presence` is false exactly for null and NaN, so that infinite values can still be counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from faucet_client.errors import ColumnError
from faucet_client.preprocessing.columns import (
    Kind,
    check_rows,
    integers,
    kind_of,
    microseconds,
    numbers,
    texts,
    vectors,
)
from faucet_client.preprocessing.hashing import hashes_of_texts, put_buckets
from faucet_client.preprocessing.lists import lists_of
from faucet_client.preprocessing.objects import of_objects
from faucet_client.preprocessing.spec import Feature, PreprocessingSpec
from faucet_client.preprocessing.transforms import (
    FIRST_ID,
    MISSING_ID,
    UNLISTED_ID,
    Categorical,
    Hashed,
    Timestamp,
    Vector,
)

Ids: TypeAlias = NDArray[np.int64]


class RaggedIds(NamedTuple):
    """A list of ids a row, as `torch.nn.EmbeddingBag(..., include_last_offset=True)` takes them.

    Attributes:
        values: int64 [m], the ids of all rows, one after another.
        offsets: int64 [n + 1], from 0: row i has the ids from offsets[i] to offsets[i + 1].
    """

    values: Ids
    offsets: Ids


@dataclass(frozen=True, eq=False)
class Encoded:
    """Rows, encoded.

    Attributes:
        values: float64 [n, F], the module's input, a column for each of `spec.input_names`; of
            times microseconds since 1970, of categories their ids. Columns are contiguous.
        presence: bool [n, F], false for null and NaN.
        ids: int64 [n] for each of `spec.id_names`, in that order.
        ragged: For each of `spec.ragged_names`, in that order; a null list is an empty one.
    """

    values: NDArray[np.float64]
    presence: NDArray[np.bool_]
    ids: dict[str, Ids]
    ragged: dict[str, RaggedIds]


@dataclass(frozen=True)
class PolicyCounts:
    """To how many rows of a feature something was done, or of which something is to be known.

    Of a ragged feature elements are counted. A row of a vector counts as what any element is.

    Attributes:
        missing: Null or NaN; of a vector, also an empty list.
        infinite: Infinite, and so missing, too.
        imputed: Missing or infinite, and replaced.
        clipped: Outside the bounds, and moved to the nearest.
        unseen: With a category that the spec does not list.
    """

    missing: int = 0
    infinite: int = 0
    imputed: int = 0
    clipped: int = 0
    unseen: int = 0

    def __add__(self, other: PolicyCounts) -> PolicyCounts:
        return PolicyCounts(
            self.missing + other.missing,
            self.infinite + other.infinite,
            self.imputed + other.imputed,
            self.clipped + other.clipped,
            self.unseen + other.unseen,
        )


class Encoder:
    """Encodes rows for a spec, as often as wanted; it keeps what looking categories up takes.

    Safe for threads: it changes nothing after it is made.

    Args:
        spec: What the rows are for.
    """

    def __init__(self, spec: PreprocessingSpec) -> None:
        self.spec = spec
        self._width = len(spec.input_names)
        self._ids = spec.id_names
        self._ragged_names = spec.ragged_names
        self._places = _places(spec)
        self._lookups: dict[str, _Lookup] = {
            feature.name: _Lookup(feature.name, feature.transform)
            for feature in spec.features
            if isinstance(feature.transform, Categorical | Hashed)
        }

    def encode(self, columns: Mapping[str, Any]) -> Encoded:
        """The rows of these columns.

        Args:
            columns: By name, at least those of `spec.feature_names`, as in `columns.py`, or lists
                in which None is null, as in `objects.py`.

        Raises:
            ColumnError: a column is missing, is not of what its feature needs, or they have
                different numbers of rows.
        """
        self.spec.check_inputs(columns)
        ragged = {name: self._ragged(name, columns[name]) for name in self._ragged_names}
        found = {
            f.name: self._column(f, columns[f.name]) for f in self.spec.features if not f.ragged
        }
        counted = {name: len(values) for name, (values, _) in found.items()}
        rows = check_rows(counted | {name: len(ids.offsets) - 1 for name, ids in ragged.items()})
        width = self._width
        # Column by column, since the module is fastest with contiguous columns.
        values = np.empty((width, rows), np.float64)
        presence = np.empty((width, rows), np.bool_)
        for name, place in self._places.items():
            values[place], presence[place] = (np.atleast_2d(each.T) for each in found[name])
        ids = {name: found[name][0].astype(np.int64, copy=False) for name in self._ids}
        return Encoded(values.T, presence.T, ids, ragged)

    def count(self, encoded: Encoded | Mapping[str, Any]) -> dict[str, PolicyCounts]:
        """What was done to how many rows, by feature; see `count`."""
        encoded = encoded if isinstance(encoded, Encoded) else self.encode(encoded)
        places = self._places
        counts = {}
        for feature in self.spec.features:
            name = feature.name
            if feature.ragged:
                counts[name] = _of_ids(feature, encoded.ragged[name].values)
            elif feature.gives_ids:
                counts[name] = _of_ids(feature, encoded.ids[name])
            elif isinstance(feature.transform, Categorical):
                counts[name] = _of_ids(feature, encoded.values[:, places[name]])
            else:
                of_feature = encoded.values[:, places[name]], encoded.presence[:, places[name]]
                count = _of_vectors if isinstance(feature.transform, Vector) else _of_numbers
                counts[name] = count(feature, *of_feature)
        return counts

    def _ragged(self, name: str, column: Any) -> RaggedIds:
        if (kind := kind_of(name, column)) != "lists" and not _is_empty(column):
            raise _mismatch(self.spec.feature(name), kind, "lists")
        lists = lists_of(name, column)
        elements = lists.elements
        if not len(elements) or (np.ma.isMaskedArray(elements) and elements.mask.all()):
            # Of what they would be, nobody can tell.
            return RaggedIds(np.full(len(elements), MISSING_ID, np.int64), lists.offsets)
        return RaggedIds(self._lookups[name].ids(lists.elements), lists.offsets)

    def _column(
        self, feature: Feature, column: Any
    ) -> tuple[Ids | NDArray[np.float64], NDArray[np.bool_]]:
        column = of_objects(column)
        lookup = self._lookups.get(feature.name)
        if lookup is not None:
            ids = lookup.ids(column)
            return ids, ids != MISSING_ID
        kind = kind_of(feature.name, column)
        if isinstance(feature.transform, Vector):
            if kind != "lists" and not _is_empty(column):
                raise _mismatch(feature, kind, "lists of numbers")
            return vectors(feature.name, lists_of(feature.name, column), feature.transform.width)
        if isinstance(feature.transform, Timestamp):
            if kind in ("text", "lists"):
                raise _mismatch(feature, kind, "times")
            times, there = microseconds(feature.name, column)
            return times, there
        if kind != "numbers":
            raise _mismatch(feature, kind, "numbers")
        values, there, _ = numbers(feature.name, column)
        return values, there & ~np.isnan(values)


def encode(spec: PreprocessingSpec, columns: Mapping[str, Any]) -> Encoded:
    """The rows of these columns, as the module and the embeddings need them.

    Args:
        spec: What the rows are for.
        columns: By name, at least those of `spec.feature_names`, as in `columns.py`.

    Raises:
        ColumnError: a column is missing, is not of what its feature needs, or they have different
            numbers of rows.
    """
    return Encoder(spec).encode(columns)


def count(spec: PreprocessingSpec, encoded: Encoded | Mapping[str, Any]) -> dict[str, PolicyCounts]:
    """What was done to how many rows, by feature.

    Args:
        spec: The spec by which they were encoded.
        encoded: Rows that `encode` made, or the raw columns.

    Raises:
        ColumnError: as of `encode`.
    """
    return Encoder(spec).count(encoded)


def _places(spec: PreprocessingSpec) -> dict[str, slice]:
    """Where the columns of each dense feature are among those of the input."""
    places, start = {}, 0
    for feature in spec.dense_features:
        stop = start + len(feature.input_names)
        places[feature.name] = slice(start, stop)
        start = stop
    return places


class _Lookup:
    """From a category's values to ids."""

    def __init__(self, name: str, transform: Categorical | Hashed) -> None:
        self._name = name
        self._transform = transform
        self._of_text: dict[str, int] = {}
        self._sorted = np.zeros(0, np.int64)
        self._ids = np.zeros(0, np.int64)
        if not isinstance(transform, Categorical):
            return
        if transform.of_text:
            self._of_text = {str(x): FIRST_ID + i for i, x in enumerate(transform.values)}
        else:
            values = np.array(transform.values, np.int64)
            order = np.argsort(values)
            self._sorted, self._ids = values[order], order + FIRST_ID

    def ids(self, column: Any) -> Ids:
        """The id of each row: int64 [n]."""
        kind = kind_of(self._name, column)
        if kind not in ("text", "numbers"):
            raise self._mismatch(kind)
        return self._ids_of_text(column) if kind == "text" else self._ids_of_numbers(column)

    def _ids_of_text(self, column: Any) -> Ids:
        transform, found = self._transform, texts(self._name, column)
        if isinstance(transform, Hashed):
            buckets = hashes_of_texts(found.values) % np.uint64(transform.buckets)
            of_values = buckets.astype(np.int64) + 1
        elif transform.of_text is False and found.values:
            raise self._mismatch("text")
        else:
            listed = (self._of_text.get(value, UNLISTED_ID) for value in found.values)
            of_values = np.fromiter(listed, np.int64, len(found.values))
        return found.spread(of_values, MISSING_ID)

    def _ids_of_numbers(self, column: Any) -> Ids:
        transform = self._transform
        values, there = integers(self._name, column)
        if isinstance(transform, Hashed):
            ids = np.empty(len(values), np.int64)
            put_buckets(values, transform.buckets, ids, np.empty(len(values), np.uint64))
        elif transform.of_text and there.any():
            raise self._mismatch("numbers")
        elif len(self._sorted):
            places = np.minimum(np.searchsorted(self._sorted, values), len(self._sorted) - 1)
            ids = np.where(self._sorted[places] == values, self._ids[places], UNLISTED_ID)
        else:
            ids = np.full(len(values), UNLISTED_ID, np.int64)
        return np.where(there, ids, MISSING_ID)

    def _mismatch(self, kind: Kind) -> ColumnError:
        needs = "text or whole numbers"
        if isinstance(self._transform, Categorical) and self._transform.of_text is not None:
            needs = "text" if self._transform.of_text else "whole numbers"
        return _mismatch(Feature(self._name, self._transform), kind, needs)


def _mismatch(feature: Feature, kind: Kind, needs: str) -> ColumnError:
    return ColumnError(
        f'column "{feature.name}" holds {kind}, and the spec has {feature.transform.type} for it, '
        f"which needs {needs}: cast it in the source's query, or fit the spec anew"
    )


def _is_empty(column: Any) -> bool:
    """Whether it has null alone, and so may be of anything."""
    rows = column.tolist() if isinstance(column, np.ndarray) else column
    return isinstance(rows, list | tuple) and all(row is None for row in rows)


def _of_ids(feature: Feature, ids: NDArray[Any]) -> PolicyCounts:
    unseen = 0 if isinstance(feature.transform, Hashed) else int((ids == UNLISTED_ID).sum())
    return PolicyCounts(missing=int((ids == MISSING_ID).sum()), unseen=unseen)


def _of_vectors(
    feature: Feature, values: NDArray[np.float64], there: NDArray[np.bool_]
) -> PolicyCounts:
    del feature
    complete = there.all(axis=1)
    infinite = complete & np.isinf(values).any(axis=1)
    return PolicyCounts(missing=int((~complete).sum()), infinite=int(infinite.sum()))


def _of_numbers(
    feature: Feature, values: NDArray[np.float64], there: NDArray[np.bool_]
) -> PolicyCounts:
    infinite = there & np.isinf(values)
    missing, lost = int((~there).sum()), int(infinite.sum())
    clipped = 0
    if feature.policy.clip is not None:
        low, high = feature.policy.clip
        clipped = int((there & ~infinite & ((values < low) | (values > high))).sum())
    return PolicyCounts(
        missing=missing,
        infinite=lost,
        imputed=0 if feature.policy.impute is None else missing + lost,
        clipped=clipped,
    )
