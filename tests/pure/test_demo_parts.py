from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from faucetd.demo.auc import auc
from faucetd.demo.progress import (
    Batches,
    EpochEnd,
    Event,
    Failure,
    Resumed,
    Saved,
    read_event,
)
from faucetd.demo.sweep import is_moment
from faucetd.demo.table import TEXTS, make_table, read_ids


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
    [
        Resumed(1, 3, 1_000),
        Batches(0, 3, 500, 0.5),
        Saved(1, 3),
        EpochEnd(1, 1000, 2.5, 0.1, 0.93),
        Failure("no such table"),
    ],
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


@pytest.mark.parametrize(
    ("saved", "done", "total", "now"),
    [
        (None, 500, 512, False),
        (Saved(1, 102), 150, 512, False),
        (Saved(1, 102), 160, 512, True),
        (Saved(0, 408), 512, 512, False),  # of the epoch before
        (Saved(1, 1), 2, 8, True),
        (Saved(1, 1), 1, 8, False),
    ],
)
def test_a_trainer_is_killed_well_after_a_checkpoint_of_its_second_epoch(
    saved: Saved | None, done: int, total: int, now: bool
) -> None:
    assert is_moment(saved, Batches(1, done, total, 0.5)) is now
    assert not is_moment(saved, Batches(0, done, total, 0.5))
    assert not is_moment(saved, Saved(1, done))
    assert not is_moment(saved, EpochEnd(1, 1000, 2.5, 0.1, 0.93))


def test_the_ids_of_the_table_are_those_of_its_rows(tmp_path: Path) -> None:
    assert make_table(tmp_path / "few.duckdb", rows=1_000) == 1_000
    ids = read_ids(tmp_path / "few.duckdb")
    assert ids.dtype == "int64"
    assert len(set(ids.tolist())) == 1_000
