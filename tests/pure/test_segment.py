"""Segments: what a writer makes is an Arrow file, lies where its layout says, and leaks nothing."""

from __future__ import annotations

import errno
import gc
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from faucet_client import _memory
from faucet_client.layout import TEXT, ColumnLayout, Role
from faucetd.publish.arrow_file import ColumnKey, FixedColumn, read_layout
from faucetd.publish.segment import SealedSegment, SegmentWriter, estimate_nbytes

FEATURES = FixedColumn(Role.FEATURES, "features", "float32", 3)
LABEL = FixedColumn(Role.LABEL, "clicked", "float32")
WEIGHT = FixedColumn(Role.WEIGHT, "w", "float32")
ROW_ID = FixedColumn(Role.PASSTHROUGH, "row_id", "int64")
FLAG = FixedColumn(Role.PASSTHROUGH, "flag", "bool")
HALF = FixedColumn(Role.PASSTHROUGH, "half", "float16")
ALL = (FEATURES, LABEL, WEIGHT, ROW_ID, FLAG, HALF)
CITY: ColumnKey = (Role.PASSTHROUGH, "city")
STREET: ColumnKey = (Role.PASSTHROUGH, "street")


def leftovers() -> tuple[int, int, int]:
    """How many descriptors, mappings of segments, and threads there are."""
    maps = Path("/proc/self/maps").read_text()
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    return descriptors, maps.count("memfd:faucet-segment"), threading.active_count()


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = leftovers()
    yield
    gc.collect()
    assert leftovers() == before


def never(nbytes: int) -> None:
    raise AssertionError(f"{nbytes} bytes more were asked for")


def values_of(column: FixedColumn, rows: int) -> NDArray[Any]:
    shape = (rows, column.width) if column.role is Role.FEATURES else (rows,)
    numbers = np.arange(rows * column.width).reshape(shape) + len(column.name)
    return (numbers % 2 if column.dtype == "bool" else numbers).astype(column.dtype)


def write(
    rows: int,
    fixed: tuple[FixedColumn, ...] = ALL,
    texts: Mapping[ColumnKey, Sequence[str | None]] | None = None,
    valid: Mapping[ColumnKey, NDArray[np.uint8]] | None = None,
    before_grow: Any = lambda nbytes: None,
) -> SealedSegment:
    texts = texts or {}
    with SegmentWriter(fixed, tuple(texts), rows) as writer:
        for column in fixed:
            writer.array(*column.key)[:] = values_of(column, rows)
        arrays = {key: pa.array(values, pa.large_utf8()) for key, values in texts.items()}
        return writer.finish(arrays, valid or {}, before_grow)


def contents(segment: SealedSegment) -> bytes:
    return os.pread(segment.fd, os.fstat(segment.fd).st_size, 0)


def stored(data: bytes, rows: int, column: ColumnLayout) -> Any:
    """A column as a client would read it: by offsets alone."""
    if column.dtype == TEXT:
        ends = np.frombuffer(data, np.int64, rows + 1, column.offset)
        text = data[column.text_offset : column.text_offset + column.text_nbytes]
        return [text[a:b].decode() for a, b in pairwise(ends)]
    values = np.frombuffer(data, column.dtype, rows * column.width, column.offset)
    return values.reshape(rows, -1) if column.role is Role.FEATURES else values


def test_any_arrow_reader_can_open_a_segment_and_sees_its_values() -> None:
    flags = np.array([1, 0, 1, 1, 1], np.uint8)
    segment = write(5, texts={CITY: ["a", None, "", "ø", "xyz"]}, valid={CITY: flags})
    table = pa.ipc.open_file(pa.py_buffer(contents(segment))).read_all()
    table.validate(full=True)
    assert table.column_names == [
        "features",
        "label:clicked",
        "weight:w",
        "passthrough:row_id",
        "passthrough:flag",
        "passthrough:half",
        "passthrough:city",
        "valid:passthrough:city",
    ]
    assert table.schema.field("features").type == pa.list_(pa.float32(), 3)
    assert table["features"].to_pylist() == values_of(FEATURES, 5).tolist()
    assert table["label:clicked"].to_pylist() == values_of(LABEL, 5).tolist()
    assert table["passthrough:row_id"].to_pylist() == values_of(ROW_ID, 5).tolist()
    assert table["passthrough:flag"].to_pylist() == values_of(FLAG, 5).astype(int).tolist()
    assert table["passthrough:city"].to_pylist() == ["a", "", "", "ø", "xyz"]
    assert table["valid:passthrough:city"].to_pylist() == flags.tolist()
    os.close(segment.fd)


