"""The daemon's end of a reader's conduit (protos/faucet/v1/conduit.proto).

Everything happens on the event loop; nothing blocks. What the client does not take yet stays in the
reader's outbox, which its credits bound.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable

from faucet_protos.v1 import conduit_pb2
from google.protobuf.message import DecodeError

from faucet_client._memory import create_memfd
from faucetd.errors import FaucetError
from faucetd.serve import reading, translate
from faucetd.serve.backend import Granted, ReaderStream

_log = logging.getLogger(__name__)

MAX_PACKET_NBYTES = 32 * 1024
"""What goes into one packet; a socket's buffer takes several. A larger message, of a segment with
very many columns or a reader with very many ranges, goes into memory beside it."""


class Conduit:
    """One reader's conduit."""

    def __init__(
        self, sock: socket.socket, stream: ReaderStream, closed: Callable[[Conduit], None]
    ) -> None:
        """Takes over the socket, and grants from now on.

        Args:
            sock: Connected, and not blocking.
            stream: The reader's.
            closed: Called once, when the conduit is over.
        """
        self.stream = stream
        self._sock = sock
        self._closed = closed
        self._open = True
        self._full = False  # the socket; the loop says when it takes more
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock.fileno(), self._on_packet)
        stream.attach(self._send_all)
        self._send_all()

    def close(self) -> None:
        """Ends the conduit, whoever wants it. Idempotent."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._closed(self)
        self.stream.close()

    def _send_all(self) -> None:
        """Sends what is in the outbox, as far as the socket takes it.

        It is called in the midst of what the scheduler has decided, so it ends the conduit later.
        """
        outbox = self.stream.outbox
        while self._open and outbox and not self._full:
            message = outbox[0]
            try:
                self._send(message)
            except BlockingIOError:
                self._full = True
                self._loop.add_writer(self._sock.fileno(), self._on_room)
                return
            except OSError as error:
                _log.info("a reader's conduit broke: %s", error)
                self._loop.call_soon(self.close)
                return
            outbox.popleft()
            if isinstance(message, FaucetError):  # nothing comes after it
                self._loop.call_soon(self.close)
                return

    def _send(self, message: Granted | FaucetError) -> None:
        data = translate.conduit_message_to(message).SerializeToString()
        fds = [] if isinstance(message, FaucetError) else [message.fd]
        if len(data) <= MAX_PACKET_NBYTES:
            socket.send_fds(self._sock, [data], fds)
            return
        beside = create_memfd("faucet-grant", 0)
        try:
            with os.fdopen(os.dup(beside), "wb") as memory:
                memory.write(data)
            told = conduit_pb2.DaemonMessage(beside=True)
            socket.send_fds(self._sock, [told.SerializeToString()], [*fds, beside])
        finally:
            os.close(beside)

    def _on_room(self) -> None:
        self._full = False
        self._loop.remove_writer(self._sock.fileno())
        self._send_all()

    def _on_packet(self) -> None:
        try:
            data = self._sock.recv(MAX_PACKET_NBYTES)
            if not data:
                self.close()
                return
            message = conduit_pb2.ReaderMessage.FromString(data)
        except BlockingIOError:
            return
        except (OSError, DecodeError) as error:
            _log.info("a reader's conduit is closed: %s", error)
            self.close()
            return
        match message.WhichOneof("message"):
            case "credit":
                credit = message.credit
                grants = min(credit.grants, reading.MAX_CREDITS)
                self.stream.credit(grants, reading.told_from(credit))
            case "advance":
                self.stream.advance(message.advance.epoch)
            case other:
                _log.warning("a reader sent %s; its conduit is closed", other)
                self.close()
