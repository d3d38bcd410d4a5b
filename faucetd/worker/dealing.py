"""Opens datasets of files with `chunking="hash"`: their rows are dealt to chunks on disk, once.

The folder of dealt rows is named after all that decides it: the files' state, the columns, the
split, and how large the chunks are. Who asks for the same while it is being made waits for it (a
lock on the file beside), in whichever worker; later daemons find it, and check its bytes. What
becomes of features is not among that: datasets that differ in it share the folder.

The dataset's key is made of the rows, not of the files: the same rows in other files, in another
order, make the same dataset, batches and all.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from faucet_client.spec import BigQuerySource, DatasetSpec
from faucetd.errors import BudgetError, ConfigError, SourceChanged, SourceEmpty
from faucetd.fetch.dealt import Deal, DealtTable, Told, deal
from faucetd.fetch.duckdb import DuckDBTable
from faucetd.fetch.duckdb_aggregates import DuckDBAggregates
from faucetd.fetch.files import FileState, snapshot_of
from faucetd.fetch.manifest import (
    MANIFEST,
    PART,
    VERSION,
    Manifest,
    has_its_bytes,
    has_its_files,
    read_manifest,
)
from faucetd.fetch.opening import file_states, open_files
from faucetd.fetch.pieces import PlannedChunk
from faucetd.fetch.plan import ChunkCut, choose_chunk_rows, count, cut
from faucetd.fetch.source import Source
from faucetd.fetch.split import Splitter
from faucetd.prepare.columns import PreparedColumns
from faucetd.sizes import format_size
from faucetd.worker.fitting import WAREHOUSE, Fitting
from faucetd.worker.messages import Access, DealtFacts, LoadChunk, Open, Opened
from faucetd.worker.opening import (
    FITTING_STAGE,
    Tell,
    fit_files_by_query,
    opened,
    progress_of,
    resolve_source,
    splitter_of,
)

DEALING_STAGE = "dealing rows to chunks"
SORTING_STAGE = "sorting the dealt rows"
CHECKING_STAGE = "checking the rows dealt before"

STREAMS_A_CHUNK = 4
"""Where only fitting tells how large a prepared row is: a chunk is then made of whole streams."""


def open_dealt(task: Open, spec: DatasetSpec, tell: Tell) -> Opened:
    """Opens a dataset of files by hash; see `opening.open_dataset`.

    Raises:
        BudgetError: the rows do not fit into what dealt ones may take.
        ConfigError: the disk is full, or fails.
    """
    assert not isinstance(spec.source, BigQuerySource)
    states = file_states(spec.source, allowed_roots=task.access.allowed_roots)
    snapshot = snapshot_of(states)
    folder = Path(task.access.dealt_dir) / _name(task, snapshot)
    with contextlib.ExitStack() as cleanup:
        lazy = _LazySource(task, spec, snapshot, cleanup)
        manifest, is_new = _dealt(task, spec, states, folder, lazy, tell)
        table = DealtTable(folder, manifest)
        columns = resolve_source(spec, table)
        splitter = splitter_of(spec, table, columns, has_buckets=manifest.has_buckets)
        if not manifest.source_rows:
            raise SourceEmpty(f"{spec.source} has no rows")
        fitting = Fitting(task, spec, columns)
        queried_rows = _fit(spec, fitting, table, splitter, manifest, lazy, tell)
        columns = fitting.columns
        chunk_rows = choose_chunk_rows(manifest.rows, columns.row_nbytes, spec.chunk_rows)
        chunks = _plan(table, manifest, cut(table.streams(), chunk_rows), splitter)
        return opened(
            task,
            columns,
            snapshot=manifest.content,
            chunk_rows=chunk_rows,
            chunks=chunks,
            count_rows_read=queried_rows + (manifest.source_rows if is_new else 0),
            count_bytes_read=manifest.source_bytes if is_new else 0,
            fit_key=fitting.key,
            dealt=DealtFacts(folder.name, snapshot, manifest.nbytes),
            notes=(_note(task.access, manifest, is_new),),
        )


def load_dealt(
    task: LoadChunk, spec: DatasetSpec
) -> tuple[Source, PreparedColumns, Splitter | None]:
    """The source that a chunk is read from; see `opening.open_to_load`."""
    folder = Path(task.access.dealt_dir) / task.dealt
    manifest = read_manifest(folder)
    if manifest is None:
        raise SourceChanged(
            f"the dealt rows of {spec.source} in {folder} are gone; drop the dataset (faucetd "
            "drop) and open it again, which deals them anew"
        )
    table = DealtTable(folder, manifest)
    columns = resolve_source(spec, table)
    return table, columns, splitter_of(spec, table, columns, has_buckets=manifest.has_buckets)


class _LazySource:
    """The files themselves, opened when they are first needed."""

    def __init__(
        self, task: Open, spec: DatasetSpec, snapshot: str, cleanup: contextlib.ExitStack
    ) -> None:
        self._task = task
        self._spec = spec
        self._snapshot = snapshot
        self._cleanup = cleanup
        self._opened: Source | None = None

    def get(self) -> Source:
        if self._opened is None:
            assert not isinstance(self._spec.source, BigQuerySource)
            source = open_files(
                self._spec.source,
                scratch_dir=self._task.access.scratch_dir,
                allowed_roots=self._task.access.allowed_roots,
                snapshot=self._snapshot,
            )
            self._opened = self._cleanup.enter_context(contextlib.closing(source))
        return self._opened


def _name(task: Open, snapshot: str) -> str:
    """Names the folder after all that decides which rows are in which of its files."""
    spec = task.spec
    decides = {
        "snapshot": snapshot,
        "principal": task.uid,
        "version": VERSION,
        "is_fine": _is_fine(spec["chunk_rows"], spec["preprocessing"]),
    } | {
        field: spec[field]
        for field in (
            "source", "features", "labels", "hash_column", "sample_percent", "eval_percent",
            "weight_column", "passthrough", "exclude_features", "chunk_rows",
        )
    }  # fmt: skip
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]


def _is_fine(chunk_rows: int | None, preprocessing: object) -> bool:
    """Whether the rows are dealt to more streams than there will be chunks."""
    return chunk_rows is None and preprocessing != "none"


def _dealt(
    task: Open,
    spec: DatasetSpec,
    states: tuple[FileState, ...],
    folder: Path,
    lazy: _LazySource,
    tell: Tell,
) -> tuple[Manifest, bool]:
    """The folder's manifest, and whether it was dealt just now."""
    room = _Room(task.access, folder)
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(folder.with_suffix(".lock")):
            manifest = _found(task.access, folder, tell)
            if manifest is not None:
                os.utime(folder / MANIFEST)
                return manifest, False
            shutil.rmtree(folder, ignore_errors=True)
            return _deal(spec, states, folder, lazy.get(), room, tell), True
    except OSError as error:
        raise _disk_error(spec, task.access, error) from error