@pytest.mark.parametrize("rows", [1, 2, 3_000])
def test_a_segment_may_have_text_alone(rows: int) -> None:
    cities = [None if n % 3 == 0 else f"city {n}" * (n % 5) for n in range(rows)]
    streets = ["" for _ in range(rows)]
    flags = np.array([city is not None for city in cities], np.uint8)
    segment = write(rows, (), {CITY: cities, STREET: streets}, {CITY: flags})
    data = contents(segment)
    city, street = segment.layout.columns
    assert stored(data, rows, city) == [one or "" for one in cities]
    assert stored(data, rows, street) == streets
    assert city.valid_offset is not None
    assert np.array_equal(np.frombuffer(data, np.uint8, rows, city.valid_offset), flags)
    table = pa.ipc.open_file(pa.py_buffer(data)).read_all()
    table.validate(full=True)
    assert estimate_nbytes((), (CITY, STREET), rows) > 0
    os.close(segment.fd)


@given(
    rows=st.integers(1, 5_000),
    width=st.integers(1, 9),
    fixed=st.sets(st.sampled_from(ALL[1:])),
    nulls=st.sets(st.sampled_from([*(column.key for column in ALL[1:]), CITY])),
    texts=st.lists(st.text(max_size=5), max_size=8),
)
def test_every_column_lies_where_the_layout_says(
    rows: int,
    width: int,
    fixed: set[FixedColumn],
    nulls: set[ColumnKey],
    texts: list[str],
) -> None:
    columns = (FEATURES._replace(width=width), *sorted(fixed, key=lambda c: c.name))
    announced = {CITY: (texts * rows)[:rows]} if texts else {}
    keys = {column.key for column in columns} | announced.keys()
    flags = {
        key: (np.arange(rows) % 3 > 0).astype(np.uint8) for key in ALL_KEYS if key in keys & nulls
    }
    segment = write(rows, columns, announced, flags)
    data, layout = contents(segment), segment.layout
    assert layout.rows == rows
    assert layout.nbytes == _memory.page_rounded(len(data)) == os.fstat(segment.fd).st_blocks * 512
    assert layout == read_layout(segment.fd)
    os.close(segment.fd)
    assert [(c.role, c.name) for c in layout.columns] == [*(c.key for c in columns), *announced]
    assert layout.columns[0].offset % 64 == 0
    for column, asked in zip(layout.columns, columns, strict=False):
        assert column.offset % 8 == 0
        assert (column.dtype, column.width) == (asked.dtype, asked.width)
        np.testing.assert_array_equal(stored(data, rows, column), values_of(asked, rows))
    for column in layout.columns[len(columns) :]:
        assert stored(data, rows, column) == announced[CITY]
    for column in layout.columns:
        key = (column.role, column.name)
        assert (column.valid_offset is not None) == (key in flags)
        if column.valid_offset is not None:
            found = np.frombuffer(data, np.uint8, rows, column.valid_offset)
            np.testing.assert_array_equal(found, flags[key])


ALL_KEYS = (*(column.key for column in ALL[1:]), CITY)


@given(
    rows=st.integers(1, 100_000),
    fixed=st.sets(st.sampled_from(ALL[1:])),
    texts=st.sets(st.sampled_from([CITY, STREET])),
)
def test_a_segment_of_fixed_columns_never_needs_more_than_the_estimate(
    rows: int, fixed: set[FixedColumn], texts: set[ColumnKey]
) -> None:
    columns = (FEATURES, *fixed)
    estimate = estimate_nbytes(columns, (), rows)
    with SegmentWriter(columns, (), rows) as writer:
        assert writer.fixed_nbytes == estimate
        segment = writer.finish({}, {}, never)
    # What was foreseen for validity bytes that did not come is little.
    assert estimate - 2 * 4096 <= segment.layout.nbytes <= estimate
    assert estimate_nbytes(columns, tuple(texts), rows) >= estimate
    os.close(segment.fd)


