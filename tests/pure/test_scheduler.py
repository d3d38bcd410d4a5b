"""The scheduler as values in, values out: single decisions first, then random histories."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from faucet_client.spec import SPLITS, Split
from faucetd.schedule.events import (
    ChunkFailed,
    ChunkInfo,
    ChunkLoaded,
    CreditsGiven,
    DatasetAdded,
    DatasetRemoved,
    EpochAdvanced,
    Event,
    ExtraBytesWanted,
    Found,
    LeasesReleased,
    OrphanedMemory,
    ReaderJoined,
    ReaderLeft,
    ReaderStarved,
    RestoreFailed,
    SegmentRestored,
    SegmentSpilled,
    SpillFailed,
    SpillFound,
    SpillRetried,
    Totals,
    WorkerDied,
    WorkerIdle,
)
from faucetd.schedule.instructions import (
    AbandonLoad,
    AdmitReader,
    AllowBytes,
    DropSpilled,
    Evict,
    FailReader,
    Grant,
    Instruction,
    Load,
    RefuseReader,
    RestoreSegment,
    SegmentId,
    Spill,
)
from faucetd.schedule.parts import Part
from faucetd.schedule.scheduler import InvalidTransition, Scheduler
from faucetd.schedule.shares import Ranges, Shape, Share, rows_in

SIZE = 100

ROOM_FOR_ALL = 100
"""Segments that a spill budget holds which is never short: plans of the histories have fewer."""


def chunks(number: int, *, train: int = 80, evals: int = 20) -> tuple[ChunkInfo, ...]:
    rows: dict[Split, int] = {"train": train, "eval": evals} if evals else {"train": train}
    return tuple(
        ChunkInfo(lane=n // 4, rows=rows, nbytes=dict.fromkeys(rows, SIZE)) for n in range(number)
    )


def lane(number: int, *rows: tuple[int, int]) -> list[ChunkInfo]:
    """The chunks of a lane, by their train and eval rows."""
    sizes: list[dict[Split, int]] = [{"train": train, "eval": evals} for train, evals in rows]
    return [
        ChunkInfo(number, has := {k: v for k, v in size.items() if v}, dict.fromkeys(has, SIZE))
        for size in sizes
    ]


class World:
    """Carries instructions out as a machine of infinite patience would.

    Given `lanes` instead of a plan, it tells of each lane's chunks one by one, as they are loaded.
    `disk` has what an earlier daemon has left there.
    """

    def __init__(
        self,
        budget: int,
        plan: tuple[ChunkInfo, ...] = (),
        workers: int = 1,
        lanes: Sequence[list[ChunkInfo]] = (),
        guess: int = SIZE,
        spill_budget: int = 0,
        disk: Iterable[SegmentId] = (),
    ) -> None:
        self.guess = guess
        self.scheduler = Scheduler(budget, spill_budget_bytes=spill_budget)
        self.spilling: list[SegmentId] = []  # in the order in which they are to be written
        self.disk = dict.fromkeys(disk, SIZE)
        self.restores: dict[int, RestoreSegment] = {}
        self.restored: list[SegmentId] = []
        self.made: list[SegmentId] = []
        self.sizes: dict[SegmentId, int] = {}
        self.loads: dict[int, Load] = {}
        self.grants: list[Grant] = []
        self.evicted: list[SegmentId] = []
        self.failed: dict[int, FailReader] = {}
        self.refused: dict[int, RefuseReader] = {}
        self.admitted: dict[int, AdmitReader] = {}
        self.all_loads: list[Load] = []
        self.were_open: dict[int, bool] = {}  # by worker: whether the chunk it loads was open
        self.to_come = [list(lane) for lane in lanes]
        self.plan = list(plan)  # by number; open chunks are as they will turn out
        self.order = list(range(len(plan)))  # in which the chunks were found
        self.totals: dict[Split, Totals] = {}
        if lanes:
            every = [chunk for lane in lanes for chunk in lane]
            for split in SPLITS:
                sizes = [chunk.rows.get(split, 0) for chunk in every]
                self.totals[split] = Totals(sum(sizes), SIZE * sum(size > 0 for size in sizes))
        if disk:
            self.send(SpillFound(dict(self.disk)))
        first = plan or tuple(self._open(lane) for lane in self.to_come)
        self.send(DatasetAdded("d", first, self.totals))
        for worker in range(workers):
            self.send(WorkerIdle(worker))

    def _open(self, lane: list[ChunkInfo]) -> ChunkInfo:
        """The lane's next chunk, as it is guessed before anybody has read it."""
        self.plan.append(lane.pop(0))
        has = [split for split in SPLITS if self.totals[split].rows]
        return ChunkInfo(
            self.plan[-1].lane, dict.fromkeys(has, 5), dict.fromkeys(has, self.guess), open=True
        )

    def loaded(self, worker: int, chunk: int, sizes: dict[Split, int]) -> None:
        found = None
        if self.were_open.pop(worker):
            # As a worker would: it was told that the chunk is open, and knows of no other worker.
            assert chunk not in self.order, "two workers have read the same open chunk"
            self.order.append(chunk)
            lane = self.to_come[self.plan[chunk].lane]
            found = Found(self.plan[chunk], self._open(lane) if lane else None)
        has = {split: size for split, size in sizes.items() if self.plan[chunk].rows.get(split)}
        segments = {SegmentId("d", chunk, split): size for split, size in has.items()}
        self.made += segments
        self.sizes |= segments
        self.send(ChunkLoaded(worker, has, found))

    def send(self, event: Event) -> list[Instruction]:  # noqa: C901  # a line an instruction
        out = self.scheduler.handle(event)
        for instruction in out:
            match instruction:
                case Load():
                    self.loads[instruction.worker] = instruction
                    known = not self.to_come or instruction.chunk in self.order
                    self.were_open[instruction.worker] = not known
                    self.all_loads.append(instruction)
                case Grant():
                    self.grants.append(instruction)
                case Spill():
                    assert instruction.segment not in [*self.spilling, *self.disk]
                    self.spilling.append(instruction.segment)
                case DropSpilled():
                    if instruction.segment in self.spilling:
                        self.spilling.remove(instruction.segment)
                    else:
                        del self.disk[instruction.segment]
                case RestoreSegment():
                    assert instruction.nbytes == self.disk[instruction.segment]
                    self.restores[instruction.restore] = instruction
                case Evict():
                    assert instruction.segment not in self.spilling  # removal drops it before
                    self.evicted.append(instruction.segment)
                case FailReader():
                    self.failed[instruction.reader] = instruction
                case RefuseReader():
                    self.refused[instruction.reader] = instruction
                case AdmitReader():
                    self.admitted[instruction.reader] = instruction
                case AbandonLoad():
                    del self.loads[instruction.worker]
        if any(isinstance(instruction, Load | RestoreSegment) for instruction in out):
            memory = self.scheduler.memory()
            assert memory.used_bytes + memory.orphaned_bytes <= memory.budget_bytes
        return out

    def finish_load(self, worker: int) -> None:
        load = self.loads[worker]
        needed = sum(SIZE for split in load.splits if self.plan[load.chunk].rows.get(split))
        if needed > load.reserved_bytes:
            more = ExtraBytesWanted(worker, needed - load.reserved_bytes)
            if AllowBytes(worker) not in self.send(more):
                self.send(WorkerIdle(worker))
                return
        del self.loads[worker]
        self.loaded(worker, load.chunk, dict.fromkeys(load.splits, SIZE))
        self.send(WorkerIdle(worker))

    def finish_spill(self, segment: SegmentId | None = None) -> None:
        segment = segment or self.spilling[0]
        self.spilling.remove(segment)
        self.disk[segment] = self.sizes[segment]
        self.send(SegmentSpilled(segment))

    def finish_restore(self, restore: int | None = None) -> None:
        restore = restore or min(self.restores)
        self.restored.append(self.restores.pop(restore).segment)
        self.send(SegmentRestored(restore))

    def run(self) -> None:
        """Finishes all that is under way, and what follows from it; every lease is released."""
        while self.loads or self.restores or self.spilling or self.scheduler.leases():
            if self.scheduler.leases():
                self.send(LeasesReleased(tuple(self.scheduler.leases())))
            self.finish_one()

    def finish_one(self) -> bool:
        """Finishes something that is under way, the writing of files last of all."""
        if self.loads:
            self.finish_load(min(self.loads))
        elif self.restores:
            self.finish_restore()
        elif self.spilling:
            self.finish_spill()
        else:
            return False
        return True

    def join(self, reader: int, **wishes: object) -> None:
        options = {"split": "train", "first_epoch": 0, "epochs": 1, "credits": 1} | wishes
        self.send(ReaderJoined(reader, "d", **options))  # type: ignore[arg-type]  # a test's brevity


