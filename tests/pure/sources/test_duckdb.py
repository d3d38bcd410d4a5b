"""What is special about DuckDB databases."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from faucetd.errors import (
    ColumnError,
    SourceChanged,
    SourceError,
    SourceNotFound,
    SourceReadError,
    SpecError,
)
from faucetd.fetch import duckdb as duckdb_module
from faucetd.fetch import scratch as scratch_module
from faucetd.fetch.connection import catalog_name, connect, reading
from faucetd.fetch.duckdb import DuckDBTable, stream_span
from tests.pure.sources.kinds import rows_of, whole


def database(path: Path, *statements: str) -> str:
    with duckdb.connect(str(path)) as connection:
        for statement in statements:
            connection.execute(statement)
    return str(path)


@pytest.fixture
def scratch(tmp_path: Path) -> str:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return str(folder)


@pytest.fixture
def flights(tmp_path: Path) -> str:
    return database(
        tmp_path / "flights.duckdb",
        "CREATE TABLE flights AS SELECT range AS id FROM range(5000)",
        "CREATE SCHEMA old",
        "CREATE TABLE old.airports AS SELECT 1 AS id",
        'CREATE TABLE "a.b" AS SELECT 2 AS id',
        "CREATE VIEW late AS SELECT id FROM flights WHERE id % 2 = 0",
    )


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("flights", 5_000),
        ("FLIGHTS", 5_000),
        ("main.flights", 5_000),
        ("flights.flights", 5_000),
        ("flights.main.flights", 5_000),
        ("old.airports", 1),
        ("a.b", 1),
        ("late", 2_500),
    ],
)
def test_a_table_is_found_by_any_of_its_names(
    flights: str, scratch: str, name: str, rows: int
) -> None:
    table = DuckDBTable(flights, table=name, scratch_dir=scratch)
    assert len(rows_of(table, whole(table), ["id"])) == rows
    table.close()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("flight", "did you mean flights"),
        ("airports", "did you mean old.airports"),
        ("zzz", "it has a.b, flights, late"),
        ('flights" --', "did you mean flights"),
    ],
)
def test_a_missing_table_is_not_found_and_near_names_are_told(
    flights: str, scratch: str, name: str, hint: str
) -> None:
    with pytest.raises(SourceNotFound, match="no table or view") as error:
        DuckDBTable(flights, table=name, scratch_dir=scratch)
    assert hint in error.value.message


@pytest.mark.parametrize("name", ["memory", "temp", "Main", "system", 'qu"ote', "it's", "select"])
def test_a_database_may_have_any_file_name(tmp_path: Path, scratch: str, name: str) -> None:
    path = database(tmp_path / f"{name}.duckdb", "CREATE TABLE t AS SELECT 1 AS id")
    table = DuckDBTable(path, table="t", scratch_dir=scratch)
    assert rows_of(table, whole(table), ["id"]) == [(1,)]
    table.close()
    quoted = '"' + catalog_name(path).replace('"', '""') + '"'
    query = DuckDBTable(path, query=f"SELECT id FROM {quoted}.main.t", scratch_dir=scratch)
    assert rows_of(query, whole(query), ["id"]) == [(1,)]
    query.close()


def test_a_catalog_is_called_what_duckdb_calls_it(tmp_path: Path) -> None:
    for name in ("flights.duckdb", "temp.db", "a.b.duckdb", "system"):
        path = database(tmp_path / name)
        with duckdb.connect(path, read_only=True) as connection:
            assert connection.execute("SELECT current_database()").fetchall() == [
                (catalog_name(path),)
            ]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1; SELECT 2",
        "INSERT INTO flights VALUES (1)",
        "CREATE TABLE t AS SELECT 1",
        "ATTACH '/etc/passwd'",
        "COPY flights TO '/tmp/out.csv'",
        "SET threads = 4",
        "PRAGMA version",
        "",
        "-- nothing",
        "SELECT * FROM flights WHERE id = ?",
    ],
)
def test_a_query_that_is_not_one_plain_select_is_refused(
    flights: str, scratch: str, query: str
) -> None:
    with pytest.raises(SpecError, match=r"SELECT statement|parameters"):
        DuckDBTable(flights, query=query, scratch_dir=scratch)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT nothing FROM flights", "nothing"),
        ("SELEC 1", "syntax error"),
        ("SELECT * FROM read_csv('/etc/passwd')", "asks for more than the database itself"),
        ("SELECT * FROM '/etc/passwd'", "passwd"),
        ("SELECT * FROM scratch", "scratch"),
        ("SELECT 1 / (id - id), error('boom') FROM flights", "boom"),
    ],
)
def test_a_query_that_fails_says_what_duckdb_says_and_leaves_nothing_behind(
    flights: str, scratch: str, query: str, message: str
) -> None:
    with pytest.raises(SourceReadError, match=r"query") as error:
        DuckDBTable(flights, query=query, scratch_dir=scratch)
    assert message in error.value.message
    assert list(Path(scratch).iterdir()) == []


def test_a_query_sees_no_variable_of_our_own_code(flights: str, scratch: str) -> None:
    leaked = pa.table({"secret": [1]})
    assert leaked.num_rows == 1
    with pytest.raises(SourceReadError, match="leaked"):
        DuckDBTable(flights, query="SELECT * FROM leaked", scratch_dir=scratch)


def test_a_view_that_reads_other_files_is_refused(tmp_path: Path, scratch: str) -> None:
    outside = tmp_path / "outside.csv"
    outside.write_text("a\n1\n")
    path = database(tmp_path / "t.duckdb", f"CREATE VIEW v AS SELECT * FROM read_csv('{outside}')")
    with pytest.raises(SourceReadError, match="asks for more than the database itself"):
        DuckDBTable(path, table="v", scratch_dir=scratch)


def test_the_locked_connection_refuses_files_settings_and_writes(flights: str) -> None:
    connection = connect(flights)
    for statement in (
        "SELECT * FROM read_text('/etc/passwd')",
        "ATTACH '/tmp/other.duckdb'",
        "COPY flights TO '/tmp/out.csv'",
        "SET enable_external_access = true",
        "SET lock_configuration = false",
        "RESET enable_external_access",
        "INSTALL httpfs",
        "DELETE FROM flights",
        "CREATE TABLE flights.main.t AS SELECT 1",
    ):
        with pytest.raises(SourceError), reading(flights, "the statement"):
            connection.execute(statement)
    connection.close()


def test_a_query_is_run_once_for_all_processes(flights: str, scratch: str) -> None:
    query = "SELECT id, random() AS luck FROM flights"
    first = DuckDBTable(flights, query=query, scratch_dir=scratch)
    again = DuckDBTable(flights, query=query, scratch_dir=scratch, snapshot=first.snapshot)
    rows = rows_of(first, whole(first), ["id", "luck"])
    assert rows_of(again, whole(again), ["id", "luck"]) == rows
    assert len(list(Path(scratch).iterdir())) == 1
    first.close()
    again.close()


def _lucky(path: str, scratch: str, start: object, answers: object) -> None:
    start.wait()  # type: ignore[attr-defined]  # a Barrier of a spawn context
    query = "SELECT random() AS luck FROM flights"
    table = DuckDBTable(path, query=query, scratch_dir=scratch)
    answers.put(rows_of(table, whole(table), ["luck"]))  # type: ignore[attr-defined]  # a Queue
    table.close()


def test_processes_that_open_a_query_at_once_all_get_the_same_rows(
    flights: str, scratch: str
) -> None:
    context = multiprocessing.get_context("spawn")
    start, answers = context.Barrier(3), context.Queue()
    processes = [
        context.Process(target=_lucky, args=(flights, scratch, start, answers)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    rows = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert rows[0] == rows[1] == rows[2]
    assert len(rows[0]) == 5_000
    assert [file.suffix for file in Path(scratch).iterdir()] == [".duckdb"]


def test_a_half_written_file_of_a_process_that_died_is_written_anew(
    flights: str, scratch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = "SELECT id FROM flights"

    def dying(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        # As after a SIGKILL: neither the file nor what was spilled is cleared away.
        patch.setattr(os, "replace", dying)
        patch.setattr(scratch_module, "_remove", lambda _: None)
        with pytest.raises(KeyboardInterrupt):
            DuckDBTable(flights, query=query, scratch_dir=scratch)
    (partial,) = Path(scratch).glob("*.partial")
    partial.write_bytes(b"half of it")
    Path(f"{partial}.spill").mkdir()
    table = DuckDBTable(flights, query=query, scratch_dir=scratch)
    assert rows_of(table, whole(table), ["id"]) == [(n,) for n in range(5_000)]
    assert [file.suffix for file in Path(scratch).iterdir()] == [".duckdb"]
    table.close()


def test_a_lock_whose_file_was_removed_meanwhile_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.lock"
    held: list[bool] = []
    real = fcntl.flock

    def removed_once(descriptor: int, how: int) -> None:
        real(descriptor, how)
        if not held:
            path.unlink()  # as its last holder does, just before we get the lock
        held.append(True)

    monkeypatch.setattr(fcntl, "flock", removed_once)
    with scratch_module._locked(str(path)):
        assert path.exists()
    assert len(held) == 2
    assert not path.exists()


def test_an_order_by_beyond_the_memory_limit_spills_and_keeps_its_order(
    tmp_path: Path, scratch: str
) -> None:
    path = database(
        tmp_path / "t.duckdb",
        "CREATE TABLE t AS SELECT range AS id, md5(range::varchar) AS word FROM range(1500000)",
    )
    query = "SELECT * FROM t ORDER BY word"
    table = DuckDBTable(path, query=query, scratch_dir=scratch, memory_limit="48MB")
    words = [word for (word,) in rows_of(table, whole(table), ["word"])]
    assert len(words) == 1_500_000
    assert words == sorted(words)
    assert [file.suffix for file in Path(scratch).iterdir()] == [".duckdb"]
    table.close()


def test_a_database_open_for_writing_elsewhere_is_an_error_that_says_so(
    flights: str, scratch: str
) -> None:
    code = (
        "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, flights], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"\n"
        with pytest.raises(SourceReadError, match="is open for writing"):
            DuckDBTable(flights, table="flights", scratch_dir=scratch)
        writer.communicate()
    with (
        duckdb.connect(flights),
        pytest.raises(SourceReadError, match="is open for writing"),
    ):
        DuckDBTable(flights, table="flights", scratch_dir=scratch)


def test_closing_lets_others_write_and_reading_afterwards_is_an_error(
    flights: str, scratch: str
) -> None:
    table = DuckDBTable(flights, table="flights", scratch_dir=scratch)
    pieces = whole(table)
    table.close()
    table.close()
    duckdb.connect(flights).close()
    with pytest.raises(SourceError):
        rows_of(table, pieces, ["id"])


def test_a_view_locks_its_database_no_longer_than_it_is_written(flights: str, scratch: str) -> None:
    table = DuckDBTable(flights, table="late", scratch_dir=scratch)
    database(Path(flights), "DELETE FROM flights")
    assert len(rows_of(table, whole(table), ["id"])) == 2_500
    table.close()


def test_a_column_called_rowid_is_refused(tmp_path: Path, scratch: str) -> None:
    path = database(tmp_path / "t.duckdb", "CREATE TABLE t AS SELECT 7 AS RowId")
    with pytest.raises(ColumnError, match="hides DuckDB's row numbers"):
        DuckDBTable(path, table="t", scratch_dir=scratch)


def test_a_database_that_changes_while_it_is_opened_is_noticed(
    flights: str, scratch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = database(tmp_path / "other.duckdb", "CREATE TABLE flights AS SELECT 1 AS id")

    def replacing(path: str, **options: Any) -> duckdb.DuckDBPyConnection:
        os.replace(other, path)
        return connect(path, **options)

    monkeypatch.setattr(duckdb_module, "connect", replacing)
    with pytest.raises(SourceChanged, match="was replaced"):
        DuckDBTable(flights, table="flights", scratch_dir=scratch)


def test_the_end_of_a_piece_counts_only_if_the_database_is_still_the_same(
    flights: str, scratch: str
) -> None:
    table = DuckDBTable(flights, table="flights", scratch_dir=scratch)
    reading_rows = table.read(whole(table)[0], ["id"])
    next(reading_rows)
    os.utime(flights, ns=(0, 0))
    with pytest.raises(SourceChanged, match="was written to"):
        next(reading_rows)
    table.close()


def test_changes_in_the_write_ahead_log_count(tmp_path: Path, scratch: str) -> None:
    path = str(tmp_path / "t.duckdb")
    with duckdb.connect(path) as connection:
        connection.execute(
            "SET checkpoint_threshold = '1GB'; PRAGMA disable_checkpoint_on_shutdown"
        )
        connection.execute("CREATE TABLE t AS SELECT range AS id FROM range(10)")
    assert Path(f"{path}.wal").exists()
    table = DuckDBTable(path, table="t", scratch_dir=scratch)
    assert len(rows_of(table, whole(table), ["id"])) == 10
    with Path(f"{path}.wal").open("ab") as log:
        log.write(b"more")
    with pytest.raises(SourceChanged, match=r"t\.duckdb\.wal was written to"):
        rows_of(table, whole(table), ["id"])
    table.close()


def test_duckdb_types_come_as_plain_arrow_values(tmp_path: Path, scratch: str) -> None:
    path = database(
        tmp_path / "t.duckdb",
        "SET TimeZone = 'Europe/Rome'",
        "CREATE TABLE t AS SELECT 'a'::ENUM('a', 'b') AS e, 1::HUGEINT AS h, [1, 2] AS l,"
        " TIMESTAMPTZ '2020-01-20 12:00:00+00' AS ts, {'in': {'er': 'x'::ENUM('x')}} AS s",
    )
    table = DuckDBTable(path, table="t", scratch_dir=scratch)
    types = {column.name: column.type for column in table.columns()}
    assert types == {
        "e": pa.string(),
        "h": pa.decimal128(38, 0),
        "l": types["l"],
        "ts": pa.timestamp("us", "UTC"),
        "s.in.er": pa.string(),
    }
    assert rows_of(table, whole(table), ["s.in.er", "e", "l"]) == [("x", "a", [1, 2])]
    table.close()


@pytest.mark.parametrize("content", [b"", b"hello" * 1000, b"SQLite format 3\0" + b"\0" * 4096])
def test_a_file_that_is_no_duckdb_database_is_refused_by_name(
    tmp_path: Path, scratch: str, content: bytes
) -> None:
    path = tmp_path / "t.duckdb"
    path.write_bytes(content)
    with pytest.raises(SourceReadError, match=r"t\.duckdb: opening it failed"):
        DuckDBTable(str(path), table="t", scratch_dir=scratch)


def test_streams_are_whole_vectors_about_128_and_at_most_a_row_group() -> None:
    assert stream_span(0) == stream_span(1) == stream_span(262_144) == 2_048
    assert stream_span(2_000_000) == 16_384
    assert stream_span(10**9) == 122_880
    assert all(stream_span(rows) % 2_048 == 0 for rows in range(1, 10**7, 99_991))


@pytest.mark.parametrize(
    "error", [duckdb.IOException("x"), pa.ArrowInvalid("x"), OSError("x"), duckdb.Error("x")]
)
def test_whatever_duckdb_raises_becomes_an_error_of_ours(error: Exception) -> None:
    with pytest.raises(SourceReadError, match="the rows failed: x"), reading("p", "the rows"):
        raise error
