"""Preprocessing for compat.py: fitting on training rows, and columns made into tensors.

A fit is of training rows alone, and of the same ones whatever order they arrive in and however many
workers read them: of all of them where they are few; else of those whose `hash_on` falls into the
first hash buckets of the training split, as many buckets as hold the rows asked for. That is a
dataset of its own, read from the source once for all processes that ask for as many rows, as of the
moment when the first one asked. (The buckets are those of the split, so no evaluation row can be
among them.) Only a table without `hash_on` has no such buckets; there it is the first training rows
in the daemon's stable order, and the log says so.

Memory is bounded: rows come in parts, of which sums, extremes and counts are kept exactly, and the
values of at most `_MOST_KEPT_ROWS` rows, chosen by a hash of what they hold.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from faucet_client._frames import Column, columns_of
from faucet_client.dataset import Dataset, FaucetClient
from faucet_client.errors import ColumnError, SourceEmpty
from faucet_client.preprocessing import (
    FitOptions,
    PreprocessingSpec,
    Preprocessor,
    merged,
    spec_of,
    statistics_of,
)
from faucet_client.preprocessing.fit import Statistics
from faucet_client.preprocessing.hashing import mixed
from faucet_client.preprocessing.options import FEWEST_TO_REFINE
from faucet_client.spec import DatasetSpec, whole_number
from faucet_client.wire.values import DatasetInfo

_log = logging.getLogger("faucet_client.compat")

_PART_ROWS = 1 << 16
_MOST_KEPT_ROWS = 1_000_000
_EXACT_IN_FLOAT32 = 1 << 24
_SPARE = Fraction(5, 4)
"""So many more buckets than would do on average, for buckets are not equally full."""


@dataclass(frozen=True)
class NormalizationParameters:
    """What becomes of one feature, in the words of 2020; what its type does not need is a default.

    Attributes:
        feature_type: "BINARY", "PROBABILITY", "CONTINUOUS", "BOXCOX", "ENUM", "QUANTILE",
            "CONTINUOUS_ACTION" or "DO_NOT_PREPROCESS".
        boxcox_lambda: Of a BOXCOX.
        boxcox_shift: Of a BOXCOX; added to a value before.
        mean: Of a CONTINUOUS, or of what a BOXCOX makes of the values.
        stddev: Likewise, and at least 1.
        mode: The most frequent value.
        possible_values: Of an ENUM, ascending; a column of the output each.
        quantiles: Of a QUANTILE: the boundaries, ascending.
        min_value: Of the values.
        max_value: Of the values.
    """

    feature_type: str
    boxcox_lambda: float | None = None
    boxcox_shift: float | None = None
    mean: float | None = None
    stddev: float | None = None
    mode: float | None = None
    possible_values: list[int] | None = None
    quantiles: list[float] | None = None
    min_value: float | None = None
    max_value: float | None = None


Specifications = Mapping[str, NormalizationParameters | Mapping[str, Any]] | PreprocessingSpec
"""Specs as a caller may give them: as `gen_preprocess_specs_and_net` returns them, as dicts, such
as JSON makes of them, or as today's spec."""


def parameters_of(spec: PreprocessingSpec) -> dict[str, NormalizationParameters]:
    """A spec in the words of 2020, by feature."""
    return {name: NormalizationParameters(**old) for name, old in spec.to_faucetml().items()}


def spec_from(specifications: Specifications) -> PreprocessingSpec:
    """A spec out of what a caller gives as one.

    Raises:
        SpecError: it is none; the message names the feature and the rule.
    """
    if isinstance(specifications, PreprocessingSpec):
        return specifications
    return PreprocessingSpec.from_faucetml(specifications)


def options_of(
    exclude_features: Sequence[str] | None, feature_overrides: Any, **others: Any
) -> FitOptions:
    """The options of a fit, checked.

    Raises:
        SpecError: naming the option.
    """
    return FitOptions(
        exclude_features=() if exclude_features is None else exclude_features,
        feature_overrides={} if feature_overrides is None else feature_overrides,
        **others,
    )


