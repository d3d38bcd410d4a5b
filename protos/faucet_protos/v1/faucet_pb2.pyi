from faucet_protos.v1 import spec_pb2 as _spec_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OpenDatasetRequest(_message.Message):
    __slots__ = ("spec", "key")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    spec: _spec_pb2.DatasetSpec
    key: str
    def __init__(self, spec: _Optional[_Union[_spec_pb2.DatasetSpec, _Mapping]] = ..., key: _Optional[str] = ...) -> None: ...

class OpenDatasetEvent(_message.Message):
    __slots__ = ("progress", "opened")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    progress: OpenProgress
    opened: DatasetInfo
    def __init__(self, progress: _Optional[_Union[OpenProgress, _Mapping]] = ..., opened: _Optional[_Union[DatasetInfo, _Mapping]] = ...) -> None: ...

class OpenProgress(_message.Message):
    __slots__ = ("stage", "rows_done", "rows_total")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    ROWS_DONE_FIELD_NUMBER: _ClassVar[int]
    ROWS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    stage: str
    rows_done: int
    rows_total: int
    def __init__(self, stage: _Optional[str] = ..., rows_done: _Optional[int] = ..., rows_total: _Optional[int] = ...) -> None: ...

class DatasetInfo(_message.Message):
    __slots__ = ("key", "train_rows", "eval_rows", "features", "labels", "passthrough", "weighted", "chunks", "passthrough_paths", "principal", "query_bytes_billed", "read_bytes_estimated", "preprocessing")
    KEY_FIELD_NUMBER: _ClassVar[int]
    TRAIN_ROWS_FIELD_NUMBER: _ClassVar[int]
    EVAL_ROWS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    PASSTHROUGH_FIELD_NUMBER: _ClassVar[int]
    WEIGHTED_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    PASSTHROUGH_PATHS_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    QUERY_BYTES_BILLED_FIELD_NUMBER: _ClassVar[int]
    READ_BYTES_ESTIMATED_FIELD_NUMBER: _ClassVar[int]
    PREPROCESSING_FIELD_NUMBER: _ClassVar[int]
    key: str
    train_rows: int
    eval_rows: int
    features: _containers.RepeatedScalarFieldContainer[str]
    labels: _containers.RepeatedScalarFieldContainer[str]
    passthrough: _containers.RepeatedScalarFieldContainer[str]
    weighted: bool
    chunks: int
    passthrough_paths: _containers.RepeatedScalarFieldContainer[str]
    principal: str
    query_bytes_billed: int
    read_bytes_estimated: int
    preprocessing: str
    def __init__(self, key: _Optional[str] = ..., train_rows: _Optional[int] = ..., eval_rows: _Optional[int] = ..., features: _Optional[_Iterable[str]] = ..., labels: _Optional[_Iterable[str]] = ..., passthrough: _Optional[_Iterable[str]] = ..., weighted: _Optional[bool] = ..., chunks: _Optional[int] = ..., passthrough_paths: _Optional[_Iterable[str]] = ..., principal: _Optional[str] = ..., query_bytes_billed: _Optional[int] = ..., read_bytes_estimated: _Optional[int] = ..., preprocessing: _Optional[str] = ...) -> None: ...

class StartReader(_message.Message):
    __slots__ = ("dataset_key", "split", "job", "rank", "worker", "first_epoch", "epochs", "part", "parts", "stripe_rows", "shuffle", "seed", "credits", "order", "world_size", "remainder", "had", "before", "earlier")
    DATASET_KEY_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    FIRST_EPOCH_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    STRIPE_ROWS_FIELD_NUMBER: _ClassVar[int]
    SHUFFLE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    CREDITS_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    REMAINDER_FIELD_NUMBER: _ClassVar[int]
    HAD_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    EARLIER_FIELD_NUMBER: _ClassVar[int]
    dataset_key: str
    split: str
    job: str
    rank: int
    worker: int
    first_epoch: int
    epochs: int
    part: int
    parts: int
    stripe_rows: int
    shuffle: str
    seed: int
    credits: int
    order: str
    world_size: int
    remainder: str
    had: bytes
    before: _containers.RepeatedCompositeFieldContainer[ChunkRows]
    earlier: _containers.RepeatedCompositeFieldContainer[EarlierReader]
    def __init__(self, dataset_key: _Optional[str] = ..., split: _Optional[str] = ..., job: _Optional[str] = ..., rank: _Optional[int] = ..., worker: _Optional[int] = ..., first_epoch: _Optional[int] = ..., epochs: _Optional[int] = ..., part: _Optional[int] = ..., parts: _Optional[int] = ..., stripe_rows: _Optional[int] = ..., shuffle: _Optional[str] = ..., seed: _Optional[int] = ..., credits: _Optional[int] = ..., order: _Optional[str] = ..., world_size: _Optional[int] = ..., remainder: _Optional[str] = ..., had: _Optional[bytes] = ..., before: _Optional[_Iterable[_Union[ChunkRows, _Mapping]]] = ..., earlier: _Optional[_Iterable[_Union[EarlierReader, _Mapping]]] = ...) -> None: ...

