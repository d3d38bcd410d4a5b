"""What readers had when a job had other ranks, put together in arrays: as slowly, one by one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faucet_client.bits import bits_of
from faucetd.schedule.earlier import Earlier, had_before
from faucetd.schedule.events import ChunkInfo, ReaderJoined, Totals
from faucetd.schedule.parts import Part, RowRange
from faucetd.schedule.shares import Ranges, Remainder, Shape, Share, union
from faucetd.schedule.state import Dataset

REMAINDERS: tuple[Remainder, ...] = ("drop", "pad")


def slowly(
    before: Mapping[int, Ranges],
    earlier: Sequence[Earlier],
    starts: Sequence[int],
    rows: Sequence[int],
) -> dict[int, Ranges]:
    """The same, a chunk of a reader at a time."""
    found = {chunk: [ranges] for chunk, ranges in before.items()}
    for reader in earlier:
        share = Share(reader.shape, before, starts)
        for chunk in reader.chunks().tolist():
            ranges = share.of_chunk(chunk, starts[chunk], rows[chunk], sum(rows))
            found.setdefault(chunk, []).append(ranges)
        for chunk, ranges in reader.partly.items():
            found.setdefault(chunk, []).append(ranges)
    together = {chunk: union(*several) for chunk, several in found.items()}
    return {chunk: ranges for chunk, ranges in together.items() if ranges}


@st.composite
def some_rows(draw: st.DrawFn, rows: Sequence[int]) -> dict[int, Ranges]:
    """Rows of a few chunks, by chunk."""
    found = {}
    for chunk in draw(st.sets(st.sampled_from(range(len(rows))), max_size=4)):
        numbers = draw(st.sets(st.integers(0, max(rows[chunk] - 1, 0)), min_size=1))
        if rows[chunk]:
            found[chunk] = union(tuple(RowRange(row, 1) for row in numbers))
    return found


@given(data=st.data())
def test_what_readers_of_other_ranks_had_is_the_same_as_one_by_one(data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=9))
    # Chunks have their positions in the order in which they were found.
    order = data.draw(st.permutations(range(len(rows))))
    first = list(itertools.accumulate((rows[chunk] for chunk in order), initial=0))
    starts = [first[order.index(chunk)] for chunk in range(len(rows))]
    before = data.draw(some_rows(rows))
    world, workers = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 2))
    remainder = data.draw(st.sampled_from(REMAINDERS))
    earlier = [
        Earlier(
            Shape(rank, world, remainder, Part(worker, workers, data.draw(st.integers(1, 4)))),
            bits_of(data.draw(st.sets(st.sampled_from(range(len(rows)))))),
            data.draw(some_rows(rows)),
        )
        for rank, worker in itertools.product(range(world), range(workers))
    ]
    found = had_before(before, earlier, starts, rows, sum(rows))
    assert found == slowly(before, earlier, starts, rows)


def test_what_64_ranks_had_of_10_000_chunks_is_not_looked_at_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chunks, world = 10_000, 64
    rows = [640] * chunks
    starts = [640 * chunk for chunk in range(chunks)]
    bits = bits_of(range(chunks))
    earlier = [Earlier(Shape(rank, world), bits, {}) for rank in range(world)]
    calls = 0
    rows_before = Part.rows_before

    def counted(part: Part, position: Any) -> Any:
        nonlocal calls
        calls += 1
        return rows_before(part, position)

    monkeypatch.setattr(Part, "rows_before", counted)
    found = had_before({}, earlier, starts, rows, sum(rows))
    assert found == {chunk: (RowRange(0, 640),) for chunk in range(chunks)}
    assert calls <= 3 * world


@pytest.mark.parametrize(
    "told",
    [
        {"had": frozenset({2})},
        {"had": frozenset({1})},  # which is open
        {"before": {2: (RowRange(0, 1),)}},
        {"before": {0: (RowRange(0, 11),)}},  # which has 10 rows
        {"before": {0: (RowRange(2**62, 2**62),)}},
        {"before": {0: (RowRange(3, 1), RowRange(0, 1))}},
        {"earlier": (Earlier(Shape(), bits_of({0, 700}), {}),)},
        {"earlier": (Earlier(Shape(), b"", {1: (RowRange(0, 1),)}),)},
    ],
)
def test_rows_that_are_not_there_cannot_have_been_had(told: dict[str, Any]) -> None:
    plan = (ChunkInfo(0, {"train": 10}, {}), ChunkInfo(0, {}, {}, open=True))
    dataset = Dataset("d", plan, {"train": Totals(20, 0)})
    wish = ReaderJoined(reader=1, dataset="d", split="train", first_epoch=0, epochs=1, credits=3)
    assert dataset.why_not(replace(wish, had=frozenset({0}))) == ""
    assert dataset.why_not(replace(wish, **told)).startswith("it had ")
