"""`faucetd status`, `faucetd profile` and `faucetd drop`: what a running daemon holds."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from faucet_client import chunk_map
from faucet_client.address import Address
from faucet_client.errors import DaemonUnreachable, DatasetNotFound
from faucet_client.status import CostStatus, DatasetStatus, ReaderStatus, Status
from faucetd.cli.options import OTHER_ADDRESS, address_option
from faucetd.sizes import format_duration, format_size

if TYPE_CHECKING:
    from faucet_client.session import Session

_KEY_DIGITS = 12
"""Of a dataset's key; `drop` takes any unambiguous beginning."""


@click.command()
@address_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every figure.")
def status(address: Address, as_json: bool) -> None:
    """Shows the memory, the datasets and the readers of a running daemon.

    \b
    Of a dataset:
      TRAIN, EVAL   rows of each split
      CHUNKS        4/16: of 16 chunks, 4 are in memory; 4/16+: more are still being found
      RESIDENT      shared memory that its chunks take
      ROWS READ     rows that the daemon has read from the source to make chunks; each row once,
                    unless memory was too small to keep them
      BYTES READ    the same as bytes of Arrow data, as they came. What a warehouse bills, by its
                    own measure, stands below as "billed"

    In the JSON, chunk_map has the number of chunks in each state, and a character a chunk: absent
    ".", spilled to disk "~", being loaded "+", in memory and leased by so many readers "0" to "9"
    and "*", without rows of the split " ".

    \b
    Of a reader:
      ROWS          rows handed to it, over all its epochs
      BEHIND        by how many epochs another reader of the split is further, at most
      WAITED        time that it waited for data
      HOLDS         shared memory that it keeps: batches in use, and some ahead

    \b
    Examples:
      faucetd status
      faucetd status --json | python -m json.tool
      watch -n 1 faucetd status
    """
    with _connect(address) as session:
        found = session.status()
    if as_json:
        click.echo(json.dumps(status_as_dict(found), indent=2))
    else:
        for line in status_lines(found):
            click.echo(line)


@click.command()
@click.argument("key")
@address_option
def drop(key: str, address: Address) -> None:
    """Forgets the dataset KEY, and frees its memory and its spill files.

    KEY may be shortened, as `faucetd status` shows it. A dataset that somebody reads is not
    dropped. Without this command, unused datasets stay until their memory is needed.

    \b
    Example:
      faucetd drop 3fa2b81c
    """
    with _connect(address) as session:
        dropped, freed_bytes = session.drop(key)
    click.echo(f"dropped {dropped}, which freed {format_size(freed_bytes)}")


@click.command()
@click.argument("key", default="")
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("profile.html"),
    show_default=True,
    help="Where the page is written.",
)
@address_option
def profile(key: str, output: Path, address: Address) -> None:
    """Writes an HTML page of what a dataset's features hold and what became of them.

    KEY may be shortened, as `faucetd status` shows it, and left out where one dataset is open. The
    dataset must have been opened with preprocessing="auto".

    \b
    Example:
      faucetd profile 3fa2b81c --output clicks.html
    """
    from faucet_client.report import render

    with _connect(address) as session:
        if not key:
            datasets = session.status().datasets
            if len(datasets) != 1:
                known = ", ".join(f"{each.key[:12]} ({each.source})" for each in datasets)
                which = f"name one: {known}" if known else "a training script opens one"
                raise DatasetNotFound(f"{len(datasets)} datasets are open; {which}")
            key = datasets[0].key
        found = session.profile(key)
    try:
        output.write_text(render(found), encoding="utf-8")
    except OSError as error:
        raise click.ClickException(
            f"the page cannot be written to {output}: {error.strerror}; name another file with "
            "--output"
        ) from None
    noun = "feature" if len(found.features) == 1 else "features"
    click.echo(f"wrote {output}: {len(found.features):,} {noun} of {found.source}")


def _connect(address: Address) -> Session:
    # Imported only where it is needed, so that `faucetd --help` does not wait for gRPC.
    from faucet_client.session import Session

    try:
        return Session.connect(address)
    except DaemonUnreachable as error:
        raise DaemonUnreachable(f"{error}{OTHER_ADDRESS}") from None


def status_as_dict(status: Status) -> dict[str, Any]:
    """What `faucetd status --json` prints: the fields of `Status`, the splits' rows together."""
    return {
        **dataclasses.asdict(status),
        "datasets": [_dataset_as_dict(dataset) for dataset in status.datasets],
    }


def _dataset_as_dict(dataset: DatasetStatus) -> dict[str, Any]:
    fields = dataclasses.asdict(dataset)
    if dataset.cost is not None:
        fields["cost"]["uncached_read_bytes"] = uncached_bytes(dataset.cost)
    maps = {"train": fields.pop("train_chunk_map"), "eval": fields.pop("eval_chunk_map")}
    return {
        "key": fields.pop("key"),
        "source": fields.pop("source"),
        "state": fields.pop("state"),
        "error": fields.pop("error"),
        "rows": {"train": fields.pop("train_rows"), "eval": fields.pop("eval_rows")},
        "chunk_map": {
            split: {**chunk_map.counts(states), "map": chunk_map.as_text(states)}
            for split, states in maps.items()
        },
        **fields,
    }


