"""One stream of a read session, from any offset on: each row once and in order, whatever happens.

A thread of the reader's own pulls messages and decodes them ahead of the consumer. Its rules:

- **Offsets.** A call is opened at the number of rows received so far, so nothing comes twice and
  nothing is left out, wherever the call before it broke off. Only a call that the server ended with
  OK is the stream's end.
- **Back-pressure.** Before it asks gRPC for a message, the thread takes room for one out of the
  `ByteBudget` that all readers of a source share. While there is none it does not ask, and HTTP/2's
  flow control stops the server after about 2 MB. A call that was not asked for `PAUSE_S` is ended,
  and opened again when there is room: the service closes streams that idle for long.
- **Limits.** A consumer that needs no rows from some offset on says so, and the thread asks for no
  message that begins there: what is read ahead and thrown away is paid for.
- **Retries.** `faults.classify` says what is worth another attempt and `faults.Patience` when it is
  made. A message with rows starts both anew.
- **Stalls.** A consumer that waits, and sees that the thread has waited for the server for longer
  than `stall_timeout_s`, cancels the call: the thread then goes on as after any broken call. While
  nobody waits there is no stall to notice; the next one to wait notices it at once.

Who locks: `_Puller.changed` guards the queue and what the consumer waits for; `ByteBudget` has a
lock of its own, and neither is held while the other is taken. Only the thread touches the call,
except to cancel it. The thread knows nothing of the `StreamReader`, so that one that was forgotten
can be collected, which ends its thread.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc
import pyarrow as pa

from faucetd.errors import FaucetError, SourceChanged, SourceReadError
from faucetd.fetch.bigquery.connection import Connection, ReadCall
from faucetd.fetch.bigquery.faults import (
    FOREIGN,
    Patience,
    Stalled,
    classify,
    explain,
    is_authentication,
)
from faucetd.fetch.bigquery.session import ReadSession
from faucetd.fetch.bigquery.settings import BigQuerySettings

PAUSE_S = 60.0
"""Seconds without room for a message after which a call is given up until there is room."""

_QUEUE_MESSAGES = 16
_JOIN_S = 5.0


class ByteBudget:
    """A bound on the bytes that all readers of a source have received and not yet delivered.

    A reader that holds nothing always gets room, so that each can go on whatever the others hold.
    What is held can therefore exceed the limit by one message a reader.

    Args:
        limit_bytes: The bound.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._used_bytes = 0
        self._freed = threading.Condition()

    @property
    def used_bytes(self) -> int:
        """What is held now, and what room is taken for."""
        return self._used_bytes

    def share(self) -> _Share:
        """The part of one reader, empty."""
        return _Share(self)


