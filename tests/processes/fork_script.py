"""A client in use that forks, again and again; its answers are lines of JSON on stdout.

Run as `python -m tests.processes.fork_script CONFIG` by test_forks.py. A child that does not end in
time is killed, and told of as hung.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from typing import Any

import numpy as np
import pytest

from faucet_client import (
    BatchIterator,
    Dataset,
    DatasetSpec,
    EpochIterator,
    FaucetClient,
    IteratorError,
    ParquetSource,
)
from tests.processes.rows import assert_exact, check, ids_of
from tests.processes.waiting import eventually

BATCH = 300
CHILD_S = 20.0


def say(**answer: Any) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")


def in_child(
    dataset: Dataset, batches: BatchIterator, epochs: EpochIterator, inherited: Any, rows: int
) -> None:
    """The parent's iterators are refused, its batch is valid, an epoch of its own is exact."""
    for _ in range(2):
        with pytest.raises(IteratorError, match=r"dataset\.batches"):
            next(batches)
    with pytest.raises(IteratorError, match=r"dataset\.batches"):
        iter(next(epochs))  # the parent is in the one before
    check(inherited)
    ids = []
    for batch in dataset.batches(batch_size=BATCH, job=f"child-{os.getpid()}"):
        check(batch)
        ids.append(ids_of(batch))
    assert_exact(np.concatenate(ids), rows)


def wait(pid: int) -> str:
    """How the child ended."""
    pidfd = os.pidfd_open(pid)
    ready, _, _ = select.select([pidfd], [], [], CHILD_S)
    os.close(pidfd)
    if not ready:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return f"exit {os.waitstatus_to_exitcode(status)}" if ready else "hung"


def main() -> None:
    """The parent, and its children up to their own ends."""
    config = json.loads(sys.argv[1])
    path, rows = config["spec"].pop("path"), config["rows"]
    client = FaucetClient(config["address"])
    dataset = client.open(DatasetSpec(ParquetSource(path), preprocessing="none", **config["spec"]))
    batches = dataset.batches(batch_size=BATCH, job="parent")
    epochs = dataset.epochs(count=2, batch_size=BATCH, job="parent's epochs")
    epoch = iter(next(epochs))
    first = ids_of(next(epoch))
    ids = []
    ends = []
    for number in range(config["forks"]):
        batch = next(batches)
        check(batch)
        ids.append(ids_of(batch))
        pid = os.fork()
        if pid == 0:
            in_child(dataset, batches, epochs, batch, rows)
            if number % 2:
                os._exit(0)
            return  # as a script does that comes to its end
        ends.append(wait(pid))
    say(ends=ends)
    for batch in batches:
        check(batch)
        ids.append(ids_of(batch))
    assert_exact(np.concatenate(ids), rows)
    assert_exact(np.concatenate([first, *map(ids_of, epoch)]), rows)
    assert_exact(np.concatenate([ids_of(batch) for batch in next(epochs)]), rows)
    epochs.close()
    eventually(lambda: not client.status().readers)
    say(parent="exact", readers=[reader.job for reader in client.status().readers])


if __name__ == "__main__":
    main()