def status_lines(status: Status) -> Iterator[str]:
    """What `faucetd status` prints."""
    memory = status.memory
    states = Counter(worker.state for worker in status.workers)
    yield f"faucetd {status.version}, process {status.pid}, up {format_duration(status.uptime_s)}"
    yield (
        f"memory   {format_size(memory.used_bytes)} of {format_size(memory.budget_bytes)}; "
        f"trainers hold {format_size(memory.leased_bytes)}; "
        f"at most so far {format_size(memory.peak_bytes)}"
    )
    if memory.orphaned_bytes:
        yield f"         trainers hold {format_size(memory.orphaned_bytes)} of an earlier daemon's"
    if status.spill_budget_bytes:
        yield (
            f"disk     {format_size(status.spill_used_bytes)} of "
            f"{format_size(status.spill_budget_bytes)}"
        )
    yield "workers  " + (", ".join(f"{n} {state}" for state, n in sorted(states.items())) or "none")
    for alert in status.alerts:
        yield f"ALERT    {alert}"
    yield ""
    if not status.datasets:
        yield "No dataset is open."
        return
    yield from columns(
        "DATASET STATE >TRAIN >EVAL >CHUNKS >RESIDENT >ROWS_READ >BYTES_READ SOURCE",
        [_dataset_cells(dataset) for dataset in status.datasets],
    )
    for dataset in status.datasets:
        for line in _dataset_remarks(dataset):
            yield f"{dataset.key[:_KEY_DIGITS]} {line}"
    yield ""
    if not status.readers:
        yield "Nobody reads."
        return
    yield from columns(
        "JOB >RANK >WORKER SPLIT DATASET >EPOCH >ROWS >BEHIND >WAITED >HOLDS >PROCESS",
        [_reader_cells(reader) for reader in status.readers],
    )


def _dataset_cells(dataset: DatasetStatus) -> list[str]:
    return [
        dataset.key[:_KEY_DIGITS],
        dataset.state,
        f"{dataset.train_rows:,}",
        f"{dataset.eval_rows:,}",
        # More are still being found.
        f"{dataset.chunks_resident}/{dataset.chunks}{'+' if dataset.finding_chunks else ''}",
        format_size(dataset.resident_bytes),
        f"{dataset.source_rows_read:,}",
        format_size(dataset.source_bytes_read),
        dataset.source,
    ]


def _dataset_remarks(dataset: DatasetStatus) -> Iterator[str]:
    """What of a dataset has no column: what was saved and is billed, how it is read, why not."""
    if dataset.source_bytes_saved:
        yield (
            f"gave readers {dataset.rows_served:,} rows, which saved reading "
            f"{format_size(dataset.source_bytes_saved)} more"
        )
    cost = dataset.cost
    if cost is not None:
        queries = _priced(cost.query_bytes, cost.query_price_per_tib)
        reading = _priced(cost.read_bytes, cost.read_price_per_tib)
        uncached = _priced(uncached_bytes(cost), cost.read_price_per_tib)
        yield (
            f"billed {reading} for reading and {queries} for queries; its "
            f"{cost.passes_served:.1f} passes would have read {uncached}"
        )
    if dataset.chunks_spilled:
        yield (
            f"on disk: {dataset.chunks_spilled} chunks, {format_size(dataset.spilled_bytes)}; "
            f"{dataset.chunks_restored} came back from there instead of from the source"
        )
    for note in dataset.notes:
        yield f"note: {note}"
    if dataset.error:
        yield f"failed: {dataset.error}"


def uncached_bytes(cost: CostStatus) -> int:
    """What reading would have been billed for, had each pass been one over the table."""
    return round(cost.pass_bytes * cost.passes_served)


def _priced(nbytes: int, price_per_tib: float) -> str:
    if not price_per_tib:
        return format_size(nbytes)
    money = nbytes / 2**40 * price_per_tib
    return f"{format_size(nbytes)} ({f'{money:,.2f}' if money >= 0.005 else '<0.01'})"


def _reader_cells(reader: ReaderStatus) -> list[str]:
    return [
        reader.job,
        str(reader.rank),
        str(reader.worker),
        reader.split,
        reader.dataset_key[:_KEY_DIGITS],
        str(reader.epoch),
        f"{reader.rows_granted:,}",
        f"{reader.lag_epochs:.2f}",
        f"{reader.seconds_waited:.1f} s",
        format_size(reader.leased_bytes),
        str(reader.pid),
    ]


def columns(header: str, rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table of text. A heading that begins with `>` sets its column to the right."""
    headings = header.split()
    table = [[heading.lstrip(">").replace("_", " ") for heading in headings], *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(headings))]
    for row in table:
        cells = (
            f"{cell:>{width}}" if heading.startswith(">") else f"{cell:<{width}}"
            for cell, width, heading in zip(row, widths, headings, strict=True)
        )
        yield "  ".join(cells).rstrip()
