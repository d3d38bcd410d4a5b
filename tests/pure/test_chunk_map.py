"""The states of chunks: as a byte each, and as the scheduler sees them."""

from __future__ import annotations

from faucet_client import chunk_map
from faucetd.schedule.events import LeasesReleased
from tests.pure.test_scheduler import SIZE, World, chunks, lane


def seen(world: World, split: str = "train") -> str:
    found = {str(name): states for name, states in world.scheduler.chunk_map("d").items()}
    return chunk_map.as_text(found[split])


def test_a_state_tells_of_many_readers() -> None:
    assert chunk_map.readers_of(chunk_map.resident(7)) == 7
    assert chunk_map.readers_of(chunk_map.resident(10_000)) == chunk_map.MOST_LEASING
    assert chunk_map.readers_of(chunk_map.LOADING) == 0


def test_the_counts_are_of_all_chunks() -> None:
    counts = chunk_map.counts(bytes(range(256)))
    assert sum(counts.values()) == 256
    assert counts["leased"] == chunk_map.MOST_LEASING
    assert list(counts) == list(chunk_map.NAMES)


def test_a_chunk_is_absent_then_loading_then_leased_by_those_who_read_it_then_resident() -> None:
    world = World(10_000, chunks(3))
    assert seen(world) == seen(world, "eval") == "..."
    world.join(1, credits=9, in_order=True, shuffled=False)
    world.join(2, credits=9, in_order=True, shuffled=False)
    assert seen(world) == seen(world, "eval") == "+.."
    world.finish_load(0)
    assert (seen(world), seen(world, "eval")) == ("2+.", "0+.")
    world.send(LeasesReleased(tuple(grant.lease for grant in world.grants)))
    assert seen(world) == "0+."


def test_a_reader_that_leases_a_segment_for_two_epochs_is_one_reader() -> None:
    world = World(10_000, chunks(1, evals=0))
    world.join(1, credits=9, epochs=2)
    world.finish_load(0)
    assert len(world.scheduler.leases()) == 2
    assert (seen(world), seen(world, "eval")) == ("1", " ")


def test_what_was_evicted_is_absent_again() -> None:
    world = World(4 * SIZE, chunks(9, evals=0))
    world.join(1, credits=9, in_order=True, shuffled=False)
    while world.loads:
        world.finish_load(0)
        world.send(LeasesReleased(tuple(world.scheduler.leases())))
    assert world.evicted
    assert [seen(world)[segment.chunk] for segment in world.evicted] == ["."] * len(world.evicted)
    assert seen(world).count("0") == 4


def test_an_open_chunk_is_in_the_map_once_it_is_known_to_follow() -> None:
    world = World(10_000, lanes=[lane(0, (4, 1), (3, 0))])
    world.join(1, credits=9)
    assert seen(world) == "+"
    world.finish_load(0)
    assert seen(world) == "1+"
    world.finish_load(0)
    assert (seen(world), seen(world, "eval")) == ("11", "0 ")
