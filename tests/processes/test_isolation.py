"""What one process does cannot reach another, by accident or on purpose (shared/FAULTS.md)."""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import math
import mmap
import os
import resource
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np
import pytest
import torch
from faucet_protos.v1 import conduit_pb2, faucet_pb2, handoff_pb2

from faucet_client import (
    AccessDenied,
    DaemonError,
    DaemonUnreachable,
    FaucetClient,
    VersionMismatch,
)
from faucet_client._memory import page_rounded
from faucet_client._version import PROTOCOL_VERSION, __version__
from faucet_client.address import Address, parse_address
from faucet_client.session import Session
from faucet_client.wire.conduit import Conduit
from tests.processes.daemons import StartDaemon, WatchedDaemon, reader_of
from tests.processes.hostile import (
    RawHandoff,
    RawReader,
    as_user,
    mprotect_shared,
    raw_handoff,
    raw_stub,
    reader_request,
    status_call,
    token_of,
)
from tests.processes.leaks import descriptors
from tests.processes.rows import assert_exact, check, ids_of
from tests.processes.tables import MakeTable, Table
from tests.processes.trainers import StartTrainer
from tests.processes.waiting import Stopwatch, eventually, eventually_gone

BATCH = 500
NOBODY = 65534
root_only = pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")


@contextlib.contextmanager
def session_with(daemon: WatchedDaemon) -> Iterator[Session]:
    with Session.connect(parse_address(daemon.address)) as session:
        yield session


def serves(daemon: WatchedDaemon, table: Table) -> None:
    """A real client still gets every row."""
    ids = []
    with FaucetClient(daemon.address) as client:
        for batch in client.open(table.spec()).batches(batch_size=BATCH):
            check(batch)
            ids.append(ids_of(batch))
        del batch
    assert_exact(np.concatenate(ids), table.rows)


# Accidents.


