"""Between protobuf messages and the client's values. Nothing else happens here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from faucet_protos.v1 import conduit_pb2, faucet_pb2, spec_pb2

from faucet_client.bits import bits_of
from faucet_client.errors import SpecError
from faucet_client.layout import ColumnLayout, Role, SegmentLayout
from faucet_client.preprocessing.options_json import options_to_json
from faucet_client.preprocessing.spec import PreprocessingSpec
from faucet_client.spec import SPLITS, BigQuerySource, DatasetSpec, DuckDBSource, ParquetSource
from faucet_client.state import Ranges
from faucet_client.status import (
    ColumnCounts,
    CostStatus,
    DatasetStatus,
    LabelStatus,
    MemoryStatus,
    ReaderStatus,
    Status,
    WorkerStatus,
)
from faucet_client.wire.values import DatasetInfo, Grant, ReaderRequest, Started

MAX_SPEC_NBYTES = 7 << 20  # the daemon takes messages of 8 MiB


def spec_to(spec: DatasetSpec) -> spec_pb2.DatasetSpec:
    """A DatasetSpec for the daemon.

    Raises:
        SpecError: it is too large to be sent.
    """
    message = spec_pb2.DatasetSpec(
        hash_column=spec.hash_column or "",
        sample_percent=spec.sample_percent,
        eval_percent=spec.eval_percent,
        weight_column=spec.weight_column or "",
        passthrough=spec.passthrough,
        exclude_features=spec.exclude_features,
        preprocessing=_preprocessing_to(spec),
        fit_options=options_to_json(spec.fit),
        fit_on=spec.fit_on,
        fit_rows=spec.fit_rows,
        chunk_rows=spec.chunk_rows or 0,
        chunking=spec.chunking,
    )
    match spec.source:
        case ParquetSource() as source:
            message.parquet.path = source.path
        case DuckDBSource() as source:
            message.duckdb.MergeFrom(spec_pb2.DuckDBSource(**vars(source)))
        case BigQuerySource() as source:
            message.bigquery.MergeFrom(spec_pb2.BigQuerySource(**vars(source)))
    if isinstance(spec.features, str):
        message.features_struct = spec.features
    else:
        message.features_list.names.extend(spec.features)
    if isinstance(spec.labels, str):
        message.labels_struct = spec.labels
    else:
        message.labels_list.names.extend(spec.labels)
    return message


def _preprocessing_to(spec: DatasetSpec) -> str:
    if isinstance(spec.preprocessing, str):
        return spec.preprocessing
    text = spec.preprocessing.to_json()
    if len(text.encode()) > MAX_SPEC_NBYTES:
        raise SpecError(
            f"the preprocessing spec has {len(text.encode()):,} bytes of JSON, and "
            f"{MAX_SPEC_NBYTES:,} can be sent: cap its vocabularies, or hash those features"
        )
    return text


def info_from(message: faucet_pb2.DatasetInfo) -> DatasetInfo:
    """An open dataset."""
    return DatasetInfo(
        key=message.key,
        rows=dict(zip(SPLITS, (message.train_rows, message.eval_rows), strict=True)),
        features=tuple(message.features),
        labels=tuple(message.labels),
        passthrough=tuple(message.passthrough),
        weighted=message.weighted,
        chunks=message.chunks,
        passthrough_paths=tuple(message.passthrough_paths),
        principal=message.principal,
        query_bytes_billed=message.query_bytes_billed,
        read_bytes_estimated=message.read_bytes_estimated,
        preprocessing=(
            PreprocessingSpec.from_json(message.preprocessing) if message.preprocessing else None
        ),
    )


def start_to(request: ReaderRequest) -> faucet_pb2.StartReader:
    """A reader to start."""
    return faucet_pb2.StartReader(
        **vars(request)
        | {
            "had": bits_of(request.had),
            "before": _ranges_to(request.before),
            "earlier": [
                faucet_pb2.EarlierReader(
                    **vars(each) | {"had": bits_of(each.had), "partly": _ranges_to(each.partly)}
                )
                for each in request.earlier
            ],
        }
    )


def _ranges_to(of_chunks: Mapping[int, Ranges]) -> list[faucet_pb2.ChunkRows]:
    return [
        faucet_pb2.ChunkRows(chunk=chunk, first_row=first, rows=rows)
        for chunk, ranges in of_chunks.items()
        for first, rows in ranges
    ]


def started_from(message: faucet_pb2.ReaderStarted) -> Started:
    """A reader that was started."""
    before: dict[int, Ranges] = {}
    for each in message.before:
        before[each.chunk] = (*before.get(each.chunk, ()), (each.first_row, each.rows))
    return Started(
        message.rows_per_epoch,
        message.lease_limit_bytes,
        message.first_epoch_rows,
        before,
        message.ticket,
    )


def grant_from(message: conduit_pb2.Grant) -> Grant:
    """A grant."""
    return Grant(
        lease=message.lease,
        epoch=message.epoch,
        chunk=message.chunk,
        ranges=tuple((each.first_row, each.rows) for each in message.ranges),
        note=message.note,
        layout=_layout_from(message.layout.SerializeToString()),
    )


@lru_cache(maxsize=64)
def _layout_from(data: bytes) -> SegmentLayout:
    """Where a segment's columns lie; most chunks of a dataset have the same."""
    layout = conduit_pb2.SegmentLayout.FromString(data)
    return SegmentLayout(
        rows=layout.rows,
        nbytes=layout.nbytes,
        columns=tuple(
            ColumnLayout(
                role=Role(column.role),
                name=column.name,
                dtype=column.dtype,
                width=column.width,
                offset=column.offset,
                text_offset=column.text_offset,
                text_nbytes=column.text_nbytes,
                valid_offset=column.valid_offset if column.HasField("valid_offset") else None,
            )
            for column in layout.columns
        ),
    )


def status_from(message: faucet_pb2.Status) -> Status:
    """The daemon's status."""

    def fields(part: Any) -> dict[str, Any]:
        return {field.name: getattr(part, field.name) for field in part.DESCRIPTOR.fields}

    return Status(
        version=message.version,
        pid=message.pid,
        uptime_s=message.uptime_s,
        memory=MemoryStatus(**fields(message.memory)),
        workers=tuple(WorkerStatus(**fields(worker)) for worker in message.workers),
        datasets=tuple(
            DatasetStatus(
                **fields(dataset)
                | {
                    "counts": tuple(ColumnCounts(**fields(c)) for c in dataset.counts),
                    "cost": (
                        CostStatus(**fields(dataset.cost)) if dataset.HasField("cost") else None
                    ),
                    "notes": tuple(dataset.notes),
                    "labels": tuple(LabelStatus(**fields(label)) for label in dataset.labels),
                }
            )
            for dataset in message.datasets
        ),
        readers=tuple(ReaderStatus(**fields(reader)) for reader in message.readers),
        spill_budget_bytes=message.spill_budget_bytes,
        spill_used_bytes=message.spill_used_bytes,
        alerts=tuple(message.alerts),
    )
