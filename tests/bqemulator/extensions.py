"""Installs DuckDB's extensions out of their packages, into $HOME; the emulator's Python runs it.

The emulator itself would download them whenever they are not there.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import duckdb

EXTENSIONS = ("spatial", "avro")


def install(name: str) -> None:
    """Installs one extension, of the version of this DuckDB."""
    package = importlib.util.find_spec(f"duckdb_extension_{name}")
    assert package is not None, f"requirements.txt has duckdb-extension-{name}"
    assert package.origin is not None, "it is a package of files"
    version = f"v{duckdb.__version__}"
    file = Path(package.origin).parent / "extensions" / version / f"{name}.duckdb_extension"
    duckdb.execute(f"INSTALL '{file}'")
    duckdb.execute(f"LOAD {name}")


if __name__ == "__main__":
    for extension in EXTENSIONS:
        install(extension)
