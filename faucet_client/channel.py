"""The wire: the handoff socket and the gRPC calls of one session, as plain values.

The only module of the client that knows protobuf. A connection belongs to the process that made
it; session.py sees to that.
"""

from __future__ import annotations

import array
import contextlib
import hmac
import itertools
import os
import queue
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar, cast

# Without this, gRPC leaves a forked child with threads that are not there and descriptors that are
# the parent's, and every fourth DataLoader worker fails (grpc: doc/fork_support.md). It is read
# when grpc is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "1")

import grpc
from faucet_protos.v1 import faucet_pb2, faucet_pb2_grpc, handoff_pb2, spec_pb2
from google.protobuf.message import DecodeError

from faucet_client._version import PROTOCOL_VERSION, __version__
from faucet_client.address import Address, why_unreachable
from faucet_client.bits import bits_of
from faucet_client.errors import (
    ColumnError,
    DaemonError,
    DaemonLost,
    DaemonUnreachable,
    FaucetError,
    IteratorError,
    SpecError,
    from_code,
)
from faucet_client.forks import GRPC
from faucet_client.layout import ColumnLayout, Role, SegmentLayout
from faucet_client.preprocessing.options_json import options_to_json
from faucet_client.preprocessing.spec import PreprocessingSpec
from faucet_client.profile import Profile
from faucet_client.spec import (
    SPLITS,
    BigQuerySource,
    DatasetSpec,
    DuckDBSource,
    ParquetSource,
    Split,
)
from faucet_client.state import Ranges
from faucet_client.status import (
    ColumnCounts,
    CostStatus,
    DatasetStatus,
    LabelStatus,
    MemoryStatus,
    ReaderStatus,
    Status,
    WorkerStatus,
)

CONNECT_TIMEOUT_S = 5
REPLY_TIMEOUT_S = 30
CALL_TIMEOUT_S = 10.0
MAX_SPEC_NBYTES = 7 << 20  # the daemon takes messages of 8 MiB
OPEN_TIMEOUT_S = 3_600.0

_Message = TypeVar("_Message")

_SO_PEERPIDFD = 77  # asm-generic/socket.h, Linux 6.5


@dataclass(frozen=True)
class OpenProgress:
    """How far the daemon has come with opening a dataset."""

    stage: str
    rows_done: int
    rows_total: int


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of an open dataset.

    Attributes:
        key: Hash of all that decides its bytes, hexadecimal.
        rows: Rows of each split, exact.
        features: Names of the features, in the order of the DatasetSpec.
        labels: Names of the labels.
        passthrough: Names of the passthrough columns.
        weighted: Whether batches have weights.
        chunks: Chunks that the table is cut into; 0 while a first pass still finds them.
        passthrough_paths: The source's columns behind `passthrough`, as dotted paths, in the same
            order.
        principal: Whose rights the rows are read with; empty for files.
        query_bytes_billed: Bytes that opening was billed for by a warehouse.
        read_bytes_estimated: Bytes that a pass over the rows is billed for, by its estimate.
        preprocessing: What becomes of the features; None where they are taken as they are.
    """

    key: str
    rows: Mapping[Split, int]
    features: tuple[str, ...]
    labels: tuple[str, ...]
    passthrough: tuple[str, ...]
    weighted: bool
    chunks: int
    passthrough_paths: tuple[str, ...] = ()
    principal: str = ""
    query_bytes_billed: int = 0
    read_bytes_estimated: int = 0
    preprocessing: PreprocessingSpec | None = field(default=None, repr=False)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the columns of `batch.features`, in order."""
        return self.features if self.preprocessing is None else self.preprocessing.output_names

    def outputs_of(self, feature: str) -> range:
        """Which columns of `batch.features` are of a feature; none of one that gives ids.

        Raises:
            ColumnError: there is no such feature.
        """
        if self.preprocessing is not None:
            return self.preprocessing.outputs_of(feature)
        if feature not in self.features:
            raise ColumnError(
                f'there is no feature "{feature}"; there are {", ".join(self.features[:30])}'
            )
        place = self.features.index(feature)
        return range(place, place + 1)


