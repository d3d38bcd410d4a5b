"""What an exception of BigQuery's libraries means: try again, or which of our own errors it is.

`classify` and `explain` are pure: an exception in, a value out. They know four families:

    google.api_core.exceptions   both APIs: a status of gRPC or of HTTP, with details
    google.auth.exceptions       credentials: what they are, and fetching tokens for them
    requests.exceptions          REST: the connection itself
    grpc.RpcError                ReadRows, whose bare stub we call; made one of the first family

`Patience` decides how long to wait between attempts and when to give up; it does not sleep.

What BigQuery's codes and reasons mean: https://cloud.google.com/bigquery/docs/error-messages.
"""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import random
from typing import Any, cast

import grpc
import pyarrow as pa
import requests.exceptions
from google.api_core import exceptions as api
from google.auth import exceptions as auth
from google.rpc.error_details_pb2 import QuotaFailure, RetryInfo

from faucetd.errors import (
    BudgetError,
    ConfigError,
    FaucetError,
    SourceChanged,
    SourceForbidden,
    SourceNotFound,
    SourceReadError,
)


class Stalled(Exception):
    """A stream sent nothing for as long as `[bigquery] stall_timeout_s` allows."""


FOREIGN: tuple[type[Exception], ...] = (
    api.GoogleAPIError,
    auth.GoogleAuthError,
    requests.exceptions.RequestException,
    grpc.RpcError,
    OSError,
    Stalled,
)
"""What a call may raise that says nothing of the rows; anything else is a fault of our own."""

_FIRST_DELAY_S = 0.02
_LONGEST_DELAY_S = 20.0

# Statuses that gRPC makes itself when a connection breaks. The first is what the official Python
# reader resumes on (bigquery_storage_v1/reader.py), the others what Spark's connector does too.
_BROKEN_CONNECTION = (
    "rst_stream",
    "http/2 error code: internal_error",
    "connection closed with unknown cause",
    "unexpected eos on data frame",
)

# What gRPC says of calls for which it could not connect, and what google.auth says within such.
_NO_CONNECTION = (
    "failed to connect to all addresses",
    "dns resolution failed",
    "address lookup failed",
    "max retries exceeded",
)

# How gRPC passes on what google.auth raised while it fetched a token: as text, under UNAVAILABLE
# or INTERNAL, whether it may pass by itself or not. What has none of these words counts as lasting:
# credentials that are wrong must not be tried for ten minutes.
_PLUGIN_FAILED = "from plugin failed"
_PASSING_WORDS = (
    "max retries exceeded",
    "connection aborted",
    "connection reset",
    "connection refused",
    "remotedisconnected",
    "remote end closed",
    "timed out",
    "temporary failure in name resolution",
    "name or service not known",
    "network is unreachable",
    "metadata server unavailable",
    "internal_failure",
    "server_error",
    "temporarily_unavailable",
)

_TRANSIENT_REASONS = frozenset(
    {
        "backendError",
        "badGateway",
        "internalError",
        "jobBackendError",
        "jobInternalError",
        "jobRateLimitExceeded",
        "rateLimitExceeded",
    }
)
_TRANSIENT_HTTP = frozenset({429, 500, 502, 503, 504})

_PERMISSION = re.compile(r"\bbigquery\.[A-Za-z]+\.[A-Za-z]+\b")
_EXPIRED_SESSION = re.compile(
    r"session\b.*\bexpired|expired\b.*\bsession", re.IGNORECASE | re.DOTALL
)
_TIME_TRAVEL = re.compile(
    r"time.?travel|invalid snapshot time|"
    r"snapshot.{0,40}(before|older|too old|out of range|in the future)",
    re.IGNORECASE,
)
# What the libraries put around the service's own words: the request, and where the job is.
_REQUEST = re.compile(r"^\s*(?:GET|POST|PUT|PATCH|DELETE) https?://\S+: ")
_JOB = re.compile(r"\s*\bLocation: \S+\s+Job ID: \S+")
_CLOCK = re.compile(r"reasonable timeframe|used too early|used too late|clock", re.IGNORECASE)
_TOO_EARLY = re.compile(r"too early, (\d+) < (\d+)")
_API_DISABLED = re.compile(r"has not been used in project|it is disabled|SERVICE_DISABLED")
_CLOCK_MATTERS_S = 60.0

