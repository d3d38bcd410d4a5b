"""Ray Data: the prepared dataset in the cluster's object store, iterated by each trainer.

A cluster of one node. An actor reads, prepares and materializes the dataset when the first trainer
asks, as Ray's documentation recommends where several trials use one dataset; each trainer then
iterates over it with `iter_torch_batches`, blocks in a random order.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

# A cluster for one run, on one machine: no token is written to the user's home for it, and nobody
# is told that it ran.
os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}

import ray  # after what it looks at when it is imported

from benchmarks.suite.prepared import Rows, prepare
from benchmarks.suite.task import Task

NAMESPACE = "benchmark"
PREFETCHED_BATCHES = 4


class Holder:
    """Has the dataset made once, and knows it."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._dataset: Any = None

    def dataset(self) -> Any:
        """The dataset, in the object store."""
        if self._dataset is None:
            kind, width = self._task.kind, self._task.width

            def to_tensors(batch: pa.Table) -> dict[str, np.ndarray[Any, Any]]:
                rows = prepare(batch, kind, width)
                return {name: tensor.numpy() for name, tensor in rows._asdict().items()}

            read = ray.data.read_parquet(self._task.table)
            self._dataset = read.map_batches(
                to_tensors, batch_format="pyarrow", batch_size=None
            ).materialize()
        return self._dataset


@contextmanager
def serve(task: Task) -> Iterator[dict[str, Any]]:
    """Starts a cluster on this machine."""
    folder = tempfile.mkdtemp(prefix="ray-")
    context = ray.init(
        num_cpus=task.cores,
        include_dashboard=False,
        namespace=NAMESPACE,
        _temp_dir=folder,
        log_to_driver=False,
    )
    try:
        holder = ray.remote(num_cpus=0)(Holder).options(name="holder").remote(task)
        yield {"cluster": context.address_info["address"]}
        del holder
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


class RayBatches:
    """One trainer, a driver of its own."""

    def __init__(self, task: Task) -> None:
        ray.init(address=task.address["cluster"], namespace=NAMESPACE, log_to_driver=False)
        ray.data.DataContext.get_current().enable_progress_bars = False
        self._batch_size = task.batch_size
        self._dataset: Any = ray.get(ray.get_actor("holder").dataset.remote())

    def epoch(self, _number: int) -> Iterator[Rows]:
        """The batches of the dataset's blocks, which come in a random order."""
        batches = self._dataset.randomize_block_order().iter_torch_batches(
            batch_size=self._batch_size, prefetch_batches=PREFETCHED_BATCHES
        )
        for batch in batches:
            yield Rows(batch["features"], batch["labels"], batch["keys"])

    def close(self) -> None:
        """Leaves the cluster."""
        ray.shutdown()


def open_reading(task: Task) -> RayBatches:
    """Joins the cluster."""
    return RayBatches(task)
