"""Who takes part."""

from __future__ import annotations

from dataclasses import dataclass

OURS = "faucet"
LIMIT = "local"


@dataclass(frozen=True)
class Contender:
    """One way to feed trainers.

    Attributes:
        name: Its module in `package`.
        title: What the report calls it.
        environment: The virtual environment it needs, by the name of its requirements file in
            `benchmarks/peers/`; "" for the project's own.
        serves: Whether one server feeds all trainers.
        serves_here: Whether that runs in the project's own environment all the same.
        converts: Whether it reads a copy of the table in a format of its own.
        row_share: The part of the table it is given, where a row takes so long that all of it
            would take the whole benchmark's time. Rates are a row.
        kinds: The tables it can read.
        why: Why it is as fast as it is: one sentence for the report.
        package: Where its module is.
    """

    name: str
    title: str
    environment: str = ""
    serves: bool = False
    serves_here: bool = False
    converts: bool = False
    row_share: float = 1.0
    kinds: tuple[str, ...] = ("numbers", "criteo")
    why: str = ""
    package: str = "benchmarks.suite.contenders"

    @property
    def module(self) -> str:
        """Its module's full name."""
        return f"{self.package}.{self.name}"


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
    Contender(
        "litdata_batches",
        "LitData, expert: a sample a batch",
        environment="litdata",
        converts=True,
        why="Each trainer maps the converted table's chunks and makes tensors of its batches; "
        "nothing is read or prepared from the table itself, and rows stay in their batch.",
    ),
    Contender(
        "streaming_batches",
        "MosaicML Streaming, expert: a sample a batch",
        environment="streaming",
        converts=True,
        why="Each trainer reads the converted table's batches from the page cache, and copies "
        "them; nothing is read or prepared from the table itself, and rows stay in their batch.",
    ),
    Contender(
        "tfdata",
        "tf.data service, cross-trainer cache",
        environment="tfdata",
        serves=True,
        why="The table is read once and kept, but every batch is serialized and sent to every "
        "trainer through gRPC. Its stream is endless, so an epoch has no border of its own.",
    ),
    Contender(
        "raydata",
        "Ray Data, materialized",
        environment="ray",
        serves=True,
        why="The dataset is prepared once and shared, but each batch is made anew by each trainer: "
        "blocks are fetched, sliced, copied and made into tensors, scheduled by tasks.",
    ),
    Contender(
        "dataloader_rows",
        "DataLoader, a row at a time",
        row_share=1 / 16,
        why="The rows are in memory already, but Python touches each of them: one call a row, and "
        "a tensor a row to be stacked. Each trainer has its own copy of the table.",
    ),
    Contender(
        "litdata_rows",
        "LitData, a sample a row",
        environment="litdata",
        converts=True,
        row_share=1 / 16,
        why="Python decodes each row and collates it.",
    ),
    Contender(
        "streaming_rows",
        "MosaicML Streaming, a sample a row",
        environment="streaming",
        converts=True,
        row_share=1 / 16,
        why="Python decodes each row and collates it.",
    ),
    Contender(
        "faucet2020",
        "FaucetML 0.0.3 (2020)",
        environment="faucet2020",
        serves=True,
        serves_here=True,
        row_share=1 / 32,
        kinds=("numbers",),
        why="Each trainer has a warehouse send it all rows as JSON, and makes a data frame of the "
        "whole chunk again for each batch. Chunks are of 2,048 rows, since it loses rows of larger "
        "ones, and its server is in the figures.",
    ),
    Contender(
        "tensorsocket",
        "TensorSocket",
        environment="tensorsocket",
        serves=True,
        why="One loader reads for all, but every epoch anew; on the processor a batch is pickled "
        "with its storage and sent through a socket, and all trainers go at one pace.",
    ),
)


def contender(name: str) -> Contender:
    """The one of that name.

    Raises:
        KeyError: there is none.
    """
    return {each.name: each for each in CONTENDERS}[name]
