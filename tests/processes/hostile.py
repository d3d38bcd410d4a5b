"""Clients that keep to no rule: they speak the protocol themselves, as badly as they like."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from faucet_protos.v1 import conduit_pb2, faucet_pb2, faucet_pb2_grpc, handoff_pb2

from faucet_client._version import PROTOCOL_VERSION
from faucet_client.address import parse_address
from faucet_client.dataset import Dataset
from faucet_client.session import Session
from faucet_client.wire.values import Grant, ReaderRequest
from tests.processes.daemons import WatchedDaemon

ANSWER_S = 5.0

Metadata = tuple[tuple[str, str], ...]


class RawHandoff:
    """A connection to the handoff socket that says whatever it is told to."""

    def __init__(self, daemon: WatchedDaemon) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.sock.connect(parse_address(daemon.address).handoff_path)
        except OSError:
            self.sock.close()
            raise
        self.sock.settimeout(ANSWER_S)  # not before: it would not wait for its place in the queue

    def say(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        socket.send_fds(self.sock, [data], list(fds))

    def ask(self, **request: Any) -> handoff_pb2.HandoffReply:
        """A request by its name, as in `ask(hello=Hello(...))`, and the answer."""
        self.say(handoff_pb2.HandoffRequest(**request).SerializeToString())
        return self.answer()

    def answer(self) -> handoff_pb2.HandoffReply:
        """The next reply. An empty one says that the connection was closed."""
        try:
            return handoff_pb2.HandoffReply.FromString(self.sock.recv(64 * 1024))
        except ConnectionResetError:  # closed, with something of ours unread
            return handoff_pb2.HandoffReply()

    def hello(self, protocol_version: int = PROTOCOL_VERSION) -> handoff_pb2.HandoffReply:
        """Says hello; every supported kernel under test tells the daemon who we are."""
        hello = handoff_pb2.Hello(protocol_version=protocol_version, client_version="9.9.9")
        return self.ask(hello=hello)

    def is_closed(self) -> bool:
        """Waits until the daemon has closed the connection."""
        return self.answer() == handoff_pb2.HandoffReply()

    def close(self) -> None:
        self.sock.close()


@contextmanager
def raw_handoff(daemon: WatchedDaemon) -> Iterator[RawHandoff]:
    """A raw connection for a block."""
    raw = RawHandoff(daemon)
    try:
        yield raw
    finally:
        raw.close()


@contextmanager
def raw_stub(daemon: WatchedDaemon) -> Iterator[faucet_pb2_grpc.FaucetStub]:
    """The bare service."""
    with grpc.insecure_channel(parse_address(daemon.address).grpc_target) as channel:
        yield faucet_pb2_grpc.FaucetStub(channel)


def status_call(stub: faucet_pb2_grpc.FaucetStub, metadata: Metadata | None) -> faucet_pb2.Status:
    """GetStatus with any metadata."""
    reply: faucet_pb2.Status = stub.GetStatus(
        faucet_pb2.GetStatusRequest(), metadata=metadata, timeout=ANSWER_S
    )
    return reply


def token_of(session: Session, method: str) -> Metadata:
    """A token that this session would use, as one who listens to its RPCs would see it."""
    return session.channel._token(method)


def reader_request(dataset: Dataset, job: str, **changes: Any) -> ReaderRequest:
    """A reader of one epoch of all rows, but for the changes."""
    fields: dict[str, Any] = {
        "dataset_key": dataset.info.key,
        "split": "train",
        "job": job,
        "rank": 0,
        "worker": 0,
        "first_epoch": 0,
        "epochs": 1,
        "part": 0,
        "parts": 1,
        "stripe_rows": 100,
        "shuffle": "batches",
        "seed": 0,
        "credits": 3,
    }
    return ReaderRequest(**fields | changes)


class RawReader:
    """A reader without the client's care: holds its grants until it is told otherwise."""

    def __init__(self, session: Session, dataset: Dataset, job: str, **changes: Any) -> None:
        self.started, self.conduit = session.read(reader_request(dataset, job, **changes))
        self._grants = iter(self.conduit)
        self._fds: list[int] = []

    def grant(self) -> tuple[Grant, int]:
        """The next grant, and a descriptor of its memory, which stays the reader's."""
        grant, fd = next(self._grants)
        self._fds.append(fd)
        return grant, fd

    def say(self, *messages: conduit_pb2.ReaderMessage | bytes) -> None:
        """Sends whatever it is given."""
        for message in messages:
            raw = message if isinstance(message, bytes) else message.SerializeToString()
            self.conduit._sock.send(raw)

    def end(self) -> None:
        """Ends the conduit, and reads what is left of it. Leases stay."""
        self.conduit.finish()
        self._fds.extend(fd for _, fd in self._grants)
        while self._fds:
            os.close(self._fds.pop())


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def mprotect_shared(fd: int, nbytes: int, first: int, then: int) -> None:
    """Maps `fd` shared with protection `first`, and asks for protection `then`.

    Raises:
        OSError: the kernel refuses the one or the other.
    """
    map_shared = 1
    address = _libc.mmap(None, nbytes, first, map_shared, fd, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise _os_error()
    try:
        if _libc.mprotect(address, nbytes, then):
            raise _os_error()
    finally:
        _libc.munmap(address, nbytes)


def _os_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


@contextmanager
def as_user(uid: int) -> Iterator[None]:
    """What is connected within is connected by user and group `uid`; only root can do this."""
    groups, gid = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)
