"""The demo's training script, cut short and run again: its model gets each row once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from faucet_client import DuckDBSource
from faucetd.demo import trainer
from faucetd.demo.progress import Batches, EpochEnd, Event, Resumed, Saved
from faucetd.demo.rows import compare, rows_given
from faucetd.demo.table import TABLE, make_table, read_ids
from tests.processes.daemons import StartDaemon

ROWS = 20_000
EPOCHS = 2


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Some flights; written before a daemon counts what this process has open."""
    path = tmp_path / "flights.duckdb"
    make_table(path, ROWS)
    return path


class Cut(Exception):
    """As sudden as a kill, as far as the trainer is concerned."""


class Reports:
    """What a trainer reports, until it is cut short."""

    def __init__(self, last: type[Event] | None = None, epoch: int = 0, done: int = 0) -> None:
        self.events: list[Event] = []
        self._last = last
        self._epoch = epoch
        self._done = done

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if (
            self._last is not None
            and isinstance(event, self._last)
            and getattr(event, "epoch", None) == self._epoch
            and getattr(event, "done", 0) >= self._done
        ):
            raise Cut


@pytest.mark.parametrize(
    ("last", "epoch", "done", "goes_on"),
    [
        (Batches, 0, 1, None),  # before the first checkpoint: it begins anew
        (Saved, 0, 1, (0, 6)),
        (Batches, 0, 20, (0, 18)),
        (EpochEnd, 0, 0, (0, 30)),
        (Batches, 1, 2, (0, 30)),  # the last checkpoint is of the epoch before
        (Batches, 1, 22, (1, 18)),
    ],
)
def test_whenever_it_is_cut_short_its_model_gets_each_row_once(
    database: Path,
    tmp_path: Path,
    start_daemon: StartDaemon,
    monkeypatch: pytest.MonkeyPatch,
    last: type[Event],
    epoch: int,
    done: int,
    goes_on: tuple[int, int] | None,
) -> None:
    source = DuckDBSource(str(database), table=TABLE)
    daemon = start_daemon("256MiB", workers=1)
    monkeypatch.setitem(os.environ, "FAUCET_ADDRESS", daemon.address)
    cut, again = Reports(last, epoch, done), Reports()
    with torch.random.fork_rng():
        with pytest.raises(Cut):
            trainer.train(source, "job", 0.01, EPOCHS, tmp_path, cut)
        given = rows_given(tmp_path, "job", EPOCHS)
        trainer.train(source, "job", 0.01, EPOCHS, tmp_path, again)
    resumed = [event for event in again.events if isinstance(event, Resumed)]
    if goes_on is None:
        assert resumed == []
    else:
        [begin] = resumed
        assert (begin.epoch, begin.done) == goes_on
        assert begin.rows <= given
    for found in compare(tmp_path, ["job"], EPOCHS, read_ids(database))["job"]:
        assert found.exact, found
    ends = [event.epoch for event in again.events if isinstance(event, EpochEnd)]
    assert ends == list(range(ends[0], EPOCHS))
