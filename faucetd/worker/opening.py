"""Opens a dataset: what `Open` asks for, by kind of source.

Files are cut into chunks whose rows are counted now. A warehouse tells how many rows there are in
all; its chunks are either planned by it, or open: found one after another while they are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from faucet_client.preprocessing.spec import PreprocessingSpec
from faucet_client.spec import SPLITS, BigQuerySource, DatasetSpec, Split
from faucetd.errors import SourceEmpty
from faucetd.fetch.bigquery import sql
from faucetd.fetch.duckdb import DuckDBTable
from faucetd.fetch.duckdb_aggregates import DuckDBAggregates
from faucetd.fetch.opening import open_files
from faucetd.fetch.pieces import PlannedChunk
from faucetd.fetch.plan import choose_chunk_rows, count, cut
from faucetd.fetch.source import Source
from faucetd.fetch.split import Splitter
from faucetd.prepare.columns import PreparedColumns, resolve
from faucetd.publish.arrow_file import FixedColumn
from faucetd.publish.segment import estimate_nbytes
from faucetd.worker.fitting import WAREHOUSE, Fitting, TrainRows
from faucetd.worker.messages import (
    DealtFacts,
    LoadChunk,
    Open,
    Opened,
    Progress,
    SplitTotal,
    WarehouseFacts,
    read_spec,
)

PREPARE_VERSION = 1
"""Part of every dataset's key: raised when the same rows would become other bytes."""

FITTING = ("preprocessing", "fit", "fit_on", "fit_rows")
"""Fields of a spec that say how features are fitted: what came of it is in the fitted spec."""

FITTING_STAGE = "fitting the preprocessing"

RANGES_NOTE = (
    'chunking="auto" took ranges of the files\' rows, which are the same on every run and cost no '
    "disk"
)

PROGRESS_INTERVAL_S = 0.1

VARIABLE_BYTES_GUESS = 32
"""Bytes a row that are reserved for the characters of a text column, or the ids of a column of
lists, before any row has been seen."""

Tell = Callable[[Progress], None]


def open_dataset(task: Open, tell: Tell) -> Opened:
    """Opens what the task describes.

    Args:
        task: What to open.
        tell: Is told how far it has come.

    Raises:
        FaucetError: see `fetch` and `prepare.columns.resolve`.
    """
    spec = read_spec(task.spec)
    if isinstance(spec.source, BigQuerySource):
        from faucetd.worker import warehouse  # Google's libraries take a second to import

        return warehouse.open_bigquery(task, spec, spec.source, tell)
    if spec.chunking == "hash":
        from faucetd.worker import dealing  # which imports this

        return dealing.open_dealt(task, spec, tell)
    return _open_files(task, spec, tell)


def open_to_load(task: LoadChunk) -> tuple[Source, PreparedColumns, Splitter | None]:
    """The source that a chunk is read from, at the dataset's snapshot.

    Raises:
        FaucetError: see `fetch`.
    """
    spec = read_spec(task.spec)
    if isinstance(spec.source, BigQuerySource):
        from faucetd.worker import warehouse

        table, has_buckets = warehouse.table_of(task)
        columns = _with_fitted(task, resolve_source(spec, table))
        return table, columns, splitter_of(spec, table, columns, has_buckets=has_buckets)
    source: Source
    if task.dealt:
        from faucetd.worker import dealing

        source, columns, splitter = dealing.load_dealt(task, spec)
        return source, _with_fitted(task, columns), splitter
    source = open_files(
        spec.source,
        scratch_dir=task.access.scratch_dir,
        allowed_roots=task.access.allowed_roots,
        snapshot=task.snapshot,
    )
    columns = _with_fitted(task, resolve_source(spec, source))
    return source, columns, splitter_of(spec, source, columns)


def segment_bytes(columns: PreparedColumns, rows: int) -> int:
    """What the segment of so many rows needs, text and lists apart, of which it is a guess."""
    if rows == 0:
        return 0
    fixed = [FixedColumn(*column) for column in columns.fixed_columns()]
    variable = columns.variable_columns()
    return estimate_nbytes(fixed, variable, rows) + len(variable) * rows * VARIABLE_BYTES_GUESS


def split_rows(chunk: PlannedChunk) -> dict[Split, int]:
    """The rows of each split."""
    return {"train": chunk.train_rows, "eval": chunk.eval_rows}


def guess_chunk(chunk: PlannedChunk, shares: Mapping[Split, float]) -> PlannedChunk:
    """An open chunk with the rows that it will have at most, if each is of a split by its share.

    By six standard deviations of a binomial distribution too many: too few would have to be asked
    for, and reserving too many costs nothing for long.
    """
    rows = sum(piece.stop - piece.start for piece in chunk.pieces)
    guess = {}
    for split in SPLITS:
        share = min(shares.get(split, 0.0), 1.0)
        deviation = math.sqrt(rows * share * (1 - share))
        guess[split] = min(math.ceil(rows * share + 6 * deviation), rows)
    return PlannedChunk(chunk.pieces, chunk.lane, guess["train"], guess["eval"], open=True)


