"""What an exception means: values in, values out."""

from __future__ import annotations

import ast
import inspect
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from typing import Any

import google.auth.transport.requests
import grpc
import msgspec
import pyarrow as pa
import pytest
import requests
from google.api_core import exceptions as api
from google.auth import exceptions as auth
from google.auth.credentials import Credentials
from google.auth.transport.grpc import AuthMetadataPlugin
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from faucetd.errors import (
    BudgetError,
    ConfigError,
    FaucetError,
    SourceChanged,
    SourceForbidden,
    SourceNotFound,
    SourceReadError,
)
from faucetd.fetch.bigquery import faults
from faucetd.fetch.bigquery.faults import (
    Retry,
    Stalled,
    classify,
    explain,
    is_authentication,
    is_blocked,
)
from faucetd.fetch.bigquery.settings import BigQuerySettings

Code = grpc.StatusCode


class Call(grpc.RpcError):
    """What gRPC raises, as far as anybody looks at it."""

    def __init__(self, code: grpc.StatusCode, details: str, *more: Any) -> None:
        super().__init__(details)
        self._code, self._details = code, details
        self._trailing: list[tuple[str, bytes]] = []
        if more:
            status = Status(code=code.value[0], message=details)
            for one in more:
                packed = Packed()
                packed.Pack(one)
                status.details.append(packed)
            self._trailing = [("grpc-status-details-bin", status.SerializeToString())]

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._trailing


def rest(
    status: int, message: str = "no", reason: str | None = None, **headers: str
) -> api.GoogleAPICallError:
    """What google.cloud.bigquery raises for an answer of REST."""
    response = requests.Response()
    response.status_code = status
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    response.request = requests.Request("GET", "https://example.com/x").prepare()
    errors = [{"reason": reason, "message": message}] if reason else []
    response.json = lambda **_: {"error": {"message": message, "errors": errors}}  # type: ignore[method-assign]
    error: api.GoogleAPICallError = api.from_http_response(response)
    return error


def said(error: BaseException) -> FaucetError:
    return explain(
        error, doing="reading a table", resource="p.d.t", principal="reader@p.example.com"
    )


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (Code.UNAVAILABLE, "the service is currently unavailable"),
        (Code.UNKNOWN, "Stream removed"),
        (Code.INTERNAL, "Received RST_STREAM with error code 2"),
        (Code.INTERNAL, "HTTP/2 error code: INTERNAL_ERROR\nReceived Rst Stream"),
        (Code.INTERNAL, "Connection closed with unknown cause"),
        (Code.INTERNAL, "Received unexpected EOS on DATA frame from server."),
        (Code.RESOURCE_EXHAUSTED, "Exhausted"),
    ],
)
def test_what_breaks_a_connection_is_worth_another_attempt(
    code: grpc.StatusCode, details: str
) -> None:
    bare = Call(code, details)
    assert classify(bare) == Retry()
    assert classify(api.from_grpc_error(bare)) == Retry()


@pytest.mark.parametrize(
    "code",
    [
        code
        for code in Code
        if code not in {Code.OK, Code.UNAVAILABLE, Code.UNKNOWN, Code.RESOURCE_EXHAUSTED}
    ],
)
def test_every_other_status_of_grpc_is_not(code: grpc.StatusCode) -> None:
    bare = Call(code, "request failed: internal error")
    assert classify(bare) is None
    assert classify(api.from_grpc_error(bare)) is None


def test_the_time_that_the_server_names_is_passed_on() -> None:
    info = RetryInfo(retry_delay=Duration(seconds=2, nanos=500_000_000))
    assert classify(Call(Code.RESOURCE_EXHAUSTED, "later", info)) == Retry(2.5)
    assert classify(Call(Code.UNAVAILABLE, "later", info)) == Retry(2.5)
    assert classify(Call(Code.ABORTED, "later", info)) is None
    assert classify(rest(503, Retry_After="7")) == Retry(7.0)
    assert classify(rest(503, Retry_After="soon")) == Retry()
    of_json = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1.5s"}
    assert classify(api.TooManyRequests("no", details=[of_json])) == Retry(1.5)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_statuses_of_rest_that_pass_are_worth_another_attempt(status: int) -> None:
    assert classify(rest(status)) == Retry()


