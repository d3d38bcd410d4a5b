"""What is special about Parquet files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from faucetd.errors import ColumnError, SourceChanged, SourceNotFound, SourceReadError
from faucetd.fetch import parquet
from faucetd.fetch.parquet import ParquetTable, parquet_files
from faucetd.fetch.pieces import Piece
from tests.pure.sources.kinds import rows_of, whole


def write(path: Path, rows: int = 10, first: int = 0, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": np.arange(first, first + rows)}), path, **options)
    return path


@pytest.fixture
def decoders(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The row groups whose decoding was begun, in order."""
    begun: list[int] = []
    real = pq.ParquetFile.iter_batches

    def noting(self: pq.ParquetFile, *args: Any, **options: Any) -> Any:
        begun.extend(options["row_groups"])
        return real(self, *args, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noting)
    return begun


def test_a_row_group_read_in_consecutive_pieces_is_decoded_once(
    tmp_path: Path, decoders: list[int]
) -> None:
    table = ParquetTable(str(write(tmp_path / "t.parquet", 1_000, row_group_size=500)))
    pieces = [Piece(f"0:{g}", s, s + 100) for g in range(2) for s in range(0, 500, 100)]
    assert rows_of(table, pieces, ["id"]) == [(n,) for n in range(1_000)]
    assert decoders == [0, 1]
    assert rows_of(table, [pieces[1]], ["id"]) == [(n,) for n in range(100, 200)]
    assert decoders == [0, 1, 0]


def test_a_read_of_other_columns_does_not_go_on_with_the_decoder_of_the_last(
    tmp_path: Path, decoders: list[int]
) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": range(10), "b": range(10, 20)}), path)
    table = ParquetTable(str(path))
    assert rows_of(table, [Piece("0:0", 0, 5)], ["a"]) == [(n,) for n in range(5)]
    assert rows_of(table, [Piece("0:0", 5, 10)], ["b"]) == [(n,) for n in range(15, 20)]
    assert decoders == [0, 0]


def test_a_read_that_is_left_hands_its_decoder_on(tmp_path: Path, decoders: list[int]) -> None:
    table = ParquetTable(str(write(tmp_path / "t.parquet", 200_000)))
    piece = whole(table)[0]
    left_at = next(table.read(piece, ["id"])).position
    rest = rows_of(table, [Piece(piece.stream, left_at, piece.stop)], ["id"])
    assert rest == [(n,) for n in range(left_at, 200_000)]
    assert decoders == [0]


def test_one_decoder_is_never_used_by_two_reads(tmp_path: Path) -> None:
    table = ParquetTable(str(write(tmp_path / "t.parquet", 200_000)))
    piece = whole(table)[0]
    left_at = next(table.read(piece, ["id"])).position
    one, other = (table.read(piece, ["id"], left_at) for _ in range(2))
    firsts = [next(reading).batch.column(0)[0].as_py() for reading in (one, other)]
    assert firsts == [left_at, left_at]


