"""Which columns of the source a dataset is made of, and what becomes of each.

`resolve` is where a spec meets a table, and where all that does not fit is found, by name, before
anything is read. It knows columns flat, as leaves with dotted paths.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa

from faucet_client.layout import TEXT, Role
from faucet_client.preprocessing import Categorical, Feature, Hashed, Timestamp, Vector
from faucet_client.preprocessing.identify_lists import check_variable
from faucet_client.preprocessing.spec import PreprocessingSpec
from faucet_client.spec import DatasetSpec
from faucetd.errors import ColumnError
from faucetd.prepare.values import element_type, fixed_length, is_number, is_text, storage_dtype

EVERY_COLUMN = "*"
"""In `passthrough`: all leaves of the source, each called by its path."""

_NAMES_SHOWN = 30
_OFFSET_NBYTES = 8  # characters and elements are not known before they are read


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
        name: What users call it: the leaf without its STRUCT, or the name they gave; for a
            passthrough column whose name another one would have too, the whole path.
        type: Its Arrow type.
    """

    source: str
    name: str
    type: pa.DataType


@dataclass(frozen=True)
class PreparedColumns:
    """All columns of a dataset, in the order of its spec.

    Attributes:
        fitted: What becomes of the features; None where they are taken as they are, or not fitted.
    """

    features: tuple[SourceColumn, ...]
    labels: tuple[SourceColumn, ...]
    weight: SourceColumn | None
    passthrough: tuple[SourceColumn, ...]
    hash_column: str | None
    fitted: PreprocessingSpec | None = None

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
        """The columns of fixed width of a chunk, the matrix of features first, if there is one."""
        columns = []
        if self.matrix_width:
            columns = [OutputColumn(Role.FEATURES, "features", "float32", self.matrix_width)]
        columns += [OutputColumn(Role.IDS, name, "int64") for name in self.id_names]
        columns += [OutputColumn(*key, "float32") for key, _ in self.targets()]
        for column in self.passthrough:
            if (dtype := _stored(column)) != TEXT:
                columns.append(OutputColumn(Role.PASSTHROUGH, column.name, dtype))
        return tuple(columns)

    @property
    def matrix_width(self) -> int:
        """Columns of the matrix of features."""
        return len(self.features) if self.fitted is None else self.fitted.width

    @property
    def id_names(self) -> tuple[str, ...]:
        """The features that give an id a row."""
        return () if self.fitted is None else self.fitted.id_names

    @property
    def ragged_names(self) -> tuple[str, ...]:
        """The features that give a list of ids a row."""
        return () if self.fitted is None else self.fitted.ragged_names

    def with_spec(self, spec: PreprocessingSpec) -> PreparedColumns:
        """The same, preprocessed. Features that the spec leaves out are not read.

        Raises:
            ColumnError: the spec has a feature that is not among these, or takes one for what it
                is not.
        """
        spec.check_inputs([feature.name for feature in self.features])
        features = {feature.name: feature for feature in spec.features}
        kept = tuple(f for f in self.features if f.name in features)
        for column in kept:
            _check_feature(column, features[column.name])
        return replace(self, features=kept, fitted=spec)

    def variable_columns(self) -> tuple[ColumnKey, ...]:
        """The columns of variable width of a chunk: lists of ids, and text."""
        return (*((Role.RAGGED, name) for name in self.ragged_names), *self.text_columns())

    def text_columns(self) -> tuple[ColumnKey, ...]:
        """The text columns of a chunk."""
        return tuple(
            (Role.PASSTHROUGH, column.name)
            for column in self.passthrough
            if _stored(column) == TEXT
        )

    @property
    def row_nbytes(self) -> int:
        """The bytes of a row in a segment, but for the characters of text and the ids of lists."""
        fixed = sum(np.dtype(c.dtype).itemsize * c.width for c in self.fixed_columns())
        return fixed + _OFFSET_NBYTES * len(self.variable_columns())


def resolve(spec: DatasetSpec, columns: Sequence[tuple[str, pa.DataType]]) -> PreparedColumns:
    """What the columns that `spec` names are in a source.

    Args:
        spec: What is asked for.
        columns: The source's leaves, by dotted path, with their types, in its order.

    Raises:
        ColumnError: a column is missing, of a type that cannot serve, or named twice.
    """
    table = _Table(columns)
    features = table.find("features", spec.features)
    labels = table.find("labels", spec.labels)
    weights = table.find("weight_column", _listed(spec.weight_column))
    passthrough = table.find_apart("passthrough", spec.passthrough)
    if features:
        features = _without(spec.exclude_features, features, "feature")
    else:
        passthrough = _without(spec.exclude_features, passthrough, "passthrough column")
    if not (features or labels or passthrough):
        raise ColumnError("name at least one column in features, labels or passthrough")
    hash_column = table.find("hash_column", _listed(spec.hash_column))
    for field, found in (("weight_column", weights), ("hash_column", hash_column)):
        if len(found) > 1:
            raise ColumnError(
                f"{field} is a STRUCT: name one of {_listing(c.source for c in found)}"
            )
    for feature in features:
        if spec.preprocessing == "none":
            _check_number("features", feature)
        else:
            _check_fittable(feature, spec)
    for label in labels:
        _check_number("labels", label)
    for weight in weights:
        _check_number("weight_column", weight)
    for column in passthrough:
        _check_storable(column, may_exclude=not features)
    return PreparedColumns(
        features=features,
        labels=labels,
        weight=weights[0] if weights else None,
        passthrough=passthrough,
        hash_column=hash_column[0].source if hash_column else None,
    )


