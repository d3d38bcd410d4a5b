"""TensorSocket: one producer, whose batches all trainers get at once, in step.

The producer wraps the plain DataLoader; it waits until all trainers are there, since who comes
later has missed what was sent. Batches are cloned before they are sent: they are slices of the
eight that are sent at once, and on the processor a tensor is pickled with its whole storage, so
that all eight would be sent eight times. All else is its default.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from tensorsocket import TensorConsumer, TensorProducer
from tensorsocket.producer import pack
from torch.utils.data import DataLoader

from benchmarks.suite.contenders.dataloader_batches import Batches
from benchmarks.suite.prepared import Rows
from benchmarks.suite.task import Task


class CountedBatches(Batches):
    """Mini-batches whose number is known, as the producer needs it."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._batches = -(-task.rows // task.batch_size)

    def __len__(self) -> int:
        return self._batches


def _cloned(data: tuple[torch.Tensor, ...]) -> Any:
    return pack(tuple(tensor.clone() for tensor in data))


@contextmanager
def serve(task: Task) -> Iterator[dict[str, Any]]:
    """Runs the producer in a thread, for as many epochs as are asked for."""
    port, ack_port, beat, beaten = _free_ports(4)
    loader: DataLoader[Any] = DataLoader(
        CountedBatches(task),
        batch_size=None,
        num_workers=task.cores,
        persistent_workers=True,
    )

    def produce() -> None:
        # Made here, so that the first rows are not read before a trainer asks for them.
        producer = TensorProducer(loader, port, ack_port, (beat, beaten), pack_fn=_cloned)
        while len(producer.hb.consumers) < task.trainers:
            time.sleep(0.01)
        while True:
            for _ in producer:
                pass

    threading.Thread(target=produce, daemon=True).start()
    yield {"ports": [port, ack_port, beat, beaten]}


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class SharedTensors:
    """One trainer's consumer."""

    def __init__(self, task: Task) -> None:
        port, ack_port, beat, beaten = task.address["ports"]
        self._consumer = TensorConsumer(port, ack_port, (beat, beaten), batch_size=task.batch_size)

    def epoch(self, _number: int) -> Iterator[Rows]:
        """The batches as they are sent."""
        for rows in self._consumer:
            yield Rows(*rows)

    def close(self) -> None:
        """Nothing to do: its threads end with the process."""


def open_reading(task: Task) -> SharedTensors:
    """Joins the producer."""
    return SharedTensors(task)
