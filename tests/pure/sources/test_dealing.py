"""Dealing rows to streams: a fair shuffle that follows from the rows alone, in bounded memory."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from faucet_client.spec import SplitBuckets
from faucetd.errors import ColumnError, SourceReadError, SpecError
from faucetd.fetch import dealing
from faucetd.fetch.dealt import BUCKET, Deal, DealtTable, Told, deal
from faucetd.fetch.manifest import (
    MANIFEST,
    Manifest,
    has_its_bytes,
    has_its_files,
    read_manifest,
)
from faucetd.fetch.parquet import ParquetTable
from faucetd.fetch.split import buckets_of
from tests.pure.sources.kinds import Row, rows_of, tuples, whole

STREAMS = 7
SPLIT = SplitBuckets(1_000, 700, 900)

COLUMNS = ("id", "key", "word", "s.deep", "list", "ids", "real", "day")


def table_of(rows: int) -> pa.Table:
    """Rows of every kind of column, null here and there, each row twice or once."""
    n = [number - number % 3 // 2 for number in range(rows)]
    return pa.table(
        {
            "id": pa.array(n),
            "key": pa.array([None if i % 10 == 0 else f"key {i % 500}" for i in n]),
            "word": pa.array([None if i % 4 == 0 else f"größe {i}" * (i % 5) for i in n]),
            "s": pa.array([None if i % 5 == 0 else {"deep": i / 3} for i in n]),
            "list": pa.array([None if i % 6 == 0 else [f"w{i % 9}"] * (i % 4) for i in n]),
            "ids": pa.array([[i, None, i + 1] for i in n], pa.list_(pa.int32(), 3)),
            "real": pa.array([[0.0, -0.0, float("inf"), i / 7][i % 4] for i in n], pa.float32()),
            "day": pa.array([None if i % 7 == 0 else i for i in n], pa.int32()).cast(pa.date32()),
        }
    )


def write(folder: Path, table: pa.Table, files: int = 1, group: int = 1_000) -> ParquetTable:
    folder.mkdir()
    size = -(-table.num_rows // files)
    for number in range(files):
        part = table.slice(number * size, size)
        pq.write_table(part, folder / f"{number}.parquet", row_group_size=group)
    return ParquetTable(str(folder))


def what(source: ParquetTable, hash_column: str | None = "key", **changes: Any) -> Deal:
    options: dict[str, Any] = {
        "columns": COLUMNS,
        "buckets": SPLIT if hash_column else SplitBuckets(1_000, 1_000, 1_000),
        "states": (),
        "streams": lambda _: STREAMS,
        "nbytes": 1 << 20,
    } | changes
    return Deal(source, hash_column=hash_column, **options)


def read(folder: Path, manifest: Manifest) -> list[list[Row]]:
    """The rows of each stream."""
    table = DealtTable(folder, manifest)
    return [rows_of(table, [piece], COLUMNS) for piece in whole(table)]


def kept(table: pa.Table) -> Counter[Row]:
    """The rows in the sample."""
    buckets = buckets_of(table["key"].combine_chunks(), SPLIT.buckets)
    flat = table.flatten().rename_columns(list(COLUMNS))
    return Counter(
        hashable(tuples(flat.take(np.flatnonzero(buckets < SPLIT.eval_end).astype(np.int64))))
    )


def hashable(rows: list[Row]) -> list[Row]:
    return [tuple(tuple(v) if isinstance(v, list) else repr(v) for v in row) for row in rows]


@pytest.fixture(params=["in memory", "in hands", "in hands of hands"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a larger table would make of it."""
    if request.param != "in memory":
        monkeypatch.setattr(dealing, "BUFFER_BYTES", 40_000)
    if request.param == "in hands of hands":
        monkeypatch.setattr(dealing, "SORT_BYTES", 10_000)
        monkeypatch.setattr(dealing, "HAND_BITS", 2)
    return str(request.param)


def test_each_row_of_the_sample_comes_to_one_stream_with_its_values(
    tmp_path: Path, way: str
) -> None:
    table = table_of(5_000)
    manifest = deal(what(write(tmp_path / "t", table)), tmp_path / "out", Told())
    streams = read(tmp_path / "out", manifest)
    assert Counter(hashable([row for rows in streams for row in rows])) == kept(table)
    sizes = [len(rows) for rows in streams]
    assert max(sizes) - min(sizes) <= 1
    assert manifest.source_rows == 5_000
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {MANIFEST, *(stream.name for stream in manifest.streams)}