# The smallest predefined role that has the permissions which begin so, and on what it is granted:
# https://cloud.google.com/bigquery/docs/access-control
_ROLES = (
    ("bigquery.jobs.", "roles/bigquery.jobUser on the project that pays"),
    ("bigquery.readsessions.", "roles/bigquery.readSessionUser on the project that pays"),
    ("bigquery.tables.create", "roles/bigquery.dataEditor on the dataset for results"),
    ("bigquery.tables.update", "roles/bigquery.dataEditor on the dataset for results"),
    ("bigquery.tables.delete", "roles/bigquery.dataEditor on the dataset for results"),
    ("bigquery.rowAccessPolicies.", "roles/bigquery.filteredDataViewer on the table"),
    ("bigquery.", "roles/bigquery.dataViewer on the table or its dataset"),
)
_ALL_ROLES = (
    "roles/bigquery.dataViewer on the table, and roles/bigquery.readSessionUser and "
    "roles/bigquery.jobUser on the project that pays"
)


@dataclass(frozen=True)
class Retry:
    """The same call may succeed later.

    Attributes:
        after_s: Seconds that the server wants us to wait; None if it has not said.
    """

    after_s: float | None = None


def classify(error: BaseException) -> Retry | None:
    """Whether the call that raised `error` is worth trying again; None if not.

    A 500 of REST is; an INTERNAL of gRPC is one only where it tells of a broken connection. The
    two come as one class, so it takes the response, or the gRPC error behind it, to know which it
    is; without either it counts as REST's.
    """
    error = _normal(error)
    if isinstance(error, Stalled):
        return Retry()
    if isinstance(error, api.GoogleAPICallError):
        worth = _worth_over_grpc(error) if _is_grpc(error) else _worth_over_http(error)
        return Retry(_retry_after_s(error)) if worth else None
    if isinstance(error, auth.GoogleAuthError):
        transient = isinstance(error, (auth.TransportError, auth.TimeoutError, auth.ResponseError))
        return Retry() if transient or error.retryable else None
    if isinstance(error, requests.exceptions.SSLError):  # a ConnectionError, but a lasting one
        return None
    passing = (
        requests.exceptions.ConnectionError,
        requests.exceptions.Timeout,
        requests.exceptions.ChunkedEncodingError,
        ConnectionError,
        TimeoutError,
    )
    return Retry() if isinstance(error, passing) else None


def is_blocked(error: BaseException) -> bool:
    """Whether it takes a person, as a rule, until the call can succeed, though it might by itself.

    Nobody answers at the address, or a quota is used up and the server names no time to come back.
    Who has begun to read waits for that; who has only asked for a dataset should be told.
    """
    error = _normal(error)
    if isinstance(error, api.GoogleAPICallError):
        text = _text(error).lower()
        if isinstance(error, api.TooManyRequests) or "rateLimitExceeded" in set(_reasons(error)):
            return _retry_after_s(error) is None
        return any(wording in text for wording in _NO_CONNECTION)
    return isinstance(error, (requests.exceptions.ConnectionError, auth.TransportError))


def is_authentication(error: BaseException) -> bool:
    """Whether the credentials were refused, so that newer ones of the same user might not be."""
    error = _normal(error)
    if isinstance(error, api.GoogleAPICallError):
        return isinstance(error, api.Unauthorized) or (
            _PLUGIN_FAILED in _text(error) and classify(error) is None
        )
    return isinstance(error, auth.RefreshError) and not error.retryable


def explain(error: BaseException, *, doing: str, resource: str, principal: str) -> FaucetError:
    """Our own error for `error`, which says what was wrong and what to do.

    Args:
        error: Whatever was raised; an error of ours comes back as it is.
        doing: What was under way, as in "reading stream 3 from row 1,000".
        resource: The table, query or job that it was about.
        principal: Whose credentials were used.
    """
    error = _normal(error)
    if isinstance(error, FaucetError):
        return error
    meaning = _meaning(error, resource, principal)
    said = _one_line(error)
    whose = "BigQuery: " if isinstance(error, api.GoogleAPICallError) else ""
    quote = f" ({whose}{said})" if said else ""
    return meaning.kind(f"{doing}: {meaning.problem}{quote}; {meaning.remedy}")


