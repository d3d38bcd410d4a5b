"""What is in memory, what is on disk, and what makes room for what: single decisions of the store.

The random histories are in test_scheduler.py.
"""

from __future__ import annotations

from faucetd.schedule.events import (
    CreditsGiven,
    DatasetAdded,
    DatasetRemoved,
    LeasesReleased,
    ReaderLeft,
    RestoreFailed,
    SpillFailed,
    SpillFound,
    WorkerIdle,
)
from faucetd.schedule.instructions import SegmentId
from faucetd.schedule.scheduler import Scheduler
from tests.pure.test_scheduler import SIZE, World, chunks


def train(chunk: int, dataset: str = "d") -> SegmentId:
    """The train split's segment of a chunk."""
    return SegmentId(dataset, chunk, "train")


def test_what_was_made_is_written_behind_the_grant_and_the_next_epoch_comes_from_disk() -> None:
    world = World(5 * SIZE, chunks(12, evals=0), spill_budget=100 * SIZE)
    world.join(1, epochs=3, credits=99)
    assert not world.spilling
    world.finish_load(0)
    assert world.grants  # before its file is written
    assert world.spilling == [world.grants[0].segment]
    world.run()
    assert len(world.grants) == 36
    assert len(world.all_loads) == 12
    assert len(world.restored) >= 2 * (12 - 5)


def test_a_segment_stays_in_memory_while_it_is_written() -> None:
    world = World(4 * SIZE, chunks(9, evals=0), spill_budget=100 * SIZE)
    world.join(1, epochs=2, credits=3)
    for _ in range(4):
        world.finish_load(0)
    world.send(LeasesReleased(tuple(world.scheduler.leases())))
    assert len(world.spilling) == 4
    assert (world.loads, world.evicted) == ({}, [])
    written = world.grants[1].segment
    world.finish_spill(written)
    assert world.evicted == [written]
    assert world.loads


def test_both_splits_of_one_read_go_to_disk_though_nobody_wants_one_of_them_yet() -> None:
    world = World(6 * SIZE, chunks(10), spill_budget=100 * SIZE)
    world.join(1, credits=99)
    world.run()
    world.send(ReaderLeft(1))
    world.join(2, split="eval", credits=99)
    world.run()
    assert sum(g.reader == 2 for g in world.grants) == 10
    assert len(world.all_loads) == 10


def test_what_disk_has_of_an_earlier_daemon_is_not_read_from_the_source() -> None:
    world = World(
        4 * SIZE,
        chunks(8, evals=0),
        spill_budget=100 * SIZE,
        disk=[train(chunk) for chunk in range(8)],
    )
    world.join(1, epochs=2, credits=99)
    world.run()
    assert len(world.grants) == 16
    assert not world.all_loads


def test_a_broken_file_is_dropped_and_its_chunk_read_from_the_source() -> None:
    world = World(9 * SIZE, chunks(3, evals=0), spill_budget=100 * SIZE, disk=map(train, range(3)))
    world.join(1, credits=99)
    number, broken = min((n, r.segment) for n, r in world.restores.items())
    del world.restores[number]
    world.send(RestoreFailed(number))
    assert broken not in world.disk
    world.run()
    assert [load.chunk for load in world.all_loads] == [broken.chunk]
    assert len(world.grants) == 3
    assert broken in world.disk  # its new copy


def test_a_full_disk_ends_the_writing_and_nothing_else() -> None:
    world = World(4 * SIZE, chunks(8, evals=0), spill_budget=100 * SIZE)
    world.join(1, epochs=2, credits=99)
    for _ in range(2):
        world.finish_load(0)
    world.finish_spill()
    world.send(SpillFailed(world.spilling[0]))
    world.run()
    assert len(world.grants) == 16
    assert len(world.disk) == 1
    assert len(world.all_loads) > 8


def test_what_disk_cannot_hold_is_evicted_last() -> None:
    world = World(5 * SIZE, chunks(10, evals=0), spill_budget=6 * SIZE)
    world.join(1, epochs=2, credits=99)
    world.run()
    assert len(world.grants) == 20
    assert len(world.disk) == 6  # one was not put in the place of another
    assert len(world.made) == 10  # what disk did not have stayed in memory


def test_a_split_that_disk_has_is_not_made_again_beside_the_other() -> None:
    evals = [SegmentId("d", chunk, "eval") for chunk in range(4)]
    world = World(20 * SIZE, chunks(4), spill_budget=20 * SIZE, disk=evals)
    world.join(1, credits=99)
    world.run()
    assert {load.splits for load in world.all_loads} == {("train",)}
    world.join(2, split="eval", credits=99)
    world.run()
    assert len(world.all_loads) == 4


def test_the_dataset_that_was_not_used_for_longest_makes_room_on_disk() -> None:
    world = World(9 * SIZE, chunks(4, evals=0), spill_budget=6 * SIZE)
    world.scheduler = Scheduler(9 * SIZE, spill_budget_bytes=6 * SIZE)
    for name in ("old", "new"):
        files = {train(chunk, name): SIZE for chunk in range(3)}
        world.disk |= files
        world.send(SpillFound(files))
    world.send(DatasetAdded("d", chunks(4, evals=0)))
    world.join(1, credits=99)
    world.send(WorkerIdle(0))
    world.run()
    left = sorted(segment.dataset for segment in world.disk)
    assert left == ["d"] * 4 + ["new"] * 2


def test_files_beyond_the_budget_are_dropped_at_once() -> None:
    world = World(9 * SIZE, chunks(1), spill_budget=4 * SIZE)
    for name in ("old", "new"):
        files = {train(chunk, name): SIZE for chunk in range(3)}
        world.disk |= files
        world.send(SpillFound(files))
    assert sorted(segment.dataset for segment in world.disk) == ["new"] * 3 + ["old"]


def test_a_removed_dataset_leaves_nothing_on_disk_though_a_file_is_read_back_meanwhile() -> None:
    world = World(9 * SIZE, chunks(4, evals=0), spill_budget=9 * SIZE, disk=map(train, range(4)))
    world.join(1, credits=99)
    assert world.restores
    world.send(ReaderLeft(1))
    world.send(DatasetRemoved("d"))
    assert not world.disk
    while world.restores:
        world.finish_restore()
    assert world.scheduler.memory().used_bytes == 0
    assert world.scheduler.spill().used_bytes == 0


def test_readers_that_wait_in_order_get_their_next_chunk_from_disk_first() -> None:
    world = World(9 * SIZE, chunks(8, evals=0), spill_budget=9 * SIZE, disk=map(train, range(8)))
    world.join(1, credits=0, in_order=True, shuffled=False)
    world.send(CreditsGiven(1, 99))
    world.run()
    assert [grant.segment.chunk for grant in world.grants] == list(range(8))
    assert not world.all_loads
