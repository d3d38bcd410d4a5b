"""The training script of the demo: an ordinary one, fed by Faucet ML.

`faucetd demo` runs it four times, each with a learning rate of its own:

    FAUCET_ADDRESS=unix:///folder/faucetd.sock \
        python -m faucetd.demo.trainer --database /folder/flights.duckdb --folder /folder \
        --job lr-0.01 --learning-rate 0.01

or, of a table in BigQuery, with `--table project.dataset.flights` instead of `--database`. Started
again after a kill, it goes on from its checkpoint in `--folder`.

What differs from a script that reads a table itself is `FaucetClient`, `open`, `epochs`, `batches`
and `state_dict`. Progress goes to standard output, one JSON object a line; see
`faucetd.demo.progress`. The row ids are for the demo's own check; see `faucetd.demo.rows`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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
from faucetd.demo.progress import (
    Batches,
    EpochEnd,
    Event,
    Failure,
    Resumed,
    Saved,
    write_event,
)
from faucetd.demo.rows import RowLog

BATCH_SIZE = 512
EMBEDDING = 8
CHECKPOINTS_AN_EPOCH = 5
REPORTS_AN_EPOCH = 50


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
    folder: Path,
    report: Callable[[Event], None],
    exclude: Sequence[str] = (),
) -> None:
    """Trains for some epochs, and evaluates after each; from its checkpoint on, if there is one.

    Args:
        source: The table.
        job: The name of this training.
        learning_rate: Adam's.
        epochs: How many in all.
        folder: Has the checkpoint, and the ids of the rows.
        report: Is told of the progress.
        exclude: Features to leave out.
    """
    dataset = FaucetClient().open(
        DatasetSpec(
            source=source,
            features="features",  # a STRUCT column; a list of columns does as well
            labels=["late"],
            hash_column="row_id",  # decides which row is of which split
            eval_percent=20,
            passthrough=["row_id"],  # for the check of the rows
            exclude_features=exclude,
            preprocessing="auto",  # fitted to the train split, once for all jobs
            fit_on="sample",  # by reading: queries are billed for 10 MiB each, however few rows
            chunk_rows=4_096,  # so few for the map of the chunks; leave it out otherwise
        )
    )
    torch.manual_seed(0)  # every job begins with the same weights
    net = Net(dataset.preprocessing)
    loss_of = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=learning_rate)

    checkpoint = folder / f"{job}.pt"
    state, had = None, (0, 0)
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(saved["net"])
        optimizer.load_state_dict(saved["optimizer"])
        state = saved["batches"]
        had = saved["epoch"], saved["done"] * BATCH_SIZE
        rows_had = had[0] * dataset.info.rows["train"] + had[1]
        report(Resumed(saved["epoch"], saved["done"], rows_had))
    training = dataset.epochs(
        "train", count=epochs, batch_size=BATCH_SIZE, seed=7, job=job, state=state
    )
    with training, RowLog(folder, job, had) as rows_log:
        for epoch in training:
            net.train()
            started, waited_s = time.monotonic(), training.stats().seconds_waited
            rows, total = 0, len(epoch)
            for batch in epoch:
                rows_log.add("train", epoch.number, batch)
                loss = loss_of(net(batch), batch.labels["late"])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

                rows += len(batch)
                done = batch.batch_num + 1
                if done % max(total // REPORTS_AN_EPOCH, 1) == 0:
                    report(Batches(epoch.number, done, total, loss.item()))
                if done % max(total // CHECKPOINTS_AN_EPOCH, 1) == 0 and done < total:
                    save(
                        checkpoint,
                        net=net.state_dict(),
                        optimizer=optimizer.state_dict(),
                        batches=training.state_dict(),
                        epoch=epoch.number,
                        done=done,
                    )
                    report(Saved(epoch.number, done))
            train_s = time.monotonic() - started
            report(
                EpochEnd(
                    epoch=epoch.number,
                    rows=rows,
                    train_s=train_s,
                    seconds_waited=training.stats().seconds_waited - waited_s,
                    auc=evaluate(net, dataset, job, epoch.number, rows_log),
                )
            )


def save(path: Path, **saved: Any) -> None:
    """Writes a checkpoint; who is killed meanwhile leaves the last one whole."""
    hidden = path.with_name(f".{path.name}")
    torch.save(saved, hidden)
    os.replace(hidden, path)


@torch.no_grad()
def evaluate(net: Net, dataset: Dataset, job: str, epoch: int, rows_log: RowLog) -> float:
    """The AUC over the eval split, after an epoch of training."""
    net.eval()
    scores, labels = [], []
    for batch in dataset.batches("eval", batch_size=BATCH_SIZE, shuffle="none", job=job):
        rows_log.add("eval", epoch, batch)
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
    parser.add_argument("--folder", type=Path, required=True, help="of checkpoints and row ids")
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
            arguments.folder,
            write_event,
            arguments.exclude,
        )
    except FaucetError as error:
        write_event(Failure(str(error)))
        sys.exit(1)


if __name__ == "__main__":
    main()
