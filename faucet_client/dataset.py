"""The client's front door: connect, open a dataset, iterate."""

from __future__ import annotations

import os
import threading
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from faucet_client.address import Address, default_address, default_patience_s, parse_address
from faucet_client.batches import (
    BatchIterator,
    EpochIterator,
    Reader,
    Reading,
    State,
)
from faucet_client.device import Target, Transfer, transfer_to
from faucet_client.errors import IteratorError, SourceChanged, SpecError, StateError
from faucet_client.feed import PREFETCH_GRANTS, Patience
from faucet_client.preprocessing.module import Preprocessor
from faucet_client.preprocessing.spec import PreprocessingSpec
from faucet_client.profile import Profile
from faucet_client.report import render
from faucet_client.session import Session
from faucet_client.spec import (
    ORDERS,
    REMAINDERS,
    SHUFFLES,
    SPLITS,
    DatasetSpec,
    Split,
    whole_number,
)
from faucet_client.state import ReaderState, resumed
from faucet_client.status import Status
from faucet_client.wire.channel import ProgressListener
from faucet_client.wire.values import DatasetInfo, EarlierReader, ReaderRequest

_MAX_EPOCHS = 1_000_000
_MAX_RANKS = 65_536


@dataclass(frozen=True)
class Wish:
    """How somebody wants to read; see `Dataset.epochs` for each."""

    split: Split
    batch_size: int
    epochs: int
    shuffle: str
    seed: int
    job: str | None
    drop_last: bool
    order: str = "shared"
    rank: int = 0
    world_size: int = 1
    remainder: str = "drop"
    transfer: Transfer | None = None


@dataclass(frozen=True)
class Share:
    """A DataLoader worker's share of a reading: batches `worker`, `worker + workers`, ….

    Attributes:
        first_epoch: The number of the first epoch.
        clone: Whether batches are copied, so that they can be sent to another process.
    """

    worker: int = 0
    workers: int = 1
    first_epoch: int = 0
    clone: bool = False


