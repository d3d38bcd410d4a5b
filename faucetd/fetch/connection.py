"""Connections to a DuckDB database that can read it, and nothing else of this machine.

Each connection is an in-memory instance of its own, with the database attached read-only: DuckDB
shares an instance among all who connect to one path in a process, and would go on to show a file
that has been replaced meanwhile. Once attached, access to other files is switched off and the
configuration locked, so that no SQL, of ours or of a view, can undo it.

DuckDB locks an attached file: while the connection lives, no process can write to the database.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from faucetd.errors import SourceError, SourceReadError

MEMORY_LIMIT = "256MB"
"""What DuckDB may hold of a database's blocks, or of a query's state, before it spills."""

_RESERVED = ("main", "memory", "system", "temp")


def connect(
    path: str,
    *,
    memory_limit: str = MEMORY_LIMIT,
    database: str = ":memory:",
    spill_dir: str = "",
) -> duckdb.DuckDBPyConnection:
    """A connection whose default catalog is the database at `path`, under `catalog_name(path)`.

    Args:
        path: The database to read.
        memory_limit: In DuckDB's words, as in "256MB".
        database: The connection's own database; a file that may be written, or none.
        spill_dir: Where queries may put what the memory limit does not hold; "" for nowhere.

    Raises:
        SourceReadError: the file is no DuckDB database, or another process writes to it.
    """
    with reading(path, "opening it"):
        # One thread: rows then come in the order of their rowids, and a worker is one core's worth.
        connection = duckdb.connect(
            database,
            config={
                "memory_limit": memory_limit,
                "threads": 1,
                "temp_directory": spill_dir,
                "preserve_insertion_order": True,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            },
        )
        try:
            # It would be drawn on the standard output of whoever reads for longer than two seconds.
            connection.execute("SET enable_progress_bar = false")
            # A name that is no table would be looked up among the variables of our own code.
            connection.execute("SET GLOBAL python_enable_replacements = false")
            # Else the rows of a query could depend on the environment of the process.
            connection.execute("SET GLOBAL TimeZone = 'UTC'")
            name = identifier(catalog_name(path))
            connection.execute(f"ATTACH {literal(path)} AS {name} (TYPE duckdb, READ_ONLY)")
            connection.execute(f"USE {name}")
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
        except BaseException:
            connection.close()
            raise
    return connection


def catalog_name(path: str) -> str:
    """What DuckDB itself calls the database at `path`: queries may use this name."""
    stem = os.path.basename(path).split(".")[0] or "database"
    return f"{stem}_db" if stem.lower() in _RESERVED else stem


def identifier(name: str) -> str:
    """`name` as a quoted identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """`text` as a string of SQL."""
    return "'" + text.replace("'", "''") + "'"


@contextmanager
def reading(path: str, part: str) -> Iterator[None]:
    """Turns what DuckDB raises while it reads `part` of the database at `path` into our errors.

    Its Arrow readers raise OSError or Arrow's own exceptions, all else raises duckdb.Error.
    """
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise read_error(path, part, error) from error


def read_error(path: str, part: str, error: Exception) -> SourceError:
    """The error for a failure of DuckDB's, with DuckDB's own message."""
    text = str(error)
    if "Could not set lock" in text or "Unique file handle conflict" in text:
        return SourceReadError(
            f"{path} is open for writing, and DuckDB lets nobody read meanwhile; close it there, "
            f"or train on a copy of the file ({text})"
        )
    if isinstance(error, duckdb.PermissionException):
        return SourceReadError(
            f"{path}: {part} asks for more than the database itself, which Faucet ML does not "
            f"allow: {text}"
        )
    return SourceReadError(f"{path}: {part} failed: {text}")
