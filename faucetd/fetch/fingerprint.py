"""FarmHash's Fingerprint64 of many short values at a time.

`pyfarmhash` hashes one Python object a call, which takes longer than all else that happens to a row
of a narrow table. Keys are mostly numbers and short text, and for up to 32 bytes the hash is a few
multiplications: those are done for whole columns at a time; the rare longer values are left to
`pyfarmhash`.

The algorithm is `farmhashna::Hash64` of https://github.com/google/farmhash (src/farmhash.cc).
"""

from __future__ import annotations

from typing import Any

import farmhash
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_U64 = npt.NDArray[np.uint64]

_K0 = np.uint64(0xC3A5C85C97CB3127)
_K1 = np.uint64(0xB492B66FBE98F273)
_K2 = np.uint64(0x9AE16A3B2F90404F)
_LONGEST = 32


def fingerprints(values: pa.Array[Any]) -> _U64:
    """The fingerprint of each value, uint64 [rows].

    Args:
        values: A large_binary array without nulls.
    """
    _, offsets_buffer, data_buffer = values.buffers()
    if not len(values) or offsets_buffer is None:
        return np.empty(len(values), np.uint64)
    offsets = np.frombuffer(
        memoryview(offsets_buffer), np.int64, len(values) + 1, values.offset * 8
    )
    starts = offsets[:-1]
    lengths = np.diff(offsets)
    data = np.frombuffer(memoryview(data_buffer or b""), np.uint8)
    found = np.empty(len(values), np.uint64)
    # All that are too long are of one kind.
    kinds = np.minimum(lengths, _LONGEST + 1)
    for length in np.flatnonzero(np.bincount(kinds)).tolist():
        rows = np.flatnonzero(kinds == length)
        if length > _LONGEST:
            long: list[Any] = values.take(pa.array(rows, pa.int64())).to_pylist()
            found[rows] = np.fromiter(map(farmhash.fingerprint64, long), np.uint64, len(long))
        else:
            found[rows] = _of_length(data, starts[rows], length)
    return found


def row_fingerprints(batch: pa.RecordBatch) -> _U64:
    """A hash of each row's values, uint64 [rows]: equal rows have equal ones.

    Args:
        batch: Columns of numbers, decimals, booleans, times and text, and of lists of such; null is
            a value of its own.
    """
    found = np.zeros(batch.num_rows, np.uint64)
    for column in batch.columns:
        found = _scattered(found ^ _column_hashes(column))
    return found


def row_digests(batch: pa.RecordBatch) -> _U64:
    """Another hash of each row's values, uint64 [rows]: of numbers and times by their bits.

    So it is several times faster than `row_fingerprints` where values are all different; it tells
    0.0 from -0.0, and int32 from int64.

    Args:
        batch: Columns as for `row_fingerprints`.
    """
    found = np.zeros(batch.num_rows, np.uint64)
    for column in batch.columns:
        if pa.types.is_nested(column.type):
            hashes = _list_hashes(column)
        else:
            hashes = _element_hashes(_as_numbers(column))
        found = _scattered(found ^ hashes)
    return found


def _as_numbers(column: pa.Array[Any]) -> pa.Array[Any]:
    """Dates and times as the integers that they are held in; all else as it is."""
    if not pa.types.is_temporal(column.type) or pa.types.is_interval(column.type):
        return column
    return column.view(pa.int32() if column.type.bit_width == 32 else pa.int64())


def _column_hashes(column: pa.Array[Any]) -> _U64:
    if pa.types.is_nested(column.type):
        return _list_hashes(column)
    encoded: Any = pc.dictionary_encode(column)
    values: pa.Array[Any] = encoded.dictionary
    if not pa.types.is_binary(values.type) and not pa.types.is_large_binary(values.type):
        values = values.cast(pa.string())
    hashes = np.append(fingerprints(values.cast(pa.large_binary())), _K1)
    places = encoded.indices.cast(pa.int64()).fill_null(len(values)).to_numpy()
    found: _U64 = hashes[places]
    return found


def _list_hashes(column: Any) -> _U64:
    """A hash of each list, which follows from its elements, their order and their number."""
    elements = column.flatten()
    lengths = column.value_lengths().fill_null(0).to_numpy().astype(np.int64)
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    places = np.arange(len(elements)) - np.repeat(bounds[:-1], lengths)
    hashes = _scattered(_element_hashes(elements) ^ _scattered(places.astype(np.uint64)))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(hashes)])
    found: _U64 = _scattered(sums[bounds[1:]] - sums[bounds[:-1]]) ^ lengths.astype(np.uint64)
    if column.null_count:
        found[column.is_null().to_numpy(zero_copy_only=False)] = _K1
    return found


def _element_hashes(elements: Any) -> _U64:
    """Of numbers by their bits: embeddings have many, and their texts would take long."""
    if not pa.types.is_integer(elements.type) and not pa.types.is_floating(elements.type):
        return _column_hashes(elements)
    values = elements.fill_null(0).to_numpy(zero_copy_only=False)
    bits: _U64 = values.view(f"u{values.itemsize}").astype(np.uint64)
    found = _scattered(bits)
    if elements.null_count:
        found[elements.is_null().to_numpy(zero_copy_only=False)] = _K1
    return found


def _scattered(values: _U64) -> _U64:
    """A bijection whose every bit depends on all: so does the next column's effect on them."""
    values = (values ^ (values >> np.uint64(32))) * _K2
    values = (values ^ (values >> np.uint64(29))) * _K0
    return values ^ (values >> np.uint64(32))


def _of_length(data: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], length: int) -> _U64:
    """The fingerprints of the values of one length, up to 32 bytes, that begin at `starts`."""
    if length == 0:
        return np.full(len(starts), _K2)
    if length < 4:
        first, middle, last = (
            data[starts + at].astype(np.uint64) for at in (0, length >> 1, length - 1)
        )
        y = first + (middle << np.uint64(8))
        z = np.uint64(length) + (last << np.uint64(2))
        return _mix(y * _K2 ^ z * _K0) * _K2
    with np.errstate(over="ignore"):
        mul = _K2 + np.uint64(2 * length)
    if length < 8:
        words = _words(data, "<u4")
        low, high = words[starts].astype(np.uint64), words[starts + length - 4].astype(np.uint64)
        return _pair(np.uint64(length) + (low << np.uint64(3)), high, mul)
    words = _words(data, "<u8")
    if length <= 16:
        a = words[starts] + _K2
        b = words[starts + length - 8]
        return _pair(_rotate(b, 37) * mul + a, (_rotate(a, 25) + b) * mul, mul)
    a = words[starts] * _K1
    b = words[starts + 8]
    c = words[starts + length - 8] * mul
    d = words[starts + length - 16] * _K2
    return _pair(_rotate(a + b, 43) + _rotate(c, 30) + d, a + _rotate(b + _K2, 18) + c, mul)


def _words(data: npt.NDArray[np.uint8], dtype: str) -> npt.NDArray[Any]:
    """The little-endian words that begin at each byte."""
    size = np.dtype(dtype).itemsize
    return np.ndarray((len(data) - size + 1,), dtype, data, strides=(1,))


def _pair(u: _U64, v: _U64, mul: np.uint64) -> _U64:
    a = _mix((u ^ v) * mul)
    return _mix((v ^ a) * mul) * mul


def _mix(value: _U64) -> _U64:
    return value ^ (value >> np.uint64(47))


def _rotate(value: _U64, bits: int) -> _U64:
    return (value >> np.uint64(bits)) | (value << np.uint64(64 - bits))
