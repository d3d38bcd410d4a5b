"""The readers of all sessions: their names, their leases, and what they are told.

Invariants:

- No two live readers have the same name.
- A reader is remembered until it has left and none of its leases is left.
- A lease that its client was not told of yet is not the client's to release: its descriptor is
  still to be sent.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from faucet_client.layout import SegmentLayout
from faucet_client.spec import Split
from faucet_client.status import ReaderStatus
from faucetd.errors import AccessDenied, BudgetError, FaucetError, ReaderConflict, from_code
from faucetd.schedule import events, instructions
from faucetd.schedule.scheduler import Scheduler
from faucetd.serve.backend import Granted, ReaderRequest, Started, Told
from faucetd.serve.sessions import Session

LEAVING_S = 1.0
"""How long a new reader waits for one of the same name that may just be leaving."""

LEAVING_ELSEWHERE_S = 8.0
"""The same, of another process: it may be a DataLoader worker whose trainer was killed, which it
notices within 5 s (torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL)."""

MAX_READERS_PER_SESSION = 256

ReaderName = tuple[str, str, int, int, Split]


@dataclass
class _Lease:
    reader: int
    session: Session


class Reader:
    """The daemon's end of a reader's dialogue (serve.backend.ReaderStream)."""

    started: Started  # since the scheduler has admitted it

    def __init__(
        self, readers: Readers, number: int, session: Session, request: ReaderRequest
    ) -> None:
        self._readers = readers
        self.number = number
        self.session = session
        self.request = request
        self.name = name_of(request)
        self.told = Told(position_epochs=request.first_epoch)
        self.outbox: deque[Granted | FaucetError] = deque()
        self._has_news: Callable[[], None] = lambda: None
        self.refused: FaucetError | None = None
        self.left = False
        self.warned = False  # of the order of the dataset's rows
        self.gone = asyncio.Event()

    def attach(self, has_news: Callable[[], None]) -> None:
        self._has_news = has_news

    def tell(self, message: Granted | FaucetError) -> None:
        """Has it sent to the client, after what was told before."""
        self.outbox.append(message)
        self._has_news()

    def credit(self, grants: int, told: Told) -> None:
        self.told = told
        if grants and not self.left:
            self._readers.happened(events.CreditsGiven(self.number, grants))

    def advance(self, epoch: int) -> None:
        if not self.left:
            self._readers.happened(events.EpochAdvanced(self.number, epoch))

    def close(self) -> None:
        self._has_news = lambda: None
        self._readers.left(self)
        unsent = [message.lease for message in self.outbox if isinstance(message, Granted)]
        self.outbox.clear()
        self._readers.take_back(self, unsent)


class Readers:
    """All readers that are under way, or whose tensors still live."""

    def __init__(
        self,
        scheduler: Scheduler,
        happened: Callable[[events.Event], None],
        leaves: Callable[[Reader], None],
        none_left: Callable[[], None],
        is_over: Callable[[Reader], None],
    ) -> None:
        """Begins with none.

        Args:
            scheduler: To look at; what happens is told by `happened`.
            happened: Tells the scheduler, and does what it says.
            leaves: Called as a reader leaves, which its tensors may outlive.
            none_left: Called when no reader is under way any more.
            is_over: Called when nothing is left of a reader.
        """
        self._scheduler = scheduler
        self.happened = happened
        self._leaves = leaves
        self._none_left = none_left
        self._is_over = is_over
        self._readers: dict[int, Reader] = {}
        self._names: dict[ReaderName, Reader] = {}
        self._leases: dict[int, _Lease] = {}
        self._next_reader = 1

    def __iter__(self) -> Iterator[Reader]:
        """All, those included that have left and whose tensors live."""
        return iter(tuple(self._readers.values()))

    def __getitem__(self, number: int) -> Reader:
        return self._readers[number]

    def __bool__(self) -> bool:
        """Whether a live reader is under way."""
        return bool(self._names)

    def live(self, dataset: str) -> list[Reader]:
        """The readers of a dataset that have not left."""
        return [r for r in self if r.request.dataset_key == dataset and not r.left]

    def of_session(self, session: Session) -> list[Reader]:
        """The readers of a process."""
        return [reader for reader in self if reader.session is session]

    def refuse_if_too_many(self, session: Session) -> None:
        """Raises BudgetError if the process has as many readers as it may have."""
        theirs = len(self.of_session(session))
        if theirs >= MAX_READERS_PER_SESSION:
            raise BudgetError(
                f"this process has {theirs} iterators open, or tensors of them, which is the most; "
                "close() some"
            )

    async def name_is_free(self, session: Session, request: ReaderRequest) -> None:
        """Waits until it is: the last one of that name may just be leaving.

        Raises:
            ReaderConflict: it does not leave.
        """
        name = name_of(request)
        try:
            other = self._names.get(name)
            elsewhere = other is not None and other.session.pid != session.pid
            async with asyncio.timeout(LEAVING_ELSEWHERE_S if elsewhere else LEAVING_S):
                while (other := self._names.get(name)) is not None:
                    await other.gone.wait()
        except TimeoutError:
            raise ReaderConflict(
                f"job {request.job!r}, rank {request.shape.rank}, worker {request.worker} already "
                f"reads the {request.split} split, in process {self._names[name].session.pid}: "
                "give this run another job= name, or close the other iterator"
            ) from None

    def start(self, session: Session, request: ReaderRequest) -> Reader:
        """A new reader, whose name is free.

        Raises:
            FaucetError: the scheduler refuses it.
        """
        reader = Reader(self, self._next_reader, session, request)
        self._next_reader += 1
        self._readers[reader.number] = reader
        self._names[reader.name] = reader
        self.happened(
            events.ReaderJoined(
                reader=reader.number,
                dataset=request.dataset_key,
                split=request.split,
                first_epoch=request.first_epoch,
                epochs=request.epochs,
                credits=request.credits,
                shape=request.shape,
                shuffled=request.shuffled,
                in_order=request.deterministic or not request.shuffled,
                seed=request.seed,
                had=request.had,
                before=request.before,
                earlier=request.earlier,
            )
        )
        if reader.refused is not None:
            self._forget_if_over(reader.number)
            raise reader.refused
        return reader

    def admit(self, admitted: instructions.AdmitReader) -> None:
        """The reader may read."""
        self._readers[admitted.reader].started = Started(
            admitted.rows_per_epoch,
            admitted.lease_limit_bytes,
            admitted.first_epoch_rows,
            admitted.before,
        )

    def refuse(self, refused: instructions.RefuseReader) -> None:
        """The reader may not; the scheduler does not know it, so no word of it counts."""
        reader = self._readers[refused.reader]
        reader.refused = from_code(refused.code, refused.message)
        self._forget_name(reader)

    def fail(self, failed: instructions.FailReader) -> None:
        """The reader cannot go on."""
        reader = self._readers[failed.reader]
        reader.tell(from_code(failed.code, failed.message))
        self._forget_name(reader)

    def grant(
        self, grant: instructions.Grant, memory: tuple[int, SegmentLayout], warning: str
    ) -> None:
        """Tells a reader of rows, and of the dataset's `warning` if it has not heard it."""
        reader = self._readers[grant.reader]
        self._leases[grant.lease] = _Lease(grant.reader, reader.session)
        note = "" if reader.warned else warning
        reader.warned |= bool(note)
        fd, layout = memory
        reader.tell(
            Granted(grant.lease, fd, grant.epoch, grant.segment.chunk, grant.rows, layout, note)
        )

    def left(self, reader: Reader) -> None:
        """No more grants; what was granted stays."""
        if reader.left:
            return
        self._leaves(reader)
        self._forget_name(reader)
        if self._scheduler.knows(reader.number):
            self.happened(events.ReaderLeft(reader.number))
        self._forget_if_over(reader.number)

    def take_back(self, reader: Reader, unsent: Iterable[int]) -> None:
        """The dialogue is over: leases that its client has not been told of end."""
        self._release(number for number in unsent if number in self._leases)
        self._forget_if_over(reader.number)

    def _forget_name(self, reader: Reader) -> None:
        reader.left = True
        reader.gone.set()
        if self._names.get(reader.name) is reader:
            del self._names[reader.name]
        if not self._names:
            # Not at once, for instructions may still be carried out.
            asyncio.get_running_loop().call_soon(self._none_left)

    def _forget_if_over(self, number: int) -> None:
        reader = self._readers.get(number)
        if reader is not None and reader.left and not self._scheduler.knows(number):
            del self._readers[number]
            self._is_over(reader)

    def release(self, session: Session, leases: tuple[int, ...]) -> None:
        """See serve.backend.Backend.

        Raises:
            AccessDenied: a lease is not the session's. The others are released.
        """
        mine = [number for number in leases if self._is_held(number, session)]
        self._release(mine)
        foreign = [n for n in leases if n in self._leases]
        if foreign:
            raise AccessDenied(f"leases {foreign} are not held by this session")

    def _is_held(self, number: int, session: Session) -> bool:
        """Whether the session was told of the lease. What waits to be sent needs its descriptor."""
        lease = self._leases.get(number)
        if lease is None or lease.session is not session:
            return False
        outbox = self._readers[lease.reader].outbox
        return not any(isinstance(told, Granted) and told.lease == number for told in outbox)

    def _release(self, leases: Iterable[int]) -> None:
        numbers = tuple(dict.fromkeys(leases))
        if not numbers:
            return
        ended = [self._leases.pop(number) for number in numbers]
        self.happened(events.LeasesReleased(numbers))
        for lease in ended:
            self._forget_if_over(lease.reader)

    def release_all_of(self, session: Session) -> None:
        """The process is gone, and what it held with it."""
        for reader in self.of_session(session):
            self.left(reader)
        self._release(n for n, lease in list(self._leases.items()) if lease.session is session)

    def rows_served(self, dataset: str) -> Counter[Split]:
        """Rows that its live readers have been given, by split."""
        served: Counter[Split] = Counter()
        for reader in self.live(dataset):
            served[reader.request.split] += self.rows_granted(reader)
        return served

    def statuses(self) -> Iterator[ReaderStatus]:
        """Of the live ones."""
        for reader in self:
            if not reader.left and self._scheduler.knows(reader.number):
                yield self._status(reader)

    def rows_granted(self, reader: Reader) -> int:
        """Rows that it has been given, as far as the scheduler still knows of it."""
        known = self._scheduler.knows(reader.number)
        return self._scheduler.reader(reader.number).rows_granted if known else 0

    def _status(self, reader: Reader) -> ReaderStatus:
        view = self._scheduler.reader(reader.number)
        request = reader.request
        return ReaderStatus(
            job=request.job,
            rank=request.shape.rank,
            worker=request.worker,
            split=request.split,
            dataset_key=request.dataset_key,
            pid=reader.session.pid,
            epoch=max(view.epoch, request.first_epoch),
            rows_granted=view.rows_granted,
            rows_consumed=reader.told.rows_consumed,
            rows_per_epoch=view.rows_per_epoch,
            seconds_waited=reader.told.seconds_waited,
            leased_bytes=view.leased_bytes,
            lease_limit_bytes=view.lease_limit_bytes,
            first_epoch=request.first_epoch,
            epochs=request.epochs,
            position_epochs=reader.told.position_epochs,
        )


def name_of(request: ReaderRequest) -> ReaderName:
    """What no two live readers have the same."""
    return (request.dataset_key, request.job, request.shape.rank, request.worker, request.split)
