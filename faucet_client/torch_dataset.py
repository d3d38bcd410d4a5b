"""A split as torch's `IterableDataset`, whose state goes into a checkpoint.

Invariants:

- One `iter()` is one epoch, and the epochs count up, in each DataLoader worker for itself: where an
  epoch was left, or killed, the others are not touched.
- A state is of one iteration: what is loaded comes with the next `iter()`, as the rest of that
  epoch. Where nothing was left that rest is empty, and the `iter()` after it is the next epoch. So
  `StatefulDataLoader`, which begins an iteration that had ended anew to end it, stays exact.
- States are made where the rows are read. The trainer's process cannot tell what its DataLoader
  workers have handed out, and says so.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch.utils.data

from faucet_client.batch import Batch
from faucet_client.batches import State, batches_in
from faucet_client.dataset import Dataset, Share, Wish
from faucet_client.device import Target, transfer_to
from faucet_client.errors import StateError
from faucet_client.spec import Split

_MAX_WORKERS = 1_024

_ENDED = "ended"
"""Of a state: whether its epoch is the one after that of its iteration, which has nothing left."""


class _Iteration(Protocol):
    """An epoch under way."""

    def __iter__(self) -> Iterator[Batch]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def close(self) -> None: ...


class _Nothing:
    """The rest of an epoch of which nothing is left."""

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state

    def __iter__(self) -> Iterator[Batch]:
        return iter(())

    def state_dict(self) -> dict[str, Any]:
        return self._state

    def close(self) -> None:
        """There is nothing to close."""


class FaucetDataset(torch.utils.data.IterableDataset[Batch]):
    """A split for `torch.utils.data.DataLoader(batch_size=None)`; one `iter()` is one epoch.

    With `num_workers=0` batches are views, as everywhere. With worker processes each worker reads
    rows of its own and sends copies, since a view could only be sent with its whole chunk; the
    daemon already works beside the trainer, so workers mostly cost. Without `batch_size=None` a
    DataLoader would try to make batches of batches, and fail.

    `torchdata.stateful_dataloader.StatefulDataLoader` asks it for its state, in each worker, and
    goes on from it exactly: batches that were prefetched and not handed out come again. With
    workers it must do so at every batch, which is its default: with another
    `snapshot_every_n_steps` it skips batches that it takes to be the same as before, which they are
    with `order="deterministic"` alone.

    Args:
        dataset: The open dataset.
        split: "train" or "eval".
        batch_size: Rows a batch.
        shuffle: See `Dataset.epochs`.
        order: See there.
        seed: Decides the shuffle, with the epoch.
        job: A name for the training run, by default a random one.
        drop_last: Leave out a last batch that would be short.
        rank: Which of the job's ranks this is. A `DistributedSampler` is not needed.
        world_size: How many ranks share each epoch.
        remainder: What becomes of rows that cannot be dealt evenly; see `Dataset.epochs`.
        device: Where the batches' tensors are; see there. With DataLoader workers, none: such
            batches cannot be sent between processes.

    Raises:
        SpecError: an argument is out of its range, such as a batch larger than the split.
        DeviceError: there is no such device here.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: Split = "train",
        *,
        batch_size: int,
        shuffle: str = "batches",
        order: str = "shared",
        seed: int = 0,
        job: str | None = None,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        remainder: str = "drop",
        device: Target | None = None,
    ) -> None:
        self._dataset = dataset
        self._wish = Wish(
            split,
            batch_size,
            1,
            shuffle,
            seed,
            job or uuid.uuid4().hex,
            drop_last,
            order,
            rank,
            world_size,
            remainder,
            transfer_to(device),
        )
        self._pid = os.getpid()
        self._iteration: _Iteration | None = None
        self._number = 0  # of the iteration's epoch
        self._untouched = False  # it was begun for its state, and nobody has iterated over it
        self._loaded: State | None = None
        # By DataLoader worker, in memory that they share, for most are new in each epoch.
        self._epochs = torch.zeros(_MAX_WORKERS, dtype=torch.int64).share_memory_()
        self._read_by_workers = torch.zeros(1, dtype=torch.bool).share_memory_()
        dataset.check(self._wish)  # what is wrong is said here, and not in a worker

    def set_epoch(self, epoch: int) -> None:
        """The number of the next epoch, which decides its shuffle; without it, epochs count up.

        A state that was loaded is of an epoch too, and is gone on from if it is this one.
        """
        if self._loaded is not None and _number_of(self._loaded) != epoch:
            self._loaded = None
        self._untouched &= self._number == epoch
        self._epochs.fill_(epoch)

    def __len__(self) -> int:
        """Batches of an epoch, of this rank, over all workers."""
        wish = self._wish
        rows, rest = divmod(self._dataset.info.rows[wish.split], wish.world_size)
        rows += wish.remainder == "pad" and rest > 0
        return batches_in(rows, wish.batch_size, wish.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._taken())

    def state_dict(self) -> dict[str, Any]:
        """What was handed out of the epoch that is under way: plain data for a checkpoint.

        Raises:
            StateError: DataLoader workers read the rows, and this is not one of them.
        """
        if torch.utils.data.get_worker_info() is None and self._read_by_workers.item():
            raise StateError(
                "DataLoader workers read the rows, and know what they have handed out: take the "
                "state_dict() of a torchdata.stateful_dataloader.StatefulDataLoader in place of "
                "the dataset's, or use num_workers=0"
            )
        self._forget_a_parent_s()
        state = self._loaded
        if self._iteration is None or state is not None:  # what comes next is what counts
            share = self._share(0 if state is not None else self._next_epoch)
            begin, of_others = self._dataset.beginning(self._wish, share, state)
            if not of_others:
                return begin.to_dict() | {_ENDED: state is not None and _is_ended(state)}
            # The daemon must tell what is left of the other ranks' rows.
            self._iteration = self._taken()
            self._untouched = True
        told = self._iteration.state_dict()
        return told | {_ENDED: told["epoch"] > self._number}

    def load_state_dict(self, state: State) -> None:
        """The next `iter()` goes on from where `state_dict` was asked.

        Args:
            state: What it has returned; or, for another number of ranks, the list of what it has
                returned to each of them at the same batch.

        Raises:
            StateError: it is damaged, of another dataset or reader, or a rank is missing.
        """
        self._dataset.beginning(self._wish, self._share(0), state)  # what is wrong is said here
        self._loaded = state
        self._untouched = False

    def close(self) -> None:
        """Ends the epoch that is under way. Batches that were handed out stay valid."""
        if self._iteration is not None:
            self._iteration.close()

    def _taken(self) -> _Iteration:
        """The iteration that was begun for its state, or a new one."""
        self._forget_a_parent_s()
        if self._iteration is not None and self._untouched:
            self._untouched = False
            return self._iteration
        self.close()  # an epoch that was left early
        share = self._share(0)
        self._read_by_workers.fill_(share.clone)
        epoch, state = self._next_epoch, self._loaded
        if state is not None:
            epoch = _number_of(state)
        iteration: _Iteration
        if state is not None and _is_ended(state):
            begin, _ = self._dataset.beginning(self._wish, share, state)
            iteration = _Nothing(begin.to_dict())
        else:
            iteration = self._dataset.iterate(self._wish, self._share(epoch), state)
        self._iteration, self._number, self._loaded = iteration, epoch, None
        self._epochs[share.worker] = epoch + 1
        return iteration

    @property
    def _next_epoch(self) -> int:
        return int(self._epochs[self._share(0).worker])

    def _forget_a_parent_s(self) -> None:
        """In a forked child, an iteration is the parent's, which goes on with it."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._iteration, self._untouched = None, False

    def _share(self, epoch: int) -> Share:
        info = torch.utils.data.get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        return Share(worker, workers, epoch, clone=info is not None)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_iteration": None, "_untouched": False}


def _first(state: State) -> Mapping[str, Any]:
    return state if isinstance(state, Mapping) else state[0]


def _is_ended(state: State) -> bool:
    return bool(_first(state).get(_ENDED))


def _number_of(state: State) -> int:
    """The epoch's of the iteration that it is of."""
    return int(_first(state)["epoch"]) - _is_ended(state)
