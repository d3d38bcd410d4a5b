"""The handoff socket: peer credentials, session secrets, ended leases, and readers' conduits.

Everything happens on the event loop; nothing blocks. A connection that has not said hello within
HELLO_TIMEOUT_S is closed, and when too many wait to say it, the oldest goes: idle connections
cannot keep a real client out.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import secrets
import socket
import struct
from collections.abc import Callable

from faucet_protos.v1 import handoff_pb2
from google.protobuf.message import DecodeError

from faucet_client._version import PROTOCOL_VERSION, __version__
from faucetd.errors import AccessDenied, FaucetError, VersionMismatch
from faucetd.serve import translate
from faucetd.serve.backend import Backend, ReaderStream
from faucetd.serve.conduit import Conduit
from faucetd.serve.sessions import Session, SessionTable, pidfd_names

_log = logging.getLogger(__name__)

HELLO_TIMEOUT_S = 5.0
MAX_STRANGERS = 64
"""Connections that have not said hello yet."""

ATTACH_S = 5.0
"""How long a reader that was started may be in attaching its conduit."""

MAX_PACKET = 64 * 1024

# asm-generic/socket.h; Python 3.13 and older have no name for it. Linux 6.5.
_SO_PEERPIDFD = 77


class _Connection:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.session: Session | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.credentials: tuple[int, int] = (0, 0)


class HandoffServer:
    """Serves one listening SOCK_SEQPACKET socket."""

    def __init__(
        self,
        listener: socket.socket,
        sessions: SessionTable,
        backend: Backend,
        may_connect: Callable[[int], bool],
    ) -> None:
        self._listener = listener
        self._sessions = sessions
        self._backend = backend
        self._may_connect = may_connect
        self._strangers: dict[_Connection, None] = {}  # in the order in which they came
        self._connections: set[_Connection] = set()
        self._pidfds: dict[int, Session] = {}
        self._expected: dict[bytes, tuple[ReaderStream, asyncio.TimerHandle]] = {}  # by ticket
        self._conduits: set[Conduit] = set()

    def start(self) -> None:
        """Accepts from now on."""
        self._listener.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._on_connect)

    def stop(self) -> None:
        """Closes everything that this server holds."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener.fileno())
        self._listener.close()
        for ticket in list(self._expected):
            self._give_up(ticket)
        for conduit in list(self._conduits):
            conduit.close()
        for connection in list(self._connections):
            self._close(connection)
        for pidfd in list(self._pidfds):
            self._forget_pidfd(pidfd)

    def expect(self, stream: ReaderStream) -> bytes:
        """A ticket with which its client attaches the reader's conduit, or the reader ends."""
        ticket = secrets.token_bytes(16)
        timer = asyncio.get_running_loop().call_later(ATTACH_S, self._give_up, ticket)
        self._expected[ticket] = stream, timer
        return ticket

    def _give_up(self, ticket: bytes) -> None:
        stream, timer = self._expected.pop(ticket)
        timer.cancel()
        stream.close()

    def _on_connect(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE) and self._strangers:
                    self._close(next(iter(self._strangers)))
                    continue
                _log.error("cannot accept on the handoff socket: %s", error)
                return
            sock.setblocking(False)
            connection = _Connection(sock)
            loop = asyncio.get_running_loop()
            connection.timer = loop.call_later(HELLO_TIMEOUT_S, self._close, connection)
            self._strangers[connection] = None
            self._connections.add(connection)
            loop.add_reader(sock.fileno(), self._on_packet, connection)
            if len(self._strangers) > MAX_STRANGERS:
                self._close(next(iter(self._strangers)))

    def _on_packet(self, connection: _Connection) -> None:
        try:
            data, fds = _receive(connection.sock)
        except BlockingIOError:
            return
        except OSError as error:
            _log.warning("a handoff connection is closed: %s", error)
            self._close(connection)
            return
        try:
            if not data:
                self._close(connection)
                return
            request = handoff_pb2.HandoffRequest.FromString(data)
            self._answer(connection, request, fds)
        except FaucetError as error:
            self._reply_error(connection, error)
            if connection.session is None:
                self._close(connection)
        except (OSError, DecodeError) as error:  # it does not read its replies, or sends garbage
            _log.warning("a handoff connection is closed: %s", error)
            self._close(connection)
        finally:
            for fd in fds:
                os.close(fd)

    def _answer(
        self, connection: _Connection, request: handoff_pb2.HandoffRequest, fds: list[int]
    ) -> None:
        kind = request.WhichOneof("request")
        session = connection.session
        if session is None:
            if kind == "attach":
                self._attach(connection, request.attach.ticket)
                return
            if kind != "hello":
                raise AccessDenied("the first message of a connection must be hello or attach")
            self._greet(connection, request.hello, fds)
        elif kind == "release":
            self._backend.release(session, tuple(request.release.leases))
        elif kind == "orphaned":
            held = {each.inode: each.nbytes for each in request.orphaned.held}
            self._backend.orphaned(session, held, tuple(request.orphaned.released))
        elif kind == "goodbye":
            self._close(connection)
        else:
            raise AccessDenied(f"a connection in use cannot send {kind or 'an unknown message'}")

    def _greet(self, connection: _Connection, hello: handoff_pb2.Hello, fds: list[int]) -> None:
        pid, uid = _peer(connection.sock)
        if not self._may_connect(uid):
            raise AccessDenied(
                f"user {uid} may not use this daemon; its settings name who may: allowed_uids"
            )
        if hello.protocol_version != PROTOCOL_VERSION:
            raise VersionMismatch(
                f"the client (faucetml {hello.client_version}) speaks protocol "
                f"{hello.protocol_version}, the daemon (faucetml {__version__}) protocol "
                f"{PROTOCOL_VERSION}; install the same version on both sides"
            )
        pidfd = _peer_pidfd(connection.sock, pid, fds)
        session = Session(pid=pid, uid=uid)
        try:
            self._sessions.add(session)
        except AccessDenied:
            os.close(pidfd)
            raise
        connection.session = session
        self._settle(connection)
        self._pidfds[pidfd] = session
        asyncio.get_running_loop().add_reader(pidfd, self._on_death, pidfd)
        welcome = handoff_pb2.Welcome(
            protocol_version=PROTOCOL_VERSION,
            daemon_version=__version__,
            session_id=session.id,
            secret=session.secret,
        )
        connection.sock.send(handoff_pb2.HandoffReply(welcome=welcome).SerializeToString())

    def _attach(self, connection: _Connection, ticket: bytes) -> None:
        """Hands the connection over to the reader's conduit."""
        stream, timer = self._expected.get(ticket, (None, None))
        if stream is None or timer is None or _peer(connection.sock)[0] != stream.session.pid:
            raise AccessDenied(
                "the ticket is not one of a reader of this process that waits for it"
            )
        del self._expected[ticket]
        timer.cancel()
        self._connections.remove(connection)
        self._settle(connection)
        asyncio.get_running_loop().remove_reader(connection.sock.fileno())
        self._conduits.add(Conduit(connection.sock, stream, self._conduits.discard))

    def _on_death(self, pidfd: int) -> None:
        session = self._pidfds[pidfd]
        self._forget_pidfd(pidfd)
        self._sessions.remove(session)
        for connection in [c for c in self._connections if c.session is session]:
            connection.session = None
            self._close(connection)
        for ticket in [t for t, (stream, _) in self._expected.items() if stream.session is session]:
            self._give_up(ticket)
        for conduit in [conduit for conduit in self._conduits if conduit.stream.session is session]:
            conduit.close()
        self._backend.session_died(session)

    def forget(self, session: Session) -> None:
        """The session has ended while its process lives: nothing of it is left to watch."""
        self._sessions.remove(session)
        for pidfd in [pidfd for pidfd, other in self._pidfds.items() if other is session]:
            self._forget_pidfd(pidfd)

    def _forget_pidfd(self, pidfd: int) -> None:
        asyncio.get_running_loop().remove_reader(pidfd)
        del self._pidfds[pidfd]
        os.close(pidfd)

    def _reply_error(self, connection: _Connection, error: FaucetError) -> None:
        reply = handoff_pb2.HandoffReply(error=translate.error_to(error))
        with contextlib.suppress(OSError):  # it has gone, or does not read: it will not miss this
            connection.sock.send(reply.SerializeToString())

    def _settle(self, connection: _Connection) -> None:
        self._strangers.pop(connection, None)
        if connection.timer is not None:
            connection.timer.cancel()

    def _close(self, connection: _Connection) -> None:
        if connection not in self._connections:
            return
        self._connections.remove(connection)
        self._settle(connection)
        asyncio.get_running_loop().remove_reader(connection.sock.fileno())
        connection.sock.close()
        session, connection.session = connection.session, None
        if session is not None and not session.said_goodbye:
            session.said_goodbye = True
            self._backend.session_quiet(session)


def _peer(sock: socket.socket) -> tuple[int, int]:
    """The process and the user of the peer, as they were when it connected."""
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid


def _receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    data, fds, flags, _ = socket.recv_fds(sock, MAX_PACKET, 4, socket.MSG_CMSG_CLOEXEC)
    if flags & socket.MSG_TRUNC:
        for fd in fds:
            os.close(fd)
        raise OSError(errno.EMSGSIZE, f"a packet of more than {MAX_PACKET} bytes")
    return data, fds


def _peer_pidfd(sock: socket.socket, pid: int, fds: list[int]) -> int:
    """A pidfd of the peer: from the kernel, else the one that it sent beside its hello.

    Raises:
        AccessDenied: there is none.
    """
    try:
        return sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        if error.errno not in (errno.ENOPROTOOPT, errno.EINVAL):
            raise AccessDenied(f"the peer's process is gone: {error}") from None
    if fds and pidfd_names(fds[0], pid):
        return fds.pop(0)
    raise AccessDenied(
        "this kernel (older than Linux 6.5) does not tell the peer's process; hello must carry a "
        "pidfd of it"
    )