class _Share:
    """What one reader holds of a budget."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._held_bytes = 0
        self._closed = False

    def reserve(
        self, nbytes: int, ready: Callable[[], bool], timeout_s: float | None
    ) -> bool | None:
        """Takes room, as soon as there is some and `ready()`.

        Returns:
            Whether it was taken in time; None if the share is closed.
        """
        budget = self._budget

        def done() -> bool:
            fits = self._held_bytes == 0 or budget._used_bytes + nbytes <= budget.limit_bytes  # noqa: SLF001 -- one mechanism, in two classes
            return self._closed or (fits and ready())

        with budget._freed:  # noqa: SLF001
            if not budget._freed.wait_for(done, timeout_s):  # noqa: SLF001
                return False
            if self._closed:
                return None
            self._add(nbytes)
            return True

    def give(self, nbytes: int) -> None:
        """Gives room back; a negative number takes some without waiting."""
        with self._budget._freed:  # noqa: SLF001
            if not self._closed:
                self._add(-nbytes)
                self._budget._freed.notify_all()  # noqa: SLF001

    def close(self) -> None:
        """Gives everything back, for good."""
        with self._budget._freed:  # noqa: SLF001
            self._add(-self._held_bytes)
            self._closed = True
            self._budget._freed.notify_all()  # noqa: SLF001

    def _add(self, nbytes: int) -> None:
        self._held_bytes += nbytes
        self._budget._used_bytes += nbytes  # noqa: SLF001


@dataclass
class StreamStats:
    """What a reader has been through so far.

    Attributes:
        attempts: Calls that were opened.
        retries: Calls that were opened because the one before failed, stalls included.
        stalls: Calls that were cancelled because nothing came.
        pauses: Calls that were ended because the consumer paused.
        wire_bytes: Bytes of the messages received, as they were serialized.
        rows: Rows received.
    """

    attempts: int = 0
    retries: int = 0
    stalls: int = 0
    pauses: int = 0
    wire_bytes: int = 0
    rows: int = 0


class StreamReader:
    """One stream from `offset` on: record batches in order, each row once.

    The batches have the session's columns, in the table's order. One thread uses a reader at a
    time; `close` may be called from any.

    Args:
        connection: Opens the calls.
        settings: How long to wait, and to try.
        session: The session that the stream is one of.
        stream: Its name.
        offset: Rows to leave out at its beginning.
        budget: The bound on what is held, with all other readers.
        limit: The offset up to which rows are wanted; None for all. See `want`.
        pause_s: Seconds without room after which a call is ended until there is some.
    """

    def __init__(
        self,
        connection: Connection,
        settings: BigQuerySettings,
        session: ReadSession,
        stream: str,
        offset: int,
        budget: ByteBudget,
        *,
        limit: int | None = None,
        pause_s: float = PAUSE_S,
    ) -> None:
        self.position = offset
        self._puller = _Puller(connection, settings, session, stream, offset, budget, pause_s)
        self._puller.limit = limit
        self._thread = threading.Thread(
            target=self._puller.run, name=f"bigquery-{stream[-32:]}", daemon=True
        )
        self._finalize = weakref.finalize(self, self._puller.stop)
        self._thread.start()

    @property
    def stats(self) -> StreamStats:
        """Counters, which the thread goes on changing."""
        return self._puller.stats

    def want(self, limit: int | None) -> None:
        """Rows are wanted up to this offset from now on; None for all. `next` must not ask beyond.

        The batches up to there are read ahead, and no others.
        """
        self._puller.want(limit)

    def next(self) -> tuple[pa.RecordBatch, int] | None:
        """The next batch of at least one row, and the offset right after it; None at the end.

        Raises:
            FaucetError: reading failed; all rows before have been delivered. See `faults`.
            ValueError: the reader is closed.
        """
        ready = self._puller.take()
        if ready is None:
            return None
        self.position = ready.stop
        return ready.batch, ready.stop

    def close(self) -> None:
        """Ends the call and the thread, and gives back what is held. Idempotent."""
        self._finalize()
        if self._thread is not threading.current_thread():
            # Waits for the decoding of one message at most.
            self._thread.join(_JOIN_S)


class _Ready(NamedTuple):
    batch: pa.RecordBatch
    stop: int
    nbytes: int


class _Puller:
    """What the thread does, and the state that it shares with the consumer."""

    def __init__(
        self,
        connection: Connection,
        settings: BigQuerySettings,
        session: ReadSession,
        stream: str,
        offset: int,
        budget: ByteBudget,
        pause_s: float,
    ) -> None:
        self.stats = StreamStats()
        self._connection = connection
        self._session = session
        self._stream = stream
        self._stall_timeout_s = settings.stall_timeout_s
        self._pause_s = pause_s
        self._patience = Patience(settings.retry_deadline_s)
        self._share = budget.share()
        self._offset = offset
        self.limit: int | None = None
        self._largest_bytes = 0
        self._reserved_bytes = 0
        self._schema: pa.Schema | None = None
        self._generation = connection.generation
        self._renewed = False
        self._stopped = threading.Event()
        # All of these are guarded by `changed`.
        self.changed = threading.Condition()
        self._queue: deque[_Ready] = deque()
        self._ended = False
        self._error: FaucetError | None = None
        self._call: ReadCall | None = None
        self._asked_at: float | None = None
        self._stalled: ReadCall | None = None

    def take(self) -> _Ready | None:
        """The next batch, waited for; None at the end. For the consumer."""
        while True:
            with self.changed:
                if self._stopped.is_set():
                    raise ValueError("the reader of this stream is closed")
                if self._queue:
                    ready = self._queue.popleft()
                    break
                if self._error is not None:
                    raise self._error
                if self._ended:
                    return None
                stalled = self._find_stalled()
                if stalled is None:
                    left_s = None
                    if self._asked_at is not None and self._stalled is None:
                        left_s = self._asked_at + self._stall_timeout_s - time.monotonic()
                    self.changed.wait(left_s)
            if stalled is not None:
                stalled.cancel()
        self._share.give(ready.nbytes)
        return ready

    def want(self, limit: int | None) -> None:
        """Changes the limit. For the consumer."""
        self.limit = limit
        self._share.give(0)  # wakes the thread, which may be waiting for just this

    def stop(self) -> None:
        """Makes the thread end soon. For anyone, at any time; idempotent."""
        self._stopped.set()
        with self.changed:
            call = self._call
            self._queue.clear()
            self.changed.notify_all()
        if call is not None:
            call.cancel()
        self._share.close()

    def run(self) -> None:
        """The thread: pulls until the stream's end, an error, or `stop`."""
        error: FaucetError | None = None
        try:
            self._pull()
        except FaucetError as failed:
            error = failed
        except Exception as failed:  # noqa: BLE001 -- it is the consumer's to know
            error = self._explained(failed)
        finally:
            self._drop_call()
            self._settle(0)
            with self.changed:
                self._error = error
                self._ended = error is None
                self.changed.notify_all()

    def _pull(self) -> None:
        while self._wait_for_room():
            try:
                message = self._ask()
            except StopIteration:
                return
            except FOREIGN as error:
                self._settle(0)
                self._recover(error)
                continue
            if message is None:
                return
            self._deliver(message)

    def _wait_for_room(self) -> bool:
        """Takes room for a message as large as the largest so far. False if it is time to stop."""
        nbytes, ready = self._largest_bytes, self._has_place
        taken = self._share.reserve(nbytes, ready, None if self._call is None else self._pause_s)
        if taken is False:
            self._drop_call()
            self.stats.pauses += 1
            taken = self._share.reserve(nbytes, ready, None)
        if not taken or self._stopped.is_set():
            return False
        self._reserved_bytes = nbytes
        return True

    def _settle(self, nbytes: int) -> None:
        """Turns the room that was taken into what is really held."""
        reserved_bytes, self._reserved_bytes = self._reserved_bytes, 0
        self._share.give(reserved_bytes - nbytes)

    def _has_place(self) -> bool:
        wanted = self.limit is None or self._offset < self.limit
        return wanted and len(self._queue) < _QUEUE_MESSAGES

    def _ask(self) -> Any:
        """The next message of the call, which is opened if there is none. None if stopped."""
        call = self._call or self._open()
        if call is None:
            return None
        with self.changed:
            self._asked_at = time.monotonic()
            self.changed.notify_all()
        try:
            return next(call)
        except StopIteration:
            if call.code() is not grpc.StatusCode.OK:
                raise SourceReadError(
                    f"{self._doing()}: the stream ended without saying how; open the dataset again"
                ) from None
            raise
        except grpc.RpcError as error:
            if call is self._stalled:
                self.stats.stalls += 1
                # Not the cancellation that it looks like, which would not be tried again.
                raise Stalled(f"no message for {self._stall_timeout_s:g} s") from error
            raise
        finally:
            with self.changed:
                self._asked_at = None

    def _open(self) -> ReadCall | None:
        self._generation = self._connection.generation
        self.stats.attempts += 1
        call = self._connection.read_rows(self._stream, self._offset)
        with self.changed:
            self._call = call
        # `stop` sets the event and then looks for a call: one of the two sees the other.
        if self._stopped.is_set():
            call.cancel()
            return None
        return call

    def _recover(self, error: Exception) -> None:
        """Waits until it is time for another attempt, or raises what `error` means."""
        self._drop_call()
        if self._stopped.is_set():
            return
        if is_authentication(error) and not self._renewed:
            self._renewed = True
            self._connection.renew(self._generation)
            self.stats.retries += 1
            return
        retry = classify(error)
        delay_s = None if retry is None else self._patience.failed(retry)
        if delay_s is None:
            raise self._explained(error) from error
        self.stats.retries += 1
        self._stopped.wait(delay_s)

    def _deliver(self, message: Any) -> None:
        """Decodes a message and puts its batch into the queue."""
        kind = message.WhichOneof("rows")
        if kind not in {None, "arrow_record_batch"}:
            raise SourceReadError(f"{self._doing()}: the rows came as {kind}; we asked for Arrow")
        if message.HasField("arrow_schema"):
            self._check_schema(message.arrow_schema.serialized_schema)
        data = message.arrow_record_batch.serialized_record_batch
        batch = self._decode(data) if data else None
        rows = 0 if batch is None else batch.num_rows
        if message.row_count != rows:
            raise SourceReadError(
                f"{self._doing()}: a message of {message.row_count:,} rows holds {rows:,}; open "
                "the dataset again, and report it if it happens again"
            )
        if batch is None or not rows:  # a sign of life
            self._settle(0)
            return
        # Buffers that came compressed are larger now, all others are the message's own bytes.
        nbytes = max(len(data), batch.get_total_buffer_size())
        self._settle(nbytes)
        self._largest_bytes = max(self._largest_bytes, nbytes)
        self._patience.progress()
        self._renewed = False
        self._offset += rows
        self.stats.rows += rows
        self.stats.wire_bytes += len(data)
        with self.changed:
            if not self._stopped.is_set():
                self._queue.append(_Ready(batch, self._offset, nbytes))
                self.changed.notify_all()

    def _decode(self, data: bytes) -> pa.RecordBatch:
        """The batch; its buffers are parts of `data`."""
        if self._schema is None:
            self._schema = pa.ipc.read_schema(pa.py_buffer(self._session.schema))
        batch = pa.ipc.read_record_batch(pa.py_buffer(data), self._schema)
        batch.validate()  # that buffers are as long as they must be; cheap
        return batch

    def _check_schema(self, serialized: bytes) -> None:
        """The first message of a call may have the schema; it is that of the session."""
        if not serialized or serialized == self._session.schema:
            return
        theirs = pa.ipc.read_schema(pa.py_buffer(serialized))
        ours = pa.ipc.read_schema(pa.py_buffer(self._session.schema))
        if not theirs.equals(ours):
            raise SourceChanged(
                f"{self._doing()}: the columns are no longer those of the session "
                f"({_difference(ours, theirs)}); open the dataset again"
            )

    def _find_stalled(self) -> ReadCall | None:
        """The call to cancel, if it has been silent for too long. Under `changed`."""
        if self._asked_at is None or self._call is None or self._call is self._stalled:
            return None
        if time.monotonic() - self._asked_at < self._stall_timeout_s:
            return None
        self._stalled = self._call
        return self._call

    def _drop_call(self) -> None:
        with self.changed:
            call, self._call = self._call, None
            self._stalled = None
        if call is not None:
            call.cancel()

    def _doing(self) -> str:
        return f"reading stream {self._stream} from row {self._offset:,}"

    def _explained(self, error: BaseException) -> FaucetError:
        return explain(
            error,
            doing=self._doing() + self._patience.story,
            resource=self._session.table,
            principal=self._connection.principal,
        )


def _difference(ours: pa.Schema, theirs: pa.Schema) -> str:
    for field in ours:
        if field.name not in theirs.names:
            return f"{field.name} is gone"
        if theirs.field(field.name).type != field.type:
            return f"{field.name} was {field.type} and is {theirs.field(field.name).type}"
    extra = [name for name in theirs.names if name not in ours.names]
    return f"{extra[0]} is new" if extra else "their order, or whether they may be null"
