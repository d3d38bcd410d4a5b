import dataclasses
import json

from faucet_client.status import (
    ColumnCounts,
    CostStatus,
    DatasetStatus,
    MemoryStatus,
    ReaderStatus,
    Status,
    WorkerStatus,
)
from faucetd.cli.inspect import columns, status_as_dict, status_lines

DATASET = DatasetStatus(
    key="3fa2b81c55aa00ff3fa2b81c55aa00ff",
    source="parquet:/data/t",
    state="ready",
    error="",
    train_rows=800,
    eval_rows=200,
    chunks=16,
    chunks_resident=4,
    chunks_made=20,
    resident_bytes=4096,
    source_rows_read=1250,
    source_bytes_read=100_000,
    count_rows_read=1000,
    count_bytes_read=8000,
    counts=(ColumnCounts("age", nulls=3, rounded=0, overflowed=0, not_finite=1),),
)
READER = ReaderStatus(
    job="sweep-1",
    rank=0,
    worker=2,
    split="train",
    dataset_key=DATASET.key,
    pid=77,
    epoch=1,
    rows_granted=900,
    rows_consumed=850,
    rows_per_epoch=800,
    seconds_waited=0.25,
    leased_bytes=2048,
    lease_limit_bytes=65536,
)
STATUS = Status(
    version="0.1.0",
    pid=42,
    uptime_s=185.9,
    memory=MemoryStatus(2**30, 2**20, 2048, 2**21),
    workers=(WorkerStatus(43, "idle"), WorkerStatus(44, "loading"), WorkerStatus(45, "idle")),
    datasets=(DATASET,),
    readers=(READER,),
)
EMPTY = dataclasses.replace(STATUS, workers=(), datasets=(), readers=())


def test_the_json_has_every_figure_and_the_splits_rows_together() -> None:
    shown = json.loads(json.dumps(status_as_dict(STATUS)))
    assert shown["version"] == "0.1.0"
    assert shown["memory"] == {
        "budget_bytes": 2**30,
        "used_bytes": 2**20,
        "leased_bytes": 2048,
        "peak_bytes": 2**21,
        "orphaned_bytes": 0,
    }
    assert shown["workers"][1] == {"pid": 44, "state": "loading"}
    [dataset] = shown["datasets"]
    assert dataset["rows"] == {"train": 800, "eval": 200}
    assert "train_rows" not in dataset
    for field in (
        *("key", "source", "state", "error", "chunks", "chunks_resident", "chunks_made"),
        *("resident_bytes", "source_rows_read", "source_bytes_read"),
        *("count_rows_read", "count_bytes_read"),
    ):
        assert dataset[field] == getattr(DATASET, field)
    assert dataset["counts"] == [dataclasses.asdict(DATASET.counts[0])]
    assert shown["readers"] == [dataclasses.asdict(READER)]


def test_the_json_has_the_states_of_the_chunks_to_count_and_to_look_at() -> None:
    dataset = dataclasses.replace(DATASET, train_chunk_map=bytes([0, 1, 2, 3, 4, 5, 16, 255]))
    [shown] = status_as_dict(dataclasses.replace(STATUS, datasets=(dataset,)))["datasets"]
    assert json.loads(json.dumps(shown["chunk_map"]["train"])) == {
        "no_rows": 1,
        "absent": 1,
        "spilled": 1,
        "loading": 1,
        "resident": 1,
        "leased": 3,
        "map": " .~+01**",
    }
    assert shown["chunk_map"]["eval"]["map"] == ""


def test_what_was_not_read_again_is_told_once_there_is_some() -> None:
    dataset = dataclasses.replace(DATASET, rows_served=9000, source_bytes_saved=5 * 2**20)
    lines = status_lines(dataclasses.replace(STATUS, datasets=(dataset,)))
    assert "3fa2b81c55aa gave readers 9,000 rows, which saved reading 5.00 MiB more" in lines
    assert not any("saved" in line for line in status_lines(STATUS))


def test_a_person_sees_sizes_in_units_and_shortened_keys() -> None:
    text = "\n".join(status_lines(STATUS))
    assert "process 42, up 3 min 5 s" in text
    assert "1.00 MiB of 1.00 GiB; trainers hold 2.00 KiB; at most so far 2.00 MiB" in text
    assert "2 idle, 1 loading" in text
    assert "3fa2b81c55aa " in text
    assert DATASET.key not in text
    assert "4/16" in text
    assert "0.2 s" in text
    assert "\x1b" not in text


