"""Views and queries, materialized once into a DuckDB file of our own.

A view or a query has no rowids, and may cost minutes. So its rows are written to a file in the
scratch folder, named after the database's snapshot and the query, and every process that opens the
same finds it there: one process writes, under a lock, the others wait for it. The file appears
under its name only when it is whole.

A query need not give the same rows twice (think of `random()`). So the file must live as long as
anything that was made of its rows; whoever owns the scratch folder sees to that.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import duckdb

from faucetd.errors import SourceReadError, SpecError
from faucetd.fetch.connection import connect, identifier, reading

TABLE = "rows"
"""The name of the one table that a scratch file holds."""


def scratch_path(scratch_dir: str, snapshot: str, path: str, query: str) -> str:
    """The file that holds the rows of `query` at `snapshot`."""
    identity = "\0".join((snapshot, path, query)).encode(errors="surrogateescape")
    return os.path.join(scratch_dir, hashlib.sha256(identity).hexdigest()[:32] + ".duckdb")


def check_query(query: str) -> None:
    """Makes sure that `query` is one SELECT statement.

    Raises:
        SpecError: it is none, or several, or has parameters.
        SourceReadError: it is no SQL; with DuckDB's own message.
    """
    try:
        statements = duckdb.extract_statements(query)
    except duckdb.Error as error:
        raise SourceReadError(f"the query has an error: {error}") from error
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        found = ", ".join(statement.type.name for statement in statements) or "none"
        raise SpecError(f"DuckDBSource.query must be exactly one SELECT statement; found {found}")
    if statements[0].named_parameters:
        raise SpecError("DuckDBSource.query cannot have parameters; write the values into it")


def materialize(path: str, query: str, target: str, memory_limit: str) -> None:
    """Writes the rows of `query` over the database at `path` into the file `target`, if not there.

    Holds `memory_limit` and spills beyond it, beside the target. Blocks while another process
    writes the same file.

    Raises:
        SourceReadError: the query failed, or the scratch folder is full; no file is left behind.
    """
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with _locked(f"{target}.lock"):
        if os.path.exists(target):
            return
        partial = f"{target}.partial"
        _remove(partial)  # of a process that died over it
        try:
            _write(path, query, partial, memory_limit)
            os.replace(partial, target)
        finally:
            _remove(partial)


def _write(path: str, query: str, partial: str, memory_limit: str) -> None:
    connection = connect(
        path, database=partial, spill_dir=f"{partial}.spill", memory_limit=memory_limit
    )
    with reading(path, "the query"):
        try:
            own = identifier(os.path.basename(partial).split(".")[0])
            # The query stands on lines of its own: it may end in a comment.
            connection.execute(f"CREATE TABLE {own}.main.{TABLE} AS\n{query}\n")
            # Closing would write it out as well, but says nothing of a disk that is full.
            connection.execute(f"CHECKPOINT {own}")
        finally:
            connection.close()


def _remove(partial: str) -> None:
    for file in (partial, f"{partial}.wal"):
        with suppress(FileNotFoundError):
            os.remove(file)
    shutil.rmtree(f"{partial}.spill", ignore_errors=True)


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Holds the lock file at `path`, and leaves none behind.

    The last holder removes the file, so a waiter may get the lock of a file that is gone; it must
    then begin again with the file that others see.
    """
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_at(lock, path):
                try:
                    yield
                finally:
                    os.remove(path)
                return
        finally:
            os.close(lock)


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
