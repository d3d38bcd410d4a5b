"""Columns of batches as pandas data frames, for compat.py.

The frames are a batch's own memory: they can be written to and kept, and keep no chunk. Their index
counts from 0. What the warehouse has becomes:

    an integer              int64; where this batch lacks a value float64 with NaN, or, if a number
                            is beyond 2^53, object with None: no number is ever rounded
    FLOAT64, NUMERIC        float64, a missing value is NaN
    BOOL                    bool; where this batch lacks a value object with None
    STRING                  object: str, and None
    DATE                    as an integer: days since 1970-01-01
    TIMESTAMP, DATETIME     as an integer: microseconds since 1970-01-01 00:00 UTC
    TIME                    as an integer: microseconds since midnight
    STRUCT in a STRUCT      its leaves, "outer.leaf"

Files may have narrower numbers, which stay as narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from faucet_client.batch import Batch

if TYPE_CHECKING:
    import pandas as pd

_EXACT_INTEGER = 2**53
"""Up to here float64 holds every integer."""

Column = tuple[NDArray[Any], NDArray[np.bool_] | None]
"""Values in memory of their own, and where there is one: None for everywhere."""


def columns_of(batch: Batch, names: Mapping[str, str]) -> dict[str, Column]:
    """Columns of a batch; `names`: the dataset's, by those that they get."""
    passthrough, valid = batch.passthrough, batch.valid
    columns: dict[str, Column] = {}
    for name, source in names.items():
        values, known = passthrough[source], valid[source].numpy()
        columns[name] = (
            # Text is decoded anew each time it is asked for, so it is our own.
            values.numpy().copy() if isinstance(values, torch.Tensor) else values,
            None if known.all() else known.copy(),
        )
    return columns


def joined(parts: Sequence[Column]) -> Column:
    """One column of the rows of all parts, so that its dtype is decided once for all."""
    values = np.concatenate([values for values, _ in parts])
    if all(known is None for _, known in parts):
        return values, None
    return values, np.concatenate(
        [np.ones(len(values), np.bool_) if known is None else known for values, known in parts]
    )


def frame(columns: Mapping[str, Column]) -> pd.DataFrame:
    """A data frame of the columns, which it takes over."""
    pandas = import_pandas()
    index = pandas.RangeIndex(len(next(iter(columns.values()))[0]))
    series = {}
    for name, column in columns.items():
        values = _with_missing(*column)
        if values.dtype == object:
            # By itself, pandas 3 would make texts its own type of text.
            values = pandas.Series(values, index=index, dtype=object, copy=False)
        series[name] = values
    whole: pd.DataFrame = pandas.DataFrame(series, index=index, copy=False)
    return whole


def columns_in(given: pd.DataFrame) -> dict[str, Column]:
    """The columns of a data frame; numbers and booleans as such, also where values are missing."""
    return {str(name): _column_in(given[name]) for name in given.columns}


def _column_in(series: pd.Series) -> Column:
    values = series.to_numpy()
    if values.dtype != object:
        return values, None  # a missing one is NaN
    known = ~series.isna().to_numpy()
    found = np.array(values[known].tolist())
    if found.dtype.kind not in "biuf":
        return values, known
    filled = np.zeros(len(values), found.dtype)
    filled[known] = found
    return filled, known


def _with_missing(values: NDArray[Any], known: NDArray[np.bool_] | None) -> NDArray[Any]:
    """The values in the narrowest dtype that has them all and the missing ones; see the module."""
    if known is None or values.dtype.kind in "fO":
        return values  # a missing one is NaN or None already
    if values.dtype.kind in "iu" and not (
        values.max() > _EXACT_INTEGER or values.min() < -_EXACT_INTEGER
    ):
        doubles = values.astype(np.float64)
        doubles[~known] = np.nan
        return doubles
    objects = values.astype(object)
    objects[~known] = None
    return objects


def import_pandas() -> Any:
    """The package pandas, which only this interface needs.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        import pandas
    except ModuleNotFoundError as error:
        if error.name != "pandas":
            raise
        raise ModuleNotFoundError(
            "get_client hands out pandas DataFrames, and pandas is not installed: "
            "pip install 'faucetml[compat]>=0.1', or from a clone pip install '.[compat]'",
            name="pandas",
        ) from None
    return pandas
