"""`python -m benchmarks.suite.program MODULE ROLE`: one process of a contender.

Roles: `convert` makes the contender's own copy of the table, `serve` runs what serves all trainers
until it is told to end, `train` is one trainer. The task comes as the first line.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from typing import Any

from benchmarks.suite.channel import Channel
from benchmarks.suite.task import Task


def main() -> None:
    """Runs the role; what fails is told with its traceback."""
    name, role = sys.argv[1:]
    channel = Channel()
    task = Task.from_wire(channel.hear())
    try:
        contender = importlib.import_module(name)
        _ROLES[role](task, channel, contender)
    except Exception:
        channel.tell("failed", error=traceback.format_exc())
        raise


def _convert(task: Task, channel: Channel, contender: Any) -> None:
    contender.convert(task)
    channel.tell("converted")


def _serve(task: Task, channel: Channel, contender: Any) -> None:
    with contender.serve(task) as address:
        channel.tell("ready", address=address)
        channel.hear()
    channel.tell("closed")


def _train(task: Task, channel: Channel, contender: Any) -> None:
    from benchmarks.suite.trainer import train

    train(task, channel, contender)


_ROLES = {"convert": _convert, "serve": _serve, "train": _train}

if __name__ == "__main__":
    main()