class Patience:
    """How long to wait before the next attempt, and when it is enough.

    Waits double from 20 ms to 20 s, each a random part of that between half and all, so that many
    streams that one outage broke do not come back in step. Progress starts all of it anew.

    Args:
        deadline_s: Seconds between the first failure and the last attempt, without progress.
        clock: Seconds on any scale that never goes back.
    """

    def __init__(self, deadline_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.failures = 0
        self._deadline_s = deadline_s
        self._clock = clock
        self._since: float | None = None

    def progress(self) -> None:
        """Something came: what failed before is forgotten."""
        self.failures = 0
        self._since = None

    def failed(self, retry: Retry) -> float | None:
        """Counts a failed attempt; the seconds to wait before the next, or None to give up."""
        now = self._clock()
        if self._since is None:
            self._since = now
        left_s = self._since + self._deadline_s - now
        longest_s: float = min(_FIRST_DELAY_S * 2 ** min(self.failures, 20), _LONGEST_DELAY_S)
        self.failures += 1
        if left_s <= 0:
            return None
        if retry.after_s is not None:
            # To come back earlier than the server wants is to fail again.
            return retry.after_s if retry.after_s <= left_s else None
        spread = random()  # noqa: S311 -- no secret
        return min(longest_s * (1 + spread) / 2, left_s)

    @property
    def story(self) -> str:
        """What to add to what was under way when patience has run out."""
        if self.failures < 2 or self._since is None:
            return ""
        return f" (tried {self.failures} times in {self._clock() - self._since:,.0f} s)"


@dataclass(frozen=True)
class _Meaning:
    kind: type[FaucetError]
    problem: str
    remedy: str


def _meaning(error: BaseException, resource: str, principal: str) -> _Meaning:
    if isinstance(error, api.GoogleAPICallError):
        if _PLUGIN_FAILED in _text(error):
            return _about_tokens(error, principal, lasting=classify(error) is None)
        return _about_calls(error, resource, principal)
    if isinstance(error, auth.GoogleAuthError):
        return _about_tokens(error, principal, lasting=classify(error) is None)
    if isinstance(error, Stalled):
        return _Meaning(
            SourceReadError,
            f"nothing came for {resource}, though the stream stayed open",
            "look at Google Cloud's status page and at this machine's network; "
            "[bigquery] stall_timeout_s and retry_deadline_s say how long we wait",
        )
    if isinstance(error, requests.exceptions.SSLError):
        return _Meaning(
            ConfigError,
            "the encrypted connection was refused",
            "check [bigquery] api_endpoint, proxies on the way, and this machine's certificates "
            "and clock",
        )
    if isinstance(error, (requests.exceptions.RequestException, OSError)):
        return _Meaning(
            SourceReadError,
            "BigQuery could not be reached",
            "check this machine's network, its proxy, and [bigquery] api_endpoint",
        )
    if isinstance(error, pa.ArrowException):
        return _Meaning(
            SourceReadError,
            f"what BigQuery sent of {resource} is no Arrow data of the session's schema",
            "open the dataset again; if it happens again, report it with this message",
        )
    return _Meaning(
        SourceReadError,
        f"{type(error).__name__}",
        "try again; if it happens again, report it with this message",
    )


def _about_calls(error: api.GoogleAPICallError, resource: str, principal: str) -> _Meaning:
    text = _text(error)
    reasons = frozenset(_reasons(error))
    if isinstance(error, api.Unauthorized):
        return _about_tokens(error, principal, lasting=True)
    if "bytesBilledLimitExceeded" in reasons or "limit for bytes billed" in text:
        return _Meaning(
            BudgetError,
            f"{resource} would be billed for more than this daemon allows",
            "name fewer columns or partitions, or raise [bigquery] max_bytes_billed: a query is "
            "billed for 10 MiB at least of each table",
        )
    if reasons & {"quotaExceeded", "rateLimitExceeded"} or isinstance(error, api.TooManyRequests):
        return _Meaning(
            SourceReadError,
            f"{_quota(error)} is used up",
            "wait, use fewer streams ([bigquery] max_streams), or have the quota raised in the "
            "console under IAM & Admin, Quotas",
        )
    if _API_DISABLED.search(text):
        return _Meaning(
            SourceForbidden,
            "an API that reading needs is switched off",
            "enable bigquery.googleapis.com and bigquerystorage.googleapis.com for the project "
            "that pays ([bigquery] project)",
        )
    if reasons & {"billingNotEnabled", "billingTierLimitExceeded"}:
        return _Meaning(
            SourceForbidden,
            "the project that pays has no billing",
            "enable billing for it, or name another in [bigquery] project",
        )
    if isinstance(error, api.Forbidden):
        return _about_permissions(error, resource, principal)
    if isinstance(error, api.NotFound):
        return _Meaning(
            SourceNotFound,
            f"there is no {resource}, or {principal} may not know of it",
            "check project, dataset, table and location, and that the table has not expired",
        )
    if _EXPIRED_SESSION.search(text):
        return _Meaning(
            SourceChanged,
            f"read session expired for {resource}",
            "open the dataset again: a session lives for about six hours, and its rows may have "
            "changed since",
        )
    if _TIME_TRAVEL.search(text) and isinstance(error, api.BadRequest):
        return _Meaning(
            SourceChanged,
            f"{resource} cannot be read, or no longer, as of the moment of its snapshot",
            "open the dataset again, or name in `snapshot=` a moment that is neither in the future "
            "nor before the table's time travel window, which can be lengthened to seven days",
        )
    return _about_the_rest(error, resource, reasons)


def _about_the_rest(
    error: api.GoogleAPICallError, resource: str, reasons: frozenset[str]
) -> _Meaning:
    if isinstance(error, api.Cancelled):
        return _Meaning(
            SourceReadError,
            f"BigQuery cancelled what was under way for {resource}",
            "see who or what cancelled it, or try again",
        )
    if reasons & {"responseTooLarge", "resourcesExceeded"}:
        return _Meaning(
            SourceReadError,
            f"BigQuery has not the resources for {resource}",
            "write the query's result into a table and open that, or simplify the query",
        )
    if is_blocked(error):
        return _Meaning(
            SourceReadError,
            "BigQuery's Storage Read API could not be reached",
            "check this machine's network, its proxy, and [bigquery] storage_endpoint and "
            "storage_insecure",
        )
    if isinstance(error, api.MethodNotImplemented):
        return _Meaning(
            ConfigError,
            "the server does not know the request",
            "check [bigquery] api_endpoint and storage_endpoint",
        )
    if isinstance(error, api.ClientError) and not isinstance(error, api.Conflict):
        return _Meaning(
            SourceReadError,
            f"BigQuery refused {resource}",
            "correct the query, columns or filter that it names",
        )
    if isinstance(error, (api.ServerError, api.Conflict)) or classify(error) is not None:
        return _Meaning(
            SourceReadError,
            f"BigQuery failed on {resource}",
            "try again later; Google Cloud's status page tells of outages, and [bigquery] "
            "retry_deadline_s says how long we try by ourselves",
        )
    return _Meaning(
        SourceReadError,
        f"BigQuery answered what we do not know, on {resource}",
        "try again; if it happens again, report it with this message",
    )


def _about_permissions(error: api.Forbidden, resource: str, principal: str) -> _Meaning:
    text = _text(error)
    if "organization's policy" in text or "vpcServiceControls" in text:
        return _Meaning(
            SourceForbidden,
            f"a service perimeter keeps {principal} from {resource}",
            "ask whoever runs VPC Service Controls to let this machine in, naming the identifier",
        )
    found = _PERMISSION.search(text)
    if found is None:
        return _Meaning(
            SourceForbidden,
            f"{principal} may not read {resource}",
            f"reading needs {_ALL_ROLES}; have the missing one granted",
        )
    permission = found.group()
    role = next(role for prefix, role in _ROLES if permission.startswith(prefix))
    return _Meaning(
        SourceForbidden,
        f"{principal} lacks the permission {permission} for {resource}",
        f"have {role} granted",
    )


def _about_tokens(error: BaseException, principal: str, *, lasting: bool) -> _Meaning:
    text = _text(error)
    skew_s = _skew_s(error)
    if _CLOCK.search(text) or (skew_s is not None and abs(skew_s) > _CLOCK_MATTERS_S):
        off = ""
        if skew_s is not None and abs(skew_s) >= 1:
            off = f" by about {abs(skew_s):,.0f} s, {'ahead' if skew_s > 0 else 'behind'}"
        return _Meaning(
            ConfigError,
            f"Google refused the credentials of {principal}, because this machine's clock may be "
            f"off{off}",
            "set the clock (timedatectl shows whether it is synchronized)",
        )
    if not lasting:
        return _Meaning(
            SourceReadError,
            f"no token could be fetched for {principal}",
            "check this machine's network and proxy: Google's token server, or the metadata "
            "server, did not answer",
        )
    return _Meaning(
        ConfigError,
        f"the credentials of {principal} are not valid: malformed, revoked or expired",
        "check [bigquery] credentials; make a new key, or run `gcloud auth application-default "
        "login` again as the daemon's user",
    )


def _normal(error: BaseException) -> BaseException:
    """The error that counts: not a library's wrapper, and not gRPC's bare one."""
    if isinstance(error, api.RetryError) and isinstance(error.cause, BaseException):
        return _normal(error.cause)
    if isinstance(error, grpc.RpcError):
        return cast("api.GoogleAPICallError", api.from_grpc_error(error))
    return error


def _is_grpc(error: api.GoogleAPICallError) -> bool:
    behind = (error.response, *error.errors)
    if any(isinstance(one, grpc.RpcError) for one in behind):
        return True
    if error.response is not None or error.errors:
        return False
    # Made by nobody's response: these classes stand for a gRPC status alone.
    return error.grpc_status_code is not None and type(error) not in (
        api.NotFound,
        api.InternalServerError,
        api.MethodNotImplemented,
        api.ServiceUnavailable,
        api.Cancelled,
    )


def _worth_over_grpc(error: api.GoogleAPICallError) -> bool:
    text = _text(error).lower()
    if _PLUGIN_FAILED in text:
        return any(word in text for word in _PASSING_WORDS)
    if error.grpc_status_code is grpc.StatusCode.INTERNAL:
        return any(wording in text for wording in _BROKEN_CONNECTION)
    return error.grpc_status_code in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    )


