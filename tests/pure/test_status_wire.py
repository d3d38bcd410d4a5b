"""The daemon's status on the wire: what the daemon sends is what the client understands."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from google.protobuf.message import Message

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
from faucet_client.wire.translate import status_from
from faucetd.serve.translate import status_to

COUNTS = (
    ColumnCounts(
        "age", nulls=1, rounded=2, overflowed=3, not_finite=4, imputed=5, clipped=6, unseen=7
    ),
    ColumnCounts(
        "fare", nulls=5, rounded=6, overflowed=7, not_finite=8, imputed=9, clipped=10, unseen=11
    ),
)
COST = CostStatus(
    query_bytes=2**41,
    read_bytes=2**42,
    pass_bytes=2**43,
    passes_served=16.25,
    query_price_per_tib=6.25,
    read_price_per_tib=1.5,
)
DATASET = DatasetStatus(
    key="3fa2",
    source="bigquery:p.d.t",
    state="failed",
    error="no more",
    train_rows=2**40,
    eval_rows=2**39,
    chunks=16,
    chunks_resident=4,
    chunks_made=20,
    resident_bytes=2**35,
    source_rows_read=2**41 + 1,
    source_bytes_read=2**44 + 1,
    count_rows_read=2**40 + 1,
    count_bytes_read=2**43 + 1,
    counts=COUNTS,
    cost=COST,
    notes=("one", "two"),
    finding_chunks=True,
    chunks_spilled=15,
    spilled_bytes=2**38 + 1,
    chunks_restored=2**33,
    rows_served=2**42 + 1,
    source_bytes_saved=2**45 + 1,
    train_chunk_map=bytes(range(256)),
    eval_chunk_map=b"\x01\x02",
    labels=(
        LabelStatus("train", "y", 0.25, 0.125, 7, 2**40),
        LabelStatus("eval", "z", 1.0, 0.5, 1, 2),
    ),
)
READER = ReaderStatus(
    job="sweep-1",
    rank=1,
    worker=2,
    split="eval",
    dataset_key="3fa2",
    pid=77,
    epoch=3,
    rows_granted=2**40 + 2,
    rows_consumed=2**40 + 3,
    rows_per_epoch=2**40 + 4,
    seconds_waited=0.25,
    leased_bytes=2**36,
    lease_limit_bytes=2**37,
    first_epoch=2,
    epochs=5,
    position_epochs=3.25,
    lag_epochs=0.5,
)
FULL = Status(
    version="0.1.0",
    pid=42,
    uptime_s=185.5,
    memory=MemoryStatus(2**40, 2**39, 2**38, 2**37, 2**36),
    workers=(WorkerStatus(43, "idle"), WorkerStatus(44, "loading")),
    datasets=(DATASET,),
    readers=(READER,),
    spill_budget_bytes=2**45,
    spill_used_bytes=2**44,
    alerts=("the disk is full", "a file is broken"),
)


def unset(value: Any, path: str) -> list[str]:
    """The fields that have what a message has by default, so that they could get lost unseen."""
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return [one for f in fields for one in unset(getattr(value, f.name), f"{path}.{f.name}")]
    if isinstance(value, tuple) and value:
        return [one for item in value for one in unset(item, path)]
    return [] if value else [path]


def absent(message: Message, path: str) -> list[str]:
    """The fields of a message, and of those within it, that nobody has set."""
    found = []
    present = {field.name: value for field, value in message.ListFields()}
    for field in message.DESCRIPTOR.fields:
        value = present.get(field.name)
        if value is None:
            found.append(f"{path}.{field.name}")
        elif field.message_type is not None:
            for item in [value] if isinstance(value, Message) else value:
                found += absent(item, f"{path}.{field.name}")
    return found


def test_every_field_of_the_status_arrives_as_it_was_sent() -> None:
    assert unset(FULL, "Status") == []
    message = status_to(FULL)
    assert absent(message, "Status") == []
    assert status_from(type(message).FromString(message.SerializeToString())) == FULL


@pytest.mark.parametrize(
    "status",
    [
        dataclasses.replace(FULL, workers=(), datasets=(), readers=()),
        dataclasses.replace(FULL, datasets=(dataclasses.replace(DATASET, cost=None),)),
        dataclasses.replace(FULL, datasets=(dataclasses.replace(DATASET, counts=(), notes=()),)),
    ],
    ids=["nothing is open", "a file costs nothing", "nothing to note"],
)
def test_what_is_not_there_stays_so(status: Status) -> None:
    assert status_from(status_to(status)) == status
