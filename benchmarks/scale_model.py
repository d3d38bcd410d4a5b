"""What one daemon needs, where it saturates, and what it saves: a formula over measured costs.

All of it is arithmetic on a few values. `scale.py` measures the costs, `docs/scale.md` explains the
formula. Rates are rows a second, costs are seconds of one processor, money is in dollars.
"""

from __future__ import annotations

from dataclasses import dataclass

TIB = 2.0**40
GIB = 2.0**30
HOUR_S = 3_600.0
MONTH_HOURS = 730.0


@dataclass(frozen=True)
class Costs:
    """What a row costs, in seconds of a processor.

    Attributes:
        decode: To receive it and decode its message.
        split: To hash its key.
        prepare: To make tensors of it, and to put them into their permuted place.
        publish: To take memory for it, and to seal that.
        other: What a worker spends on it beyond these: threads and queues, and caches and memory
            that are not as warm as where each stage runs alone.
        grant: In the daemon's main process, each time that it is granted to a job.
        map: In the trainer's process, each time: mapping, batches, release.
    """

    decode: float
    split: float
    prepare: float
    publish: float
    other: float
    grant: float
    map: float

    @property
    def ingest(self) -> float:
        """Once, however many jobs have the row."""
        return self.decode + self.split + self.prepare + self.publish + self.other

    @property
    def serve(self) -> float:
        """Once a job."""
        return self.grant + self.map


@dataclass(frozen=True)
class Shape:
    """Bytes of a row, and of what holds rows.

    Attributes:
        wire_bytes: Of a row as the warehouse sends it.
        prepared_bytes: Of a row in a segment.
        chunk_bytes: Of a prepared chunk.
        worker_bytes: Private memory of a worker.
        daemon_bytes: Private memory of the daemon's main process.
        held_chunks: Chunks that each job holds, or has ready, at a time.
    """

    wire_bytes: float
    prepared_bytes: float
    chunk_bytes: float
    worker_bytes: float
    daemon_bytes: float
    held_chunks: float


@dataclass(frozen=True)
class Load:
    """What is asked of a daemon.

    Attributes:
        jobs: Trainers at a time.
        rate: Rows a second that each takes.
        passes: How many times the source is read while all jobs take one epoch: `jobs` where
            nobody shares, 1 where all overlap, 0 in an epoch that memory or disk serves.
    """

    jobs: int
    rate: float
    passes: float

    @property
    def read_rate(self) -> float:
        """Rows a second that are read from the source."""
        return self.rate * self.passes

    @property
    def served_rate(self) -> float:
        """Rows a second that all jobs take."""
        return self.rate * self.jobs


@dataclass(frozen=True)
class Prices:
    """In dollars, before discounts and free amounts.

    Attributes:
        read_tib: For 2^40 bytes read by the Storage Read API.
        core_hour: For a virtual processor.
        memory_gib_hour: For 2^30 bytes of memory.
        disk_gib_month: For 2^30 bytes of a local disk.
    """

    read_tib: float
    core_hour: float
    memory_gib_hour: float
    disk_gib_month: float


@dataclass(frozen=True)
class Needs:
    """What a load takes.

    Attributes:
        cores: Processors that are busy: of the workers, the main process and the clients; without
            the trainers' own steps.
        memory_bytes: Of the daemon and its workers, and of chunks in flight; a cache is beyond it.
        network_bytes_s: From the warehouse.
        dollars_hour: Of cores, memory, and reading.
    """

    cores: float
    memory_bytes: float
    network_bytes_s: float
    dollars_hour: float


@dataclass(frozen=True)
class Saturation:
    """The most that a machine can do of a load of this shape.

    Attributes:
        rate: Rows a second of each job.
        limit: What is used up first: "processors", "network" or "main process".
    """

    rate: float
    limit: str


def needs(load: Load, costs: Costs, shape: Shape, prices: Prices) -> Needs:
    """What a daemon takes to serve a load."""
    reading_cores = load.read_rate * costs.ingest
    cores = reading_cores + load.served_rate * costs.serve
    workers = -(-reading_cores // 1)
    chunks = load.jobs * shape.held_chunks + workers
    memory = workers * shape.worker_bytes + shape.daemon_bytes + chunks * shape.chunk_bytes
    network = load.read_rate * shape.wire_bytes
    dollars = (
        cores * prices.core_hour
        + memory / GIB * prices.memory_gib_hour
        + network * HOUR_S / TIB * prices.read_tib
    )
    return Needs(cores, memory, network, dollars)


def saturation(
    cores: float, network_bytes_s: float, load: Load, costs: Costs, shape: Shape
) -> Saturation:
    """Where a machine can do no more, if `load.rate` alone grows, and nothing else runs on it.

    The main process is one thread: it grants no more rows than one processor can.
    """
    limits = {
        "processors": cores / (load.passes * costs.ingest + load.jobs * costs.serve),
        "main process": 1 / (load.jobs * costs.grant),
    }
    if load.passes:
        limits["network"] = network_bytes_s / (load.passes * shape.wire_bytes)
    limit = min(limits, key=lambda name: limits[name])
    return Saturation(limits[limit], limit)


@dataclass(frozen=True)
class TableCost:
    """What training on a table costs, in dollars, the trainers apart.

    Attributes:
        hours: How long all epochs take.
        reading: What the warehouse charges for reading.
        machine: Processors and memory of daemon and clients.
        disk: The disk that keeps prepared rows.
    """

    hours: float
    reading: float
    machine: float
    disk: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.reading + self.machine + self.disk


def table_cost(
    table_bytes: float,
    epochs: int,
    load: Load,
    costs: Costs,
    shape: Shape,
    prices: Prices,
    *,
    on_disk: bool,
) -> TableCost:
    """What so many epochs of all jobs over a table cost.

    Args:
        table_bytes: As the warehouse sends it, and charges for.
        epochs: Of each job, all at the same time.
        load: `passes` holds for each epoch; with `on_disk` for the first one alone.
        costs: Of a row.
        shape: Of a row.
        prices: Of all.
        on_disk: Whether prepared rows are kept on local disks, which then serve further epochs.
    """
    rows = table_bytes / shape.wire_bytes
    epoch_hours = rows / load.rate / HOUR_S
    hours = epochs * epoch_hours
    without_reading = Prices(0.0, prices.core_hour, prices.memory_gib_hour, prices.disk_gib_month)
    read_epochs = 1 if on_disk else epochs
    again = Load(load.jobs, load.rate, 0.0)
    machine = epoch_hours * (
        read_epochs * needs(load, costs, shape, without_reading).dollars_hour
        + (epochs - read_epochs) * needs(again, costs, shape, without_reading).dollars_hour
    )
    disk = 0.0
    if on_disk:
        kept_gib = rows * shape.prepared_bytes / GIB
        disk = kept_gib * prices.disk_gib_month * hours / MONTH_HOURS
    reading = table_bytes / TIB * prices.read_tib * load.passes * read_epochs
    return TableCost(hours, reading, machine, disk)
