"""Lightning's own checkpoints resume a FaucetDataModule: each row once an epoch, whatever dies."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from faucet_client.lightning import FaucetDataModule
from tests.processes import forked, lightning_script
from tests.processes.daemons import WatchedDaemon
from tests.processes.nursery import ROOT
from tests.processes.rows import Ids, assert_exact
from tests.processes.tables import MakeTable, Table

ROWS, BATCH = 1_009, 100
BATCHES = 11
SPLIT = {"hash_column": "id", "eval_percent": 20}

pytestmark = pytest.mark.usefixtures("fork_server")


class Job:
    """Trainings of one table in one folder, one after another."""

    def __init__(self, daemon: WatchedDaemon, table: Table, folder: Path, **spec: Any) -> None:
        self.folder = folder
        self._fields = table.fields(**spec)
        self._address = daemon.address
        self._runs = 0

    def run(self, *, ranks: int = 1, **config: Any) -> list[list[dict[str, Any]]]:
        """Trains to the end, or to a death; what each rank has written down."""
        logs, processes = self._start(ranks, config)
        expected = -signal.SIGKILL if "die_at" in config else 0
        for process, log in zip(processes, logs, strict=True):
            forked.end(process, expected, self.folder / f"{log}.stderr")
        return [read_lines(self.folder / f"{log}.jsonl") for log in logs]

    def refused(self, **config: Any) -> str:
        """Trains, which must fail; its stderr."""
        (log,), (process,) = self._start(1, config)
        path = self.folder / f"{log}.stderr"
        forked.end(process, 1, path)
        return path.read_text()

    def _start(self, ranks: int, config: dict[str, Any]) -> tuple[list[str], list[BaseProcess]]:
        self._runs += 1
        config = {
            "trainer": {},
            "saving": {},
            "data": {},
            "folder": str(self.folder),
            "address": self._address,
            "spec": self._fields,
        } | config
        config["data"] = {"batch_size": BATCH, "seed": 5} | config["data"]
        config["trainer"] = {"max_epochs": 3} | config["trainer"]
        logs = [f"run{self._runs}-{rank}" for rank in range(ranks)]
        port = forked.free_port()
        processes = []
        for rank, log in enumerate(logs):
            mine = config | {"log": log}
            if ranks > 1:
                mine |= {"ranks": ranks, "environ": environ(rank, port)}
            processes.append(forked.start(lightning_script.train, mine))
        return logs, processes

    def checkpoint(self, step: int) -> str:
        """The checkpoint of a step."""
        (path,) = (self.folder / "saved").glob(f"*step={step}*.ckpt")
        return str(path)


def environ(rank: int, port: int) -> dict[str, str]:
    """What Lightning's own launcher sets for each process."""
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "LOCAL_RANK": str(rank),
        "NODE_RANK": "0",
    }


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def ids(lines: list[dict[str, Any]], **wanted: Any) -> Ids:
    """The ids of the lines that have all `wanted`."""
    found = [
        line["ids"] for line in lines if all(line[name] == value for name, value in wanted.items())
    ]
    return np.array([row for part in found for row in part], np.int64)


def assert_epochs(lines: list[dict[str, Any]], rows: int = ROWS, epochs: int = 3) -> None:
    """Each epoch has each row once, and Lightning counts the epochs and batches as we do."""
    for epoch in range(epochs):
        assert_exact(ids(lines, stage="train", epoch=epoch), rows)
    for line in lines:
        if line["stage"] == "train":
            assert (line["lightning_epoch"], line["number"]) == (line["epoch"], line["batch"])


@pytest.fixture
def table(make_table: MakeTable) -> Table:
    return make_table(rows=ROWS, chunk_rows=200)


@pytest.fixture
def job(daemon: WatchedDaemon, table: Table, tmp_path: Path) -> Job:
    return Job(daemon, table, tmp_path)


