"""Who reads when and how fast, and what the machine can do. Plain values."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """A reader to be.

    Attributes:
        start_s: When it asks to read.
        chunk_s: Seconds that it works on the rows of one chunk.
        epochs: Passes over the dataset.
    """

    start_s: float
    chunk_s: float
    epochs: int = 1


@dataclass(frozen=True)
class Workload:
    """Jobs that read one dataset, on one machine.

    Attributes:
        chunks: Of the dataset; they are of one size.
        lane_chunks: Chunks that follow one another in the source, as in a file or a stream.
        jobs: The readers to be.
        workers: Processes that load chunks.
        load_s: Seconds that a worker takes to load a chunk.
        seek_s: Seconds more if it did not load the one before it in its lane just now.
    """

    chunks: int
    lane_chunks: int
    jobs: tuple[Job, ...]
    workers: int = 4
    load_s: float = 0.2
    seek_s: float = 0.05

    def alone_s(self, job: Job) -> float:
        """Seconds that the job would take alone, with everything in memory."""
        return self.chunks * job.chunk_s * job.epochs


def random_jobs(chunks: int, number: int, epochs: int, spread: float, seed: int) -> list[Job]:
    """Jobs of random speed that start at random, all within a pass of a job of middling speed.

    A chunk takes the fastest possible job 1 s and the slowest `spread` seconds; speeds are
    log-uniform between.
    """
    draw = random.Random(seed)  # noqa: S311  # a simulation, no secret
    pass_s = chunks * math.sqrt(spread)
    return [Job(draw.uniform(0, pass_s), spread ** draw.random(), epochs) for _ in range(number)]
