"""What every source must do, whatever it reads."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise, zip_longest
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faucet_client.spec import BigQuerySource
from faucetd.errors import ColumnError, SourceChanged, SourceEmpty, SourceReadError
from faucetd.fetch import flat
from faucetd.fetch.bigquery.table import BigQueryTable
from faucetd.fetch.files import FileState
from faucetd.fetch.opening import FileDescription, current_snapshot
from faucetd.fetch.pieces import Piece
from faucetd.fetch.source import BATCH_BYTES, BATCH_ROWS, Source
from tests.bigquery_server.local import LocalBigQuery
from tests.pure.sources.kinds import (
    FILE_KINDS,
    KINDS,
    Kind,
    Place,
    first_with_rows,
    rows_of,
    stop_of,
    tuples,
    whole,
)

ON_FILES = pytest.mark.parametrize("kind", FILE_KINDS, ids=str)
"""Of tests about files: what stands at a path, and what becomes of it. A warehouse has none."""

COLUMNS = ["id", "dotted.name", "s.x", "s.deep.y", "s.deep.z", "day", "flag", "word"]


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    found = request.param
    assert isinstance(found, Kind)
    return found


def nested(rows: int) -> pa.Table:
    """A table of every shape, null here and there, whole STRUCTs too."""
    deep = pa.struct([("y", pa.int32()), ("z", pa.string())])
    return pa.table(
        {
            "id": pa.array(range(rows), pa.int64()),
            "dotted.name": pa.array([f"n{n}" for n in range(rows)], pa.string()),
            "s": pa.array(
                [
                    None
                    if n % 5 == 0
                    else {"x": n / 2, "deep": None if n % 7 == 0 else {"y": n, "z": f"z{n}"}}
                    for n in range(rows)
                ],
                pa.struct([("x", pa.float64()), ("deep", deep)]),
            ),
            "day": pa.array([n if n % 3 else None for n in range(rows)], pa.int32()).cast(
                pa.date32()
            ),
            "flag": pa.array(
                [None if n % 11 == 0 else n % 2 == 0 for n in range(rows)], pa.bool_()
            ),
            "word": pa.array(
                [None if n % 4 == 0 else f"w{n % 9}" for n in range(rows)], pa.string()
            ),
        },
    )


def expected(rows: int) -> list[tuple[object, ...]]:
    """The rows of `nested`, flat, in COLUMNS."""
    epoch = datetime.date(1970, 1, 1)
    return [
        (
            n,
            f"n{n}",
            n / 2 if n % 5 else None,
            n if n % 5 and n % 7 else None,
            f"z{n}" if n % 5 and n % 7 else None,
            epoch + datetime.timedelta(days=n) if n % 3 else None,
            n % 2 == 0 if n % 11 else None,
            f"w{n % 9}" if n % 4 else None,
        )
        for n in range(rows)
    ]


def small_batches(monkeypatch: pytest.MonkeyPatch, rows: int = 64) -> None:
    monkeypatch.setattr(flat, "BATCH_ROWS", rows)


def test_the_streams_together_hold_all_rows_once_and_in_order(kind: Kind, place: Place) -> None:
    source = place.open(kind.write(place, nested(5_000)))
    assert rows_of(source, whole(source), COLUMNS) == expected(5_000)
    assert sum(source.count(piece) for piece in whole(source)) == 5_000
    assert sum(stream.rows for stream in source.streams()) >= 5_000
    source.close()


def test_the_schema_is_flat_in_the_tables_order_and_that_of_the_batches(
    kind: Kind, place: Place
) -> None:
    source = place.open(kind.write(place, nested(300)))
    assert [column.name for column in source.columns()] == COLUMNS
    assert [column.type for column in source.columns()] == [
        pa.int64(), pa.string(), pa.float64(), kind.shown(pa.int32()), pa.string(), pa.date32(),
        pa.bool_(), pa.string(),
    ]  # fmt: skip
    schema = pa.schema([(column.name, column.type) for column in source.columns()])
    for piece in whole(source):
        for fetched in source.read(piece, COLUMNS):
            assert fetched.batch.schema == schema
    source.close()


def test_columns_come_in_the_order_they_are_asked_for(kind: Kind, place: Place) -> None:
    source = place.open(kind.write(place, nested(300)))
    asked = ["word", "s.deep.z", "id", "s.x", "dotted.name"]
    places = [COLUMNS.index(name) for name in asked]
    assert rows_of(source, whole(source), asked) == [
        tuple(row[place] for place in places) for row in expected(300)
    ]
    source.close()


def test_an_unknown_column_is_refused_at_once_with_a_near_name(kind: Kind, place: Place) -> None:
    source = place.open(kind.write(place, nested(10)))
    piece = whole(source)[0]
    with pytest.raises(ColumnError, match="no column 'wrod'; did you mean word"):
        source.read(piece, ["id", "wrod"])
    with pytest.raises(ColumnError, match=r"s\.deep is a STRUCT; name its leaves: s\.deep\.y"):
        source.read(piece, ["s.deep"])
    source.close()


def test_reading_resumes_at_every_position(kind: Kind, place: Place) -> None:
    source = place.open(kind.write(place, nested(230 if kind.is_file else 90)))
    stream = source.streams()[-1]
    stop = stop_of(source, stream)
    # Which rows stand at which position is learned one position at a time.
    single = [
        rows_of(source, [Piece(stream.id, position, position + 1)], ["id", "s.deep.z"])
        for position in range(stream.start, stop)
    ]
    assert all(len(rows) <= 1 for rows in single)
    piece = Piece(stream.id, stream.start, stream.stop)
    for done in range(0, len(single) + 1, max(1, len(single) // 400)):
        resumed = [
            row
            for fetched in source.read(piece, ["id", "s.deep.z"], stream.start + done)
            for row in tuples(fetched.batch)
        ]
        assert resumed == [row for rows in single[done:] for row in rows]
    source.close()


def test_the_position_of_each_batch_is_where_the_next_row_is(
    kind: Kind, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_batches(monkeypatch)
    source = place.open(kind.write(place, nested(1_000)))
    for piece in whole(source):
        rows = rows_of(source, [piece], ["id"])
        seen = 0
        for fetched in source.read(piece, ["id"]):
            assert fetched.batch.num_rows <= 64
            seen += fetched.batch.num_rows
            rest = Piece(piece.stream, fetched.position, piece.stop)
            assert rows_of(source, [rest], ["id"]) == rows[seen:]
        assert seen == len(rows)
    source.close()


def test_another_process_could_resume_since_a_position_means_the_same_to_a_second_source(
    kind: Kind, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_batches(monkeypatch)
    description = kind.write(place, nested(1_000))
    source = place.open(description)
    other = place.open(description, source.snapshot)
    assert other.streams() == source.streams()
    piece = first_with_rows(source)
    reading = source.read(piece, ["id"])
    first = next(reading)
    there = [row for f in other.read(piece, ["id"], first.position) for row in tuples(f.batch)]
    here = [row for fetched in reading for row in tuples(fetched.batch)]
    assert there == here
    source.close()
    other.close()


@pytest.fixture(scope="module", params=KINDS, ids=str)
def shared(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    start_server: Callable[[], LocalBigQuery],
) -> Iterator[tuple[Source, dict[str, int], list[tuple[object, ...]]]]:
    kind = request.param
    place = Place(tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("scratch"), start_server)
    source = place.open(kind.write(place, nested(2_000)))
    stops = {stream.id: stop_of(source, stream) for stream in source.streams()}
    yield source, stops, expected(2_000)
    source.close()


@given(data=st.data())
@settings(max_examples=30)
def test_pieces_may_be_cut_anywhere_and_read_in_any_order(
    shared: tuple[Source, dict[str, int], list[tuple[object, ...]]], data: st.DataObject
) -> None:
    source, stops, everything = shared
    pieces = []
    for stream in source.streams():
        stop = stops[stream.id]
        # A few suffice where each piece is another request.
        most = 1 if isinstance(source, BigQueryTable) else 4
        cuts = data.draw(st.lists(st.integers(stream.start, stop), max_size=most))
        bounds = sorted({stream.start, stop, *cuts})
        pieces += [Piece(stream.id, start, stop) for start, stop in pairwise(bounds)]
    order = data.draw(st.permutations(range(len(pieces))))
    read = {at: rows_of(source, [pieces[at]], COLUMNS) for at in order}
    assert [row for at in range(len(pieces)) for row in read[at]] == everything
    assert [source.count(pieces[at]) for at in order] == [len(read[at]) for at in order]


def test_reads_of_one_source_may_interleave(
    kind: Kind, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_batches(monkeypatch)
    source = place.open(kind.write(place, nested(1_000)))
    piece = first_with_rows(source)
    alone = rows_of(source, [piece], ["id"])
    ahead = source.read(piece, ["id"])
    begun = next(ahead)
    # The second begins where the first stands: what one keeps there the other must not take.
    behind = source.read(piece, ["id"], begun.position)
    rows, others = tuples(begun.batch), []
    for one, other in zip_longest(ahead, behind):
        rows += tuples(one.batch) if one else []
        others += tuples(other.batch) if other else []
    assert rows == alone
    assert others == alone[begun.batch.num_rows :]
    source.close()


def test_a_read_left_in_the_middle_costs_the_next_one_nothing(
    kind: Kind, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_batches(monkeypatch)
    source = place.open(kind.write(place, nested(1_000)))
    for piece in whole(source):
        everything = rows_of(source, [piece], ["id"])
        rows = []
        position = piece.start
        while position < piece.stop:
            for fetched in source.read(piece, ["id"], position):
                rows += tuples(fetched.batch)
                position = fetched.position
                break
            else:
                break
        assert rows == everything
    source.close()


def test_closing_twice_is_closing(kind: Kind, place: Place) -> None:
    source = place.open(kind.write(place, nested(300)))
    next(iter(source.read(first_with_rows(source), ["id"])))
    source.close()
    source.close()


def test_an_empty_table_has_columns_and_no_rows(kind: Kind, place: Place) -> None:
    description = kind.write(place, nested(0))
    if isinstance(description, BigQuerySource):  # which is counted before it is opened
        with pytest.raises(SourceEmpty, match="has no rows"):
            place.open(description)
        return
    source = place.open(description)
    assert [column.name for column in source.columns()] == COLUMNS
    assert rows_of(source, whole(source), COLUMNS) == []
    assert sum(source.count(piece) for piece in whole(source)) == 0
    assert list(source.streams()) == []
    source.close()


def test_a_column_of_nulls_alone_keeps_its_type(kind: Kind, place: Place) -> None:
    table = pa.table({"id": [1, 2], "v": pa.nulls(2, pa.float32())})
    source = place.open(kind.write(place, table))
    assert [column.type for column in source.columns()] == [
        pa.int64(),
        kind.shown(pa.float32()),
    ]
    assert rows_of(source, whole(source), ["v", "id"]) == [(None, 1), (None, 2)]
    source.close()


def test_a_table_of_a_thousand_columns_is_read_in_batches_of_bounded_bytes(
    kind: Kind, place: Place
) -> None:
    rows = 9_000
    table = pa.table({f"c{n}": pa.array(np.arange(rows) * 1.5 + n) for n in range(1_000)})
    source = place.open(kind.write(place, table))
    names = [column.name for column in source.columns()]
    assert len(names) == 1_000
    seen = 0
    for piece in whole(source):
        for fetched in source.read(piece, names):
            batch = fetched.batch
            assert batch.nbytes <= BATCH_BYTES
            last = np.arange(seen, seen + batch.num_rows) * 1.5 + 999
            assert np.array_equal(batch.column(999).to_numpy(), last)
            seen += batch.num_rows
    assert seen == rows
    source.close()


def test_a_batch_has_at_most_batch_rows_rows(kind: Kind, place: Place) -> None:
    rows = 2 * BATCH_ROWS + 100
    source = place.open(kind.write(place, pa.table({"id": np.arange(rows)})))
    batches = [f.batch for piece in whole(source) for f in source.read(piece, ["id"])]
    assert 0 < max(batch.num_rows for batch in batches) <= BATCH_ROWS
    assert min(batch.num_rows for batch in batches) > 0
    read = np.concatenate([batch.column(0).to_numpy() for batch in batches])
    assert np.array_equal(read, np.arange(rows))
    source.close()


def test_dictionary_encoded_columns_come_as_plain_values(kind: Kind, place: Place) -> None:
    colours = pa.array(["red", None, "blue", "red"]).dictionary_encode()
    source = place.open(kind.write(place, pa.table({"id": range(4), "c": colours})))
    assert source.columns()[1].type == pa.string()
    assert rows_of(source, whole(source), ["c"]) == [("red",), (None,), ("blue",), ("red",)]
    source.close()


@ON_FILES
def test_the_snapshot_stays_while_nothing_changes_and_is_another_afterwards(
    kind: Kind, place: Place
) -> None:
    description = kind.write(place, nested(300))
    assert isinstance(description, FileDescription)
    roots = [str(place.folder)]
    source = place.open(description)
    assert current_snapshot(description, allowed_roots=roots) == source.snapshot
    again = place.open(description)
    assert again.snapshot == source.snapshot
    again.close()
    source.close()
    kind.write(place, nested(301))
    assert current_snapshot(description, allowed_roots=roots) != source.snapshot
    changed = place.open(description)
    assert changed.snapshot == current_snapshot(description, allowed_roots=roots)
    assert len(rows_of(changed, whole(changed), ["id"])) == 301
    changed.close()


def test_a_replaced_table_is_read_as_it_was_or_not_at_all(kind: Kind, place: Place) -> None:
    description = kind.write(place, nested(300))
    source = place.open(description)
    kind.write(place, nested(299))
    if kind.reads_a_copy:
        assert rows_of(source, whole(source), COLUMNS) == expected(300)
        worker = place.open(description, source.snapshot)
        assert rows_of(worker, whole(worker), COLUMNS) == expected(300)
        worker.close()
    else:
        with pytest.raises(SourceChanged, match="was replaced by another file"):
            rows_of(source, whole(source), COLUMNS)
        with pytest.raises(SourceChanged, match="open the dataset again"):
            place.open(description, source.snapshot)
    source.close()


@ON_FILES
@pytest.mark.parametrize("damage", ["truncated", "overwritten", "removed"])
def test_no_batch_is_handed_out_after_its_file_was_damaged(
    kind: Kind, place: Place, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    small_batches(monkeypatch, 100)
    source = place.open(kind.write(place, nested(20_000)))
    # One stream: within it, too, the damage must not go unnoticed.
    piece = max(whole(source), key=source.count)
    reading = source.read(piece, COLUMNS)
    next(reading)
    for file in place.files_read(kind):
        if damage == "truncated":
            os.truncate(file, file.stat().st_size // 2)
        elif damage == "overwritten":
            file.write_bytes(b"\xff" * file.stat().st_size)
        else:
            file.unlink()
    with pytest.raises(SourceChanged, match=r"was (written to|removed)") as error:
        next(reading)
    assert str(place.folder.parent) in error.value.message
    source.close()


def overwrite(file: Path) -> None:
    """Writes into the midst of a file, and puts back its size and time, as tools can."""
    before = file.stat()
    with file.open("r+b") as stream:
        stream.seek(before.st_size // 4)
        stream.write(b"\xa5" * (before.st_size // 2))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@ON_FILES
def test_a_file_overwritten_in_place_with_its_time_put_back_is_noticed(
    kind: Kind, place: Place
) -> None:
    source = place.open(kind.write(place, nested(2_000)))
    for file in place.files_read(kind):
        overwrite(file)
    with pytest.raises(SourceChanged):
        rows_of(source, whole(source), ["id"])
    source.close()


@ON_FILES
def test_bytes_that_decayed_unnoticed_are_an_error_that_names_the_place(
    kind: Kind, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = 200_000
    noise = np.random.default_rng(1).random(rows)
    table = pa.table({"id": np.arange(rows), "noise": noise})
    source = place.open(kind.write(place, table))
    for file in place.files_read(kind):
        overwrite(file)
    # A disk that decays tells the file system nothing.
    monkeypatch.setattr(FileState, "check_unchanged", lambda _state: None)
    with pytest.raises(SourceReadError, match=r"(row group \d+, from row|rowids) \d+"):
        rows_of(source, whole(source), ["id", "noise"])
    source.close()


_MEASURE = """
import sys
from faucet_client.spec import DuckDBSource, ParquetSource
from faucetd.fetch.opening import open_files
from faucetd.fetch.pieces import Piece

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) >> 10 for line in status if line.startswith("VmHWM"))

description, folder, scratch = eval(sys.argv[1]), sys.argv[2], sys.argv[3]
before = peak()
source = open_files(
    description, scratch_dir=scratch, allowed_roots=[folder], duckdb_memory_limit="64MB"
)
names = [column.name for column in source.columns()]
rows = 0
for stream in source.streams():
    for fetched in source.read(Piece(stream.id, stream.start, stream.stop), names):
        rows += fetched.batch.num_rows
print(rows, peak() - before)
"""


@ON_FILES
def test_memory_stays_bounded_however_large_the_table(kind: Kind, place: Place) -> None:
    rows, width = 1_400_000, 24
    random = np.random.default_rng(0)
    table = pa.table({f"c{n}": random.random(rows) for n in range(width)})
    description = kind.write(place, table)
    table_mb = table.nbytes >> 20
    ran = subprocess.run(
        [sys.executable, "-c", _MEASURE, repr(description), str(place.folder), str(place.scratch)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    rows_read, grown_mb = (int(word) for word in ran.stdout.split())
    assert rows_read == rows
    assert table_mb > 250
    # DuckDB's limit of 64 MB where there is one, a few batches of 32 MiB, and the libraries' own.
    assert grown_mb < 160, f"{grown_mb} MB for a table of {table_mb} MB"