def test_two_readers_share_one_load_of_each_chunk() -> None:
    world = World(10_000, chunks(5))
    world.join(1, credits=9)
    world.join(2, credits=9)
    while world.loads:
        world.finish_load(0)
    assert Counter(load.chunk for load in world.all_loads) == Counter(range(5))
    assert sorted((g.reader, g.segment.chunk) for g in world.grants) == [
        (reader, chunk) for reader in (1, 2) for chunk in range(5)
    ]


def test_a_load_keeps_the_other_split_where_there_is_room() -> None:
    world = World(10_000, chunks(2))
    world.join(1, credits=9)
    assert world.all_loads[0].splits == ("train", "eval")
    while world.loads:
        world.finish_load(0)
    world.join(2, split="eval", credits=9)
    assert not world.loads
    assert sum(g.reader == 2 for g in world.grants) == 2


def test_a_leased_segment_is_not_evicted_and_the_next_load_waits_for_a_release() -> None:
    world = World(4 * SIZE, chunks(9, evals=0))
    world.join(1, credits=9)
    for _ in range(4):
        world.finish_load(0)
    assert [g.reader for g in world.grants] == [1] * 3  # the floor of three; a fourth must wait
    assert not world.loads  # all is leased, or wanted next
    held = {grant.segment for grant in world.grants}
    world.send(LeasesReleased((world.grants[0].lease,)))
    assert world.evicted == [world.grants[0].segment]
    assert world.grants[0].segment in held
    assert len(world.grants) == 4


