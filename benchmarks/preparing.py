"""Making prepared rows of a table's columns, against the machine's memory.

The limit is STREAM's: nobody can prepare rows faster than memory can be read and written, so a
copy of large arrays is timed in the same run, and a row is charged for its bytes in (Arrow's) and
out (the segment's). The work is the worker's own code on one thread: transform, stage, permute
into the place where the segment would be. "in order" leaves the permutation out.

J. D. McCalpin, "Memory bandwidth and machine balance in current high performance computers", IEEE
TCCA Newsletter, 1995.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import click
import numpy as np
import pyarrow as pa
import torch

from faucet_client.preprocessing import Continuous, Feature, Hashed, PreprocessingSpec
from faucet_client.spec import DatasetSpec, ParquetSource
from faucetd.prepare import chunk as chunks
from faucetd.prepare.chunk import ChunkPreparer
from faucetd.prepare.columns import PreparedColumns, resolve
from faucetd.prepare.permutation import ChunkId

BATCH_ROWS = 65_536


def criteo_like(rows: int) -> tuple[pa.Table, PreprocessingSpec]:
    """13 numbers with nulls, and 26 integer categories, as ids by hash."""
    random = np.random.default_rng(0)
    columns: dict[str, Any] = {}
    features = []
    for number in range(13):
        values = random.normal(100, 30, rows).astype(np.float32)
        columns[f"n{number}"] = pa.array(values, mask=random.random(rows) < 0.1)
        features.append(Feature(f"n{number}", Continuous(100.0, 30.0)))
    for number in range(26):
        columns[f"c{number}"] = pa.array(random.integers(0, 10**6, rows))
        features.append(Feature(f"c{number}", Hashed(100_000)))
    return pa.table(columns), PreprocessingSpec(features)


def numbers(rows: int) -> tuple[pa.Table, PreprocessingSpec]:
    """The same columns, the categories as numbers like the others."""
    table, _ = criteo_like(rows)
    return table, PreprocessingSpec(
        [Feature(n, Continuous(100.0, 30.0)) for n in table.column_names]
    )


def plain(rows: int, width: int) -> tuple[pa.Table, PreprocessingSpec]:
    """So many float32 columns, standardized."""
    random = np.random.default_rng(0)
    names = [f"n{number}" for number in range(width)]
    columns = {name: pa.array(random.random(rows, np.float32)) for name in names}
    return pa.table(columns), PreprocessingSpec([Feature(n, Continuous(0.5, 1.0)) for n in names])


def stream_bytes_a_second() -> float:
    """Bytes read and written a second by a copy of 256 MiB, one thread; the best of several."""
    source = np.ones(1 << 28, np.uint8)
    target = np.empty_like(source)
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        np.copyto(target, source)
        best = max(best, 2 * source.nbytes / (time.perf_counter() - began))
    return best


def prepare(table: pa.Table, spec: PreprocessingSpec, *, permuted: bool) -> Callable[[], None]:
    """One chunk of all rows, again and again."""
    wanted = DatasetSpec(
        ParquetSource("/benchmark"), features=table.column_names, preprocessing=spec
    )
    columns = resolve(wanted, [(field.name, field.type) for field in table.schema]).with_spec(spec)
    preparer = ChunkPreparer(columns)
    rows = table.num_rows
    out = arrays_of(columns, rows)
    batches = table.to_batches(max_chunksize=BATCH_ROWS)
    codes = np.zeros(rows, np.int8)

    def once() -> None:
        preparer.start(ChunkId("key", "plan", 0), {"train": rows})
        for batch in batches:
            preparer.add(batch, codes[: batch.num_rows])
        preparer.finish()
        if permuted:
            preparer.fill("train", out)
            return
        with mock.patch.object(chunks, "permutation", lambda *of: torch.arange(of[-1])):
            preparer.fill("train", out)

    return once


def arrays_of(columns: PreparedColumns, rows: int) -> dict[Any, Any]:
    """Where the worker would have the segment's memory."""
    return {
        (column.role, column.name): np.zeros(
            (rows, column.width) if column.role.value == "features" else rows, column.dtype
        )
        for column in columns.fixed_columns()
    }


def run(rows: int, repeats: int) -> None:
    """Prints a line a table."""
    torch.set_num_threads(1)
    for name, (table, spec) in {
        "Criteo-like: 13 numbers with nulls, 26 ids": criteo_like(rows),
        "the same 39 columns as numbers": numbers(rows),
        "40 float32": plain(rows, 40),
        "1,000 float32": plain(max(rows // 25, 1), 1_000),
    }.items():
        in_bytes = sum(column.nbytes for column in table.columns) / table.num_rows
        out_bytes = 4 * spec.width + 8 * len(spec.id_names)
        shares, in_order, rates, copies = [], [], [], []
        both = {kind: prepare(table, spec, permuted=kind) for kind in (True, False)}
        for once in both.values():
            once()
        for _ in range(repeats):
            copies.append(stream_bytes_a_second())
            bound = copies[-1] / (in_bytes + out_bytes)
            seconds = {}
            for kind, once in both.items():
                began = time.perf_counter()
                once()
                seconds[kind] = time.perf_counter() - began
            rates.append(table.num_rows / seconds[True])
            shares.append(rates[-1] / bound)
            in_order.append(seconds[True] / seconds[False])
        click.echo(
            f"{name}: {statistics.median(rates) / 1e6:.2f} M rows/s, {in_bytes:.0f} bytes in and "
            f"{out_bytes} out; {_spread(shares)} of the memory's bound "
            f"({statistics.median(copies) / 1e9:.0f} GB/s, read and written by a copy); "
            f"permuted / in order {_spread(in_order)}"
        )


def _spread(values: list[float]) -> str:
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return f"{statistics.median(values):.2f} [{low:.2f}, {high:.2f}]"
