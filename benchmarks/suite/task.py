"""What a contender's process is told to do: inert, and JSON on the wire."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Task:
    """One process's part in one run.

    Attributes:
        kind: Which table, "numbers" or "criteo"; see `tables.py`.
        table: The folder of its Parquet files.
        rows: Rows of the table.
        width: Columns of the prepared float32 matrix.
        batch_size: Rows a batch.
        trainers: How many trainers read at once.
        rank: Which of them this is; -1 for a server or a conversion.
        warm_epochs: Epochs after the first that are timed.
        cores: Processors of the machine.
        step: "sum": the trainer sums each batch; "none": it only takes it.
        converted: The folder of the contender's own copy of the table, if it needs one.
        scratch: A folder for what the run may leave behind.
        address: What the contender's server has told its trainers.
    """

    kind: str
    table: str
    rows: int
    width: int
    batch_size: int
    trainers: int = 1
    rank: int = -1
    warm_epochs: int = 2
    cores: int = 1
    step: str = "sum"
    converted: str = ""
    scratch: str = ""
    address: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def workers(self) -> int:
        """Loader processes a trainer: each is given its share of the processors."""
        return self.cores // self.trainers if self.trainers <= self.cores else 0

    def to_wire(self) -> dict[str, Any]:
        """As JSON's types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> Self:
        """What `to_wire` has made."""
        return cls(**wire)
