"""From Arrow arrays to numpy values, without a copy where possible, and with what is lost counted.

Nulls are handled by the caller: a null's value here is whatever Arrow has in its place.
"""

from __future__ import annotations

from decimal import Decimal
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

_EXACT_UNSCALED = 2**53
"""Up to here float64 holds every integer."""

_EXACT_POWER = 22
"""Up to here float64 holds every power of ten."""

_KINDS: dict[str, list[pa.DataType]] = {
    "i1": [pa.int8()],
    "i2": [pa.int16()],
    "i4": [pa.int32(), pa.date32(), pa.time32("s")],
    "i8": [pa.int64(), pa.date64(), pa.time64("us"), pa.timestamp("us"), pa.duration("us")],
    "u1": [pa.uint8()],
    "u2": [pa.uint16()],
    "u4": [pa.uint32()],
    "u8": [pa.uint64()],
    "f2": [pa.float16()],
    "f4": [pa.float32()],
    "f8": [pa.float64()],
}

_DTYPES = {kind.id: np.dtype(dtype) for dtype, kinds in _KINDS.items() for kind in kinds}
"""How the values of a type lie in memory, by the type's id. It is asked for once a column and
batch, where looking closer at the type takes longer than casting the values of a small batch."""

_MICROSECONDS = {"s": 1_000_000, "ms": 1_000}
_INT64_MAX = 2**63 - 1
_MS_A_DAY = 86_400_000


def numbers(array: pa.Array[Any]) -> NDArray[Any]:
    """The values of an array of fixed width, [rows], without a copy; dates and times as integers.

    Booleans are unpacked, to uint8, and decimals become the nearest float64.
    """
    dtype = _DTYPES.get(array.type.id)
    if dtype is None:
        return _bits(array, 1, invert=False) if pa.types.is_boolean(array.type) else _doubles(array)
    buffer = array.buffers()[1]
    if buffer is None or not len(array):
        return np.zeros(len(array), dtype)
    return np.frombuffer(memoryview(buffer), dtype, len(array), array.offset * dtype.itemsize)


def microseconds_of(array: pa.Array[Any]) -> NDArray[np.int64]:
    """Timestamps or dates as microseconds since 1970, [rows]; of nulls, whatever there is.

    Those beyond int64 are at its ends.
    """
    kind = array.type
    values = numbers(array).astype(np.int64, copy=False)
    if pa.types.is_date32(kind):
        return _scaled(values, _MS_A_DAY * 1_000)
    if pa.types.is_date64(kind):
        return _scaled(values, 1_000)
    unit = cast("pa.TimestampType[Any, Any]", kind).unit
    return values // 1_000 if unit == "ns" else _scaled(values, _MICROSECONDS.get(unit, 1))


def _scaled(values: NDArray[np.int64], factor: int) -> NDArray[np.int64]:
    limit = _INT64_MAX // factor
    return values if factor == 1 else np.clip(values, -limit, limit) * factor


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
    if pa.types.is_decimal(array_type):
        decimal = cast("pa.Decimal128Type[Any, Any]", array_type)
        may_be_large = 10.0 ** (decimal.precision - decimal.scale) > EXACT_INTEGER
        return EXACT_INTEGER if may_be_large else float("inf")
    return EXACT_INTEGER if array_type.bit_width > 24 else float("inf")


def losses(array: pa.Array[Any]) -> ColumnCounts:
    """Counts what an array's values lose in float32; slow, for arrays with something suspicious."""
    if pa.types.is_decimal(array.type):
        return _decimal_losses(array)
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


def fill_passthrough(array: pa.Array[Any], name: str, out: NDArray[Any]) -> ColumnCounts:
    """Copies a whole array into `out`, [rows], of its storage dtype; null is NaN, or else 0.

    A decimal becomes the nearest float64, since a price is handed over to be computed with, and
    text would have to be parsed by every trainer. That gives back any value of up to 15 digits, and
    those that it does not give back are counted as rounded.

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
    elif isinstance(kind, pa.TimestampType | pa.Time32Type | pa.Time64Type):
        values = _microseconds(values.astype(np.int64, copy=False), kind.unit, name)
    np.copyto(out, values, casting="unsafe")
    if nulls is not None and out.dtype.kind == "f":
        np.putmask(out, nulls, np.nan)
    if pa.types.is_decimal(kind):
        return ColumnCounts(rounded=_not_given_back(array, values))
    return ColumnCounts()


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
    if types.is_decimal(array_type):
        return "float64"
    if types.is_integer(array_type) or types.is_temporal(array_type):
        return None if _is_span(array_type) else "int64"
    return TEXT if is_text(array_type) else None


def is_number(array_type: pa.DataType) -> bool:
    """Whether float32 can be made of it: integers, floats, decimals and booleans."""
    types = pa.types
    return bool(
        types.is_integer(array_type)
        or types.is_floating(array_type)
        or types.is_decimal(array_type)
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


def element_type(array_type: pa.DataType) -> pa.DataType | None:
    """The type of a list's elements; None if it is no list."""
    types = pa.types
    is_list = types.is_list(array_type) or types.is_large_list(array_type)
    if not is_list and not types.is_fixed_size_list(array_type):
        return None
    found: pa.DataType = cast("pa.ListType[Any]", array_type).value_type
    return found


