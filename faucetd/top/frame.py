"""One picture of a daemon: its memory, its datasets with their chunks, their readers. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from faucet_client import chunk_map
from faucet_client.status import DatasetStatus, ReaderStatus, Status
from faucetd.sizes import format_duration, format_size
from faucetd.top.chart import FULL, LEGEND, STYLES, bar, chunks_a_cell, draw_map
from faucetd.top.rates import Rates, name_of

KEY_DIGITS = 12
"""Of a dataset's key, as `faucetd status` shows it."""

MAP_LINES = 4
"""Lines that the map of a split may take."""

WIDE = 100
"""Cells from which on there is room for every column."""

_JOB_CELLS = {False: 13, True: 32}  # at most, by whether it is wide
_OTHER_CELLS = 78  # of all columns but the job's and the bar, and what is between them

_NUMBER = re.compile(r"([0-9]+)")
_UNKNOWN = "–"
_QUIET = "bright_black"


@dataclass(frozen=True)
class View:
    """What is to be seen: a status, and what happens a second."""

    status: Status
    rates: Rates


def header(view: View, width: int) -> RenderableType:
    """The daemon, its memory, disk and workers, in a few lines of at most `width` cells."""
    status = view.status
    memory = status.memory
    states = Counter(worker.state for worker in status.workers)
    figures = (
        f" {format_size(memory.used_bytes)} of {format_size(memory.budget_bytes)}, "
        f"{format_size(memory.leased_bytes)} leased; peak {format_size(memory.peak_bytes)}"
    )
    leased = memory.leased_bytes / memory.budget_bytes
    idle = (memory.used_bytes - memory.leased_bytes) / memory.budget_bytes
    usage = Text("memory  ", "bold")
    usage.append_text(
        bar(
            [(leased, FULL, STYLES["1"]), (idle, "▓", STYLES[FULL])],
            max(width - len(usage) - len(figures), 8),
        )
    )
    usage.append(figures, "default not bold")
    workers = ", ".join(f"{n} {state}" for state, n in sorted(states.items())) or "none"
    lines = [
        Text.assemble(
            (f"faucetd {status.version}", "bold"),
            f"  process {status.pid}, up {format_duration(status.uptime_s)}",
        ),
        usage,
        *_disk(status, width),
        Text.assemble(("workers ", "bold"), workers, "   ", *_sources(view)),
    ]
    return Group(*(_fitted(line) for line in lines))


def _disk(status: Status, width: int) -> Iterator[Text]:
    """The copies of chunks on disk, where there may be some."""
    if not status.spill_budget_bytes:
        return
    used, budget = status.spill_used_bytes, status.spill_budget_bytes
    figures = f" {format_size(used)} of {format_size(budget)}"
    usage = Text("disk    ", "bold")
    cells = max(width - len(usage) - len(figures), 8)
    usage.append_text(bar([(used / budget, FULL, STYLES[FULL])], cells))
    usage.append(figures, "default not bold")
    yield usage


def _sources(view: View) -> Iterator[str | tuple[str, str]]:
    """What is read of all sources together."""
    datasets = view.status.datasets
    read = sum(dataset.source_bytes_read for dataset in datasets)
    saved = sum(dataset.source_bytes_saved for dataset in datasets)
    yield "source ", "bold"
    yield f"read {format_size(read)}"
    if view.rates.sources:
        now = sum(rate.bytes_per_s for rate in view.rates.sources.values())
        yield f", {format_size(round(now))}/s now"
    yield f"; saved {format_size(saved)}"


def body(view: View, width: int) -> RenderableType:
    """The datasets, each with its readers, in lines of at most `width` cells."""
    status = view.status
    if not status.datasets:
        return Text("No dataset is open: a training script opens one.", _QUIET)
    parts: list[RenderableType] = []
    for dataset in status.datasets:
        readers = [reader for reader in status.readers if reader.dataset_key == dataset.key]
        parts += [*_dataset(dataset, view.rates, width), *_readers(readers, view.rates, width)]
        parts.append(Text())
    return Group(*parts[:-1])


def legend() -> Text:
    """What the glyphs of the maps mean."""
    text = Text()
    for glyph, meaning in LEGEND:
        shown = "1-9*" if glyph == "1" else glyph
        text.append(shown, STYLES[glyph]).append(f" {meaning}  ", _QUIET)
    return _fitted(text)