@dataclass(frozen=True)
class EarlierReader:
    """What a reader had when its job had another number of ranks; see ReaderRequest."""

    rank: int
    world_size: int
    remainder: str
    part: int
    parts: int
    stripe_rows: int
    had: frozenset[int]
    partly: Mapping[int, Ranges]


@dataclass(frozen=True)
class ReaderRequest:
    """One reader, as the daemon is asked for it (protos/faucet/v1/faucet.proto: StartReader)."""

    dataset_key: str
    split: Split
    job: str
    rank: int
    worker: int
    first_epoch: int
    epochs: int
    part: int
    parts: int
    stripe_rows: int
    shuffle: str
    seed: int
    credits: int
    order: str = "shared"
    world_size: int = 1
    remainder: str = "drop"
    had: frozenset[int] = frozenset()
    before: Mapping[int, Ranges] = field(default_factory=dict)
    earlier: tuple[EarlierReader, ...] = ()


class Told(NamedTuple):
    """How far a reader is: totals of its rows and waits, and 2.25 for a quarter into epoch 2."""

    rows_consumed: int
    seconds_waited: float
    position_epochs: float


@dataclass(frozen=True)
class Started:
    """The reader may read.

    Attributes:
        rows_per_epoch: Its rows of an epoch.
        lease_limit_bytes: Bytes of segments that it may hold at most.
        first_epoch_rows: Its rows of the first epoch, those included that it had.
        before: Rows of chunks that are nobody's in the first epoch.
    """

    rows_per_epoch: int
    lease_limit_bytes: int
    first_epoch_rows: int
    before: Mapping[int, Ranges]


@dataclass(frozen=True)
class Grant:
    """The reader's rows of a segment, and the handle to fetch its memory with."""

    lease: int
    handle: bytes
    epoch: int
    chunk: int
    ranges: Ranges
    layout: SegmentLayout
    note: str = ""


