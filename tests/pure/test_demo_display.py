"""What a person sees of the demo, as text."""

from __future__ import annotations

import dataclasses
import io
import re
import threading

import pytest
from rich.cells import cell_len
from rich.console import Console

from faucet_client import chunk_map
from faucet_client.address import parse_address
from faucet_client.errors import DaemonUnreachable
from faucet_client.status import CostStatus, DatasetStatus, MemoryStatus, Status
from faucetd.demo.display import (
    Display,
    LiveDisplay,
    PlainDisplay,
    chunk_lines,
    make_display,
)
from faucetd.demo.jobs import Job, Resumption
from faucetd.demo.progress import Batches, EpochEnd, Resumed, Saved
from faucetd.demo.rows import EpochRows
from faucetd.demo.summary import daemon_lines, kill_text, results_table, rows_lines, verdict
from faucetd.top.rates import Look
from faucetd.top.watch import Watch

DATASET = DatasetStatus(
    key="k", source="s", state="ready", error="", train_rows=800, eval_rows=200, chunks=16,
    chunks_resident=16, chunks_made=16, resident_bytes=1, source_rows_read=1_000,
    source_bytes_read=2048, count_rows_read=0, count_bytes_read=0, rows_served=8_100,
    train_chunk_map=bytes([chunk_map.ABSENT, chunk_map.LOADING, chunk_map.resident(3)]),
    eval_chunk_map=bytes([chunk_map.RESIDENT] * 3),
)  # fmt: skip
STATUS = Status("0", 1, 1.0, MemoryStatus(2**20, 0, 0, 2**19), (), (DATASET,), ())
KILLED = Batches(1, 160, 512, 0.5)


def finished_job(name: str = "lr-0.1") -> Job:
    ends = [EpochEnd(0, 1000, 0.5, 0.25, 0.875), EpochEnd(1, 1000, 0.5, 0.3, 0.9)]
    return Job(name, 0.1, dict(enumerate(ends)))


def resumed_job() -> Job:
    job = finished_job("lr-0.01")
    job.resumption = Resumption(KILLED, epoch=1, done=102, rows_again=29_696, seconds=3.21)
    return job


def live(through: Display, job: Job) -> None:
    """A job's life: an epoch, a kill, a resumption."""
    through.started(job)
    through.update(job, Batches(0, 3, 512, 0.5))
    through.update(job, Saved(0, 102))
    through.update(job, job.epochs[0])
    through.killed(job, KILLED)
    job.resumption = resumed_job().resumption
    through.update(job, Resumed(1, 102, 1_000))


LINES = [
    "learning rate 0.1: started",
    "learning rate 0.1: epoch 1 done, AUC 0.8750",
    "learning rate 0.1: killed (SIGKILL) at epoch 2, batch 160 of 512; starts again",
    "learning rate 0.1: goes on from its checkpoint, epoch 2, batch 102",
]


def test_without_a_terminal_each_thing_of_note_is_one_plain_line() -> None:
    text = io.StringIO()
    address = parse_address("/tmp/none.sock")
    display = make_display(Console(file=text, width=80), [finished_job()], 2, address)
    assert isinstance(display, PlainDisplay)
    display.start()
    live(display, finished_job())
    display.stop()
    assert text.getvalue().splitlines() == LINES


class FakeWatch(Watch):
    """Sees one status, and tells when it was asked again."""

    def __init__(self, status: Status) -> None:
        super().__init__(parse_address("/tmp/none.sock"))
        self._status = status
        self._looks = 0
        self.was_seen = threading.Event()

    def look(self) -> Look:
        self._looks += 1
        if self._looks == 1:
            raise DaemonUnreachable("it is not there yet")
        if self._looks > 2:
            self.was_seen.set()
        return Look(self._status, 0.0)


