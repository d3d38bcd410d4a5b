"""A Lightning trainer that writes down which rows it trained on, and may kill itself.

A process forked by test_lightning.py runs `train`. Imports are here, for the fork's server.
"""

from __future__ import annotations

import json
import os
import signal
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from faucet_client import Batch
from faucet_client.lightning import FaucetDataModule
from tests.processes.forked import redirect_stderr
from tests.processes.rows import check, ids_of
from tests.processes.specs import read_spec

FEATURES = 4


class Model(lightning.LightningModule):
    """Linear; each of its steps is a line of JSON in `log`, before it is done."""

    def __init__(self, log: Path, die_at: tuple[int, int] | None) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(FEATURES, 1)
        self._log = log
        self._die_at = die_at

    def training_step(self, batch: Batch, number: int) -> torch.Tensor:
        check(batch)
        self._write("train", batch, number)
        if self._die_at == (batch.epoch, number):
            os.kill(os.getpid(), signal.SIGKILL)
        return self._loss(batch)

    def validation_step(self, batch: Batch, number: int) -> None:
        self.log("loss", self._loss(batch), batch_size=len(batch))
        if not self.trainer.sanity_checking:
            self._write("val", batch, number)

    def predict_step(self, batch: Batch, number: int) -> None:
        self._write("predict", batch, number)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-6)

    def _loss(self, batch: Batch) -> torch.Tensor:
        return torch.nn.functional.mse_loss(self.linear(batch.features), batch.labels["y"])

    def _write(self, stage: str, batch: Batch, number: int) -> None:
        line = {
            "stage": stage,
            "step": self.global_step,
            "lightning_epoch": self.current_epoch,
            "epoch": batch.epoch,
            "batch": batch.batch_num,
            "number": number,
            "ids": ids_of(batch).tolist(),
        }
        with self._log.open("a") as log:
            log.write(json.dumps(line) + "\n")


def train(config: dict[str, Any]) -> None:
    """Trains by `config`: address, spec, folder, log, data, trainer, saving, resume, die_at, ranks.

    With ranks, the process is one of a job whose others run beside it.
    """
    folder = Path(config["folder"])
    redirect_stderr(folder / f"{config['log']}.stderr")
    # Lightning's advice on logging intervals, workers and sizes is none for a table this small.
    warnings.simplefilter("ignore")
    ranks: dict[str, Any] = {}
    if "ranks" in config:
        os.environ |= config["environ"]
        ranks = {"devices": config["ranks"], "strategy": "ddp"}
    datamodule = FaucetDataModule(
        read_spec(config["spec"]), address=config["address"], **config["data"]
    )
    die_at = config.get("die_at")
    model = Model(folder / f"{config['log']}.jsonl", die_at and tuple(die_at))
    trainer = lightning.Trainer(
        **{"accelerator": "cpu", "devices": 1} | ranks | config["trainer"],
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder / "saved", save_top_k=-1, **config["saving"])],
    )
    if config.get("predict"):
        trainer.predict(model, datamodule, return_predictions=False)
    else:
        trainer.fit(model, datamodule, ckpt_path=config.get("resume"))