@pytest.mark.parametrize("status", [304, 400, 401, 403, 404, 409, 412, 501])
def test_other_statuses_of_rest_are_not(status: int) -> None:
    assert classify(rest(status)) is None


def test_a_reason_counts_more_than_the_status() -> None:
    assert classify(rest(403, reason="rateLimitExceeded")) == Retry()
    assert classify(rest(400, reason="backendError")) == Retry()
    assert classify(rest(403, reason="quotaExceeded")) is None
    assert classify(rest(429, reason="quotaExceeded")) is None


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (requests.exceptions.ConnectionError("refused"), True),
        (requests.exceptions.ReadTimeout("slow"), True),
        (requests.exceptions.ChunkedEncodingError("cut"), True),
        (requests.exceptions.SSLError("certificate"), False),
        (requests.exceptions.InvalidURL("x"), False),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (PermissionError(), False),
        (auth.TransportError("no route"), True),
        (auth.RefreshError("invalid_grant"), False),
        (auth.RefreshError("busy", retryable=True), True),
        (auth.DefaultCredentialsError("none"), False),
        (Stalled("silent"), True),
        (pa.ArrowInvalid("x"), False),
        (ValueError("x"), False),
        (api.RetryError("gave up", cause=api.ServiceUnavailable("x")), True),
        (api.RetryError("gave up", cause=api.NotFound("x")), False),
        (api.DeadlineExceeded("x"), False),
        (api.GatewayTimeout("x"), True),
    ],
)
def test_errors_of_the_transport_and_of_credentials(error: Exception, again: bool) -> None:
    assert (classify(error) is not None) is again


def exceptions_of(module: Any, base: type[Exception]) -> list[type[Exception]]:
    found = [one for _, one in inspect.getmembers(module, inspect.isclass)]
    return [one for one in found if issubclass(one, base)]


def instance(kind: type[Exception]) -> Exception:
    if issubclass(kind, api.RetryError):
        return kind("they said", ValueError("x"))
    if issubclass(kind, ValueError) and issubclass(kind, requests.exceptions.JSONDecodeError):
        return kind("they said", "{", 0)
    return kind("they said")


@pytest.mark.parametrize(
    "error",
    [
        *(
            instance(kind)
            for kind in [
                *exceptions_of(api, Exception),
                *exceptions_of(auth, auth.GoogleAuthError),
                *exceptions_of(requests.exceptions, requests.exceptions.RequestException),
            ]
        ),
        *(Call(code, "they said") for code in Code),
        grpc.RpcError(),
        Stalled(),
        pa.ArrowInvalid("they said"),
        KeyError("x"),
        OSError(5, "I/O"),
    ],
    ids=repr,
)
def test_every_exception_of_the_libraries_becomes_one_of_ours_with_a_remedy(
    error: Exception,
) -> None:
    found = said(error)
    assert type(found).code in {
        "source-not-found",
        "source-forbidden",
        "source-changed",
        "source-read",
        "config",
    }
    assert found.message.startswith("reading a table: ")
    problem, _, remedy = found.message.rpartition("; ")
    assert problem
    assert len(remedy) > 20


def test_an_error_of_ours_stays_as_it_is() -> None:
    ours = SourceChanged("gone")
    assert said(ours) is ours