def test_loads_wait_for_memory_that_is_orphaned_and_go_on_when_it_is_let_go_of() -> None:
    world = World(5 * SIZE, chunks(9, evals=0))
    world.send(OrphanedMemory(3 * SIZE))
    world.join(1, credits=9)
    assert world.admitted[1].lease_limit_bytes == 3 * SIZE  # it keeps nobody out
    for _ in range(2):
        world.finish_load(0)
    assert not world.loads  # two are leased
    assert world.scheduler.starved() == [1]
    world.send(OrphanedMemory(2 * SIZE))
    assert world.scheduler.starved() == []
    world.finish_load(0)
    assert len(world.grants) == 3
    assert world.scheduler.starved() == []  # it holds its floor: it waits for itself
    world.send(LeasesReleased((world.grants[0].lease,)))
    assert world.loads


def test_what_nobody_leases_makes_room_for_memory_that_is_orphaned() -> None:
    world = World(9 * SIZE, chunks(9, evals=0))
    world.join(1, credits=2)
    while world.loads:
        world.finish_load(0)
    assert world.scheduler.memory().leased_bytes == 2 * SIZE
    world.send(OrphanedMemory(8 * SIZE))
    assert world.scheduler.memory().used_bytes == 2 * SIZE
    assert world.scheduler.memory().orphaned_bytes == 8 * SIZE


def test_who_was_starved_fails_by_name_and_others_go_on() -> None:
    world = World(9 * SIZE, chunks(9, evals=0))
    world.send(OrphanedMemory(9 * SIZE))
    for reader in (1, 2):
        world.join(reader, credits=9)
    assert world.scheduler.starved() == [1, 2]
    world.send(ReaderStarved(1, "budget", "too little"))
    assert world.failed[1].message == "too little"
    assert world.scheduler.starved() == [2]
    world.send(OrphanedMemory(0))
    world.run()
    assert {grant.reader for grant in world.grants} == {2}


def test_a_disk_that_failed_is_written_to_again_when_it_is_tried_again() -> None:
    world = World(9 * SIZE, chunks(9, evals=0), spill_budget=9 * SIZE)
    world.join(1, credits=9)
    world.finish_load(0)
    world.send(SpillFailed(world.spilling[0]))
    world.finish_load(0)
    assert world.spilling == []
    world.send(SpillRetried())
    world.finish_load(0)
    assert len(world.spilling) == 1


def test_a_reader_that_the_budget_cannot_promise_its_floor_is_refused_with_figures() -> None:
    world = World(4 * SIZE, chunks(9, evals=0))
    world.join(1)
    world.join(2)
    assert 1 in world.admitted
    assert "memory_budget=400" in world.refused[2].message
    assert "3 segments of 100 = 300" in world.refused[2].message


def test_leases_of_a_reader_that_left_are_counted_until_they_are_released() -> None:
    world = World(4 * SIZE, chunks(9, evals=0), workers=1)
    world.join(1, credits=2)
    world.finish_load(0)
    world.finish_load(0)
    world.send(ReaderLeft(1))
    assert world.scheduler.memory().leased_bytes == 2 * SIZE
    world.join(2)
    assert 2 in world.refused
    world.send(LeasesReleased(tuple(g.lease for g in world.grants)))
    assert not world.scheduler.in_use("d")
    world.join(3)
    assert 3 in world.admitted


def test_a_chunk_that_kills_three_workers_fails_its_readers_and_is_tried_again_for_new_ones() -> (
    None
):
    world = World(10_000, chunks(1))
    world.join(1)
    for worker in range(3):
        assert 1 not in world.failed
        world.send(WorkerDied(worker))
        world.loads.clear()
        world.send(WorkerIdle(worker + 1))
    assert world.failed[1].code == "chunk-failed"
    assert "killed 3 workers" in world.failed[1].message
    assert not world.loads
    world.join(2)
    assert world.loads[3].chunk == 0


