"""A data module for Lightning, whose checkpoints resume in mid-epoch, each row once.

    datamodule = FaucetDataModule(spec, batch_size=1024)
    trainer = lightning.Trainer(max_epochs=3)
    trainer.fit(model, datamodule, ckpt_path=path)

Needs Lightning 2.4 or later: `pip install 'faucetml[lightning]'`.

Invariants:

- Lightning asks for states after a batch was trained on and before it fetches the next one; nothing
  is prefetched, since the loader's length is known. So batches after the checkpoint come again, and
  no others.
- The state is in the checkpoint twice, as the train loader's and as the data module's. Lightning
  gives the former back only in mid-epoch, and warns where a loader has none; the latter always.
- Only rank 0 writes a checkpoint, but all ranks take part in making it: the loader gathers the
  states of all.
- Lightning may ask for an iterator that it then does not use, differently for each moment at which
  a checkpoint was saved. An epoch begins with its first batch: until then `iter()` is the same one.
- The daemon deals the rows to the ranks. Lightning puts a DistributedSampler into torch's
  DataLoaders alone, which these are not, whatever `use_distributed_sampler` says.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import torch.distributed

from faucet_client.batch import Batch
from faucet_client.dataset import Dataset, FaucetClient
from faucet_client.device import Target
from faucet_client.errors import StateError
from faucet_client.spec import DatasetSpec, Split
from faucet_client.torch_dataset import FaucetDataset

try:
    from lightning.pytorch import LightningDataModule
except ImportError as error:
    raise ImportError(
        "faucet_client.lightning needs Lightning, which is not installed, or not whole "
        f"({error}): pip install 'faucetml[lightning]'"
    ) from error

__all__ = ["FaucetDataModule", "TrainLoader"]


class TrainLoader:
    """Epoch after epoch of the train split, as Lightning iterates over them.

    Args:
        rows: What it iterates over.
        batch_size: Of `rows`.
        world_size: How many processes make a checkpoint together.
    """

    def __init__(self, rows: FaucetDataset, batch_size: int, world_size: int) -> None:
        self._rows = rows
        self._batch_size = batch_size
        self._world_size = world_size
        self._batches: Iterator[Batch] | None = None
        self._begun: dict[str, Any] = {}

    def __len__(self) -> int:
        """Batches of an epoch, of this rank."""
        return len(self._rows)

    def __iter__(self) -> Iterator[Batch]:
        if self._batches is None or self._rows.state_dict() != self._begun:
            self._batches = iter(self._rows)
            self._begun = self._rows.state_dict()
        return self._batches

    def state_dict(self) -> dict[str, Any]:
        """The states of all ranks, by rank. With several ranks all of them must ask at once."""
        mine = self._rows.state_dict()
        if self._world_size == 1:
            return {"ranks": [mine]}
        states: list[Any] = [None] * self._world_size
        torch.distributed.all_gather_object(states, mine)
        return {"ranks": states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from where `state_dict` was asked, within an epoch as Lightning counts them.

        Raises:
            StateError: it is not of such a loader; or it had another batch size or number of ranks.
        """
        self.resume(state, within_epoch=True)

    def resume(self, state: Mapping[str, Any], *, within_epoch: bool) -> None:
        """Goes on from a state, after the epoch that it is of unless Lightning is still within it.

        Raises:
            StateError: it is not of such a loader; or it had another batch size or number of ranks,
                and Lightning is within the epoch.
        """
        ranks = state.get("ranks")
        if not isinstance(ranks, list) or not ranks or not all(map(_is_state, ranks)):
            raise StateError(
                f"{state!r:.200} is no state of a FaucetDataModule: resume from a checkpoint that "
                "was saved with one"
            )
        then = {"world_size": len(ranks), "batch_size": ranks[0]["stripe_rows"]}
        now = {"world_size": self._world_size, "batch_size": self._batch_size}
        if within_epoch and then != now:
            raise StateError(
                f"the checkpoint was saved within an epoch with {then}, and this is {now}: "
                "Lightning takes all epochs to have as many batches. Resume with the same, or from "
                "a checkpoint that was saved between epochs, as "
                "ModelCheckpoint(save_on_train_epoch_end=True) does"
            )
        # Whether the epoch had ended, Lightning knows by itself: what it asks for is the next one.
        self._rows.load_state_dict([_without_end(each) for each in ranks])
        if not within_epoch and ranks[0]["batch"]:
            self._rows.set_epoch(ranks[0]["epoch"] + 1)  # Lightning has left the rest, by a limit
        self._batches = None

    def close(self) -> None:
        """Ends the epoch that is under way. Batches that were handed out stay valid."""
        self._rows.close()


def _is_state(each: object) -> bool:
    return isinstance(each, dict) and {"epoch", "batch", "stripe_rows"} <= each.keys()


def _without_end(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name != "ended"}


