"""Making read sessions, over a real server of gRPC; and the credentials that all calls carry."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pyarrow as pa
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.api_core import exceptions as api
from google.auth import exceptions as auth
from google.cloud.bigquery_storage_v1.types import CreateReadSessionRequest, ReadSession

from faucetd.errors import (
    ConfigError,
    SourceForbidden,
    SourceNotFound,
    SourceReadError,
    SpecError,
)
from faucetd.fetch.bigquery import connection as connections
from faucetd.fetch.bigquery.connection import Connection
from faucetd.fetch.bigquery.session import FilterRefused, create_session, retrying
from faucetd.fetch.bigquery.session import ReadSession as OurSession
from faucetd.fetch.bigquery.settings import BigQuerySettings

Code = grpc.StatusCode
SCHEMA = pa.schema([("row", pa.int64())]).serialize().to_pybytes()


class Server:
    """CreateReadSession; `script` has a status, a wait, or None for success, for each call."""

    def __init__(self) -> None:
        self.script: list[tuple[grpc.StatusCode, str] | float | None] = []
        self.requests: list[Any] = []
        self.answer = ReadSession.pb()(
            name="s/1", estimated_row_count=7, estimated_total_bytes_scanned=56
        )
        self.answer.arrow_schema.serialized_schema = SCHEMA
        self.answer.streams.add(name="s/1/streams/0")
        self.answer.streams.add(name="s/1/streams/1")

    def create(self, request: Any, context: grpc.ServicerContext) -> bytes:
        self.requests.append(request)
        step = self.script.pop(0) if self.script else None
        if isinstance(step, tuple):
            context.abort(*step)
        if isinstance(step, float):
            time.sleep(step)
        return bytes(self.answer.SerializeToString())


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def settings(server: Server) -> Iterator[BigQuerySettings]:
    with ThreadPoolExecutor(4) as pool:
        running = grpc.server(pool)
        handler: Any = grpc.unary_unary_rpc_method_handler(
            server.create, request_deserializer=CreateReadSessionRequest.pb().FromString
        )
        running.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(
                    "google.cloud.bigquery.storage.v1.BigQueryRead",
                    {"CreateReadSession": handler},
                )
            ]
        )
        port = running.add_insecure_port("127.0.0.1:0")
        running.start()
        yield BigQuerySettings(
            project="payer",
            credentials="anonymous",
            storage_endpoint=f"127.0.0.1:{port}",
            storage_insecure=True,
            retry_deadline_s=5.0,
        )
        running.stop(0).wait()


@pytest.fixture
def connection(settings: BigQuerySettings) -> Iterator[Connection]:
    connection = Connection(settings)
    yield connection
    connection.close()


def make(connection: Connection, settings: BigQuerySettings, **more: Any) -> OurSession:
    base: dict[str, Any] = {"table": "p.d.t", "columns": ["row"], "max_streams": 4}
    return create_session(connection, settings, **(base | more))


def test_a_session_is_plain_data(
    connection: Connection, settings: BigQuerySettings, server: Server
) -> None:
    session = make(
        connection,
        msgspec.structs.replace(settings, compression="lz4"),
        table="example.com:proj.d.t",
        columns=["row", "user.age"],
        row_restriction="row > 3",
        snapshot_ms=1_700_000_000_123,
    )
    assert session.streams == ("s/1/streams/0", "s/1/streams/1")
    assert (session.estimated_rows, session.estimated_bytes) == (7, 56)
    assert session.lifetime_s == 6 * 3_600
    assert abs(session.created_at - time.time()) < 60
    assert msgspec.json.decode(msgspec.json.encode(session), type=OurSession) == session
    assert pa.ipc.read_schema(pa.py_buffer(session.schema)).names == ["row"]

    (request,) = server.requests
    assert request.parent == "projects/payer"
    assert request.max_stream_count == 4
    wanted = request.read_session
    assert wanted.table == "projects/example.com:proj/datasets/d/tables/t"
    assert wanted.data_format == 2  # ARROW
    assert wanted.table_modifiers.snapshot_time.ToMilliseconds() == 1_700_000_000_123
    assert list(wanted.read_options.selected_fields) == ["row", "user.age"]
    assert wanted.read_options.row_restriction == "row > 3"
    assert wanted.read_options.arrow_serialization_options.buffer_compression == 1  # LZ4_FRAME


def test_by_default_all_columns_of_now_come_uncompressed(
    connection: Connection, settings: BigQuerySettings, server: Server
) -> None:
    make(connection, settings, columns=None, max_streams=5_000)
    (request,) = server.requests
    assert request.max_stream_count == 1_000
    assert not request.read_session.read_options.selected_fields
    assert not request.read_session.HasField("table_modifiers")
    options = request.read_session.read_options.arrow_serialization_options
    assert options.buffer_compression == 0


def test_an_empty_table_has_no_streams(
    connection: Connection, settings: BigQuerySettings, server: Server
) -> None:
    del server.answer.streams[:]
    assert make(connection, settings).streams == ()


def test_a_session_lives_as_long_as_the_service_says(
    connection: Connection, settings: BigQuerySettings, server: Server
) -> None:
    server.answer.expire_time.FromMilliseconds(int((time.time() + 1_000) * 1_000))
    assert 900 < make(connection, settings).lifetime_s < 1_001
    server.answer.expire_time.FromMilliseconds(1_000)  # one of the two clocks is wrong
    assert make(connection, settings).lifetime_s == 6 * 3_600


def test_what_may_pass_is_tried_again(
    connection: Connection, settings: BigQuerySettings, server: Server
) -> None:
    server.script = [
        (Code.UNAVAILABLE, "x"),
        (Code.RESOURCE_EXHAUSTED, "x"),
        (Code.INTERNAL, "RST_STREAM"),
        (Code.UNKNOWN, "x"),
    ]
    assert make(connection, settings).name == "s/1"
    assert len(server.requests) == 5


def test_who_opens_does_not_wait_for_a_quota(server: Server, settings: BigQuerySettings) -> None:
    server.script = [(Code.RESOURCE_EXHAUSTED, "Quota exceeded")] * 100
    with closing(Connection(settings, blocked_s=0.2)) as hasty:
        began = time.monotonic()
        with pytest.raises(SourceReadError, match=r"is used up.*tried \d+ times|tried.*is used up"):
            make(hasty, settings)
        assert time.monotonic() - began < settings.retry_deadline_s / 2
        server.script = [(Code.UNAVAILABLE, "x")] * 5  # who knows for how long
        assert make(hasty, settings).name == "s/1"


def test_an_attempt_that_takes_too_long_is_made_again(
    connection: Connection, settings: BigQuerySettings, server: Server
) -> None:
    server.script = [0.5, None]
    began = time.monotonic()
    make(connection, msgspec.structs.replace(settings, request_timeout_s=0.2))
    assert time.monotonic() - began < 0.45
    assert len(server.requests) == 2


def test_it_ends_with_the_deadline(
    connection: Connection, settings: BigQuerySettings, server: Server
) -> None:
    server.script = [(Code.UNAVAILABLE, "down")] * 100
    began = time.monotonic()
    with pytest.raises(SourceReadError, match=r"tried \d+ times.*down"):
        make(connection, msgspec.structs.replace(settings, retry_deadline_s=0.2))
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        (Code.NOT_FOUND, "Not found: Table p:d.t", SourceNotFound),
        (Code.PERMISSION_DENIED, "no bigquery.tables.getData", SourceForbidden),
        (Code.INVALID_ARGUMENT, "no such field: row", SourceReadError),
        (Code.INTERNAL, "request failed", SourceReadError),
    ],
)
def test_what_will_not_pass_fails_at_once(
    connection: Connection,
    settings: BigQuerySettings,
    server: Server,
    code: grpc.StatusCode,
    details: str,
    kind: type[Exception],
) -> None:
    server.script = [(code, details)]
    with pytest.raises(kind, match=r"creating a read session of p\.d\.t"):
        make(connection, settings, row_restriction="row > 3")
    assert len(server.requests) == 1


REFUSALS = [
    "request failed: row filter 'f(x) = 3' is too complex",
    "request failed: Row filter for table p:d.t is invalid.",
]


@pytest.mark.parametrize("details", REFUSALS)
def test_a_filter_that_the_service_refuses_is_told_from_other_faults(
    connection: Connection, settings: BigQuerySettings, server: Server, details: str
) -> None:
    server.script = [(Code.INVALID_ARGUMENT, details)] * 2
    with pytest.raises(FilterRefused, match="ilter"):
        make(connection, settings, row_restriction="f(x) = 3")
    with pytest.raises(SourceReadError):
        make(connection, settings)
    assert len(server.requests) == 2


def test_what_nobody_could_read_is_not_asked_for(
    connection: Connection, settings: BigQuerySettings, server: Server
) -> None:
    for table in ("t", "d.t", "p..t", ""):
        with pytest.raises(SpecError, match=r"project\.dataset\.table"):
            make(connection, settings, table=table)
    with pytest.raises(SpecError, match="at least one"):
        make(connection, settings, columns=[])
    assert not server.requests


def test_any_call_can_be_retried(connection: Connection, settings: BigQuerySettings) -> None:
    waits: list[float] = []
    steps: list[Exception | str] = [
        api.ServiceUnavailable("x"),
        ConnectionResetError(),
        auth.TransportError("x"),
        "done",
    ]

    def call() -> str:
        step = steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    def try_it() -> str:
        return retrying(call, settings, connection, doing="x", resource="y", sleep=waits.append)

    assert try_it() == "done"
    assert len(waits) == 3
    steps[:] = [ValueError("ours")]
    with pytest.raises(ValueError, match="ours"):
        try_it()
    steps[:] = [api.Forbidden("no"), "done"]
    with pytest.raises(SourceForbidden, match="anonymous may not read y"):
        try_it()
    before = connection.generation
    steps[:] = [api.Unauthorized("old token"), "done"]
    assert try_it() == "done"
    assert connection.generation == before + 1
    steps[:] = [api.Unauthorized("old token"), api.Unauthorized("old token"), "done"]
    with pytest.raises(ConfigError, match="credentials of anonymous"):
        try_it()


@pytest.fixture(scope="module")
def private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def service_account(private_key: str, name: str = "reader") -> dict[str, str]:
    return {
        "type": "service_account",
        "project_id": "own",
        "private_key": private_key,
        "client_email": f"{name}@own.iam.gserviceaccount.com",
        "token_uri": "https://oauth2.googleapis.com/token",
    }


USER = {
    "type": "authorized_user",
    "client_id": "c",
    "client_secret": "hush",
    "refresh_token": "hush",
    "quota_project_id": "q",
}
FEDERATED = {
    "type": "external_account",
    "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/x",
    "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
    "token_url": "https://sts.googleapis.com/v1/token",
    "credential_source": {"file": "/var/run/token"},
    "service_account_impersonation_url": "https://iamcredentials.googleapis.com/v1/projects/-/"
    "serviceAccounts/worker@own.iam.gserviceaccount.com:generateAccessToken",
}


def test_key_files_say_who_reads_and_who_pays(tmp_path: Path, private_key: str) -> None:
    path = tmp_path / "key.json"

    def of(info: dict[str, Any], project: str | None = None) -> Connection:
        path.write_text(json.dumps(info))
        return Connection(BigQuerySettings(credentials=str(path), project=project))

    found = of(service_account(private_key))
    assert (found.principal, found.project) == ("reader@own.iam.gserviceaccount.com", "own")
    assert of(service_account(private_key), "payer").project == "payer"
    assert of(USER).principal == f"the authorized_user credentials in {path}"
    assert of(USER).project == "q"
    found = of(FEDERATED)
    assert found.principal == "worker@own.iam.gserviceaccount.com"
    with pytest.raises(ConfigError, match=r"set \[bigquery\] project"):
        _ = found.project


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "does not exist"),
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("\udcff", "is not JSON"),
        ("[]", "is no key file"),
        ("{}", "is no key file"),
        ('{"type": "magic"}', "must be one of service_account"),
        ('{"type": []}', "is no key file"),
        ('{"type": "service_account"}', "lacks what a key of type service_account has"),
        ('{"type": "authorized_user"}', "lacks what a key of type authorized_user has"),
        ('{"type": "external_account"}', "lacks what a key of type external_account has"),
        (
            '{"type": "impersonated_service_account"}',
            "lacks what a key of type impersonated_service_account has",
        ),
        (
            '{"type": "external_account_authorized_user"}',
            "lacks what a key of type external_account_authorized_user has",
        ),
        (json.dumps(service_account("hush")), "lacks what a key of type service_account has"),
    ],
)
def test_a_key_file_that_cannot_serve_is_named_with_the_setting(
    tmp_path: Path, text: str | None, words: str
) -> None:
    path = tmp_path / "key.json"
    if text is not None:
        path.write_bytes(text.encode(errors="surrogateescape"))
    began = time.monotonic()
    with pytest.raises(ConfigError) as raised:
        _ = Connection(BigQuerySettings(credentials=str(path))).principal
    assert time.monotonic() - began < 5
    message = raised.value.message
    assert message.startswith(f"[bigquery] credentials names {path}, which ")
    assert words in message
    assert "hush" not in message
    assert len(message.split("; ", 1)[1]) > 10


def test_a_key_file_that_may_not_be_read_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        _ = Connection(BigQuerySettings(credentials=str(path))).principal


def test_a_key_file_that_was_replaced_is_read_anew(tmp_path: Path, private_key: str) -> None:
    path = tmp_path / "key.json"
    path.write_text(json.dumps(service_account(private_key, "old")))
    connection = Connection(BigQuerySettings(credentials=str(path)))
    assert connection.principal.startswith("old@")
    storage, jobs = connection.storage, connection.jobs
    assert (connection.storage, connection.jobs) == (storage, jobs)
    seen = connection.generation
    path.write_text(json.dumps(service_account(private_key, "new")))
    assert connection.principal.startswith("old@")
    connection.renew(seen)
    assert connection.principal.startswith("new@")
    assert connection.storage is not storage
    assert connection.jobs is not jobs
    renewed = connection.jobs
    connection.renew(seen)  # another reader, refused at the same time
    assert connection.jobs is renewed
    path.unlink()
    with pytest.raises(ConfigError, match="does not exist"):
        connection.renew()
    assert connection.principal.startswith("new@")
    connection.close()
    connection.close()


def test_without_credentials_the_remedies_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_here(**_: Any) -> None:
        raise auth.DefaultCredentialsError("none were found")

    monkeypatch.setattr("google.auth.default", none_here)
    with pytest.raises(ConfigError) as raised:
        _ = Connection(BigQuerySettings()).principal
    for words in ("[bigquery] credentials", "gcloud auth", "GOOGLE_APPLICATION_CREDENTIALS"):
        assert words in raised.value.message


def test_looking_for_credentials_never_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr("google.auth.default", lambda **_: over.wait(30))
    monkeypatch.setattr(connections, "_SEARCH_S", 0.1)
    with pytest.raises(ConfigError, match=r"took more than 0\.1 s"):
        _ = Connection(BigQuerySettings()).principal
    over.set()
    assert connections._SEARCH_S < 10


def test_default_credentials_are_called_by_their_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key.json"
    path.write_text(json.dumps(USER))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "env")
    found = Connection(BigQuerySettings())
    assert found.principal == "application-default credentials of project env"
    assert found.project == "env"


def test_anonymous_connections_need_a_project_and_touch_no_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "create_connection", None)
    connection = Connection(
        BigQuerySettings(credentials="anonymous", project="p", api_endpoint="http://127.0.0.1:1")
    )
    assert (connection.principal, connection.project) == ("anonymous", "p")
    assert connection.jobs.project == "p"
    connection.close()
    with pytest.raises(ConfigError, match="project"):
        _ = Connection(BigQuerySettings(credentials="anonymous")).project
    with pytest.raises(ConfigError, match="storage_endpoint"):
        _ = Connection(BigQuerySettings(credentials="anonymous", storage_insecure=True)).storage
