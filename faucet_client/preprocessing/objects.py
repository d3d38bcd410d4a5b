"""Columns of Python objects, as a model server has them, made into arrays.

A row that came as JSON has None where a value is missing, and a program has `datetime` objects;
columns out of a table (`columns.py`) have neither.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import numpy as np

_NUMBERS = (bool, int, float, Decimal, np.bool_, np.number)


def of_objects(column: Any) -> Any:
    """A list, or an array of objects, as an array of numbers or times, masked where it is missing.

    None, NaN and NaT are missing; a time without a zone is UTC. What is neither numbers nor times,
    such as text, or both, is left as it is.

    Args:
        column: One value a row, [n].

    Returns:
        Of numbers an array of the dtype that NumPy gives them (float64 if all are missing), of
        times datetime64[us]; masked. Else `column`.
    """
    if not (isinstance(column, list | tuple) or _has_objects(column)):
        return column
    values = list(column)
    there = [value is not None and not _is_nan(value) for value in values]
    given = [value for value, is_there in zip(values, there, strict=True) if is_there]
    array: Any
    if all(isinstance(value, _NUMBERS) for value in given):
        plain = [float(value) if isinstance(value, Decimal) else value for value in given]
        array = np.array(plain, None if plain else np.float64)
    elif all(isinstance(value, dt.date) for value in given):  # a datetime is a date
        array = np.array([_in_utc(value) for value in given], "datetime64[us]")
    else:
        return column
    if array.dtype == object:  # whole numbers beyond 64 bits
        return column
    spread = np.zeros(len(values), array.dtype)
    spread[there] = array
    return np.ma.masked_array(spread, np.logical_not(there))


def _has_objects(column: Any) -> bool:
    return isinstance(column, np.ndarray) and column.dtype == object and column.ndim == 1


def _is_nan(value: Any) -> bool:
    # Alone of all values, NaN and NaT are not equal to themselves.
    return isinstance(value, float | np.floating | np.datetime64 | dt.date) and value != value


def _in_utc(value: dt.date) -> dt.date:
    if isinstance(value, dt.datetime) and value.tzinfo is not None:
        return value.astimezone(dt.UTC).replace(tzinfo=None)
    return value
