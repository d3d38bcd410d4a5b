"""Arrow's columns as preprocessing takes them: see `faucet_client.preprocessing.columns`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from faucet_client.preprocessing import Lists, Texts
from faucetd.errors import ColumnError
from faucetd.prepare.values import (
    element_type,
    fixed_length,
    is_text,
    microseconds_of,
    null_mask,
    numbers,
)


def raw_column(name: str, array: pa.Array[Any]) -> Any:
    """A column without a Python object a row: `Texts`, `Lists`, or an array, masked where null.

    Args:
        name: The column's, for messages.
        array: Of numbers, decimals, booleans, text, timestamps or dates, or of lists, [rows].

    Raises:
        ColumnError: it is text that is no UTF-8.
    """
    kind = array.type
    if is_text(kind):
        return _texts(name, array)
    if element_type(kind) is not None:
        return _lists(name, array)
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


def joined(column: pa.ChunkedArray[Any]) -> pa.Array[Any]:
    """The chunks of a column as one array; of text, one that may have more than 2 GiB."""
    if pa.types.is_string(column.type):
        column = column.cast(pa.large_string())
    return pa.concat_arrays(column.chunks)


def _texts(name: str, array: pa.Array[Any]) -> Texts:
    encoded: Any = array
    if not isinstance(array, pa.DictionaryArray):
        encoded = pc.dictionary_encode(array)
    codes = encoded.indices.cast(pa.int64()).fill_null(-1).to_numpy()
    try:
        values = tuple(encoded.dictionary.to_pylist())
    except UnicodeDecodeError as error:
        raise ColumnError(
            f'features: column "{name}" holds {error.object[:40]!r}, which is no UTF-8, as text '
            "must be: write the table anew with its texts converted, or leave the column out "
            "(exclude_features)"
        ) from None
    return Texts(codes, values)


def _lists(name: str, array: Any) -> Lists:
    width, nulls = fixed_length(array.type), null_mask(array)
    if width is None:
        lengths = numbers(array.value_lengths().fill_null(0)).astype(np.int64)
    else:
        lengths = np.full(len(array), width, np.int64)
    if nulls is not None:
        lengths[nulls] = 0
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    # `flatten`, unlike `values`, leaves out what lies under nulls and outside a slice.
    elements = raw_column(name, array.flatten())
    return Lists(elements, offsets, None if nulls is None else ~nulls, width)
