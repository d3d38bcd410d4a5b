"""Messages with file descriptors between the daemon and a worker, over one SEQPACKET socket.

A packet is one message. One that would not fit a packet travels as a memfd beside a short packet
that says so, so that a plan of 10,000 chunks needs no framing of its own.
"""

from __future__ import annotations

import array
import os
import socket
from typing import Any, cast

import msgspec

from faucetd.worker.messages import FromWorker, ToWorker

_MAX_PACKET = 64 * 1024
_MAX_FDS = 16
_IN_MEMFD = b"\x00"

_decoders: dict[Any, msgspec.json.Decoder[Any]] = {
    side: msgspec.json.Decoder(side) for side in (ToWorker, FromWorker)
}


def make_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a new connection."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(sock: socket.socket, message: ToWorker | FromWorker, fds: tuple[int, ...] = ()) -> None:
    """Sends one message and duplicates of `fds`; the caller keeps its own."""
    data = msgspec.json.encode(message)
    if len(data) <= _MAX_PACKET:
        socket.send_fds(sock, [data], list(fds))
        return
    carrier = os.memfd_create("faucet-message", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(carrier), "wb") as file:
            file.write(data)
        socket.send_fds(sock, [_IN_MEMFD], [carrier, *fds])
    finally:
        os.close(carrier)


def receive_from_worker(sock: socket.socket) -> tuple[FromWorker, list[int]] | None:
    """One message and its descriptors, which the caller must close; None at the end.

    Raises:
        BlockingIOError: nothing is there yet, on a socket that does not block.
        msgspec.ValidationError: the message is none.
    """
    return cast("tuple[FromWorker, list[int]] | None", _receive(sock, FromWorker))


def receive_from_daemon(sock: socket.socket) -> ToWorker | None:
    """One message; None once the daemon is gone."""
    received = _receive(sock, ToWorker)
    return None if received is None else cast("ToWorker", received[0])


def _receive(sock: socket.socket, side: Any) -> tuple[Any, list[int]] | None:
    item = array.array("i").itemsize
    wanted = _MAX_PACKET + 1, socket.CMSG_SPACE(_MAX_FDS * item), socket.MSG_CMSG_CLOEXEC
    try:
        data, ancillary, _, _ = sock.recvmsg(*wanted)
    except ConnectionResetError:
        # The other side died and left packets of ours unread. The kernel says so once; then come
        # the packets that it had sent, and the end.
        data, ancillary, _, _ = sock.recvmsg(*wanted)
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(payload[: len(payload) // item * item])
    received = list(fds)
    try:
        if not data:
            return None
        if data == _IN_MEMFD:
            carrier = received.pop(0)
            with os.fdopen(carrier, "rb") as file:
                file.seek(0)
                data = file.read()
        return _decoders[side].decode(data), received
    except BaseException:
        for fd in received:
            os.close(fd)
        raise
