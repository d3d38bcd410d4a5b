from faucet_protos.v1 import handoff_pb2 as _handoff_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReaderMessage(_message.Message):
    __slots__ = ("credit", "advance")
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    ADVANCE_FIELD_NUMBER: _ClassVar[int]
    credit: Credit
    advance: AdvanceEpoch
    def __init__(self, credit: _Optional[_Union[Credit, _Mapping]] = ..., advance: _Optional[_Union[AdvanceEpoch, _Mapping]] = ...) -> None: ...

class DaemonMessage(_message.Message):
    __slots__ = ("grant", "error", "beside")
    GRANT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    BESIDE_FIELD_NUMBER: _ClassVar[int]
    grant: Grant
    error: _handoff_pb2.Error
    beside: bool
    def __init__(self, grant: _Optional[_Union[Grant, _Mapping]] = ..., error: _Optional[_Union[_handoff_pb2.Error, _Mapping]] = ..., beside: _Optional[bool] = ...) -> None: ...

class Credit(_message.Message):
    __slots__ = ("grants", "rows_consumed", "seconds_waited", "position_epochs")
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    ROWS_CONSUMED_FIELD_NUMBER: _ClassVar[int]
    SECONDS_WAITED_FIELD_NUMBER: _ClassVar[int]
    POSITION_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    grants: int
    rows_consumed: int
    seconds_waited: float
    position_epochs: float
    def __init__(self, grants: _Optional[int] = ..., rows_consumed: _Optional[int] = ..., seconds_waited: _Optional[float] = ..., position_epochs: _Optional[float] = ...) -> None: ...

class AdvanceEpoch(_message.Message):
    __slots__ = ("epoch",)
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    def __init__(self, epoch: _Optional[int] = ...) -> None: ...

class Grant(_message.Message):
    __slots__ = ("lease", "epoch", "chunk", "ranges", "layout", "note")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    RANGES_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    lease: int
    epoch: int
    chunk: int
    ranges: _containers.RepeatedCompositeFieldContainer[RowRange]
    layout: SegmentLayout
    note: str
    def __init__(self, lease: _Optional[int] = ..., epoch: _Optional[int] = ..., chunk: _Optional[int] = ..., ranges: _Optional[_Iterable[_Union[RowRange, _Mapping]]] = ..., layout: _Optional[_Union[SegmentLayout, _Mapping]] = ..., note: _Optional[str] = ...) -> None: ...

class RowRange(_message.Message):
    __slots__ = ("first_row", "rows")
    FIRST_ROW_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    first_row: int
    rows: int
    def __init__(self, first_row: _Optional[int] = ..., rows: _Optional[int] = ...) -> None: ...

class SegmentLayout(_message.Message):
    __slots__ = ("rows", "nbytes", "columns")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    NBYTES_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    rows: int
    nbytes: int
    columns: _containers.RepeatedCompositeFieldContainer[ColumnLayout]
    def __init__(self, rows: _Optional[int] = ..., nbytes: _Optional[int] = ..., columns: _Optional[_Iterable[_Union[ColumnLayout, _Mapping]]] = ...) -> None: ...

class ColumnLayout(_message.Message):
    __slots__ = ("role", "name", "dtype", "width", "offset", "text_offset", "text_nbytes", "valid_offset")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TEXT_OFFSET_FIELD_NUMBER: _ClassVar[int]
    TEXT_NBYTES_FIELD_NUMBER: _ClassVar[int]
    VALID_OFFSET_FIELD_NUMBER: _ClassVar[int]
    role: str
    name: str
    dtype: str
    width: int
    offset: int
    text_offset: int
    text_nbytes: int
    valid_offset: int
    def __init__(self, role: _Optional[str] = ..., name: _Optional[str] = ..., dtype: _Optional[str] = ..., width: _Optional[int] = ..., offset: _Optional[int] = ..., text_offset: _Optional[int] = ..., text_nbytes: _Optional[int] = ..., valid_offset: _Optional[int] = ...) -> None: ...