# Fitting.


def fit_to_training_rows(
    client: FaucetClient, dataset: Dataset, sample_size: int, options: FitOptions
) -> PreprocessingSpec:
    """Identifies and fits the features of a dataset of 2020's shape; see the module for the rows.

    Args:
        client: Opens the dataset of the sample.
        dataset: Has the leaves of the STRUCT `features` as passthrough columns.
        sample_size: How many training rows to fit on, at least; all of them if there are fewer.
        options: `sample_rows` is chosen here.

    Raises:
        SpecError: `sample_size` is out of range.
        ColumnError: a feature is text, or cannot be fitted; or an option names one that is not
            there.
        FaucetError: the rows cannot be read.
    """
    whole_number("sample_size", sample_size, 1, 2**48)
    kept = min(max(4 * sample_size, FEWEST_TO_REFINE), _MOST_KEPT_ROWS)
    options = replace(options, sample_rows=kept)
    sample, rows = _sample(client, dataset, sample_size)
    _log.info("Preprocessing is fitted to %d of %d training rows", rows, dataset.info.rows["train"])
    if rows < FEWEST_TO_REFINE:
        _log.warning(
            "preprocessing is fitted to %d rows, and types can be told well from %d on: look at "
            "each specification, and use a larger sample_size, or set feature_overrides",
            rows,
            FEWEST_TO_REFINE,
        )
    spec = spec_of(merged(_statistics(sample, rows, options)), options)
    for feature in spec.features:
        _log.info("Feature %s: %s, %s", feature.name, feature.transform, feature.why)
        for note in feature.notes:
            _log.warning("feature %s: %s", feature.name, note)
    return spec


