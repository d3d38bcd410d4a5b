"""The plan journal: whole or not at all, without open files, and read no further than needed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from faucetd.fetch.bigquery.settings import BigQuerySettings
from faucetd.fetch.pieces import Piece, PlannedChunk
from faucetd.journal import Plan, PlanJournal
from faucetd.worker.messages import FoundChunk, Opened, SplitTotal, WarehouseFacts

LIFETIME_S = 21_600.0
FOUND = FoundChunk(PlannedChunk((Piece("s", 0, 10),), 0, 8, 2), {"train": 80}, None, {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "plans"


@pytest.fixture
def journal(folder: Path) -> PlanJournal:
    return PlanJournal(folder, BigQuerySettings())


def opened(key: str) -> Opened:
    return Opened(
        key=key,
        snapshot="now",
        chunk_rows=10,
        features=("f",),
        labels=(),
        passthrough=(),
        passthrough_paths=(),
        weighted=False,
        chunks=(),
        segment_bytes={"train": (), "eval": ()},
        count_rows_read=0,
        count_bytes_read=0,
        totals={"train": SplitTotal(8, 80), "eval": SplitTotal(2, 20)},
        warehouse=WarehouseFacts("{}", "me", 0, 0, LIFETIME_S, ()),
    )


def begin(journal: PlanJournal, key: str, spec: str = "mine", age_s: float = 0.0) -> None:
    journal.begin({"spec": spec}, opened(key), time.time() - age_s)


def plans(journal: PlanJournal, spec: str = "mine") -> list[Plan]:
    return list(journal.plans(lambda described: described == {"spec": spec}))


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A disk that has room for so many bytes more, once a number is in the list."""
    room: list[int] = []
    write = os.write

    def short(fd: int, data: bytes) -> int:
        if not room:
            return write(fd, data)
        room[0] -= (written := write(fd, data[: room[0]]))
        return written

    monkeypatch.setattr(os, "write", short)
    yield room
    room.clear()


def test_a_plan_is_read_as_it_was_written(folder: Path, journal: PlanJournal) -> None:
    begin(journal, "one")
    journal.append("one", 0, FOUND)
    journal.append("one", 3, FOUND)
    (plan,) = plans(PlanJournal(folder, BigQuerySettings()))
    assert plan.opened == opened("one")
    assert plan.found == ((0, FOUND), (3, FOUND))


def test_a_header_that_is_written_short_is_an_error_and_leaves_no_file(
    folder: Path, journal: PlanJournal, full_disk: list[int]
) -> None:
    full_disk.append(100)
    with pytest.raises(OSError, match="no space is left"):
        begin(journal, "one")
    assert list(folder.iterdir()) == []


def test_a_line_that_is_written_short_is_an_error_and_never_read(
    folder: Path, journal: PlanJournal, full_disk: list[int]
) -> None:
    begin(journal, "one")
    journal.append("one", 0, FOUND)
    full_disk.append(20)
    with pytest.raises(OSError, match="no space is left"):
        journal.append("one", 1, FOUND)
    full_disk.clear()
    (plan,) = plans(PlanJournal(folder, BigQuerySettings()))
    assert plan.found == ((0, FOUND),)


def test_what_a_crash_cut_off_is_removed_before_the_next_line(
    folder: Path, journal: PlanJournal
) -> None:
    begin(journal, "one")
    journal.append("one", 0, FOUND)
    with (folder / "one.plan").open("ab") as file:
        file.write(b'{"number":7,"fou')
    after = PlanJournal(folder, BigQuerySettings())
    after.append("one", 1, FOUND)
    (plan,) = plans(after)
    assert plan.found == ((0, FOUND), (1, FOUND))


def test_no_file_stays_open(journal: PlanJournal) -> None:
    before = os.listdir("/proc/self/fd")
    for number in range(20):
        begin(journal, f"k{number}")
        journal.append(f"k{number}", 0, FOUND)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_of_a_plan_that_nobody_wants_the_header_is_read_and_that_once(
    folder: Path, journal: PlanJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(journal, "mine")
    begin(journal, "other", spec="theirs")
    for key in ("mine", "other"):
        journal.append(key, 0, FOUND)
    read: list[Any] = []
    decode = msgspec.json.decode

    def counted(data: bytes, *, type: Any) -> Any:  # noqa: A002  # msgspec's name
        read.append(type.__name__)
        return decode(data, type=type)

    monkeypatch.setattr(msgspec.json, "decode", counted)
    after = PlanJournal(folder, BigQuerySettings())
    assert plans(after, "nobody's") == []
    assert read == ["_Header", "_Header"]
    assert plans(after, "nobody's") == []
    assert read == ["_Header", "_Header"]
    assert [plan.opened.key for plan in plans(after)] == ["mine"]
    assert read == ["_Header", "_Header", "_Header", "_Line"]
    assert len(list(folder.iterdir())) == 2


def test_a_plan_that_can_serve_nobody_is_removed(folder: Path, journal: PlanJournal) -> None:
    begin(journal, "old", age_s=LIFETIME_S + 1)
    begin(journal, "broken")
    (folder / "broken.plan").write_bytes(b"{")
    (folder / "half.part").touch()
    begin(journal, "good", spec="theirs")
    assert plans(PlanJournal(folder, BigQuerySettings())) == []
    assert [path.name for path in folder.iterdir()] == ["good.plan"]


def test_a_plan_that_the_warehouse_serves_no_more_is_kept_while_disk_has_its_chunks(
    folder: Path, journal: PlanJournal
) -> None:
    begin(journal, "old", age_s=LIFETIME_S + 1)
    assert journal.has("old")
    (plan,) = journal.plans(lambda _: True, held={"old"}.__contains__)
    assert plan.opened.key == "old"
    assert list(journal.plans(lambda _: True)) == []
    assert not journal.has("old")
