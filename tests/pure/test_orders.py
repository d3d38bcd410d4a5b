"""The kept orders give what a look at every chunk would."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from faucetd.schedule.orders import LOOK, EvictionOrder, LoadOrder, Pool

CHUNKS = range(12)

chunk_sets = st.sets(st.sampled_from(CHUNKS))


@given(
    steps=st.lists(st.tuples(chunk_sets, chunk_sets, chunk_sets, chunk_sets), max_size=12),
    start=chunk_sets,
)
def test_the_first_to_load_is_had_by_fewest(
    steps: list[tuple[set[int], set[int], set[int], set[int]]], start: set[int]
) -> None:
    had = dict.fromkeys(CHUNKS, 0)
    absent, pending = set(start), set(CHUNKS)
    order = LoadOrder()
    order.begin((0, -chunk, chunk) for chunk in absent)
    for come, go, taken, but in steps:
        for chunk in sorted((come - absent) & pending):
            absent.add(chunk)
            order.add(had[chunk], -chunk, chunk)
        absent -= go
        pending -= taken & go
        for chunk in taken:
            had[chunk] += 1
        candidates = (absent & pending) - but
        best = min(candidates, key=lambda chunk: (had[chunk], -chunk), default=None)
        assert order.first(absent, pending, had.__getitem__, but) == best


@given(steps=st.lists(st.tuples(chunk_sets, chunk_sets, chunk_sets), max_size=12))
def test_the_first_to_evict_is_had_by_most_and_then_used_longest_ago(
    steps: list[tuple[set[int], set[int], set[int]]],
) -> None:
    had = dict.fromkeys(CHUNKS, 0)
    there: dict[int, None] = {}
    order = EvictionOrder()
    for come, go, taken in steps:
        for chunk in sorted(come):
            there.pop(chunk, None)
            there[chunk] = None
            order.add(chunk, had[chunk])
        for chunk in go:
            there.pop(chunk, None)
            order.discard(chunk)
        for chunk in sorted(taken - set(there)):
            had[chunk] += 1
        for chunk in sorted(taken & set(there)):  # had by more, in the midst
            had[chunk] += 1
            there[chunk] = there.pop(chunk)
            order.add(chunk, had[chunk])
        assert list(order.chunks(0)) == sorted(there, key=lambda chunk: -had[chunk])
        assert list(order.chunks(2)) == [c for c in order.chunks(0) if had[c] >= 2]
        assert len(order) == len(there)


def test_chunks_that_were_had_unseen_are_put_in_order_again() -> None:
    order = EvictionOrder()
    for chunk in (1, 2, 3):
        order.add(chunk, 0)
    order.refresh({1: 0, 2: 5, 3: 0}.__getitem__)
    assert list(order.chunks(0)) == [2, 1, 3]


@given(steps=st.lists(st.tuples(chunk_sets, chunk_sets), max_size=12), turn=st.integers(0, 99))
def test_of_a_small_pool_the_chunk_wanted_by_fewest_is_taken(
    steps: list[tuple[set[int], set[int]]], turn: int
) -> None:
    wanted = [7 * chunk % 5 for chunk in CHUNKS]
    pool, there = Pool(), set[int]()
    for come, go in steps:
        for chunk in sorted(come - there):
            pool.add(chunk)
        there |= come
        for chunk in sorted(go):
            pool.discard(chunk)
        there -= go
        assert len(pool) == len(there)
        best = pool.best(turn, wanted)
        assert (best is None) == (not there)
        if best is not None:
            assert best in there
            assert wanted[best] == min(wanted[chunk] for chunk in there)


def test_of_a_large_pool_few_are_looked_at_and_in_time_all() -> None:
    number = 10 * LOOK + 7
    pool = Pool()
    pool.begin(range(number))
    looked_at = set[int]()
    for turn in range(number):
        wanted = [0] * number
        for chunk in looked_at:
            wanted[chunk] = 1
        best = pool.best(turn, wanted)
        assert best is not None
        looked_at.add(best)
    assert len(looked_at) == number
