"""What the daemon lets a description name."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from faucet_client.spec import DuckDBSource, ParquetSource
from faucetd.errors import SourceForbidden, SourceNotFound, SourceReadError
from faucetd.fetch.opening import FileDescription, current_snapshot, open_files
from faucetd.fetch.source import Source
from tests.pure.sources.kinds import rows_of, whole


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the root, whose name begins like the root's; with a table of each kind."""
    folder = tmp_path / "root-of-another"
    folder.mkdir()
    pq.write_table(pa.table({"id": [1]}), folder / "t.parquet")
    with duckdb.connect(str(folder / "t.duckdb")) as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS id")
    return folder


def try_open(description: FileDescription, *roots: Path) -> Source:
    allowed = [str(root) for root in roots]
    scratch = tempfile.gettempdir()
    return open_files(description, scratch_dir=scratch, allowed_roots=allowed)


def test_what_lies_under_any_root_opens(root: Path, outside: Path) -> None:
    source = try_open(ParquetSource(str(outside / "t.parquet")), root, outside)
    assert rows_of(source, whole(source), ["id"]) == [(1,)]
    source = try_open(DuckDBSource(str(outside / "t.duckdb"), table="t"), root, outside)
    assert rows_of(source, whole(source), ["id"]) == [(1,)]
    source.close()


def test_what_lies_outside_is_forbidden_and_the_message_names_path_roots_and_remedy(
    root: Path, outside: Path
) -> None:
    for description in (
        ParquetSource(str(outside / "t.parquet")),
        ParquetSource(str(outside)),
        ParquetSource(f"{outside}/*.parquet"),
        ParquetSource(f"{outside.parent}/**/*.parquet"),
        ParquetSource(f"{root}/../{outside.name}/t.parquet"),
        DuckDBSource(str(outside / "t.duckdb"), table="t"),
    ):
        for act in (
            lambda d: try_open(d, root),
            lambda d: current_snapshot(d, allowed_roots=[str(root)]),
        ):
            with pytest.raises(SourceForbidden) as error:
                act(description)
            for part in (description.path, str(root), "--allowed-roots DIR", "allowed_roots"):
                assert part in error.value.message


def test_no_root_allows_nothing(outside: Path) -> None:
    with pytest.raises(SourceForbidden, match="allowed_roots is empty"):
        try_open(ParquetSource(str(outside / "t.parquet")))


def test_whether_something_exists_outside_is_not_told(root: Path, outside: Path) -> None:
    for name in ("t.parquet", "missing.parquet", "*.missing", "missing/"):
        with pytest.raises(SourceForbidden):
            try_open(ParquetSource(str(outside / name)), root)
    with pytest.raises(SourceForbidden):
        try_open(DuckDBSource(str(outside / "missing.duckdb"), table="t"), root)


def test_a_symbolic_link_does_not_lead_out_of_the_root(root: Path, outside: Path) -> None:
    (root / "file.parquet").symlink_to(outside / "t.parquet")
    (root / "folder").symlink_to(outside)
    (root / "t.duckdb").symlink_to(outside / "t.duckdb")
    for description in (
        ParquetSource(str(root / "file.parquet")),
        ParquetSource(str(root)),
        ParquetSource(f"{root}/*.parquet"),
        ParquetSource(str(root / "folder")),
        ParquetSource(f"{root}/folder/*.parquet"),
        ParquetSource(f"{root}/f*r/t.parquet"),
        DuckDBSource(str(root / "t.duckdb"), table="t"),
        DuckDBSource(str(root / "folder" / "t.duckdb"), table="t"),
    ):
        with pytest.raises(SourceForbidden, match=f"leads to {outside}"):
            try_open(description, root)


def test_a_write_ahead_log_does_not_lead_out_of_the_root(root: Path, outside: Path) -> None:
    (outside / "t.duckdb").rename(root / "t.duckdb")
    (root / "t.duckdb.wal").symlink_to(outside / "t.duckdb.wal")
    with pytest.raises(SourceForbidden, match=r"t\.duckdb\.wal"):
        try_open(DuckDBSource(str(root / "t.duckdb"), table="t"), root)


