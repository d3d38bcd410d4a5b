"""A process whose other threads use the client without pause, and which forks; children do too.

Run as `python -m tests.processes.busy_fork_script CONFIG` by test_forks.py. Chunks are small, so
that the threads are in gRPC nearly all the time: that is where a fork finds them.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

from faucet_client import Dataset, FaucetClient
from tests.processes.fork_script import BATCH, say, wait
from tests.processes.specs import read_spec

THREADS = 3


def read_on(dataset: Dataset, number: int, enough: threading.Event, failures: list[str]) -> None:
    """Reads epoch after epoch, and starts and ends calls with each."""
    try:
        while not enough.is_set():
            for _ in dataset.batches(batch_size=BATCH, job=f"thread-{number}"):
                if enough.is_set():
                    break
    except Exception as error:  # noqa: BLE001  # the test is told
        failures.append(repr(error))


def main() -> None:
    """The parent, and its children up to their own ends."""
    config: dict[str, Any] = json.loads(sys.argv[1])
    client = FaucetClient(config["address"])
    dataset = client.open(read_spec(config["spec"]))
    enough = threading.Event()
    failures: list[str] = []
    threads = [
        threading.Thread(target=read_on, args=(dataset, number, enough, failures))
        for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    ends = []
    for _ in range(config["forks"]):
        pid = os.fork()
        if pid == 0:
            FaucetClient(config["address"]).status()
            os._exit(0)
        ends.append(wait(pid))
    enough.set()
    for thread in threads:
        thread.join()
    say(ends=ends, failures=failures)


if __name__ == "__main__":
    main()
