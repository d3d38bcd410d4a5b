"""The simulator is right where a hand can follow it, and shows what a policy is worth."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.simulation.bound import least_loads
from benchmarks.simulation.machine import CHUNK_BYTES, Decides, Machine, Run
from benchmarks.simulation.measure import OURS, POLICIES, cost_of_a_slow_reader, make_scheduler
from benchmarks.simulation.rivals import CircularScan, OwnOrders
from benchmarks.simulation.workload import Job, Workload, random_jobs
from faucetd.schedule import orders, policy
from faucetd.schedule.events import Event
from faucetd.schedule.instructions import Grant, Instruction
from faucetd.schedule.scheduler import Scheduler

LOAD_S = 0.25  # of a chunk that a worker has to seek


def simulate(decides: Decides, chunks: int, *jobs: Job, workers: int = 1) -> Run:
    return Machine(Workload(chunks, 100, jobs, workers), decides).run()


def bound(run: Run, capacity: int) -> int:
    return least_loads([times for reading in run.readings for times in reading.grants_s], capacity)


def test_a_reader_alone_waits_for_its_first_chunk_and_then_for_none() -> None:
    run = simulate(Scheduler(10 * CHUNK_BYTES), 10, Job(start_s=3, chunk_s=1))
    (reading,) = run.readings
    assert run.loads == 10
    assert reading.waited_s == reading.longest_wait_s == LOAD_S
    assert reading.finished_s == 3 + LOAD_S + 10


def test_a_source_that_is_slower_than_the_reader_keeps_it_waiting() -> None:
    run = simulate(Scheduler(10 * CHUNK_BYTES), 10, Job(start_s=0, chunk_s=0.01))
    (reading,) = run.readings
    # The last chunk is loaded at 10 loads, of which the lane's first had to be sought at least.
    assert 10 * 0.2 <= reading.finished_s - 0.01 <= 10 * LOAD_S
    assert reading.waited_s == pytest.approx(reading.finished_s - 10 * 0.01)


def test_a_reader_that_must_wait_to_be_admitted_waits_until_another_has_left() -> None:
    jobs = Job(start_s=0, chunk_s=1), Job(start_s=1, chunk_s=1)
    run = simulate(Scheduler(4 * CHUNK_BYTES), 10, *jobs)
    first, second = run.readings
    assert (first.refusals, second.refusals) == (0, 1)
    # What the first has read last is there still.
    assert second.finished_s == first.finished_s + 10
    assert second.waited_s == second.longest_wait_s == first.finished_s - 1


def test_a_circular_scan_misses_all_but_the_chunk_that_it_begins_with() -> None:
    # Nobody else reads: of 6 chunks the 3 used last are 3, 4, 5; the second epoch begins with 5,
    # then wants 0, which evicts 3, then 1, which evicts 4, and so on.
    assert simulate(CircularScan(3), 6, Job(0, 1, epochs=2)).loads == 6 + 5


def test_two_circular_scans_that_overlap_share_what_lies_between_them() -> None:
    # The second begins at the chunk that the first was granted last, runs with it to the end, and
    # then reads what it missed.
    chunks, late = 20, 10
    run = simulate(CircularScan(8), chunks, Job(0, 1), Job(late, 1))
    begun = run.readings[1].chunks[0][0]
    assert begun == run.readings[0].chunks[0][9 + 3]  # it is at 9, and fetches 3 ahead
    assert run.loads == chunks + begun


def test_a_cache_of_what_was_used_last_that_holds_all_reads_all_once() -> None:
    assert simulate(OwnOrders(10), 10, Job(0, 1, epochs=3), Job(5, 2, epochs=2)).loads == 10


@pytest.mark.parametrize(
    ("timeline", "capacity", "loads"),
    [
        ([], 3, 0),
        ([[1, 2, 3, 4]], 2, 4),  # each once, into the empty memory
        ([[1, 2, 3, 4], [5, 6, 7, 8]], 2, 4 + 2),  # 2 are there still
        ([[1, 2, 3, 4], [5, 6, 7, 8]], 4, 4),
        ([[1, 2, 3, 4], [1, 2, 3, 4]], 2, 4),  # together
        ([[1, 2, 3, 4], [3, 4, 5, 6]], 1, 4 + 1),  # until 4, and from 5 on
        ([[1, 2, 3, 4], [2, 5, 6, 7], [8, 9, 10, 11]], 1, 4 + 2 + 3),
    ],
)
def test_the_bound_is_what_a_hand_finds(
    timeline: list[list[float]], capacity: int, loads: int
) -> None:
    assert least_loads(timeline, capacity) == loads


@settings(max_examples=40)
@given(
    chunks=st.integers(1, 40),
    readers=st.integers(1, 6),
    epochs=st.integers(1, 3),
    spread=st.sampled_from([1.0, 5.0, 100.0]),
    capacity=st.integers(4, 45),
    workers=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_nobody_reads_less_than_the_bound_and_every_reader_has_each_chunk_once_an_epoch(
    chunks: int, readers: int, epochs: int, spread: float, capacity: int, workers: int, seed: int
) -> None:
    jobs = random_jobs(chunks, readers, epochs, spread, seed)
    for name in POLICIES:
        run = simulate(make_scheduler(name, capacity), chunks, *jobs, workers=workers)
        assert run.loads >= max(bound(run, capacity), chunks)
        assert run.peak_chunks <= capacity
        for reading in run.readings:
            assert [sorted(epoch) for epoch in reading.chunks] == [list(range(chunks))] * epochs


def ratio(percent: int, spread: float) -> float:
    chunks, capacity = 400, 400 * percent // 100
    jobs = random_jobs(chunks, 12, 2, spread, seed=percent)
    run = simulate(make_scheduler(OURS, capacity), chunks, *jobs, workers=4)
    assert not any(reading.refusals for reading in run.readings)
    return run.loads / bound(run, capacity)


@pytest.mark.parametrize("spread", [1.0, 30.0])
@pytest.mark.parametrize("percent", [25, 50, 75])
def test_shared_order_is_within_a_tenth_of_the_bound(percent: int, spread: float) -> None:
    assert ratio(percent, spread) <= 1.1


def test_a_policy_that_grants_what_comes_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders.HadOrder, "had_by_most", lambda _, bits: bits)
    assert ratio(50, 1.0) > 1.1


def test_a_policy_that_evicts_what_most_want_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    victims = policy.victims
    monkeypatch.setattr(
        policy,
        "victims",
        lambda *args, wanted_too: reversed(list(victims(*args, wanted_too=wanted_too))),
    )
    assert ratio(50, 30.0) > 1.3


def test_readers_that_are_forgotten_are_seen() -> None:
    class Forgetful(Scheduler):
        def handle(self, event: Event) -> list[Instruction]:
            return [
                instruction
                for instruction in super().handle(event)
                if not (isinstance(instruction, Grant) and instruction.segment.chunk == 3)
            ]

    with pytest.raises(RuntimeError, match=r"readers \[0\] are never given what they want"):
        simulate(Forgetful(9 * CHUNK_BYTES), 9, Job(0, 1))


@pytest.mark.parametrize("percent", [20, 50])
def test_a_reader_a_hundred_times_slower_costs_its_peers_next_to_nothing(percent: int) -> None:
    peers = tuple(Job(5.0 * number, 1.0) for number in range(8))
    found = cost_of_a_slow_reader(Workload(400, 100, peers), percent)
    assert found.cost <= 0.05
    assert found.slowdown <= 1.05