def _worth_over_http(error: api.GoogleAPICallError) -> bool:
    reasons = set(_reasons(error))
    if reasons & _TRANSIENT_REASONS:
        return True
    if "quotaExceeded" in reasons:  # of a day, as a rule
        return False
    return error.code in _TRANSIENT_HTTP or isinstance(error, api.Unknown)


def _retry_after_s(error: api.GoogleAPICallError) -> float | None:
    """What the server says about when to come back: google.rpc.RetryInfo, or HTTP's header."""
    for detail in error.details:
        if isinstance(detail, RetryInfo):
            return float(detail.retry_delay.seconds + detail.retry_delay.nanos / 1e9)
        if isinstance(detail, Mapping) and str(detail.get("@type", "")).endswith("RetryInfo"):
            return _number(str(detail.get("retryDelay", "")).removesuffix("s"))
    return _number(_header(error, "Retry-After"))


def _skew_s(error: BaseException) -> float | None:
    """Seconds that this machine's clock is ahead of the server's, where the answer tells."""
    told = _TOO_EARLY.search(_text(error))
    if told:  # "now < issued at"
        return float(told.group(1)) - float(told.group(2))
    date = email.utils.parsedate_tz(_header(error, "Date") or "")
    return None if date is None else time.time() - email.utils.mktime_tz(date)


