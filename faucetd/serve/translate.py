"""Between protobuf messages and the daemon's dataclasses. Nothing else happens here."""

from __future__ import annotations

from faucet_protos.v1 import conduit_pb2, faucet_pb2, handoff_pb2, spec_pb2

from faucet_client.layout import SegmentLayout
from faucet_client.preprocessing.options_json import options_from_json
from faucet_client.preprocessing.spec import PreprocessingSpec
from faucet_client.spec import (
    BigQuerySource,
    DatasetSpec,
    DuckDBSource,
    ParquetSource,
    Source,
)
from faucet_client.status import Status
from faucetd.errors import FaucetError, SpecError
from faucetd.serve.backend import DatasetInfo, Granted, OpenProgress, Started

MAX_COLUMNS = 20_000


def spec_from(message: spec_pb2.DatasetSpec) -> DatasetSpec:
    """The described dataset.

    Raises:
        SpecError: the description contradicts itself.
    """
    names = message.features_list.names, message.labels_list.names, message.passthrough
    if sum(map(len, names)) + len(message.exclude_features) > MAX_COLUMNS:
        raise SpecError(f"the spec names more than {MAX_COLUMNS:,} columns")
    source: Source
    match message.WhichOneof("source"):
        case "parquet":
            source = ParquetSource(message.parquet.path)
        case "duckdb":
            rows = message.duckdb.WhichOneof("rows")
            source = DuckDBSource(
                message.duckdb.path,
                table=message.duckdb.table if rows == "table" else None,
                query=message.duckdb.query if rows == "query" else None,
            )
        case "bigquery":
            rows = message.bigquery.WhichOneof("rows")
            source = BigQuerySource(
                table=message.bigquery.table if rows == "table" else None,
                query=message.bigquery.query if rows == "query" else None,
                partition_date=message.bigquery.partition_date or None,
                filter=message.bigquery.filter or None,
                snapshot=message.bigquery.snapshot or None,
            )
        case _:
            raise SpecError("the spec names no source that this daemon knows")
    return DatasetSpec(
        source=source,
        features=(
            message.features_struct
            if message.WhichOneof("features") == "features_struct"
            else tuple(message.features_list.names)
        ),
        labels=(
            message.labels_struct
            if message.WhichOneof("labels") == "labels_struct"
            else tuple(message.labels_list.names)
        ),
        hash_column=message.hash_column or None,
        sample_percent=message.sample_percent,
        eval_percent=message.eval_percent,
        weight_column=message.weight_column or None,
        passthrough=tuple(message.passthrough),
        exclude_features=tuple(message.exclude_features),
        preprocessing=_preprocessing_from(message.preprocessing),
        fit=options_from_json(message.fit_options),
        fit_on=message.fit_on,
        fit_rows=message.fit_rows,
        chunk_rows=message.chunk_rows or None,
        chunking=message.chunking,
    )


def _preprocessing_from(text: str) -> str | PreprocessingSpec:
    return PreprocessingSpec.from_json(text) if text.lstrip().startswith("{") else text


def open_event_to(event: OpenProgress | DatasetInfo) -> faucet_pb2.OpenDatasetEvent:
    """An event of an open."""
    if isinstance(event, OpenProgress):
        return faucet_pb2.OpenDatasetEvent(
            progress=faucet_pb2.OpenProgress(
                stage=event.stage, rows_done=event.rows_done, rows_total=event.rows_total
            )
        )
    return faucet_pb2.OpenDatasetEvent(
        opened=faucet_pb2.DatasetInfo(
            key=event.key,
            train_rows=event.rows["train"],
            eval_rows=event.rows["eval"],
            features=event.features,
            labels=event.labels,
            passthrough=event.passthrough,
            weighted=event.weighted,
            chunks=event.chunks,
            passthrough_paths=event.passthrough_paths,
            principal=event.principal,
            query_bytes_billed=event.query_bytes_billed,
            read_bytes_estimated=event.read_bytes_estimated,
            preprocessing=event.preprocessing,
        )
    )


def started_to(started: Started, ticket: bytes) -> faucet_pb2.ReaderStarted:
    """A reader that was started, and the ticket to attach its conduit with."""
    return faucet_pb2.ReaderStarted(
        rows_per_epoch=started.rows_per_epoch,
        lease_limit_bytes=started.lease_limit_bytes,
        first_epoch_rows=started.first_epoch_rows,
        before=[
            faucet_pb2.ChunkRows(chunk=chunk, first_row=first, rows=rows)
            for chunk, ranges in started.before.items()
            for first, rows in ranges
        ],
        ticket=ticket,
    )


def error_to(error: FaucetError) -> handoff_pb2.Error:
    """An error, which is the same on both sides."""
    return handoff_pb2.Error(code=error.code, message=error.message)


def conduit_message_to(message: Granted | FaucetError) -> conduit_pb2.DaemonMessage:
    """A message of a reader's conduit."""
    if isinstance(message, FaucetError):
        return conduit_pb2.DaemonMessage(error=error_to(message))
    return conduit_pb2.DaemonMessage(
        grant=conduit_pb2.Grant(
            lease=message.lease,
            epoch=message.epoch,
            chunk=message.chunk,
            ranges=[
                conduit_pb2.RowRange(first_row=first, rows=rows) for first, rows in message.ranges
            ],
            layout=_layout_to(message.layout),
            note=message.note,
        )
    )


def _layout_to(layout: SegmentLayout) -> conduit_pb2.SegmentLayout:
    return conduit_pb2.SegmentLayout(
        rows=layout.rows,
        nbytes=layout.nbytes,
        columns=[
            conduit_pb2.ColumnLayout(
                role=column.role.value,
                name=column.name,
                dtype=column.dtype,
                width=column.width,
                offset=column.offset,
                text_offset=column.text_offset,
                text_nbytes=column.text_nbytes,
                valid_offset=column.valid_offset,
            )
            for column in layout.columns
        ],
    )


def status_to(status: Status) -> faucet_pb2.Status:
    """The daemon's status. Both sides have the same field names."""
    return faucet_pb2.Status(
        version=status.version,
        pid=status.pid,
        uptime_s=status.uptime_s,
        memory=faucet_pb2.MemoryStatus(**vars(status.memory)),
        workers=[faucet_pb2.WorkerStatus(**vars(worker)) for worker in status.workers],
        datasets=[
            faucet_pb2.DatasetStatus(
                **vars(dataset)
                | {
                    "counts": [faucet_pb2.ColumnCounts(**vars(c)) for c in dataset.counts],
                    "labels": [faucet_pb2.LabelStatus(**vars(label)) for label in dataset.labels],
                    "cost": dataset.cost and faucet_pb2.CostStatus(**vars(dataset.cost)),
                }
            )
            for dataset in status.datasets
        ],
        readers=[faucet_pb2.ReaderStatus(**vars(reader)) for reader in status.readers],
        spill_budget_bytes=status.spill_budget_bytes,
        spill_used_bytes=status.spill_used_bytes,
        alerts=status.alerts,
    )