def _found(access: Access, folder: Path, tell: Tell) -> Manifest | None:
    """What is there already, if it is whole and as it was written.

    What this daemon has looked at before, or written, is not read once more.
    """
    manifest = read_manifest(folder)
    if manifest is None or not has_its_files(folder, manifest):
        return None
    if (folder / MANIFEST).stat().st_mtime < access.dealt_since and not has_its_bytes(
        folder, manifest, progress_of(tell, CHECKING_STAGE, manifest.rows)
    ):
        return None
    return manifest


def _deal(
    spec: DatasetSpec,
    states: tuple[FileState, ...],
    folder: Path,
    source: Source,
    room: _Room,
    tell: Tell,
) -> Manifest:
    columns = resolve_source(spec, source)
    total_rows = sum(stream.rows for stream in source.streams())

    def streams(rows: int) -> int:
        size = choose_chunk_rows(rows, columns.row_nbytes, spec.chunk_rows)
        if _is_fine(spec.chunk_rows, spec.preprocessing):
            size = max(size // STREAMS_A_CHUNK, 1)
        return max(-(-rows // size), 1)

    buckets = spec.split_buckets()
    what = Deal(
        source=source,
        columns=columns.kept_columns,
        hash_column=columns.hash_column,
        buckets=buckets,
        states=states,
        streams=streams,
        nbytes=total_rows * 2 * columns.row_nbytes * buckets.eval_end // buckets.buckets,
    )
    return deal(
        what,
        folder,
        Told(
            read=progress_of(tell, DEALING_STAGE, total_rows),
            dealt=progress_of(tell, SORTING_STAGE, total_rows),
            written=room.check,
        ),
    )


def _fit(
    spec: DatasetSpec,
    fitting: Fitting,
    table: DealtTable,
    splitter: Splitter | None,
    manifest: Manifest,
    lazy: _LazySource,
    tell: Tell,
) -> int:
    """Finds the preprocessing spec; how many rows of the source were read for that, by queries.

    It is fitted to the dealt rows, of which the same are chosen whatever files they came from.
    """
    if not fitting.needed:
        return 0
    buckets = spec.split_buckets()
    train_rows = round(manifest.rows * buckets.train_end / buckets.eval_end)
    if spec.fit_on == WAREHOUSE and fitting.by_query:
        source = lazy.get()
        assert isinstance(source, DuckDBTable), "only DuckDB has an engine, as specs are told"
        engine = DuckDBAggregates(source, splitter_of(spec, source, fitting.columns))
        queries = fit_files_by_query(
            fitting, engine, source.snapshot, (table, splitter, train_rows), tell
        )
        return queries * manifest.source_rows
    fitting.fit(
        table,
        splitter,
        manifest.content,
        train_rows,
        progress_of(tell, FITTING_STAGE, manifest.rows),
    )
    return 0


def _plan(
    table: DealtTable, manifest: Manifest, cuts: list[ChunkCut], splitter: Splitter | None
) -> tuple[PlannedChunk, ...]:
    """The chunks, whose rows were counted while they were dealt.

    But for parts of streams, which there are where rows have turned out to be larger: those are
    counted in the dealt rows.
    """
    streams = {str(number): stream for number, stream in enumerate(manifest.streams)}
    if any(
        piece.stop - piece.start < streams[piece.stream].rows for c in cuts for piece in c.pieces
    ):
        return count(table, cuts, splitter).chunks
    return tuple(
        PlannedChunk(
            chunk.pieces,
            chunk.lane,
            sum(streams[piece.stream].train_rows for piece in chunk.pieces),
            sum(streams[piece.stream].eval_rows for piece in chunk.pieces),
        )
        for chunk in cuts
    )


class _Room:
    """What dealt rows may take on disk, of all datasets together.

    Args:
        access: Where they are, and how much it is.
        folder: The one that is being dealt to.
    """

    def __init__(self, access: Access, folder: Path) -> None:
        self._access = access
        self._mine = {folder.name, folder.name + PART}

    def check(self) -> None:
        """Removes folders that no dataset of this daemon has used, if there is no room otherwise.

        Raises:
            BudgetError: there is no room nevertheless.
        """
        limit = self._access.dealt_budget
        taken = {folder: _disk_bytes(folder) for folder in _folders(self._access)}
        for folder in sorted(taken, key=_used_at):
            if sum(taken.values()) <= limit:
                return
            if folder.name not in self._mine and _used_at(folder) < self._access.dealt_since:
                shutil.rmtree(folder, ignore_errors=True)
                del taken[folder]
        if sum(taken.values()) > limit:
            mine = sum(nbytes for folder, nbytes in taken.items() if folder.name in self._mine)
            others = sum(taken.values()) - mine
            raise BudgetError(
                f"dealing the rows to chunks by hash needs more than dealt_budget="
                f"{format_size(limit)} on disk: {format_size(mine)} of them were written, and "
                f"{format_size(others)} are of other datasets. Raise dealt_budget, drop other "
                'datasets (faucetd drop), or leave chunking="auto"'
            )


def _folders(access: Access) -> list[Path]:
    return [entry for entry in Path(access.dealt_dir).iterdir() if entry.is_dir()]


def _used_at(folder: Path) -> float:
    """When a whole folder was last used; of one that is not whole, that it is in use."""
    try:
        return (folder / MANIFEST).stat().st_mtime
    except OSError:
        return float("inf")


def _disk_bytes(folder: Path) -> int:
    total = 0
    with contextlib.suppress(FileNotFoundError):  # whoever made it may be done with it
        for entry in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):
                total += entry.stat().st_size
    return total


def _note(access: Access, manifest: Manifest, is_new: bool) -> str:
    how = "were dealt to chunks by hash" if is_new else "dealt to chunks by hash before, were found"
    return (
        f"the rows {how}: they take {format_size(manifest.nbytes)} in scratch_dir, where "
        f"dealt_budget={format_size(access.dealt_budget)} for all datasets"
    )


def _disk_error(spec: DatasetSpec, access: Access, error: OSError) -> ConfigError:
    remedy = "choose another scratch_dir"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = (
            f"that disk is full: make room there, {remedy}, drop other datasets (faucetd drop), or "
            'leave chunking="auto"'
        )
    return ConfigError(
        f"the rows of {spec.source} cannot be dealt to chunks in {access.dealt_dir}: {error}; "
        f"{remedy}"
    )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # the kernel lets go of it if this worker dies
        yield
    finally:
        os.close(descriptor)