class ChunkRows(_message.Message):
    __slots__ = ("chunk", "first_row", "rows")
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    FIRST_ROW_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    chunk: int
    first_row: int
    rows: int
    def __init__(self, chunk: _Optional[int] = ..., first_row: _Optional[int] = ..., rows: _Optional[int] = ...) -> None: ...

class EarlierReader(_message.Message):
    __slots__ = ("rank", "world_size", "remainder", "part", "parts", "stripe_rows", "had", "partly")
    RANK_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    REMAINDER_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    STRIPE_ROWS_FIELD_NUMBER: _ClassVar[int]
    HAD_FIELD_NUMBER: _ClassVar[int]
    PARTLY_FIELD_NUMBER: _ClassVar[int]
    rank: int
    world_size: int
    remainder: str
    part: int
    parts: int
    stripe_rows: int
    had: bytes
    partly: _containers.RepeatedCompositeFieldContainer[ChunkRows]
    def __init__(self, rank: _Optional[int] = ..., world_size: _Optional[int] = ..., remainder: _Optional[str] = ..., part: _Optional[int] = ..., parts: _Optional[int] = ..., stripe_rows: _Optional[int] = ..., had: _Optional[bytes] = ..., partly: _Optional[_Iterable[_Union[ChunkRows, _Mapping]]] = ...) -> None: ...

class ReaderStarted(_message.Message):
    __slots__ = ("rows_per_epoch", "lease_limit_bytes", "first_epoch_rows", "before", "ticket")
    ROWS_PER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    LEASE_LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    FIRST_EPOCH_ROWS_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    rows_per_epoch: int
    lease_limit_bytes: int
    first_epoch_rows: int
    before: _containers.RepeatedCompositeFieldContainer[ChunkRows]
    ticket: bytes
    def __init__(self, rows_per_epoch: _Optional[int] = ..., lease_limit_bytes: _Optional[int] = ..., first_epoch_rows: _Optional[int] = ..., before: _Optional[_Iterable[_Union[ChunkRows, _Mapping]]] = ..., ticket: _Optional[bytes] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Status(_message.Message):
    __slots__ = ("version", "pid", "uptime_s", "memory", "workers", "datasets", "readers", "spill_budget_bytes", "spill_used_bytes", "alerts")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    READERS_FIELD_NUMBER: _ClassVar[int]
    SPILL_BUDGET_BYTES_FIELD_NUMBER: _ClassVar[int]
    SPILL_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    ALERTS_FIELD_NUMBER: _ClassVar[int]
    version: str
    pid: int
    uptime_s: float
    memory: MemoryStatus
    workers: _containers.RepeatedCompositeFieldContainer[WorkerStatus]
    datasets: _containers.RepeatedCompositeFieldContainer[DatasetStatus]
    readers: _containers.RepeatedCompositeFieldContainer[ReaderStatus]
    spill_budget_bytes: int
    spill_used_bytes: int
    alerts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, version: _Optional[str] = ..., pid: _Optional[int] = ..., uptime_s: _Optional[float] = ..., memory: _Optional[_Union[MemoryStatus, _Mapping]] = ..., workers: _Optional[_Iterable[_Union[WorkerStatus, _Mapping]]] = ..., datasets: _Optional[_Iterable[_Union[DatasetStatus, _Mapping]]] = ..., readers: _Optional[_Iterable[_Union[ReaderStatus, _Mapping]]] = ..., spill_budget_bytes: _Optional[int] = ..., spill_used_bytes: _Optional[int] = ..., alerts: _Optional[_Iterable[str]] = ...) -> None: ...

class MemoryStatus(_message.Message):
    __slots__ = ("budget_bytes", "used_bytes", "leased_bytes", "peak_bytes", "orphaned_bytes")
    BUDGET_BYTES_FIELD_NUMBER: _ClassVar[int]
    USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    LEASED_BYTES_FIELD_NUMBER: _ClassVar[int]
    PEAK_BYTES_FIELD_NUMBER: _ClassVar[int]
    ORPHANED_BYTES_FIELD_NUMBER: _ClassVar[int]
    budget_bytes: int
    used_bytes: int
    leased_bytes: int
    peak_bytes: int
    orphaned_bytes: int
    def __init__(self, budget_bytes: _Optional[int] = ..., used_bytes: _Optional[int] = ..., leased_bytes: _Optional[int] = ..., peak_bytes: _Optional[int] = ..., orphaned_bytes: _Optional[int] = ...) -> None: ...

