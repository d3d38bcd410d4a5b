"""How rows are dealt to parts."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faucetd.schedule.parts import Part


@given(
    chunk_rows=st.lists(st.integers(0, 50), max_size=20),
    parts=st.integers(1, 7),
    stripe=st.integers(1, 12),
)
def test_parts_are_disjoint_and_together_whole_in_every_chunk(
    chunk_rows: list[int], parts: int, stripe: int
) -> None:
    start = 0
    for rows in chunk_rows:
        dealt = [Part(part, parts, stripe).range_at(start, rows) for part in range(parts)]
        covered = [row for first, mine in dealt for row in range(first, first + mine)]
        assert covered == list(range(rows))
        start += rows


@given(total=st.integers(0, 500), parts=st.integers(1, 7), batch=st.integers(1, 12))
def test_parts_dealt_in_batches_have_one_short_batch_between_them(
    total: int, parts: int, batch: int
) -> None:
    sizes = [Part(part, parts, batch).rows_before(total) for part in range(parts)]
    assert sum(sizes) == total
    assert sum(math.ceil(size / batch) for size in sizes) == math.ceil(total / batch)


@given(total=st.integers(0, 500), parts=st.integers(1, 7))
def test_parts_dealt_row_by_row_differ_by_one_row_at_most(total: int, parts: int) -> None:
    sizes = [Part(part, parts).rows_before(total) for part in range(parts)]
    assert max(sizes) - min(sizes) <= 1


def test_a_part_outside_its_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="no such part"):
        Part(2, 2)
