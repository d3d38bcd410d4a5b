"""The loop that all trainers run, whoever feeds them.

What is worked out of the measurements is so after the last phase, in nobody's time.

A step sums features and labels, and copies the keys into memory of the trainer's own; where there
is none, batches are taken, and that is all. From the keys, rows that are missing or came twice are
counted after the clock has stopped. The clock is the machine's monotonic one, so that what several
trainers say can be set side by side.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch

from benchmarks.suite.channel import Channel
from benchmarks.suite.prepared import Rows
from benchmarks.suite.task import Task

PERCENTILES = (50, 90, 99, 100)


class Reading(Protocol):
    """What a contender gives a trainer."""

    def epoch(self, number: int) -> Iterator[Rows]:
        """The batches of the next epoch."""

    def close(self) -> None:
        """Ends it."""


@dataclass(frozen=True)
class EpochFacts:
    """One epoch of one trainer.

    Attributes:
        start_ns, end_ns: By CLOCK_MONOTONIC.
        rows: Rows that came.
        batches: Batches that came.
        missing: Rows of the table that did not come; without a step, as far as their number tells.
        repeated: Rows that came although they, or all of the table, had come already.
        feature_sum: The sum of all features.
    """

    start_ns: int
    end_ns: int
    rows: int
    batches: int
    missing: int
    repeated: int
    feature_sum: float


class Trainer:
    """Consumes epochs and keeps what is to be told of them."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._step = task.step == "sum"
        self._keys = torch.zeros(task.rows + task.batch_size, dtype=torch.int64)
        self._waits_ns = array("q")

    def consume(
        self, batches: Iterator[Rows], start_ns: int, channel: Channel | None
    ) -> EpochFacts:
        """One epoch. With a `channel` it pauses in the middle, until it is told to go on."""
        now, note, keep, step = time.monotonic_ns, self._waits_ns.append, self._keys, self._step
        total = torch.zeros((), dtype=torch.float64)
        at, count, surplus = 0, 0, 0
        half = self._task.rows // 2 if channel is not None else -1
        while True:
            began = now()
            rows = next(batches, None)
            note(now() - began)
            if rows is None:
                break
            features, labels, keys = rows
            if step:
                total += features.sum()
                labels.sum()
            stop = at + len(keys)
            if stop > len(keep):
                surplus += len(keys)
                continue
            if step:
                keep[at:stop] = keys
            at, count = stop, count + 1
            if 0 <= half <= at and channel is not None:
                half = -1
                channel.tell("paused")
                channel.hear()
        end = now()
        if half >= 0 and channel is not None:  # so many rows were missing
            channel.tell("paused")
            channel.hear()
        if step:
            times = np.bincount(keep[:at].numpy(), minlength=self._task.rows)
            missing = int((times[: self._task.rows] == 0).sum())
        else:
            missing = max(self._task.rows - at, 0)
        repeated = at + surplus - (self._task.rows - missing)
        return EpochFacts(start_ns, end, at + surplus, count, missing, repeated, float(total))

    def take_waits(self) -> array[int]:
        """The durations of `next()` since the last call, in nanoseconds."""
        taken, self._waits_ns = self._waits_ns, array("q")
        return taken


def percentiles_us(waits_ns: array[int]) -> dict[str, float]:
    """Of durations, in microseconds."""
    found = np.percentile(np.array(waits_ns) / 1e3, PERCENTILES)
    return {f"p{p}": float(us) for p, us in zip(PERCENTILES, found, strict=True)}


def train(task: Task, channel: Channel, contender: Any) -> None:
    """A trainer's life: the first epoch, with all that comes before it; warm ones; half of one."""
    torch.set_num_threads(1)
    trainer = Trainer(task)
    channel.tell("ready")
    channel.hear()
    start = time.monotonic_ns()
    reading: Reading = contender.open_reading(task)
    cold = trainer.consume(reading.epoch(0), start, None)
    waits = {"cold": trainer.take_waits()}
    channel.tell("cold", epochs=[asdict(cold)])
    channel.hear()
    warm = []
    for number in range(1, task.warm_epochs + 1):
        start = time.monotonic_ns()
        warm.append(asdict(trainer.consume(reading.epoch(number), start, None)))
    waits["warm"] = trainer.take_waits()
    channel.tell("warm", epochs=warm)
    channel.hear()
    last = reading.epoch(task.warm_epochs + 1)
    paused = trainer.consume(last, time.monotonic_ns(), channel)
    waits["last"] = trainer.take_waits()
    channel.tell("last", epochs=[asdict(paused)])
    channel.hear()
    reading.close()
    channel.tell("closed", next_us={phase: percentiles_us(ns) for phase, ns in waits.items()})