def test_the_rows_of_each_split_are_counted_on_the_way(tmp_path: Path, way: str) -> None:
    manifest = deal(what(write(tmp_path / "t", table_of(5_000))), tmp_path / "out", Told())
    table = DealtTable(tmp_path / "out", manifest)
    for stream, piece in zip(manifest.streams, whole(table), strict=True):
        buckets = np.concatenate([f.batch.column(0) for f in table.read(piece, [BUCKET])])
        assert stream.train_rows == np.count_nonzero(buckets < SPLIT.train_end)
        assert stream.eval_rows == np.count_nonzero(buckets >= SPLIT.train_end)


def test_streams_follow_from_the_rows_alone(tmp_path: Path, way: str) -> None:
    table = table_of(5_000)
    shuffled = table.take(np.random.default_rng(1).permutation(5_000))
    one = deal(what(write(tmp_path / "a", table)), tmp_path / "one", Told())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dealing, "BUFFER_BYTES", 70_000)  # as of another machine
        other = deal(what(write(tmp_path / "b", shuffled, 3, 333)), tmp_path / "other", Told())
    assert one.content == other.content
    assert list(map(hashable, read(tmp_path / "one", one))) == list(
        map(hashable, read(tmp_path / "other", other))
    )


def test_other_rows_are_told_apart(tmp_path: Path) -> None:
    def content(name: str, table: pa.Table) -> str:
        return deal(what(write(tmp_path / name, table)), tmp_path / f"{name}-out", Told()).content

    table = table_of(1_000)
    real = table["real"].to_pylist()
    changed = [*real[:2], 99.0, *real[3:]]
    place = table.column_names.index("real")
    contents = {
        content("a", table),
        content("b", table.slice(1)),
        content("c", table.set_column(place, "real", pa.array(changed, pa.float32()))),
        content("d", table.set_column(place, "real", pa.array(real, pa.float64()))),
    }
    assert len(contents) == 4


@pytest.mark.parametrize("hash_column", ["key", None])
def test_a_table_of_one_distinct_row_is_dealt_evenly(
    tmp_path: Path, way: str, hash_column: str | None
) -> None:
    row = table_of(9).slice(8, 1)
    table = pa.concat_tables([row] * 3_000)
    source = write(tmp_path / "t", table)
    buckets = SplitBuckets(1_000, 1_000, 1_000)
    manifest = deal(what(source, hash_column, buckets=buckets), tmp_path / "out", Told())
    assert [stream.rows for stream in manifest.streams] == [429] * 4 + [428] * 3
    expected = hashable(tuples(row.flatten().rename_columns(list(COLUMNS))))
    for rows in read(tmp_path / "out", manifest):
        assert set(hashable(rows)) == set(expected)


def test_a_key_that_all_rows_share_is_no_matter(tmp_path: Path) -> None:
    table = table_of(3_000)
    table = table.set_column(1, "key", pa.array(["one"] * 3_000))
    buckets = SplitBuckets(1_000, 1_000, 1_000)
    source = write(tmp_path / "t", table)
    manifest = deal(what(source, buckets=buckets), tmp_path / "out", Told())
    assert {stream.rows for stream in manifest.streams} == {429, 428}


