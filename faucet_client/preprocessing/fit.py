"""Fitting a spec to columns in memory.

    spec = fit({"age": ages, "fare": fares}, FitOptions(skip_quantiles=False))

A column that comes in parts, or is divided among workers, goes the same way in three steps:
`ColumnStatistics.of` for each part, `merge`, then `spec_of`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faucet_client.errors import ColumnError, SpecError
from faucet_client.preprocessing.columns import numbers
from faucet_client.preprocessing.identify import FitOptions, Rules, identify
from faucet_client.preprocessing.likelihood import Candidate, most_likely
from faucet_client.preprocessing.spec import Feature, PreprocessingSpec
from faucet_client.preprocessing.statistics import ColumnStatistics
from faucet_client.preprocessing.transforms import Transform


def fit(
    columns: Mapping[str, Any],
    options: FitOptions | None = None,
    *,
    row_keys: NDArray[np.uint64] | None = None,
) -> PreprocessingSpec:
    """The spec for these columns. Which order the rows are in makes no difference.

    Args:
        columns: By name, numbers or booleans [n]: arrays in which NaN is null, or masked arrays.
        options: By default those of 2020.
        row_keys: uint64 [n], a hash of each row, different for different rows. With them,
            `options.sample_rows` bounds what is kept; without, every value is.

    Raises:
        ColumnError: a column cannot be fitted; the message names it, the rule and the remedy.
        SpecError: no column is left.
    """
    options = options or FitOptions()
    return spec_of(statistics_of(columns, options, row_keys=row_keys), options)


def statistics_of(
    columns: Mapping[str, Any],
    options: FitOptions,
    *,
    row_keys: NDArray[np.uint64] | None = None,
) -> dict[str, ColumnStatistics]:
    """The statistics of one part of a table, but for excluded columns; see `fit`.

    Raises:
        ColumnError: a column holds no numbers, or is named in the options and not there, or the
            columns have different numbers of rows.
    """
    _check_names("exclude_features", options.exclude_features, columns)
    _check_names("feature_overrides", options.feature_overrides, columns)
    found = {
        name: ColumnStatistics.of(
            name,
            column,
            keys=row_keys,
            sample_rows=None if row_keys is None else options.sample_rows,
            distinct_values=options.distinct_values,
        )
        for name, column in columns.items()
        if name not in options.exclude_features
    }
    rows = {name: statistics.rows for name, statistics in found.items()}
    if len(set(rows.values())) > 1:
        least, most = min(rows, key=rows.__getitem__), max(rows, key=rows.__getitem__)
        raise ColumnError(
            f'column "{least}" has {rows[least]:,} rows and "{most}" has {rows[most]:,}: columns '
            "of one table have a value, or null, for each row"
        )
    return found


def merged(parts: Iterable[Mapping[str, ColumnStatistics]]) -> dict[str, ColumnStatistics]:
    """The statistics of all parts of a table, in whatever order.

    Raises:
        SpecError: there is no part, or they are of different columns or limits.
    """
    total: dict[str, ColumnStatistics] | None = None
    for part in parts:
        if total is None:
            total = dict(part)
            continue
        if total.keys() != part.keys():
            odd = ", ".join(sorted(total.keys() ^ part.keys())[:10])
            raise SpecError(f"only parts of the same columns can be merged; not in both: {odd}")
        total = {name: total[name].merge(part[name]) for name in total}
    if total is None:
        raise SpecError("there are no statistics to merge")
    return total


def spec_of(
    statistics: Mapping[str, ColumnStatistics], options: FitOptions | None = None
) -> PreprocessingSpec:
    """The spec for columns of which these statistics are known; see `fit`."""
    options = options or FitOptions()
    return PreprocessingSpec([identify(n, each, options) for n, each in statistics.items()])


def fit_as_in_2020(
    columns: Mapping[str, Any],
    *,
    exclude_features: Sequence[str] = (),
    feature_overrides: Mapping[str, str | Transform] | None = None,
    max_unique_enum_values: int = 20,
    quantile_size: int = 20,
    quantile_k2_threshold: float = 1000.0,
    skip_box_cox: bool = False,
    skip_quantiles: bool = True,
    skip_preprocessing: bool = False,
) -> PreprocessingSpec:
    """The spec that the package of 2020 fitted, with its mistakes, for scripts that rely on them.

    It computed in float32, whose rounding moves the Box-Cox lambda by up to some 1e-3 relative,
    and differently for another order of the rows; see `Rules` for the rest. Unlike it, this does
    not refuse columns with nulls, or of fewer than 750 values.

    Args:
        columns: As of `fit`; values are rounded to float32.
        exclude_features: Columns that get no place in the spec.
        feature_overrides: A forced CONTINUOUS is refined to BOXCOX or QUANTILE like any other.
        max_unique_enum_values: The most different values of an ENUM.
        quantile_size: Into how many parts a QUANTILE divides the values.
        quantile_k2_threshold: The K² up to which values count as normal.
        skip_box_cox: Never use BOXCOX.
        skip_quantiles: Never use QUANTILE.
        skip_preprocessing: Use DO_NOT_PREPROCESS for all columns.

    Raises:
        ColumnError: as of `fit`.
    """
    options = FitOptions(
        feature_overrides={} if skip_preprocessing else feature_overrides or {},
        max_unique_enum_values=max_unique_enum_values,
        quantile_size=quantile_size,
        quantile_k2_threshold=quantile_k2_threshold,
        skip_box_cox=skip_box_cox,
        skip_quantiles=skip_quantiles,
        skip_preprocessing=skip_preprocessing,
    )
    _check_names("exclude_features", exclude_features, columns)
    singles = {n: _single(n, columns[n]) for n in columns if n not in exclude_features}
    features: list[Feature] = []
    for name, statistics in statistics_of(singles, options).items():
        ordered = singles[name][np.isfinite(singles[name])]

        def trial(_: ColumnStatistics, values: NDArray[np.float32] = ordered) -> Candidate | None:
            return most_likely(values)

        features.append(identify(name, statistics, options, Rules(trial, as_in_2020=True)))
    return PreprocessingSpec(features)


def _single(name: str, column: Any) -> NDArray[np.float32]:
    values, there, _ = numbers(name, column)
    with np.errstate(over="ignore"):
        return np.where(there, values, np.nan).astype(np.float32)


def _check_names(field: str, names: Iterable[str], columns: Mapping[str, Any]) -> None:
    for name in names:
        if name not in columns:
            near = difflib.get_close_matches(str(name), list(columns))
            asked = f' Did you mean "{near[0]}"?' if near else ""
            raise ColumnError(f'{field}: there is no column "{name}".{asked}')