class Handoff:
    """The connection that proves who we are and passes descriptors. Safe to use from any thread."""

    def __init__(self, address: Address) -> None:
        """Connects and says hello.

        Raises:
            DaemonUnreachable: nobody listens at the address, or nobody answers.
            VersionMismatch: the daemon speaks another protocol.
            AccessDenied: this user may not connect.
        """
        self._address = address
        self._lock = threading.Lock()
        self._broken = False
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Not settimeout(): Python would wait in poll() before each call, one more time to let go of
        # the interpreter's lock and to wait for it.
        self._set_timeout(CONNECT_TIMEOUT_S)
        try:
            try:
                self._sock.connect(address.handoff_path)
            except OSError:
                raise DaemonUnreachable(why_unreachable(address)) from None
            hello = handoff_pb2.Hello(protocol_version=PROTOCOL_VERSION, client_version=__version__)
            try:
                reply, _ = self._ask(handoff_pb2.HandoffRequest(hello=hello), self._own_pidfd())
            except DaemonLost as error:
                raise DaemonUnreachable(
                    f"the daemon at {address} accepts connections but does not answer ({error}); "
                    "see its log, and restart it"
                ) from None
        except BaseException:
            self._sock.close()
            raise
        self._set_timeout(REPLY_TIMEOUT_S)
        self.session_id: str = reply.welcome.session_id
        self.secret: bytes = reply.welcome.secret
        self.daemon_version: str = reply.welcome.daemon_version

    def fetch(self, handle: bytes) -> int:
        """The descriptor of a granted segment's memory; the caller closes it.

        Raises:
            AccessDenied: the grant is not live, or not ours.
            DaemonLost: the daemon went away.
        """
        with self._lock:
            _, fds = self._ask(
                handoff_pb2.HandoffRequest(fetch=handoff_pb2.FetchSegment(handle=handle))
            )
        if len(fds) != 1:
            for fd in fds:
                os.close(fd)
            raise DaemonError(f"the daemon sent {len(fds)} descriptors instead of one")
        return fds[0]

    def release(self, leases: tuple[int, ...]) -> None:
        """Ends leases."""
        message = handoff_pb2.HandoffRequest(release=handoff_pb2.ReleaseLeases(leases=leases))
        with self._lock:
            self._send(message)

    def alive(self) -> bool:
        """Whether the daemon holds its end of the connection."""
        with self._lock:
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
        with self._lock:
            with contextlib.suppress(DaemonLost):  # then the session has ended already
                self._send(handoff_pb2.HandoffRequest(goodbye=handoff_pb2.Goodbye()))
            self._sock.close()

    def _set_timeout(self, timeout_s: int) -> None:
        timeout = struct.pack("ll", timeout_s, 0)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)

    def _lost(self, error: OSError) -> DaemonLost:
        """Ends the connection: a reply that came late would be taken for the next one."""
        self._broken = True
        self._sock.close()
        if isinstance(error, BlockingIOError):
            return DaemonLost(
                f"the daemon at {self._address} did not answer in time; see its log. Batches that "
                "were handed out stay valid"
            )
        return DaemonLost(
            f"the daemon at {self._address} went away ({error}); batches that were handed out stay "
            "valid. Start it again with `faucetd serve`"
        )

    def _own_pidfd(self) -> int | None:
        """A pidfd of this process, where the kernel does not give the daemon one by itself."""
        try:
            os.close(self._sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD))
        except OSError:
            return os.pidfd_open(os.getpid())
        return None

    def _ask(
        self, request: handoff_pb2.HandoffRequest, fd: int | None = None
    ) -> tuple[handoff_pb2.HandoffReply, list[int]]:
        item = array.array("i").itemsize
        try:
            self._send(request, fd)
        finally:
            if fd is not None:
                os.close(fd)
        try:
            data, ancillary, _, _ = self._sock.recvmsg(
                64 * 1024, socket.CMSG_SPACE(4 * item), socket.MSG_CMSG_CLOEXEC
            )
        except OSError as error:
            raise self._lost(error) from None
        fds = array.array("i")
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(payload[: len(payload) // item * item])
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
        return reply, list(fds)

    def _send(self, request: handoff_pb2.HandoffRequest, fd: int | None = None) -> None:
        try:
            socket.send_fds(self._sock, [request.SerializeToString()], [] if fd is None else [fd])
        except OSError as error:
            raise self._lost(error) from None


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
        request = faucet_pb2.OpenDatasetRequest(spec=_spec_to(spec), key=key)
        try:
            with GRPC.calling():
                events = self._stub.OpenDataset(
                    request, metadata=self._token("OpenDataset"), timeout=OPEN_TIMEOUT_S
                )
            for event in _each(events):
                if event.WhichOneof("event") == "opened":
                    return _info_from(event.opened)
                if on_progress is not None:
                    progress = event.progress
                    on_progress(
                        OpenProgress(progress.stage, progress.rows_done, progress.rows_total)
                    )
        except grpc.RpcError as error:
            raise self.translated(error) from None
        raise DaemonError("the daemon ended an open without a dataset")

    def read(self, request: ReaderRequest) -> ReaderCall:
        """Starts a reader's stream. Errors come with its first message."""
        return ReaderCall(self, self._stub, self._token("Read"), request)

    def status(self) -> Status:
        """What the daemon says of itself."""
        return _status_from(
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

    def translated(self, error: grpc.RpcError) -> FaucetError:
        """What a failed call means here."""
        if self._abandoned:
            return DaemonLost(f"the daemon at {self._address} went away")
        if self._closed:
            return IteratorError("the client was closed, and this iterator with it")
        return _translated(error, self._address)

    def _ask(self, method: Any, name: str, request: Any) -> Any:
        try:
            with GRPC.calling():
                # By a future, whose result is waited for where a fork does no harm (forks.py).
                call = method.future(request, metadata=self._token(name), timeout=CALL_TIMEOUT_S)
                return call.result()
        except grpc.RpcError as error:
            raise self.translated(error) from None

    def _token(self, method: str) -> tuple[tuple[str, str], ...]:
        number = next(self._numbers)
        mac = hmac.digest(self._secret, f"{method}.{number}".encode(), "sha256").hex()
        return (("faucet-session", f"{self._session_id}.{number}.{mac}"),)


class ReaderCall:
    """One reader's stream. Iterating blocks; sending never does."""

    def __init__(
        self,
        channel: Channel,
        stub: faucet_pb2_grpc.FaucetStub,
        token: tuple[tuple[str, str], ...],
        request: ReaderRequest,
    ) -> None:
        self._channel = channel
        self._requests: queue.SimpleQueue[faucet_pb2.ReaderMessage | None] = queue.SimpleQueue()
        self._requests.put(faucet_pb2.ReaderMessage(start=_start_to(request)))
        with GRPC.calling():
            self._call = stub.Read(self._sent(), metadata=token)

    def __iter__(self) -> Iterator[Started | Grant]:
        """What the daemon says, until it has nothing more to say.

        Raises:
            FaucetError: the reader was refused, cannot go on, or the daemon went away.
        """
        try:
            for message in _each(self._call):
                if message.WhichOneof("message") == "grant":
                    yield _grant_from(message.grant)
                else:
                    yield _started_from(message.started)
        except grpc.RpcError as error:
            raise self._channel.translated(error) from None

    def credit(self, grants: int, told: Told) -> None:
        """Takes further grants, and tells how far the reader is."""
        credit = faucet_pb2.Credit(grants=grants, **told._asdict())
        self._requests.put(faucet_pb2.ReaderMessage(credit=credit))

    def advance(self, epoch: int) -> None:
        """Gives up what has not come yet of the epochs before `epoch`."""
        self._requests.put(faucet_pb2.ReaderMessage(advance=faucet_pb2.AdvanceEpoch(epoch=epoch)))

    def finish(self) -> None:
        """Wants no more grants; the stream ends when the daemon has heard it."""
        self._requests.put(faucet_pb2.ReaderMessage(finish=faucet_pb2.FinishReader()))
        self._requests.put(None)

    def cancel(self) -> None:
        """Ends the stream at once, and the thread that sends. Idempotent."""
        self._requests.put(None)
        with GRPC.calling():
            self._call.cancel()

    def _sent(self) -> Iterator[faucet_pb2.ReaderMessage]:
        while (message := self._requests.get()) is not None:
            with GRPC.sending():
                yield message


def _each(messages: Iterator[_Message]) -> Iterator[_Message]:
    """What a call answers; outside the gate while the caller is busy with it."""
    while True:
        with GRPC.calling():
            message = next(messages, None)
        if message is None:
            return
        yield message


def _translated(error: grpc.RpcError, address: Address) -> FaucetError:
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


def _spec_to(spec: DatasetSpec) -> spec_pb2.DatasetSpec:
    message = spec_pb2.DatasetSpec(
        hash_column=spec.hash_column or "",
        sample_percent=spec.sample_percent,
        eval_percent=spec.eval_percent,
        weight_column=spec.weight_column or "",
        passthrough=spec.passthrough,
        exclude_features=spec.exclude_features,
        preprocessing=_preprocessing_to(spec),
        fit_options=options_to_json(spec.fit),
        fit_on=spec.fit_on,
        fit_rows=spec.fit_rows,
        chunk_rows=spec.chunk_rows or 0,
        chunking=spec.chunking,
    )
    match spec.source:
        case ParquetSource() as source:
            message.parquet.path = source.path
        case DuckDBSource() as source:
            message.duckdb.MergeFrom(spec_pb2.DuckDBSource(**vars(source)))
        case BigQuerySource() as source:
            message.bigquery.MergeFrom(spec_pb2.BigQuerySource(**vars(source)))
    if isinstance(spec.features, str):
        message.features_struct = spec.features
    else:
        message.features_list.names.extend(spec.features)
    if isinstance(spec.labels, str):
        message.labels_struct = spec.labels
    else:
        message.labels_list.names.extend(spec.labels)
    return message


def _preprocessing_to(spec: DatasetSpec) -> str:
    if isinstance(spec.preprocessing, str):
        return spec.preprocessing
    text = spec.preprocessing.to_json()
    if len(text.encode()) > MAX_SPEC_NBYTES:
        raise SpecError(
            f"the preprocessing spec has {len(text.encode()):,} bytes of JSON, and "
            f"{MAX_SPEC_NBYTES:,} can be sent: cap its vocabularies, or hash those features"
        )
    return text


def _info_from(message: faucet_pb2.DatasetInfo) -> DatasetInfo:
    return DatasetInfo(
        key=message.key,
        rows=dict(zip(SPLITS, (message.train_rows, message.eval_rows), strict=True)),
        features=tuple(message.features),
        labels=tuple(message.labels),
        passthrough=tuple(message.passthrough),
        weighted=message.weighted,
        chunks=message.chunks,
        passthrough_paths=tuple(message.passthrough_paths),
        principal=message.principal,
        query_bytes_billed=message.query_bytes_billed,
        read_bytes_estimated=message.read_bytes_estimated,
        preprocessing=(
            PreprocessingSpec.from_json(message.preprocessing) if message.preprocessing else None
        ),
    )


def _start_to(request: ReaderRequest) -> faucet_pb2.StartReader:
    return faucet_pb2.StartReader(
        **vars(request)
        | {
            "had": bits_of(request.had),
            "before": _ranges_to(request.before),
            "earlier": [
                faucet_pb2.EarlierReader(
                    **vars(each) | {"had": bits_of(each.had), "partly": _ranges_to(each.partly)}
                )
                for each in request.earlier
            ],
        }
    )


def _ranges_to(of_chunks: Mapping[int, Ranges]) -> list[faucet_pb2.ChunkRows]:
    return [
        faucet_pb2.ChunkRows(chunk=chunk, first_row=first, rows=rows)
        for chunk, ranges in of_chunks.items()
        for first, rows in ranges
    ]


def _started_from(message: faucet_pb2.ReaderStarted) -> Started:
    before: dict[int, Ranges] = {}
    for each in message.before:
        before[each.chunk] = (*before.get(each.chunk, ()), (each.first_row, each.rows))
    return Started(
        message.rows_per_epoch, message.lease_limit_bytes, message.first_epoch_rows, before
    )


def _grant_from(message: faucet_pb2.Grant) -> Grant:
    layout = message.layout
    return Grant(
        lease=message.lease,
        handle=message.handle,
        epoch=message.epoch,
        chunk=message.chunk,
        ranges=tuple((each.first_row, each.rows) for each in message.ranges),
        note=message.note,
        layout=SegmentLayout(
            rows=layout.rows,
            nbytes=layout.nbytes,
            columns=tuple(
                ColumnLayout(
                    role=Role(column.role),
                    name=column.name,
                    dtype=column.dtype,
                    width=column.width,
                    offset=column.offset,
                    text_offset=column.text_offset,
                    text_nbytes=column.text_nbytes,
                    valid_offset=(column.valid_offset if column.HasField("valid_offset") else None),
                )
                for column in layout.columns
            ),
        ),
    )


def _status_from(message: faucet_pb2.Status) -> Status:
    def fields(part: Any) -> dict[str, Any]:
        return {field.name: getattr(part, field.name) for field in part.DESCRIPTOR.fields}

    return Status(
        version=message.version,
        pid=message.pid,
        uptime_s=message.uptime_s,
        memory=MemoryStatus(**fields(message.memory)),
        workers=tuple(WorkerStatus(**fields(worker)) for worker in message.workers),
        datasets=tuple(
            DatasetStatus(
                **fields(dataset)
                | {
                    "counts": tuple(ColumnCounts(**fields(c)) for c in dataset.counts),
                    "cost": (
                        CostStatus(**fields(dataset.cost)) if dataset.HasField("cost") else None
                    ),
                    "notes": tuple(dataset.notes),
                    "labels": tuple(LabelStatus(**fields(label)) for label in dataset.labels),
                }
            )
            for dataset in message.datasets
        ),
        readers=tuple(ReaderStatus(**fields(reader)) for reader in message.readers),
        spill_budget_bytes=message.spill_budget_bytes,
        spill_used_bytes=message.spill_used_bytes,
        alerts=tuple(message.alerts),
    )