def test_a_single_decayed_byte_is_found_by_the_checksum_of_its_page(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    noise = np.random.default_rng(0).random(50_000)
    pq.write_table(pa.table({"noise": noise}), path, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    table = ParquetTable(str(path))
    with pytest.raises(SourceReadError, match="row group 0, from row"):
        rows_of(table, whole(table), ["noise"])


def test_a_folder_is_its_parquet_files_and_a_pattern_reaches_below(tmp_path: Path) -> None:
    write(tmp_path / "b.parquet")
    write(tmp_path / "a.parquet")
    write(tmp_path / "below" / "deeper" / "c.parquet")
    write(tmp_path / ".hidden.parquet")
    (tmp_path / "notes.txt").write_text("no table")
    (tmp_path / "folder.parquet").mkdir()

    def names(pattern: str) -> list[str]:
        return [os.path.relpath(file, tmp_path) for file in parquet_files(pattern)]

    assert names(str(tmp_path)) == ["a.parquet", "b.parquet"]
    assert names(f"{tmp_path}/[b-z].parquet") == ["b.parquet"]
    assert names(f"{tmp_path}/**/*.parquet") == [
        "a.parquet", "b.parquet", "below/deeper/c.parquet",
    ]  # fmt: skip


def test_files_are_one_table_in_the_order_of_their_paths(tmp_path: Path) -> None:
    write(tmp_path / "2.parquet", 5, first=10)
    write(tmp_path / "1.parquet", 10, row_group_size=4)
    table = ParquetTable(str(tmp_path))
    assert [stream.id for stream in table.streams()] == ["0:0", "0:1", "0:2", "1:0"]
    assert rows_of(table, whole(table), ["id"]) == [(n,) for n in range(15)]


def test_an_existing_file_whose_name_looks_like_a_pattern_is_itself(tmp_path: Path) -> None:
    write(tmp_path / "t[1].parquet", 3)
    write(tmp_path / "t1.parquet", 4)
    table = ParquetTable(str(tmp_path / "t[1].parquet"))
    assert sum(stream.rows for stream in table.streams()) == 3


def test_a_folder_or_pattern_without_a_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match=r"holds no \*\.parquet file; folders below"):
        ParquetTable(str(tmp_path))
    with pytest.raises(SourceNotFound, match="no file matches the pattern"):
        ParquetTable(str(tmp_path / "*.parquet"))
    with pytest.raises(SourceNotFound, match=r"there is no file .*t\.parquet"):
        ParquetTable(str(tmp_path / "t.parquet"))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"id": pa.array([1]), "x": pa.array(["1"])}, "has 'x' as string, but .* has it as int64"),
        ({"id": pa.array([1])}, "has no column 'x', which"),
        (
            {"id": pa.array([1]), "x": pa.array([1]), "y": pa.array([1])},
            r"has a column 'y', which .*1\.parquet has not",
        ),
    ],
)
def test_files_whose_columns_disagree_are_refused_by_file_and_column(
    tmp_path: Path, other: dict[str, Any], message: str
) -> None:
    pq.write_table(pa.table({"id": [1], "x": [1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table(other), tmp_path / "2.parquet")
    with pytest.raises(SourceReadError, match=rf"2\.parquet {message}"):
        ParquetTable(str(tmp_path))


def test_files_may_order_their_columns_differently(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1], "x": ["a"]}), tmp_path / "1.parquet")
    plain = pa.table({"x": pa.array(["b"]).dictionary_encode(), "id": [2]})
    pq.write_table(plain, tmp_path / "2.parquet")
    table = ParquetTable(str(tmp_path))
    assert rows_of(table, whole(table), ["id", "x"]) == [(1, "a"), (2, "b")]


def test_two_columns_with_one_dotted_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a.b": [1], "a": [{"b": 2}]}), path)
    with pytest.raises(ColumnError, match=r"more than one column that is written a\.b"):
        ParquetTable(str(path))


def test_a_name_that_begins_like_another_with_a_dot_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a.b": [1], "a": [2], "a.b.c": [3]}), path)
    table = ParquetTable(str(path))
    assert rows_of(table, whole(table), ["a", "a.b.c", "a.b"]) == [(2, 3, 1)]


def test_lists_maps_and_extension_types_are_leaves_of_plain_values(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = pa.table(
        {
            "list": [[1, 2], None],
            "map": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int8())),
            "uuid": pa.array([b"0123456789abcdef"] * 2, pa.uuid()),
            "view": pa.array(["a", None], pa.string_view()),
            "s": [{"list": [{"in": 1}]}, None],
        }
    )
    pq.write_table(table, path)
    source = ParquetTable(str(path))
    types = {column.name: column.type for column in source.columns()}
    assert types["uuid"] == pa.binary(16)
    assert types["view"] == pa.string()
    assert rows_of(source, whole(source), ["view", "s.list", "list", "uuid", "map"]) == [
        ("a", [{"in": 1}], [1, 2], b"0123456789abcdef", [("k", 1)]),
        (None, None, None, b"0123456789abcdef", []),
    ]


@pytest.mark.parametrize("content", [b"", b"abc", b"PAR1" + b"x" * 100 + b"PAR1"])
def test_a_file_that_is_no_parquet_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(content)
    with pytest.raises(SourceReadError, match=r"t\.parquet cannot be read as Parquet"):
        ParquetTable(str(path))


def test_a_file_that_changes_while_it_is_opened_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "t.parquet", 10)
    real = pq.ParquetFile

    def replacing(*args: Any, **options: Any) -> pq.ParquetFile:
        write(tmp_path / "new", 20).replace(path)
        return real(*args, **options)

    monkeypatch.setattr(pq, "ParquetFile", replacing)
    with pytest.raises(SourceChanged, match=r"t\.parquet was replaced"):
        ParquetTable(str(path))


def test_the_snapshot_tells_the_order_of_the_files(tmp_path: Path) -> None:
    one, two = str(write(tmp_path / "1.parquet")), str(write(tmp_path / "2.parquet"))
    assert ParquetTable("t", [one, two]).snapshot != ParquetTable("t", [two, one]).snapshot


def test_read_buffers_of_a_wide_table_stay_within_their_share() -> None:
    assert parquet._read_buffer_bytes(1) == 256 << 10
    assert parquet._read_buffer_bytes(1_000) * 1_000 <= 16 << 20
    assert parquet._read_buffer_bytes(0) == 256 << 10
