"""How well batches are shuffled: measured through the client, against a uniform shuffle.

The table's rows are numbered in its order, and sorted by the label: the worst order for a loader
that shuffles within windows. For each way of shuffling, of one epoch:

- **apart**: how far apart neighbours of the table end up: of rows i and i+1, the difference of
  their positions among the n that were served; the median and the 5th percentile, over n. Of a
  uniform permutation two rows lie at a random pair of positions, whose difference d has probability
  2 (n - d) / (n (n - 1)): its mean is (n + 1) / 3, and the share with a difference up to x n tends
  to 2 x - x², which is a half at 1 - 1/√2 = 0.293 and 5 % at 1 - √0.95 = 0.0253.
- **near**: of two rows of one batch, the probability that they were within NEAR rows of each other
  in the table. By the same formula it is 2 NEAR / n, nearly, of a uniform permutation.
- **eta²**: the share of the label's variance that lies between batches: the sum over batches of
  their rows times the squared difference of their mean from the mean of all, over the sum of the
  squared differences of all rows. The mean of b rows that are drawn without replacement has the
  variance σ² / b · (n - b) / (n - 1), so that a uniform permutation into B batches is expected to
  have (B - 1) / (n - 1). Of rows in the table's order it is 1, nearly.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from faucet_client import DatasetSpec, FaucetClient, ParquetSource
from faucet_client.spec import SHUFFLES
from faucet_client.testing import LocalDaemon

NEAR = 1_000
"""Rows of the table that are near each other."""

CHUNKINGS = ("auto", "hash")
"""Of files: ranges of their rows, or dealt by a hash."""

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Quality:
    """The figures of one epoch; see the module."""

    median_apart: float
    low_apart: float
    near: float
    eta_squared: float


def write_table(path: Path, rows: int) -> None:
    """`rows` rows with their numbers, sorted by a label of whole numbers; a tenth is 1."""
    numbers = np.arange(rows)
    label = (numbers >= rows - rows // 10).astype(np.float32)
    noise = np.random.default_rng(0).random(rows, np.float32)
    table = pa.table({"row": numbers, "x": noise, "y": label})
    pq.write_table(table, path, row_group_size=max(rows // 32, 1))


def served(client: FaucetClient, spec: DatasetSpec, shuffle: str, batch_size: int) -> Rows:
    """The numbers of the rows of one epoch, in the order in which they were served."""
    batches = client.open(spec).batches("train", batch_size=batch_size, shuffle=shuffle, seed=7)
    numbers = [torch.as_tensor(batch.passthrough["row"]).clone() for batch in batches]
    found: Rows = torch.cat(numbers).numpy()
    return found


def quality(order: Rows, batch_size: int) -> Quality:
    """The figures of rows in this order, of a table as `write_table` writes it.

    Args:
        order: int64 [rows]: the number of each row, in the order in which they were served.
        batch_size: Rows a batch.
    """
    rows = len(order)
    position = np.empty(rows, np.int64)
    position[order] = np.arange(rows)
    apart = np.abs(np.diff(position)) / rows
    label = (order >= rows - rows // 10).astype(np.float64)
    return Quality(
        float(np.median(apart)),
        float(np.percentile(apart, 5)),
        _near(order, batch_size),
        _eta_squared(label, batch_size),
    )


def uniform(rows: int, batch_size: int) -> Quality:
    """What is expected of a uniform permutation."""
    batches = -(-rows // batch_size)
    near = sum(2 * (rows - d) for d in range(1, min(NEAR, rows - 1) + 1)) / (rows * (rows - 1))
    return Quality(1 - 0.5**0.5, 1 - 0.95**0.5, near, (batches - 1) / (rows - 1))


def _near(order: Rows, batch_size: int) -> float:
    near = pairs = 0
    for start in range(0, len(order), batch_size):
        batch = np.sort(order[start : start + batch_size])
        within = np.searchsorted(batch, batch + NEAR, side="right") - np.arange(len(batch)) - 1
        near += int(within.sum())
        pairs += len(batch) * (len(batch) - 1) // 2
    return near / pairs


def _eta_squared(label: NDArray[np.float64], batch_size: int) -> float:
    starts = np.arange(0, len(label), batch_size)
    sizes = np.diff(np.append(starts, len(label)))
    means = np.add.reduceat(label, starts) / sizes
    between = float((sizes * (means - label.mean()) ** 2).sum())
    return between / float(((label - label.mean()) ** 2).sum())


def run(rows: int, batch_size: int) -> None:
    """Prints the figures of each way of shuffling."""
    expected = uniform(rows, batch_size)
    click.echo(
        f"{rows:,} rows sorted by their label, batches of {batch_size:,}; neighbours' distance as "
        f"a share of the epoch,\nand what a uniform shuffle is expected to give"
    )
    click.echo(
        f"{'shuffle':<10}{'chunking':<10}{'chunks':>7}{'median apart':>14}{'5 % apart':>12}"
        f"{f'near ({NEAR:,})':>15}{'eta²':>10}"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        write_table(path, rows)
        with LocalDaemon([folder]) as daemon:
            client = daemon.client()
            # shuffle="rows" joins by itself, once the client has it.
            for shuffle in SHUFFLES[::-1]:
                for chunking in CHUNKINGS:
                    spec = DatasetSpec(
                        ParquetSource(str(path)), ["x"], ["y"], passthrough=["row"],
                        preprocessing="none", chunking=chunking,
                    )  # fmt: skip
                    found = quality(served(client, spec, shuffle, batch_size), batch_size)
                    chunks = client.open(spec).info.chunks
                    name = "row ranges" if chunking == "auto" else chunking
                    click.echo(_line(shuffle, name, f"{chunks}", found))
    click.echo(_line("uniform", "", "", expected))


def _line(shuffle: str, chunking: str, chunks: str, found: Quality) -> str:
    return (
        f"{shuffle:<10}{chunking:<10}{chunks:>7}{found.median_apart:>14.4f}"
        f"{found.low_apart:>12.4f}{found.near:>15.5f}{found.eta_squared:>10.5f}"
    )