def test_an_in_order_reader_gets_ascending_chunks_though_others_are_resident() -> None:
    world = World(10_000, chunks(6))
    world.join(1, credits=9, seed=3)
    for _ in range(3):
        world.finish_load(0)
    world.join(2, credits=9, in_order=True, shuffled=False)
    while world.loads:
        world.finish_load(0)
    assert [g.segment.chunk for g in world.grants if g.reader == 2] == list(range(6))


def test_the_order_of_chunks_varies_by_seed_and_by_epoch() -> None:
    world = World(10_000, chunks(8))
    world.join(0, credits=99)
    while world.loads:
        world.finish_load(0)
    orders = set()
    for reader, seed in ((1, 1), (2, 2)):
        world.join(reader, credits=99, epochs=2, seed=seed)
        world.send(LeasesReleased(tuple(world.scheduler.leases())))
        for epoch in (0, 1):
            orders.add(
                tuple(
                    g.segment.chunk for g in world.grants if (g.reader, g.epoch) == (reader, epoch)
                )
            )
    assert len(orders) == 4


def test_an_event_that_cannot_be_true_tells_what_happened_before() -> None:
    world = World(10_000, chunks(1))
    with pytest.raises(InvalidTransition, match=r"(?s)no lease 7.*DatasetAdded"):
        world.send(LeasesReleased((7,)))


def test_a_job_that_stops_after_one_chunk_has_not_read_the_whole_table() -> None:
    world = World(1_000_000, chunks(1_000))
    world.join(1, credits=1)
    while world.loads:
        world.finish_load(0)
    assert len(world.all_loads) <= 10


def test_there_are_never_more_segments_than_there_may_be_descriptors() -> None:
    world = World(1_000_000, chunks(40), workers=1)
    world.scheduler = Scheduler(1_000_000, most_segments=10)
    world.send(DatasetAdded("d", chunks(40)))
    world.send(WorkerIdle(0))
    world.join(1, credits=99, in_order=True, shuffled=False)
    while world.loads:
        world.finish_load(0)
        assert len(world.scheduler.resident("d")) <= 10
        world.send(LeasesReleased(tuple(world.scheduler.leases())))
    assert [g.segment.chunk for g in world.grants if g.reader == 1] == list(range(40))


def test_what_a_stopped_reader_wants_makes_room_for_its_peers() -> None:
    world = World(7 * SIZE, chunks(12, evals=0))
    world.join(1, credits=0)  # it takes nothing, and wants all that is there
    world.join(2, credits=99)
    for _ in range(12):
        if world.loads:
            world.finish_load(0)
        mine = [n for n, (reader, _) in world.scheduler.leases().items() if reader == 2]
        if mine:
            world.send(LeasesReleased(tuple(mine)))
    assert sorted(g.segment.chunk for g in world.grants if g.reader == 2) == list(range(12))
    assert not [g for g in world.grants if g.reader == 1]
    world.send(CreditsGiven(1, 99))
    while world.loads or world.scheduler.leases():
        if world.loads:
            world.finish_load(0)
        world.send(LeasesReleased(tuple(world.scheduler.leases())))
    assert sorted(g.segment.chunk for g in world.grants if g.reader == 1) == list(range(12))


def test_open_chunks_are_found_one_by_one_and_every_reader_gets_each_row_once() -> None:
    lanes = [lane(0, (7, 2), (6, 1), (3, 0)), lane(1, (5, 5), (0, 0))]
    world = World(10_000, lanes=lanes, workers=2)
    world.join(1, credits=99, epochs=2)
    world.join(2, credits=99, split="eval", in_order=True, shuffled=False)
    while world.loads:
        world.finish_load(max(world.loads))
    assert world.admitted[1].rows_per_epoch == 21
    assert world.admitted[2].rows_per_epoch == 8
    assert sorted(load.chunk for load in world.all_loads) == [0, 1, 2, 3, 4]
    for epoch in (0, 1):
        granted = [rows_in(g.rows) for g in world.grants if (g.reader, g.epoch) == (1, epoch)]
        assert sorted(granted) == [3, 5, 6, 7]
    evals = [(g.segment.chunk, rows_in(g.rows)) for g in world.grants if g.reader == 2]
    assert evals == sorted(evals)
    assert sum(rows for _, rows in evals) == 8


