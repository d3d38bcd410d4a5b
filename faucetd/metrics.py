"""A status as Prometheus metrics. Pure.

Names and units follow https://prometheus.io/docs/practices/naming/. The series are those of the
open datasets and the live readers, so their number is bounded; when a reader ends, its series do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)

from faucet_client import chunk_map
from faucet_client.status import CostStatus, DatasetStatus, MemoryStatus, ReaderStatus, Status

_READER = ("dataset", "job", "rank", "worker", "split")

Sample = tuple[tuple[str, ...], float]
"""The values of a series' labels, and its own."""


def families(status: Status) -> Iterator[Metric]:
    """All metrics of a daemon."""
    yield InfoMetricFamily("faucet_build", "The daemon.", {"version": status.version})
    yield _gauge("faucet_uptime_seconds", "Time since the daemon started.", status.uptime_s)
    yield from _memory(status.memory)
    yield from _spill(status)
    workers = Counter(worker.state for worker in status.workers)
    yield _gauges(
        "faucet_workers",
        "Processes that read sources and make chunks.",
        ("state",),
        (((state,), number) for state, number in workers.items()),
    )
    yield from _datasets(status.datasets)
    yield from _costs([(d.key, d.cost) for d in status.datasets if d.cost is not None])
    yield from _readers(status.readers)


def _memory(memory: MemoryStatus) -> Iterator[Metric]:
    for name, text in (
        ("budget", "What prepared chunks may take in shared memory."),
        ("used", "Segments that exist, leased or not, and those being made."),
        ("leased", "Segments that some trainer holds."),
        ("orphaned", "Segments of daemons before this one that trainers still map."),
        ("peak", "The most that was ever used."),
    ):
        yield _gauge(f"faucet_memory_{name}_bytes", text, getattr(memory, f"{name}_bytes"))


def _spill(status: Status) -> Iterator[Metric]:
    for name, text in (
        ("budget", "What copies of prepared chunks may take on disk; 0 without a spill_dir."),
        ("used", "What copies of prepared chunks take on disk."),
    ):
        yield _gauge(f"faucet_spill_{name}_bytes", text, getattr(status, f"spill_{name}_bytes"))


def _datasets(datasets: Iterable[DatasetStatus]) -> Iterator[Metric]:
    known = tuple(datasets)
    yield _gauges(
        "faucet_dataset_info",
        "An open dataset and its source.",
        ("dataset", "source"),
        (((d.key, d.source), 1) for d in known),
    )
    yield _gauges(
        "faucet_dataset_failed",
        "Whether chunks of the dataset cannot be made.",
        ("dataset",),
        (((d.key,), d.state == "failed") for d in known),
    )
    yield _gauges(
        "faucet_dataset_rows",
        "Rows of a split.",
        ("dataset", "split"),
        (
            ((d.key, split), rows)
            for d in known
            for split, rows in (("train", d.train_rows), ("eval", d.eval_rows))
        ),
    )
    yield _gauges(
        "faucet_dataset_chunks",
        "Chunks of a split by state; leased are those in memory that readers hold.",
        ("dataset", "split", "state"),
        (
            ((d.key, split, state), number)
            for d in known
            for split, states in (("train", d.train_chunk_map), ("eval", d.eval_chunk_map))
            for state, number in chunk_map.counts(states).items()
            if state != "no_rows"
        ),
    )
    yield _gauges(
        "faucet_label_between_chunk_ratio",
        "Of a label's variance, the share between chunks: 0 to 1, near 0 for shuffled rows.",
        ("dataset", "split", "label"),
        (((d.key, one.split, one.label), one.between_share) for d in known for one in d.labels),
    )
    for name, text, field in (
        ("faucet_dataset_resident_bytes", "Segments of the dataset in memory.", "resident_bytes"),
        ("faucet_dataset_spilled_bytes", "Segments of the dataset on disk.", "spilled_bytes"),
        (
            "faucet_source_saved_bytes",
            "What reading each row for each reader and epoch would have been beyond what was read.",
            "source_bytes_saved",
        ),
    ):
        yield _gauges(name, text, ("dataset",), (((d.key,), getattr(d, field)) for d in known))
    for name, text, field in (
        (
            "faucet_source_rows_read",
            "Rows that passes over the source have read.",
            "source_rows_read",
        ),
        (
            "faucet_source_bytes_read",
            "Bytes of Arrow data that passes over the source have read.",
            "source_bytes_read",
        ),
        (
            "faucet_chunks_restored",
            "Splits of chunks that came back from disk instead of the source.",
            "chunks_restored",
        ),
        ("faucet_chunks_made", "Chunks made; one made again counts again.", "chunks_made"),
        ("faucet_rows_served", "Rows given to readers, over all their epochs.", "rows_served"),
    ):
        yield _counters(name, text, ("dataset",), (((d.key,), getattr(d, field)) for d in known))


def _costs(costs: list[tuple[str, CostStatus]]) -> Iterator[Metric]:
    for name, text, field in (
        ("query", "Bytes that the warehouse billed for queries.", "query_bytes"),
        ("read", "Bytes that the warehouse billed for reading.", "read_bytes"),
    ):
        yield _counters(
            f"faucet_warehouse_{name}_bytes_billed",
            text,
            ("dataset",),
            (((key,), getattr(cost, field)) for key, cost in costs),
        )


def _readers(readers: Iterable[ReaderStatus]) -> Iterator[Metric]:
    known = [
        (
            reader,
            (reader.dataset_key, reader.job, str(reader.rank), str(reader.worker), reader.split),
        )
        for reader in readers
    ]
    for name, text, field in (
        (
            "rows",
            "Rows that the trainer has taken as batches, over all its epochs.",
            "rows_consumed",
        ),
        ("rows_granted", "Rows granted to the reader, over all its epochs.", "rows_granted"),
        ("wait_seconds", "Time that the trainer waited for data.", "seconds_waited"),
    ):
        samples = ((labels, getattr(reader, field)) for reader, labels in known)
        yield _counters(f"faucet_reader_{name}", text, _READER, samples)
    for name, text, field in (
        (
            "position_epochs",
            "Where the trainer is: 2.25 is a quarter into epoch 2.",
            "position_epochs",
        ),
        ("lag_epochs", "By how much another reader of the split is further.", "lag_epochs"),
        ("leased_bytes", "Segments that the reader holds.", "leased_bytes"),
    ):
        samples = ((labels, getattr(reader, field)) for reader, labels in known)
        yield _gauges(f"faucet_reader_{name}", text, _READER, samples)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value)


def _gauges(name: str, text: str, labels: Iterable[str], samples: Iterable[Sample]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=tuple(labels))
    for values, number in samples:
        family.add_metric(values, number)
    return family


def _counters(name: str, text: str, labels: Iterable[str], samples: Iterable[Sample]) -> Metric:
    """Counters; `_total` is appended to their name."""
    family = CounterMetricFamily(name, text, labels=tuple(labels))
    for values, number in samples:
        family.add_metric(values, number)
    return family
