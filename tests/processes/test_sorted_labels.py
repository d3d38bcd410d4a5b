"""A table that is sorted by its label is told of, in the status and to its trainers."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from faucet_client import DatasetSpec, ParquetSource
from faucet_client.status import DatasetStatus
from tests.processes.daemons import StartDaemon, WatchedDaemon

ROWS = 20_000
CHUNK_ROWS = 1_000


def clicks(*, sort: bool) -> NDArray[np.float64]:
    values = np.random.default_rng(0).normal(size=ROWS)
    values[:3_000] = np.nan
    return np.sort(values) if sort else np.random.default_rng(1).permutation(values)


def spec_of(folder: Path, values: NDArray[np.float64], name: str) -> DatasetSpec:
    """The spec of a table with these labels; NaN becomes null."""
    label = pa.array(values, from_pandas=True)
    table = pa.table({"x": np.arange(ROWS), "click": label, "flat": np.ones(ROWS)})
    pq.write_table(table, folder / name, row_group_size=CHUNK_ROWS)
    return DatasetSpec(
        source=ParquetSource(str(folder / name)),
        features=["x"],
        labels=["click", "flat"],
        eval_percent=0,
        chunk_rows=CHUNK_ROWS,
        preprocessing="none",
    )


def read(daemon: WatchedDaemon, spec: DatasetSpec, times: int = 1) -> DatasetStatus:
    """Reads the dataset; its status after that."""
    client = daemon.client()
    dataset = client.open(spec)
    for job in range(times):
        with dataset.batches("train", batch_size=256, epochs=2, job=str(job)) as batches:
            for _ in batches:
                pass
    (status,) = (d for d in client.status().datasets if d.key == dataset.info.key)
    return status


def eta_squared(values: NDArray[np.float64]) -> float:
    known = values.astype(np.float32).astype(np.float64).reshape(-1, CHUNK_ROWS)
    total = np.nansum(np.square(known - np.nanmean(known)))
    between = sum(
        np.isfinite(chunk).sum() * (np.nanmean(chunk) - np.nanmean(known)) ** 2
        for chunk in known
        if np.isfinite(chunk).any()
    )
    return float(between / total)


def test_a_table_sorted_by_its_label_warns_once_with_the_cure(
    daemon: WatchedDaemon, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = clicks(sort=True)
    with caplog.at_level(logging.WARNING, "faucet_client"):
        status = read(daemon, spec_of(tmp_path, values, "sorted.parquet"), times=2)
    found = {label.label: label for label in status.labels}
    assert found["click"].between_share == pytest.approx(eta_squared(values), rel=1e-6)
    assert found["click"].between_share > 0.9
    assert (found["click"].rows, found["click"].chunks) == (ROWS - 3_000, 17)
    assert (found["flat"].rows, found["flat"].between_share) == (ROWS, 0.0)
    (record,) = caplog.records
    _, note = status.notes  # the other one tells of chunking
    for told in (record.message, note):
        for words in ("sorted.parquet", "'click'", 'chunking="hash"', 'shuffle="rows"'):
            assert words in told
        assert "flat" not in told


def test_a_shuffled_table_does_not_warn(
    daemon: WatchedDaemon, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = clicks(sort=False)
    with caplog.at_level(logging.WARNING, "faucet_client"):
        status = read(daemon, spec_of(tmp_path, values, "shuffled.parquet"))
    (click,) = (label for label in status.labels if label.label == "click")
    assert click.between_share == pytest.approx(eta_squared(values), rel=1e-6)
    assert click.between_share < 5 * click.random_share
    assert not [note for note in status.notes if "sorted" in note]
    assert caplog.records == []


def test_a_chunk_that_is_made_again_counts_once(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon(memory_budget="200KiB")
    values = clicks(sort=True)
    status = read(daemon, spec_of(tmp_path, values, "again.parquet"))
    assert status.chunks_made > status.chunks
    (click,) = (label for label in status.labels if label.label == "click")
    assert (click.rows, click.chunks) == (ROWS - 3_000, 17)
    assert click.between_share == pytest.approx(eta_squared(values), rel=1e-6)
