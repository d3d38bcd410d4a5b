"""Which rows are whose: ranks, and what is left after they were others."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faucetd.schedule.parts import Part, RowRange
from faucetd.schedule.shares import Ranges, Remainder, Shape, Share, union

sizes = st.lists(st.integers(0, 40), min_size=1, max_size=12)
REMAINDERS: tuple[Remainder, ...] = ("drop", "pad")


def deal(chunks: list[int], share: Share) -> Counter[tuple[int, int]]:
    """All rows that a share has, as chunk and row."""
    found: Counter[tuple[int, int]] = Counter()
    for chunk, (start, rows) in enumerate(zip(starts(chunks), chunks, strict=False)):
        ranges = share.of_chunk(chunk, start, rows, sum(chunks))
        assert ranges == union(ranges)
        found.update((chunk, row) for first, n in ranges for row in range(first, first + n))
    assert found.total() == share.rows(sum(chunks))
    assert all(0 <= row < chunks[chunk] for chunk, row in found)
    return found


def starts(chunks: list[int]) -> list[int]:
    return list(accumulate(chunks, initial=0))


def every(chunks: list[int]) -> set[tuple[int, int]]:
    return {(chunk, row) for chunk, rows in enumerate(chunks) for row in range(rows)}


@given(chunks=sizes, world=st.integers(1, 9), workers=st.integers(1, 3), stripe=st.integers(1, 5))
@pytest.mark.parametrize("remainder", REMAINDERS)
def test_ranks_have_as_many_rows_each_and_share_none_but_padding(
    remainder: Remainder, chunks: list[int], world: int, workers: int, stripe: int
) -> None:
    total = sum(chunks)
    together: Counter[tuple[int, int]] = Counter()
    for rank in range(world):
        of_rank: Counter[tuple[int, int]] = Counter()
        for worker in range(workers):
            shape = Shape(rank, world, remainder, Part(worker, workers, stripe))
            of_rank.update(deal(chunks, Share(shape, {}, ())))
        assert max(of_rank.values(), default=1) == 1
        expected = -(-total // world) if remainder == "pad" else total // world
        assert of_rank.total() == expected
        together.update(of_rank)
    if remainder == "pad":
        assert set(together) == every(chunks)
    else:
        assert max(together.values(), default=1) == 1
        assert total - together.total() == total % world


@given(
    chunks=sizes,
    world=st.integers(1, 6),
    had=st.sets(st.tuples(st.integers(0, 11), st.integers(0, 39))),
)
def test_what_was_had_before_is_nobody_s_and_the_others_are_dealt_evenly(
    chunks: list[int], world: int, had: set[tuple[int, int]]
) -> None:
    had &= every(chunks)
    before = {
        chunk: union(tuple(RowRange(row, 1) for c, row in had if c == chunk))
        for chunk in {chunk for chunk, _ in had}
    }
    shares = [deal(chunks, Share(Shape(r, world), before, starts(chunks))) for r in range(world)]
    together = sum(shares, Counter())
    assert not set(together) & had
    assert max(together.values(), default=1) == 1
    left = sum(chunks) - len(had)
    assert [share.total() for share in shares] == [left // world] * world


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), max_size=12))
def test_a_union_has_each_row_once_and_no_gapless_neighbours(pieces: list[tuple[int, int]]) -> None:
    found = union(tuple(RowRange(*piece) for piece in pieces))
    rows = [row for first, n in found for row in range(first, first + n)]
    assert rows == sorted({row for first, n in pieces for row in range(first, first + n)})
    ends: Ranges = found[1:]
    assert all(a.first + a.rows < b.first for a, b in zip(found, ends, strict=False))


def test_a_rank_outside_its_world_is_refused() -> None:
    with pytest.raises(ValueError, match="no such rank"):
        Shape(2, 2)
