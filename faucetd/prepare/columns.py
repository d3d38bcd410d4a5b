"""Which columns of the source a dataset is made of, and what becomes of each.

`resolve` is where a spec meets a table, and where all that does not fit is found, by name, before
anything is read. It knows columns flat, as leaves with dotted paths.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from faucet_client.layout import TEXT, Role
from faucet_client.spec import DatasetSpec
from faucetd.errors import ColumnError
from faucetd.prepare.values import is_number, is_text, storage_dtype

_NAMES_SHOWN = 30
_TEXT_ROW_NBYTES = 8  # its offset; the characters are not known before they are read


ColumnKey = tuple[Role, str]
"""A role and a name: what identifies a column of a chunk."""


class OutputColumn(NamedTuple):
    """A column of fixed width that a chunk has: its dtype a numpy name, `width` values a row."""

    role: Role
    name: str
    dtype: str
    width: int = 1


@dataclass(frozen=True)
class SourceColumn:
    """A column of the source, and its name in the dataset.

    Attributes:
        source: The dotted path of a leaf.
        name: What users call it: the leaf without its STRUCT, or the name they gave.
        type: Its Arrow type.
    """

    source: str
    name: str
    type: pa.DataType


@dataclass(frozen=True)
class PreparedColumns:
    """All columns of a dataset, in the order of its spec."""

    features: tuple[SourceColumn, ...]
    labels: tuple[SourceColumn, ...]
    weight: SourceColumn | None
    passthrough: tuple[SourceColumn, ...]
    hash_column: str | None

    @property
    def source_columns(self) -> tuple[str, ...]:
        """Everything that must be read, each once, by path."""
        hashed = () if self.hash_column is None else (self.hash_column,)
        return tuple(dict.fromkeys([*self.kept_columns, *hashed]))

    @property
    def kept_columns(self) -> tuple[str, ...]:
        """What of `source_columns` is in the prepared chunks, too: all but a mere hash column."""
        targets = [column for _, column in self.targets()]
        used = (*self.features, *targets, *self.passthrough)
        return tuple(dict.fromkeys(column.source for column in used))

    def targets(self) -> tuple[tuple[ColumnKey, SourceColumn], ...]:
        """The labels and the weight: one float32 a row each."""
        labels = [((Role.LABEL, label.name), label) for label in self.labels]
        weight = [] if self.weight is None else [((Role.WEIGHT, self.weight.name), self.weight)]
        return (*labels, *weight)

    def fixed_columns(self) -> tuple[OutputColumn, ...]:
        """The columns of fixed width of a chunk, the matrix of features first."""
        columns = [OutputColumn(Role.FEATURES, "features", "float32", len(self.features))]
        columns += [OutputColumn(*key, "float32") for key, _ in self.targets()]
        for column in self.passthrough:
            if (dtype := _stored(column)) != TEXT:
                columns.append(OutputColumn(Role.PASSTHROUGH, column.name, dtype))
        return tuple(columns)

    def text_columns(self) -> tuple[ColumnKey, ...]:
        """The text columns of a chunk."""
        return tuple(
            (Role.PASSTHROUGH, column.name)
            for column in self.passthrough
            if _stored(column) == TEXT
        )

    @property
    def row_nbytes(self) -> int:
        """The bytes of a row in a segment, but for the characters of text."""
        fixed = sum(np.dtype(c.dtype).itemsize * c.width for c in self.fixed_columns())
        return fixed + _TEXT_ROW_NBYTES * len(self.text_columns())


def resolve(spec: DatasetSpec, columns: Sequence[tuple[str, pa.DataType]]) -> PreparedColumns:
    """What the columns that `spec` names are in a source.

    Args:
        spec: What is asked for.
        columns: The source's leaves, by dotted path, with their types, in its order.

    Raises:
        ColumnError: a column is missing, of a type that cannot serve, or named twice.
    """
    table = _Table(columns)
    features = _without(spec.exclude_features, table.find("features", spec.features))
    labels = table.find("labels", spec.labels)
    weights = table.find("weight_column", _listed(spec.weight_column))
    passthrough = table.find("passthrough", spec.passthrough)
    hash_column = table.find("hash_column", _listed(spec.hash_column))
    for field, found in (("weight_column", weights), ("hash_column", hash_column)):
        if len(found) > 1:
            raise ColumnError(
                f"{field} is a STRUCT: name one of {_listing(c.source for c in found)}"
            )
    for feature in features:
        _check_number("features", feature, _FEATURE_REMEDY)
    for label in labels:
        _check_number("labels", label, _LABEL_REMEDY)
    for weight in weights:
        _check_number("weight_column", weight, _CAST)
    for column in passthrough:
        if storage_dtype(column.type) is None:
            raise ColumnError(
                f'passthrough: column "{column.source}" is of type {column.type}, which cannot be '
                f"handed over; numbers, booleans, dates, timestamps and text can. {_CAST}"
            )
    return PreparedColumns(
        features=features,
        labels=labels,
        weight=weights[0] if weights else None,
        passthrough=passthrough,
        hash_column=hash_column[0].source if hash_column else None,
    )


_CAST = "Cast it in the source's query, or choose another column."
_FEATURE_REMEDY = (
    "Leave it out (exclude_features), hand it over as it is (passthrough), or make it a number in "
    "the source's query."
)
_LABEL_REMEDY = "Make it a number in the source's query, or hand it over as it is (passthrough)."


class _Table:
    """The leaves of a source, found by their paths or by the STRUCT that they are in."""

    def __init__(self, columns: Sequence[tuple[str, pa.DataType]]) -> None:
        self._types: Mapping[str, pa.DataType] = dict(columns)

    def find(self, field: str, names: str | Sequence[str]) -> tuple[SourceColumn, ...]:
        """The columns that `names` mean, in their order, STRUCTs expanded."""
        found: list[SourceColumn] = []
        for name in _listed(names):
            found += self._leaves(field, name)
        seen: dict[str, str] = {}
        for column in found:
            if column.name in seen:
                raise ColumnError(
                    f'{field}: "{column.source}" and "{seen[column.name]}" are both called '
                    f'"{column.name}"; leave one out, or name it by its path instead of its STRUCT'
                )
            seen[column.name] = column.source
        return tuple(found)

    def _leaves(self, field: str, name: str) -> list[SourceColumn]:
        if name in self._types:
            return [SourceColumn(name, name, self._types[name])]
        prefix = f"{name}."
        leaves = [path for path in self._types if path.startswith(prefix)]
        if not leaves:
            raise ColumnError(f'{field}: the source has no column "{name}"{self._hint(name)}')
        return [SourceColumn(path, path[len(prefix) :], self._types[path]) for path in leaves]

    def _hint(self, name: str) -> str:
        structs = {path[:dot] for path in self._types for dot in _dots(path)}
        # A leaf is often asked for without the STRUCT that it is in.
        near = [path for path in self._types if path.endswith(f".{name}")]
        near += difflib.get_close_matches(name, [*self._types, *sorted(structs)])
        asked = f" Did you mean {_listing(dict.fromkeys(near))}?" if near else ""
        return f".{asked} It has {_listing(self._types)}."


def _without(
    excluded: Sequence[str], features: tuple[SourceColumn, ...]
) -> tuple[SourceColumn, ...]:
    known = {name for feature in features for name in (feature.name, feature.source)}
    for name in excluded:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known))
            asked = f" Did you mean {_listing(near)}?" if near else ""
            raise ColumnError(
                f'exclude_features: "{name}" is no feature.{asked} '
                f"The features are {_listing(feature.name for feature in features)}."
            )
    left = tuple(f for f in features if f.name not in excluded and f.source not in excluded)
    if not left:
        raise ColumnError("exclude_features leaves no feature")
    return left


def _check_number(field: str, column: SourceColumn, remedy: str) -> None:
    if is_number(column.type):
        return
    if is_text(column.type):
        later = " (Encoding text is to come with preprocessing.)" if field == "features" else ""
        raise ColumnError(
            f'{field}: column "{column.source}" is text, and tensors hold numbers. {remedy}{later}'
        )
    raise ColumnError(
        f'{field}: column "{column.source}" is of type {column.type}; only integers, '
        f"floating-point numbers and booleans can serve. {remedy}"
    )


def _stored(column: SourceColumn) -> str:
    dtype = storage_dtype(column.type)
    assert dtype is not None, "resolve has checked it"
    return dtype


def _listed(names: str | Sequence[str] | None) -> Sequence[str]:
    if names is None:
        return ()
    return (names,) if isinstance(names, str) else names


def _dots(path: str) -> list[int]:
    return [index for index, character in enumerate(path) if character == "."]


def _listing(names: Iterable[str]) -> str:
    listed = list(names)
    shown = ", ".join(listed[:_NAMES_SHOWN])
    more = len(listed) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