def _dataset(dataset: DatasetStatus, rates: Rates, width: int) -> Iterator[RenderableType]:
    title = Text.assemble((dataset.key[:KEY_DIGITS], "bold cyan"), ("  ", ""), dataset.source)
    yield _fitted(title)
    reading = rates.sources.get(dataset.key)
    now = "" if reading is None else f", {reading.rows_per_s:,.0f} rows/s now"
    read, saved = format_size(dataset.source_bytes_read), format_size(dataset.source_bytes_saved)
    figures = f"read {dataset.source_rows_read:,} rows, {read}{now}"
    yield _fitted(Text(f"  {figures}; served {dataset.rows_served:,}, saved {saved}"))
    yield from chunk_maps(dataset, width)
    for note in dataset.notes:
        yield Text(f"  note: {note}", "yellow")
    if dataset.error:
        yield Text(f"  failed: {dataset.error}", "bold red")


def chunk_maps(dataset: DatasetStatus, width: int) -> Iterator[RenderableType]:
    """The maps of a dataset's chunks, of each split that has rows, in lines of `width` cells."""
    maps = (
        ("train", dataset.train_rows, dataset.train_chunk_map),
        ("eval ", dataset.eval_rows, dataset.eval_chunk_map),
    )
    for split, rows, states in maps:
        if rows:
            yield from _split(split, rows, states, dataset, width - 4)


def _split(
    split: str, rows: int, states: bytes, dataset: DatasetStatus, width: int
) -> Iterator[RenderableType]:
    counts = chunk_map.counts(states)
    chunks = len(states) - counts["no_rows"]
    more = "+" if dataset.finding_chunks else ""
    text = f"  {split} {rows:,} rows: {counts['resident'] + counts['leased']:,} of {chunks:,}{more}"
    text += f" chunks in memory, {counts['leased']:,} leased"
    others = [(counts["loading"], "loading"), (counts["spilled"], "on disk")]
    text += "".join(f", {number:,} {name}" for number, name in others if number)
    each = chunks_a_cell(len(states), width * MAP_LINES)
    if each > 1:
        text += f"; {each:,} a cell"
    yield _fitted(Text(text))
    for line in draw_map(states, width, MAP_LINES):
        yield Text("    ").append_text(line)


def _readers(readers: Sequence[ReaderStatus], rates: Rates, width: int) -> Iterator[RenderableType]:
    if not readers:
        yield Text("  nobody reads it", _QUIET)
        return
    wide = width >= WIDE
    ranks = any(reader.rank or reader.worker for reader in readers)
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style=_QUIET)
    table.add_column("JOB", no_wrap=True, max_width=_JOB_CELLS[wide])
    if ranks or wide:
        table.add_column("RANK", justify="right", no_wrap=True)
    table.add_column("SPLIT", no_wrap=True)
    table.add_column("EPOCH", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)  # the bar
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("ROWS/S", justify="right", no_wrap=True)
    table.add_column("WAITS", justify="right", no_wrap=True)
    table.add_column("BEHIND", justify="right", no_wrap=True)
    table.add_column("HOLDS", justify="right", no_wrap=True)
    if wide:
        table.add_column("PROCESS", justify="right", no_wrap=True)
    job_cells = min(max(len(reader.job) for reader in readers), _JOB_CELLS[wide])
    bar_cells = min(max(width - job_cells - _OTHER_CELLS, 10), 40) if wide else 10
    for reader in sorted(readers, key=_order):
        row = _reader(reader, rates, bar_cells)
        if not wide:
            row.pop()
        if not (ranks or wide):
            row.pop(1)
        table.add_row(*row)
    yield _indented(table)


def _order(reader: ReaderStatus) -> list[tuple[int, str]]:
    """By job, in which numbers are numbers: lr-2 before lr-10; then by rank, worker and split."""
    name = f"{reader.job} {reader.rank} {reader.worker} {reader.split}"
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _NUMBER.split(name)]


def _reader(reader: ReaderStatus, rates: Rates, bar_cells: int) -> list[RenderableType]:
    """The cells of its row; the bar is of the epoch that it is in."""
    rate = rates.readers.get(name_of(reader))
    done = reader.position_epochs - reader.first_epoch
    epoch = min(int(done), max(reader.epochs - 1, 0))
    share = min(done - epoch, 1.0)
    return [
        reader.job,
        f"{reader.rank}.{reader.worker}" if reader.worker else str(reader.rank),
        reader.split,
        f"{epoch + 1}/{reader.epochs}",
        bar([(share, FULL, STYLES["1"])], bar_cells),
        f"{share:4.0%}",
        _UNKNOWN if rate is None else f"{rate.rows_per_s:,.0f}",
        _UNKNOWN if rate is None else f"{rate.waited_share:.0%}",
        f"{reader.lag_epochs:.2f}" if reader.lag_epochs >= 0.005 else _UNKNOWN,
        format_size(reader.leased_bytes),
        str(reader.pid),
    ]


def _indented(table: Table) -> RenderableType:
    outer = Table.grid()
    outer.add_column(width=2)
    outer.add_column()
    outer.add_row("", table)
    return outer


def _fitted(text: Text) -> Text:
    text.no_wrap = True
    text.overflow = "ellipsis"
    return text