_OTHER_WAYS = {
    "features": (
        "Leave it out (exclude_features), hand it over as it is (passthrough), or make it a number "
        "in the source's query"
    ),
    "labels": "Make it a number in the source's query, or hand it over as it is (passthrough)",
    "weight_column": "Make it a number in the source's query, or choose another column",
    "passthrough": "Make it a number or text in the source's query, or choose other columns",
}
"""What to do about a column of the wrong type, by the field that names it."""


class _Table:
    """The leaves of a source, found by their paths or by the STRUCT that they are in."""

    def __init__(self, columns: Sequence[tuple[str, pa.DataType]]) -> None:
        self._types: Mapping[str, pa.DataType] = dict(columns)

    def find(self, field: str, names: str | Sequence[str]) -> tuple[SourceColumn, ...]:
        """The columns that `names` mean, in their order, STRUCTs expanded."""
        found = self._all_leaves(field, names)
        seen: dict[str, str] = {}
        for column in found:
            if column.name in seen:
                raise ColumnError(
                    f'{field}: "{column.source}" and "{seen[column.name]}" are both called '
                    f'"{column.name}"; leave one out, or name it by its path instead of its STRUCT'
                )
            seen[column.name] = column.source
        return tuple(found)

    def find_apart(self, field: str, names: Sequence[str]) -> tuple[SourceColumn, ...]:
        """The same, but "*" means all leaves, and those of one name are called by their paths."""
        found = self._all_leaves(field, names)
        while True:
            # A path may in turn be what another column is called without its STRUCT.
            found = list(dict.fromkeys(found))
            times = Counter(column.name for column in found)
            if not any(count > 1 for count in times.values()):
                return tuple(found)
            found = [replace(c, name=c.source) if times[c.name] > 1 else c for c in found]

    def _all_leaves(self, field: str, names: str | Sequence[str]) -> list[SourceColumn]:
        found: list[SourceColumn] = []
        for name in _listed(names):
            if name == EVERY_COLUMN and field == "passthrough":
                found += [SourceColumn(path, path, kind) for path, kind in self._types.items()]
            else:
                found += self._leaves(field, name)
        return found

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
    excluded: Sequence[str], columns: tuple[SourceColumn, ...], noun: str
) -> tuple[SourceColumn, ...]:
    known = {name for column in columns for name in (column.name, column.source)}
    for name in excluded:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known))
            asked = f" Did you mean {_listing(near)}?" if near else ""
            raise ColumnError(
                f'exclude_features: "{name}" is no {noun}.{asked} '
                f"The {noun}s are {_listing(column.name for column in columns) or 'none'}."
            )
    left = tuple(c for c in columns if c.name not in excluded and c.source not in excluded)
    if excluded and not left:
        raise ColumnError(f"exclude_features leaves no {noun}")
    return left


def _check_number(field: str, column: SourceColumn) -> None:
    if is_number(column.type):
        return
    ways = _OTHER_WAYS[field]
    if is_text(column.type):
        encoded = ' Or encode it, with preprocessing="auto".' if field == "features" else ""
        raise ColumnError(
            f'{field}: column "{column.source}" is text, and tensors hold numbers. {ways}.{encoded}'
        )
    raise ColumnError(
        f'{field}: column "{column.source}" is of type {_described(column.type)}; only integers, '
        "floating-point numbers, decimals and booleans can serve. "
        f"{ways}{_in_sql(column, as_number=True)}."
    )


def _check_fittable(column: SourceColumn, spec: DatasetSpec) -> None:
    kind = column.type
    if is_number(kind) or is_text(kind) or pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return
    element = element_type(kind)
    if element is not None and (is_number(element) or is_text(element)):
        by_rule = spec.preprocessing == "auto" and spec.fit.type_of(column.name) is None
        if by_rule and is_number(element) and fixed_length(kind) is None:
            check_variable(column.name, whole=pa.types.is_integer(element))
        return
    raise ColumnError(
        f'features: column "{column.source}" is of type {_described(kind)}; numbers, decimals, '
        "booleans, text, timestamps, dates, and lists of numbers or text can be preprocessed. "
        f"{_OTHER_WAYS['features']}"
        f"{_in_sql(column, as_number=True)}."
    )


