"""What each stage of a row's way costs on this machine: processor time, measured in one run.

The stages of a worker are run here, in one process and on one thread, by the worker's own code;
what a real worker takes beyond their sum is a cost, too. The grant and the map are those of a
daemon whose rows are all in memory, over many epochs. Wall time would tell how busy the machine is,
so all is processor time, the kernel's part included.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
import pyarrow as pa
import torch

from benchmarks.bigquery import (
    BATCH_ROWS,
    FEATURES,
    TABLE,
    USUAL_ROWS,
    USUAL_STREAMS,
    a_bench,
    make_rows,
)
from benchmarks.feeding import write_table
from benchmarks.scale_model import Costs, Shape
from faucet_client import BigQuerySource, DatasetSpec, ParquetSource
from faucet_client.feed import PREFETCH_GRANTS
from faucet_client.testing import LocalDaemon
from faucetd.fetch.plan import CHUNK_BYTES
from faucetd.fetch.source import Column
from faucetd.fetch.split import Splitter
from faucetd.prepare.chunk import ChunkPreparer
from faucetd.prepare.columns import PreparedColumns, resolve
from faucetd.prepare.permutation import ChunkId
from faucetd.publish.arrow_file import FixedColumn
from faucetd.publish.segment import SegmentWriter
from tests.bigquery_server.local import LocalBigQuery

T = TypeVar("T")

EPOCHS = 20

READ_ROWS = 1_000_000


@dataclass(frozen=True)
class Measured:
    """What `measure` found: costs of a row, and its bytes."""

    costs: Costs
    shape: Shape


class _Stopwatch:
    """Adds up processor time of this process, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def run(self, name: str, work: Callable[[], T]) -> T:
        began = time.process_time()
        done = work()
        spent = time.process_time() - began
        self.seconds[name] = self.seconds.get(name, 0.0) + spent
        return done


def measure(repeats: int) -> Measured:
    """Measures everything; the costs are medians of so many chunks."""
    torch.set_num_threads(1)
    columns, splitter = _dataset()
    rows = CHUNK_BYTES // columns.row_nbytes
    table = make_rows(rows).combine_chunks()
    decode, worker, worker_bytes = _read(repeats)
    chunks = [_chunk(table, columns, splitter, n) for n in range(repeats + 1)][1:]
    stages = {name: statistics.median(chunk[name] for chunk in chunks) / rows for name in chunks[0]}
    grant, mapping, daemon_bytes = _serve(rows)
    other = max(worker - decode - sum(stages.values()), 0.0)
    return Measured(
        Costs(decode=decode, other=other, grant=grant, map=mapping, **stages),
        Shape(
            wire_bytes=table.nbytes / rows,
            prepared_bytes=columns.row_nbytes,
            chunk_bytes=CHUNK_BYTES,
            worker_bytes=worker_bytes,
            daemon_bytes=daemon_bytes,
            held_chunks=PREFETCH_GRANTS + 1,
        ),
    )


def _dataset() -> tuple[PreparedColumns, Splitter]:
    spec = DatasetSpec(
        BigQuerySource(table=TABLE),
        features=[f"f{n}" for n in range(FEATURES)],
        labels=["y"],
        hash_column="key",
        eval_percent=10,
        preprocessing="none",
    )
    columns = resolve(spec, [(field.name, field.type) for field in make_rows(1).schema])
    return columns, Splitter(Column("key", pa.int64()), spec.split_buckets())


def _read(repeats: int) -> tuple[float, float, float]:
    """Receiving and decoding a row; all that a worker does of it; private bytes of a worker."""
    table = make_rows(READ_ROWS)
    with LocalBigQuery(message_rows=USUAL_ROWS) as server:
        server.load(TABLE, table)
        with a_bench(server, USUAL_STREAMS) as bench:
            trial, memory = bench.run(repeats)
    decode = statistics.median(each.cpu_seconds["reader"] for each in trial.decoded)
    worker = statistics.median(each.cpu_seconds["worker"] for each in trial.sealed)
    largest = max(period["worker"] for period in memory)
    return decode / READ_ROWS, worker / READ_ROWS, float(largest)


def _chunk(
    table: pa.Table, columns: PreparedColumns, splitter: Splitter, number: int
) -> dict[str, float]:
    """What splitting, preparing and publishing one chunk takes."""
    watch = _Stopwatch()
    batches = [
        pa.ipc.read_record_batch(batch.serialize(), table.schema)
        for batch in table.to_batches(max_chunksize=USUAL_ROWS)
    ]
    preparer = ChunkPreparer(columns)
    preparer.start(ChunkId("scale", "rows", number), None, [table.num_rows])
    for batch in batches:
        codes = watch.run("split", lambda: splitter.assign(batch.column("key")))  # noqa: B023 -- called here
        watch.run("prepare", lambda: preparer.add(batch, codes))  # noqa: B023
    rows = watch.run("prepare", preparer.finish)
    for split, count in rows.items():

        def writer() -> SegmentWriter:
            fixed = [FixedColumn(*column) for column in columns.fixed_columns()]
            made = SegmentWriter(fixed, columns.variable_columns(), count)  # noqa: B023
            made.arrays()  # waits for the memory
            return made

        with watch.run("publish", writer) as segment:
            appendix = watch.run("prepare", lambda: preparer.fill(split, segment.arrays()))  # noqa: B023
            sealed = watch.run(
                "publish",
                lambda: segment.finish(appendix.variable, appendix.valid, lambda _: None),  # noqa: B023
            )
        os.close(sealed.fd)
    return watch.seconds


def _serve(rows: int) -> tuple[float, float, float]:
    """Granting and mapping a row; private bytes of the main process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        write_table(path, 4 * rows, rows)
        names = [f"f{n}" for n in range(FEATURES)]
        spec = DatasetSpec(
            ParquetSource(str(path)),
            features=names,
            labels=["y"],
            preprocessing="none",
            chunk_rows=rows,
        )
        with LocalDaemon([folder], memory_budget="1GiB", workers=1) as daemon:
            client = daemon.client()
            dataset = client.open(spec)
            main = psutil.Process(daemon.process.pid)
            used = began = served = 0.0
            for epoch in dataset.epochs("train", count=EPOCHS + 1, batch_size=BATCH_ROWS):
                if epoch.number == 1:  # the first one reads the source
                    used, began = _used(main), time.process_time()
                for batch in epoch:
                    assert len(batch.labels["y"])
                    served += len(batch.features) if epoch.number else 0
            mapping = (time.process_time() - began) / served
            grant = (_used(main) - used) / served
            return grant, mapping, _private(main)


def _used(process: psutil.Process) -> float:
    # The clock of that process (clock_getres(2)): it grants in less than a tick of the others.
    return time.clock_gettime(~process.pid << 3 | 2)


def _private(process: psutil.Process) -> float:
    memory = process.memory_info()
    return float(memory.rss - memory.shared)
