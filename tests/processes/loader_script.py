"""A DataLoader over a FaucetDataset; what it saw goes to stdout as JSON.

Run as `python -W error -m tests.processes.loader_script CONFIG` by test_forks.py.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import numpy as np
import torch.utils.data

from faucet_client import Batch, FaucetClient, FaucetDataset
from tests.processes.rows import check, ids_of
from tests.processes.specs import read_spec

BATCH = 300
EPOCHS = 2


def main() -> None:
    """One line: for each epoch the ids, the sizes, and the largest storage behind a batch."""
    # Python 3.12 and later warn of every fork beside threads; DataLoader's own concern.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    config: dict[str, Any] = json.loads(sys.argv[1])
    client = FaucetClient(config["address"])
    dataset = client.open(read_spec(config["spec"]))
    if config["used"]:  # the workers are forked from a client in the midst of reading
        used = dataset.batches(batch_size=BATCH)
        check(next(used))
    rows = FaucetDataset(dataset, batch_size=BATCH, seed=3, job="loader")
    workers = config["workers"]
    loader: torch.utils.data.DataLoader[Batch] = torch.utils.data.DataLoader(
        rows,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=config["context"] if workers else None,
    )
    epochs = []
    for epoch in range(EPOCHS):
        rows.set_epoch(epoch)
        ids = []
        sizes = []
        storage = 0
        for batch in loader:
            check(batch)
            ids.append(ids_of(batch))
            sizes.append(len(batch))
            storage = max(storage, batch.features.untyped_storage().nbytes())
        epochs.append(
            {
                "ids": np.concatenate(ids).tolist(),
                "sizes": sizes,
                "storage_nbytes": storage,
                "length": len(loader),
            }
        )
    print(json.dumps(epochs))  # noqa: T201  # this is its answer


if __name__ == "__main__":
    main()
