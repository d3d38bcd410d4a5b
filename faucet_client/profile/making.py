"""Making a profile of columns in memory."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faucet_client.errors import ColumnError, SpecError
from faucet_client.preprocessing import TRANSFORMS, Feature, PreprocessingSpec
from faucet_client.preprocessing.encode import encode
from faucet_client.profile import drift, histograms
from faucet_client.profile.columns import Column, read
from faucet_client.profile.data import Applied, FeatureProfile, Histogram, Profile

Outputs = Callable[[str], NDArray[np.float32] | None]
"""By a feature's name, what its transform makes of the train rows, in their order, float32 [rows,
its width]; None where that is not known, or where it has no dense output, such as an id."""

_SHOWN_OUTPUTS = 100
_MAX_OUTPUTS = 1 << 25
"""Numbers that a feature's transform may make for a profile: 128 MiB, and a few times that for a
while."""
_INSTEAD = {
    "BINARY": "CONTINUOUS",
    "PROBABILITY": "CONTINUOUS",
    "CONTINUOUS": "QUANTILE",
    "BOXCOX": "CONTINUOUS",
    "ENUM": "CONTINUOUS",
    "QUANTILE": "CONTINUOUS",
    "CONTINUOUS_ACTION": "CONTINUOUS",
    "DO_NOT_PREPROCESS": "CONTINUOUS",
    "CATEGORICAL": "HASHED",
    "HASHED": "CATEGORICAL",
    "LOG1P": "CONTINUOUS",
}
"""The type that a person most likely wants who does not want the one that was chosen."""


def profile_of(
    spec: PreprocessingSpec,
    train: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None,
    *,
    source: str,
    key: str,
    rows: Mapping[str, int],
    bytes_read: int,
    source_types: Mapping[str, str] | None = None,
    policies: Mapping[str, Mapping[str, int]] | None = None,
    outputs: Outputs | None = None,
) -> Profile:
    """The profile of a spec's features over some rows of each split.

    Args:
        spec: The fitted preprocessing.
        train: By name, the columns of train rows, all of one length: arrays in which NaN, NaT, None
            or a mask is null. Columns that are no feature are ignored.
        evaluation: Likewise of evaluation rows; None where there is no such split.
        source: What was read, in words.
        key: The dataset's key.
        rows: By split ("train", "eval"), how many rows it has.
        bytes_read: From the source.
        source_types: By feature, its source's word for its type; by default NumPy's.
        policies: By feature, how often each policy was applied.
        outputs: What transforms make of the train rows; by default `outputs_by_module`.

    Raises:
        ColumnError: a feature's column is missing, or the columns have different numbers of rows.
    """
    outputs = outputs or outputs_by_module(spec, train)
    names = [feature.name for feature in spec.features]
    ones = {name: read(name, _column(name, train, "train")) for name in names}
    looked_at = {"train": _rows_of("train", [each.rows for each in ones.values()])}
    others: dict[str, Column] = {}
    if evaluation is not None:
        others = {name: read(name, _column(name, evaluation, "evaluation")) for name in names}
        looked_at["eval"] = _rows_of("evaluation", [each.rows for each in others.values()])
    features = []
    for feature in spec.features:
        name = feature.name
        one, other = ones[name], others.get(name)
        made = _outputs_histogram(feature, one, outputs(name))
        found = FeatureProfile(
            name=name,
            source_type=(source_types or {}).get(name, one.source_type),
            type=feature.transform.type,
            why=feature.why,
            notes=feature.notes,
            distinct_is_all=one.rows >= rows.get("train", 0),
            histogram=_histogram(one, other),
            outputs=made,
            output_names=feature.output_names[:_SHOWN_OUTPUTS],
            width=len(feature.output_names),
            policies=tuple(Applied(*each) for each in (policies or {}).get(name, {}).items()),
            override=_override(feature, one),
            evaluation_rows=0 if other is None else other.rows,
            evaluation_nulls=0 if other is None else other.nulls,
            **_numbers_of(one),
        )
        features.append(found if other is None else replace(found, **_drift(one, other)))
    return Profile(
        source=source,
        key=key,
        rows=rows,
        looked_at=looked_at,
        width=spec.width,
        bytes_read=bytes_read,
        features=features,
    )


def outputs_by_module(spec: PreprocessingSpec, columns: Mapping[str, Any]) -> Outputs:
    """What the spec's module makes of these columns, one feature at a time, when it is asked for.

    None of a feature without columns in the dense output, and of one whose outputs would not fit
    into _MAX_OUTPUTS: they are not worth the memory.

    Raises:
        ColumnError: a column is not of what its feature needs; raised when outputs are asked for.
    """

    def outputs(name: str) -> NDArray[np.float32] | None:
        import torch

        feature = spec.feature(name)
        width = len(feature.output_names)
        if not 0 < width <= _MAX_OUTPUTS // max(len(columns[name]), 1):
            return None
        alone = PreprocessingSpec([feature])
        encoded = encode(alone, {name: columns[name]})
        with torch.inference_mode():
            made: NDArray[np.float32] = alone.preprocessor()(
                torch.from_numpy(encoded.values), torch.from_numpy(encoded.presence)
            ).numpy()
        return made

    return outputs


def _column(name: str, columns: Mapping[str, Any], split: str) -> Any:
    if name not in columns:
        raise ColumnError(
            f'the {split} rows have no column "{name}", which the preprocessing spec names'
        )
    return columns[name]


def _rows_of(split: str, rows: list[int]) -> int:
    if len(set(rows)) > 1:
        raise ColumnError(
            f"the {split} columns have from {min(rows):,} to {max(rows):,} rows: columns of one "
            "table have a value, or null, for each row"
        )
    return rows[0]


def _outputs_histogram(
    feature: Feature, column: Column, outputs: NDArray[np.float32] | None
) -> Histogram | None:
    names = feature.output_names
    if outputs is None or not names:
        return None
    if outputs.shape != (column.rows, len(names)):
        raise SpecError(
            f'outputs of feature "{feature.name}" must be of shape [{column.rows}, {len(names)}], '
            f"not {list(outputs.shape)}"
        )
    return histograms.of_outputs(names, outputs[column.there])


def _numbers_of(column: Column) -> dict[str, Any]:
    numbers = column.numbers
    found: dict[str, Any] = {
        "rows": column.rows,
        "nulls": column.nulls,
        "infinite": column.infinite,
        "distinct": column.distinct,
    }
    if len(numbers):
        found |= {"minimum": float(numbers.min()), "maximum": float(numbers.max())}
        # Numbers near the largest float64 have no mean or stddev that is one.
        with np.errstate(over="ignore", invalid="ignore"):
            found["mean"] = _finite(numbers.mean())
            found["stddev"] = _finite(numbers.std(ddof=1)) if len(numbers) > 1 else None
    return found


def _histogram(train: Column, evaluation: Column | None) -> Histogram | None:
    if evaluation is not None and not _alike(train, evaluation):
        evaluation = None
    if train.kind == "values":
        return histograms.of_texts(train.texts, None if evaluation is None else evaluation.texts)
    if train.kind == "other":
        return None
    other = None if evaluation is None else evaluation.numbers
    return histograms.of_numbers(train.kind, train.numbers, other)


def _drift(train: Column, evaluation: Column) -> dict[str, Any]:
    """PSI, with a bin of its own for rows without a finite value, and KS."""
    if not _alike(train, evaluation) or not train.rows or not evaluation.rows:
        return {}
    pairs: list[list[int]] = []
    ks = None
    if train.kind == "values":
        shown = [text for text, _ in train.texts.most_common(histograms.SHOWN_VALUES)]
        for texts in (train.texts, evaluation.texts):
            each = [texts[text] for text in shown]
            pairs.append([*each, texts.total() - sum(each)])
    elif len(train.numbers):
        at = drift.bounds(train.numbers)
        pairs = [drift.counts(column.numbers, at) for column in (train, evaluation)]
        if len(evaluation.numbers):
            ks = drift.ks(train.numbers, evaluation.numbers)
    else:
        pairs = [[0], [len(evaluation.numbers)]]
    one = [*pairs[0], train.nulls + train.infinite]
    other = [*pairs[1], evaluation.nulls + evaluation.infinite]
    return {
        "psi": drift.psi(one, other),
        "psi_by_chance": drift.psi_by_chance(one, other),
        "ks": ks,
    }


def _alike(train: Column, evaluation: Column) -> bool:
    """Whether two splits can be compared; objects of which all are None say no kind."""
    return train.kind != "other" and (
        train.kind == evaluation.kind or evaluation.rows == evaluation.nulls
    )


def _override(feature: Feature, column: Column) -> str:
    """The line that changes what becomes of a feature."""
    name = json.dumps(feature.name, ensure_ascii=False)
    instead = _INSTEAD.get(feature.transform.type)
    # Types that this release cannot fit are not proposed, nor is any for a constant.
    if instead not in TRANSFORMS or column.distinct <= 1:
        return f"FitOptions(exclude_features=[{name}])"
    return f'FitOptions(feature_overrides={{{name}: "{instead}"}})'


def _finite(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None
