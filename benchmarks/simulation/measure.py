"""What sharing costs: loads and decisions at several sizes of the cache, and one slow reader."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

from benchmarks.simulation.bound import least_loads
from benchmarks.simulation.machine import CHUNK_BYTES, Decides, Machine, Run
from benchmarks.simulation.rivals import RIVALS
from benchmarks.simulation.workload import Job, Workload
from faucetd.schedule.scheduler import Scheduler

OURS = "Faucet ML"

POLICIES = (OURS, *RIVALS)

SLOW = 100
"""How many times slower than its peers the slow reader is."""


@dataclass(frozen=True)
class Outcome:
    """A workload under one policy, with a cache of one size.

    Attributes:
        loads_a_chunk: How often a chunk was read from the source, on average.
        bound_a_chunk: How often any policy would have had to, for the same timeline.
        mean_slowdown: Of readers, against running alone with everything in memory.
        worst_slowdown: Of the reader that fared worst.
        longest_wait_s: For a chunk or for admission, by any reader.
        refused: Readers that were not admitted at once.
        median_us: Of a decision.
        p99_us: Of a decision: 99 % took no longer.
        longest_us: Of a decision.
    """

    policy: str
    cache_percent: float
    loads_a_chunk: float
    bound_a_chunk: float
    mean_slowdown: float
    worst_slowdown: float
    longest_wait_s: float
    refused: int
    median_us: float
    p99_us: float
    longest_us: float


def simulate(workload: Workload, policy: str, cache_percent: float) -> Outcome:
    """Runs a workload under a policy of that name, with so much of the dataset in memory."""
    capacity = capacity_chunks(workload, cache_percent)
    run = Machine(workload, make_scheduler(policy, capacity)).run()
    slowdowns = slowdowns_of(workload, run)
    decisions = sorted(run.decisions_ns)
    timeline = [epoch for reading in run.readings for epoch in reading.grants_s]
    return Outcome(
        policy,
        cache_percent,
        run.loads / workload.chunks,
        least_loads(timeline, capacity) / workload.chunks,
        statistics.mean(slowdowns),
        max(slowdowns),
        max(reading.longest_wait_s for reading in run.readings),
        sum(reading.refusals > 0 for reading in run.readings),
        decisions[len(decisions) // 2] / 1e3,
        decisions[len(decisions) * 99 // 100] / 1e3,
        decisions[-1] / 1e3,
    )


def simulate_all(
    workload: Workload, cache_percents: Sequence[float], processes: int
) -> list[Outcome]:
    """Each policy with each size of the cache, in so many processes; by policy, then size."""
    todo = [(policy, percent) for policy in POLICIES for percent in cache_percents]
    with ProcessPoolExecutor(processes) as pool:
        futures = [pool.submit(simulate, workload, *each) for each in todo]
        return [future.result() for future in futures]


def make_scheduler(policy: str, capacity: int) -> Decides:
    """A scheduler for a memory of so many chunks."""
    if policy == OURS:
        return Scheduler(capacity * CHUNK_BYTES)
    return RIVALS[policy](capacity)


def capacity_chunks(workload: Workload, cache_percent: float) -> int:
    """Chunks in memory."""
    return round(workload.chunks * cache_percent / 100)


def slowdowns_of(workload: Workload, run: Run) -> list[float]:
    """Of each reader: how long it took, against running alone with everything in memory."""
    return [
        (reading.finished_s - reading.started_s) / workload.alone_s(job)
        for reading, job in zip(run.readings, workload.jobs, strict=True)
    ]


@dataclass(frozen=True)
class SlowReader:
    """What one slow reader costs its peers.

    Attributes:
        cost: By how much the peer that suffers most takes longer beside it: 0.05 is 5 %.
        loads_a_chunk: With it and without.
        slowdown: Of the slow reader itself.
    """

    cost: float
    loads_a_chunk: tuple[float, float]
    slowdown: float


def cost_of_a_slow_reader(workload: Workload, cache_percent: float) -> SlowReader:
    """The same jobs with and without one more that starts first, SLOW times slower than any."""
    capacity = capacity_chunks(workload, cache_percent)
    slowest = max(job.chunk_s for job in workload.jobs)
    slow = Job(min(job.start_s for job in workload.jobs), SLOW * slowest)
    joined = replace(workload, jobs=(slow, *workload.jobs))
    without = Machine(workload, make_scheduler(OURS, capacity)).run()
    beside = Machine(joined, make_scheduler(OURS, capacity)).run()
    before = slowdowns_of(workload, without)
    own, *after = slowdowns_of(joined, beside)
    return SlowReader(
        max(now / then for now, then in zip(after, before, strict=True)) - 1,
        (beside.loads / workload.chunks, without.loads / workload.chunks),
        own,
    )
