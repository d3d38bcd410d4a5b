"""A reader's conduit: its own connection, down which the daemon pushes grants with their memory.

A chunk costs the trainer's process one packet each way and one wake-up of the feed's thread.

Invariants:

- One thread iterates. Any may send, and end the conduit, finalizers included: nothing takes a lock.
- What was sent to us is ours: each grant that iterating gives, `rest()` included, comes with a
  descriptor to close and a lease to release.
- The descriptor of the connection is closed when nobody has the conduit any more. Until then it is
  only shut down, or a thread that sends could hit another file of the same number.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import weakref
from collections.abc import Iterator

from faucet_protos.v1 import conduit_pb2, handoff_pb2
from google.protobuf.message import DecodeError

from faucet_client.address import Address
from faucet_client.errors import DaemonError, FaucetError, from_code
from faucet_client.wire.handoff import (
    SEND_TIMEOUT_S,
    connected,
    daemon_lost,
    received,
    set_timeout,
)
from faucet_client.wire.translate import grant_from
from faucet_client.wire.values import Grant, Told


class _End:
    """Whether this side has ended a conduit, and why."""

    def __init__(self) -> None:
        self.wanted = True
        self.reason: FaucetError | None = None
        self.pid = os.getpid()


def _close(sock: socket.socket, end: _End) -> None:
    """Nobody has the conduit any more."""
    end.wanted = False
    if os.getpid() == end.pid:  # else it is a forked copy, and the parent goes on with its own
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
    sock.close()


_open: weakref.WeakSet[Conduit] = weakref.WeakSet()


@atexit.register
def _leave_open() -> None:
    """The interpreter ends: descriptors go with the process.

    Whoever waits for grants is left waiting: it would wake up in an interpreter that is not there.
    """
    for conduit in tuple(_open):
        conduit.detach()


class Conduit:
    """The client's end. Iterating waits for the daemon; sending hardly ever does."""

    def __init__(self, address: Address, ticket: bytes) -> None:
        """Connects, and attaches the reader that the ticket is for.

        Raises:
            DaemonUnreachable: the daemon is gone.
            DaemonLost: it does not hear us.
        """
        self._address = address
        self._end = _End()
        self._sock = connected(address)
        weakref.finalize(self, _close, self._sock, self._end).atexit = False
        _open.add(self)
        set_timeout(self._sock, SEND_TIMEOUT_S)
        # Grants may be as long in coming as the source is in giving rows.
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, bytes(16))
        attach = handoff_pb2.HandoffRequest(attach=handoff_pb2.AttachReader(ticket=ticket))
        try:
            self._sock.send(attach.SerializeToString())
        except OSError as error:
            raise daemon_lost(address, error) from None

    def __iter__(self) -> Iterator[tuple[Grant, int]]:
        """Grants and the descriptors of their memory, until the conduit ends.

        Raises:
            FaucetError: the reader cannot go on, or the daemon went away.
        """
        yield from self._grants()
        if self._end.reason is not None:
            raise self._end.reason
        if self._end.wanted:
            raise daemon_lost(self._address, ConnectionResetError("it closed the connection"))

    def rest(self) -> Iterator[tuple[Grant, int]]:
        """Ends the conduit, and gives what the daemon had sent on it already."""
        self.cancel()
        with contextlib.suppress(FaucetError):  # whoever iterated has had its say
            yield from self._grants()

    def credit(self, grants: int, told: Told) -> None:
        """Takes further grants, and tells how far the reader is."""
        credit = conduit_pb2.Credit(
            grants=grants,
            rows_consumed=told.rows_consumed,
            seconds_waited=told.seconds_waited,
            position_epochs=told.position_epochs,
        )
        self._send(conduit_pb2.ReaderMessage(credit=credit))

    def advance(self, epoch: int) -> None:
        """Gives up what has not come yet of the epochs before `epoch`."""
        self._send(conduit_pb2.ReaderMessage(advance=conduit_pb2.AdvanceEpoch(epoch=epoch)))

    def finish(self) -> None:
        """Wants no more grants; the daemon ends the conduit when it has heard it. Idempotent."""
        self._end.wanted = False
        self._shut(socket.SHUT_WR)

    def cancel(self, reason: FaucetError | None = None) -> None:
        """Ends the conduit at once; what was sent can still be read. Idempotent.

        Args:
            reason: What iterating raises at the end, but for what came before it.
        """
        self._end.wanted = False
        if self._end.reason is None:
            self._end.reason = reason
        self._shut(socket.SHUT_RDWR)

    def detach(self) -> None:
        """Forgets the connection, which stays open."""
        self._sock.detach()

    def _shut(self, how: int) -> None:
        with contextlib.suppress(OSError):  # it is at its end already
            self._sock.shutdown(how)

    def _send(self, message: conduit_pb2.ReaderMessage) -> None:
        try:
            self._sock.send(message.SerializeToString())
        except BlockingIOError:
            # The daemon has not listened for so long that it is lost, which whoever iterates tells.
            self._shut(socket.SHUT_RDWR)
        except OSError:
            pass  # the conduit is at its end, which whoever iterates tells, and why

    def _grants(self) -> Iterator[tuple[Grant, int]]:
        while True:
            try:
                data, fds = received(self._sock)
            except ConnectionResetError:
                continue  # the daemon has ended it without hearing all; what it sent comes next
            except OSError as error:
                raise daemon_lost(self._address, error) from None
            if not data:
                return
            message = self._message(data, fds)
            kind = message.WhichOneof("message")
            if kind == "grant" and len(fds) == 1:
                yield grant_from(message.grant), fds[0]
                continue
            for fd in fds:
                os.close(fd)
            if kind == "error":
                raise from_code(message.error.code, message.error.message)
            raise DaemonError(f"the daemon sent {kind or 'nothing'} with {len(fds)} descriptors")

    def _message(self, data: bytes, fds: list[int]) -> conduit_pb2.DaemonMessage:
        """What a packet says, or the memory beside it, whose descriptor is taken off `fds`."""
        try:
            message = conduit_pb2.DaemonMessage.FromString(data)
            if message.beside and fds:
                with os.fdopen(fds.pop(), "rb") as memory:
                    memory.seek(0)
                    message = conduit_pb2.DaemonMessage.FromString(memory.read())
        except (DecodeError, OSError) as error:
            for fd in fds:
                os.close(fd)
            raise DaemonError(f"what the daemon sent cannot be read: {error}") from None
        return message
