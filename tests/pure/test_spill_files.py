"""Spill files: what is written is what is read, and what is not valid is removed."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from faucet_client.layout import Role
from faucetd.publish.arrow_file import FixedColumn, read_layout
from faucetd.publish.segment import SealedSegment, SegmentWriter
from faucetd.publish.spill import (
    BLOCK_NBYTES,
    Leftover,
    Mark,
    SpillCancelled,
    SpillCorrupt,
    SpillFile,
    SpillFolder,
)

KEY = "0123456789abcdef" * 2
MARK = Mark(lasting=True, planned=False)
ROWS = 3 * BLOCK_NBYTES // 8 + 17  # more than three blocks


@pytest.fixture
def segment() -> Iterator[SealedSegment]:
    column = FixedColumn(Role.PASSTHROUGH, "id", "int64")
    with SegmentWriter([column], [], ROWS) as writer:
        writer.array(*column.key)[:] = np.arange(ROWS)
        sealed = writer.finish({}, {}, lambda _: None)
    yield sealed
    os.close(sealed.fd)


@pytest.fixture
def folder(tmp_path: Path) -> SpillFolder:
    return SpillFolder(tmp_path)


def write(
    folder: SpillFolder, segment: SealedSegment, chunk: int = 0, key: str = KEY, mark: Mark = MARK
) -> SpillFile:
    return folder.write(key, mark, chunk, "train", segment.fd, segment.layout, threading.Event())


def sweep(path: Path) -> list[Leftover]:
    return SpillFolder(path).sweep(lambda _key, _mark: True)


def names(path: Path) -> set[str]:
    return {str(one.relative_to(path)) for one in path.rglob("*")}


def test_a_file_is_the_segment_s_bytes_and_comes_back_sealed(
    folder: SpillFolder, segment: SealedSegment
) -> None:
    file = write(folder, segment, 7)
    path = folder.path / KEY / "7-train.arrow"
    assert path.read_bytes() == os.pread(segment.fd, 1 << 30, 0)
    assert pa.ipc.open_file(str(path)).read_all()["passthrough:id"].to_numpy()[-1] == ROWS - 1
    fd = folder.read(KEY, file)
    try:
        assert os.pread(fd, 1 << 30, 0) == path.read_bytes()
        assert read_layout(fd) == file.layout == segment.layout
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x", 0)
    finally:
        os.close(fd)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.mark.parametrize("place", [0, BLOCK_NBYTES, -1])
def test_one_flipped_bit_is_refused_wherever_it_is(
    folder: SpillFolder, segment: SealedSegment, place: int
) -> None:
    file = write(folder, segment)
    path = folder.path / KEY / file.name
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(SpillCorrupt, match=r"0-train\.arrow is not what was written"):
        folder.read(KEY, file)


def test_a_sweep_finds_what_is_whole_and_removes_the_rest(
    folder: SpillFolder, segment: SealedSegment
) -> None:
    path = folder.path
    kept, short, gone = (write(folder, segment, chunk) for chunk in range(3))
    os.truncate(path / KEY / short.name, 5)
    (path / KEY / gone.name).unlink()
    (path / KEY / "9-train.arrow").write_bytes(b"without a line")
    (path / KEY / "4-train.part").write_bytes(b"half")
    with (path / KEY / "index").open("ab") as index:
        index.write(b'{"chunk":8,')
    (path / "not-ours").mkdir()
    (path / "not-ours" / "file").touch()
    (found,) = sweep(path)
    assert (found.dataset, found.files) == (KEY, (kept,))
    left = {KEY, f"{KEY}/index", f"{KEY}/0-train.arrow", "not-ours", "not-ours/file"}
    assert names(path) == left
    assert sweep(path)[0].files == (kept,)


def test_what_was_written_after_a_crash_cut_a_line_off_is_found(
    folder: SpillFolder, segment: SealedSegment
) -> None:
    write(folder, segment, 0)
    with (folder.path / KEY / "index").open("ab") as index:
        index.write(b'{"chunk":8,')
    after = SpillFolder(folder.path)
    after.sweep(lambda _key, _mark: True)
    write(after, segment, 1)
    (found,) = sweep(folder.path)
    assert [file.chunk for file in found.files] == [0, 1]


def test_a_file_that_is_written_again_counts_once(
    folder: SpillFolder, segment: SealedSegment
) -> None:
    write(folder, segment)
    folder.remove(KEY, 0, "train")
    file = write(folder, segment)
    (found,) = sweep(folder.path)
    assert found.files == (file,)


def test_datasets_of_no_use_are_removed_and_others_come_oldest_first(
    folder: SpillFolder, segment: SealedSegment
) -> None:
    keys = {name: f"{number:032x}" for number, name in enumerate(["new", "old", "query", "plan"])}
    write(folder, segment, key=keys["new"])
    write(folder, segment, key=keys["old"])
    write(folder, segment, key=keys["query"], mark=Mark(lasting=False, planned=False))
    write(folder, segment, key=keys["plan"], mark=Mark(lasting=True, planned=True))
    os.utime(folder.path / keys["old"] / "0-train.arrow", (1, 1))
    broken = folder.path / ("f" * 32)
    broken.mkdir()
    (broken / "index").write_bytes(b"{}\n")
    found = SpillFolder(folder.path).sweep(lambda _key, mark: not mark.planned)
    assert [leftover.dataset for leftover in found] == [keys["old"], keys["new"]]
    assert {path.name for path in folder.path.iterdir()} == {keys["old"], keys["new"]}


@pytest.mark.parametrize("field", ["format", "version", "uid"])
def test_files_of_another_version_or_user_are_removed(
    folder: SpillFolder, segment: SealedSegment, field: str
) -> None:
    write(folder, segment)
    index = folder.path / KEY / "index"
    header, *lines = index.read_bytes().splitlines()
    other = msgspec.json.decode(header)
    other[field] = 77 if field != "version" else "0.0.0"
    index.write_bytes(b"\n".join([msgspec.json.encode(other), *lines, b""]))
    assert sweep(folder.path) == []
    assert names(folder.path) == set()


def test_a_write_that_fails_or_is_cancelled_leaves_nothing(
    folder: SpillFolder, segment: SealedSegment, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, segment, 0)
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(SpillCancelled):
        folder.write(KEY, MARK, 1, "train", segment.fd, segment.layout, cancelled)

    def full(_fd: int, _data: memoryview) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        write(folder, segment, 1)
    assert names(folder.path) == {KEY, f"{KEY}/index", f"{KEY}/0-train.arrow"}
