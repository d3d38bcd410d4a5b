"""Who takes part."""

from __future__ import annotations

from dataclasses import dataclass

OURS = "faucet"
LIMIT = "local"


@dataclass(frozen=True)
class Contender:
    """One way to feed trainers.

    Attributes:
        name: Its module in `contenders/`.
        title: What the report calls it.
        environment: The virtual environment it needs, by the name of its requirements file in
            `benchmarks/peers/`; "" for the project's own.
        serves: Whether one server feeds all trainers.
        converts: Whether it reads a copy of the table in a format of its own.
        row_share: The part of the table it is given, where a row takes so long that all of it
            would take the whole benchmark's time. Rates are a row.
        kinds: The tables it can read.
        why: Why it is as fast as it is: one sentence for the report.
    """

    name: str
    title: str
    environment: str = ""
    serves: bool = False
    converts: bool = False
    row_share: float = 1.0
    kinds: tuple[str, ...] = ("numbers", "criteo")
    why: str = ""


CONTENDERS = (
    Contender(
        LIMIT,
        "local tensor, sliced (the limit)",
        why="It has the prepared table in each trainer's own memory, so that nothing is left to "
        "do; there is no faster loader, and it needs the table's size of memory a trainer.",
    ),
    Contender(
        OURS,
        "Faucet ML",
        serves=True,
        why="One daemon reads and prepares each chunk once, and trainers slice memory that they "
        "share with it.",
    ),
    Contender(
        "dataloader_chunks",
        "DataLoader, expert: whole chunks",
        why="Each trainer reads and decodes the whole table anew every epoch; the transport of "
        "whole chunks through shared memory costs little.",
    ),
    Contender(
        "dataloader_batches",
        "DataLoader, plain: mini-batches from workers",
        why="Each trainer reads and decodes the table anew every epoch, and each mini-batch goes "
        "through a queue between processes.",
    ),
)


def contender(name: str) -> Contender:
    """The one of that name.

    Raises:
        KeyError: there is none.
    """
    return {each.name: each for each in CONTENDERS}[name]