class WorkerStatus(_message.Message):
    __slots__ = ("pid", "state")
    PID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    pid: int
    state: str
    def __init__(self, pid: _Optional[int] = ..., state: _Optional[str] = ...) -> None: ...

class DatasetStatus(_message.Message):
    __slots__ = ("key", "source", "state", "error", "train_rows", "eval_rows", "chunks", "chunks_resident", "chunks_made", "resident_bytes", "source_rows_read", "source_bytes_read", "count_rows_read", "count_bytes_read", "counts", "cost", "notes", "finding_chunks", "chunks_spilled", "spilled_bytes", "chunks_restored", "rows_served", "source_bytes_saved", "train_chunk_map", "eval_chunk_map", "labels")
    KEY_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    TRAIN_ROWS_FIELD_NUMBER: _ClassVar[int]
    EVAL_ROWS_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_RESIDENT_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_MADE_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    SOURCE_ROWS_READ_FIELD_NUMBER: _ClassVar[int]
    SOURCE_BYTES_READ_FIELD_NUMBER: _ClassVar[int]
    COUNT_ROWS_READ_FIELD_NUMBER: _ClassVar[int]
    COUNT_BYTES_READ_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    FINDING_CHUNKS_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_SPILLED_FIELD_NUMBER: _ClassVar[int]
    SPILLED_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_RESTORED_FIELD_NUMBER: _ClassVar[int]
    ROWS_SERVED_FIELD_NUMBER: _ClassVar[int]
    SOURCE_BYTES_SAVED_FIELD_NUMBER: _ClassVar[int]
    TRAIN_CHUNK_MAP_FIELD_NUMBER: _ClassVar[int]
    EVAL_CHUNK_MAP_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    key: str
    source: str
    state: str
    error: str
    train_rows: int
    eval_rows: int
    chunks: int
    chunks_resident: int
    chunks_made: int
    resident_bytes: int
    source_rows_read: int
    source_bytes_read: int
    count_rows_read: int
    count_bytes_read: int
    counts: _containers.RepeatedCompositeFieldContainer[ColumnCounts]
    cost: CostStatus
    notes: _containers.RepeatedScalarFieldContainer[str]
    finding_chunks: bool
    chunks_spilled: int
    spilled_bytes: int
    chunks_restored: int
    rows_served: int
    source_bytes_saved: int
    train_chunk_map: bytes
    eval_chunk_map: bytes
    labels: _containers.RepeatedCompositeFieldContainer[LabelStatus]
    def __init__(self, key: _Optional[str] = ..., source: _Optional[str] = ..., state: _Optional[str] = ..., error: _Optional[str] = ..., train_rows: _Optional[int] = ..., eval_rows: _Optional[int] = ..., chunks: _Optional[int] = ..., chunks_resident: _Optional[int] = ..., chunks_made: _Optional[int] = ..., resident_bytes: _Optional[int] = ..., source_rows_read: _Optional[int] = ..., source_bytes_read: _Optional[int] = ..., count_rows_read: _Optional[int] = ..., count_bytes_read: _Optional[int] = ..., counts: _Optional[_Iterable[_Union[ColumnCounts, _Mapping]]] = ..., cost: _Optional[_Union[CostStatus, _Mapping]] = ..., notes: _Optional[_Iterable[str]] = ..., finding_chunks: _Optional[bool] = ..., chunks_spilled: _Optional[int] = ..., spilled_bytes: _Optional[int] = ..., chunks_restored: _Optional[int] = ..., rows_served: _Optional[int] = ..., source_bytes_saved: _Optional[int] = ..., train_chunk_map: _Optional[bytes] = ..., eval_chunk_map: _Optional[bytes] = ..., labels: _Optional[_Iterable[_Union[LabelStatus, _Mapping]]] = ...) -> None: ...

class LabelStatus(_message.Message):
    __slots__ = ("split", "label", "between_share", "random_share", "chunks", "rows")
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    BETWEEN_SHARE_FIELD_NUMBER: _ClassVar[int]
    RANDOM_SHARE_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    split: str
    label: str
    between_share: float
    random_share: float
    chunks: int
    rows: int
    def __init__(self, split: _Optional[str] = ..., label: _Optional[str] = ..., between_share: _Optional[float] = ..., random_share: _Optional[float] = ..., chunks: _Optional[int] = ..., rows: _Optional[int] = ...) -> None: ...

