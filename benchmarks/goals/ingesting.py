"""What it costs to have a table ready: G7, G8, G10, G11."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow.parquet as pq
import torch

from benchmarks import preparing
from benchmarks.goals.daemons import Measured, exhaust, measured_daemon
from benchmarks.goals.verdicts import Values
from faucet_client import DatasetSpec, ParquetSource

CHUNK_ROWS = 131_072
BATCH_SIZE = 1_024
EVAL_PERCENT = 10.0


def measure_preparing(rows: int, repeats: int) -> dict[str, Values]:
    """G7: chunks of a Criteo-like table, by the worker's own code on this thread."""
    torch.set_num_threads(1)
    table, spec = preparing.criteo_like(rows)
    in_bytes = sum(column.nbytes for column in table.columns) / rows
    row_bytes = in_bytes + 4 * spec.width + 8 * len(spec.id_names)
    kinds = {
        "shuffled": preparing.prepare(table, spec, permuted=True),
        "in order": preparing.prepare(table, spec, permuted=False),
    }
    shares: dict[str, list[float]] = {kind: [] for kind in kinds}
    for once in kinds.values():
        once()
    for _ in range(repeats):
        bound = preparing.stream_bytes_a_second() / row_bytes
        for kind, once in kinds.items():
            began = time.perf_counter()
            once()
            shares[kind].append(rows / (time.perf_counter() - began) / bound)
    return {"G7": shares}


def measure_ingest(folder: Path, rows: int, repeats: int) -> dict[str, Values]:
    """G8, G10 and G11, on a Criteo-like table with a spec, in two splits.

    Args:
        folder: For the table.
        rows: Of the table.
        repeats: Passes of each kind; those that are compared alternate.
    """
    path = folder / "criteo.parquet"
    table, preprocessing = preparing.numbers(rows)
    table = table.append_column("key", table.column("c0"))
    pq.write_table(table, path, row_group_size=65_536, use_dictionary=False)
    del table

    def spec(number: int) -> DatasetSpec:
        """Another dataset each time, or the daemon would have it already."""
        return DatasetSpec(
            ParquetSource(str(path)),
            features=[feature.name for feature in preprocessing.features],
            hash_column="key",
            eval_percent=EVAL_PERCENT,
            preprocessing=preprocessing,
            chunk_rows=CHUNK_ROWS - number,
        )

    with measured_daemon(folder, memory_budget="1GiB", workers=1) as daemon:
        _decode(path, None)
        _ingest(daemon, spec(0))
        speeds, firsts = [], []
        for number in range(1, repeats + 1):
            speeds.append(_decode(path, None)[0] / _ingest(daemon, spec(2 * number)))
            _, seconds = _decode(path, CHUNK_ROWS)
            firsts.append(_first_batch_s(daemon, spec(2 * number + 1)) / seconds)
        return {
            "G8": {"ingest over decode": speeds},
            "G10": {"first batch over read": firsts},
            "G11": {"bytes": [_second_epoch_bytes(daemon, spec(0))]},
        }


def _decode(path: Path, rows: int | None) -> tuple[float, float]:
    """Processor seconds and seconds of reading and decoding a table's first rows, on one thread."""
    began, cpu_began = time.perf_counter(), time.process_time()
    done = 0
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            done += file.read_row_group(group, use_threads=False).num_rows
            if rows is not None and done >= rows:
                break
    return time.process_time() - cpu_began, time.perf_counter() - began


def _ingest(daemon: Measured, spec: DatasetSpec) -> float:
    """Processor seconds of the daemon, all its processes, until the last row is in a segment."""
    before = daemon.cpu_s()
    dataset = daemon.client.open(spec)
    exhaust(dataset.batches("train", batch_size=65_536))
    used = daemon.cpu_s() - before
    daemon.drop(dataset.info.key)
    return used


def _first_batch_s(daemon: Measured, spec: DatasetSpec) -> float:
    """Seconds from when `open` has returned to the first batch's features."""
    dataset = daemon.client.open(spec)
    began = time.perf_counter()
    batches = dataset.batches("train", batch_size=BATCH_SIZE)
    first = next(batches).features
    seconds = time.perf_counter() - began
    batches.close()
    del batches, first  # they hold leases, and the dataset could not be dropped
    daemon.drop(dataset.info.key)
    return seconds


def _second_epoch_bytes(daemon: Measured, spec: DatasetSpec) -> float:
    dataset = daemon.client.open(spec)
    read = []
    for epoch in dataset.epochs("train", count=2, batch_size=BATCH_SIZE):
        exhaust(epoch)
        (status,) = (
            each for each in daemon.client.status().datasets if each.key == dataset.info.key
        )
        read.append(status.source_bytes_read + status.count_bytes_read)
    daemon.drop(dataset.info.key)
    return float(read[1] - read[0])