@pytest.mark.parametrize("width", [80, 120])
def test_on_a_terminal_there_are_the_map_a_bar_a_job_and_what_happened(width: int) -> None:
    text = io.StringIO()
    console = Console(file=text, width=width, height=24, force_terminal=True)
    watch = FakeWatch(STATUS)
    job, waiting = Job("lr-0.1", 0.1, finished_job().epochs), Job("lr-0.0001", 0.0001)
    display = LiveDisplay(console, [job, waiting], 3, watch)
    display.start()
    live(display, job)
    display.update(job, KILLED)
    assert watch.was_seen.wait(20)
    display.stop()
    assert text.getvalue().endswith("\x1b[?25h")  # the cursor is back
    # A frame is drawn over the one before, from the begin of its line.
    plain = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", text.getvalue())
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", plain)]
    assert set(LINES[2:]) <= set(lines)
    assert max(map(cell_len, lines)) <= width
    train, train_map, held_out, eval_map, figures, legend, bar, other = lines[-9:-1]
    assert train == "  train 800 rows: 1 of 3 chunks in memory, 1 leased, 1 loading"
    assert train_map == "    ·+3"
    assert held_out == "  eval  200 rows: 3 of 3 chunks in memory, 0 leased"
    assert eval_map == "    ███"
    assert figures == "  read 1,000 rows of the source, served 8,100 to trainers"
    assert "█ in memory" in legend
    assert bar.startswith("learning rate 0.1    ━")
    assert "epoch 2 of 3, loss 0.500 resumed" in bar
    assert "waits for its start" in other
    assert "…" not in plain


def test_before_the_table_is_open_there_is_no_map() -> None:
    for status in (None, dataclasses.replace(STATUS, datasets=())):
        [line] = chunk_lines(status, 80)
        assert str(line) == "  the table is not open yet"


def rows(*wrong: EpochRows) -> dict[str, list[EpochRows]]:
    right = EpochRows(800, 200, 0, 0, 0)
    return {"lr-0.1": [right, right], "lr-0.01": [right, *(wrong or [right])]}


@pytest.mark.parametrize("width", [80, 100])
def test_the_table_at_the_end_has_a_jobs_figures_over_all_epochs(width: int) -> None:
    text = io.StringIO()
    jobs = [finished_job(), resumed_job()]
    given = rows(EpochRows(799, 200, 1, 0, 0))
    Console(file=text, width=width).print(results_table(jobs, given))
    found = [line for line in text.getvalue().splitlines() if "0.8750" in line]
    first, second = (line.replace("│", " ").split() for line in found)
    assert first == ["0.1", "0.8750", "0.9000", "2,000", "0.55", "s", "2", "×", "800"]
    assert second[:4] == ["*", "0.1", "0.8750", "0.9000"]
    assert second[-3:] == ["800", "+", "799"]


def status_of(rows_read: int, cost: CostStatus | None = None) -> Status:
    dataset = dataclasses.replace(DATASET, source_rows_read=rows_read, cost=cost)
    return dataclasses.replace(STATUS, datasets=(dataset,))


@pytest.mark.parametrize(("rows_read", "said"), [(1000, "once"), (1500, "1.50 times")])
def test_the_demo_says_how_often_the_table_was_really_read(rows_read: int, said: str) -> None:
    status = status_of(rows_read)
    text = " ".join(daemon_lines(status, table_rows=1000, passes=8))
    assert f"read the table {said}: {rows_read:,} rows, 2.00 KiB" in text
    assert "would have read 8,000 rows" in text
    assert "served 8,100 rows" in text
    assert "512 KiB of 1.00 MiB" in text
    assert verdict(status, 1000, rows()) == f"Read {said}, rows exact."


def test_the_demo_says_whether_rows_are_exact() -> None:
    [line] = rows_lines(rows())
    assert "In each of 4 epochs, each row id of the table came once" in line
    assert "800 to train on, 200 to evaluate" in line
    for wrong in (EpochRows(799, 200, 1, 0, 0), EpochRows(801, 200, 0, 1, 0)):
        given = rows(wrong)
        assert verdict(status_of(1000), 1000, given) == "Read once, rows NOT exact."
        [line] = rows_lines(given)
        assert line.startswith("lr-0.01, epoch 2: ")
        assert f"{wrong.missing} rows missing, {wrong.surplus} too many" in line


def test_the_demo_says_what_the_kill_cost_or_that_there_was_none() -> None:
    text = kill_text(resumed_job())
    for words in ("epoch 2, at batch 160 of 512", "3.2 s", "batch 102", "29,696 rows"):
        assert words in text
    assert "had ended before" in kill_text(finished_job())


def test_of_a_warehouse_only_one_figure_is_named_for_what_the_cache_saved() -> None:
    cost = CostStatus(
        query_bytes=10 * 2**20, read_bytes=2**20, pass_bytes=2**20, passes_served=16.0,
        query_price_per_tib=0.0, read_price_per_tib=0.0,
    )  # fmt: skip
    text = "\n".join(daemon_lines(status_of(1000, cost), table_rows=1000, passes=8))
    assert "16 reads of the table, one for each trainer, epoch and split, would have been" in text
    assert "16.0 MiB" in text
    assert "would have read" not in text