def _header(error: BaseException, name: str) -> str | None:
    headers = getattr(getattr(error, "response", None), "headers", None)
    value = headers.get(name) if isinstance(headers, Mapping) else None
    return value if isinstance(value, str) else None


def _number(text: str | None) -> float | None:
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def _reasons(error: api.GoogleAPICallError) -> Iterator[str]:
    """The machine-readable reasons: of REST's list of errors, and of google.rpc.ErrorInfo."""
    for one in error.errors:
        if isinstance(one, Mapping) and isinstance(one.get("reason"), str):
            yield one["reason"]
    if isinstance(error.reason, str):
        yield error.reason


def _quota(error: api.GoogleAPICallError) -> str:
    """The name of the quota, where the answer has it."""
    metadata: Any = error.metadata or {}
    for key in ("quota_limit", "quota_metric"):
        if key in metadata:
            return f"the quota {metadata[key]}"
    for detail in error.details:
        if isinstance(detail, QuotaFailure) and detail.violations:
            return f"the quota of {detail.violations[0].subject or 'BigQuery'}"
    return "a quota of BigQuery"


def _text(error: BaseException) -> str:
    if isinstance(error, api.GoogleAPICallError):
        # from_grpc_error passes None on where a call has no details.
        return str(error.message or "")
    return str(error)


def _one_line(error: BaseException) -> str:
    said = _JOB.sub(" ", _REQUEST.sub("", _text(error)))
    return " ".join(said.split()).rstrip(".;")[:1_000]
