"""The client's front door: connect, open a dataset, iterate."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import torch.utils.data

from faucet_client.address import Address, default_address, parse_address
from faucet_client.batches import (
    PREFETCH_GRANTS,
    Batch,
    BatchIterator,
    EpochIterator,
    Reader,
    Reading,
    batches_in,
)
from faucet_client.channel import DatasetInfo, ProgressListener, ReaderRequest
from faucet_client.errors import SpecError
from faucet_client.session import Session
from faucet_client.spec import SHUFFLES, SPLITS, DatasetSpec, Split
from faucet_client.status import Status

_MAX_SEED = 2**64


class FaucetClient:
    """A connection to the daemon on this host. Cheap; one a process is enough.

    It may be made before a fork: a child that uses it connects anew.

    Args:
        address: Where the daemon listens, `unix:///…/faucetd.sock`; by default FAUCET_ADDRESS,
            else the default socket of `faucetd serve`.

    Raises:
        DaemonUnreachable: nobody listens there; the message says how to start a daemon.
        VersionMismatch: the daemon is of another version.
        AccessDenied: this user may not use it.
    """

    def __init__(self, address: str | None = None) -> None:
        self._address: Address = default_address() if address is None else parse_address(address)
        self._session: Session | None = Session.connect(self._address)

    @property
    def address(self) -> str:
        """Where the daemon listens."""
        return str(self._address)

    def open(self, spec: DatasetSpec, on_progress: ProgressListener | None = None) -> Dataset:
        """Opens a dataset, or joins it where another process has opened it already.

        Args:
            spec: Which table, which columns, which rows.
            on_progress: Is told how far the daemon is, where opening takes long.

        Raises:
            ColumnError: a column is missing, or of a type that cannot serve.
            SourceError: no such file or table, not allowed, empty, or broken.
            BudgetError: the daemon's memory budget is too small for the dataset's chunks.
        """
        info = self.session().channel.open_dataset(spec, "", on_progress)
        return Dataset(self, spec, info)

    def status(self) -> Status:
        """What the daemon says of itself: memory, datasets, readers."""
        return self.session().status()

    def session(self) -> Session:
        """This process's session; a new one in a forked child, or after close()."""
        if self._session is None or self._session.stale:
            self._session = Session.connect(self._address)
        return self._session

    def close(self) -> None:
        """Ends the connection and its iterators. Batches that were handed out stay valid."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"_address": self._address, "_session": None}


class Dataset:
    """An open dataset: one snapshot of a table, prepared once for all who read it.

    It may be used in forked children and pickled to other processes of the host.

    Attributes:
        spec: What was asked for.
        info: What is known of it: rows a split, names of features, labels and passthrough columns.
    """

    def __init__(self, client: FaucetClient, spec: DatasetSpec, info: DatasetInfo) -> None:
        self._client = client
        self._opened_in = os.getpid()
        self.spec = spec
        self.info = info

    def __repr__(self) -> str:
        rows = ", ".join(f"{split}: {count:,}" for split, count in self.info.rows.items())
        return f"Dataset({self.spec.source}, {rows}, key={self.info.key})"

    def epochs(
        self,
        split: Split = "train",
        *,
        count: int,
        batch_size: int,
        shuffle: str = "batches",
        seed: int = 0,
        job: str | None = None,
        drop_last: bool = False,
    ) -> EpochIterator:
        """`count` epochs of a split, each an iterable of batches with a length.

        Args:
            split: "train" or "eval".
            count: How many epochs.
            batch_size: Rows a batch; the last one of an epoch may have fewer.
            shuffle: "batches": the order of chunks, and where each begins, vary by seed and epoch;
                "none": the same order every time.
            seed: Decides the shuffle, with the epoch.
            job: A name for this training run, for the status; two live readers of one split cannot
                have the same. By default a random one.
            drop_last: Leave out a last batch that would be short.

        Raises:
            SpecError: an argument is out of its range, such as a batch larger than the split.
            ReaderConflict: a live reader of the same job reads this split.
            BudgetError: the daemon has no memory for another reader.
        """
        reading = self._reading(split, count, batch_size, shuffle, seed, job, drop_last)
        return EpochIterator(self._reader(reading))

    def batches(
        self,
        split: Split = "train",
        *,
        batch_size: int,
        epochs: int = 1,
        shuffle: str = "batches",
        seed: int = 0,
        job: str | None = None,
        drop_last: bool = False,
    ) -> BatchIterator:
        """The batches of one or more epochs of a split, in a row. Arguments: see `epochs`."""
        reading = self._reading(split, epochs, batch_size, shuffle, seed, job, drop_last)
        return BatchIterator(self._reader(reading))

    def _reader(self, reading: Reading) -> Reader:
        session = self._client.session()
        if self._opened_in != os.getpid():
            # This process's session has not opened the dataset: join it, and only it.
            session.channel.open_dataset(self.spec, self.info.key, None)
            self._opened_in = os.getpid()
        return Reader(session, reading)

    def _reading(
        self,
        split: Split,
        epochs: int,
        batch_size: int,
        shuffle: str,
        seed: int,
        job: str | None,
        drop_last: bool,
        *,
        first_epoch: int = 0,
        worker: int = 0,
        workers: int = 1,
        clone: bool = False,
    ) -> Reading:
        if split not in SPLITS:
            raise SpecError(f'split must be "train" or "eval", not {split!r}')
        if shuffle not in SHUFFLES:
            raise SpecError(f"shuffle must be one of {', '.join(SHUFFLES)}, not {shuffle!r}")
        if epochs < 1:
            raise SpecError(f"at least one epoch must be read, not {epochs}")
        if not 0 <= seed < _MAX_SEED:
            raise SpecError(f"seed must be a whole number from 0 to 2^64 - 1, not {seed}")
        if job is not None and not job:
            raise SpecError("job must not be empty")
        rows = self.info.rows[split]
        if rows == 0:
            raise SpecError(
                f"the {split} split has no rows: eval_percent={self.spec.eval_percent}, "
                f"sample_percent={self.spec.sample_percent}"
            )
        if batch_size < 1:
            raise SpecError(f"batch_size must be at least 1, not {batch_size}")
        if batch_size > rows:
            raise SpecError(
                f"batch_size={batch_size:,} is larger than the {split} split, which has {rows:,} "
                "rows; use a smaller one"
            )
        request = ReaderRequest(
            dataset_key=self.info.key,
            split=split,
            job=job or uuid.uuid4().hex,
            rank=0,
            worker=worker,
            first_epoch=first_epoch,
            epochs=epochs,
            part=worker,
            parts=workers,
            stripe_rows=batch_size,
            shuffle=shuffle,
            seed=seed,
            credits=PREFETCH_GRANTS,
        )
        return Reading(request, batch_size, drop_last, clone)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_opened_in": 0}


class FaucetDataset(torch.utils.data.IterableDataset[Batch]):
    """A split for `torch.utils.data.DataLoader(batch_size=None)`; one `iter()` is one epoch.

    With `num_workers=0` batches are views, as everywhere. With worker processes each worker reads
    rows of its own and sends copies, since a view could only be sent with its whole chunk; the
    daemon already works beside the trainer, so workers mostly cost.

    Args:
        dataset: The open dataset.
        split: "train" or "eval".
        batch_size: Rows a batch.
        shuffle: See `Dataset.epochs`.
        seed: Decides the shuffle, with the epoch.
        job: A name for the training run, by default a random one.
        drop_last: Leave out a last batch that would be short.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: Split = "train",
        *,
        batch_size: int,
        shuffle: str = "batches",
        seed: int = 0,
        job: str | None = None,
        drop_last: bool = False,
    ) -> None:
        self._dataset = dataset
        self._job = job or uuid.uuid4().hex
        self._arguments = (split, 1, batch_size, shuffle, seed, self._job, drop_last)
        self._epoch = 0
        self._length = batches_in(dataset.info.rows[split], batch_size, drop_last)
        dataset._reading(*self._arguments)  # raises what is wrong here, and not in a worker

    def set_epoch(self, epoch: int) -> None:
        """The number of the next epoch, which decides its shuffle.

        Without it, epochs count up; but the workers of a DataLoader are new in each epoch unless
        they are persistent, and then all begin with the same number.
        """
        self._epoch = epoch

    def __len__(self) -> int:
        """Batches of an epoch, over all workers."""
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        info = torch.utils.data.get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        reading = self._dataset._reading(
            *self._arguments,
            first_epoch=self._epoch,
            worker=worker,
            workers=workers,
            clone=info is not None,
        )
        self._epoch += 1
        return iter(BatchIterator(self._dataset._reader(reading)))

