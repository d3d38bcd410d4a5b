from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ParquetSource(_message.Message):
    __slots__ = ("path",)
    PATH_FIELD_NUMBER: _ClassVar[int]
    path: str
    def __init__(self, path: _Optional[str] = ...) -> None: ...

class DuckDBSource(_message.Message):
    __slots__ = ("path", "table", "query")
    PATH_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    path: str
    table: str
    query: str
    def __init__(self, path: _Optional[str] = ..., table: _Optional[str] = ..., query: _Optional[str] = ...) -> None: ...

class BigQuerySource(_message.Message):
    __slots__ = ("table", "query", "partition_date", "filter", "snapshot")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    PARTITION_DATE_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    table: str
    query: str
    partition_date: str
    filter: str
    snapshot: str
    def __init__(self, table: _Optional[str] = ..., query: _Optional[str] = ..., partition_date: _Optional[str] = ..., filter: _Optional[str] = ..., snapshot: _Optional[str] = ...) -> None: ...

class ColumnNames(_message.Message):
    __slots__ = ("names",)
    NAMES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, names: _Optional[_Iterable[str]] = ...) -> None: ...

class DatasetSpec(_message.Message):
    __slots__ = ("parquet", "duckdb", "bigquery", "features_struct", "features_list", "labels_struct", "labels_list", "hash_column", "sample_percent", "eval_percent", "weight_column", "passthrough", "exclude_features", "preprocessing", "chunk_rows", "chunking", "fit_options", "fit_on", "fit_rows")
    PARQUET_FIELD_NUMBER: _ClassVar[int]
    DUCKDB_FIELD_NUMBER: _ClassVar[int]
    BIGQUERY_FIELD_NUMBER: _ClassVar[int]
    FEATURES_STRUCT_FIELD_NUMBER: _ClassVar[int]
    FEATURES_LIST_FIELD_NUMBER: _ClassVar[int]
    LABELS_STRUCT_FIELD_NUMBER: _ClassVar[int]
    LABELS_LIST_FIELD_NUMBER: _ClassVar[int]
    HASH_COLUMN_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_PERCENT_FIELD_NUMBER: _ClassVar[int]
    EVAL_PERCENT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_COLUMN_FIELD_NUMBER: _ClassVar[int]
    PASSTHROUGH_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_FEATURES_FIELD_NUMBER: _ClassVar[int]
    PREPROCESSING_FIELD_NUMBER: _ClassVar[int]
    CHUNK_ROWS_FIELD_NUMBER: _ClassVar[int]
    CHUNKING_FIELD_NUMBER: _ClassVar[int]
    FIT_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    FIT_ON_FIELD_NUMBER: _ClassVar[int]
    FIT_ROWS_FIELD_NUMBER: _ClassVar[int]
    parquet: ParquetSource
    duckdb: DuckDBSource
    bigquery: BigQuerySource
    features_struct: str
    features_list: ColumnNames
    labels_struct: str
    labels_list: ColumnNames
    hash_column: str
    sample_percent: float
    eval_percent: float
    weight_column: str
    passthrough: _containers.RepeatedScalarFieldContainer[str]
    exclude_features: _containers.RepeatedScalarFieldContainer[str]
    preprocessing: str
    chunk_rows: int
    chunking: str
    fit_options: str
    fit_on: str
    fit_rows: int
    def __init__(self, parquet: _Optional[_Union[ParquetSource, _Mapping]] = ..., duckdb: _Optional[_Union[DuckDBSource, _Mapping]] = ..., bigquery: _Optional[_Union[BigQuerySource, _Mapping]] = ..., features_struct: _Optional[str] = ..., features_list: _Optional[_Union[ColumnNames, _Mapping]] = ..., labels_struct: _Optional[str] = ..., labels_list: _Optional[_Union[ColumnNames, _Mapping]] = ..., hash_column: _Optional[str] = ..., sample_percent: _Optional[float] = ..., eval_percent: _Optional[float] = ..., weight_column: _Optional[str] = ..., passthrough: _Optional[_Iterable[str]] = ..., exclude_features: _Optional[_Iterable[str]] = ..., preprocessing: _Optional[str] = ..., chunk_rows: _Optional[int] = ..., chunking: _Optional[str] = ..., fit_options: _Optional[str] = ..., fit_on: _Optional[str] = ..., fit_rows: _Optional[int] = ...) -> None: ...
