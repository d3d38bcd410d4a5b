"""The training script of the demo: an ordinary one, fed by Faucet ML.

`faucetd demo` runs it four times at once, each with a learning rate of its own:

    FAUCET_ADDRESS=unix:///folder/faucetd.sock \
        python -m faucetd.demo.trainer --database /folder/flights.duckdb --job lr-0.01 \
        --learning-rate 0.01

or, of a table in BigQuery, with `--table project.dataset.flights` instead of `--database`.

What differs from a script that reads a table itself is `FaucetClient`, `open`, `epochs` and
`batches`. Progress goes to standard output, one JSON object a line; see `faucetd.demo.progress`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from faucet_client import (
    Batch,
    BigQuerySource,
    Dataset,
    DatasetSpec,
    DuckDBSource,
    FaucetClient,
    FaucetError,
    PreprocessingSpec,
)
from faucetd.demo.auc import auc
from faucetd.demo.progress import Batches, EpochEnd, Event, Failure, write_event

BATCH_SIZE = 512
EMBEDDING = 8
SECONDS_BETWEEN_EVENTS = 0.1


class Net(nn.Module):
    """A small network: an embedding for each categorical feature, then two layers.

    Args:
        spec: What the daemon makes of the features; it tells the sizes.
    """

    def __init__(self, spec: PreprocessingSpec) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {name: nn.Embedding(spec.cardinality(name), EMBEDDING) for name in spec.id_names}
        )
        width = spec.width + EMBEDDING * len(self.embeddings)
        self.layers = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits, float32 [n, 1]."""
        embedded = [embedding(batch.ids[name]) for name, embedding in self.embeddings.items()]
        logits: torch.Tensor = self.layers(torch.cat([batch.features, *embedded], dim=1))
        return logits


def train(
    source: BigQuerySource | DuckDBSource,
    job: str,
    learning_rate: float,
    epochs: int,
    report: Callable[[Event], None],
    exclude: Sequence[str] = (),
) -> None:
    """Trains for some epochs, and evaluates after each; without the features in `exclude`."""
    dataset = FaucetClient().open(
        DatasetSpec(
            source=source,
            features="features",  # a STRUCT column; a list of columns does as well
            labels=["late"],
            hash_column="row_id",  # decides which row is of which split
            eval_percent=20,
            exclude_features=exclude,
            preprocessing="auto",  # fitted to the train split, once for all jobs
            fit_on="sample",  # by reading: queries are billed for 10 MiB each, however few rows
        )
    )
    torch.manual_seed(0)  # every job begins with the same weights
    net = Net(dataset.preprocessing)
    loss_of = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=learning_rate)

    training = dataset.epochs("train", count=epochs, batch_size=BATCH_SIZE, seed=7, job=job)
    for epoch in training:
        net.train()
        started = reported = time.monotonic()
        rows = 0
        for batch in epoch:
            loss = loss_of(net(batch), batch.labels["late"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

            rows += len(batch)
            if time.monotonic() - reported > SECONDS_BETWEEN_EVENTS:
                reported = time.monotonic()
                report(Batches(epoch.number, batch.batch_num + 1, len(epoch), loss.item()))
        train_s = time.monotonic() - started
        report(
            EpochEnd(
                epoch=epoch.number,
                rows=rows,
                train_s=train_s,
                seconds_waited=training.stats().seconds_waited,
                auc=evaluate(net, dataset, job),
            )
        )


@torch.no_grad()
def evaluate(net: Net, dataset: Dataset, job: str) -> float:
    """The AUC over the eval split."""
    net.eval()
    scores, labels = [], []
    for batch in dataset.batches("eval", batch_size=BATCH_SIZE, shuffle="none", job=job):
        scores.append(net(batch)[:, 0])
        # A kept batch would keep its chunk in memory, so this keeps a copy of one column.
        labels.append(batch.labels["late"][:, 0].clone())
    return auc(torch.cat(scores), torch.cat(labels))


def main() -> None:
    """Trains as the command line says; exits with 1 where the daemon refuses."""
    parser = argparse.ArgumentParser()
    rows = parser.add_mutually_exclusive_group(required=True)
    rows.add_argument("--table", help="project.dataset.flights, of BigQuery")
    rows.add_argument("--database", help="a DuckDB file that has the table flights")
    parser.add_argument("--job", required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--exclude", nargs="*", default=[], help="features to leave out")
    arguments = parser.parse_args()

    source: BigQuerySource | DuckDBSource
    if arguments.table:
        source = BigQuerySource(table=arguments.table)
    else:
        source = DuckDBSource(arguments.database, table="flights")
    torch.set_num_threads(1)  # four of us share the processors
    try:
        train(
            source,
            arguments.job,
            arguments.learning_rate,
            arguments.epochs,
            write_event,
            arguments.exclude,
        )
    except FaucetError as error:
        write_event(Failure(str(error)))
        sys.exit(1)


if __name__ == "__main__":
    main()
