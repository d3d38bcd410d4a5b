"""Faults: what goes wrong, when, and how often. Plain values, and the book that deals them out.

A fault fires *before* the message (or the answer) that it names is sent. `times` counts firings
over all calls and sessions since the faults were set; `LocalBigQuery.faults` replaces them all.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

# fmt: off
_CODES = frozenset({
    "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
    "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
    "UNAUTHENTICATED",
})
# fmt: on

RST_STREAM = "Received RST_STREAM with error code 2"
HTTP2_INTERNAL = "HTTP/2 error code: INTERNAL_ERROR\nReceived Rst Stream"
CLOSED_UNKNOWN = "Connection closed with unknown cause"
UNEXPECTED_EOS = "Received unexpected EOS on DATA frame from server"


def _check_code(code: str) -> None:
    if code not in _CODES:
        raise ValueError(f"gRPC has no status code {code!r}")


@dataclass(frozen=True)
class ReadFault:
    """What happens to ReadRows calls.

    Args:
        action: "fail" ends the call with `code`; "stall" sends nothing more and keeps it open until
            the client goes away; "end" ends it as if the stream had no more rows.
        at_message: Only before this message of the stream, counted from the stream's first row; the
            number of messages itself stands for the stream's end. None is any.
        after_messages: Only when the call has sent so many messages already. None is any.
        stream: Only on this stream of a session, counted from 0. None is any.
        probability: How likely it is where it could fire; decided by `seed`, the place and the
            attempt, so the same reads meet the same faults.
        seed: See `probability`.
        times: How often at most. None is without end.
        table: Only in sessions over this table, "project.dataset.table". None is any.
        code: gRPC's status code, as in "UNAVAILABLE".
        message: The status' text.
        retry_delay_s: The delay of a google.rpc.RetryInfo in the status' details; None: no details.
    """

    action: str = "fail"
    at_message: int | None = None
    after_messages: int | None = None
    stream: int | None = None
    probability: float = 1.0
    seed: int = 0
    times: int | None = 1
    table: str | None = None
    code: str = "UNAVAILABLE"
    message: str = "Socket closed"
    retry_delay_s: float | None = None

    def __post_init__(self) -> None:
        if self.action not in ("fail", "stall", "end"):
            raise ValueError(f"nothing is called {self.action!r} that a read could do")
        _check_code(self.code)


@dataclass(frozen=True)
class SessionFault:
    """CreateReadSession fails, `times` times (None: always), after `skip` calls that do not."""

    code: str = "UNAVAILABLE"
    message: str = "The service is currently unavailable."
    times: int | None = 1
    skip: int = 0
    retry_delay_s: float | None = None

    def __post_init__(self) -> None:
        _check_code(self.code)


@dataclass(frozen=True)
class RestFault:
    """REST requests fail.

    Args:
        status: The HTTP status, as in 503.
        reason: BigQuery's reason, as in "backendError", "rateLimitExceeded", "quotaExceeded".
        message: The error's text.
        times: How often at most. None is without end.
        skip: How many matching requests are answered first.
        method: Only requests of this HTTP method. None is any.
        path: Only requests whose path contains this, as in "/jobs".
        drop: Close the connection instead of answering.
    """

    status: int = 503
    reason: str = "backendError"
    message: str = "Error encountered during execution. Retrying may solve the problem."
    times: int | None = 1
    skip: int = 0
    method: str | None = None
    path: str = ""
    drop: bool = False


RESUMABLE = (
    ReadFault(code="UNAVAILABLE", message="Socket closed"),
    ReadFault(code="INTERNAL", message=RST_STREAM),
    ReadFault(code="UNKNOWN", message="Stream removed"),
    ReadFault(code="INTERNAL", message=HTTP2_INTERNAL),
    ReadFault(code="INTERNAL", message=CLOSED_UNKNOWN),
    ReadFault(code="INTERNAL", message=UNEXPECTED_EOS),
)
"""Failures after which a reader may go on where it was: BIGQUERY.md says whose list it is."""


@dataclass(frozen=True)
class Faults:
    """All that goes wrong from now on.

    Args:
        reads: Of ReadRows; the first that matches fires.
        total: Exactly so many failures in one pass over each session, spread evenly over the
            messages of all of its streams.
        total_kinds: Which failures these are, in turn.
        total_table: Only in sessions over this table. None is any.
        message_delay_s: Before each message of every stream.
        sessions: Of CreateReadSession.
        rest: Of REST requests.
        refuse_filters: A session whose row_restriction contains this text, in any case, is refused;
            "" refuses every one that has a row_restriction. None refuses none.
        refuse_message: What a refused filter is told.
        sessions_expired: Every session is expired, those made later too.
        count_error: What COUNT and COUNTIF columns of query jobs are wrong by.
        deny: Permissions that are denied: bigquery.jobs.create, bigquery.readsessions.create,
            bigquery.readsessions.getData, bigquery.tables.get, bigquery.tables.getData,
            bigquery.tables.create.
    """

    reads: Sequence[ReadFault] = ()
    total: int = 0
    total_kinds: Sequence[ReadFault] = RESUMABLE
    total_table: str | None = None
    message_delay_s: float = 0.0
    sessions: Sequence[SessionFault] = ()
    rest: Sequence[RestFault] = ()
    refuse_filters: str | None = None
    refuse_message: str = "request failed: Unsupported filter expression in row_restriction"
    sessions_expired: bool = False
    count_error: int = 0
    deny: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Faults:
        kinds: dict[str, type[ReadFault | SessionFault | RestFault]] = {
            "reads": ReadFault,
            "total_kinds": ReadFault,
            "sessions": SessionFault,
            "rest": RestFault,
        }
        made: dict[str, Any] = {
            name: tuple(kinds[name](**one) for one in value) if name in kinds else value
            for name, value in fields.items()
        }
        return cls(**made)


@dataclass
class SessionPlan:
    """What is still to go wrong in one session: for each (stream, message), failures in order."""

    table: str
    due: dict[tuple[int, int], list[ReadFault]] = field(default_factory=dict)
    attempts: Counter[tuple[int, int]] = field(default_factory=Counter)
    generation: int = -1
    """Of the faults that it was planned under; others replaced, nothing of it is due any more."""


class FaultBook:
    """The faults that hold now, and how often each has fired. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._generation = 0
        self._fired: Counter[object] = Counter()
        self._seen: Counter[object] = Counter()
        self.injected: Counter[str] = Counter()
        """How many of each kind fired, ever."""
        self.current = Faults()

    def replace(self, faults: Faults) -> None:
        with self._lock:
            self.current = faults
            self._generation += 1
            self._fired.clear()
            self._seen.clear()

    def plan(self, table: str, messages: Sequence[int]) -> SessionPlan:
        """Spreads `total` over the messages of a new session; `messages` are counts by stream."""
        with self._lock:
            plan = SessionPlan(table, generation=self._generation)
            faults = self.current
        everywhere = sum(messages)
        if not faults.total or not everywhere or faults.total_table not in (None, table):
            return plan
        places = [(stream, number) for stream, n in enumerate(messages) for number in range(n)]
        for place, (stream, number) in enumerate(places):
            first = faults.total * place // everywhere
            last = faults.total * (place + 1) // everywhere
            if first < last:
                kinds = faults.total_kinds
                plan.due[stream, number] = [
                    replace(kinds[n % len(kinds)], times=None) for n in range(first, last)
                ]
        return plan

    def on_message(
        self, plan: SessionPlan, stream: int, number: int, sent: int
    ) -> ReadFault | None:
        """What happens before message `number` of a stream, of which this call has sent `sent`."""
        with self._lock:
            place = (stream, number)
            if plan.generation == self._generation and plan.due.get(place):
                return self._note(plan.due[place].pop(0))
            attempt = plan.attempts[place]
            plan.attempts[place] += 1
            for index, fault in enumerate(self.current.reads):
                if (
                    fault.at_message in (None, number)
                    and fault.after_messages in (None, sent)
                    and fault.stream in (None, stream)
                    and fault.table in (None, plan.table)
                    and _is_drawn(fault, stream, number, attempt)
                    and self._may_fire(("read", index), fault.times)
                ):
                    return self._note(fault)
            return None

    def on_session(self) -> SessionFault | None:
        """What happens to this CreateReadSession."""
        with self._lock:
            for index, fault in enumerate(self.current.sessions):
                if self._is_past(("session", index), fault.skip) and self._may_fire(
                    ("session", index), fault.times
                ):
                    self.injected[f"CreateReadSession {fault.code}"] += 1
                    return fault
            return None

    def on_request(self, method: str, path: str) -> RestFault | None:
        """What happens to this REST request."""
        with self._lock:
            for index, fault in enumerate(self.current.rest):
                if (
                    fault.method in (None, method)
                    and fault.path in path
                    and self._is_past(("rest", index), fault.skip)
                    and self._may_fire(("rest", index), fault.times)
                ):
                    self.injected["REST " + ("drop" if fault.drop else str(fault.status))] += 1
                    return fault
            return None

    def is_denied(self, permission: str) -> bool:
        return permission in self.current.deny

    def _is_past(self, key: object, skip: int) -> bool:
        self._seen[key] += 1
        return self._seen[key] > skip

    def _may_fire(self, key: object, times: int | None) -> bool:
        if times is not None and self._fired[key] >= times:
            return False
        self._fired[key] += 1
        return True

    def _note(self, fault: ReadFault) -> ReadFault:
        self.injected[f"ReadRows {fault.code if fault.action == 'fail' else fault.action}"] += 1
        return fault


def _is_drawn(fault: ReadFault, stream: int, number: int, attempt: int) -> bool:
    if fault.probability >= 1:
        return True
    draw = random.Random(f"{fault.seed}/{stream}/{number}/{attempt}")  # the same in every process
    return draw.random() < fault.probability