def _sample(client: FaucetClient, dataset: Dataset, wanted: int) -> tuple[Dataset, int]:
    """The dataset whose training rows to fit to, and how many of them."""
    rows = dataset.info.rows["train"]
    if rows <= wanted:
        return dataset, rows
    split = dataset.spec.split_buckets()
    count = -(-int(_SPARE * split.train_end * wanted) // rows)
    while count < split.train_end:
        try:
            sample = client.open(_first_buckets(dataset.spec, count))
        except SourceEmpty:
            pass  # hash_on has so few values that none falls into these buckets
        except ColumnError as error:
            if dataset.spec.hash_column is not None:
                raise
            _log.warning(
                "preprocessing is fitted to the first %d training rows in the daemon's order, for "
                "the table has no column hash_on to choose a sample by (%s)",
                wanted,
                error,
            )
            return dataset, wanted
        else:
            if sample.info.rows["train"] >= wanted:
                return sample, sample.info.rows["train"]
        count *= 2
    return dataset, rows


def _first_buckets(spec: DatasetSpec, count: int) -> DatasetSpec:
    """The rows of `spec` in the first `count` hash buckets, which are training rows of it."""
    buckets = spec.split_buckets().buckets
    if buckets > 1_000 and count % 1_000 == 0:
        count += 1  # or it would be told in thousandths, whose buckets hold other rows
    found = replace(
        spec,
        passthrough=("features",),
        hash_column="hash_on",
        sample_percent=float(Fraction(100 * count, buckets)),
        eval_percent=0,
    )
    assert found.split_buckets().buckets == buckets, (spec, found)
    return found


def _statistics(
    dataset: Dataset, rows: int, options: FitOptions
) -> Iterator[dict[str, Statistics]]:
    """The statistics of the first `rows` training rows, in parts."""
    names = names_in("features", dataset.info)
    left = rows
    with dataset.batches(
        "train", batch_size=min(_PART_ROWS, dataset.info.rows["train"]), shuffle="none"
    ) as batches:
        for batch in batches:
            columns = columns_of(batch, names)
            if left < len(batch):
                columns = {n: _first_rows(column, left) for n, column in columns.items()}
            _check_no_text(columns, options.exclude_features)
            yield statistics_of(
                {name: _masked(column) for name, column in columns.items()},
                options,
                row_keys=_row_keys(columns, options.exclude_features),
            )
            left -= len(batch)
            if left <= 0:
                return


def names_in(struct: str, info: DatasetInfo) -> dict[str, str]:
    """Of a STRUCT's leaves, by the names that frames give them, the dataset's names."""
    pairs = zip(info.passthrough_paths, info.passthrough, strict=True)
    prefix = f"{struct}."
    return {p.removeprefix(prefix): name for p, name in pairs if p.startswith(prefix)}


def _first_rows(column: Column, rows: int) -> Column:
    values, known = column
    return values[:rows], None if known is None else known[:rows]


def _masked(column: Column) -> NDArray[Any]:
    values, known = column
    if known is None:
        return values
    masked: NDArray[Any] = np.ma.MaskedArray(values, ~known)
    return masked


def _row_keys(columns: Mapping[str, Column], excluded: Collection[str]) -> NDArray[np.uint64]:
    """A hash of what each row holds. Rows that hold the same have the same, and are the same."""
    keys = np.zeros(len(next(iter(columns.values()))[0]), np.uint64)
    for name in sorted(columns):
        if name not in excluded:
            values, known = columns[name]
            numbers = values.astype(np.float64) + 0.0  # -0.0 is 0.0
            missing = np.isnan(numbers) if known is None else np.isnan(numbers) | ~known
            numbers[missing] = np.nan
            keys = mixed(keys ^ numbers.view(np.uint64))
    return keys


def _check_no_text(columns: Mapping[str, Column], excluded: Collection[str]) -> None:
    texts = [
        name
        for name, (values, _) in columns.items()
        if values.dtype.kind not in "biuf" and name not in excluded
    ]
    if texts:
        quoted = ", ".join(f'"{name}"' for name in texts)
        raise ColumnError(
            f"text has no type of 2020, and so it cannot be preprocessed: leave it out with "
            f"gen_preprocess_specs_and_net(exclude_features=[{quoted}]), or read a view that gives "
            "it as numbers"
        )


# Applying.


def features_tensor(net: Preprocessor, columns: Mapping[str, Column]) -> torch.Tensor:
    """The features of a batch, preprocessed: float32 [n, net.width].

    Raises:
        ColumnError: a feature is missing, or is text.
    """
    net.spec.check_inputs(columns)
    inputs = {name: columns[name] for name in net.input_names}
    _check_no_text(inputs, ())
    shape = len(inputs), len(next(iter(inputs.values()))[0])
    # Columns lie one after another, as the module likes them best. In float64 no number that the
    # fit saw is rounded.
    values, presence = np.empty(shape), np.ones(shape, np.bool_)
    for place, (column, known) in enumerate(inputs.values()):
        values[place] = column
        if known is not None:
            presence[place] = known
    prepared: torch.Tensor = net(torch.from_numpy(values).t(), torch.from_numpy(presence).t())
    return prepared


def label_tensors(columns: Mapping[str, Column]) -> dict[str, torch.Tensor]:
    """Labels as they are, but in float32: [n, 1] each; a missing one is NaN.

    Raises:
        ColumnError: a label is text.
    """
    labels = {}
    for name, (values, known) in columns.items():
        if values.dtype.kind not in "biuf":
            raise ColumnError(
                f'label "{name}" is text, which is no tensor: take it from '
                "get_batch(preprocess=False), or read a view that gives it as a number"
            )
        label = values.astype(np.float32).reshape(-1, 1)
        if known is not None:
            label[~known] = np.nan
        labels[name] = torch.from_numpy(label)
    return labels


def large_labels(columns: Mapping[str, Column]) -> list[str]:
    """Names of labels with whole numbers beyond 2^24, not all of which float32 has."""
    return [
        name
        for name, (values, known) in columns.items()
        if values.dtype.kind in "iu"
        and bool((np.abs(values if known is None else values[known]) > _EXACT_IN_FLOAT32).any())
    ]
