"""Scale on paper: what one daemon needs, where it saturates, and what a large table costs.

`scale_costs.py` measures what a row costs, `scale_model.py` is the formula, and this prints both,
or writes docs/scale.md.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import click
import psutil

from benchmarks.bigquery import FEATURES
from benchmarks.scale_costs import Measured, measure
from benchmarks.scale_model import (
    GIB,
    Load,
    Prices,
    TableCost,
    needs,
    saturation,
    table_cost,
)

MACHINES = ((16, 32.0), (64, 75.0), (192, 100.0))
"""Processors, and Gbit/s of the network of a virtual machine of that size."""

LIST_PRICES = Prices(
    read_tib=1.1, core_hour=0.031611, memory_gib_hour=0.004237, disk_gib_month=0.08
)
"""Defaults; docs/scale.md says where the current ones stand."""

_NAMES = {"grant": "grant, once a job", "map": "client's map, once a job"}


@dataclass(frozen=True)
class Question:
    """What the page answers.

    Attributes:
        jobs: Trainers.
        rate: Rows a second of each.
        epochs: Of each.
        table_tb: The table, in 10^12 bytes.
        machines: Processors and network in Gbit/s.
    """

    jobs: int
    rate: float
    epochs: int
    table_tb: float
    machines: tuple[tuple[int, float], ...] = MACHINES


def run(question: Question, prices: Prices, repeats: int, page: Path | None) -> None:
    """Measures and prints; or writes the page."""
    text = report(question, prices, measure(repeats))
    if page is None:
        click.echo(text)
    else:
        page.write_text(_PAGE.format(report=text, command=_command(question, prices, repeats)))
        click.echo(f"{page} is written")


def report(question: Question, prices: Prices, measured: Measured) -> str:
    """The tables, from the measured costs."""
    return "\n\n".join(
        (
            _costs(measured),
            _needs(question, prices, measured),
            _saturation(question, measured),
            _table(question, prices, measured),
        )
    )


def _costs(measured: Measured) -> str:
    costs, shape = measured.costs, measured.shape
    head = (
        f"rows of {FEATURES} features, a key and a label: {shape.wire_bytes:,.0f} bytes on the "
        f"wire, {shape.prepared_bytes:,.0f} prepared; one of {psutil.cpu_count()} processors here"
    )
    lines = [
        head,
        "",
        f"{'stage':<26} {'ns a row':>8} {'ms a wire MB':>13} {'M rows/s a core':>16}",
    ]
    for field in fields(costs):
        cost = getattr(costs, field.name)
        lines.append(
            f"{_NAMES.get(field.name, field.name):<26} {cost * 1e9:>8.1f} "
            f"{cost * 1e9 / shape.wire_bytes:>13.3f} {1e-6 / cost if cost else 0:>16.1f}"
        )
    lines.append(
        f"{'all of ingest':<26} {costs.ingest * 1e9:>8.1f} "
        f"{costs.ingest * 1e9 / shape.wire_bytes:>13.3f} {1e-6 / costs.ingest:>16.1f}"
    )
    lines.append(
        f"memory: a worker {shape.worker_bytes / GIB:.2f} GiB, the main process "
        f"{shape.daemon_bytes / GIB:.2f} GiB, a chunk {shape.chunk_bytes / GIB:.3f} GiB, of which "
        f"a job has {shape.held_chunks:.0f}"
    )
    return "\n".join(lines)


def _loads(question: Question) -> list[tuple[str, Load]]:
    return [
        ("each job reads for itself", Load(question.jobs, question.rate, question.jobs)),
        ("all share one pass", Load(question.jobs, question.rate, 1)),
        ("rows are in memory", Load(question.jobs, question.rate, 0)),
    ]


def _needs(question: Question, prices: Prices, measured: Measured) -> str:
    lines = [
        f"{question.jobs} trainers at {question.rate / 1e6:g} M rows/s each:",
        "",
        f"{'':<27} {'cores':>6} {'memory GiB':>11} {'network GB/s':>13} {'$ an hour':>10}",
    ]
    for name, load in _loads(question):
        found = needs(load, measured.costs, measured.shape, prices)
        lines.append(
            f"{name:<27} {found.cores:>6.2f} {found.memory_bytes / GIB:>11.1f} "
            f"{found.network_bytes_s / 1e9:>13.2f} {found.dollars_hour:>10.2f}"
        )
    return "\n".join(lines)


def _saturation(question: Question, measured: Measured) -> str:
    lines = [
        f"the most that each of {question.jobs} trainers can have, M rows/s, and what is used up:",
        "",
        f"{'':<27} "
        + " ".join(f"{f'{cores} cores, {gbit:g} Gbit/s':>24}" for cores, gbit in question.machines),
    ]
    for name, load in _loads(question):
        cells = []
        for cores, gbit in question.machines:
            found = saturation(cores, gbit * 1e9 / 8, load, measured.costs, measured.shape)
            cells.append(f"{f'{found.rate / 1e6:,.1f} {found.limit}':>24}")
        lines.append(f"{name:<27} " + " ".join(cells))
    return "\n".join(lines)


def _table(question: Question, prices: Prices, measured: Measured) -> str:
    def cost(load: Load, *, on_disk: bool = False) -> TableCost:
        return table_cost(
            question.table_tb * 1e12,
            question.epochs,
            load,
            measured.costs,
            measured.shape,
            prices,
            on_disk=on_disk,
        )

    (_, alone), (_, shared), _ = _loads(question)
    ways = (
        ("each job reads for itself", cost(alone)),
        ("one pass an epoch for all", cost(shared)),
        ("prepared rows on disk", cost(shared, on_disk=True)),
    )
    head = (
        f"a table of {question.table_tb:g} TB, {question.epochs} epochs of {question.jobs} "
        f"trainers at a time, $ ({ways[0][1].hours:,.0f} hours at that rate):"
    )
    lines = [
        head,
        "",
        f"{'':<27} {'reading':>10} {'machine':>9} {'disk':>9} {'in all':>10}",
    ]
    for name, found in ways:
        lines.append(
            f"{name:<27} {found.reading:>10,.0f} {found.machine:>9,.0f} {found.disk:>9,.0f} "
            f"{found.total:>10,.0f}"
        )
    return "\n".join(lines)


def _command(question: Question, prices: Prices, repeats: int) -> str:
    jobs, rate, epochs, table_tb = astuple(question)[:4]
    options: dict[str, Any] = {
        "jobs": jobs,
        "rate": f"{rate:g}",
        "epochs": epochs,
        "table-tb": f"{table_tb:g}",
        "repeats": repeats,
    } | {f"{name.replace('_', '-')}-price": price for name, price in vars(prices).items()}
    words = [f"--{name} {value}" for name, value in options.items()]
    return "python -m benchmarks scale " + " \\\n    ".join((" ".join(words[:4]), *words[4:]))


_PAGE = """# What one daemon can do, and what it saves

