"""What preprocessing is worth: the demo against a network of the numeric columns as they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from faucet_client import DatasetSpec, DuckDBSource, FaucetClient
from faucetd.demo import trainer
from faucetd.demo.auc import auc
from faucetd.demo.progress import EpochEnd, Event
from faucetd.demo.table import TABLE, TEXTS, make_table
from tests.processes.daemons import StartDaemon

LEARNING_RATE = 0.01
EPOCHS = 2


def auc_of_numbers(client: FaucetClient, source: DuckDBSource) -> float:
    """The same network and training, fed with the numbers alone, standardized by itself."""
    dataset = client.open(
        DatasetSpec(
            source,
            features="features",
            labels=["late"],
            hash_column="row_id",
            eval_percent=20,
            exclude_features=TEXTS,
            preprocessing="none",
        )
    )
    width = len(dataset.info.features)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.BatchNorm1d(width, affine=False), nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 1)
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    loss_of = nn.BCEWithLogitsLoss()
    for epoch in dataset.epochs("train", count=EPOCHS, batch_size=trainer.BATCH_SIZE, seed=7):
        for batch in epoch:
            loss = loss_of(net(batch.features.nan_to_num()), batch.labels["late"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    net.eval()
    scores, labels = [], []
    with torch.no_grad():
        for batch in dataset.batches("eval", batch_size=4_096, shuffle="none"):
            scores.append(net(batch.features.nan_to_num())[:, 0])
            labels.append(batch.labels["late"][:, 0].clone())
    return auc(torch.cat(scores), torch.cat(labels))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the demo's trainers: for batches this small, further threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """The demo's flights; written before a daemon counts what this process has open."""
    path = tmp_path / "flights.duckdb"
    make_table(path)
    return path


@pytest.mark.usefixtures("one_thread")
def test_the_demo_beats_the_numeric_columns_alone(
    database: Path, tmp_path: Path, start_daemon: StartDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = DuckDBSource(str(database), table=TABLE)
    daemon = start_daemon("256MiB", workers=1)
    monkeypatch.setitem(os.environ, "FAUCET_ADDRESS", daemon.address)
    ends: list[Event] = []
    with torch.random.fork_rng():
        trainer.train(source, "demo", LEARNING_RATE, EPOCHS, tmp_path, ends.append)
        with daemon.client() as client:
            numbers = auc_of_numbers(client, source)
    with_categories = [event.auc for event in ends if isinstance(event, EpochEnd)][-1]
    assert with_categories > numbers + 0.01