def test_the_last_rows_of_an_epoch_are_held_back_until_no_chunk_is_open() -> None:
    world = World(10_000, lanes=[lane(0, (4, 0), (3, 0), (0, 0))])
    world.join(1, credits=99)
    world.finish_load(0)
    world.finish_load(0)
    assert [rows_in(g.rows) for g in world.grants] == [
        4
    ]  # there are the other 3, yet more may come
    world.finish_load(0)
    assert [rows_in(g.rows) for g in world.grants] == [4, 3]


def test_a_reader_that_joins_a_half_found_plan_gets_what_is_found_and_what_follows() -> None:
    world = World(10_000, lanes=[lane(0, (4, 1), (3, 1), (2, 0))])
    world.join(1, credits=1)
    world.finish_load(0)
    world.join(2, credits=99)
    assert [rows_in(g.rows) for g in world.grants if g.reader == 2] == [4]
    while world.loads:
        world.finish_load(0)
    assert [rows_in(g.rows) for g in world.grants if g.reader == 2] == [4, 3, 2]
    assert Counter(load.chunk for load in world.all_loads) == {0: 1, 1: 1, 2: 1}


def test_a_plan_that_is_being_found_is_in_use_until_its_load_has_ended() -> None:
    world = World(10_000, lanes=[lane(0, (4, 1), (3, 1))])
    world.join(1, credits=1)
    world.send(ReaderLeft(1))
    assert world.scheduler.in_use("d")
    while world.loads:
        world.finish_load(0)
    assert not world.scheduler.in_use("d")
    world.send(DatasetRemoved("d"))


def test_a_worker_goes_on_with_the_lane_that_it_has_read() -> None:
    lanes = [lane(n, (4, 0), (4, 0), (4, 0)) for n in range(2)]
    world = World(10_000, lanes=lanes, workers=2)
    world.join(1, credits=99)
    for worker in (0, 1, 1, 0, 1, 0):
        world.finish_load(worker)
    lanes_of: dict[int, set[int]] = {0: set(), 1: set()}
    for load in world.all_loads:
        lanes_of[load.worker].add(world.plan[load.chunk].lane)
    assert sorted(map(tuple, lanes_of.values())) == [(0,), (1,)]


def test_an_open_chunk_is_not_loaded_for_one_split_while_it_is_for_the_other() -> None:
    # Of the budget, train's promise leaves no room for eval beside a load of train.
    world = World(7 * SIZE, lanes=[lane(0, (4, 4), (4, 4), (4, 4))], workers=2)
    world.join(1, credits=1)
    world.join(2, split="eval", credits=1)
    for _ in range(40):
        for worker in sorted(world.loads):
            world.finish_load(worker)
        for grant in world.grants:
            if grant.lease in world.scheduler.leases():
                world.send(LeasesReleased((grant.lease,)))
                world.send(CreditsGiven(grant.reader, 1))
    assert not world.failed
    assert sorted(rows_in(g.rows) for g in world.grants if g.reader == 2) == [4, 4, 4]


def test_the_map_has_the_chunks_that_are_found_though_disk_has_more_of_an_earlier_daemon() -> None:
    left = [SegmentId("d", chunk, "train") for chunk in (0, 2, 5)]
    lanes = [lane(0, (4, 0), (3, 0), (2, 0))]
    world = World(10_000, lanes=lanes, spill_budget=9 * SIZE, disk=left)
    world.join(1, credits=99)
    assert len(world.scheduler.chunk_map("d")["train"]) == 1
    world.run()
    assert len(world.scheduler.chunk_map("d")["train"]) == 3


def test_more_bytes_for_an_open_chunk_teach_nothing_about_the_others() -> None:
    world = World(20 * SIZE, lanes=[lane(0, (1_000, 0), (1_000, 0))], guess=1)
    world.join(1, credits=9)
    while world.loads:
        world.finish_load(0)
    world.join(2)
    assert 2 in world.admitted
    assert not world.failed


