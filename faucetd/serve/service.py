"""The gRPC service: authenticates, translates, forwards. It decides nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NoReturn

import grpc
from faucet_protos.v1 import faucet_pb2, faucet_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from faucetd.errors import (
    AccessDenied,
    BudgetError,
    DatasetNotFound,
    FaucetError,
    InternalError,
    ReaderConflict,
    SourceError,
    SourceForbidden,
    SourceNotFound,
    SpecError,
)
from faucetd.serve import reading, translate
from faucetd.serve.backend import Backend, ReaderStream
from faucetd.serve.sessions import Session, SessionTable

MAX_REQUEST_BYTES = 8 * 1024 * 1024
MAX_REPLY_BYTES = 16 * 1024 * 1024
UNARY_DEADLINE_S = 30.0
OPEN_DEADLINE_S = 3_600.0
_NEVER_MS = 2**31 - 1

_STATUS = (
    (AccessDenied, grpc.StatusCode.UNAUTHENTICATED),
    (ReaderConflict, grpc.StatusCode.ALREADY_EXISTS),
    (DatasetNotFound, grpc.StatusCode.NOT_FOUND),
    (SourceNotFound, grpc.StatusCode.NOT_FOUND),
    (SourceForbidden, grpc.StatusCode.PERMISSION_DENIED),
    (BudgetError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (SpecError, grpc.StatusCode.INVALID_ARGUMENT),
    (SourceError, grpc.StatusCode.FAILED_PRECONDITION),
    (InternalError, grpc.StatusCode.INTERNAL),
)

_Context = grpc.aio.ServicerContext[Any, Any]


class FaucetService(faucet_pb2_grpc.FaucetServicer):
    """See faucet.proto."""

    def __init__(
        self,
        sessions: SessionTable,
        backend: Backend,
        expect_conduit: Callable[[ReaderStream], bytes],
    ) -> None:
        """Serves `backend` to `sessions`.

        Args:
            sessions: Who may call.
            backend: What answers.
            expect_conduit: Gives a ticket that attaches a reader's conduit.
        """
        self._sessions = sessions
        self._backend = backend
        self._expect_conduit = expect_conduit

    async def OpenDataset(  # noqa: N802  # gRPC names it
        self, request: faucet_pb2.OpenDatasetRequest, context: _Context
    ) -> AsyncIterator[faucet_pb2.OpenDatasetEvent]:
        """Opens or joins a dataset."""
        try:
            self._authenticate("OpenDataset", context)
            # Apart from the loop, which others wait for: a message of 8 MB takes seconds to read.
            spec = await asyncio.to_thread(translate.spec_from, request.spec)
            async with asyncio.timeout(
                None if context.time_remaining() is not None else OPEN_DEADLINE_S
            ):
                async for event in self._backend.open_dataset(spec, request.key):
                    yield translate.open_event_to(event)
        except FaucetError as error:
            await _abort(context, error)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the server's cap was reached")

    async def Read(  # noqa: N802  # gRPC names it
        self, request: faucet_pb2.StartReader, context: _Context
    ) -> faucet_pb2.ReaderStarted:
        """Starts a reader."""
        async with _unary(context):
            session = self._authenticate("Read", context)
            stream = await self._backend.read(session, reading.reader_request_from(request))
            return translate.started_to(stream.started, self._expect_conduit(stream))

    async def GetStatus(  # noqa: N802  # gRPC names it
        self,
        request: faucet_pb2.GetStatusRequest,  # noqa: ARG002  # it has no fields
        context: _Context,
    ) -> faucet_pb2.Status:
        """The daemon's status."""
        async with _unary(context):
            self._authenticate("GetStatus", context)
            return translate.status_to(self._backend.status())

    async def DropDataset(  # noqa: N802  # gRPC names it
        self, request: faucet_pb2.DropDatasetRequest, context: _Context
    ) -> faucet_pb2.DropDatasetReply:
        """Forgets a dataset."""
        async with _unary(context):
            self._authenticate("DropDataset", context)
            key, freed_bytes = self._backend.drop(request.key)
            return faucet_pb2.DropDatasetReply(key=key, freed_bytes=freed_bytes)

    async def GetProfile(  # noqa: N802  # gRPC names it
        self, request: faucet_pb2.GetProfileRequest, context: _Context
    ) -> faucet_pb2.Profile:
        """What a dataset's features hold."""
        async with _unary(context):
            self._authenticate("GetProfile", context)
            found = await self._backend.profile(request.key)
            reply = faucet_pb2.Profile(
                key=found.key,
                train_rows=found.rows["train"],
                eval_rows=found.rows["eval"],
                json=found.json,
            )
            if reply.ByteSize() > MAX_REPLY_BYTES:
                raise SpecError(
                    f"the profile of {found.key} has {reply.ByteSize():,} bytes, and at most "
                    f"{MAX_REPLY_BYTES:,} can be sent: profile fewer columns at a time (features, "
                    "exclude_features)"
                )
            return reply

    def _authenticate(self, method: str, context: _Context) -> Session:
        metadata = dict(context.invocation_metadata() or ())
        token = metadata.get("faucet-session")
        return self._sessions.authenticate(method, token if isinstance(token, str) else None)


@contextlib.asynccontextmanager
async def _unary(context: _Context) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(
            None if context.time_remaining() is not None else UNARY_DEADLINE_S
        ):
            yield
    except FaucetError as error:
        await _abort(context, error)


async def _abort(context: _Context, error: FaucetError) -> NoReturn:
    status = next(
        (status for kind, status in _STATUS if isinstance(error, kind)), grpc.StatusCode.UNKNOWN
    )
    detail = translate.error_to(error).SerializeToString()
    await context.abort(
        status, error.message[:512], trailing_metadata=(("faucet-error-bin", detail),)
    )
    raise AssertionError("abort raises")


def make_server(service: FaucetService) -> tuple[grpc.aio.Server, health.aio.HealthServicer]:
    """A server with health and reflection, not yet bound or started."""
    server = grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
            ("grpc.max_send_message_length", MAX_REPLY_BYTES),
            ("grpc.so_reuseport", 0),
            # No pings, which a trainer that is stopped would not answer: it keeps what it holds.
            # Whether it lives, its pidfd tells.
            ("grpc.http2.bdp_probe", 0),
            ("grpc.keepalive_time_ms", _NEVER_MS),
        )
    )
    faucet_pb2_grpc.add_FaucetServicer_to_server(service, server)
    healths = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healths, server)
    names = faucet_pb2.DESCRIPTOR.services_by_name
    reflection.enable_server_reflection(
        (names["Faucet"].full_name, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )
    return server, healths


SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def service_names() -> Iterator[str]:
    """The services whose health is told: all (the empty name), and ours."""
    yield ""
    yield faucet_pb2.DESCRIPTOR.services_by_name["Faucet"].full_name
