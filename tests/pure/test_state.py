"""The state of a reader: exact, small, plain, and refused where it does not fit."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faucet_client.bits import bits_of, numbers_of
from faucet_client.errors import StateError
from faucet_client.progress import Progress, first_of
from faucet_client.state import Partly, Ranges, ReaderState, resumed

FRESH = ReaderState(
    dataset="k",
    split="train",
    shuffle="batches",
    order="shared",
    seed=3,
    rank=0,
    world_size=1,
    remainder="drop",
    part=0,
    parts=1,
    stripe_rows=8,
)


def rows_of(ranges: Ranges) -> list[int]:
    return [row for first, count in ranges for row in range(first, first + count)]


@given(st.frozensets(st.integers(0, 500)))
def test_bits_are_numbers(numbers: frozenset[int]) -> None:
    assert numbers_of(bits_of(numbers)) == numbers


ranges = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), min_size=1, max_size=4).map(
    lambda gaps: tuple(
        (sum(gap + rows for gap, rows in gaps[:place]) + gaps[place][0], gaps[place][1])
        for place in range(len(gaps))
    )
)


@given(ranges=ranges, data=st.data())
def test_a_chunk_is_a_circle_and_loses_no_row(ranges: Ranges, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(rows_of(ranges)) - 1))
    rows = rows_of(Progress(FRESH, 100, 100).take(0, ranges, first))
    assert rows == rows_of(ranges)[first:] + rows_of(ranges)[:first]


def test_any_row_of_a_chunk_may_come_first() -> None:
    drawn = {first_of(10, (seed, epoch, 7)) for seed in range(20) for epoch in range(20)}
    assert drawn == set(range(10))
    assert first_of(1_000, (1, 2, 3)) == first_of(1_000, (1, 2, 3))


@given(data=st.data(), chunks=st.lists(ranges, min_size=1, max_size=6))
def test_what_a_state_has_not_had_is_what_comes_after_it(
    data: st.DataObject, chunks: list[Ranges]
) -> None:
    total = sum(len(rows_of(each)) for each in chunks)
    state = FRESH
    handed: list[tuple[int, int]] = []
    order = list(range(len(chunks)))
    first = [st.integers(0, len(rows_of(each)) - 1) for each in chunks]
    for _ in range(data.draw(st.integers(1, 4))):
        progress = Progress(state, total, total)
        progress.begin(0)
        assert progress.rows_to_come(0) == total - len(handed)
        data.draw(st.permutations(order))
        coming = [
            (chunk, row)
            for chunk in data.draw(st.permutations(order))
            if chunk not in state.had
            for row in rows_of(progress.take(chunk, chunks[chunk], data.draw(first[chunk])))
        ]
        count = data.draw(st.integers(0, len(coming)))
        handed += coming[:count]
        state = ReaderState.from_dict(json.loads(json.dumps(progress.state(1, count).to_dict())))
        for chunk, each in state.partly.items():
            assert each.ranges is not None
            assert rows_of(each.ranges) == sorted(row for c, row in handed if c == chunk)
        had = [(c, row) for c in state.had for row in rows_of(chunks[c])]
        assert sorted(had + [x for x in handed if x[0] not in state.had]) == sorted(handed)
    assert len(handed) == len(set(handed))
    assert state.rows == len(handed)


@given(chunks=st.lists(ranges, min_size=1, max_size=3), data=st.data())
def test_a_chunk_goes_on_where_it_was_left_whatever_is_drawn_then(
    chunks: list[Ranges], data: st.DataObject
) -> None:
    first = [data.draw(st.integers(0, len(rows_of(each)) - 1)) for each in chunks]
    progress = Progress(FRESH, 100, 100)
    whole = [
        (chunk, row)
        for chunk, each in enumerate(chunks)
        for row in rows_of(progress.take(chunk, each, first[chunk]))
    ]
    had = data.draw(st.integers(0, len(whole)))
    again = Progress(progress.state(1, had), 100, 100)
    rest = [
        (chunk, row)
        for chunk, each in enumerate(chunks)
        if chunk not in again.beginning_of(0).had
        for row in rows_of(
            again.take(chunk, each, 0 if chunk in again.beginning_of(0).partly else first[chunk])
        )
    ]
    assert whole[had:] == rest


@pytest.mark.parametrize(
    "partly",
    [
        Partly(4, ((2, 2), (6, 2))),  # no arc
        Partly(9, ((5, 9),)),  # beyond the grant
        Partly(4, ((2, 3),)),  # another number
        Partly(1, ()),
    ],
)
def test_a_state_of_rows_that_do_not_fit_is_refused(partly: Partly) -> None:
    damaged = replace(FRESH, partly={0: partly})
    with pytest.raises(StateError, match="chunk 0"):
        Progress(damaged, 100, 100).take(0, ((0, 10),))


def test_a_state_of_ten_thousand_chunks_is_small() -> None:
    progress = Progress(FRESH, 10**7, 10**7)
    progress.begin(0)
    for chunk in range(0, 10_000, 2):
        progress.take(chunk, ((0, 1_000),), chunk % 999)
    state = progress.state(5, 4_321_500)
    assert len(json.dumps(state.to_dict())) < 4_096
    assert len(state.had) == 4_321
    # Had by another number of ranks, chunk by chunk: more to say, and still within 64 KiB.
    before = {chunk: ((chunk % 7, 120 + chunk % 11), (500, 125)) for chunk in range(10_000)}
    assert len(json.dumps(replace(state, before=before).to_dict())) < 65_536


def test_the_states_of_all_ranks_are_one_s_own_where_the_ranks_are_the_same() -> None:
    states = [
        replace(FRESH, rank=rank, world_size=2, batch=4, rows=32, had=frozenset({rank}))
        for rank in (0, 1)
    ]
    for rank in (0, 1):
        wanted = replace(FRESH, rank=rank, world_size=2)
        assert resumed(states, wanted) == (states[rank], False)
        assert resumed([states[rank]], wanted) == (states[rank], False)
    begin, others = resumed(states, replace(FRESH, rank=2, world_size=3))
    assert others
    assert (begin.rank, begin.batch, begin.rows, begin.had) == (2, 4, 0, frozenset())


def test_rows_that_lie_scattered_are_not_dealt_to_other_ranks() -> None:
    rows = replace(FRESH, shuffle="rows", partly={3: Partly(4, None)})
    assert resumed([rows], replace(FRESH, shuffle="rows")) == (rows, False)
    with pytest.raises(StateError, match="save states between epochs"):
        resumed([rows], replace(FRESH, shuffle="rows", world_size=2))