class CostStatus(_message.Message):
    __slots__ = ("query_bytes", "read_bytes", "pass_bytes", "passes_served", "query_price_per_tib", "read_price_per_tib")
    QUERY_BYTES_FIELD_NUMBER: _ClassVar[int]
    READ_BYTES_FIELD_NUMBER: _ClassVar[int]
    PASS_BYTES_FIELD_NUMBER: _ClassVar[int]
    PASSES_SERVED_FIELD_NUMBER: _ClassVar[int]
    QUERY_PRICE_PER_TIB_FIELD_NUMBER: _ClassVar[int]
    READ_PRICE_PER_TIB_FIELD_NUMBER: _ClassVar[int]
    query_bytes: int
    read_bytes: int
    pass_bytes: int
    passes_served: float
    query_price_per_tib: float
    read_price_per_tib: float
    def __init__(self, query_bytes: _Optional[int] = ..., read_bytes: _Optional[int] = ..., pass_bytes: _Optional[int] = ..., passes_served: _Optional[float] = ..., query_price_per_tib: _Optional[float] = ..., read_price_per_tib: _Optional[float] = ...) -> None: ...

class ColumnCounts(_message.Message):
    __slots__ = ("column", "nulls", "rounded", "overflowed", "not_finite", "imputed", "clipped", "unseen")
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    NULLS_FIELD_NUMBER: _ClassVar[int]
    ROUNDED_FIELD_NUMBER: _ClassVar[int]
    OVERFLOWED_FIELD_NUMBER: _ClassVar[int]
    NOT_FINITE_FIELD_NUMBER: _ClassVar[int]
    IMPUTED_FIELD_NUMBER: _ClassVar[int]
    CLIPPED_FIELD_NUMBER: _ClassVar[int]
    UNSEEN_FIELD_NUMBER: _ClassVar[int]
    column: str
    nulls: int
    rounded: int
    overflowed: int
    not_finite: int
    imputed: int
    clipped: int
    unseen: int
    def __init__(self, column: _Optional[str] = ..., nulls: _Optional[int] = ..., rounded: _Optional[int] = ..., overflowed: _Optional[int] = ..., not_finite: _Optional[int] = ..., imputed: _Optional[int] = ..., clipped: _Optional[int] = ..., unseen: _Optional[int] = ...) -> None: ...

class ReaderStatus(_message.Message):
    __slots__ = ("job", "rank", "worker", "split", "dataset_key", "pid", "epoch", "rows_granted", "rows_consumed", "rows_per_epoch", "seconds_waited", "leased_bytes", "lease_limit_bytes", "first_epoch", "epochs", "position_epochs", "lag_epochs")
    JOB_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    DATASET_KEY_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ROWS_GRANTED_FIELD_NUMBER: _ClassVar[int]
    ROWS_CONSUMED_FIELD_NUMBER: _ClassVar[int]
    ROWS_PER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    SECONDS_WAITED_FIELD_NUMBER: _ClassVar[int]
    LEASED_BYTES_FIELD_NUMBER: _ClassVar[int]
    LEASE_LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    FIRST_EPOCH_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    POSITION_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    LAG_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    job: str
    rank: int
    worker: int
    split: str
    dataset_key: str
    pid: int
    epoch: int
    rows_granted: int
    rows_consumed: int
    rows_per_epoch: int
    seconds_waited: float
    leased_bytes: int
    lease_limit_bytes: int
    first_epoch: int
    epochs: int
    position_epochs: float
    lag_epochs: float
    def __init__(self, job: _Optional[str] = ..., rank: _Optional[int] = ..., worker: _Optional[int] = ..., split: _Optional[str] = ..., dataset_key: _Optional[str] = ..., pid: _Optional[int] = ..., epoch: _Optional[int] = ..., rows_granted: _Optional[int] = ..., rows_consumed: _Optional[int] = ..., rows_per_epoch: _Optional[int] = ..., seconds_waited: _Optional[float] = ..., leased_bytes: _Optional[int] = ..., lease_limit_bytes: _Optional[int] = ..., first_epoch: _Optional[int] = ..., epochs: _Optional[int] = ..., position_epochs: _Optional[float] = ..., lag_epochs: _Optional[float] = ...) -> None: ...

class GetProfileRequest(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: str
    def __init__(self, key: _Optional[str] = ...) -> None: ...

class Profile(_message.Message):
    __slots__ = ("key", "train_rows", "eval_rows", "json")
    KEY_FIELD_NUMBER: _ClassVar[int]
    TRAIN_ROWS_FIELD_NUMBER: _ClassVar[int]
    EVAL_ROWS_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    key: str
    train_rows: int
    eval_rows: int
    json: str
    def __init__(self, key: _Optional[str] = ..., train_rows: _Optional[int] = ..., eval_rows: _Optional[int] = ..., json: _Optional[str] = ...) -> None: ...

class DropDatasetRequest(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: str
    def __init__(self, key: _Optional[str] = ...) -> None: ...

class DropDatasetReply(_message.Message):
    __slots__ = ("key", "freed_bytes")
    KEY_FIELD_NUMBER: _ClassVar[int]
    FREED_BYTES_FIELD_NUMBER: _ClassVar[int]
    key: str
    freed_bytes: int
    def __init__(self, key: _Optional[str] = ..., freed_bytes: _Optional[int] = ...) -> None: ...
