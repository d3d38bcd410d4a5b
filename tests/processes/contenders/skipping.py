"""A contender that leaves one row out, which the report must show."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.suite.contenders.local import LocalTensors
from benchmarks.suite.prepared import Rows
from benchmarks.suite.task import Task


class OneMissing(LocalTensors):
    """Gives the first row of the first batch twice, in place of the second."""

    def epoch(self, number: int) -> Iterator[Rows]:
        """The batches, the first of which is wrong."""
        for index, rows in enumerate(super().epoch(number)):
            if index == 0:
                features, labels, keys = (tensor.clone() for tensor in rows)
                features[1], labels[1], keys[1] = features[0], labels[0], keys[0]
                yield Rows(features, labels, keys)
            else:
                yield rows


def open_reading(task: Task) -> OneMissing:
    """A reading that is not exact."""
    return OneMissing(task)
