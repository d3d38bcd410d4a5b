"""One rank of `examples/train_ddp.py`; it writes down which rows it trained on, and may stop.

A process forked by test_ddp.py runs `train`. Imports are here, for the fork's server.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
from pathlib import Path
from typing import Any

import torch.distributed
import torch.nn.parallel

from faucet_client import Batch, FaucetClient
from tests.processes.forked import redirect_stderr
from tests.processes.nursery import ROOT
from tests.processes.rows import check, ids_of
from tests.processes.specs import read_spec


def train(config: dict[str, Any]) -> None:
    """Trains by `config`: address, spec, log, stderr, environ, stop_at, training.

    With `stop_at`, after so many batches it goes no further, and waits to be killed.
    """
    redirect_stderr(Path(config["stderr"]))
    os.environ |= config["environ"]
    done = 0

    def after_batch(batch: Batch) -> None:
        nonlocal done
        check(batch)
        done += 1
        line = {"epoch": batch.epoch, "batch": batch.batch_num, "ids": ids_of(batch).tolist()}
        with Path(config["log"]).open("a") as log:
            log.write(json.dumps(line) + "\n")
        while done == config["stop_at"]:
            signal.pause()

    example = runpy.run_path(str(ROOT / "examples" / "train_ddp.py"))
    torch.distributed.init_process_group("gloo")
    dataset = FaucetClient(config["address"]).open(read_spec(config["spec"]))
    example["train"](
        dataset, Path(config["checkpoint"]), **config["training"], after_batch=after_batch
    )
    torch.distributed.destroy_process_group()
