"""Training on several ranks with torch.distributed, killed and resumed exactly.

    python examples/passengers.py --rows 20000 passengers.parquet
    faucetd serve --allowed-roots "$PWD"            # in another terminal
    torchrun --nproc-per-node 2 examples/train_ddp.py "$PWD/passengers.parquet"

Kill it in the midst of an epoch and start it again, with as many ranks or with others: it goes on
from its checkpoint, and each row is still trained on once an epoch, less the few that cannot be
dealt evenly. All ranks get as many batches, so none waits for another at an epoch's end. The
processes share one host, since batches come through its memory.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from faucet_client import Batch, Dataset, DatasetSpec, FaucetClient, ParquetSource

log = logging.getLogger(__name__)


def train(
    dataset: Dataset,
    checkpoint: Path,
    *,
    epochs: int,
    batch_size: int,
    every: int,
    after_batch: Callable[[Batch], None] = lambda _: None,
) -> None:
    """Trains a small model on all ranks, from the checkpoint on if there is one.

    Args:
        dataset: With one label, of 0 and 1.
        checkpoint: The file.
        epochs: How many in all.
        batch_size: Rows a batch, of each rank.
        every: Batches between checkpoints.
        after_batch: Is told of each batch after its step, and before the checkpoint.
    """
    (label,) = dataset.info.labels
    model = DistributedDataParallel(torch.nn.Linear(len(dataset.info.outputs), 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    states = None
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.module.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        states = saved["states"]
    batches = dataset.batches(
        "train",
        batch_size=batch_size,
        epochs=epochs,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        state=states,  # of all ranks, however many there were
    )
    with batches:
        for number, batch in enumerate(batches, 1):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                model(batch.features), batch.labels[label]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            after_batch(batch)
            if number % every == 0:
                states = gathered(batches.state_dict())
                save(checkpoint, model.module, optimizer, states)
                if dist.get_rank() == 0:
                    log.info(
                        "epoch %d, batch %d: loss %.4f", batch.epoch, batch.batch_num, loss.item()
                    )


def gathered(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The states of all ranks: all have had as many batches when they come here."""
    states: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(states, state)
    return states


def save(
    path: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    states: list[dict[str, Any]],
) -> None:
    """Writes the checkpoint, in rank 0; who is killed meanwhile leaves the last one whole."""
    if dist.get_rank() == 0:
        hidden = path.with_name(f".{path.name}")
        saved = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "states": states,
        }
        torch.save(saved, hidden)
        os.replace(hidden, path)


def main() -> None:
    """Trains on the examples' passengers."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("table", help="the path of passengers.parquet, as the daemon sees it")
    parser.add_argument("--checkpoint", type=Path, default=Path("train_ddp.pt"))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--every", type=int, default=50, help="batches between checkpoints")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    dist.init_process_group("gloo")
    try:
        spec = DatasetSpec(
            ParquetSource(arguments.table),
            features="features",
            labels="labels",
            hash_column="hash_on",
            eval_percent=20,
        )
        train(
            FaucetClient().open(spec),
            arguments.checkpoint,
            epochs=arguments.epochs,
            batch_size=arguments.batch_size,
            every=arguments.every,
        )
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
