"""The ways to BigQuery's rows: shapes of tables and sessions, filters, queries, chunks by hash.

Most tests share one daemon, whose memory holds their tables.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import farmhash
import numpy as np
import pyarrow as pa
import pytest

from faucet_client import BigQuerySource, DatasetSpec, FaucetClient, SourceChanged, SourceEmpty
from faucet_client.errors import ConfigError
from faucet_client.spec import SPLITS, Split
from faucet_client.status import DatasetStatus
from tests.bigquery_server.local import LocalBigQuery
from tests.processes.bigquery import (
    PROJECT,
    Table,
    Warehouse,
    ids_in,
    reaching,
    read_chunks,
    same_chunks,
)
from tests.processes.daemons import StartDaemon, WatchedDaemon
from tests.processes.loader_script import BATCH as LOADER_BATCH
from tests.processes.nursery import ROOT
from tests.processes.rows import Ids, assert_exact, check, feature, ids_of

MIB = 1 << 20
BATCH = 500
RESULTS = f"{PROJECT}.results"

EVAL = 25.0
"""Percent of the sample that is eval, where there is a split."""


@pytest.fixture(scope="module")
def shared_daemon(
    bigquery_server: LocalBigQuery, start_shared_daemon: StartDaemon
) -> WatchedDaemon:
    """Two workers, four streams, and a dataset for results."""
    bigquery_server.dataset(RESULTS)
    settings = reaching(bigquery_server, max_streams="4", result_dataset=RESULTS)
    return start_shared_daemon("128MiB", 2, **settings)


@pytest.fixture
def client(shared_daemon: WatchedDaemon) -> Iterator[FaucetClient]:
    """A client of the shared daemon, for one test."""
    with FaucetClient(shared_daemon.address) as client:
        yield client


def read_split(client: FaucetClient, spec: DatasetSpec, split: Split) -> Ids:
    """The ids of a split, in the order in which they come; every value is checked."""
    dataset = client.open(spec)
    if not dataset.info.rows[split]:
        return np.empty(0, np.int64)
    ids = []
    size = min(BATCH, dataset.info.rows[split])
    for batch in dataset.batches(split, batch_size=size):
        check(batch)
        ids.append(ids_of(batch))
    return np.concatenate(ids)


def all_rows(table: Table, first: int = 0) -> dict[Split, Ids]:
    """All rows of a table without a split."""
    return {"train": np.arange(first, first + table.rows, dtype=np.int64)}


def assert_splits(client: FaucetClient, spec: DatasetSpec, expected: dict[Split, Ids]) -> None:
    """Each split has exactly these ids, and as many as was said."""
    rows = client.open(spec).info.rows
    for split in SPLITS:
        wanted = expected.get(split, np.empty(0, np.int64))
        assert rows[split] == len(wanted)
        assert np.array_equal(np.sort(read_split(client, spec, split)), np.sort(wanted)), split


def status_of(client: FaucetClient, spec: DatasetSpec) -> DatasetStatus:
    """Of the dataset that a spec opens."""
    key = client.open(spec).info.key
    return next(one for one in client.status().datasets if one.key == key)


def notes_of(client: FaucetClient, spec: DatasetSpec) -> tuple[str, ...]:
    """Its notes, but for the one of each dataset that says which chunking was chosen."""
    notes = status_of(client, spec).notes
    chosen = [note for note in notes if note.startswith('chunking="auto" took')]
    assert len(chosen) == 1
    return tuple(note for note in notes if note not in chosen)


def bucket(text: str, buckets: int = 1_000) -> int:
    """ABS(MOD(FARM_FINGERPRINT(text), buckets)), as BigQuery computes it."""
    unsigned = int(farmhash.fingerprint64(text))
    signed = unsigned - 2**64 if unsigned >= 2**63 else unsigned
    return abs(signed) % buckets


def split_by(texts: Sequence[str | None], sample: float = 100.0) -> dict[Split, Ids]:
    """The ids of each split, if row i has the i-th text; null is the empty text."""
    found = np.array([bucket(text or "") for text in texts])
    train_end, eval_end = sample * 10 * (1 - EVAL / 100), sample * 10
    ids = np.arange(len(texts))
    return {
        "train": ids[found < train_end],
        "eval": ids[(found >= train_end) & (found < eval_end)],
    }


# Shapes.


@pytest.mark.parametrize(
    "settings",
    [
        {"deal": "lopsided"},
        {"deal": "empty"},
        {"max_streams": 1},
        {"compression": "lz4"},
        {"compression": "zstd"},
    ],
    ids=lambda settings: "-".join(map(str, *settings.items())),
)
def test_however_the_service_deals_and_packs_them_rows_come_once_an_epoch(
    settings: dict[str, Any], bigquery: Warehouse, client: FaucetClient
) -> None:
    bigquery.server.configure(message_rows=300, **settings)
    table = bigquery.load(rows=20_000, chunk_rows=1_500)
    first, second = read_chunks(client, client.open(table.spec()), epochs=2)
    assert_exact(ids_in(first), table.rows)
    assert first.keys() == second.keys()
    assert same_chunks(first, second)
    assert len(bigquery.sessions()) == 1


def test_a_table_of_one_row_is_an_epoch_of_one_row(
    bigquery: Warehouse, client: FaucetClient
) -> None:
    table = bigquery.load(rows=1)
    assert_splits(client, table.spec(), all_rows(table))


def test_nothing_to_read_is_an_error_that_says_so(
    bigquery: Warehouse, client: FaucetClient
) -> None:
    table = bigquery.load(rows=0)
    with pytest.raises(SourceEmpty, match=table.name):
        client.open(table.spec())
    table = replace(table, rows=10)
    bigquery.write(table)
    with pytest.raises(SourceEmpty, match="id < 0"):
        client.open(table.spec(bigquery={"filter": "id < 0"}))
    assert_splits(client, table.spec(), all_rows(table))


def test_messages_of_128_megabytes_are_read(bigquery: Warehouse, client: FaucetClient) -> None:
    bigquery.server.configure(message_bytes=128_000_000, max_streams=1)
    table = bigquery.load(rows=400_000, features=40, chunk_rows=50_000)
    assert_splits(client, table.spec(), all_rows(table))
    (stream,) = bigquery.server.stats()["streams"].values()
    assert stream["bytes"] / stream["messages"] > 60_000_000
    assert stream["messages"] == 2


# Splits and filters.

Hashed = tuple["pa.Array[Any]", Sequence[str | None]]


def whole_numbers(rows: int) -> Hashed:
    values = [number * 7_919 - 2**62 for number in range(rows)]
    return pa.array(values), [str(value) for value in values]


def texts(rows: int) -> Hashed:
    values = [None if number % 50 == 0 else f"rów {number % 997}" for number in range(rows)]
    return pa.array(values), values


def dates(rows: int) -> Hashed:
    values = [date(1969, 1, 1) + timedelta(days=number % 2_000) for number in range(rows)]
    return pa.array(values), [value.isoformat() for value in values]


def floats(rows: int) -> Hashed:
    return pa.array([number + 0.5 for number in range(rows)]), [f"{n}.5" for n in range(rows)]


@pytest.mark.parametrize("make", [whole_numbers, texts, dates])
def test_a_sample_is_left_to_the_session_s_filter_and_dealt_to_the_splits_by_the_hash(
    make: Callable[[int], Hashed], bigquery: Warehouse, client: FaucetClient
) -> None:
    column, hashed = make(20_000)
    table = bigquery.load(rows=20_000, more={"h": column})
    spec = table.spec(hash_column="h", sample_percent=20.0, eval_percent=EVAL)
    expected = split_by(hashed, 20)
    assert_splits(client, spec, expected)
    sessions = bigquery.sessions()
    assert all("FARM_FINGERPRINT" in session["row_restriction"] for session in sessions)
    sampled = sum(map(len, expected.values()))
    assert 0 < sampled < table.rows / 2
    assert status_of(client, spec).source_rows_read == sampled
    assert notes_of(client, spec) == ()


def test_where_the_session_refuses_the_filter_a_query_applies_it_and_the_status_says_so(
    bigquery: Warehouse, client: FaucetClient, shared_daemon: WatchedDaemon
) -> None:
    column, hashed = whole_numbers(20_000)
    table = bigquery.load(rows=20_000, more={"h": column})
    words = f"Unsupported function FARM_FINGERPRINT in the filter of {table.name}"
    bigquery.server.faults(refuse_filters="FARM_FINGERPRINT", refuse_message=words)
    spec = table.spec(hash_column="h", sample_percent=20.0, eval_percent=EVAL)
    assert_splits(client, spec, split_by(hashed, 20))
    (note,) = notes_of(client, spec)
    assert "a query applies the filter" in note
    assert words in note
    assert f"BigQuery refused a filter in a read session: {words}" in shared_daemon.log
    (session,) = bigquery.sessions()
    assert session["table"] != table.name
    assert session["row_restriction"] == ""


@pytest.mark.parametrize("refused", [None, "FARM_FINGERPRINT"], ids=["taken", "refused"])
def test_who_may_not_run_queries_counts_by_reading(
    refused: str | None, bigquery: Warehouse, client: FaucetClient
) -> None:
    column, hashed = texts(20_000)
    table = bigquery.load(rows=20_000, more={"h": column})
    bigquery.server.faults(deny=("bigquery.jobs.create",), refuse_filters=refused)
    spec = table.spec(hash_column="h", sample_percent=20.0, eval_percent=EVAL)
    assert_splits(client, spec, split_by(hashed, 20))
    (note,) = notes_of(client, spec)
    assert "bigquery.jobs.create" in note
    assert "counted by reading" in note
    # One session was tried with the filter, where it is taken; one counted, and one is read.
    assert [session["selected_fields"] for session in bigquery.sessions()][-2] == ["h"]


def test_a_split_by_what_only_bigquery_can_hash_is_computed_by_a_query(
    bigquery: Warehouse, client: FaucetClient
) -> None:
    column, hashed = floats(20_000)
    table = bigquery.load(rows=20_000, more={"h": column})
    spec = table.spec(hash_column="h", sample_percent=50.0, eval_percent=EVAL)
    assert_splits(client, spec, split_by(hashed, 50))
    (note,) = notes_of(client, spec)
    assert "a query has computed the split" in note


@pytest.mark.parametrize("taken", [True, False], ids=["taken", "refused"])
def test_a_partition_is_read_alone(taken: bool, bigquery: Warehouse, client: FaucetClient) -> None:
    bigquery.server.configure(filter_pseudo_columns=taken)
    days = [f"2020-01-{20 + number % 3}" for number in range(9_000)]
    table = bigquery.load(rows=9_000, more={"day": days}, partitions="day")
    spec = table.spec(bigquery={"partition_date": "2020-01-21"})
    assert_splits(client, spec, {"train": np.arange(1, 9_000, 3)})
    status = status_of(client, spec)
    assert status.source == f"bigquery:{table.name}$2020-01-21"
    assert len(notes_of(client, spec)) == (0 if taken else 1)
    assert status.source_rows_read == 3_000


def test_a_filter_a_view_and_a_query_yield_their_rows_alone(
    bigquery: Warehouse, client: FaucetClient
) -> None:
    table = bigquery.load(rows=10_000)
    ids = np.arange(table.rows)
    some = ids[(feature(ids, 0) > 200) | (ids % 10 == 3)]
    where = "f0 > 200 OR MOD(id, 10) = 3"
    assert_splits(client, table.spec(bigquery={"filter": where}), {"train": some})
    (session,) = {session["row_restriction"] for session in bigquery.sessions()}
    assert where in session

    view = f"{bigquery.dataset}.seen"
    bigquery.server.view(view, f"SELECT * FROM `{table.name}` WHERE {where}")
    spec = table.spec(bigquery={"table": view})
    assert_splits(client, spec, {"train": some})
    assert "VIEW" in status_of(client, spec).notes[0]

    query = f"SELECT y, f3, f2, f1, f0, id FROM `{table.name}` WHERE {where} -- all\n"
    spec = table.spec(bigquery={"query": query}, hash_column="id", eval_percent=EVAL)
    splits = split_by([str(number) for number in range(table.rows)])
    assert_splits(client, spec, {split: np.intersect1d(ids, some) for split, ids in splits.items()})


# Chunks by hash.


def test_chunks_by_hash_are_the_same_whoever_reads_them_and_however(
    bigquery: Warehouse,
) -> None:
    server = bigquery.server
    server.dataset(RESULTS)
    server.configure(session_life_s=1.0, message_rows=100)
    table = bigquery.load(rows=40_000, chunk_rows=4_000, floats=False)
    daemon = bigquery.start_daemon("1MiB", max_streams="4", result_dataset=RESULTS)
    client = daemon.client()
    chosen = client.open(table.spec(chunking="auto"))
    assert chosen.info.chunks > 0
    assert (
        'took "hash": the prepared rows exceed memory and spill budget'
        in client.status().datasets[0].notes[0]
    )
    spec = table.spec(chunking="hash", hash_column="id", eval_percent=EVAL)
    expected = split_by([str(number) for number in range(table.rows)])
    dataset = client.open(spec)
    assert dataset.info.rows == {split: len(ids) for split, ids in expected.items()}
    assert 8 <= dataset.info.chunks <= 16
    # The sessions end in the midst of the epochs, and the memory holds a part of the chunks.
    first, second = read_chunks(client, dataset, epochs=2)
    assert np.array_equal(np.sort(ids_in(first)), expected["train"])
    assert first.keys() == second.keys()
    assert same_chunks(first, second)
    (evals,) = read_chunks(client, dataset, "eval", shuffle="none")
    assert np.array_equal(np.sort(ids_in(evals)), expected["eval"])
    by_key = {one.key: one for one in client.status().datasets}
    seen = by_key[dataset.info.key]
    found = re.search(rf"from ({RESULTS}\.\w+), which expires", seen.notes[-1])
    assert found is not None
    assert seen.chunks_made > seen.chunks
    assert all(
        session["row_restriction"] for session in bigquery.sessions() if RESULTS in session["table"]
    )

    # Another daemon, other streams, and rows that come in another order.
    daemon.kill()
    bigquery.reverse(found[1])
    server.configure(max_streams=3, deal="lopsided", message_rows=77)
    queries = bigquery.count_queries()
    daemon.restart()
    dataset.batches(batch_size=BATCH).close()
    (again,) = read_chunks(daemon.client(), dataset, shuffle="none")
    assert again.keys() == first.keys()
    assert same_chunks(first, again)
    assert bigquery.count_queries() == queries

    # As long as the rows are the same, so are the chunks, whenever they are dealt and by whom.
    dealt_anew = table.spec(
        chunking="hash", hash_column="id", eval_percent=EVAL, bigquery={"snapshot": "new"}
    )
    fresh = bigquery.start_daemon("1MiB", max_streams="2", result_dataset=RESULTS).client()
    for other in (daemon.client(), fresh):
        new = other.open(dealt_anew)
        assert new.info.key == dataset.info.key
        (others,) = read_chunks(other, new)
        assert same_chunks(first, others)
    bigquery.write(table, first=1)
    assert fresh.open(dealt_anew).info.key != dataset.info.key


def test_deterministic_batches_by_hash_are_the_same_whatever_workers_streams_and_budget(
    bigquery: Warehouse,
) -> None:
    bigquery.server.dataset(RESULTS)
    table = bigquery.load(rows=20_000, chunk_rows=1_000)
    spec = table.spec(chunking="hash", bigquery={"snapshot": "new"})
    found = []
    for budget, workers, streams in (("64MiB", 1, "1"), ("512KiB", 3, "5")):
        daemon = bigquery.start_daemon(budget, workers, max_streams=streams, result_dataset=RESULTS)
        dataset = daemon.client().open(spec)
        with dataset.batches(
            batch_size=300, epochs=2, shuffle="rows", order="deterministic", seed=9
        ) as batches:
            found.append([(ids_of(batch), batch.features.numpy().tobytes()) for batch in batches])
    assert len(found[0]) == len(found[1]) == 2 * 67
    for (ours, our_bytes), (theirs, their_bytes) in zip(*found, strict=True):
        assert np.array_equal(ours, theirs)
        assert our_bytes == their_bytes
    assert_exact(np.concatenate([ids for ids, _ in found[0][:67]]), table.rows)


def test_equal_rows_are_dealt_to_many_chunks(bigquery: Warehouse, client: FaucetClient) -> None:
    rows = 20_000
    name = f"{bigquery.dataset}.repeated"
    bits = np.arange(rows) % 2
    bigquery.server.load(name, pa.table({"a": bits, "y": (np.arange(rows) % 4 > 1).astype(float)}))
    spec = DatasetSpec(
        source=BigQuerySource(table=name),
        features=["a"],
        labels=["y"],
        chunking="hash",
        chunk_rows=1_000,
        preprocessing="none",
    )
    dataset = client.open(spec)
    assert dataset.info.rows["train"] == rows
    assert dataset.info.chunks == 20
    found: Counter[tuple[float, float]] = Counter()
    for batch in dataset.batches(batch_size=BATCH):
        found.update(
            zip(batch.features[:, 0].tolist(), batch.labels["y"][:, 0].tolist(), strict=True)
        )
    assert set(found.values()) == {rows // 4}
    assert len(found) == 4


@pytest.mark.parametrize("hash_column", ["id", "h"])
def test_a_query_runs_once_and_its_chunks_are_dealt_from_its_result(
    hash_column: str, bigquery: Warehouse, client: FaucetClient
) -> None:
    column, hashed = floats(8_000)
    table = bigquery.load(rows=8_000, chunk_rows=1_000, more={"h": column})
    query = f"SELECT * FROM `{table.name}` WHERE id >= 0"
    spec = table.spec(
        bigquery={"query": query}, chunking="hash", hash_column=hash_column, eval_percent=EVAL
    )
    texts = hashed if hash_column == "h" else [str(number) for number in range(table.rows)]
    assert_splits(client, spec, split_by(texts))
    ran = [job["sql"] for job in bigquery.server.stats()["jobs"] if not job["dry"]]
    assert sum(table.name in statement for statement in ran) == 1
    # Its result, its chunks, and what these hold.
    assert len(ran) == 3
    assert client.open(spec).info.chunks >= 7


@pytest.mark.parametrize("hash_column", [None, "id"])
def test_no_rows_name_what_left_them_out(
    hash_column: str | None, bigquery: Warehouse, client: FaucetClient
) -> None:
    table = bigquery.load(rows=10)
    spec = table.spec(
        bigquery={"filter": "id < 0"},
        hash_column=hash_column,
        eval_percent=EVAL * bool(hash_column),
    )
    with pytest.raises(SourceEmpty, match="check filter"):
        client.open(spec)
    spec = table.spec(hash_column="id", sample_percent=0.1, eval_percent=0)
    with pytest.raises(SourceEmpty, match="check sample_percent"):
        client.open(spec)


def test_a_chunk_is_never_larger_than_the_table(bigquery: Warehouse, client: FaucetClient) -> None:
    table = bigquery.load(rows=3_000, chunk_rows=100_000_000)
    assert_splits(client, table.spec(), all_rows(table))


def test_a_sample_that_is_dealt_while_reading_has_no_more_chunks_for_that(
    bigquery: Warehouse, client: FaucetClient
) -> None:
    column, hashed = texts(20_000)
    table = bigquery.load(rows=20_000, chunk_rows=500, more={"h": column})
    bigquery.server.faults(deny=("bigquery.jobs.create",), refuse_filters="FARM_FINGERPRINT")
    spec = table.spec(hash_column="h", sample_percent=10.0, eval_percent=EVAL)
    expected = split_by(hashed, 10)
    assert_splits(client, spec, expected)
    sampled = sum(map(len, expected.values()))
    assert sampled / 500 <= status_of(client, spec).chunks <= 2 * sampled / 500 + 4


@pytest.mark.parametrize("streaming_rows", [0, 10])
def test_rows_in_the_streaming_buffer_are_read_where_no_query_may_tell_the_time(
    streaming_rows: int, bigquery: Warehouse, client: FaucetClient
) -> None:
    table = bigquery.load(rows=1_000, streaming_rows=streaming_rows)
    bigquery.server.faults(deny=("bigquery.jobs.create",))
    assert_splits(client, table.spec(), all_rows(table))
    notes = " ".join(status_of(client, table.spec()).notes)
    assert ("is being streamed into" in notes) == bool(streaming_rows)


def test_chunks_by_hash_need_a_dataset_for_results_and_auto_does_without(
    bigquery: Warehouse, client: FaucetClient
) -> None:
    table = bigquery.load(chunk_rows=4_000)
    small = bigquery.start_daemon("1MiB").client()
    with pytest.raises(ConfigError, match="result_dataset"):
        small.open(table.spec(chunking="hash"))
    assert_splits(small, table.spec(), all_rows(table))
    (note,) = status_of(small, table.spec()).notes
    assert "exceed memory and spill budget" in note
    assert "result_dataset" in note
    # What fits is read as it comes, though there is a dataset for results.
    assert client.open(table.spec()).info.chunks == 0
    (note,) = status_of(client, table.spec()).notes
    assert 'took "arrival": memory and spill budget hold the prepared rows' in note


# Joining.


def as_time(moment_ms: int) -> str:
    return (datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=moment_ms)).isoformat()


def test_opens_of_one_spec_share_a_snapshot_until_a_new_one_is_asked_for(
    bigquery: Warehouse, client: FaucetClient, shared_daemon: WatchedDaemon
) -> None:
    table = bigquery.load(rows=0)
    table = replace(table, rows=5_000)
    before = bigquery.write(table)
    dataset = client.open(table.spec())
    bigquery.write(table, first=100_000)
    with FaucetClient(shared_daemon.address) as other:
        joined = other.open(table.spec())
        assert joined.info.key == dataset.info.key
        assert_splits(other, table.spec(), all_rows(table))
        assert len(bigquery.sessions()) == 1
        new = table.spec(bigquery={"snapshot": "new"})
        assert_splits(other, new, all_rows(table, 100_000))
        then = table.spec(bigquery={"snapshot": as_time(before)})
        assert_splits(other, then, all_rows(table))
    assert_splits(client, table.spec(), all_rows(table))


def test_every_open_for_a_new_snapshot_gets_one(bigquery: Warehouse, client: FaucetClient) -> None:
    table = bigquery.load(rows=1_000)
    spec = table.spec(bigquery={"snapshot": "new"})
    keys = {client.open(spec).info.key for _ in range(2)}
    assert len(keys) == len(bigquery.sessions()) == 2


def test_an_expired_session_ends_what_must_be_read_again_and_not_what_is_in_memory(
    bigquery: Warehouse, client: FaucetClient
) -> None:
    server = bigquery.server
    held, left = bigquery.load(rows=5_000), bigquery.load(rows=5_000)
    assert_splits(client, held.spec(), all_rows(held))
    dataset = client.open(left.spec())
    server.faults(sessions_expired=True)
    name = bigquery.sessions()[-1]["name"]
    with pytest.raises(SourceChanged, match="expired") as told:
        list(dataset.batches(batch_size=BATCH))
    assert left.name in str(told.value)
    assert name in str(told.value)
    assert_splits(client, held.spec(), all_rows(held))
    server.faults()
    assert_splits(client, left.spec(), all_rows(left))
    assert client.open(left.spec()).info.key != dataset.info.key


def test_a_session_that_will_soon_expire_is_not_joined_unless_nothing_is_left_to_read(
    bigquery: Warehouse, client: FaucetClient
) -> None:
    bigquery.server.configure(session_life_s=300)
    table = bigquery.load(rows=5_000)
    first, second = client.open(table.spec()), client.open(table.spec())
    assert first.info.key != second.info.key
    (chunks,) = read_chunks(client, second)
    assert_exact(ids_in(chunks), table.rows)
    assert client.open(table.spec()).info.key == second.info.key
    assert len(bigquery.sessions()) == 2


# DataLoaders.


def test_a_dataloader_s_workers_share_rows_whose_chunks_are_found_meanwhile(
    bigquery: Warehouse, shared_daemon: WatchedDaemon
) -> None:
    bigquery.server.configure(message_rows=300)
    table = bigquery.load(rows=10_007, chunk_rows=1_000)
    config = {
        "address": shared_daemon.address,
        "spec": table.fields(),
        "workers": 2,
        "context": "fork",
        "used": False,
    }
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.processes.loader_script", json.dumps(config)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    for epoch in json.loads(ended.stdout):
        assert_exact(np.array(epoch["ids"]), table.rows)
        assert sorted(epoch["sizes"])[1:] == [LOADER_BATCH] * (epoch["length"] - 1)
