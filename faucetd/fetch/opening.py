"""From the description of files to the open source, past the daemon's own rules.

A path is judged by where it really leads: symbolic links are resolved before it is compared with
`allowed_roots`, and before anything is said about what is there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from faucet_client.spec import DuckDBSource, ParquetSource
from faucetd.errors import SourceChanged, SourceForbidden, SourceReadError
from faucetd.fetch.connection import MEMORY_LIMIT
from faucetd.fetch.duckdb import DuckDBTable, database_states
from faucetd.fetch.files import FileState, forbidden, snapshot_of
from faucetd.fetch.parquet import ParquetTable, parquet_files
from faucetd.fetch.source import Source

FileDescription = ParquetSource | DuckDBSource


def open_files(
    description: FileDescription,
    *,
    scratch_dir: str,
    allowed_roots: Sequence[str],
    snapshot: str | None = None,
    duckdb_memory_limit: str = MEMORY_LIMIT,
) -> Source:
    """Opens what `description` names. May block: a view or query is materialized here.

    Args:
        description: What to open.
        scratch_dir: The daemon's folder for materialized views and queries; one for all processes,
            which lives as long as anything that was made of their rows.
        allowed_roots: The folders that files may lie in, at any depth.
        snapshot: The snapshot that it must be at; by default whatever is there now.
        duckdb_memory_limit: What DuckDB may hold for this source, as in "256MB".

    Raises:
        SourceNotFound: there is no such file, no Parquet file in the folder, no such table.
        SourceForbidden: the path leads outside `allowed_roots`, or its permissions forbid reading.
        SourceChanged: it is not at `snapshot`.
        SourceReadError: it is there, and cannot be read.
        SpecError: the query is not one SELECT statement.
        ColumnError: two columns have the same dotted name.
    """
    files = _files(description, allowed_roots)
    if isinstance(description, DuckDBSource):
        return DuckDBTable(
            files[0],
            table=description.table,
            query=description.query,
            scratch_dir=scratch_dir,
            memory_limit=duckdb_memory_limit,
            snapshot=snapshot,
        )
    source = ParquetTable(description.path, files)
    if snapshot is not None and source.snapshot != snapshot:
        source.close()
        raise SourceChanged(
            f"the files of {description.path} have changed since the dataset was opened; "
            "open the dataset again to train on what they hold now"
        )
    return source


def current_snapshot(description: FileDescription, *, allowed_roots: Sequence[str]) -> str:
    """The snapshot that `open_files` would open now. Cheap: looks at files, and opens none.

    Raises:
        SourceNotFound: there is no such file, or no Parquet file in the folder.
        SourceForbidden: the path leads outside `allowed_roots`, or its permissions forbid it.
    """
    return snapshot_of(file_states(description, allowed_roots=allowed_roots))


def file_states(
    description: FileDescription, *, allowed_roots: Sequence[str]
) -> tuple[FileState, ...]:
    """The files whose states make the snapshot; raises as `current_snapshot`."""
    files = _files(description, allowed_roots)
    if isinstance(description, DuckDBSource):
        return database_states(files[0])
    return tuple(FileState.of(file) for file in files)


def _files(description: FileDescription, allowed_roots: Sequence[str]) -> list[str]:
    """The real paths of the files that `description` names, each readable and allowed."""
    roots = [os.path.realpath(root) for root in allowed_roots]
    # Before the first look at the filesystem: what is outside is none of the client's business.
    _check_allowed(_fixed_part(description), description.path, roots)
    if isinstance(description, ParquetSource):
        files = [os.path.realpath(file) for file in parquet_files(description.path)]
    else:
        files = [os.path.realpath(description.path)]
        _check_allowed(f"{files[0]}.wal", description.path, roots)
    if len(set(files)) < len(files):
        twice = next(file for file in files if files.count(file) > 1)
        raise SourceReadError(
            f"{description.path} leads to {twice} more than once, over symbolic links; its rows "
            "would be read as often. Name a narrower path"
        )
    for file in files:
        _check_allowed(file, description.path, roots)
        FileState.of(file)
        if not os.path.isfile(file):
            raise SourceReadError(f"{file} is not a regular file")
        if not os.access(file, os.R_OK, effective_ids=True):
            raise forbidden(file)
    return files


def _fixed_part(description: FileDescription) -> str:
    """The path, or the folder that a pattern begins its search in."""
    if not isinstance(description, ParquetSource) or os.path.lexists(description.path):
        return description.path
    fixed = description.path
    while any(magic in fixed for magic in "*?["):
        fixed = os.path.dirname(fixed)
    return fixed


def _check_allowed(path: str, asked: str, roots: Sequence[str]) -> None:
    real = os.path.realpath(path)
    if any(os.path.commonpath((real, root)) == root for root in roots):
        return
    leads = "" if real == asked else f", which leads to {real},"
    allowed = f"allowed_roots are {', '.join(roots)}" if roots else "allowed_roots is empty"
    raise SourceForbidden(
        f"{asked}{leads} is outside the folders that this daemon reads ({allowed}). To allow it, "
        "start the daemon with --allowed-roots DIR, or add DIR to allowed_roots in its settings "
        "file"
    )
