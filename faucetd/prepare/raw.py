"""Arrow's columns as preprocessing takes them: see `faucet_client.preprocessing.columns`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from faucet_client.preprocessing import Lists, Texts
from faucetd.prepare.values import (
    element_type,
    fixed_length,
    is_text,
    microseconds_of,
    null_mask,
    numbers,
)


def raw_column(array: pa.Array[Any]) -> Any:
    """A column without a Python object a row: `Texts`, `Lists`, or an array, masked where null.

    Args:
        array: Of numbers, decimals, booleans, text, timestamps or dates, or of lists, [rows].
    """
    kind = array.type
    if is_text(kind):
        return _texts(array)
    if element_type(kind) is not None:
        return _lists(array)
    values: Any
    if pa.types.is_boolean(kind):
        values = numbers(array).view(np.bool_)
    elif pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        values = microseconds_of(array)
        unit = "datetime64[D]" if pa.types.is_date(kind) else "datetime64[us]"
        values = values.view("datetime64[us]").astype(unit)
    else:
        values = numbers(array)
    nulls = null_mask(array)
    return values if nulls is None else np.ma.masked_array(values, nulls)


def _texts(array: pa.Array[Any]) -> Texts:
    encoded: Any = array
    if not isinstance(array, pa.DictionaryArray):
        encoded = pc.dictionary_encode(array)
    codes = encoded.indices.cast(pa.int64()).fill_null(-1).to_numpy()
    return Texts(codes, tuple(encoded.dictionary.to_pylist()))


def _lists(array: Any) -> Lists:
    width, nulls = fixed_length(array.type), null_mask(array)
    if width is None:
        lengths = numbers(array.value_lengths().fill_null(0)).astype(np.int64)
    else:
        lengths = np.full(len(array), width, np.int64)
    if nulls is not None:
        lengths[nulls] = 0
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    # `flatten`, unlike `values`, leaves out what lies under nulls and outside a slice.
    elements = raw_column(array.flatten())
    return Lists(elements, offsets, None if nulls is None else ~nulls, width)