def test_neighbours_and_equal_rows_come_to_all_streams(tmp_path: Path, way: str) -> None:
    rows = 7_000
    table = table_of(rows).set_column(0, "id", pa.array(np.arange(rows) // 1_000))
    table = pa.table({name: table[name] if name == "id" else [None] * rows for name in ("id",)})
    source = write(tmp_path / "t", table)
    manifest = deal(what(source, None, columns=("id",)), tmp_path / "out", Told())
    dealt = DealtTable(tmp_path / "out", manifest)
    for piece in whole(dealt):
        counts = Counter(rows_of(dealt, [piece], ["id"]))
        assert set(counts) == {(n,) for n in range(7)}
        assert max(counts.values()) - min(counts.values()) <= 1


def test_a_part_of_a_stream_can_be_read_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dealing, "BUFFER_BYTES", 40_000)
    manifest = deal(what(write(tmp_path / "t", table_of(5_000))), tmp_path / "out", Told())
    table = DealtTable(tmp_path / "out", manifest)
    (piece, *_) = whole(table)
    rows = rows_of(table, [piece], ["id", "word"])
    for start in (0, 1, 99, 300, piece.stop - 1, piece.stop):
        batches = list(table.read(piece, ["id", "word"], start))
        assert [row for fetched in batches for row in tuples(fetched.batch)] == rows[start:]
        assert not batches or batches[-1].position == piece.stop


def test_what_fails_leaves_nothing_that_could_be_taken_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dealing, "BUFFER_BYTES", 40_000)
    source = write(tmp_path / "t", table_of(5_000))
    calls = 0

    def full() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        deal(what(source), tmp_path / "out", Told(written=full))
    assert {path.name for path in tmp_path.iterdir()} == {"t"}
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "hand-0").write_bytes(b"of one that was killed")
    manifest = deal(what(source), tmp_path / "out", Told())
    assert has_its_bytes(tmp_path / "out", manifest, lambda _: None)


def test_damage_is_found_before_the_rows_are_used_and_named_while_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    deal(what(write(tmp_path / "t", table_of(5_000))), folder, Told())
    manifest = read_manifest(folder)
    assert manifest is not None
    assert has_its_files(folder, manifest)
    assert has_its_bytes(folder, manifest, lambda _: None)
    file = folder / manifest.streams[2].name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert has_its_files(folder, manifest)
    assert not has_its_bytes(folder, manifest, lambda _: None)
    file.write_bytes(data[: len(data) // 2])
    assert not has_its_files(folder, manifest)
    with pytest.raises(SourceReadError, match=r"faucetd drop"):
        read(folder, manifest)
    file.unlink()
    with pytest.raises(SourceReadError, match=r"faucetd drop"):
        read(folder, manifest)
    (folder / MANIFEST).write_text("{")
    assert read_manifest(folder) is None


def test_what_cannot_be_dealt_is_refused_by_name(tmp_path: Path) -> None:
    source = write(tmp_path / "t", table_of(100))
    with pytest.raises(ColumnError, match="hash_column 'real' is of type float"):
        deal(what(source, "real"), tmp_path / "out", Told())
    ours = write(tmp_path / "u", pa.table({BUCKET: [1]}))
    with pytest.raises(SpecError, match=f"{BUCKET} is in the way of ours"):
        deal(what(ours, None, columns=(BUCKET,)), tmp_path / "out", Told())


_MEASURE = """
import sys
from pathlib import Path
from faucet_client.spec import SplitBuckets
from faucetd.fetch.dealt import Deal, Told, deal
from faucetd.fetch.parquet import ParquetTable

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) >> 10 for line in status if line.startswith("VmHWM"))

source = ParquetTable(sys.argv[1])
names = tuple(column.name for column in source.columns())
before = peak()
manifest = deal(
    Deal(source, names, "c0", SplitBuckets(1000, 800, 1000), (), lambda rows: 64, int(sys.argv[3])),
    Path(sys.argv[2]),
    Told(),
)
print(manifest.rows, peak() - before)
"""

BOUND_MB = 320
"""Two buffers and a hand of 32 MiB, with two copies of each, and what the allocator keeps."""


@pytest.mark.parametrize("guess", [1, 1 << 30], ids=["guessed too small", "guessed well"])
def test_memory_stays_bounded_however_large_the_table(tmp_path: Path, guess: int) -> None:
    rows, width, files = 150_000, 24, 16
    random = np.random.default_rng(0)
    (tmp_path / "t").mkdir()
    for number in range(files):
        columns = {f"c{n}": random.integers(0, 2**60, rows) for n in range(width)}
        pq.write_table(pa.table(columns), tmp_path / "t" / f"{number}.parquet", compression="none")
    table_mb = files * rows * width * 8 >> 20
    ran = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(tmp_path / "t"), str(tmp_path / "out"), str(guess)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    rows_dealt, grown_mb = (int(word) for word in ran.stdout.split())
    assert rows_dealt == files * rows
    assert table_mb > 400
    assert grown_mb < BOUND_MB, f"{grown_mb} MB for a table of {table_mb} MB"
