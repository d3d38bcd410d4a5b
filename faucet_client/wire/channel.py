"""The gRPC calls of one session."""

from __future__ import annotations

import hmac
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar, cast

# Without this, gRPC leaves a forked child with threads that are not there and descriptors that are
# the parent's, and every fourth DataLoader worker fails (grpc: doc/fork_support.md). It is read
# when grpc is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "1")

import grpc
from faucet_protos.v1 import faucet_pb2, faucet_pb2_grpc, handoff_pb2

from faucet_client.address import Address
from faucet_client.errors import (
    DaemonError,
    DaemonLost,
    DaemonUnreachable,
    FaucetError,
    IteratorError,
    from_code,
)
from faucet_client.forks import GRPC
from faucet_client.profile import Profile
from faucet_client.spec import SPLITS, DatasetSpec
from faucet_client.status import Status
from faucet_client.wire.translate import info_from, spec_to, start_to, started_from, status_from
from faucet_client.wire.values import DatasetInfo, OpenProgress, ReaderRequest, Started

CALL_TIMEOUT_S = 10.0
START_TIMEOUT_S = 30.0
OPEN_TIMEOUT_S = 3_600.0

_Message = TypeVar("_Message")

ProgressListener = Callable[[OpenProgress], None]


class Channel:
    """The gRPC calls of one session."""

    def __init__(self, address: Address, session_id: str, secret: bytes) -> None:
        self._address = address
        self._session_id = session_id
        self._secret = secret
        self._numbers = itertools.count(1)
        self._closed = False
        self._abandoned = False
        with GRPC.calling():
            self._channel = grpc.insecure_channel(
                address.grpc_target,
                options=(
                    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
                    ("grpc.enable_retries", 0),
                    # A subchannel of its own: sessions do not share a connection by accident.
                    ("grpc.use_local_subchannel_pool", 1),
                    # Whether the daemon lives, the handoff socket tells. A ping would take this
                    # process's being stopped for a minute (SIGSTOP, a debugger) for its end.
                    ("grpc.http2.bdp_probe", 0),
                ),
            )
        GRPC.install()
        self._stub = faucet_pb2_grpc.FaucetStub(self._channel)

    def open_dataset(
        self, spec: DatasetSpec, on_progress: ProgressListener | None, key: str = ""
    ) -> DatasetInfo:
        """Opens or joins a dataset.

        Raises:
            FaucetError: whatever the daemon found wrong with the spec or its source.
        """
        request = faucet_pb2.OpenDatasetRequest(spec=spec_to(spec), key=key)
        try:
            with GRPC.calling():
                events = self._stub.OpenDataset(
                    request, metadata=self._token("OpenDataset"), timeout=OPEN_TIMEOUT_S
                )
            for event in _each(events):
                if event.WhichOneof("event") == "opened":
                    return info_from(event.opened)
                if on_progress is not None:
                    progress = event.progress
                    on_progress(
                        OpenProgress(progress.stage, progress.rows_done, progress.rows_total)
                    )
        except grpc.RpcError as error:
            raise self._translated(error) from None
        raise DaemonError("the daemon ended an open without a dataset")

    def start_reader(self, request: ReaderRequest) -> Started:
        """Starts a reader, whose conduit is to be attached then.

        Raises:
            ReaderConflict: a live reader has the same name.
            BudgetError: the daemon has no memory for another reader.
            DatasetNotFound: the dataset was dropped.
            StateError: the daemon knows of nothing that was had, as the request says.
        """
        return started_from(self._ask(self._stub.Read, "Read", start_to(request), START_TIMEOUT_S))

    def status(self) -> Status:
        """What the daemon says of itself."""
        return status_from(
            self._ask(self._stub.GetStatus, "GetStatus", faucet_pb2.GetStatusRequest())
        )

    def profile(self, key: str) -> Profile:
        """The profile of an open dataset, by its key or the beginning of it.

        Raises:
            DatasetNotFound: there is no such dataset, or nothing was fitted for it.
        """
        request = faucet_pb2.GetProfileRequest(key=key)
        reply = self._ask(self._stub.GetProfile, "GetProfile", request)
        rows = dict(zip(SPLITS, (reply.train_rows, reply.eval_rows), strict=True))
        return replace(
            Profile.from_json(reply.json),
            key=reply.key,
            rows={split: count for split, count in rows.items() if count},
        )

    def drop(self, key: str) -> tuple[str, int]:
        """Forgets a dataset; its whole key, and the bytes that this freed."""
        request = faucet_pb2.DropDatasetRequest(key=key)
        reply = self._ask(self._stub.DropDataset, "DropDataset", request)
        return reply.key, reply.freed_bytes

    def close(self, *, abandoned: bool = False) -> None:
        """Ends all calls; `abandoned` is one whose daemon is gone, which is what calls tell."""
        self._closed = True
        self._abandoned = abandoned
        with GRPC.calling():
            self._channel.close()

    def _translated(self, error: grpc.RpcError) -> FaucetError:
        """What a failed call means here."""
        if self._abandoned:
            return DaemonLost(f"the daemon at {self._address} went away")
        if self._closed:
            return IteratorError("the client was closed, and this iterator with it")
        return translated(error, self._address)

    def _ask(self, method: Any, name: str, request: Any, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        try:
            with GRPC.calling():
                # By a future, whose result is waited for where a fork does no harm (forks.py).
                call = method.future(request, metadata=self._token(name), timeout=timeout_s)
                return call.result()
        except grpc.RpcError as error:
            raise self._translated(error) from None

    def _token(self, method: str) -> tuple[tuple[str, str], ...]:
        number = next(self._numbers)
        mac = hmac.digest(self._secret, f"{method}.{number}".encode(), "sha256").hex()
        return (("faucet-session", f"{self._session_id}.{number}.{mac}"),)


def _each(messages: Iterator[_Message]) -> Iterator[_Message]:
    """What a call answers; outside the gate while the caller is busy with it."""
    while True:
        with GRPC.calling():
            message = next(messages, None)
        if message is None:
            return
        yield message


def translated(error: grpc.RpcError, address: Address) -> FaucetError:
    """The daemon's own error where it sent one, else what gRPC's code means here."""
    call = cast("grpc.Call", error)
    for name, value in call.trailing_metadata() or ():
        if name == "faucet-error-bin":
            detail = handoff_pb2.Error.FromString(cast("bytes", value))
            return from_code(detail.code, detail.message)
    code = call.code()
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return DaemonLost(
            f"the daemon at {address} went away ({call.details()}); batches that were "
            "handed out stay valid. Start it again with `faucetd serve`"
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DaemonUnreachable(f"the daemon at {address} did not answer in time")
    return DaemonError(f"the daemon at {address} answered {code}: {call.details()}")