class FaucetDataModule(LightningDataModule):
    """Train, validation and predict loaders of a dataset.

    Steps get a `Batch`, and log with `batch_size=len(batch)`. Lightning does not move it: by
    default its tensors are views in the host's memory, and on a GPU a step moves what it needs
    (`batch.features.to(self.device, non_blocking=True)`). With `device="trainer"` they are on the
    trainer's device, copied ahead.


    Rank and number of ranks are the trainer's. Validation and prediction read the eval split, in
    order; rows that cannot be dealt to the ranks evenly are there twice (`remainder="pad"`).

    A job's name is its own: a live trainer of the same name is refused.

    Args:
        source: What to open; or a dataset that is open.
        batch_size: Rows a batch of each rank, in training.
        eval_batch_size: In validation and prediction; by default the same.
        address: Of the daemon, for a DatasetSpec; see `FaucetClient`.
        shuffle: Of training; see `Dataset.epochs`.
        order: Of training; see there.
        seed: Decides the shuffle, with the epoch.
        job: A name for the training run, by default a random one.
        drop_last: Leave out a last batch of training that would be short.
        remainder: Of training: what becomes of rows that cannot be dealt to the ranks evenly.
        predict_split: What `trainer.predict` reads.
        device: Where batches come to, in all stages: "trainer" for the trainer's own, if that is a
            CUDA device; else see `Dataset.epochs`.
    """

    def __init__(
        self,
        source: DatasetSpec | Dataset,
        *,
        batch_size: int,
        eval_batch_size: int | None = None,
        address: str | None = None,
        shuffle: str = "batches",
        order: str = "shared",
        seed: int = 0,
        job: str | None = None,
        drop_last: bool = False,
        remainder: str = "drop",
        predict_split: Split = "eval",
        device: Target | None = None,
    ) -> None:
        super().__init__()
        self._spec = source.spec if isinstance(source, Dataset) else source
        self._dataset = source if isinstance(source, Dataset) else None
        self._address = address
        self._batch_size = batch_size
        self._eval_batch_size = eval_batch_size or batch_size
        self._training: dict[str, Any] = {
            "shuffle": shuffle,
            "order": order,
            "seed": seed,
            "drop_last": drop_last,
            "remainder": remainder,
        }
        self._job = job or uuid.uuid4().hex
        self._predict_split: Split = predict_split
        self._device = device
        self._train: TrainLoader | None = None
        self._resumed: Mapping[str, Any] | None = None
        self._eval: dict[str, FaucetDataset] = {}

    @property
    def dataset(self) -> Dataset:
        """The open dataset, with what a model must know: `info`, `preprocessing`.

        Raises:
            FaucetError: it cannot be opened; see `FaucetClient`, and its `open`.
        """
        if self._dataset is None:
            self._dataset = FaucetClient(self._address).open(self._spec)
        return self._dataset

    def setup(self, stage: str) -> None:  # noqa: ARG002  # all stages read the same dataset
        """Opens the dataset, in each process."""
        _ = self.dataset

    def train_dataloader(self) -> TrainLoader:
        """The train split, shuffled, from the trainer's epoch on."""
        if self._train is not None:
            self._train.close()
        rank, world_size = self._place()
        rows = FaucetDataset(
            self.dataset,
            "train",
            batch_size=self._batch_size,
            job=self._job,
            rank=rank,
            world_size=world_size,
            device=self._target(),
            **self._training,
        )
        rows.set_epoch(0 if self.trainer is None else self.trainer.current_epoch)
        self._train = TrainLoader(rows, self._batch_size, world_size)
        if self._resumed is not None:
            within = self.trainer is not None and self.trainer.fit_loop.restarting
            self._train.resume(self._resumed, within_epoch=within)
            self._resumed = None
        return self._train

    def val_dataloader(self) -> FaucetDataset | list[Any]:
        """The eval split, in order; nothing where it has no rows."""
        return self._in_order("val", "eval") if self.dataset.info.rows["eval"] else []

    def predict_dataloader(self) -> FaucetDataset:
        """`predict_split`, in order."""
        return self._in_order("predict", self._predict_split)

    def state_dict(self) -> dict[str, Any]:
        """The train loader's; Lightning asks for it when it makes a checkpoint, in all ranks."""
        return {} if self._train is None else self._train.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The next train loader goes on from there; other stages have no use for it."""
        if self.trainer is None or self.trainer.state.fn == "fit":
            self._resumed = state_dict

    def teardown(self, stage: str) -> None:  # noqa: ARG002  # nothing is left of any
        """Ends what is still being read."""
        for loader in (self._train, *self._eval.values()):
            if loader is not None:
                loader.close()

    def _in_order(self, name: str, split: Split) -> FaucetDataset:
        """A stage's loader; a new one ends the last, which may have been left early."""
        if name in self._eval:
            self._eval[name].close()
        rank, world_size = self._place()
        self._eval[name] = FaucetDataset(
            self.dataset,
            split,
            batch_size=self._eval_batch_size,
            shuffle="none",
            job=f"{self._job}/{name}",
            rank=rank,
            world_size=world_size,
            remainder="pad",
            device=self._target(),
        )
        return self._eval[name]

    def _target(self) -> Target | None:
        if self._device != "trainer":
            return self._device
        root = None if self.trainer is None else self.trainer.strategy.root_device
        return root if root is not None and root.type == "cuda" else None

    def _place(self) -> tuple[int, int]:
        trainer = self.trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