class Histories(RuleBasedStateMachine):
    """Random histories of joins, leaves, crashes, stops, hoarding, slow and dying workers."""

    @initialize(
        budget=st.integers(3, 30),
        number=st.integers(1, 12),
        workers=st.integers(1, 3),
        train=st.integers(1, 7),
        evals=st.integers(0, 3),
        lanes=st.lists(
            st.lists(st.tuples(st.integers(0, 7), st.integers(0, 3)), min_size=1, max_size=6),
            max_size=3,
        ),
        guess=st.sampled_from([1, SIZE // 2, SIZE]),
        spill=st.sampled_from([0, 2, 9, ROOM_FOR_ALL]),
    )
    def start(
        self,
        budget: int,
        number: int,
        workers: int,
        train: int,
        evals: int,
        lanes: list[list[tuple[int, int]]],
        guess: int,
        spill: int,
    ) -> None:
        self.spill = spill
        options: dict[str, Any] = {"workers": workers, "spill_budget": spill * SIZE}
        if any(map(sum, itertools.chain(*lanes))):
            found = [lane(number, *rows) for number, rows in enumerate(lanes)]
            self.world = World(budget * SIZE, lanes=found, guess=guess, **options)
        else:
            self.world = World(budget * SIZE, chunks(number, train=train, evals=evals), **options)
        self.joined: dict[int, ReaderJoined] = {}
        self.gone: set[int] = set()
        self.stopped: set[int] = set()
        self.advanced: set[tuple[int, int]] = set()
        self.released: set[int] = set()
        self.next_worker = workers
        self.checked = 0
        self.sizes: dict[SegmentId, int] = {}

    @rule(
        split=st.sampled_from(["train", "eval"]),
        epochs=st.integers(1, 3),
        grants=st.integers(0, 4),
        ranks=st.integers(1, 3),
        remainder=st.sampled_from(["drop", "pad"]),
        parts=st.integers(1, 2),
        stripe=st.integers(1, 4),
        shuffled=st.booleans(),
        in_order=st.booleans(),
        seed=st.integers(0, 5),
    )
    def join(  # type: ignore[no-untyped-def]  # hypothesis passes them
        self, split, epochs, grants, ranks, remainder, parts, stripe, shuffled, in_order, seed
    ) -> None:
        for rank, part in itertools.product(range(ranks), range(parts)):
            reader = len(self.joined) + 1
            shape = Shape(rank, ranks, remainder, Part(part, parts, stripe))
            event = ReaderJoined(
                reader, "d", split, 0, epochs, grants, shape, shuffled, in_order, seed
            )
            self.joined[reader] = event
            self.world.send(event)

    @rule(share=st.floats(0, 1))
    def orphan(self, share: float) -> None:
        """Trainers map memory of an earlier daemon, or let go of some."""
        budget = self.world.scheduler.memory().budget_bytes
        self.world.send(OrphanedMemory(int(share * budget)))

    def _granted(self, reader: int, epoch: int) -> dict[int, Ranges]:
        return {
            g.segment.chunk: g.rows
            for g in self.world.grants
            if (g.reader, g.epoch) == (reader, epoch)
        }

    @precondition(lambda self: self._readers())
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        """A reader is gone, and comes back with what it has had."""
        gone = data.draw(st.sampled_from(self._readers()))
        event = self.joined[gone]
        epoch = max(self.world.scheduler.reader(gone).epoch, event.first_epoch)
        self.leave_by_name(gone)
        had = frozenset(self._granted(gone, epoch))
        if epoch == event.first_epoch:
            had |= event.had
        reader = len(self.joined) + 1
        self.joined[reader] = replace(
            event,
            reader=reader,
            first_epoch=epoch,
            epochs=event.first_epoch + event.epochs - epoch,
            had=had,
        )
        self.world.send(self.joined[reader])

    def _readers(self) -> list[int]:
        return [r for r in self.world.admitted if r not in self.gone and r not in self.world.failed]

    def _running(self) -> list[int]:
        return [reader for reader in self._readers() if reader not in self.stopped]

    @precondition(lambda self: self._running())
    @rule(data=st.data(), grants=st.integers(1, 3))
    def give_credits(self, data: st.DataObject, grants: int) -> None:
        self.world.send(CreditsGiven(data.draw(st.sampled_from(self._running())), grants))

    @precondition(lambda self: self._running())
    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        """A stopped process keeps what it holds, and is granted what it has asked for before."""
        self.stopped.add(data.draw(st.sampled_from(self._running())))

    @precondition(lambda self: self.stopped)
    @rule(data=st.data())
    def go_on(self, data: st.DataObject) -> None:
        self.stopped.remove(data.draw(st.sampled_from(sorted(self.stopped))))

    @precondition(lambda self: self._readers())
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        """A process that dies takes its leases with it; one that leaves may keep tensors."""
        reader = data.draw(st.sampled_from(self._readers()))
        self.gone.add(reader)
        self.world.send(ReaderLeft(reader))
        if held := [n for n, (who, _) in self.world.scheduler.leases().items() if who == reader]:
            self.world.send(LeasesReleased(tuple(held)))

    @precondition(lambda self: self._readers())
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.leave_by_name(data.draw(st.sampled_from(self._readers())))

    def leave_by_name(self, reader: int) -> None:
        self.gone.add(reader)
        self.world.send(ReaderLeft(reader))

    @precondition(lambda self: self._readers())
    @rule(data=st.data(), epoch=st.integers(1, 3))
    def advance(self, data: st.DataObject, epoch: int) -> None:
        reader = data.draw(st.sampled_from(self._readers()))
        now = self.world.scheduler.reader(reader).epoch
        self.advanced |= {(reader, skipped) for skipped in range(now, epoch)}
        self.world.send(EpochAdvanced(reader, epoch))

    def _droppable(self) -> list[int]:
        leases = self.world.scheduler.leases()
        return [number for number, (reader, _) in leases.items() if reader not in self.stopped]

    @precondition(lambda self: self._droppable())
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        held = self._droppable()
        some = data.draw(st.lists(st.sampled_from(held), min_size=1, unique=True))
        self.world.send(LeasesReleased(tuple(some)))

    @precondition(lambda self: self.world.loads)
    @rule(data=st.data())
    def finish_load(self, data: st.DataObject) -> None:
        self.world.finish_load(data.draw(st.sampled_from(sorted(self.world.loads))))

    @precondition(lambda self: self.world.loads)
    @rule(data=st.data(), extra=st.integers(1, SIZE))
    def ask_for_more(self, data: st.DataObject, extra: int) -> None:
        worker = data.draw(st.sampled_from(sorted(self.world.loads)))
        load = self.world.loads[worker]
        first, *rest = load.splits
        sizes = {first: SIZE + extra} | dict.fromkeys(rest, SIZE)
        out = self.world.send(
            ExtraBytesWanted(worker, max(sum(sizes.values()) - load.reserved_bytes, extra))
        )
        if AllowBytes(worker) in out:
            self.world.loads.pop(worker)
            self.world.loaded(worker, load.chunk, sizes)
        self.world.send(WorkerIdle(worker))

    @precondition(lambda self: self.world.loads)
    @rule(data=st.data())
    def kill_worker(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.world.loads)))
        del self.world.loads[worker]
        self.world.send(WorkerDied(worker))
        self.world.send(WorkerIdle(self.next_worker))
        self.next_worker += 1

    @precondition(lambda self: self.world.loads)
    @rule(data=st.data())
    def fail_chunk(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.world.loads)))
        del self.world.loads[worker]
        self.world.send(ChunkFailed(worker, "source-read", "a broken page"))
        self.world.send(WorkerIdle(worker))

    @precondition(lambda self: self.world.spilling)
    @rule(data=st.data())
    def finish_spill(self, data: st.DataObject) -> None:
        self.world.finish_spill(data.draw(st.sampled_from(self.world.spilling)))

    @precondition(lambda self: self.world.restores)
    @rule(data=st.data())
    def finish_restore(self, data: st.DataObject) -> None:
        self.world.finish_restore(data.draw(st.sampled_from(sorted(self.world.restores))))

    @precondition(lambda self: self.world.spilling and self.spill != ROOM_FOR_ALL)
    @rule(data=st.data())
    def fill_the_disk(self, data: st.DataObject) -> None:
        self.world.send(SpillFailed(data.draw(st.sampled_from(self.world.spilling))))

    @rule()
    def try_the_disk_again(self) -> None:
        self.world.send(SpillRetried())

    @precondition(lambda self: self.world.restores and self.spill != ROOM_FOR_ALL)
    @rule(data=st.data())
    def corrupt_a_file(self, data: st.DataObject) -> None:
        restore = data.draw(st.sampled_from(sorted(self.world.restores)))
        segment = self.world.restores.pop(restore).segment
        self.world.send(RestoreFailed(restore))
        assert segment not in self.world.disk

    @invariant()
    def what_is_spilled_fits_and_is_read_from_the_source_once(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        spill = world.scheduler.spill()
        files = sum(world.disk.values()) + sum(world.sizes[segment] for segment in world.spilling)
        assert files == spill.used_bytes <= spill.budget_bytes
        assert world.scheduler.spilled("d") == world.disk
        assert set(world.spilling) <= set(world.scheduler.resident("d"))
        for load in world.loads.values():
            assert not {SegmentId("d", load.chunk, split) for split in load.splits} & set(
                world.disk
            )
        if self.spill == ROOM_FOR_ALL:
            assert max(Counter(world.made).values(), default=1) == 1

    @invariant()
    def budgets_are_kept_and_leases_are_resident(self) -> None:
        if not hasattr(self, "world"):
            return
        memory = self.world.scheduler.memory()
        resident = self.world.scheduler.resident("d")
        leased = {segment for _, segment in self.world.scheduler.leases().values()}
        assert memory.used_bytes <= memory.budget_bytes
        assert sum(resident.values()) <= memory.used_bytes
        assert leased <= set(resident)
        assert sum(resident[segment] for segment in leased) == memory.leased_bytes

    @invariant()
    def no_row_is_granted_twice_and_epochs_do_not_overlap(self) -> None:
        if not hasattr(self, "world"):
            return
        seen = Counter((g.reader, g.epoch, g.segment.chunk) for g in self.world.grants)
        assert not [key for key, times in seen.items() if times > 1]
        for reader in self.world.admitted:
            epochs = [g.epoch for g in self.world.grants if g.reader == reader]
            assert epochs == sorted(epochs)

    def teardown(self) -> None:
        """From wherever it stands, every reader that is still there gets all of its rows.

        Those that are stopped hold up nobody, and get theirs when they go on.
        """
        if not hasattr(self, "world"):
            return
        self.world.send(OrphanedMemory(0))
        self._let_finish()
        self.stopped.clear()
        self._let_finish()
        self._check_and_clear_away()

    def _let_finish(self) -> None:
        world, scheduler = self.world, self.world.scheduler
        granted, found = len(world.grants), len(world.order)
        under_way = len(world.loads) + len(world.restores)
        known = len(scheduler.resident("d"))
        loaded = 0
        while waiting := [r for r in self._running() if self._has_rows_to_come(r)]:
            before = len(world.grants)
            for reader in waiting:
                world.send(CreditsGiven(reader, 1))
            # Readers drop all but the segment that their last batch pins.
            last = {g.reader: g.lease for g in world.grants}
            done = [lease for lease in self._droppable() if lease not in last.values()]
            if done:
                world.send(LeasesReleased(tuple(done)))
            if world.restores:  # or what is loaded ahead meanwhile would seem to be in vain
                world.finish_restore()
                loaded += 1
            elif world.loads:
                resident = len(scheduler.resident("d"))
                # The one that began first, or one worker would load ahead while the other, with
                # what a reader waits for, stands still.
                world.finish_load(next(iter(world.loads)))
                loaded += len(scheduler.resident("d")) > resident
            elif not world.finish_one() and len(world.grants) == before and not done:
                still = [r for r in self._running() if self._has_rows_to_come(r)]
                assert not still, f"readers {still} can never go on"
            # Whoever waits is granted what was loaded for it. Only what was loaded ahead can have
            # been in vain, and each of that made room for a load that was not.
            progress = len(world.grants) - granted + len(world.order) - found
            assert loaded <= 2 * progress + under_way + known + 1, "loads that lead nowhere"

    def _check_and_clear_away(self) -> None:
        world, scheduler = self.world, self.world.scheduler
        for reader in self._readers():
            self._check_exact(reader)
        for reader in self._readers():
            world.send(ReaderLeft(reader))
        if scheduler.leases():
            world.send(LeasesReleased(tuple(scheduler.leases())))
        assert scheduler.memory().leased_bytes == 0
        while world.loads:
            world.finish_load(min(world.loads))
        world.send(DatasetRemoved("d"))
        while world.restores:
            world.finish_restore()
        assert scheduler.memory().used_bytes == 0
        assert (world.disk, world.spilling, scheduler.spill().used_bytes) == ({}, [], 0)

    def _has_rows_to_come(self, reader: int) -> bool:
        event = self.joined[reader]
        last = event.first_epoch + event.epochs - 1
        if (reader, last) in self.advanced:
            return False
        share = self._share(event)
        had = event.had if last == event.first_epoch else ()
        rows = event.shape.rows(self._total(event)) - sum(rows_in(share[chunk]) for chunk in had)
        return sum(map(rows_in, self._granted(reader, last).values())) != rows

    def _total(self, event: ReaderJoined) -> int:
        """The rows of its split, those included of chunks that nobody has found yet."""
        if totals := self.world.totals.get(event.split):
            return totals.rows
        return sum(chunk.rows.get(event.split, 0) for chunk in self.world.plan)

    def _share(self, event: ReaderJoined) -> dict[int, Ranges]:
        """A reader's rows of each chunk that was found, of those that have any."""
        share = Share(event.shape, {}, ())
        total = self._total(event)
        expected = {}
        start = 0
        for chunk in self.world.order:
            rows = self.world.plan[chunk].rows.get(event.split, 0)
            if mine := share.of_chunk(chunk, start, rows, total):
                expected[chunk] = mine
            start += rows
        return expected

    def _expected(self, event: ReaderJoined, epoch: int) -> dict[int, Ranges]:
        """What a reader must have been granted of each chunk, when it has got all."""
        had = event.had if epoch == event.first_epoch else ()
        return {c: rows for c, rows in self._share(event).items() if c not in had}

    def _check_exact(self, reader: int) -> None:
        event = self.joined[reader]
        for epoch in range(event.first_epoch, event.first_epoch + event.epochs):
            if (reader, epoch) not in self.advanced:
                assert self._granted(reader, epoch) == self._expected(event, epoch)


Histories.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=50,
)
TestHistories = Histories.TestCase
