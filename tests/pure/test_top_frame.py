"""The picture of a daemon, as plain text: what a terminal without colours shows."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from faucet_client import chunk_map
from faucet_client.status import DatasetStatus, ReaderStatus, Status
from faucetd.top.chart import bar, draw_map
from faucetd.top.frame import MAP_LINES, View, body, header, legend
from faucetd.top.rates import Rates, ReaderRate, SourceRate, name_of
from tests.pure.test_status_output import DATASET, READER, STATUS

IN_MEMORY, LEASED = chunk_map.RESIDENT, chunk_map.resident(1)


def mapped(states: bytes, lines: int = 4, width: int = 76) -> list[str]:
    return [line.plain for line in draw_map(states, width, lines)]


def shown(status: Status, rates: Rates | None = None, width: int = 80) -> list[str]:
    """The lines of the whole picture."""
    view = View(status, rates or Rates())
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False)
    console.print(header(view, width))
    console.print(body(view, width))
    console.print(legend())
    return [line.rstrip() for line in out.getvalue().splitlines()]


def of(states: bytes = b"", readers: tuple[ReaderStatus, ...] = (), **changes: object) -> Status:
    """A status of one dataset with such train chunks, and such readers."""
    dataset: DatasetStatus = dataclasses.replace(
        DATASET,
        train_chunk_map=states,
        eval_rows=0,
        **changes,  # type: ignore[arg-type]  # a test's brevity
    )
    return dataclasses.replace(STATUS, datasets=(dataset,), readers=readers)


def test_each_state_has_a_glyph_of_its_own() -> None:
    states = bytes([0, 1, 2, 3, IN_MEMORY, *(chunk_map.resident(n) for n in (1, 9, 10))])
    assert mapped(states) == [" ·~+█19*"]


def test_a_map_of_one_chunk_and_of_none() -> None:
    assert mapped(bytes([LEASED])) == ["1"]
    assert mapped(b"") == []


@pytest.mark.parametrize("chunks", [303, 304, 305, 10_000, 100_000])
def test_a_large_map_fits_its_lines_and_loses_no_chunk_that_is_leased(chunks: int) -> None:
    states = bytearray([IN_MEMORY] * chunks)
    states[-1] = chunk_map.resident(3)
    lines = mapped(bytes(states))
    assert len(lines) <= MAP_LINES
    assert all(len(line) <= 76 for line in lines)
    assert lines[-1].endswith("3")
    assert set("".join(lines)) == {"█", "3"}


def test_a_cell_of_several_chunks_says_which_share_is_in_memory() -> None:
    absent = chunk_map.ABSENT

    def cell(resident: int, other: int = absent) -> str:
        (line,) = mapped(bytes([IN_MEMORY] * resident + [other] * (10 - resident)), 1, 1)
        return line

    assert [cell(n) for n in (0, 1, 4, 9, 10)] == ["·", "░", "▒", "▓", "█"]
    assert cell(9, chunk_map.NO_ROWS) == "█"
    assert cell(0, chunk_map.SPILLED) == "~"
    assert cell(9, chunk_map.LOADING) == "+"


def test_a_bar_shows_the_little_that_is_not_nothing_and_never_more_than_there_is() -> None:
    assert bar([(0.5, "#", "")], 10).plain == "#####░░░░░"
    assert bar([(0.001, "#", ""), (0.0, "-", "")], 10).plain == "#░░░░░░░░░"
    assert bar([(0.9, "#", ""), (0.3, "-", "")], 10).plain == "#########-"
    assert bar([(7.0, "#", "")], 4).plain == "####"


@pytest.mark.parametrize("width", [80, 81, 100, 120, 250])
@pytest.mark.parametrize("chunks", [1, 16, 10_000])
@pytest.mark.parametrize("readers", [0, 1, 64])
def test_no_line_is_wider_than_the_terminal(width: int, chunks: int, readers: int) -> None:
    many = tuple(
        dataclasses.replace(READER, job=f"a-sweep-of-a-long-name-{n}", rank=n, rows_consumed=2**30)
        for n in range(readers)
    )
    states = bytes([chunk_map.resident(n % 12) for n in range(chunks)])
    rates = Rates({}, {name_of(reader): ReaderRate(1e6, 0.5) for reader in many})
    status = of(states, many, source="bigquery:" + "a-long-project." * 9, train_rows=10**10)
    lines = shown(status, rates, width)
    assert max(map(cell_len, lines)) <= width
    assert sum("a-sweep" in line for line in lines) == readers


@pytest.mark.parametrize("width", [80, 99, 100, 104, 120, 200])
def test_ordinary_figures_are_not_cut(width: int) -> None:
    many = tuple(
        dataclasses.replace(READER, job=f"lr-{n}", rank=n, worker=0, pid=4_000_000 - n, epochs=20)
        for n in range(2)
    )
    rates = Rates({}, {name_of(reader): ReaderRate(1_234_567.0, 1.0) for reader in many})
    lines = shown(of(bytes([LEASED] * 16), many), rates, width)
    assert not [line for line in lines if "…" in line]


def test_a_reader_has_the_bar_of_its_epoch_and_its_rates() -> None:
    reader = dataclasses.replace(
        READER, worker=0, first_epoch=2, epochs=4, position_epochs=3.5, lag_epochs=0.75
    )
    rates = Rates({}, {name_of(reader): ReaderRate(12_345.0, 0.25)})
    (line,) = (line for line in shown(of(readers=(reader,)), rates) if "sweep-1" in line)
    assert line.split() == [
        *("sweep-1", "train", "2/4", "█████░░░░░", "50%", "12,345", "25%", "0.75", "2.00", "KiB")
    ]


def test_a_reader_at_its_end_is_in_its_last_epoch() -> None:
    reader = dataclasses.replace(READER, epochs=2, position_epochs=2.0)
    (line,) = (line for line in shown(of(readers=(reader,))) if "sweep-1" in line)
    assert "2/2" in line
    assert "100%" in line


def test_readers_are_in_the_order_of_their_numbers() -> None:
    many = tuple(dataclasses.replace(READER, job=f"lr-{n}") for n in (10, 9, 1))
    lines = [line.split()[0] for line in shown(of(readers=many)) if "lr-" in line]
    assert lines == ["lr-1", "lr-9", "lr-10"]


def test_the_source_is_told_with_what_is_read_and_what_was_saved() -> None:
    rates = Rates({DATASET.key: SourceRate(5_000.0, 3 * 2**20)}, {})
    text = "\n".join(shown(of(rows_served=9_000, source_bytes_saved=2**20), rates))
    assert "3.00 MiB/s now; saved 1.00 MiB" in text
    assert "5,000 rows/s now; served 9,000" in text


def test_notes_and_failures_are_shown_whole() -> None:
    note = "a long note " * 12
    text = " ".join(" ".join(shown(of(notes=(note,), error="it broke"))).split())
    assert note.strip() in text
    assert "failed: it broke" in text


def test_an_idle_daemon_says_so() -> None:
    assert "No dataset is open" in "\n".join(shown(dataclasses.replace(STATUS, datasets=())))
    assert any("nobody reads it" in line for line in shown(of()))