def test_what_a_trainer_writes_into_its_batches_no_other_process_and_no_later_epoch_sees(
    daemon: WatchedDaemon, make_table: MakeTable, start_trainer: StartTrainer
) -> None:
    table = make_table()
    scribbler, peer = start_trainer(daemon, table), start_trainer(daemon, table)
    batches = scribbler.start(BATCH, epochs=2)
    peer.start(BATCH)
    peer.ask("read", count=5, keep=5)
    scribbler.ask("read", count=batches // 2, keep=10, scribble=True)
    # Both check every value of every batch; the scribbler's second epoch maps the same memory anew.
    assert scribbler.ask("read") == {"read": batches // 2}
    assert peer.ask("read") == {"read": table.rows // BATCH - 5}
    assert_exact(peer.ids(), table.rows)
    (dataset,) = daemon.client().status().datasets
    assert dataset.chunks_made == dataset.chunks  # nothing was made anew: it is the same memory


def test_an_in_place_operation_changes_the_batch_that_it_is_done_on_and_no_other(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    dataset = daemon.client().open(make_table().spec())
    first, second = (dataset.batches(batch_size=BATCH, shuffle="none") for _ in range(2))
    changed, other = next(first), next(second)
    before = other.features.clone()
    changed.features.add_(1)
    changed.labels["y"].zero_()
    assert torch.equal(changed.features, before + 1)
    assert torch.equal(other.features, before)
    check(other)


# Hostile use of memory.


def test_a_segment_can_be_neither_written_nor_resized_by_whoever_maps_it(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    table = make_table()
    dataset = daemon.client().open(table.spec())
    with session_with(daemon) as session:
        reader = RawReader(session, dataset, "hostile")
        _, fd = reader.grant()
        nbytes = os.fstat(fd).st_size
        before = os.pread(fd, nbytes, 0)
        attempts: dict[str, Callable[[], object]] = {
            "map it writable": lambda: mmap.mmap(fd, nbytes, mmap.MAP_SHARED, mmap.PROT_WRITE),
            "make a shared mapping writable": lambda: mprotect_shared(
                fd, nbytes, mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE
            ),
            "shrink it": lambda: os.ftruncate(fd, 0),
            "grow it": lambda: os.ftruncate(fd, 2 * nbytes),
            "write": lambda: os.pwrite(fd, b"x", 0),
            "append": lambda: os.pwrite(fd, b"x", nbytes),
            "allocate": lambda: os.posix_fallocate(fd, nbytes, 4096),
            "seal it anew": lambda: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL),
            "write by another name": lambda: Path(f"/proc/self/fd/{fd}").write_bytes(b"x"),
        }
        for what, attempt in attempts.items():
            with pytest.raises(OSError, match=r"not permitted|denied"):
                attempt()
                pytest.fail(f"a client could {what}")
        private = mmap.mmap(fd, nbytes, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        private[:] = bytes(nbytes)  # one's own copy may be changed
        private.close()
        assert os.pread(fd, nbytes, 0) == before
        reader.end()
    serves(daemon, table)


# Hostile use of tickets, tokens and leases.


def attach(daemon: WatchedDaemon, ticket: bytes) -> handoff_pb2.HandoffReply:
    """What the daemon answers to an attempt to attach a conduit; nothing, where it is attached."""
    with raw_handoff(daemon) as raw:
        raw.sock.settimeout(0.5)
        try:
            return raw.ask(attach=handoff_pb2.AttachReader(ticket=ticket))
        except TimeoutError:
            return handoff_pb2.HandoffReply()


def test_a_ticket_attaches_one_conduit_of_its_own_process_once(
    daemon: WatchedDaemon, make_table: MakeTable, start_trainer: StartTrainer
) -> None:
    table = make_table(rows=4_000)
    client = daemon.client()
    dataset = client.open(table.spec())
    request = reader_request(dataset, "victim")
    with session_with(daemon) as session:
        ticket = session.channel.start_reader(request).ticket
        near = bytes([ticket[0] ^ 1]) + ticket[1:]
        guesses = [secrets.token_bytes(16) for _ in range(300)]
        for guess in (*guesses, near, ticket[:8], ticket * 2, b"", bytes(16)):
            assert attach(daemon, guess).error.code == AccessDenied.code
        theft = [sys.executable, "-c", _THEFT, daemon.address, ticket.hex()]
        thief = subprocess.run(theft, capture_output=True, text=True, check=True, timeout=60)
        assert thief.stdout.strip() == AccessDenied.code
        conduit = Conduit(session.address, ticket)  # the right one works nevertheless
        grant, fd = next(iter(conduit))
        assert page_rounded(os.fstat(fd).st_size) == grant.layout.nbytes
        assert attach(daemon, ticket).error.code == AccessDenied.code
        with pytest.raises(AccessDenied, match="ticket"):  # and the client says so
            next(iter(Conduit(session.address, ticket)))
        for _, unwanted in (*conduit.rest(), (grant, fd)):
            os.close(unwanted)
    serves(daemon, table)
    eventually_gone(lambda: client.status().readers)


_THEFT = """
import socket, sys
from faucet_client.address import parse_address
from faucet_protos.v1 import handoff_pb2

with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
    sock.connect(parse_address(sys.argv[1]).handoff_path)
    attach = handoff_pb2.AttachReader(ticket=bytes.fromhex(sys.argv[2]))
    sock.send(handoff_pb2.HandoffRequest(attach=attach).SerializeToString())
    print(handoff_pb2.HandoffReply.FromString(sock.recv(65536)).error.code)
"""


def test_a_reader_whose_conduit_is_never_attached_ends(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    """And its name is free again."""
    client = daemon.client()
    dataset = client.open(make_table(rows=4_000).spec())
    with session_with(daemon) as session:
        session.channel.start_reader(reader_request(dataset, "idle"))
        assert reader_of(client.status(), "idle") is not None
        eventually_gone(lambda: client.status().readers)
        # What it was granted, and never told of, is nobody's any more.
        assert client.status().memory.leased_bytes == 0
        reader = RawReader(session, dataset, "idle")
        reader.grant()
        reader.end()


def test_a_forked_copy_of_a_conduit_ends_alone(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    dataset = daemon.client().open(make_table(rows=20_000).spec())
    with session_with(daemon) as session:
        reader = RawReader(session, dataset, "parent")
        child = os.fork()
        if child == 0:
            del reader
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        for _ in range(3):
            reader.grant()
        reader.say(conduit_pb2.ReaderMessage(credit=conduit_pb2.Credit(grants=1)))
        reader.grant()  # which nobody had sent when the child ended
        reader.end()


def test_a_lease_can_be_ended_by_its_own_session_alone(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    client = daemon.client()
    dataset = client.open(make_table().spec())
    with session_with(daemon) as victim, session_with(daemon) as thief:
        reader = RawReader(victim, dataset, "victim")
        grants = [reader.grant()[0] for _ in range(3)]
        leased = client.status().memory.leased_bytes
        own = RawReader(thief, dataset, "thief")
        own.grant()
        theirs = [grant.lease for grant in grants]
        reply = RawHandoffOf(thief).ask_release([*theirs, 10**6, 2**64 - 1, 0])
        assert reply.error.code == AccessDenied.code
        eventually(lambda: reader_of(client.status(), "victim"))
        held = reader_of(client.status(), "victim")
        assert held is not None
        assert held.leased_bytes == sum(grant.layout.nbytes for grant in grants) <= leased
        own.end()
        reader.end()


class RawHandoffOf:
    """The connection of a real session, to say on it what its owner would not."""

    def __init__(self, session: Session) -> None:
        self._sock = session.handoff._sock

    def ask_release(self, leases: list[int]) -> handoff_pb2.HandoffReply:
        message = handoff_pb2.HandoffRequest(release=handoff_pb2.ReleaseLeases(leases=leases))
        self._sock.send(message.SerializeToString())
        return handoff_pb2.HandoffReply.FromString(self._sock.recv(64 * 1024))


def test_a_token_serves_one_call_of_one_method_and_no_forged_one_does(
    daemon: WatchedDaemon,
) -> None:
    def refused(metadata: tuple[tuple[str, str], ...] | None) -> str:
        with pytest.raises(grpc.RpcError) as caught:
            status_call(stub, metadata)
        call = cast("grpc.Call", caught.value)
        assert call.code() is grpc.StatusCode.UNAUTHENTICATED
        return str(call.details())

    def forged(session_id: str, number: object, mac: str) -> tuple[tuple[str, str], ...]:
        return (("faucet-session", f"{session_id}.{number}.{mac}"),)

    with session_with(daemon) as session, session_with(daemon) as other, raw_stub(daemon) as stub:
        seen = token_of(session, "GetStatus")
        assert status_call(stub, seen).pid == daemon.process.pid
        assert "used before" in refused(seen)  # replayed
        assert "forged" in refused(token_of(session, "DropDataset"))  # of another method
        assert "no session token" in refused(None)
        session_id, number, mac = token_of(session, "GetStatus")[0][1].split(".")
        _, _, foreign = token_of(other, "GetStatus")[0][1].split(".")
        guess = hmac.digest(bytes(32), f"GetStatus.{number}".encode(), "sha256").hex()
        for wrong in (guess, foreign, "", mac[:-1], mac[::-1], "ß"):
            if wrong.isascii():
                assert "forged" in refused(forged(session_id, number, wrong))
        assert "forged" in refused(forged(session_id, int(number) + 1, mac))
        for stranger in (secrets.token_hex(16), "", "0"):
            assert "no live session" in refused(forged(stranger, number, mac))
        for nonsense in ("", "a.b.c", "...", f"{session_id}.x.{mac}", "x" * 4_000):
            assert refused((("faucet-session", nonsense),))
        early = token_of(session, "GetStatus")
        for _ in range(1_100):
            token_of(session, "GetStatus")
        assert status_call(stub, token_of(session, "GetStatus")).pid == daemon.process.pid
        assert "used before" in refused(early)  # too old to be known as unused
        assert session.status().pid == daemon.process.pid  # and none of this hurt the session


def test_a_session_s_token_is_worth_nothing_after_its_process(
    daemon: WatchedDaemon, make_table: MakeTable, start_trainer: StartTrainer
) -> None:
    """The same with the connection closed: the session is over once nothing of it is left."""
    with session_with(daemon) as session, raw_stub(daemon) as stub:
        kept = token_of(session, "GetStatus")
        session.close()
        eventually(lambda: session.handoff._sock.fileno() == -1)  # it has said goodbye

        def is_refused() -> bool:
            try:
                status_call(stub, kept)
            except grpc.RpcError:
                return True
            return False

        eventually(is_refused)


# Nonsense.


def test_garbage_on_the_handoff_socket_closes_that_connection_and_no_other(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    table = make_table(rows=4_000)
    client = daemon.client()
    hello = handoff_pb2.HandoffRequest(
        hello=handoff_pb2.Hello(protocol_version=PROTOCOL_VERSION)
    ).SerializeToString()
    before = descriptors(daemon.process.pid)
    for nonsense in (b"\xff" * 100, os.urandom(5_000), hello + b"\xff", b"GET / HTTP/1.1\r\n\r\n"):
        with raw_handoff(daemon) as raw:
            raw.say(nonsense)
            assert raw.is_closed()
    with raw_handoff(daemon) as raw:  # no hello
        reply = raw.ask(release=handoff_pb2.ReleaseLeases(leases=(1,)))
        assert (reply.error.code, "hello" in reply.error.message) == (AccessDenied.code, True)
        assert raw.is_closed()
    with raw_handoff(daemon) as raw:  # a hello too many
        assert raw.hello().welcome.session_id
        assert raw.hello().error.code == AccessDenied.code
        raw.say(b"\xff" * 100)
        assert raw.is_closed()
    with raw_handoff(daemon) as raw:  # more than a packet may have
        raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        raw.say(hello + bytes(100_000))
        assert raw.is_closed()
    with raw_handoff(daemon) as raw, Path("/dev/null").open("rb") as file:  # descriptors
        raw.say(hello, (file.fileno(),) * 200)
        raw.answer()
        raw.say(b"", (file.fileno(),))
    eventually_gone(lambda: descriptors(daemon.process.pid) - before)
    assert client.status().readers == ()
    serves(daemon, table)


def test_who_asks_and_never_reads_the_answers_holds_up_nobody(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    """Here by releasing another's lease again and again, which is answered each time."""
    table = make_table(rows=4_000)
    client = daemon.client()
    dataset = client.open(table.spec())
    with session_with(daemon) as victim:
        reader = RawReader(victim, dataset, "victim")
        grant, _ = reader.grant()
        serves(daemon, table)  # all its chunks are in memory
        before = descriptors(daemon.process.pid)
        with raw_handoff(daemon) as raw:
            raw.hello()
            request = handoff_pb2.HandoffRequest(
                release=handoff_pb2.ReleaseLeases(leases=(grant.lease,))
            ).SerializeToString()
            for _ in range(20_000):  # far more answers than its socket takes
                raw.sock.send(request)
            serves(daemon, table)
        eventually_gone(lambda: descriptors(daemon.process.pid) - before)
        reader.end()


def test_a_reader_that_takes_no_grants_from_its_conduit_holds_up_nobody(
    start_daemon: StartDaemon, make_table: MakeTable
) -> None:
    """The socket of its conduit fills up: the rest waits in the daemon, and is taken back."""
    table = make_table(rows=40_000, chunk_rows=500)
    daemon = start_daemon("64MiB")
    client = daemon.client()
    dataset = client.open(table.spec())
    with session_with(daemon) as session:
        request = reader_request(dataset, "lazy", credits=64, stripe_rows=1, parts=2)
        _, conduit = session.read(request)
        serves(daemon, table)
        conduit.cancel()
        held = [(grant.lease, fd) for grant, fd in conduit.rest()]
        assert len(held) > 0
        for lease, fd in held:
            os.close(fd)
            session.release(lease)
        eventually_gone(lambda: client.status().readers)
        eventually_gone(lambda: client.status().memory.leased_bytes)


def test_nonsense_over_grpc_is_refused_and_the_daemon_goes_on(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    table = make_table(rows=4_000)
    dataset = daemon.client().open(table.spec())
    with session_with(daemon) as session, raw_stub(daemon) as stub:
        large = faucet_pb2.DropDatasetRequest(key="x" * (2 << 20))
        with pytest.raises(grpc.RpcError) as caught:
            stub.DropDataset(large, metadata=token_of(session, "DropDataset"), timeout=5)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

        def refusal(start: faucet_pb2.StartReader) -> str:
            with pytest.raises(grpc.RpcError) as caught:
                stub.Read(start, metadata=token_of(session, "Read"), timeout=5)
            return str(caught.value.code()) + str(caught.value.details())

        assert "INVALID_ARGUMENT" in refusal(faucet_pb2.StartReader())
        start: dict[str, Any] = {
            "dataset_key": dataset.info.key,
            "split": "train",
            "job": "hostile",
            "epochs": 1,
            "parts": 1,
            "stripe_rows": 1,
            "shuffle": "none",
            "credits": 1,
        }
        wrongs: list[dict[str, Any]] = [
            {"split": "test"},
            {"split": ""},
            {"job": ""},
            {"job": "x" * 10_000},
            {"shuffle": "rows"},
            {"epochs": 0},
            {"epochs": 2**32 - 1},
            {"parts": 0},
            {"part": 1},
            {"parts": 2**32 - 1},
            {"stripe_rows": 0},
            {"credits": 2**32 - 1},
            {"dataset_key": ""},
            {"dataset_key": "0" * 32},
        ]
        for wrong in wrongs:
            found = refusal(faucet_pb2.StartReader(**start | wrong))
            assert "INVALID_ARGUMENT" in found or "NOT_FOUND" in found, wrong
    serves(daemon, table)


def test_a_reader_that_says_whatever_it_likes_hurts_itself_alone(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    table = make_table(rows=4_000)
    client = daemon.client()
    dataset = client.open(table.spec())
    with session_with(daemon) as session:
        for number, nonsense in enumerate((b"\xff" * 100, b"\x00", os.urandom(20_000))):
            reader = RawReader(session, dataset, f"hostile-{number}")
            reader.grant()
            reader.say(
                conduit_pb2.ReaderMessage(credit=conduit_pb2.Credit(grants=2**32 - 1)),
                conduit_pb2.ReaderMessage(credit=conduit_pb2.Credit(rows_consumed=2**64 - 1)),
                conduit_pb2.ReaderMessage(credit=conduit_pb2.Credit(position_epochs=math.nan)),
                conduit_pb2.ReaderMessage(advance=conduit_pb2.AdvanceEpoch(epoch=2**32 - 1)),
                conduit_pb2.ReaderMessage(advance=conduit_pb2.AdvanceEpoch(epoch=0)),
                conduit_pb2.ReaderMessage(credit=conduit_pb2.Credit(grants=3)),
            )
            with contextlib.suppress(OSError):  # it may be closed before all is said
                reader.say(nonsense, conduit_pb2.ReaderMessage(credit=conduit_pb2.Credit(grants=3)))
            eventually_gone(lambda: client.status().readers)
            with contextlib.suppress(DaemonError):
                reader.end()
    serves(daemon, table)
    eventually_gone(lambda: client.status().readers)


# Other users, other versions.


def let_everybody_reach(daemon: WatchedDaemon) -> None:
    """Undoes the first lock, the permissions of folder and sockets, to get to the second one."""
    for folder in (daemon.folder, daemon.folder / "sockets"):
        folder.chmod(0o755)
    for path in (daemon.folder / "sockets").iterdir():
        path.chmod(0o666)


@root_only
def test_another_user_cannot_even_reach_the_sockets(daemon: WatchedDaemon) -> None:
    daemon.folder.chmod(0o755)
    sockets = daemon.folder / "sockets"
    assert sockets.stat().st_mode & 0o777 == 0o750
    for name in ("faucetd.sock", "faucetd.sock.handoff"):
        assert (sockets / name).stat().st_mode & 0o777 == 0o660
    with as_user(NOBODY), pytest.raises(DaemonUnreachable):
        FaucetClient(daemon.address)


@root_only
def test_a_user_who_is_not_allowed_is_refused_with_the_setting_s_name(
    start_daemon: StartDaemon,
) -> None:
    daemon = start_daemon()
    let_everybody_reach(daemon)
    with as_user(NOBODY), pytest.raises(AccessDenied, match=rf"user {NOBODY} .*allowed_uids"):
        FaucetClient(daemon.address)
    FaucetClient(daemon.address).close()


@root_only
def test_a_user_who_is_allowed_may_connect(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(allowed_uids=f"0,{NOBODY}")
    let_everybody_reach(daemon)
    with as_user(NOBODY):
        client = FaucetClient(daemon.address)
    with client:
        assert client.status().pid == daemon.process.pid


def test_a_client_of_another_protocol_is_told_both_versions(daemon: WatchedDaemon) -> None:
    for version in (0, PROTOCOL_VERSION + 1, 2**32 - 1):
        with raw_handoff(daemon) as raw:
            reply = raw.hello(protocol_version=version)
            assert reply.error.code == VersionMismatch.code
            assert "9.9.9" in reply.error.message
            assert f"protocol {version}" in reply.error.message
            assert __version__ in reply.error.message
            assert f"protocol {PROTOCOL_VERSION}" in reply.error.message
            assert raw.is_closed()


@contextlib.contextmanager
def fake_daemon(folder: Path, *replies: bytes) -> Iterator[Address]:
    """Accepts one connection on a handoff socket and gives the replies, whatever it is told."""
    address = parse_address(str(folder / "faucetd.sock"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address.handoff_path)
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(64 * 1024)
                for reply in replies:
                    connection.send(reply)

        server = threading.Thread(target=serve)
        server.start()
        yield address
        server.join(5)
        assert not server.is_alive()


def test_the_client_raises_what_a_daemon_of_another_version_tells_it(tmp_path: Path) -> None:
    message = "the client speaks protocol 1, the daemon (faucetml 7.0.0) protocol 7"
    error = handoff_pb2.Error(code="version-mismatch", message=message)
    reply = handoff_pb2.HandoffReply(error=error).SerializeToString()
    with (
        fake_daemon(tmp_path, reply) as address,
        pytest.raises(VersionMismatch, match=r"protocol 1, .* protocol 7"),
    ):
        FaucetClient(str(address))


@pytest.mark.parametrize("reply", [b"\xff\xff\xff", b"", None], ids=["garbage", "empty", "nothing"])
def test_whoever_answers_nonsense_is_no_daemon(tmp_path: Path, reply: bytes | None) -> None:
    replies = () if reply is None else (reply,)
    with fake_daemon(tmp_path, *replies) as address, pytest.raises(DaemonError):
        FaucetClient(str(address))


# Floods.


def test_a_real_client_is_served_in_two_seconds_beside_1000_idle_connections(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    table = make_table(rows=4_000)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 3_000:
        pytest.skip(f"this test may open {hard} descriptors, and needs 3,000")
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 3_000), hard))
    daemon.client().open(table.spec())
    idle: list[socket.socket] = []
    try:
        for _ in range(1_000):
            idle.append(RawHandoff(daemon).sock)
        for _ in range(300):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.connect(parse_address(daemon.address).path)
            idle.append(connection)
        with Stopwatch() as serving:
            client = FaucetClient(daemon.address)
            batch = next(client.open(table.spec()).batches(batch_size=BATCH))
            check(batch)
        assert serving.seconds < 2.0
        del batch
        client.close()
    finally:
        for connection in idle:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
