from __future__ import annotations

import io
import math
from collections.abc import Iterator

import duckdb
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from faucet_client.status import CostStatus, DatasetStatus, MemoryStatus, Status
from faucetd.demo.auc import auc
from faucetd.demo.display import Job, PlainDisplay, daemon_lines, results_table
from faucetd.demo.progress import Batches, EpochEnd, Event, Failure, read_event
from faucetd.demo.table import TEXTS, make_table


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), max_size=40))
def test_auc_is_the_chance_that_a_positive_is_above_a_negative(
    rows: list[tuple[int, bool]],
) -> None:
    pairs = [
        1.0 if positive > negative else 0.5 if positive == negative else 0.0
        for positive, is_positive in rows
        if is_positive
        for negative, other_is_positive in rows
        if not other_is_positive
    ]
    scores = torch.tensor([float(score) for score, _ in rows])
    labels = torch.tensor([float(label) for _, label in rows])
    found = auc(scores, labels)
    if pairs:
        assert found == pytest.approx(sum(pairs) / len(pairs))
    else:
        assert math.isnan(found)


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    database = tmp_path_factory.mktemp("demo") / "flights.duckdb"
    assert make_table(database) == 327_346
    with duckdb.connect(str(database), read_only=True) as connection:
        yield connection


def one_row(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[object, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row


def feature_types(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    rows = connection.execute("DESCRIBE SELECT features.* FROM flights").fetchall()
    return {name: kind for name, kind, *_ in rows}


def test_the_table_has_a_label_and_an_id_for_every_flight_that_arrived(
    flights: duckdb.DuckDBPyConnection,
) -> None:
    counts = one_row(
        flights,
        "SELECT count(*), count(DISTINCT row_id), count(late), sum(late) FROM flights",
    )
    assert counts == (327_346, 327_346, 327_346, 77_630)


def test_features_are_numbers_with_some_nulls_and_texts_and_tell_nothing_of_the_arrival(
    flights: duckdb.DuckDBPyConnection,
) -> None:
    types = feature_types(flights)
    assert [name for name, kind in types.items() if kind == "VARCHAR"] == list(TEXTS)
    assert set(types.values()) == {"BIGINT", "VARCHAR"}
    assert len(types) == 9 + 3
    assert not set(types) & {"arr_time", "arr_delay", "air_time", "dep_time"}
    [without_age] = one_row(
        flights, "SELECT count(*) FROM flights WHERE features.plane_age IS NULL"
    )
    assert without_age == 53_493


def test_each_flight_has_a_carrier_an_origin_and_a_destination(
    flights: duckdb.DuckDBPyConnection,
) -> None:
    counted = ", ".join(f"count(DISTINCT features.{name})" for name in TEXTS)
    assert one_row(flights, f"SELECT {counted} FROM flights") == (16, 3, 104)
    missing = " OR ".join(f"features.{name} IS NULL" for name in TEXTS)
    assert one_row(flights, f"SELECT count(*) FROM flights WHERE {missing}") == (0,)


@pytest.mark.parametrize(
    "event",
    [Batches(0, 3, 500, 0.5), EpochEnd(1, 1000, 2.5, 0.1, 0.93), Failure("no such table")],
)
def test_events_survive_the_pipe(event: Event, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    from faucetd.demo.progress import write_event

    write_event(event)
    line = capfdbinary.readouterr().out
    assert line.count(b"\n") == 1
    assert read_event(line) == event


@pytest.mark.parametrize("line", [b"hello\n", b"{}\n", b'{"type": "other"}\n'])
def test_what_is_not_an_event_is_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError):
        read_event(line)


def finished_job() -> Job:
    ends = [EpochEnd(0, 1000, 0.5, 0.25, 0.875), EpochEnd(1, 1000, 0.5, 0.3, 0.9)]
    return Job("lr-0.1", 0.1, ends)


def test_without_a_terminal_each_epoch_is_one_plain_line() -> None:
    text = io.StringIO()
    with PlainDisplay(Console(file=text)) as display:
        display.update(finished_job(), Batches(0, 3, 500, 0.5))
        display.update(finished_job(), finished_job().epochs[0])
    assert text.getvalue() == "learning rate 0.1: epoch 1 done, AUC 0.8750\n"


def test_the_table_at_the_end_has_a_jobs_figures_over_all_epochs() -> None:
    text = io.StringIO()
    Console(file=text, width=100).print(results_table([finished_job()], epochs=2))
    [row] = [line for line in text.getvalue().splitlines() if "0.8750" in line]
    assert row.replace("│", " ").split() == ["0.1", "0.8750", "0.9000", "2,000", "0.30", "s"]


def status_of(rows_read: int, cost: CostStatus | None = None) -> Status:
    dataset = DatasetStatus(
        key="k", source="s", state="ready", error="", train_rows=800, eval_rows=200, chunks=16,
        chunks_resident=16, chunks_made=16, resident_bytes=1, source_rows_read=rows_read,
        source_bytes_read=2048, count_rows_read=0, count_bytes_read=0, cost=cost,
    )  # fmt: skip
    return Status("0", 1, 1.0, MemoryStatus(2**20, 0, 0, 2**19), (), (dataset,), ())


@pytest.mark.parametrize(("rows_read", "said"), [(1000, "once"), (1500, "1.50 times")])
def test_the_demo_says_how_often_the_table_was_really_read(rows_read: int, said: str) -> None:
    text = " ".join(daemon_lines(status_of(rows_read), table_rows=1000, jobs=4, epochs=2))
    assert f"read the table {said}: {rows_read:,} rows, 2.00 KiB" in text
    assert "8,000 rows" in text
    assert "512 KiB of 1.00 MiB" in text


def test_of_a_warehouse_only_one_figure_is_named_for_what_the_cache_saved() -> None:
    cost = CostStatus(
        query_bytes=10 * 2**20, read_bytes=2**20, pass_bytes=2**20, passes_served=16.0,
        query_price_per_tib=0.0, read_price_per_tib=0.0,
    )  # fmt: skip
    text = "\n".join(daemon_lines(status_of(1000, cost), table_rows=1000, jobs=4, epochs=2))
    assert "16 reads of the table, one for each trainer, epoch and split, would have been" in text
    assert "16.0 MiB" in text
    assert "8,000 rows" not in text