MOMENTS = {
    "within an epoch": ({"every_n_train_steps": 4}, 16),
    "within the first epoch": ({"every_n_train_steps": 4}, 4),
    "at an epoch's last batch": ({"every_n_train_steps": 11}, 11),
    "at a second epoch's last batch": ({"every_n_train_steps": 11}, 22),
    "at an epoch's end": ({"save_on_train_epoch_end": True}, 11),
    "at a second epoch's end": ({"save_on_train_epoch_end": True}, 22),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_training_goes_on_from_a_checkpoint_of_any_moment(moment: str, job: Job) -> None:
    saving, step = MOMENTS[moment]
    epoch, batch = divmod(step + 2, BATCHES)
    (before,) = job.run(saving=saving, die_at=(epoch, batch))
    (after,) = job.run(saving=saving, resume=job.checkpoint(step))
    assert max(line["step"] for line in before) == step + 2
    assert_epochs([line for line in before if line["step"] < step] + after)


@pytest.mark.parametrize(
    ("interval", "epoch", "batch"),
    [(4, 0, 4), (4, 1, 4), (1.0, 1, 0), (1.0, 2, 0)],
    ids=["within the first epoch", "within an epoch", "after an epoch", "after a second epoch"],
)
def test_checkpoints_that_validation_saves_leave_training_and_validation_exact(
    interval: float, epoch: int, batch: int, daemon: WatchedDaemon, table: Table, tmp_path: Path
) -> None:
    job = Job(daemon, table, tmp_path, **SPLIT)
    rows = daemon.client().open(table.spec(**SPLIT)).info.rows
    step = epoch * -(-rows["train"] // BATCH) + batch
    trainer = {"val_check_interval": interval}
    (before,) = job.run(trainer=trainer, die_at=(epoch, batch + 1))
    (after,) = job.run(trainer=trainer, resume=job.checkpoint(step))
    lines = [line for line in before if line["step"] < step] + after
    for number in range(3):
        found = ids(lines, stage="train", epoch=number)
        assert len(np.unique(found)) == len(found) == rows["train"]
    for number in {line["epoch"] for line in after if line["stage"] == "val"}:
        found = ids(after, stage="val", epoch=number)
        assert len(np.unique(found)) == len(found) == rows["eval"]


def test_another_number_of_ranks_goes_on_from_an_epoch_s_end_and_not_from_its_midst(
    job: Job,
) -> None:
    between: dict[str, Any] = {"save_on_train_epoch_end": True}
    before = job.run(ranks=2, saving=between, die_at=(1, 5))  # of six batches
    (after,) = job.run(saving=between, resume=job.checkpoint(6))
    lines = [line for rank in before for line in rank if line["step"] < 6]
    first = ids(lines, stage="train", epoch=0)
    assert len(np.unique(first)) == len(first) == ROWS - ROWS % 2
    for epoch in (1, 2):
        assert_exact(ids(after, stage="train", epoch=epoch), ROWS)
    error = job.refused(resume=job.checkpoint(6), data={"seed": 6})
    assert "StateError: the state was saved with seed=5, and this reader has 6" in error
    within = {"every_n_train_steps": 16}
    job.run(ranks=2, saving=within)
    error = job.refused(resume=job.checkpoint(16))
    assert "StateError: the checkpoint was saved within an epoch with {'world_size': 2" in error


def test_ranks_share_each_epoch_and_are_resumed_together(job: Job) -> None:
    saving = {"every_n_train_steps": 2}
    before = job.run(ranks=2, saving=saving, die_at=(1, 4))
    after = job.run(ranks=2, saving=saving, resume=job.checkpoint(8))
    lines = [line for rank in before for line in rank if line["step"] < 8]
    lines += [line for rank in after for line in rank]
    for epoch in range(3):
        found = ids(lines, stage="train", epoch=epoch)
        assert len(np.unique(found)) == len(found) == ROWS - ROWS % 2
    states = torch.load(job.checkpoint(8))["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert [state["rank"] for state in states[0]["ranks"]] == [0, 1]


def test_prediction_reads_the_eval_split_once_in_order(
    daemon: WatchedDaemon, table: Table, tmp_path: Path
) -> None:
    job = Job(daemon, table, tmp_path, **SPLIT)
    rows = daemon.client().open(table.spec(**SPLIT)).info.rows["eval"]
    (lines,) = job.run(predict=True)
    found = ids(lines, stage="predict")
    assert len(np.unique(found)) == len(found) == rows


def test_the_trainers_device_is_taken_if_it_is_a_gpu(table: Table) -> None:
    module = FaucetDataModule(table.spec(), batch_size=BATCH, device="trainer")
    assert module._target() is None
    for root in (torch.device("cuda", 1), torch.device("cpu"), torch.device("mps")):
        trainer: Any = SimpleNamespace(strategy=SimpleNamespace(root_device=root))
        module.trainer = trainer
        assert module._target() == (root if root.type == "cuda" else None)
    assert FaucetDataModule(table.spec(), batch_size=BATCH)._target() is None


def test_without_lightning_the_module_says_what_to_install() -> None:
    code = "import sys; sys.modules['lightning.pytorch'] = None; import faucet_client.lightning"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "pip install 'faucetml[lightning]'" in ended.stderr.splitlines()[-1]


def test_epochs_that_are_cut_by_a_limit_are_resumed_as_they_would_have_gone_on(job: Job) -> None:
    trainer = {"limit_train_batches": 4}
    saving = {"save_on_train_epoch_end": True}
    (whole,) = job.run(trainer=trainer, saving=saving)
    (after,) = job.run(trainer=trainer, resume=job.checkpoint(8))
    for lines in (whole, after):
        places = [(line["lightning_epoch"], line["epoch"], line["batch"]) for line in lines]
        assert places == [(e, e, b) for e in range(3) for b in range(4)][-len(lines) :]
    assert len(after) == 4
