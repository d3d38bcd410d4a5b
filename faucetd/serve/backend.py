"""What serving needs of the rest of the daemon, and the values that pass between them."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from faucet_client.layout import SegmentLayout
from faucet_client.spec import DatasetSpec, Split
from faucet_client.status import Status
from faucetd.errors import FaucetError
from faucetd.schedule.earlier import Earlier
from faucetd.schedule.shares import Ranges, Shape
from faucetd.serve.sessions import Session


@dataclass(frozen=True)
class OpenProgress:
    """How far an open has come."""

    stage: str
    rows_done: int
    rows_total: int


@dataclass(frozen=True)
class DatasetInfo:
    """An open dataset, as the client sees it."""

    key: str
    rows: dict[Split, int]
    features: tuple[str, ...]
    labels: tuple[str, ...]
    passthrough: tuple[str, ...]
    weighted: bool
    chunks: int
    passthrough_paths: tuple[str, ...] = ()
    principal: str = ""
    query_bytes_billed: int = 0
    read_bytes_estimated: int = 0
    preprocessing: str = ""


@dataclass(frozen=True)
class Profiled:
    """The profile of a dataset's fit, as JSON, with the dataset's own key and rows."""

    key: str
    rows: dict[Split, int]
    json: str


@dataclass(frozen=True)
class ReaderRequest:
    """Who wants to read what."""

    dataset_key: str
    split: Split
    job: str
    worker: int
    first_epoch: int
    epochs: int
    shape: Shape
    shuffled: bool
    deterministic: bool
    seed: int
    credits: int
    had: frozenset[int] = frozenset()
    before: Mapping[int, Ranges] = field(default_factory=dict)
    earlier: tuple[Earlier, ...] = ()


@dataclass(frozen=True)
class Started:
    """The reader may read."""

    rows_per_epoch: int
    lease_limit_bytes: int
    first_epoch_rows: int
    before: Mapping[int, Ranges]


@dataclass(frozen=True)
class Granted:
    """The reader's rows of a segment, and the descriptor of its memory, which stays the daemon's.

    The descriptor is open as long as the lease lives.
    """

    lease: int
    fd: int
    epoch: int
    chunk: int
    ranges: Ranges
    layout: SegmentLayout
    note: str = ""


@dataclass(frozen=True)
class Told:
    """How far a reader says that it is.

    Attributes:
        rows_consumed: Rows that its trainer has taken as batches, over all epochs so far.
        seconds_waited: Time that its `next()` waited for data.
        position_epochs: Where it is: 2.25 is a quarter into epoch 2.
    """

    rows_consumed: int = 0
    seconds_waited: float = 0.0
    position_epochs: float = 0.0


class ReaderStream(Protocol):
    """The conductor's end of one reader's dialogue.

    Attributes:
        session: Whose reader it is.
        started: What its client is to know first.
        outbox: What is still to be sent to the client, in order; an error is the last of it. Who
            sends a message takes it off.
    """

    session: Session
    started: Started
    outbox: deque[Granted | FaucetError]

    def attach(self, has_news: Callable[[], None]) -> None:
        """Has `has_news` called each time that something was put into the outbox."""
        ...

    def credit(self, grants: int, told: Told) -> None: ...

    def advance(self, epoch: int) -> None: ...

    def close(self) -> None:
        """The client hears no more: what is in the outbox is taken back. Idempotent."""
        ...


class Backend(Protocol):
    """The daemon, seen from its sockets. All calls come from the event loop."""

    def open_dataset(
        self, spec: DatasetSpec, key: str
    ) -> AsyncIterator[OpenProgress | DatasetInfo]:
        """Opens what `spec` describes; the dataset of this `key`, unless it is empty or gone."""
        ...

    async def read(self, session: Session, request: ReaderRequest) -> ReaderStream:
        """Starts a reader.

        Raises:
            FaucetError: it is refused.
        """
        ...

    def status(self) -> Status: ...

    def drop(self, key: str) -> tuple[str, int]: ...

    async def profile(self, key: str) -> Profiled:
        """The profile of the open dataset whose key begins with `key`.

        Raises:
            DatasetNotFound: there is none, or several; or nothing was fitted for it.
        """
        ...

    def release(self, session: Session, leases: tuple[int, ...]) -> None: ...

    def orphaned(
        self, session: Session, held: Mapping[int, int], released: Collection[int]
    ) -> None:
        """The process maps memory of daemons before this one, and does not map some any more.

        Args:
            session: Of the process.
            held: What there is beside what it told before: inodes, and their bytes.
            released: Inodes.

        Raises:
            AccessDenied: no process maps so much.
        """
        ...

    def session_quiet(self, session: Session) -> None:
        """The process has said goodbye or closed its connection, but lives."""
        ...

    def session_died(self, session: Session) -> None:
        """The process is gone."""
        ...