@pytest.mark.parametrize(
    ("error", "permission", "role"),
    [
        (
            rest(
                403,
                "Access Denied: Project p: User does not have bigquery.jobs.create permission in "
                "project p.",
                "accessDenied",
            ),
            "bigquery.jobs.create",
            "roles/bigquery.jobUser on the project",
        ),
        (
            Call(
                Code.PERMISSION_DENIED,
                "request failed: the user does not have 'bigquery.readsessions.create' "
                "permission for 'projects/p'",
            ),
            "bigquery.readsessions.create",
            "roles/bigquery.readSessionUser on the project",
        ),
        (
            rest(403, "Permission bigquery.tables.getData denied on table p:d.t", "accessDenied"),
            "bigquery.tables.getData",
            "roles/bigquery.dataViewer on the table",
        ),
        (
            rest(403, "Permission bigquery.tables.create denied on dataset p:d", "accessDenied"),
            "bigquery.tables.create",
            "roles/bigquery.dataEditor on the dataset",
        ),
    ],
)
def test_a_missing_permission_is_named_with_who_lacks_it_and_what_has_it(
    error: Exception, permission: str, role: str
) -> None:
    found = said(error)
    assert type(found) is SourceForbidden
    assert f"reader@p.example.com lacks the permission {permission} for p.d.t" in found.message
    assert role in found.message


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (rest(403, "Access Denied: Table p:d.t", "accessDenied"), SourceForbidden, "dataViewer"),
        (rest(403, "prohibited by organization's policy"), SourceForbidden, "perimeter"),
        (
            rest(403, "BigQuery Storage API has not been used in project 1 before"),
            SourceForbidden,
            "enable bigquery",
        ),
        (rest(403, "x", "billingNotEnabled"), SourceForbidden, "enable billing"),
        (
            rest(
                400,
                "Query exceeded limit for bytes billed: 10485760. 20971520 or higher required.",
                "bytesBilledLimitExceeded",
            ),
            BudgetError,
            "max_bytes_billed",
        ),
        (rest(404, "Not found: Table p:d.t", "notFound"), SourceNotFound, "reader@p.example.com"),
        (Call(Code.NOT_FOUND, "Not found: table"), SourceNotFound, "there is no p.d.t"),
        (
            rest(400, "Syntax error: Unexpected identifier at [3:12]", "invalidQuery"),
            SourceReadError,
            "at [3:12]",
        ),
        (
            rest(400, "Resources exceeded during query execution", "resourcesExceeded"),
            SourceReadError,
            "simplify the query",
        ),
        (
            Call(Code.FAILED_PRECONDITION, "there was an error: session expired at 2026-01-01"),
            SourceChanged,
            "read session expired",
        ),
        (
            rest(400, "Invalid time travel timestamp 1 for table p:d.t@1", "invalid"),
            SourceChanged,
            "time travel window",
        ),
        (rest(403, "Custom quota exceeded", "quotaExceeded"), SourceReadError, "quota"),
        (
            Call(
                Code.RESOURCE_EXHAUSTED,
                "exceeded",
                ErrorInfo(reason="X", metadata={"quota_limit": "ReadRowsPerMinute"}),
            ),
            SourceReadError,
            "the quota ReadRowsPerMinute is used up",
        ),
        (rest(503), SourceReadError, "later"),
        (rest(401, "Invalid Credentials", "authError"), ConfigError, "[bigquery] credentials"),
        (auth.RefreshError("invalid_grant: revoked"), ConfigError, "revoked or expired"),
        (auth.TransportError("no route"), SourceReadError, "network"),
    ],
)
def test_what_a_person_reads(error: Exception, kind: type[FaucetError], words: str) -> None:
    found = said(error)
    assert type(found) is kind
    assert words in found.message


def test_a_clock_that_is_off_is_named_and_by_how_much_where_that_is_known() -> None:
    found = said(
        auth.RefreshError(
            "invalid_grant: Invalid JWT: Token must be a short-lived token (60 minutes) and in a "
            "reasonable timeframe."
        )
    )
    assert type(found) is ConfigError
    assert "clock may be off (" in found.message

    early = auth.InvalidValue("Token used too early, 1000 < 1090. Check your computer's clock")
    assert "clock may be off by about 90 s, behind" in said(early).message

    date = formatdate(time.time() - 7_200, usegmt=True)
    found = said(rest(401, "Request had invalid authentication credentials", Date=date))
    assert "off by about 7,2" in found.message
    assert "ahead" in found.message
    assert "set the clock" in found.message

    now = formatdate(time.time(), usegmt=True)
    assert "clock" not in said(rest(401, "Invalid Credentials", Date=now)).message


def test_refused_credentials_are_told_from_other_refusals() -> None:
    assert is_authentication(rest(401))
    assert is_authentication(Call(Code.UNAUTHENTICATED, "x"))
    assert is_authentication(auth.RefreshError("invalid_grant"))
    assert not is_authentication(auth.RefreshError("busy", retryable=True))
    assert not is_authentication(auth.TransportError("no route"))
    assert not is_authentication(rest(403))
    assert not is_authentication(ValueError())


class Broken(Credentials):
    def __init__(self, error: Exception) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._error = error

    def refresh(self, request: Any) -> None:
        raise self._error


@pytest.fixture
def port() -> Iterator[int]:
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        port = server.add_secure_port("127.0.0.1:0", grpc.local_server_credentials())
        server.start()
        yield port
        server.stop(0).wait()