def test_a_symbolic_link_within_the_roots_opens_and_so_does_a_root_that_is_one(
    root: Path, outside: Path, tmp_path: Path
) -> None:
    (root / "file.parquet").symlink_to(outside / "t.parquet")
    link = tmp_path / "link"
    link.symlink_to(outside)
    source = try_open(ParquetSource(str(root / "file.parquet")), root, link)
    assert rows_of(source, whole(source), ["id"]) == [(1,)]
    source = try_open(ParquetSource(str(link / "t.parquet")), link)
    assert rows_of(source, whole(source), ["id"]) == [(1,)]


def test_the_root_of_the_filesystem_allows_everything(outside: Path) -> None:
    assert try_open(ParquetSource(str(outside)), Path("/")).snapshot


def test_what_is_missing_is_not_found(root: Path) -> None:
    (root / "empty").mkdir()
    for description in (
        ParquetSource(str(root / "missing.parquet")),
        ParquetSource(str(root / "empty")),
        ParquetSource(f"{root}/*.parquet"),
        ParquetSource(str(root / "missing" / "t.parquet")),
        DuckDBSource(str(root / "missing.duckdb"), table="t"),
    ):
        with pytest.raises(SourceNotFound):
            try_open(description, root)
        with pytest.raises(SourceNotFound):
            current_snapshot(description, allowed_roots=[str(root)])


def test_a_dangling_link_is_not_found(root: Path) -> None:
    (root / "t.parquet").symlink_to(root / "gone.parquet")
    with pytest.raises(SourceNotFound):
        try_open(ParquetSource(str(root / "t.parquet")), root)


def test_a_file_of_another_format_cannot_be_read(root: Path) -> None:
    (root / "t.txt").write_text("neither the one nor the other")
    with pytest.raises(SourceReadError, match=r"t\.txt cannot be read as Parquet"):
        try_open(ParquetSource(str(root / "t.txt")), root)
    with pytest.raises(SourceReadError, match="not a valid DuckDB database"):
        try_open(DuckDBSource(str(root / "t.txt"), table="t"), root)


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder that an ordinary user may enter, while this process is such a user."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        for name in ("t.parquet", "t.duckdb"):
            (Path(folder) / name).write_bytes(b"x")
            os.chmod(Path(folder) / name, 0o000)
        closed = Path(folder) / "closed"
        closed.mkdir()
        (closed / "t.parquet").write_bytes(b"x")
        closed.chmod(0o000)
        was = os.geteuid()
        try:
            if was == 0:
                os.seteuid(65534)
            yield Path(folder)
        finally:
            os.seteuid(was)
            closed.chmod(0o700)


def test_what_the_daemons_user_may_not_read_is_forbidden(nobody: Path) -> None:
    for description in (
        ParquetSource(str(nobody / "t.parquet")),
        ParquetSource(str(nobody)),
        ParquetSource(str(nobody / "closed")),
        ParquetSource(str(nobody / "closed" / "t.parquet")),
        DuckDBSource(str(nobody / "t.duckdb"), table="t"),
    ):
        with pytest.raises(SourceForbidden, match="no permission to read"):
            try_open(description, nobody)


def test_looking_for_another_snapshot_opens_nothing(
    outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a file was opened")

    monkeypatch.setattr(pq, "ParquetFile", opened)
    monkeypatch.setattr(duckdb, "connect", opened)
    roots = [str(outside)]
    assert current_snapshot(ParquetSource(str(outside)), allowed_roots=roots)
    table = DuckDBSource(str(outside / "t.duckdb"), table="t")
    assert current_snapshot(table, allowed_roots=roots)


def test_a_new_file_in_the_folder_is_a_new_snapshot(outside: Path) -> None:
    description, roots = ParquetSource(str(outside)), [str(outside)]
    before = current_snapshot(description, allowed_roots=roots)
    pq.write_table(pa.table({"id": [2]}), outside / "u.parquet")
    assert current_snapshot(description, allowed_roots=roots) != before