COST = CostStatus(
    query_bytes=10 * 2**20,
    read_bytes=2**40,
    pass_bytes=2**40,
    passes_served=24.0,
    query_price_per_tib=0.0,
    read_price_per_tib=0.0,
)


def billed(cost: CostStatus) -> list[str]:
    dataset = dataclasses.replace(DATASET, cost=cost)
    lines = status_lines(dataclasses.replace(STATUS, datasets=(dataset,)))
    return [line for line in lines if "billed" in line]


def test_what_a_warehouse_bills_stands_beside_what_it_would_have_without_the_cache() -> None:
    [line] = billed(COST)
    assert line == (
        "3fa2b81c55aa billed 1.00 TiB for reading and 10.0 MiB for queries; its 24.0 passes would "
        "have read 24.0 TiB"
    )


def test_it_is_said_in_money_where_the_prices_are_known() -> None:
    priced = dataclasses.replace(COST, query_price_per_tib=6.25, read_price_per_tib=1.5)
    [line] = billed(priced)
    assert line == (
        "3fa2b81c55aa billed 1.00 TiB (1.50) for reading and 10.0 MiB (<0.01) for queries; its "
        "24.0 passes would have read 24.0 TiB (36.00)"
    )


def test_the_json_has_the_cost_in_bytes_and_the_prices() -> None:
    dataset = dataclasses.replace(DATASET, cost=COST, notes=("a note",), finding_chunks=True)
    [shown] = status_as_dict(dataclasses.replace(STATUS, datasets=(dataset,)))["datasets"]
    assert shown["cost"] == dataclasses.asdict(COST) | {"uncached_read_bytes": 24 * 2**40}
    assert list(shown["notes"]) == ["a note"]
    assert shown["finding_chunks"] is True
    [plain] = status_as_dict(STATUS)["datasets"]
    assert plain["cost"] is None


def test_the_notes_are_shown_and_that_chunks_are_still_being_found() -> None:
    dataset = dataclasses.replace(DATASET, notes=("one", "two"), finding_chunks=True)
    lines = list(status_lines(dataclasses.replace(STATUS, datasets=(dataset,))))
    assert [line for line in lines if "note" in line] == [
        "3fa2b81c55aa note: one",
        "3fa2b81c55aa note: two",
    ]
    assert any("4/16+" in line for line in lines)
    assert not any("billed" in line for line in status_lines(STATUS))


def test_the_reason_of_a_failed_dataset_is_shown() -> None:
    failed = dataclasses.replace(DATASET, state="failed", error="chunk 3 killed three workers")
    status = dataclasses.replace(STATUS, datasets=(failed,))
    assert "3fa2b81c55aa failed: chunk 3 killed three workers" in list(status_lines(status))


def test_what_is_on_disk_and_what_went_wrong_there_is_shown() -> None:
    assert not [line for line in status_lines(STATUS) if "disk" in line or "ALERT" in line]
    dataset = dataclasses.replace(
        DATASET, chunks_spilled=12, spilled_bytes=2**20, chunks_restored=34
    )
    status = dataclasses.replace(
        STATUS,
        datasets=(dataset,),
        spill_budget_bytes=2**30,
        spill_used_bytes=2**21,
        alerts=("a file is broken",),
    )
    lines = list(status_lines(status))
    assert "disk     2.00 MiB of 1.00 GiB" in lines
    assert "ALERT    a file is broken" in lines
    assert (
        "3fa2b81c55aa on disk: 12 chunks, 1.00 MiB; 34 came back from there instead of from the "
        "source"
    ) in lines
    shown = status_as_dict(status)
    assert (shown["spill_budget_bytes"], shown["spill_used_bytes"]) == (2**30, 2**21)
    assert list(shown["alerts"]) == ["a file is broken"]
    assert shown["datasets"][0]["chunks_restored"] == 34


def test_an_idle_daemon_says_so() -> None:
    assert list(status_lines(EMPTY))[-1] == "No dataset is open."
    assert list(status_lines(dataclasses.replace(STATUS, readers=())))[-1] == "Nobody reads."


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert list(columns("NAME >ROWS_READ", [["a", "12"], ["long name", "1,234,567,890"]])) == [
        "NAME           ROWS READ",
        "a                     12",
        "long name  1,234,567,890",
    ]