@pytest.mark.parametrize(
    ("error", "kind", "again"),
    [
        (auth.RefreshError("invalid_grant: Account not found"), ConfigError, False),
        (auth.RefreshError("something nobody has seen"), ConfigError, False),
        (auth.TransportError("Max retries exceeded with url: /token"), SourceReadError, True),
        (auth.TransportError("('Connection aborted.', Reset)"), SourceReadError, True),
    ],
)
def test_grpc_tells_in_words_alone_why_there_is_no_token(
    port: int, error: Exception, kind: type[FaucetError], again: bool
) -> None:
    plugin = AuthMetadataPlugin(Broken(error), google.auth.transport.requests.Request())
    credentials = grpc.composite_channel_credentials(
        grpc.local_channel_credentials(), grpc.metadata_call_credentials(plugin)
    )
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            call: Any = channel.unary_stream("/service/Method")
            next(call(b""))
        assert (classify(raised.value) is not None) is again
        assert is_authentication(raised.value) is not again
        assert type(said(raised.value)) is kind


@pytest.mark.parametrize(
    ("error", "blocked"),
    [
        (requests.exceptions.ConnectionError("Connection refused"), True),
        (requests.exceptions.ConnectTimeout("timed out"), True),
        (auth.TransportError("Connection refused"), True),
        (Call(Code.UNAVAILABLE, "failed to connect to all addresses; last error: refused"), True),
        (Call(Code.UNAVAILABLE, "DNS resolution failed for nowhere:443"), True),
        (Call(Code.RESOURCE_EXHAUSTED, "Quota exceeded"), True),
        (rest(403, "Exceeded rate limits", "rateLimitExceeded"), True),
        (rest(429), True),
        (
            Call(
                Code.RESOURCE_EXHAUSTED,
                "Quota exceeded",
                RetryInfo(retry_delay=Duration(seconds=3)),
            ),
            False,
        ),
        (rest(429, Retry_After="3"), False),
        (requests.exceptions.ReadTimeout("timed out"), False),
        (Call(Code.UNAVAILABLE, "Socket closed"), False),
        (rest(503), False),
    ],
)
def test_what_an_open_does_not_wait_for(error: Exception, blocked: bool) -> None:
    assert is_blocked(error) is blocked
    assert classify(error) is not None


def test_a_message_is_one_line_of_bounded_length() -> None:
    found = said(rest(400, "first\n  second " + "x" * 5_000))
    assert "\n" not in found.message
    assert len(found.message) < 1_500


def texts_of(path: Path) -> Iterator[str]:
    """The literals of a module as a reader sees them: parts of one text joined."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            parts = (one.value if isinstance(one, ast.Constant) else "{}" for one in node.values)
            yield "".join(map(str, parts))


def test_every_setting_that_a_message_names_exists() -> None:
    known = {one.name for one in msgspec.structs.fields(BigQuerySettings)}
    folder = Path(inspect.getfile(faults)).parent
    named = set()
    for path in sorted(folder.glob("*.py")):
        for text in texts_of(path):
            for first, second in re.findall(r"\[bigquery\]\s+(\w+)(?: and (\w+_\w+))?", text):
                named |= {first, second} - {""}
    assert {"stall_timeout_s", "retry_deadline_s", "job_timeout_s"} <= named
    assert named <= known


@pytest.mark.parametrize(
    "message",
    [
        "Invalid snapshot time 1262304000000 for table p:d.t@1262304000000. Cannot read before 17.",
        "Invalid snapshot time 410244480 for table p:d.t@410244480. Snapshot time is in the future",
        "request failed: Snapshot timestamp cannot be in the future",
    ],
)
def test_a_moment_that_cannot_be_read_names_the_argument(message: str) -> None:
    for error in (rest(400, message, "invalidQuery"), Call(Code.INVALID_ARGUMENT, message)):
        told = said(error)
        assert isinstance(told, SourceChanged)
        assert "`snapshot=`" in told.message


def test_what_libraries_put_around_the_service_s_words_is_left_out() -> None:
    message = (
        "POST http://127.0.0.1:9/bigquery/v2/projects/p/jobs?prettyPrint=false: Unrecognized name: "
        "x at [2:3]\n\nLocation: None\nJob ID: 12-ab\n"
    )
    told = said(api.BadRequest(message)).message
    assert "(BigQuery: Unrecognized name: x at [2:3])" in told
