"""What is aimed at. Ratios within one run, so that they mean the same on any machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bound:
    """One figure of a goal, and where it must be.

    Attributes:
        name: What the measurement calls it.
        what: For people.
        at_least, at_most: The bound; one of them is None.
        unit: Of the figure; "" for a ratio.
        worst: Whether each repetition must keep to it, and not only the median.
    """

    name: str
    what: str
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""
    worst: bool = False

    def text(self) -> str:
        """The bound in words."""
        sign, value = ("≥", self.at_least) if self.at_most is None else ("≤", self.at_most)
        kind = "always " if self.worst else ""
        return f"{self.what}: {kind}{sign} {value:g}{' ' + self.unit if self.unit else ''}"

    def met(self, low: float, median: float, high: float) -> bool:
        """Whether repetitions of these extremes keep to it."""
        if self.at_least is not None:
            return (low if self.worst else median) >= self.at_least
        assert self.at_most is not None, "a bound has one side"
        return (high if self.worst else median) <= self.at_most


@dataclass(frozen=True)
class Goal:
    """One goal.

    Attributes:
        name: "G1" to "G13".
        statement: What is measured.
        bounds: All of them must be met.
    """

    name: str
    statement: str
    bounds: tuple[Bound, ...]


def _peer(name: str, title: str, at_least: float) -> Bound:
    return Bound(f"rate over {name}", f"rows/s warm over {title}", at_least=at_least)


GOALS = (
    Goal(
        "G1",
        "A training loop that the daemon feeds, against the same loop slicing a local tensor, for "
        "steps of 20 µs and more",
        (
            Bound("fed over local", "throughput", at_least=1.0),
            Bound("fed over local, worst", "throughput", at_least=0.95, worst=True),
        ),
    ),
    Goal(
        "G2",
        "`next()` alone on a resident lease; with features and one label, against two `split`s of "
        "local tensors",
        (
            Bound("next", "`next()`, p50", at_most=0.3, unit="µs"),
            Bound("with tensors over splits", "speed", at_least=0.7),
        ),
    ),
    Goal(
        "G3",
        "Processor time of daemon and client a batch, tensors made, chunks resident",
        (Bound("cpu a batch", "a batch", at_most=2.0, unit="µs"),),
    ),
    Goal(
        "G4",
        "Loader's processor time of several trainers over that of one, the same pass",
        (
            Bound("4 over 1", "4 trainers", at_most=1.05),
            Bound("16 over 1", "16 trainers", at_most=1.15),
        ),
    ),
    Goal(
        "G5",
        "4 trainers against the expert's DataLoader",
        (
            Bound("rate over dataloader_chunks", "rows/s warm", at_least=5.0),
            Bound("cpu over dataloader_chunks", "processor time a row, warm", at_most=0.15),
        ),
    ),
    Goal(
        "G6",
        "4 trainers against each peer, warm",
        (
            _peer("dataloader_batches", "the plain DataLoader", 5.0),
            _peer("tensorsocket", "TensorSocket", 5.0),
            _peer("tfdata", "tf.data service", 5.0),
            _peer("raydata", "Ray Data", 5.0),
            _peer("streaming_rows", "MosaicML Streaming, a sample a row", 5.0),
            _peer("streaming_batches", "MosaicML Streaming, a sample a batch", 5.0),
            _peer("litdata_rows", "LitData, a sample a row", 5.0),
            _peer("litdata_batches", "LitData, a sample a batch", 3.0),
        ),
    ),
    Goal(
        "G7",
        "Preparing on one processor with torch alone, against the bound that memory sets",
        (
            Bound("in order", "in order", at_least=0.45),
            Bound("shuffled", "shuffled", at_least=0.35),
        ),
    ),
    Goal(
        "G8",
        "Reading, splitting by hash, preparing and publishing, against reading and decoding alone: "
        "rows a processor second",
        (Bound("ingest over decode", "speed", at_least=0.9),),
    ),
    Goal(
        "G9",
        "Shuffled against unshuffled, throughput of a training loop",
        (
            Bound("batches over none", 'shuffle="batches"', at_least=0.99),
            Bound("rows over none", 'shuffle="rows"', at_least=0.85),
        ),
    ),
    Goal(
        "G10",
        "The first batch after `open()` on a cold dataset with a given spec, over the time to read "
        "and decode that chunk's rows",
        (Bound("first batch over read", "time", at_most=1.5),),
    ),
    Goal(
        "G11",
        "Bytes from the warehouse in the second epoch of a dataset that fits the tiers",
        (Bound("bytes", "bytes", at_most=0.0, worst=True),),
    ),
    Goal(
        "G12",
        "Memory of a further trainer, torch itself apart; the daemon's memory over a table 100 "
        "times its budget, at the end over a tenth of the way",
        (
            Bound("further trainer", "a further trainer", at_most=160.0, unit="MiB"),
            Bound("end over beginning", "the daemon's memory", at_most=1.05),
        ),
    ),
    Goal(
        "G13",
        "Processor time a row as things grow",
        (
            Bound("table", "the table, 100-fold", at_most=1.1),
            Bound("chunks", "the number of chunks, 12-fold", at_most=1.1),
            Bound("jobs", "jobs, from 1 to 64", at_most=1.1),
        ),
    ),
)