def _check_feature(column: SourceColumn, feature: Feature) -> None:
    """Refuses a spec that was fitted to another type of column than the table has."""
    transform = feature.transform
    element = element_type(column.type)
    kind = column.type if element is None else element
    found = "numbers"
    if is_text(kind):
        found = "text"
    elif pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        found = "times"
    needed: tuple[str, ...]
    match transform:
        case Categorical(of_text=True):
            needed = ("text",)
        case Categorical():
            needed = ("numbers",) if transform.values else ("numbers", "text")
        case Hashed():
            needed = ("numbers", "text")
        case Timestamp():
            needed = ("times", "numbers")
        case _:
            needed = ("numbers",)
    if feature.of_lists:
        needed = tuple(f"lists of {each}" for each in needed)
    if (found if element is None else f"lists of {found}") not in needed:
        raise ColumnError(
            f'features: column "{column.source}" is of type {_described(column.type)}, and the '
            f"preprocessing spec has {transform.type} for it, which is of {' or '.join(needed)}: "
            "fit a spec for this table, or cast the column in the source's query"
        )
    length = fixed_length(column.type)
    if isinstance(transform, Vector) and length not in (None, transform.width):
        raise ColumnError(
            f'features: column "{column.source}" has lists of {length:,} elements, and the '
            f"preprocessing spec has VECTOR of {transform.width:,} for it: fit a spec for this "
            "table"
        )


def _check_storable(column: SourceColumn, *, may_exclude: bool) -> None:
    if storage_dtype(column.type) is not None:
        return
    exclude = ", or leave it out (exclude_features)" if may_exclude else ""
    raise ColumnError(
        f'passthrough: column "{column.source}" is of type {_described(column.type)}, which '
        "cannot be handed over; numbers, booleans, dates, times, timestamps and text can. "
        f"{_OTHER_WAYS['passthrough']}{exclude}{_in_sql(column, as_number=False)}."
    )


def _described(kind: pa.DataType) -> str:
    """The type in Arrow's words, and in BigQuery's where those are others."""
    sql = _sql_type(kind)
    return f"{kind} ({sql})" if sql else str(kind)


def _sql_type(kind: pa.DataType) -> str | None:
    types = pa.types
    names = {
        "DATE": types.is_date(kind),
        "TIME": types.is_time(kind),
        "TIMESTAMP": types.is_timestamp(kind) and cast(Any, kind).tz is not None,
        "DATETIME": types.is_timestamp(kind),
        "INTERVAL": types.is_interval(kind) or types.is_duration(kind),
        "BYTES": _is_bytes(kind),
        "ARRAY": types.is_nested(kind) and not types.is_struct(kind) and not types.is_map(kind),
        # Other STRUCTs are taken apart before they come here.
        "RANGE": types.is_struct(kind),
    }
    return next((name for name, holds in names.items() if holds), None)


_AS_NUMBER = {
    "DATE": "UNIX_DATE({0}) or EXTRACT(DAYOFWEEK FROM {0})",
    "TIME": "TIME_DIFF({0}, TIME '00:00:00', SECOND) or EXTRACT(HOUR FROM {0})",
    "TIMESTAMP": "UNIX_SECONDS({0}) or EXTRACT(HOUR FROM {0})",
    "DATETIME": "UNIX_SECONDS(TIMESTAMP({0})) or EXTRACT(HOUR FROM {0})",
    "INTERVAL": "EXTRACT(DAY FROM {0})",
    "BYTES": "BYTE_LENGTH({0})",
    "ARRAY": "{0}[SAFE_OFFSET(0)], ARRAY_LENGTH({0}), or a row an element with UNNEST({0})",
    "RANGE": "UNIX_SECONDS(TIMESTAMP(RANGE_START({0})))",
}
"""Expressions of BigQuery's SQL that make a number of a column."""

_AS_STORABLE = {
    "INTERVAL": "CAST({0} AS STRING) or EXTRACT(DAY FROM {0})",
    "BYTES": "TO_HEX({0}) or TO_BASE64({0})",
    "ARRAY": "{0}[SAFE_OFFSET(0)], TO_JSON_STRING({0}), or a row an element with UNNEST({0})",
    "RANGE": "RANGE_START({0}) and RANGE_END({0})",
}
"""Expressions of BigQuery's SQL that make a number, time or text of a column."""


def _in_sql(column: SourceColumn, *, as_number: bool) -> str:
    ways = _AS_NUMBER if as_number else _AS_STORABLE
    way = ways.get(_sql_type(column.type) or "")
    return f"; in BigQuery's SQL, {way.format(column.source)}" if way else ""


def _is_bytes(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_binary_view(kind)
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
