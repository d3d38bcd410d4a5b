"""A segment as an Arrow IPC file: its schema, what it says of itself, where its columns lie.

One record batch holds everything. The Arrow column `label:clicked` has the role "label" and the
name "clicked", which its field's metadata say in so many words, and `valid:label:clicked` has one
byte a row, 1 where `label:clicked` has a value. Arrow's own validity bitmaps are not used: a client
makes tensors of bytes without unpacking them, and one rule serves every type. Booleans are bytes
for the same reason; the metadata give their true dtype.
"""

from __future__ import annotations

import io
import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from faucet_client._memory import page_rounded
from faucet_client.layout import TEXT, ColumnLayout, Role, SegmentLayout

ALIGNMENT = 8
"""What Arrow's writer aligns every buffer to."""

_VERSION_KEY = b"faucet.segment"
_VERSION = b"1"
_PADDING_KEY = b"faucet.padding"
_VALID = "valid"

_ARROW_TYPES: Mapping[str, pa.DataType] = {
    "float16": pa.float16(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint8": pa.uint8(),
    "bool": pa.uint8(),
}


ColumnKey = tuple[Role, str]
"""A role and a name: what identifies a column of a segment."""


class FixedColumn(NamedTuple):
    """A column of fixed width, as the writer of a segment is asked for it.

    Attributes:
        dtype: A numpy dtype's name: a bool, or any number that torch and Arrow have alike.
        width: Values a row. The matrix of features is [rows, width]; all else is [rows], width 1.
    """

    role: Role
    name: str
    dtype: str
    width: int = 1

    @property
    def key(self) -> ColumnKey:
        """Its role and name."""
        return (self.role, self.name)

    @property
    def row_nbytes(self) -> int:
        """The bytes of one row."""
        return np.dtype(self.dtype).itemsize * self.width


def fixed_field(column: FixedColumn) -> pa.Field[Any]:
    """The Arrow field of a fixed-width column; for the matrix, a fixed-size list of any width."""
    values = _ARROW_TYPES[column.dtype]
    arrow_type = pa.list_(values, column.width) if column.role is Role.FEATURES else values
    return _field(column.key, column.dtype, arrow_type)


def variable_field(key: ColumnKey) -> pa.Field[Any]:
    """The Arrow field of a column of variable width: of lists of ids, or of text."""
    if key[0] is Role.RAGGED:
        return _field(key, "int64", pa.large_list(pa.field("item", pa.int64(), nullable=False)))
    return _field(key, TEXT, pa.large_utf8())


def valid_field(key: ColumnKey) -> pa.Field[Any]:
    """The Arrow field of a column's validity bytes."""
    metadata = {"faucet.role": _VALID, "faucet.of": key[0].value, "faucet.name": key[1]}
    return pa.field(f"{_VALID}:{_column_name(key)}", pa.uint8(), nullable=False, metadata=metadata)


def array_over(field: pa.Field[Any], rows: int, values: pa.Buffer) -> pa.Array[Any]:
    """An Arrow array of `field` over memory that is there already; nothing is copied.

    Args:
        field: The column.
        rows: How many there are.
        values: The values, all rows one after another; or the int64 offsets of texts without any
            character, or of lists without any element.
    """
    if isinstance(field.type, pa.FixedSizeListType):
        numbers = pa.Array.from_buffers(
            field.type.value_type, rows * field.type.list_size, [None, values], null_count=0
        )
        return pa.Array.from_buffers(field.type, rows, [None], null_count=0, children=[numbers])
    if pa.types.is_large_list(field.type):
        elements = pa.array([], field.type.value_type)
        buffers = [None, values]
        return pa.Array.from_buffers(field.type, rows, buffers, null_count=0, children=[elements])
    buffers = [None, values, pa.py_buffer(b"")] if _is_text(field) else [None, values]
    return pa.Array.from_buffers(field.type, rows, buffers, null_count=0)


class Write(NamedTuple):
    """One write of Arrow's, and where in the file it goes."""

    position: int
    data: pa.Buffer


class Recording:
    """What Arrow's writer would write for a file of one record batch, without anything written.

    The columns' buffers are those of the batch itself, so a recording shows where each of them must
    lie in the file, and whoever has placed them there already need not write them.

    Args:
        fields: The columns, in order.
        arrays: Their values.
        padding_nbytes: Makes the batch's header so much longer, when a multiple of 8.

    Attributes:
        writes: All there is to write, in order of position, without a gap.
        nbytes: The size of the whole file.
        values_offset: Where the first column's values begin.
    """

    def __init__(
        self,
        fields: Sequence[pa.Field[Any]],
        arrays: Sequence[pa.Array[Any]],
        padding_nbytes: int = 0,
    ) -> None:
        sink = _Sink()
        schema = pa.schema(fields, metadata={_VERSION_KEY: _VERSION})
        batch = pa.RecordBatch.from_arrays(list(arrays), schema=schema)
        # The padding is the batch's, not the schema's, since that would be in the footer again.
        padding = {_PADDING_KEY: b" " * padding_nbytes}
        with pa.ipc.new_file(pa.PythonFile(sink, mode="w"), schema) as writer:
            writer.write_batch(batch, custom_metadata=padding)
        self.writes: Sequence[Write] = sink.writes
        self.nbytes = sink.nbytes
        first = _values(arrays[0]).address
        self.values_offset = next(w.position for w in sink.writes if w.data.address == first)


class _Sink(io.RawIOBase):
    """What Arrow's writer writes to."""

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.nbytes = 0

    def writable(self) -> bool:
        """Arrow asks."""
        return True

    def write(self, data: Any, /) -> int:  # a pa.Buffer of the batch, or bytes of Arrow's own
        """Notes what is written, and keeps it alive."""
        buffer = pa.py_buffer(data)
        if buffer.size:
            self.writes.append(Write(self.nbytes, buffer))
        self.nbytes += buffer.size
        return buffer.size

    def tell(self) -> int:
        """The position, from the file's start."""
        return self.nbytes


def read_layout(file: str | os.PathLike[str] | int | pa.Buffer) -> SegmentLayout:
    """Where the columns of a segment's file lie, as the file itself says.

    Args:
        file: A path, a file descriptor (left open and where it stood), or the file's bytes.

    Raises:
        ValueError: it is no segment, or no complete Arrow file (pyarrow.ArrowInvalid).
        OSError: it cannot be read.
    """
    data = file if isinstance(file, pa.Buffer) else _mapped(file)
    reader = pa.ipc.open_file(pa.BufferReader(data))
    version = (reader.schema.metadata or {}).get(_VERSION_KEY)
    if version != _VERSION:
        raise ValueError(f"this Arrow file is no segment of version {_VERSION!r}, but {version!r}")
    batch = reader.get_batch(0)
    columns: dict[ColumnKey, ColumnLayout] = {}
    valid: dict[ColumnKey, int] = {}
    for field, array in zip(batch.schema, batch.columns, strict=True):
        said = {word.decode(): value.decode() for word, value in (field.metadata or {}).items()}
        offset = _values(array).address - data.address
        if said["faucet.role"] == _VALID:
            valid[(Role(said["faucet.of"]), said["faucet.name"])] = offset
            continue
        key = (Role(said["faucet.role"]), said["faucet.name"])
        width = field.type.list_size if isinstance(field.type, pa.FixedSizeListType) else 1
        column = ColumnLayout(*key, said["faucet.dtype"], width, offset)
        variable = column.dtype == TEXT or column.role is Role.RAGGED
        columns[key] = _with_data(column, array, data) if variable else column
    return SegmentLayout(
        rows=batch.num_rows,
        nbytes=page_rounded(data.size),
        columns=tuple(replace(c, valid_offset=valid.get(key)) for key, c in columns.items()),
    )


def _with_data(column: ColumnLayout, array: pa.Array[Any], data: pa.Buffer) -> ColumnLayout:
    """With where the characters or elements are, of which the offsets tell how many."""
    _, offsets, *_, values = array.buffers()
    assert offsets is not None
    count = int(np.frombuffer(memoryview(offsets), np.int64, count=len(array) + 1)[-1])
    if values is None or not count:
        return column
    size = 1 if column.dtype == TEXT else np.dtype(column.dtype).itemsize
    return replace(column, text_offset=values.address - data.address, text_nbytes=count * size)


def _values(array: pa.Array[Any]) -> pa.Buffer:
    """The buffer of a column's fixed-width values, or of the offsets of texts or lists."""
    # A fixed-size list has [its validity, its values' validity, the values]; others [validity, …].
    buffer = array.buffers()[2 if pa.types.is_fixed_size_list(array.type) else 1]
    assert buffer is not None
    return buffer


def _is_text(field: pa.Field[Any]) -> bool:
    return bool(pa.types.is_large_string(field.type))


def _field(key: ColumnKey, dtype: str, arrow_type: pa.DataType) -> pa.Field[Any]:
    metadata = {"faucet.role": key[0].value, "faucet.name": key[1], "faucet.dtype": dtype}
    return pa.field(_column_name(key), arrow_type, nullable=False, metadata=metadata)


def _column_name(key: ColumnKey) -> str:
    return "features" if key[0] is Role.FEATURES else f"{key[0].value}:{key[1]}"


def _mapped(file: str | os.PathLike[str] | int) -> pa.Buffer:
    fd = file if isinstance(file, int) else os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Only the pages that are looked at are read: those of the headers and the footer.
        return pa.py_buffer(mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ))
    finally:
        if fd is not file:
            os.close(fd)