This page is written by a script, which measures what a row costs on the machine that it runs on,
and puts that into a formula; no figure is typed by hand. It was written by

```
{command} --write docs/scale.md
```

and other prices, rates, tables and machines are other arguments.

```
{report}
```

## The formula

With *J* jobs that each take *r* rows a second, and *p* passes over the source while all of them
take an epoch (*p* = *J* where nobody shares, 1 where all overlap, 0 when memory or disk serves):

* **processors** = *r p* (decode + split + prepare + publish + other) + *r J* (grant + map)
* **network** = *r p* times a row's bytes on the wire
* **memory** = workers (processors of the first term, rounded up) and the main process, and chunks:
  one that each worker makes, and those that each job has mapped or ready. A cache is beyond that:
  whatever is given to it, up to the prepared size of the table.
* **dollars** = processors, memory, and what the warehouse charges for *r p* rows. The trainers' own
  steps are not in it.

A machine **saturates** at the smallest of three rates: all its processors over the processor time
that a row of each job takes; its network over *p* rows; and one processor over *J* grants, since
the main process grants in one thread. `benchmarks/scale_model.py` is this in Python, and
`tests/pure/test_scale_model.py` has known values of it.

**A large table**: "each job reads for itself" is *J* passes an epoch; "one pass an epoch for all"
is what overlapping jobs take of a table much larger than memory
(docs/sharing.md has how far reality is from that, by the size of memory); "prepared rows on disk"
reads the table once, and keeps prepared rows on local disks for as long as all epochs last.

## What is assumed

* Costs are processor time. Each stage is measured alone; "other" is what a real worker took beyond
  their sum, so that the sum is a real worker's, on a machine whose processors were all busy with it
  and with the server that it read from. More processes at a time
  contend for memory, and a virtual processor is often half a core: with all of them busy a row
  costs more than here. So rates are upper bounds, to be trusted less the larger the machine.
* The warehouse keeps up. BigQuery's documented limits and what others have seen of it are another
  bound: about 250 MB/s to a process of 8 virtual processors
  (https://github.com/googleapis/java-bigquerystorage/issues/809), of which a daemon has one a
  worker.
* Reading is charged by the table's logical bytes in the columns read, taken here to be the bytes on
  the wire. Prices are in dollars before free amounts and discounts, for the US, and are only
  defaults of the arguments: BigQuery's stand at https://cloud.google.com/bigquery/pricing, those of
  processors, memory and disks at https://cloud.google.com/compute/vm-instance-pricing and
  https://cloud.google.com/compute/disks-image-pricing. Look there before relying on them.
* Nothing is preprocessed beyond the cast to float32; `python -m benchmarks prepare` has what more
  costs. No spill, no `shuffle="rows"`, batches of 1,024 rows.
"""