class FaucetClient:
    """A connection to the daemon on this host. Cheap; one a process is enough.

    It may be made before a fork: a child that uses it connects anew.

    Args:
        address: Where the daemon listens, `unix:///…/faucetd.sock`; by default FAUCET_ADDRESS,
            else the default socket of `faucetd serve`.
        patience_s: How many seconds iterators wait for a daemon that went away to be there again,
            and go on with it; 0 for not at all. By default FAUCET_PATIENCE_S, else 60.

    Raises:
        ConfigError: FAUCET_PATIENCE_S is no number of seconds.
        DaemonUnreachable: nobody listens there; the message says how to start a daemon.
        VersionMismatch: the daemon is of another version.
        AccessDenied: this user may not use it.
    """

    def __init__(self, address: str | None = None, *, patience_s: float | None = None) -> None:
        self._address: Address = default_address() if address is None else parse_address(address)
        self.patience_s = default_patience_s() if patience_s is None else patience_s
        # By process: a fork may come while a thread holds it, and the child has no such thread.
        self._locks: dict[int, threading.Lock] = {}
        self._closings = 0
        self._end: weakref.finalize[[], FaucetClient] | None = None
        self._session: Session | None = None
        self._session = self._connect()

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
            SpecError: `spec` is no DatasetSpec, or does not fit the table.
            ColumnError: a column is missing, or of a type that cannot serve.
            SourceError: no such file or table, not allowed, empty, or broken.
            BudgetError: the daemon's memory budget is too small for the dataset's chunks.
        """
        if not isinstance(spec, DatasetSpec):
            raise SpecError(
                f"open() takes a DatasetSpec, not {spec!r:.200}; write "
                "open(DatasetSpec(source=…, features=[…], labels=[…]))"
            )
        session = self.session()
        info = session.channel.open_dataset(spec, on_progress)
        return Dataset(self, session.handoff.session_id, spec, info)

    def status(self) -> Status:
        """What the daemon says of itself: memory, datasets, readers."""
        return self.session().status()

    def session(self) -> Session:
        """This process's session; a new one in a forked child, or after the daemon's restart."""
        with self._locks.setdefault(os.getpid(), threading.Lock()):
            if self._session is None or not self._session.usable:
                new = self._connect()
                if self._session is not None:
                    self._session.close(abandoned=True)
                self._session = new
            return self._session

    def _connect(self) -> Session:
        session = Session.connect(self._address, self._session)
        # A client that is dropped unclosed must not stay connected for its process's whole life.
        if self._end is not None:
            self._end.detach()
        self._end = weakref.finalize(self, session.close)
        self._end.atexit = False
        return session

    def close(self) -> None:
        """Ends the connection and its iterators. Batches that were handed out stay valid."""
        self._closings += 1
        if self._session is not None:
            self._session.close()
            self._session = None

    @property
    def closings(self) -> int:
        """How often it was closed; an iterator that reconnects must not outlive that."""
        return self._closings

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
        return {
            "_address": self._address,
            "patience_s": self.patience_s,
            "_locks": {},
            "_closings": 0,
            "_end": None,
            "_session": None,
        }


class Dataset:
    """An open dataset: one snapshot of a table, prepared once for all who read it.

    It may be used in forked children and pickled to other processes of the host.

    Attributes:
        spec: What was asked for.
        info: What is known of it: rows a split, names of features, labels and passthrough columns.
    """

    def __init__(
        self, client: FaucetClient, session_id: str, spec: DatasetSpec, info: DatasetInfo
    ) -> None:
        self._client = client
        self._session_id = session_id
        self.spec = spec
        self.info = info

    @property
    def preprocessing(self) -> PreprocessingSpec:
        """What becomes of the features; `save(path)` writes it for serving.

        Raises:
            SpecError: nothing does: the dataset was opened with preprocessing="none".
        """
        spec = self.info.preprocessing
        if spec is None:
            raise SpecError(
                f"{self.spec.source} was opened without preprocessing, or has no features: open it "
                'with preprocessing="auto", or with a saved spec'
            )
        return spec

    def preprocessor(self) -> Preprocessor:
        """The torch module that the daemon runs, for serving; see `PreprocessingSpec`.

        Raises:
            SpecError: there is none; see `preprocessing`.
        """
        return self.preprocessing.preprocessor()

    def profile(self, path: str | os.PathLike[str] | None = None) -> Profile:
        """What the features hold and what became of them, of about 20,000 train rows.

        It was made when the preprocessing was fitted, and costs no further read.

        Args:
            path: Where to write it as an HTML page that needs no network; by default nowhere.

        Raises:
            DatasetNotFound: nothing was fitted: open the dataset with preprocessing="auto".
            OSError: the page cannot be written.
        """
        profile = self._client.session().profile(self.info.key)
        if path is not None:
            Path(path).write_text(render(profile), encoding="utf-8")
        return profile

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
        order: str = "shared",
        seed: int = 0,
        job: str | None = None,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        remainder: str = "drop",
        device: Target | None = None,
        state: State | None = None,
    ) -> EpochIterator:
        """`count` epochs of a split, each an iterable of batches with a length.

        Args:
            split: "train" or "eval".
            count: How many epochs.
            batch_size: Rows a batch; the last one of an epoch may have fewer.
            shuffle: "batches": the order of chunks, and where each begins, vary by seed and epoch,
                and batches are consecutive rows of a chunk, which was permuted once: no copy;
                "rows": each batch has rows of several chunks, in a fresh permutation every epoch,
                which costs a copy, in a thread of its own; "none": the same order every time.
            order: "shared": chunks that are in memory come first, so that jobs share each read;
                "deterministic": seed and epoch alone decide, so that each run gets the same
                batches, bit for bit.
            seed: Decides the shuffle, with the epoch.
            job: A name for this training run, for the status; two live readers of one split cannot
                have the same. By default a random one.
            drop_last: Leave out a last batch that would be short.
            rank: Which of the job's ranks this is.
            world_size: How many ranks share each epoch: each gets rows of its own, and all get as
                many batches.
            remainder: What becomes of rows that cannot be dealt to the ranks evenly: "drop" leaves
                out world_size - 1 rows of an epoch at most; "pad" gives as many ranks a row twice.
            device: Where the batches' tensors are: "cuda", "cuda:1", a torch.device; by default,
                and with "cpu", in the host's memory, as views of what is shared. They are copied
                ahead, on a stream of their own, and are for the stream that is current when a batch
                is handed out; nothing has to be waited for. Text stays where it is. A batch that is
                kept keeps the device's memory of its neighbours; keep `clone()`. `Transfer` says
                how much is copied ahead. A state counts what was handed out, not what was copied.
            state: What to go on from; see `load_state_dict` of what is returned.

        Raises:
            SpecError: an argument is out of its range, such as a batch larger than the split.
            ReaderConflict: a live reader of the same job and rank reads this split.
            BudgetError: the daemon has no memory for another reader.
            StateError: the state is not of such a reader.
            DeviceError: there is no such device here.
        """
        wish = Wish(
            split,
            batch_size,
            count,
            shuffle,
            seed,
            uuid.uuid4().hex if job is None else job,
            drop_last,
            order,
            rank,
            world_size,
            remainder,
            transfer_to(device),
        )
        return EpochIterator(self.read(wish, state=state), partial(self.check_all, wish, None))

    def batches(
        self,
        split: Split = "train",
        *,
        batch_size: int,
        epochs: int = 1,
        shuffle: str = "batches",
        order: str = "shared",
        seed: int = 0,
        job: str | None = None,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        remainder: str = "drop",
        device: Target | None = None,
        state: State | None = None,
    ) -> BatchIterator:
        """The batches of one or more epochs of a split, in a row. Arguments: see `epochs`."""
        wish = Wish(
            split,
            batch_size,
            epochs,
            shuffle,
            seed,
            uuid.uuid4().hex if job is None else job,
            drop_last,
            order,
            rank,
            world_size,
            remainder,
            transfer_to(device),
        )
        return self.iterate(wish, state=state)

    def iterate(
        self, wish: Wish, share: Share | None = None, state: State | None = None
    ) -> BatchIterator:
        """What `batches` returns, for a DataLoader worker's share perhaps."""
        return BatchIterator(self.read(wish, share, state), partial(self.check_all, wish, share))

    def read(self, wish: Wish, share: Share | None = None, state: State | None = None) -> Reader:
        """What `epochs` and `batches` stand on: a reader of the rows that are wished for.

        Raises:
            FaucetError: see `epochs`.
        """
        return self.check_all(wish, share, state)()

    def check_all(
        self, wish: Wish, share: Share | None = None, state: State | None = None
    ) -> Callable[[], Reader]:
        """Checks all that can be known before the daemon is asked for a reader.

        Returns:
            What asks it, and begins to read.

        Raises:
            FaucetError: see `epochs`.
        """
        share = share or Share()
        self.check(wish)
        if share.clone and wish.transfer is not None:
            raise SpecError(
                "DataLoader workers cannot hand out batches on a device: use num_workers=0, since "
                "the daemon works beside the trainer already; or leave device out"
            )
        begin, earlier = self.beginning(wish, share, state)
        last_epoch = share.first_epoch + wish.epochs - 1
        if begin.epoch > last_epoch:
            raise StateError(
                f"the state is at the beginning of epoch {begin.epoch}, and this iterator has "
                f"{wish.epochs} epochs, the last of which is {last_epoch}: there is nothing left "
                "to read; ask for more epochs"
            )
        request = ReaderRequest(
            dataset_key=self.info.key,
            split=wish.split,
            job=wish.job or uuid.uuid4().hex,
            rank=wish.rank,
            worker=share.worker,
            first_epoch=begin.epoch,
            epochs=last_epoch - begin.epoch + 1,
            part=share.worker,
            parts=share.workers,
            stripe_rows=wish.batch_size,
            shuffle=wish.shuffle,
            seed=wish.seed,
            credits=PREFETCH_GRANTS,
            order=wish.order,
            world_size=wish.world_size,
            remainder=wish.remainder,
            had=begin.had,
            before=begin.before,
            earlier=tuple(map(_earlier, earlier)),
        )
        reading = Reading(
            request, wish.batch_size, wish.drop_last, begin, share.clone, wish.transfer
        )
        reconnect = partial(self._reconnect, self._client.closings)
        patience = Patience(reconnect, self._client.patience_s)
        return partial(Reader, self._client, self._session_again(), reading, patience)

    def beginning(
        self, wish: Wish, share: Share, state: State | None
    ) -> tuple[ReaderState, Sequence[ReaderState]]:
        """What a reader begins with, and the states of other ranks that are to be left out.

        Raises:
            StateError: `state` is not of such a reader.
        """
        fresh = ReaderState(
            dataset=self.info.key,
            split=wish.split,
            shuffle=wish.shuffle,
            order=wish.order,
            seed=wish.seed,
            rank=wish.rank,
            world_size=wish.world_size,
            remainder=wish.remainder,
            part=share.worker,
            parts=share.workers,
            stripe_rows=wish.batch_size,
            epoch=share.first_epoch,
        )
        if state is None:
            return fresh, ()
        given = [state] if isinstance(state, Mapping) else list(state)
        if not given:
            raise StateError("no state was given: load what state_dict() has returned")
        states = [ReaderState.from_dict(each) for each in given]
        begin, other_ranks = resumed(states, fresh)
        known, told = self.info.chunks, max(each.chunks for each in states)
        if known and told > known:
            raise StateError(
                f"the state is damaged: it tells of {told:,} chunks, and dataset {self.info.key} "
                f"has {known:,}: load another checkpoint"
            )
        return begin, states if other_ranks else ()

    def _session_again(self) -> Session:
        """A session in which the dataset is open: this process's, of the daemon of now."""
        session = self._client.session()
        if self._session_id != session.handoff.session_id:
            self._reopen(session)
        return session

    def _reconnect(self, closings: int) -> Session:
        """The same, for an iterator of a client that had been closed so often when it began.

        Raises:
            IteratorError: it was closed since.
        """
        if self._client.closings != closings:
            raise IteratorError("the client was closed, and this iterator with it")
        return self._session_again()

    def _reopen(self, session: Session) -> None:
        """Opens the same dataset in another session: in another process, or of another daemon.

        Raises:
            SourceChanged: what would be opened now is not what this dataset is.
        """
        now = session.channel.open_dataset(self.spec, None, self.info.key)
        if now.key != self.info.key:
            raise SourceChanged(
                f"{self.spec.source} has changed since dataset {self.info.key} was opened; open it "
                "anew with FaucetClient.open()"
            )
        self._session_id = session.handoff.session_id

    def check(self, wish: Wish) -> None:
        """Refuses what this dataset cannot give.

        Raises:
            SpecError: something is out of its range.
        """
        if wish.split not in SPLITS:
            raise SpecError(f'split must be "train" or "eval", not {wish.split!r}')
        if wish.shuffle not in SHUFFLES:
            raise SpecError(f"shuffle must be one of {', '.join(SHUFFLES)}, not {wish.shuffle!r}")
        if wish.order not in ORDERS:
            raise SpecError(f"order must be one of {', '.join(ORDERS)}, not {wish.order!r}")
        if wish.remainder not in REMAINDERS:
            given = wish.remainder
            raise SpecError(f"remainder must be one of {', '.join(REMAINDERS)}, not {given!r}")
        whole_number("world_size", wish.world_size, 1, _MAX_RANKS)
        whole_number("rank", wish.rank, 0, wish.world_size - 1)
        whole_number("epochs", wish.epochs, 1, _MAX_EPOCHS)
        whole_number("seed", wish.seed, 0, 2**64 - 1)
        whole_number("batch_size", wish.batch_size, 1, 2**48)
        job: object = wish.job
        if job is not None and not (
            isinstance(job, str) and 0 < len(job) <= 256 and job.isprintable()
        ):
            raise SpecError(f"job must be a text of 1 to 256 printable characters, not {job!r}")
        rows = self.info.rows[wish.split]
        if rows == 0:
            raise SpecError(f"the {wish.split} split has no rows: {self._why_no_rows(wish.split)}")
        mine = rows // wish.world_size
        if mine == 0:
            raise SpecError(
                f"world_size={wish.world_size:,} is larger than the {wish.split} split, which has "
                f"{rows:,} rows; use fewer ranks"
            )
        if wish.batch_size > mine:
            of_rank = f" a rank of {wish.world_size:,}" if wish.world_size > 1 else ""
            raise SpecError(
                f"batch_size={wish.batch_size:,} is larger than the {wish.split} split, which has "
                f"{mine:,} rows{of_rank}; use a smaller one"
            )

    def _why_no_rows(self, split: Split) -> str:
        """Why a split is empty, and what to do."""
        spec = self.spec
        if split == "eval" and spec.eval_percent == 0:
            return (
                "the DatasetSpec asks for none; set eval_percent=, and hash_column= to the column "
                "that decides which row goes where"
            )
        return (
            f"with eval_percent={spec.eval_percent} and sample_percent={spec.sample_percent}, no "
            f"value of hash_column={spec.hash_column!r} falls into it. The column has too few "
            "distinct values, or the table too few rows: choose a column with more distinct "
            "values, or a larger share"
        )

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_session_id": ""}


def _earlier(state: ReaderState) -> EarlierReader:
    return EarlierReader(
        rank=state.rank,
        world_size=state.world_size,
        remainder=state.remainder,
        part=state.part,
        parts=state.parts,
        stripe_rows=state.stripe_rows,
        had=state.had,
        partly={chunk: each.ranges or () for chunk, each in state.partly.items()},
    )
