"""From Arrow arrays to numpy values, without a copy where possible, and with what is lost counted.

Nulls are handled by the caller: a null's value here is whatever Arrow has in its place.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from faucet_client.layout import TEXT
from faucetd.errors import ColumnError
from faucetd.prepare.counts import ColumnCounts

EXACT_INTEGER = 2.0**24
"""Up to here float32 holds every integer."""

_MICROSECONDS = {"s": 1_000_000, "ms": 1_000}
_INT64_MAX = 2**63 - 1
_MS_A_DAY = 86_400_000


def numbers(array: pa.Array[Any]) -> NDArray[Any]:
    """The values of an array of fixed width, [rows], without a copy; dates and times as integers.

    Booleans alone are unpacked, to uint8.
    """
    if pa.types.is_boolean(array.type):
        return _bits(array, 1, invert=False)
    kind = "i"
    if pa.types.is_floating(array.type):
        kind = "f"
    elif pa.types.is_unsigned_integer(array.type):
        kind = "u"
    dtype = np.dtype(f"{kind}{array.type.bit_width // 8}")
    buffer = array.buffers()[1]
    if buffer is None or not len(array):
        return np.zeros(len(array), dtype)
    return np.frombuffer(memoryview(buffer), dtype, len(array), array.offset * dtype.itemsize)


def null_mask(array: pa.Array[Any]) -> NDArray[np.bool_] | None:
    """Which rows are null, bool [rows]; None if none is."""
    return _bits(array, 0, invert=True).view(np.bool_) if array.null_count else None


def put_nan(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> None:
    """Makes `values` NaN where `mask` is true, both [rows].

    Without a branch a value, which a mask of nulls here and there would make the processor guess
    wrong: two to three times faster than `np.putmask`. A float32 of ones alone is a quiet NaN.
    """
    ones = np.negative(mask.view(np.uint8), dtype=np.int32)
    values.view(np.int32)[:] |= ones


def limit_of(array_type: pa.DataType) -> float:
    """The magnitude in float32 from which on a value of this type may have lost something."""
    if pa.types.is_floating(array_type):
        return float("inf")
    return EXACT_INTEGER if array_type.bit_width > 24 else float("inf")


def losses(array: pa.Array[Any]) -> ColumnCounts:
    """Counts what an array's values lose in float32; slow, for arrays with something suspicious."""
    values, nulls = numbers(array), null_mask(array)
    if nulls is not None:
        values = values[~nulls]
    if not pa.types.is_floating(array.type):
        return ColumnCounts(rounded=_rounded(values))
    finite = np.isfinite(values)
    with np.errstate(over="ignore"):
        overflowed = finite & ~np.isfinite(values.astype(np.float32))
    return ColumnCounts(
        overflowed=int(overflowed.sum()), not_finite=len(values) - int(finite.sum())
    )


def fill_float32(array: pa.Array[Any], out: NDArray[np.float32]) -> ColumnCounts:
    """Casts an array into `out`, [rows], with NaN for null; counts what was lost but nulls."""
    with np.errstate(over="ignore", invalid="ignore"):
        np.copyto(out, numbers(array), casting="unsafe")
        limit = limit_of(array.type)
        suspicious = len(out) and not (out.max() < limit and out.min() > -limit)
    nulls = null_mask(array)
    if nulls is not None:
        put_nan(out, nulls)
    return losses(array) if suspicious else ColumnCounts()


def fill_passthrough(array: pa.Array[Any], name: str, out: NDArray[Any]) -> None:
    """Copies a whole array into `out`, [rows], of its storage dtype; null is NaN, or else 0.

    Raises:
        ColumnError: a value does not fit into int64.
    """
    values, nulls = numbers(array), null_mask(array)
    if nulls is not None:
        # What Arrow has in a null's place may be out of bounds, and must not differ between runs.
        values = np.where(nulls, values.dtype.type(0), values)
    kind = array.type
    if pa.types.is_uint64(kind) and len(values) and values.max() > _INT64_MAX:
        raise ColumnError(
            f'passthrough: column "{name}" holds {values.max()}, which does not fit into int64, '
            "torch's largest integers: cast it to text in the source's query"
        )
    if pa.types.is_date64(kind):
        values = values // _MS_A_DAY
    elif isinstance(kind, pa.TimestampType):
        values = _microseconds(values, kind.unit, name)
    np.copyto(out, values, casting="unsafe")
    if nulls is not None and out.dtype.kind == "f":
        np.putmask(out, nulls, np.nan)


