"""The kept orders give what a look at every chunk would."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from faucetd.schedule.orders import ChunkSet, EvictionOrder, HadOrder, first_from, to_bits

CHUNKS = range(12)

chunk_sets = st.sets(st.sampled_from(CHUNKS))


@given(steps=st.lists(st.tuples(chunk_sets, chunk_sets), max_size=12))
def test_bits_say_what_the_set_has(steps: list[tuple[set[int], set[int]]]) -> None:
    chunks = ChunkSet(steps[0][0] if steps else ())
    for come, go in steps:
        chunks.update(come, ChunkSet(come))
        for chunk in go:
            chunks.discard(chunk)
            chunks.discard(chunk)
        assert chunks.bits == to_bits(chunks) == sum(1 << chunk for chunk in chunks)
        for chunk in sorted(come):
            chunks.add(chunk)
        assert chunks.bits == to_bits(chunks)


@given(chunks=st.sets(st.integers(0, 300), min_size=1), place=st.integers(0, 310))
def test_the_first_chunk_from_a_place_on_is_found(chunks: set[int], place: int) -> None:
    expected = min(chunks, key=lambda chunk: (chunk < place, chunk))
    assert first_from(to_bits(chunks), place) == expected


@given(
    start=st.integers(0, 3),
    steps=st.lists(st.tuples(chunk_sets, chunk_sets, chunk_sets), max_size=12),
)
def test_chunks_that_are_had_by_most_are_found(
    start: int, steps: list[tuple[set[int], set[int], set[int]]]
) -> None:
    had = dict.fromkeys(CHUNKS, start)
    order = HadOrder()
    for chunk in CHUNKS:
        order.add(chunk, start)
    for had_by_one_more, raised, wanted in steps:
        for chunk in had_by_one_more:
            order.move(chunk, had[chunk], had[chunk] + 1)
            had[chunk] += 1
        order.raise_all(~to_bits(set(CHUNKS) - raised))
        for chunk in raised:
            had[chunk] += 1
        most = max((had[chunk] for chunk in wanted), default=0)
        assert order.had_by_most(to_bits(wanted)) == to_bits(c for c in wanted if had[c] == most)


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
        assert order.has(2) == bool(list(order.chunks(2)))
        assert list(order.chunks(2)) == [c for c in order.chunks(0) if had[c] >= 2]
        assert len(order) == len(there)


def test_chunks_that_were_had_unseen_are_put_in_order_again() -> None:
    order = EvictionOrder()
    for chunk in (1, 2, 3):
        order.add(chunk, 0)
    order.refresh({1: 0, 2: 5, 3: 0}.__getitem__)
    assert list(order.chunks(0)) == [2, 1, 3]