def test_a_layout_survives_the_copy_to_a_spill_file(tmp_path: Path) -> None:
    segment = write(1_000, texts={CITY: ["x"] * 1_000}, valid={LABEL.key: np.ones(1_000, np.uint8)})
    spilled = tmp_path / "chunk.arrow"
    spilled.write_bytes(contents(segment))
    assert read_layout(spilled) == segment.layout
    assert read_layout(pa.py_buffer(spilled.read_bytes())) == segment.layout
    os.close(segment.fd)


def test_an_arrow_file_that_is_no_segment_is_not_taken_for_one(tmp_path: Path) -> None:
    table = pa.table({"a": [1, 2]})
    with pa.ipc.new_file(str(tmp_path / "other.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ValueError, match="no segment"):
        read_layout(tmp_path / "other.arrow")


def test_half_a_spill_file_is_not_taken_for_a_segment(tmp_path: Path) -> None:
    segment = write(1_000)
    (tmp_path / "half.arrow").write_bytes(contents(segment)[:4_096])
    os.close(segment.fd)
    with pytest.raises(pa.ArrowInvalid):
        read_layout(tmp_path / "half.arrow")


def test_a_finished_segment_is_sealed_and_has_no_writable_mapping_left() -> None:
    segment = write(100)
    assert _memory.is_sealed(segment.fd)
    with pytest.raises(PermissionError):
        _memory.map_shared(segment.fd, segment.layout.nbytes)
    with pytest.raises(PermissionError):
        os.ftruncate(segment.fd, 0)
    os.close(segment.fd)


def test_a_segment_of_no_rows_or_no_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="not 0 and 1"):
        SegmentWriter([FEATURES], [], 0)
    with pytest.raises(ValueError, match="not 5 and 0"):
        SegmentWriter([], [], 5)
    with pytest.raises(ValueError, match="same role and name"):
        SegmentWriter([FEATURES, ROW_ID], [ROW_ID.key], 5)


def test_growth_is_asked_for_before_it_happens_and_is_the_memory_really_taken() -> None:
    asked: list[int] = []
    segment = write(1_000, texts={CITY: ["town" * 100] * 1_000}, before_grow=asked.append)
    estimate = estimate_nbytes(ALL, [CITY], 1_000)
    assert asked == [segment.layout.nbytes - estimate]
    assert asked[0] > 400_000
    os.close(segment.fd)


def test_a_refused_growth_ends_the_writer_and_leaves_nothing() -> None:
    def refuse(nbytes: int) -> None:
        raise MemoryError(nbytes)

    with pytest.raises(MemoryError):
        write(1_000, texts={CITY: ["town" * 100] * 1_000}, before_grow=refuse)


@pytest.mark.parametrize(
    ("texts", "valid", "complaint"),
    [
        ({}, {}, "announced"),
        ({CITY: ["a", "b"], STREET: ["a", "b"]}, {}, "announced"),
        ({CITY: ["a"]}, {}, "expected 2 rows"),
        ({CITY: ["a", "b"]}, {LABEL.key: [1, 0, 1]}, "expected 2 rows"),
        ({CITY: ["a", "b"]}, {FEATURES.key: [1, 0]}, "no validity"),
    ],
)
def test_what_does_not_fit_the_announced_columns_is_refused_and_leaves_nothing(
    texts: dict[ColumnKey, list[str]], valid: dict[ColumnKey, list[int]], complaint: str
) -> None:
    writer = SegmentWriter(ALL, [CITY], 2)
    with pytest.raises(ValueError, match=complaint):
        writer.finish(
            {key: pa.array(values, pa.large_utf8()) for key, values in texts.items()},
            {key: np.array(flags, np.uint8) for key, flags in valid.items()},
            never,
        )
    with pytest.raises(ValueError, match="sealed or dropped"):
        writer.array(*LABEL.key)


def test_an_abandoned_writer_leaves_nothing_even_while_its_memory_is_being_taken() -> None:
    for _ in range(3):
        writer = SegmentWriter([FEATURES], [], 5_000_000)
        writer.abort()
        writer.abort()
    with SegmentWriter(ALL, [], 10) as writer:
        views = writer.arrays()
    views[LABEL.key][:] = 1
    del views


@pytest.mark.parametrize("rows", [1, 700, 5_000])
def test_a_writer_that_is_resized_writes_what_one_of_that_size_would(rows: int) -> None:
    files = []
    for first_rows in (1_000, rows):
        with SegmentWriter(ALL, [CITY], first_rows) as writer:
            if first_rows != rows:
                writer.resize(rows)
            assert writer.fixed_nbytes == estimate_nbytes(ALL, [CITY], rows)
            for array in writer.arrays().values():
                array[:] = 1
            del array
            text = pa.array(["x"] * rows, pa.large_utf8())
            segment = writer.finish({CITY: text}, {}, lambda _: None)
        files.append(os.pread(segment.fd, segment.layout.nbytes, 0))
        assert os.fstat(segment.fd).st_blocks * 512 == segment.layout.nbytes
        os.close(segment.fd)
    assert files[0] == files[1]


def test_growth_is_asked_for_after_a_resize_too_though_the_memory_is_there() -> None:
    asked: list[int] = []
    with SegmentWriter(ALL, [CITY], 10_000) as writer:
        writer.resize(100)
        for array in writer.arrays().values():
            array[:] = 1
        del array
        text = pa.array(["town" * 25] * 100, pa.large_utf8())
        segment = writer.finish({CITY: text}, {}, asked.append)
    assert asked == [segment.layout.nbytes - estimate_nbytes(ALL, [CITY], 100)]
    assert asked[0] > 4_000
    assert os.fstat(segment.fd).st_blocks * 512 == segment.layout.nbytes
    os.close(segment.fd)


def test_a_writer_that_has_ended_cannot_be_resized() -> None:
    writer = SegmentWriter([FEATURES], [], 10)
    writer.abort()
    with pytest.raises(ValueError, match="ended"):
        writer.resize(20)


def test_a_view_held_too_long_harms_nobody_and_delays_no_seal() -> None:
    writer = SegmentWriter([FEATURES], [], 1_000)
    view = writer.array(*FEATURES.key)
    part = view[500:].reshape(-1)
    view[:] = 7
    del view
    segment = writer.finish({}, {}, never)
    before = contents(segment)
    assert not part.any()
    part[:] = 9
    assert contents(segment) == before
    os.close(segment.fd)
    del part


def test_a_shortage_of_memory_is_an_error_where_the_memory_is_first_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def short(fd: int, nbytes: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_memory, "reserve", short)
    with SegmentWriter([FEATURES], [], 10) as writer:
        with pytest.raises(OSError, match="No space"):
            writer.array(*FEATURES.key)
        with pytest.raises(OSError, match="No space"):
            writer.finish({}, {}, never)


def test_no_address_space_is_an_error_and_leaks_no_descriptor() -> None:
    with pytest.raises(OSError, match="mmap"):
        SegmentWriter([FEATURES], [], 2**45)


def test_only_the_announced_columns_can_be_written() -> None:
    with SegmentWriter([FEATURES], [], 10) as writer, pytest.raises(KeyError, match="clicked"):
        writer.array(*LABEL.key)


def test_large_segments_lie_in_huge_pages_where_the_kernel_gives_them() -> None:
    rows = 4 * _memory.HUGE_PAGE_NBYTES // 12
    with SegmentWriter([FEATURES], [], rows) as writer:
        writer.array(*FEATURES.key)[:] = 1
        if not writer.in_huge_pages:
            pytest.skip("the kernel gave no huge pages")
        segment = writer.finish({}, {}, never)
    address = _memory.map_private(segment.fd, segment.layout.nbytes)
    smaps = Path("/proc/self/smaps").read_text().split(f"{address:x}-")[1].split("VmFlags")[0]
    mapped = [line for line in smaps.splitlines() if line.startswith(("ShmemPmdMapped", "FilePmd"))]
    assert sum(int(line.split()[1]) for line in mapped) * 1024 >= 3 * _memory.HUGE_PAGE_NBYTES
    _memory.unmap(address, segment.layout.nbytes)
    os.close(segment.fd)


@pytest.mark.parametrize("more", [0, 1, 40_000, 150_000, 174_600])
def test_large_segments_end_with_a_whole_huge_page_where_that_wastes_little(more: int) -> None:
    """One whose values fill sixteen huge pages and a bit, up to a seventeenth."""
    rows = 16 * _memory.HUGE_PAGE_NBYTES // 12 + more
    with SegmentWriter([FEATURES], [], rows) as writer:
        assert writer.fixed_nbytes == 17 * _memory.HUGE_PAGE_NBYTES
        writer.array(*FEATURES.key)[:] = np.arange(rows, dtype=np.float32)[:, None]
        segment = writer.finish({}, {}, never)
    assert os.fstat(segment.fd).st_size == segment.layout.nbytes == 17 * _memory.HUGE_PAGE_NBYTES
    (features,) = segment.layout.columns
    with pa.memory_map(f"/proc/self/fd/{segment.fd}") as file:
        values: Any = pa.ipc.open_file(file).read_all().column("features").combine_chunks()
        assert values.flatten().to_numpy()[2::3].tolist() == list(range(rows))
        del values
    assert features.offset % 64 == 0
    os.close(segment.fd)


def test_small_segments_take_small_pages_at_their_end() -> None:
    rows = (3 * _memory.HUGE_PAGE_NBYTES + _memory.HUGE_PAGE_NBYTES // 2) // 12
    with SegmentWriter([FEATURES], [], rows) as writer:
        segment = writer.finish({}, {}, never)
    assert 0 < segment.layout.nbytes - 12 * rows < 3 * 4_096
    os.close(segment.fd)


TAGS: ColumnKey = (Role.RAGGED, "tags")


@pytest.mark.parametrize("lists", [[[3], [], [5, 2, 5]], [[], [], []]])
def test_a_segment_keeps_lists_of_ids(lists: list[list[int]]) -> None:
    kind = pa.large_list(pa.field("item", pa.int64(), nullable=False))
    made = pa.array([[1, 1], *lists], kind).slice(1)  # its offsets do not begin with 0
    nothing = estimate_nbytes(ALL, (TAGS, CITY), 3)
    with SegmentWriter(ALL, (TAGS, CITY), 3) as writer:
        cities = pa.array(["a", "b", "c"], pa.large_utf8())
        segment = writer.finish({TAGS: made, CITY: cities}, {}, never)
    data = contents(segment)
    tags = next(column for column in segment.layout.columns if column.role is Role.RAGGED)
    assert (tags.name, tags.dtype, tags.valid_offset) == ("tags", "int64", None)
    ends = np.frombuffer(data, np.int64, 4, tags.offset).tolist()
    ids = np.frombuffer(data, np.int64, tags.text_nbytes // 8, tags.text_offset).tolist()
    assert [ids[a:b] for a, b in pairwise(ends)] == lists
    assert tags.offset % 8 == tags.text_offset % 8 == 0
    assert segment.layout.nbytes <= nothing
    table = pa.ipc.open_file(pa.py_buffer(data)).read_all()
    table.validate(full=True)
    assert table["ragged:tags"].to_pylist() == lists
    os.close(segment.fd)


def test_lists_may_not_be_null() -> None:
    lists = pa.array([[1], None], pa.large_list(pa.int64()))
    with (
        pytest.raises(ValueError, match="a list of ids is null"),
        SegmentWriter((), (TAGS,), 2) as writer,
    ):
        writer.finish({TAGS: lists}, {}, never)
    whole = pa.array([[1], []], pa.large_list(pa.int64()))
    with (
        pytest.raises(ValueError, match="no validity is kept"),
        SegmentWriter((), (TAGS,), 2) as writer,
    ):
        writer.finish({TAGS: whole}, {TAGS: np.ones(2, np.uint8)}, never)
