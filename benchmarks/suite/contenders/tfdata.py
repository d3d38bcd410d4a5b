"""tf.data service with its cross-trainer cache.

Dispatcher and worker are one process, which reads the table by a generator, keeps the prepared
batches (`cache()`, as an expert would, since they fit in memory), shuffles their order and repeats:
the cross-trainer cache wants an endless dataset. So a trainer's epoch is as many batches as make
the table, and whether these were all of its rows is counted.
"""

from __future__ import annotations

import socket
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import tensorflow as tf
import torch

from benchmarks.suite.groups import read_all
from benchmarks.suite.prepared import Rows, sliced
from benchmarks.suite.task import Task

SHUFFLED_BATCHES = 64

_service = tf.data.experimental.service


def _spec(task: Task) -> tuple[Any, ...]:
    return (
        tf.TensorSpec((None, task.width), tf.float32),
        tf.TensorSpec((None, 1), tf.float32),
        tf.TensorSpec((None,), tf.int64),
    )


def _batches(task: Task) -> Iterator[tuple[np.ndarray[Any, Any], ...]]:
    """The table's mini-batches; row groups are multiples of them, but for the last."""
    for group in read_all(task):
        for rows in sliced(group, task.batch_size):
            yield tuple(tensor.numpy() for tensor in rows)


@contextmanager
def serve(task: Task) -> Iterator[dict[str, Any]]:
    """Runs dispatcher and worker, and registers the dataset with them."""
    torch.set_num_threads(1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dispatcher = _service.DispatchServer(_service.DispatcherConfig(port=port))
    worker = _service.WorkerServer(_service.WorkerConfig(dispatcher_address=f"localhost:{port}"))
    dataset = tf.data.Dataset.from_generator(lambda: _batches(task), output_signature=_spec(task))
    dataset = dataset.cache().shuffle(SHUFFLED_BATCHES).repeat().prefetch(tf.data.AUTOTUNE)
    service = f"grpc://localhost:{port}"
    identifier = _service.register_dataset(service, dataset, compression=None)
    yield {"service": service, "dataset": identifier.numpy().decode(), "job": uuid.uuid4().hex}
    del worker, dispatcher


class ServedBatches:
    """One trainer's share of the endless stream."""

    def __init__(self, task: Task) -> None:
        self._batches = -(-task.rows // task.batch_size)
        dataset = _service.from_dataset_id(
            processing_mode=_service.ShardingPolicy.OFF,
            service=task.address["service"],
            dataset_id=task.address["dataset"],
            element_spec=_spec(task),
            job_name=task.address["job"],
            cross_trainer_cache=_service.CrossTrainerCache(trainer_id=str(task.rank)),
        ).prefetch(tf.data.AUTOTUNE)
        self._stream = dataset.as_numpy_iterator()
        # Its arrays are read-only, of which torch warns; the step writes to none.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")

    def epoch(self, _number: int) -> Iterator[Rows]:
        """As many batches as make the table."""
        for arrays in islice(self._stream, self._batches):
            yield Rows(*(torch.from_numpy(array) for array in arrays))

    def close(self) -> None:
        """Nothing to do."""


def open_reading(task: Task) -> ServedBatches:
    """Joins the service."""
    return ServedBatches(task)
