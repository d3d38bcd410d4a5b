"""Fitting a spec to columns in memory.

    spec = fit({"age": ages, "city": cities}, FitOptions(skip_quantiles=False))

A table that comes in parts, or is divided among workers, goes the same way in three steps:
`statistics_of` each part, `merged`, then `spec_of`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from faucet_client.errors import ColumnError, SpecError
from faucet_client.preprocessing.categories import CategoryStatistics
from faucet_client.preprocessing.columns import check_rows, kind_of, numbers
from faucet_client.preprocessing.identify import Rules, identify
from faucet_client.preprocessing.identify_lists import (
    becomes_vector,
    identify_lists,
    identify_vector,
)
from faucet_client.preprocessing.identify_others import identify_categories, identify_times
from faucet_client.preprocessing.likelihood import Candidate, most_likely
from faucet_client.preprocessing.list_statistics import ListStatistics, VectorStatistics
from faucet_client.preprocessing.lists import lists_of
from faucet_client.preprocessing.options import FitOptions
from faucet_client.preprocessing.spec import Feature, PreprocessingSpec
from faucet_client.preprocessing.statistics import ColumnStatistics, TimeStatistics
from faucet_client.preprocessing.transforms import Categorical, Hashed, Timestamp, Transform

Statistics: TypeAlias = (
    ColumnStatistics | CategoryStatistics | TimeStatistics | VectorStatistics | ListStatistics
)
"""What is known of a column: of numbers, of categories, of times, or of lists."""


def fit(
    columns: Mapping[str, Any],
    options: FitOptions | None = None,
    *,
    row_keys: NDArray[np.uint64] | None = None,
) -> PreprocessingSpec:
    """The spec for these columns. Which order the rows are in makes no difference.

    Args:
        columns: By name, numbers, booleans, text, times or lists [n], as in `columns.py`.
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
) -> dict[str, Statistics]:
    """The statistics of one part of a table, but for excluded columns; see `fit`.

    Which statistics a column needs depends on what it holds, and on the type that `options` says.

    Raises:
        ColumnError: a column holds what cannot be used, or is named in the options and not there,
            or the columns have different numbers of rows.
    """
    _check_names("exclude_features", options.exclude_features, columns)
    _check_names("feature_overrides", options.feature_overrides, columns)
    _check_names("policies", options.policies, columns)
    found = {
        name: _statistics(name, column, options, row_keys)
        for name, column in columns.items()
        if name not in options.exclude_features
    }
    check_rows({name: statistics.rows for name, statistics in found.items()})
    return found


def merged(parts: Iterable[Mapping[str, Statistics]]) -> dict[str, Statistics]:
    """The statistics of all parts of a table, in whatever order.

    Raises:
        SpecError: there is no part, or they are of different columns or limits.
    """
    total: dict[str, Statistics] | None = None
    for part in parts:
        if total is None:
            total = dict(part)
            continue
        if total.keys() != part.keys():
            odd = ", ".join(sorted(total.keys() ^ part.keys())[:10])
            raise SpecError(f"only parts of the same columns can be merged; not in both: {odd}")
        total = {name: _merge(name, total[name], part[name]) for name in total}
    if total is None:
        raise SpecError("there are no statistics to merge")
    return total


def spec_of(
    statistics: Mapping[str, Statistics], options: FitOptions | None = None
) -> PreprocessingSpec:
    """The spec for columns of which these statistics are known; see `fit`."""
    options = options or FitOptions()
    if not statistics and options.exclude_features:
        raise SpecError(
            "exclude_features takes out all columns, and a preprocessing spec needs at least one "
            f"feature: leave in one of {', '.join(options.exclude_features[:30])}"
        )
    return PreprocessingSpec([_feature(n, each, options) for n, each in statistics.items()])


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

        features.append(_feature(name, statistics, options, Rules(trial, as_in_2020=True)))
    return PreprocessingSpec(features)


def _statistics(
    name: str, column: Any, options: FitOptions, row_keys: NDArray[np.uint64] | None
) -> Statistics:
    kind, forced = kind_of(name, column), options.type_of(name)
    if kind == "lists":
        return _list_statistics(name, column, options)
    if kind == "text":
        return CategoryStatistics.of_text(name, column, options.category_limit)
    if kind == "numbers" and forced in (Categorical.type, Hashed.type):
        return CategoryStatistics.of_integers(name, column, options.category_limit)
    policy = options.policies.get(name)
    clip = None if policy is None else policy.clip
    sample_rows = None if row_keys is None else options.sample_rows
    if kind != "numbers" or forced == Timestamp.type:
        return TimeStatistics.of(name, column, keys=row_keys, sample_rows=sample_rows, clip=clip)
    return ColumnStatistics.of(
        name,
        column,
        keys=row_keys,
        sample_rows=sample_rows,
        distinct_values=options.distinct_values,
        clip=clip,
    )


def _list_statistics(name: str, column: Any, options: FitOptions) -> Statistics:
    lists = lists_of(name, column)
    if not becomes_vector(name, lists, options):
        return ListStatistics.of(name, lists, options.category_limit)
    return VectorStatistics.of(name, lists)


def _merge(name: str, one: Statistics, other: Statistics) -> Statistics:
    try:
        match one, other:
            case ColumnStatistics(), ColumnStatistics():
                return one.merge(other)
            case CategoryStatistics(), CategoryStatistics():
                return one.merge(other)
            case TimeStatistics(), TimeStatistics():
                return one.merge(other)
            case VectorStatistics(), VectorStatistics():
                return one.merge(other)
            case ListStatistics(), ListStatistics():
                return one.merge(other)
    except SpecError as error:
        raise type(error)(f'column "{name}": {error}') from None
    raise SpecError(
        f'column "{name}" holds other things in one part than in another: '
        f"{type(one).__name__} and {type(other).__name__}"
    )


def _feature(
    name: str, statistics: Statistics, options: FitOptions, rules: Rules | None = None
) -> Feature:
    if isinstance(statistics, CategoryStatistics):
        return identify_categories(name, statistics, options)
    if isinstance(statistics, TimeStatistics):
        return identify_times(name, statistics, options)
    if isinstance(statistics, VectorStatistics):
        return identify_vector(name, statistics, options)
    if isinstance(statistics, ListStatistics):
        return identify_lists(name, statistics, options)
    return identify(name, statistics, options, rules)


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