def _open_files(task: Open, spec: DatasetSpec, tell: Tell) -> Opened:
    assert not isinstance(spec.source, BigQuerySource)
    source = open_files(
        spec.source,
        scratch_dir=task.access.scratch_dir,
        allowed_roots=task.access.allowed_roots,
    )
    with contextlib.closing(source):
        columns = resolve_source(spec, source)
        splitter = splitter_of(spec, source, columns)
        total_rows = sum(stream.rows for stream in source.streams())
        if total_rows == 0:
            raise SourceEmpty(f"{spec.source} has no rows")
        fitting = Fitting(task, spec, columns)
        buckets = spec.split_buckets()
        train_rows = round(total_rows * buckets.train_end / buckets.buckets)
        asked = fitting.needed and spec.fit_on == WAREHOUSE
        if asked and isinstance(source, DuckDBTable) and fitting.by_query:
            engine = DuckDBAggregates(source, splitter)
            queries = fit_files_by_query(
                fitting, engine, source.snapshot, (source, splitter, train_rows), tell
            )
            fitting.rows_read = queries * total_rows
        elif fitting.needed:
            fitting.fit(
                source,
                splitter,
                source.snapshot,
                train_rows,
                progress_of(tell, FITTING_STAGE, total_rows),
            )
        columns = fitting.columns
        chunk_rows = choose_chunk_rows(total_rows, columns.row_nbytes, spec.chunk_rows)
        cuts = cut(source.streams(), chunk_rows)
        counted = count(source, cuts, splitter, progress_of(tell, "counting rows", total_rows))
        return opened(
            task,
            columns,
            snapshot=source.snapshot,
            chunk_rows=chunk_rows,
            chunks=counted.chunks,
            count_rows_read=counted.rows_read + fitting.rows_read,
            count_bytes_read=counted.bytes_read + fitting.bytes_read,
            fit_key=fitting.key,
            lasting=not (isinstance(source, DuckDBTable) and source.materialized),
            notes=(RANGES_NOTE,),
        )


def fit_files_by_query(
    fitting: Fitting, engine: DuckDBAggregates, snapshot: str, rows: TrainRows, tell: Tell
) -> int:
    """Fits by queries of the files' own engine; how many were run.

    Args:
        fitting: The fit.
        engine: Where the rows are.
        snapshot: Identifies them.
        rows: Where some can be read, for the profile.
        tell: Is told.
    """
    return fitting.fit_by_query(
        engine,
        snapshot,
        lambda _: tell(Progress(f"{FITTING_STAGE} by queries", 0, 0)),
        lambda: rows,
    )


def opened(
    task: Open,
    columns: PreparedColumns,
    *,
    snapshot: str,
    chunk_rows: int,
    chunks: tuple[PlannedChunk, ...],
    totals: dict[Split, SplitTotal] | None = None,
    warehouse: WarehouseFacts | None = None,
    count_rows_read: int = 0,
    count_bytes_read: int = 0,
    fit_key: str = "",
    lasting: bool = True,
    dealt: DealtFacts | None = None,
    notes: tuple[str, ...] = (),
) -> Opened:
    """The reply to `Open`."""
    # Which moment was asked for is all in the snapshot that came of it; and which files, where
    # that is of the rows themselves.
    source = {name: value for name, value in task.spec["source"].items() if name != "snapshot"}
    return Opened(
        key=_dataset_key(
            task, columns.fitted, {} if dealt is not None else source, snapshot, chunk_rows
        ),
        snapshot=snapshot,
        chunk_rows=chunk_rows,
        features=tuple(column.name for column in columns.features),
        labels=tuple(column.name for column in columns.labels),
        passthrough=tuple(column.name for column in columns.passthrough),
        passthrough_paths=tuple(column.source for column in columns.passthrough),
        weighted=columns.weight is not None,
        chunks=chunks,
        segment_bytes={
            split: tuple(segment_bytes(columns, split_rows(chunk)[split]) for chunk in chunks)
            for split in SPLITS
        },
        count_rows_read=count_rows_read,
        count_bytes_read=count_bytes_read,
        totals=totals or {},
        warehouse=warehouse,
        preprocessing="" if columns.fitted is None else columns.fitted.to_json(),
        fit_key=fit_key,
        lasting=lasting,
        dealt=dealt,
        notes=notes,
    )


def _with_fitted(task: LoadChunk, columns: PreparedColumns) -> PreparedColumns:
    if not task.preprocessing:
        return columns
    return columns.with_spec(PreprocessingSpec.from_json(task.preprocessing))


def resolve_source(spec: DatasetSpec, source: Source) -> PreparedColumns:
    """What the columns that the spec names are in the source; see `prepare.columns.resolve`."""
    columns = [(c.name, c.type) for c in source.columns() if c.name != sql.BUCKET]
    return resolve(spec, columns)


def splitter_of(
    spec: DatasetSpec, source: Source, columns: PreparedColumns, *, has_buckets: bool = False
) -> Splitter | None:
    """What tells the splits: the hash column, or the source's buckets; None if all are train."""
    if columns.hash_column is None:
        return None
    name = sql.BUCKET if has_buckets else columns.hash_column
    column = next(column for column in source.columns() if column.name == name)
    return Splitter(column, spec.split_buckets(), holds_buckets=has_buckets)


def progress_of(tell: Tell, stage: str, total_rows: int) -> Callable[[int], None]:
    """Tells how many rows are done, now and then."""
    last = time.monotonic()

    def counted(rows: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_INTERVAL_S:
            last = now
            tell(Progress(stage, rows, total_rows))

    return counted


def _dataset_key(
    task: Open,
    fitted: PreprocessingSpec | None,
    source: Mapping[str, Any],
    snapshot: str,
    chunk_rows: int,
) -> str:
    """Hash of all that decides the bytes of the dataset's segments, and of who may read them."""
    decides = {
        "spec": {name: value for name, value in task.spec.items() if name not in FITTING}
        | {"source": dict(source), "chunk_rows": chunk_rows},
        "preprocessing": "none" if fitted is None else fitted.key(),
        "snapshot": snapshot,
        "principal": task.uid,
        "prepare_version": PREPARE_VERSION,
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]
