"""The trainings of the demo, as it knows them: what they were asked, and what became of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from faucetd.demo.progress import Batches, EpochEnd


@dataclass(frozen=True)
class Resumption:
    """How a trainer that was killed went on, as another process.

    Attributes:
        killed: The last that was heard of the process before its end.
        epoch: Of the checkpoint that it went on from, from 0.
        done: Batches of this epoch that the model in the checkpoint had been trained on.
        rows_again: Rows that were given to the killed process since that checkpoint. They were
            given again, since the model in the checkpoint has not had them.
        seconds: From the kill until the checkpoint was loaded.
    """

    killed: Batches
    epoch: int
    done: int
    rows_again: int
    seconds: float


@dataclass
class Job:
    """One training: what it was asked, and what it has reported so far.

    Attributes:
        name: Its name, in the daemon's status too.
        learning_rate: What it was asked.
        epochs: The ends of its epochs, by number.
        resumption: What became of it after its kill, if it was killed.
    """

    name: str
    learning_rate: float
    epochs: dict[int, EpochEnd] = field(default_factory=dict)
    resumption: Resumption | None = None
