"""Cutting a table into chunks, and counting them."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from faucet_client.spec import SplitBuckets
from faucetd.fetch.parquet import ParquetTable
from faucetd.fetch.pieces import Piece, Stream
from faucetd.fetch.plan import (
    CHUNK_BYTES,
    MIN_CHUNK_ROWS,
    MIN_CHUNKS,
    ChunkCut,
    choose_chunk_rows,
    count,
    cut,
)
from faucetd.fetch.source import Column
from faucetd.fetch.split import Splitter
from tests.pure.sources.kinds import FILE_KINDS, Kind, Place, rows_of


def streams_of(spans: list[int]) -> list[Stream]:
    """Streams of these spans, none of which begins at 0."""
    return [Stream(str(n), 7 * n, 7 * n + span, span) for n, span in enumerate(spans)]


def rows_in(chunk: ChunkCut) -> int:
    return sum(piece.stop - piece.start for piece in chunk.pieces)


SPANS = st.lists(st.one_of(st.integers(0, 30), st.integers(0, 2_000)), max_size=60)


@given(spans=SPANS, chunk_rows=st.integers(1, 500))
def test_every_position_is_in_exactly_one_chunk(spans: list[int], chunk_rows: int) -> None:
    streams = streams_of(spans)
    pieces = [piece for chunk in cut(streams, chunk_rows) for piece in chunk.pieces]
    for stream in streams:
        mine = sorted((p.start, p.stop) for p in pieces if p.stream == stream.id)
        assert all(start < stop for start, stop in mine)
        if stream.start < stream.stop:
            assert (mine[0][0], mine[-1][1]) == (stream.start, stream.stop)
            assert all(before[1] == after[0] for before, after in pairwise(mine))
        else:
            assert mine == []


@given(spans=SPANS, chunk_rows=st.integers(1, 500))
@example(spans=[2, 2, 2], chunk_rows=3)
def test_no_chunk_is_larger_than_asked(spans: list[int], chunk_rows: int) -> None:
    for chunk in cut(streams_of(spans), chunk_rows):
        assert 0 < rows_in(chunk) <= chunk_rows


@given(spans=SPANS, chunk_rows=st.integers(1, 500))
def test_a_large_stream_is_cut_evenly_and_alone_and_a_small_one_stays_whole(
    spans: list[int], chunk_rows: int
) -> None:
    streams = streams_of(spans)
    chunks = cut(streams, chunk_rows)
    for stream in streams:
        span = stream.stop - stream.start
        mine = [c for c in chunks if any(piece.stream == stream.id for piece in c.pieces)]
        if span > chunk_rows:
            sizes = [rows_in(chunk) for chunk in mine]
            assert all(len(chunk.pieces) == 1 for chunk in mine)
            assert len(mine) == -(-span // chunk_rows)
            assert max(sizes) - min(sizes) <= 1
        elif span:
            assert len(mine) == 1


@given(spans=SPANS, chunk_rows=st.integers(1, 500))
def test_lanes_are_the_streams_that_several_chunks_share(spans: list[int], chunk_rows: int) -> None:
    chunks = cut(streams_of(spans), chunk_rows)
    streams_of_lane: dict[int, set[str]] = {}
    for chunk in chunks:
        streams_of_lane.setdefault(chunk.lane, set()).update(p.stream for p in chunk.pieces)
    everywhere = Counter(stream for streams in streams_of_lane.values() for stream in streams)
    assert set(everywhere.values()) <= {1}
    for lane in streams_of_lane:
        numbers = [number for number, chunk in enumerate(chunks) if chunk.lane == lane]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        if len(numbers) > 1:
            parts = [chunks[number].pieces for number in numbers]
            assert all(before[-1].stop == after[0].start for before, after in pairwise(parts))
    assert [chunk.lane for chunk in chunks] == sorted(chunk.lane for chunk in chunks)


@given(spans=SPANS, chunk_rows=st.integers(1, 500))
def test_chunks_follow_the_order_of_the_table(spans: list[int], chunk_rows: int) -> None:
    firsts = [int(chunk.pieces[0].stream) for chunk in cut(streams_of(spans), chunk_rows)]
    assert firsts == sorted(firsts)


def test_small_streams_are_dealt_so_that_a_chunk_has_some_from_all_over() -> None:
    chunks = cut(streams_of([100] * 1_000), 1_000)
    assert len(chunks) == 100
    for number, chunk in enumerate(chunks):
        assert [int(piece.stream) for piece in chunk.pieces] == list(range(number, 1_000, 100))


def test_small_streams_of_odd_sizes_fill_their_chunks_well() -> None:
    spans = np.random.default_rng(0).integers(1, 400, 5_000).tolist()
    chunks = cut(streams_of(spans), 1_000)
    assert len(chunks) <= 1.3 * sum(spans) / 1_000


def test_one_nearly_full_stream_does_not_make_the_other_chunks_small() -> None:
    chunks = cut(streams_of([990, *[1] * 1_000]), 1_000)
    assert len(chunks) <= 3


def test_an_empty_table_has_no_chunks() -> None:
    assert cut([], 10) == []
    assert cut(streams_of([0, 0]), 10) == []


def test_very_many_streams_are_cut_at_once() -> None:
    chunks = cut(streams_of([700] * 50_000), 1_000)
    assert len(chunks) == 50_000


@given(total=st.integers(0, 10**10), row_bytes=st.integers(1, 10**9))
def test_a_chosen_chunk_has_at_most_its_bytes_and_a_table_enough_chunks(
    total: int, row_bytes: int
) -> None:
    rows = choose_chunk_rows(total, row_bytes)
    assert rows >= 1
    assert rows == 1 or rows * row_bytes <= CHUNK_BYTES
    if rows > MIN_CHUNK_ROWS:
        assert len(cut([Stream("0", 0, total, total)], rows)) >= MIN_CHUNKS if total < 10**6 else 1
        assert total // rows >= MIN_CHUNKS
    if rows < MIN_CHUNK_ROWS:
        assert (rows + 1) * row_bytes > CHUNK_BYTES


def test_what_is_asked_for_holds() -> None:
    assert choose_chunk_rows(10**9, 4_000, asked=77) == 77
    assert choose_chunk_rows(0, 4, asked=None) == MIN_CHUNK_ROWS
    assert choose_chunk_rows(336_776, 100) == 21_048
    assert choose_chunk_rows(10**9, 160) == CHUNK_BYTES // 160


# Warehouses count by queries, and know no lengths of streams: bigquery/opening.py.
@pytest.mark.parametrize("kind", FILE_KINDS, ids=str)
def test_counts_are_exact_for_every_source(kind: Kind, place: Place) -> None:
    table = pa.table({"id": range(9_000), "key": [f"k{n % 1000}" for n in range(9_000)]})
    source = place.open(kind.write(place, table))
    splitter = Splitter(Column("key", pa.string()), SplitBuckets(1_000, 300, 500))
    cuts = cut(source.streams(), 700)
    progress: list[int] = []
    counted = count(source, cuts, splitter, progress.append)
    for chunk in counted.chunks:
        keys = pa.array([key for (key,) in rows_of(source, chunk.pieces, ["key"])], pa.string())
        codes = splitter.assign(keys)
        assert chunk.train_rows == np.count_nonzero(codes == 0)
        assert chunk.eval_rows == np.count_nonzero(codes == 1)
        assert chunk.train_rows + chunk.eval_rows > 0
    everything = splitter.assign(table["key"].combine_chunks())
    assert sum(c.train_rows for c in counted.chunks) == np.count_nonzero(everything == 0)
    assert sum(c.eval_rows for c in counted.chunks) == np.count_nonzero(everything == 1)
    assert counted.rows_read == progress[-1] == 9_000
    assert 9_000 * 4 <= counted.bytes_read <= 9_000 * 20
    assert progress == sorted(progress)
    source.close()


@pytest.mark.parametrize("kind", FILE_KINDS, ids=str)
def test_without_a_hash_column_nothing_is_read_to_count(kind: Kind, place: Place) -> None:
    source = place.open(kind.write(place, pa.table({"id": range(9_000)})))
    counted = count(source, cut(source.streams(), 700), None)
    assert (counted.rows_read, counted.bytes_read) == (0, 0)
    assert sum(chunk.train_rows for chunk in counted.chunks) == 9_000
    assert all(chunk.train_rows and not chunk.eval_rows for chunk in counted.chunks)
    for chunk in counted.chunks:
        assert len(rows_of(source, chunk.pieces, ["id"])) == chunk.train_rows
    source.close()


def test_chunks_without_a_row_in_any_split_are_dropped_and_lanes_stay(place: Place) -> None:
    path = place.folder / "t.parquet"
    pq.write_table(pa.table({"h": [n // 10 for n in range(100)]}), path)
    table = ParquetTable(str(path))
    splitter = Splitter(Column("h", pa.int64()), SplitBuckets(1_000, 300, 400))
    cuts = cut(table.streams(), 10)
    counted = count(table, cuts, splitter)
    codes = splitter.assign(pa.array(range(10))).tolist()
    kept = [n for n in range(10) if codes[n] >= 0]
    assert 0 < len(kept) < 10
    assert [chunk.pieces for chunk in counted.chunks] == [cuts[n].pieces for n in kept]
    assert [(c.train_rows, c.eval_rows) for c in counted.chunks] == [
        (10, 0) if codes[n] == 0 else (0, 10) for n in kept
    ]


def test_counting_ends_with_what_the_progress_raises(place: Place) -> None:
    path = place.folder / "t.parquet"
    pq.write_table(pa.table({"h": range(100)}), path)
    table = ParquetTable(str(path))

    def stop(rows: int) -> None:
        raise KeyboardInterrupt(rows)

    with pytest.raises(KeyboardInterrupt, match="10"):
        count(table, [ChunkCut((Piece("0:0", 0, 10),), 0)], None, stop)
