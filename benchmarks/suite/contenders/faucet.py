"""Faucet ML: one daemon for all trainers, as its README says."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.suite.prepared import (
    CATEGORY_MEAN,
    CATEGORY_STDDEV,
    NUMBER_MEAN,
    NUMBER_STDDEV,
    Rows,
    feature_names,
)
from benchmarks.suite.task import Task
from faucet_client import DatasetSpec, FaucetClient, ParquetSource
from faucet_client.preprocessing import Continuous, Feature, PreprocessingSpec
from faucet_client.testing import LocalDaemon


@contextmanager
def serve(task: Task) -> Iterator[dict[str, Any]]:
    """Runs a daemon with a worker a processor, and memory for the prepared table."""
    budget = max(2 * task.rows * (4 * task.width + 16), 1 << 28)
    with LocalDaemon(
        [task.table],
        memory_budget=str(budget),
        workers=task.cores,
        settings=task.address.get("settings"),
    ) as daemon:
        _await_workers(daemon)
        yield {"daemon": daemon.address, "pid": daemon.process.pid}


def _await_workers(daemon: LocalDaemon) -> None:
    """Waits until its workers have started, as they have in a daemon that is there already."""
    client = daemon.client()
    while any(worker.state == "starting" for worker in client.status().workers):
        time.sleep(0.02)


def dataset_spec(task: Task) -> DatasetSpec:
    """The table as all contenders prepare it."""
    names = feature_names(task.kind, task.width)
    preprocessing: PreprocessingSpec | str = "none"
    if task.kind == "criteo":
        number = Continuous(NUMBER_MEAN, NUMBER_STDDEV)
        category = Continuous(CATEGORY_MEAN, CATEGORY_STDDEV)
        preprocessing = PreprocessingSpec(
            [Feature(name, number if name.startswith("n") else category) for name in names]
        )
    return DatasetSpec(
        ParquetSource(task.table),
        features=names,
        labels=["y"],
        passthrough=["key"],
        preprocessing=preprocessing,
    )


class FaucetEpochs:
    """One trainer's epochs, shuffled as is the default."""

    def __init__(self, task: Task) -> None:
        self._client = FaucetClient(task.address["daemon"])
        dataset = self._client.open(dataset_spec(task))
        self._epochs = dataset.epochs(
            "train", count=task.warm_epochs + 2, batch_size=task.batch_size, seed=task.rank
        )

    def epoch(self, _number: int) -> Iterator[Rows]:
        """The next epoch's batches, which are views of shared memory."""
        for batch in next(self._epochs):
            keys = batch.passthrough["key"]
            assert isinstance(keys, torch.Tensor), "they are numbers"
            yield Rows(batch.features, batch.labels["y"], keys)

    def close(self) -> None:
        """Ends the reader."""
        self._epochs.close()
        self._client.close()


def open_reading(task: Task) -> FaucetEpochs:
    """Opens the dataset at the daemon."""
    return FaucetEpochs(task)
