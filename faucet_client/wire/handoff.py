"""The session's connection to the handoff socket, and what conduits have in common with it.

Once the daemon has answered the hello, everything goes one way: leases that end, and a goodbye.
A packet is sent whole or not at all, so senders need no lock.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterable, Mapping

from faucet_protos.v1 import handoff_pb2
from google.protobuf.message import DecodeError

from faucet_client._version import PROTOCOL_VERSION, __version__
from faucet_client.address import Address, why_unreachable
from faucet_client.errors import (
    DaemonError,
    DaemonLost,
    DaemonUnreachable,
    from_code,
)

CONNECT_TIMEOUT_S = 5
SEND_TIMEOUT_S = 30
MAX_PACKET_NBYTES = 64 * 1024
MAPPED_A_PACKET = 2_000  # of up to 24 bytes each

_SO_PEERPIDFD = 77  # asm-generic/socket.h, Linux 6.5
_MAX_DESCRIPTORS = 4


class Handoff:
    """The connection that proves who we are. Safe to use from any thread, and from finalizers."""

    def __init__(self, address: Address) -> None:
        """Connects and says hello.

        Raises:
            DaemonUnreachable: nobody listens at the address, or nobody answers.
            VersionMismatch: the daemon speaks another protocol.
            AccessDenied: this user may not connect.
        """
        self._address = address
        self._broken = False
        self._sock = connected(address)
        try:
            hello = handoff_pb2.Hello(protocol_version=PROTOCOL_VERSION, client_version=__version__)
            try:
                reply = self._ask(handoff_pb2.HandoffRequest(hello=hello))
            except DaemonLost as error:
                raise DaemonUnreachable(
                    f"the daemon at {address} accepts connections but does not answer ({error}); "
                    "see its log, and restart it"
                ) from None
        except BaseException:
            self._sock.close()
            raise
        set_timeout(self._sock, SEND_TIMEOUT_S)
        self.session_id: str = reply.welcome.session_id
        self.secret: bytes = reply.welcome.secret
        self.daemon_version: str = reply.welcome.daemon_version

    def release(self, lease: int, *, wait: bool) -> bool:
        """Ends a lease, and says whether this was done.

        Args:
            lease: Its number.
            wait: Whether to wait while the daemon is too busy to hear of it.

        Raises:
            DaemonLost: the daemon went away, and the lease with it.
        """
        leases = handoff_pb2.ReleaseLeases(leases=(lease,))
        request = handoff_pb2.HandoffRequest(release=leases)
        try:
            self._send(request, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError as error:
            if wait:
                raise self._lost(error) from None
            return False
        return True

    def orphaned(self, held: Mapping[int, int], released: Iterable[int]) -> None:
        """Tells what this process still maps of the memory of daemons before this one.

        Args:
            held: What there is beside what was told before: inodes, and their bytes.
            released: Inodes that are not mapped any more.

        Raises:
            DaemonLost: the daemon went away.
        """
        mapped = [handoff_pb2.Mapped(inode=inode, nbytes=size) for inode, size in held.items()]
        messages = [
            handoff_pb2.OrphanedMemory(held=mapped[first : first + MAPPED_A_PACKET])
            for first in range(0, len(mapped), MAPPED_A_PACKET)
        ]
        messages.append(handoff_pb2.OrphanedMemory(released=released))
        try:
            for message in messages:
                self._send(handoff_pb2.HandoffRequest(orphaned=message), 0)
        except BlockingIOError as error:
            raise self._lost(error) from None

    def alive(self) -> bool:
        """Whether the daemon holds its end of the connection."""
        if self._broken:
            return False
        try:
            return self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def goodbye(self) -> None:
        """Ends the session as soon as nothing of it is left, and closes the connection."""
        # Where this fails, the session has ended already, or ends with this process.
        with contextlib.suppress(DaemonLost, BlockingIOError):
            self._send(handoff_pb2.HandoffRequest(goodbye=handoff_pb2.Goodbye()), 0)
        self._broken = True
        self._sock.close()

    def _ask(self, request: handoff_pb2.HandoffRequest) -> handoff_pb2.HandoffReply:
        pidfds = self._own_pidfd()
        try:
            socket.send_fds(self._sock, [request.SerializeToString()], pidfds)
            data, fds = received(self._sock)
        except OSError as error:
            raise self._lost(error) from None
        finally:
            for fd in pidfds:
                os.close(fd)
        for fd in fds:  # nobody should have sent any
            os.close(fd)
        if not data:
            raise self._lost(ConnectionResetError("it closed the connection"))
        try:
            reply = handoff_pb2.HandoffReply.FromString(data)
        except DecodeError:
            raise DaemonError(
                f"what listens at {self._address.handoff_path} is no faucetd that answers: its "
                "reply cannot be read"
            ) from None
        if reply.WhichOneof("reply") == "error":
            raise from_code(reply.error.code, reply.error.message)
        return reply

    def _send(self, request: handoff_pb2.HandoffRequest, flags: int) -> None:
        try:
            self._sock.send(request.SerializeToString(), flags)
        except BlockingIOError:
            raise
        except OSError as error:
            raise self._lost(error) from None

    def _lost(self, error: OSError) -> DaemonLost:
        self._broken = True
        return daemon_lost(self._address, error)

    def _own_pidfd(self) -> list[int]:
        """A pidfd of this process, where the kernel does not give the daemon one by itself."""
        try:
            os.close(self._sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD))
        except OSError:
            return [os.pidfd_open(os.getpid())]
        return []


def connected(address: Address) -> socket.socket:
    """A connection to the handoff socket, on which calls wait for CONNECT_TIMEOUT_S at most.

    Raises:
        DaemonUnreachable: nobody listens at the address.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        set_timeout(sock, CONNECT_TIMEOUT_S)
        sock.connect(address.handoff_path)
    except OSError:
        sock.close()
        raise DaemonUnreachable(why_unreachable(address)) from None
    return sock


def set_timeout(sock: socket.socket, timeout_s: int) -> None:
    """Has calls on `sock` raise BlockingIOError after so long; 0 for never.

    Not by settimeout(): Python would wait in poll() before each call, one more time to let go of
    the interpreter's lock and to wait for it.
    """
    timeout = struct.pack("ll", timeout_s, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)


def received(sock: socket.socket) -> tuple[bytes, list[int]]:
    """A packet, empty at the end, and the descriptors beside it, which are the caller's.

    Raises:
        OSError: the connection broke.
    """
    data, fds, _, _ = socket.recv_fds(
        sock, MAX_PACKET_NBYTES, _MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
    )
    return data, fds


def daemon_lost(address: Address, error: OSError) -> DaemonLost:
    """What an error of a connection to the daemon means."""
    if isinstance(error, BlockingIOError):
        return DaemonLost(
            f"the daemon at {address} did not answer in time; see its log. Batches that were "
            "handed out stay valid"
        )
    return DaemonLost(
        f"the daemon at {address} went away ({error}); batches that were handed out stay valid. "
        "Start it again with `faucetd serve`"
    )