def own_text(array: pa.Array[Any]) -> pa.LargeStringArray:
    """A text array as large_utf8, in memory of its own.

    Of its own, because a batch of a stream is often one buffer, and keeping a view of one column
    for as long as a chunk takes would keep them all.
    """
    if isinstance(array, pa.DictionaryArray):
        array = array.dictionary_decode()
    text = cast(pa.LargeStringArray, pc.cast(array, pa.large_utf8()))
    return pa.concat_arrays([text, text.slice(0, 0)])  # of one array alone it would be a view


def storage_dtype(array_type: pa.DataType) -> str | None:
    """The dtype in which a passthrough column of this type is stored; None if it cannot be."""
    types = pa.types
    if types.is_boolean(array_type):
        return "bool"
    if types.is_uint8(array_type) or types.is_signed_integer(array_type):
        return str(array_type)
    if types.is_floating(array_type):
        return str(np.dtype(array_type.to_pandas_dtype()))
    if types.is_integer(array_type) or types.is_date(array_type) or types.is_timestamp(array_type):
        return "int64"
    return TEXT if is_text(array_type) else None


def is_number(array_type: pa.DataType) -> bool:
    """Whether float32 can be made of it: integers, floats and booleans."""
    types = pa.types
    return bool(
        types.is_integer(array_type)
        or types.is_floating(array_type)
        or types.is_boolean(array_type)
    )


def is_text(array_type: pa.DataType) -> bool:
    """Whether it is text, in any of Arrow's ways, or a dictionary of text."""
    if isinstance(array_type, pa.DictionaryType):
        array_type = array_type.value_type
    types = pa.types
    return bool(
        types.is_string(array_type)
        or types.is_large_string(array_type)
        or types.is_string_view(array_type)
    )


def _microseconds(values: NDArray[np.int64], unit: str, name: str) -> NDArray[np.int64]:
    if unit == "ns":
        return values // 1_000
    factor = _MICROSECONDS.get(unit, 1)
    largest = max(int(values.max()), -int(values.min())) if len(values) else 0
    if factor > 1 and largest > _INT64_MAX // factor:
        raise ColumnError(
            f'passthrough: column "{name}" holds a timestamp that does not fit into int64 '
            "microseconds: cast it in the source's query"
        )
    return values * factor


def _rounded(values: NDArray[Any]) -> int:
    """How many integers have more significant bits, from the first 1 to the last, than float32."""
    if values.dtype.kind == "i":
        # abs(-2^63) is itself in int64, and right again as an unsigned number.
        values = np.abs(values.astype(np.int64))
    magnitudes = values.astype(np.uint64)
    large = magnitudes[magnitudes > EXACT_INTEGER]
    last_bits = large & (~large + np.uint64(1))
    return int((large // last_bits > EXACT_INTEGER).sum())


def _bits(array: pa.Array[Any], index: int, *, invert: bool) -> NDArray[np.uint8]:
    """One of an array's bitmaps as a byte a row, 0 or 1."""
    buffer = array.buffers()[index]
    if buffer is None:
        return np.zeros(len(array), np.uint8)
    first = array.offset // 8
    stop = -(-(array.offset + len(array)) // 8)
    packed = np.frombuffer(memoryview(buffer), np.uint8, stop - first, first)
    bits = np.unpackbits(~packed if invert else packed, bitorder="little")
    skip = array.offset % 8
    return bits[skip : skip + len(array)]