def fixed_length(array_type: pa.DataType) -> int | None:
    """How many elements a list has by its type; None if that does not say, or it is no list."""
    length: int | None = getattr(array_type, "list_size", None)
    return length


def _is_span(array_type: pa.DataType) -> bool:
    return pa.types.is_interval(array_type) or pa.types.is_duration(array_type)


def _doubles(array: pa.Array[Any]) -> NDArray[np.float64]:
    """The float64 nearest to each decimal, [rows]; 0 for null.

    Arrow's own cast (26.0) is off by one unit in the last place for one NUMERIC in five of random
    length. Its texts are exact, and so is its reader of texts, at a sixth of the speed. So the
    common case is computed here: a quotient of two whole numbers that float64 holds exactly is
    rounded once.
    """
    kind = array.type
    if array.null_count:
        array = pc.fill_null(array, pa.scalar(0, kind))
    if isinstance(kind, pa.Decimal128Type) and kind.scale <= _EXACT_POWER:
        buffer = array.buffers()[1]
        if buffer is None or not len(array):
            return np.zeros(len(array))
        words = np.frombuffer(memoryview(buffer), np.int64, 2 * len(array), 16 * array.offset)
        low, high = words[0::2], words[1::2]
        small = (high == low >> 63) & (low <= _EXACT_UNSCALED) & (low >= -_EXACT_UNSCALED)
        values: NDArray[np.float64] = low / 10.0**kind.scale
        if not small.all():
            values[~small] = _doubles_of_text(array.filter(pa.array(~small)))
        return values
    return _doubles_of_text(array)


def _doubles_of_text(array: pa.Array[Any]) -> NDArray[np.float64]:
    doubles = array.cast(pa.string()).cast(pa.float64())
    values: NDArray[np.float64] = doubles.to_numpy(zero_copy_only=False)
    return values


def _decimal_losses(array: pa.Array[Any]) -> ColumnCounts:
    """What decimals lose in float32, but for fractions, which it rounds like those of float64."""
    array = pc.drop_null(array)
    with np.errstate(over="ignore"):
        singles = _doubles(array).astype(np.float32)
    finite = np.isfinite(singles)
    large = finite & (np.abs(singles) >= EXACT_INTEGER)
    # Python compares decimals with floats exactly.
    decimals = cast("list[Decimal]", array.filter(pa.array(large)).to_pylist())
    pairs = zip(decimals, singles[large].astype(float).tolist(), strict=True)
    return ColumnCounts(
        rounded=sum(
            exact.copy_abs() > EXACT_INTEGER and exact != single for exact, single in pairs
        ),
        overflowed=len(singles) - int(finite.sum()),
    )


def _not_given_back(array: pa.Array[Any], values: NDArray[np.float64]) -> int:
    """How many decimals are not what the shortest text of their float64 says."""
    text = pa.array(values).cast(pa.string())
    try:
        given_back = text.cast(array.type)
    except pa.ArrowInvalid:
        # Rounding may add a digit, and BIGNUMERIC's largest have 77, where Arrow's type has 76.
        pairs = zip(array.to_pylist(), cast("list[str]", text.to_pylist()), strict=True)
        return sum(exact is not None and exact != Decimal(shortest) for exact, shortest in pairs)
    return int(pc.not_equal(given_back, array).true_count)


def _microseconds(values: NDArray[np.int64], unit: str, name: str) -> NDArray[np.int64]:
    if unit == "ns":
        return values // 1_000
    factor = _MICROSECONDS.get(unit, 1)
    largest = max(int(values.max()), -int(values.min())) if len(values) else 0
    if factor > 1 and largest > _INT64_MAX // factor:
        raise ColumnError(
            f'passthrough: column "{name}" holds a time that does not fit into int64 '
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
