"""The clients of one process, and the credentials that they carry.

Nothing is opened before it is needed. Clients are made once for all readers; `renew` makes new ones
with the credentials as they are on disk now, while calls that are under way keep the old ones:
those are closed with everything else.

Looking for credentials answers within ten seconds, whatever the network does.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import google.auth
import grpc
from google.api_core.client_info import ClientInfo
from google.api_core.client_options import ClientOptions
from google.auth import aws, identity_pool, impersonated_credentials, pluggable
from google.auth import exceptions as auth
from google.auth.credentials import AnonymousCredentials, with_scopes_if_required
from google.auth.external_account_authorized_user import Credentials as WorkforceCredentials
from google.cloud import bigquery
from google.cloud.bigquery_storage_v1.services.big_query_read import BigQueryReadClient
from google.cloud.bigquery_storage_v1.services.big_query_read.transports import (
    BigQueryReadGrpcTransport,
)
from google.cloud.bigquery_storage_v1.types import ReadRowsRequest, ReadRowsResponse
from google.oauth2.credentials import Credentials as UserCredentials
from google.oauth2.service_account import Credentials as ServiceAccountCredentials

from faucet_client._version import __version__
from faucetd.errors import ConfigError
from faucetd.fetch.bigquery.settings import BigQuerySettings

_SCOPES = (
    "https://www.googleapis.com/auth/bigquery",
    "https://www.googleapis.com/auth/cloud-platform",
)
_STORAGE_HOST = "bigquerystorage.googleapis.com:443"
_USER_AGENT = f"faucetml/{__version__}"
_SEARCH_S = 7.0

_CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", -1),  # a response may have 128 MB
    ("grpc.max_send_message_length", -1),
    # A stream that its consumer has paused is silent. Pings keep its connection known to firewalls
    # on the way, which forget one after 10 minutes (https://cloud.google.com/vpc/docs/firewalls).
    # More often than every 5 minutes, and a server of gRPC's defaults hangs up
    # (https://github.com/grpc/grpc/blob/master/doc/keepalive.md).
    ("grpc.keepalive_time_ms", 305_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # While a server restarts, calls fail until the channel dials again: by default up to two
    # minutes later. And an attempt to connect may take 20 s by default, which "min_reconnect" sets.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 10_000),
    ("grpc.max_reconnect_backoff_ms", 10_000),
    # Attempts are ours to count.
    ("grpc.enable_retries", 0),
)


class ReadCall(Protocol):
    """A ReadRows under way: an iterator of messages that can be cancelled from any thread."""

    def __next__(self) -> Any:
        """The next message, as the bare protobuf type of ReadRowsResponse."""
        ...

    def cancel(self) -> object:
        """Ends the call; whoever waits in `__next__` gets an RpcError."""
        ...

    def code(self) -> grpc.StatusCode | None:
        """The status of a call that has ended."""
        ...


class Connection:
    """The clients that one process uses; made lazily, closed together. Any thread may use it.

    Args:
        settings: Where the APIs are, and which credentials to use.
        blocked_s: Seconds for which requests wait for an API that cannot be reached, or for a
            quota, as whoever asks for a dataset should; None for `retry_deadline_s`.
    """

    def __init__(self, settings: BigQuerySettings, *, blocked_s: float | None = None) -> None:
        self.generation = 0
        self.blocked_s = blocked_s
        self._closed = False
        self._settings = settings
        self._lock = threading.RLock()
        self._identity: _Identity | None = None
        self._jobs: bigquery.Client | None = None
        self._channel: grpc.Channel | None = None
        self._storage: BigQueryReadClient | None = None
        self._read_rows: Callable[..., ReadCall] | None = None
        self._closers: list[Callable[[], object]] = []

    @property
    def jobs(self) -> bigquery.Client:
        """The client for jobs and metadata.

        Raises:
            ConfigError: the credentials cannot be used, or nobody knows the project.
        """
        with self._lock:
            if self._jobs is None:
                options = None
                if self._settings.api_endpoint is not None:
                    options = ClientOptions(api_endpoint=self._settings.api_endpoint)
                self._jobs = bigquery.Client(
                    project=self.project,
                    credentials=self._who().credentials,
                    client_info=ClientInfo(user_agent=_USER_AGENT),
                    client_options=options,
                )
                self._closers.append(self._jobs.close)
            return self._jobs

    @property
    def storage(self) -> BigQueryReadClient:
        """The client for read sessions. Rows are read with `read_rows`.

        Raises:
            ConfigError: the credentials cannot be used.
        """
        with self._lock:
            if self._storage is None:
                transport = BigQueryReadGrpcTransport(channel=self._open_channel())
                self._storage = BigQueryReadClient(transport=transport)
            return self._storage

    @property
    def principal(self) -> str:
        """Whose credentials these are, in words for messages and cache keys.

        Raises:
            ConfigError: the credentials cannot be used.
        """
        return self._who().principal

    @property
    def project(self) -> str:
        """The project that pays for jobs and sessions.

        Raises:
            ConfigError: neither the settings nor the credentials name one.
        """
        project = self._settings.project or self._who().project
        if not project:
            raise ConfigError(
                f"no project to run BigQuery jobs in: {self.principal} has none of its own; "
                "set [bigquery] project to the project that pays"
            )
        return project

    def read_rows(self, stream: str, offset: int) -> ReadCall:
        """Opens ReadRows once, without the library's retries or a deadline.

        The bare stub, not the client's method: that one wraps every message in a proto-plus object
        and fetches the first one before it returns.

        Raises:
            ConfigError: the credentials cannot be used.
        """
        with self._lock:
            if self._read_rows is None:
                self._read_rows = self._open_channel().unary_stream(
                    "/google.cloud.bigquery.storage.v1.BigQueryRead/ReadRows",
                    request_serializer=ReadRowsRequest.serialize,
                    response_deserializer=ReadRowsResponse.pb().FromString,
                )
            stub = self._read_rows
        # The service routes by this header; the client's methods add it too.
        metadata = (
            ("x-goog-request-params", f"read_stream={stream}"),
            ("x-goog-api-client", f"gl-python grpc/{grpc.__version__} {_USER_AGENT}"),
        )
        return stub(ReadRowsRequest(read_stream=stream, offset=offset), metadata=metadata)

    def renew(self, seen: int | None = None) -> None:
        """Takes the credentials as they are on disk now, for all calls from here on.

        Args:
            seen: `generation` before the call that was refused. If others have renewed since, there
                is nothing to do.

        Raises:
            ConfigError: they cannot be used; the old ones stay.
        """
        with self._lock:
            if seen is not None and seen != self.generation:
                return
            self._identity = _load(self._settings)
            self._jobs = self._storage = self._channel = self._read_rows = None
            self.generation += 1

    def close(self) -> None:
        """Closes all clients, old ones too, and ends the calls under way. Idempotent."""
        with self._lock:
            self._closed = True
            closers, self._closers = self._closers, []
            self._jobs = self._storage = self._channel = self._read_rows = None
        for close in closers:
            close()

    def _who(self) -> _Identity:
        with self._lock:
            if self._identity is None:
                self._identity = _load(self._settings)
            return self._identity

    def _open_channel(self) -> grpc.Channel:
        """The one channel to the Storage API: HTTP/2 carries all streams over a connection."""
        if self._channel is None:
            if self._closed:  # by a stream that has not noticed yet; nobody would close the new one
                raise ValueError("the connection is closed")
            settings = self._settings
            options = (*_CHANNEL_OPTIONS, ("grpc.primary_user_agent", _USER_AGENT))
            if self.blocked_s is not None:
                # The last of two values counts.
                options += (("grpc.min_reconnect_backoff_ms", round(self.blocked_s * 1_000)),)
            if settings.storage_insecure:
                if settings.storage_endpoint is None:
                    raise ConfigError(
                        "[bigquery] storage_insecure is for local servers: set storage_endpoint "
                        "to one, or leave storage_insecure out"
                    )
                # Without credentials: they must not travel unencrypted.
                channel = grpc.insecure_channel(settings.storage_endpoint, options=options)
            else:
                channel = BigQueryReadGrpcTransport.create_channel(
                    settings.storage_endpoint or _STORAGE_HOST,
                    credentials=self._who().credentials,
                    options=list(options),
                )
            self._channel = channel
            self._closers.append(channel.close)
        return self._channel


class _Identity:
    """Credentials, and what is known of whom they stand for without asking anybody."""

    def __init__(self, credentials: Any, project: str | None, otherwise: str) -> None:
        self.credentials = credentials
        self.project = project
        named: str | None = None
        for attribute in ("service_account_email", "account"):
            with suppress(Exception):  # a property may compute, and fail, on half-filled objects
                named = named or getattr(credentials, attribute, None)
        # On Google's machines the account is called "default" until its first token has come.
        self.principal = named if named and named != "default" else otherwise


def _load(settings: BigQuerySettings) -> _Identity:
    if settings.credentials == "anonymous":
        return _Identity(AnonymousCredentials(), None, "anonymous")
    if settings.credentials == "default":
        return _within(_SEARCH_S, lambda: _search(settings))
    return _within(_SEARCH_S, lambda: _read_key_file(settings.credentials))


def _search(settings: BigQuerySettings) -> _Identity:
    try:
        credentials, project = google.auth.default(scopes=_SCOPES)
    except (auth.GoogleAuthError, OSError, ValueError) as error:
        raise ConfigError(
            '[bigquery] credentials is "default", but this machine has no usable '
            f"application-default credentials ({_said(error)}); run `gcloud auth "
            "application-default login` as the daemon's user, set GOOGLE_APPLICATION_CREDENTIALS, "
            "or name a key file in [bigquery] credentials"
        ) from error
    of = settings.project or project
    otherwise = "application-default credentials" + (f" of project {of}" if of else "")
    return _Identity(credentials, project, otherwise)


def _read_key_file(path: str) -> _Identity:
    """Credentials from a key file, by the type that it says it has.

    Not google.auth.load_credentials_from_file, which is deprecated, because it takes any type, and
    names neither the setting nor the missing field.
    """
    try:
        with open(path, "rb") as file:
            info = json.load(file)
    except FileNotFoundError:
        raise _bad_file(path, "does not exist", "correct the path") from None
    except OSError as error:
        raise _bad_file(
            path,
            f"cannot be read ({error.strerror})",
            f"let the daemon's user (uid {os.geteuid()}) read it",
        ) from None
    except ValueError:  # its message might quote the file
        raise _bad_file(path, "is not JSON", _NEW_KEY) from None
    kind = info.get("type") if isinstance(info, dict) else None
    load = _LOADERS.get(kind) if isinstance(kind, str) else None
    if load is None:
        raise _bad_file(
            path,
            f"is no key file: its type must be one of {', '.join(_LOADERS)}",
            _NEW_KEY,
        )
    try:
        credentials = with_scopes_if_required(load(info), _SCOPES)
    except (auth.GoogleAuthError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _bad_file(
            path, f"lacks what a key of type {kind} has ({_said(error)})", _NEW_KEY
        ) from None
    project = info.get("project_id") or info.get("quota_project_id")
    return _Identity(credentials, project, f"the {kind} credentials in {path}")


def _external(info: dict[str, Any]) -> Any:
    if info.get("subject_token_type") == "urn:ietf:params:aws:token-type:aws4_request":
        return aws.Credentials.from_info(info)
    if "executable" in (info.get("credential_source") or {}):
        return pluggable.Credentials.from_info(info)
    return identity_pool.Credentials.from_info(info)


_LOADERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "service_account": ServiceAccountCredentials.from_service_account_info,
    "authorized_user": UserCredentials.from_authorized_user_info,
    "external_account": _external,
    "external_account_authorized_user": WorkforceCredentials.from_info,
    "impersonated_service_account": (
        impersonated_credentials.Credentials.from_impersonated_service_account_info
    ),
}
_NEW_KEY = 'name a file that `gcloud` or the console made, whole and unchanged, or use "default"'


def _bad_file(path: str, problem: str, remedy: str) -> ConfigError:
    return ConfigError(f"[bigquery] credentials names {path}, which {problem}; {remedy}")


def _said(error: BaseException) -> str:
    return " ".join(str(error.args[0] if error.args else error).split())[:300]


def _within(limit_s: float, load: Callable[[], _Identity]) -> _Identity:
    """The result of `load`, unless it takes too long.

    google.auth asks the metadata server of Google's machines, with retries that can add up to half
    a minute where nobody answers, and runs `gcloud`. A thread that hangs there ends by itself.
    """
    found: list[_Identity | BaseException] = []

    def run() -> None:
        try:
            found.append(load())
        except BaseException as error:  # noqa: BLE001 -- raised again by whoever waits
            found.append(error)

    thread = threading.Thread(target=run, name="bigquery-credentials", daemon=True)
    thread.start()
    thread.join(limit_s)
    if not found:
        raise ConfigError(
            f"looking for credentials took more than {limit_s:g} s: the metadata server, or "
            "gcloud, does not answer; name a key file in [bigquery] credentials"
        )
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]
