"""Every error that a caller of Faucet ML can meet, on either side of the socket.

The daemon raises the same types: they travel by `code` and are raised again in the client at
the call that caused them.

    FaucetError
    ├── SpecError              the request contradicts itself, or asks for what does not exist yet
    │   ├── ColumnError        a column is missing, or of a type that cannot serve
    │   └── NotYetAvailable    it comes with a later release
    ├── SourceError
    │   ├── SourceNotFound     no such file, table or database
    │   ├── SourceForbidden    outside `allowed_roots`, or the daemon's user may not read it
    │   ├── SourceEmpty        there is no row to train on
    │   ├── SourceChanged      the source is no longer the snapshot that was opened
    │   └── SourceReadError    reading failed: a broken file, a query with an error
    ├── BudgetError            more than the memory budget holds, or may be billed, was asked for
    ├── ReaderConflict         a live reader of the same job, rank, worker and split exists
    ├── DatasetNotFound        no open dataset has this key
    ├── DatasetInUse           the dataset cannot be dropped while readers or tensors use it
    ├── ChunkFailed            a chunk could not be made, repeatedly
    ├── IteratorError          an iterator was used after its end, or in a forked child
    ├── StateError             a state that was loaded is damaged, or of something else
    ├── DeviceError            batches cannot come to the device that was asked for
    ├── ConfigError            the daemon's settings are wrong
    ├── LockHeld               another daemon serves this address
    └── DaemonError
        ├── DaemonUnreachable  nobody listens at the address, or it does not answer
        ├── DaemonLost         the daemon went away in mid-use
        ├── VersionMismatch    client and daemon do not speak the same protocol
        ├── AccessDenied       this process, token or handle has no right to what it asked for
        └── InternalError      a fault of ours; please report it
"""

from __future__ import annotations

from typing import ClassVar


class FaucetError(Exception):
    """Base of all errors of Faucet ML. `str(error)` says what was wrong and what to do."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class SpecError(FaucetError):
    """The request contradicts itself, or asks for something that does not exist (yet)."""

    code = "spec"


class ColumnError(SpecError):
    """A column is missing, or of a type that cannot serve where it was named."""

    code = "column"


class NotYetAvailable(SpecError):
    """What was asked for comes with a later release; the message says what to do meanwhile."""

    code = "not-yet-available"


class SourceError(FaucetError):
    """Something is wrong with the table, not with the request."""

    code = "source"


class SourceNotFound(SourceError):
    """No such file, table or database."""

    code = "source-not-found"


class SourceForbidden(SourceError):
    """The path is outside `allowed_roots`, or the daemon's user may not read it."""

    code = "source-forbidden"


class SourceEmpty(SourceError):
    """The source holds no row that training could use."""

    code = "source-empty"


class SourceChanged(SourceError):
    """The source is no longer what it was when the dataset was opened."""

    code = "source-changed"


class SourceReadError(SourceError):
    """Reading failed: a broken file, a query with an error, a type nobody can decode."""

    code = "source-read"


class BudgetError(FaucetError):
    """The daemon's memory budget cannot hold what was asked for, or it would cost too much."""

    code = "budget"


class ReaderConflict(FaucetError):
    """A live reader of the same job, rank, worker and split exists."""

    code = "reader-conflict"


class DatasetNotFound(FaucetError):
    """No open dataset has this key."""

    code = "dataset-not-found"


class DatasetInUse(FaucetError):
    """The dataset cannot be dropped while readers or live tensors use it."""

    code = "dataset-in-use"


class ChunkFailed(FaucetError):
    """A chunk could not be made, though it was tried several times."""

    code = "chunk-failed"


class IteratorError(FaucetError):
    """An iterator was used after its end, or in a forked child of the process that made it."""

    code = "iterator"


class StateError(FaucetError):
    """A state that was loaded is damaged, of another dataset or reader, or has gaps."""

    code = "state"


class DeviceError(FaucetError):
    """There is no such device here, or it cannot take batches, as where its memory is full."""

    code = "device"


class ConfigError(FaucetError):
    """The daemon's settings are wrong."""

    code = "config"


class LockHeld(FaucetError):
    """Another daemon serves this address."""

    code = "lock-held"


class DaemonError(FaucetError):
    """Something is wrong between the client and the daemon."""

    code = "daemon"


class DaemonUnreachable(DaemonError):
    """Nobody listens at the address, or nobody answers in time."""

    code = "daemon-unreachable"


class DaemonLost(DaemonError):
    """The daemon went away in mid-use. Batches that were handed out stay valid."""

    code = "daemon-lost"


class VersionMismatch(DaemonError):
    """Client and daemon do not speak the same protocol."""

    code = "version-mismatch"


class AccessDenied(DaemonError):
    """This process, token or handle has no right to what it asked for."""

    code = "access-denied"


class InternalError(DaemonError):
    """A fault of Faucet ML itself."""

    code = "internal"


def _tree(base: type[FaucetError]) -> dict[str, type[FaucetError]]:
    found = {base.code: base}
    for child in base.__subclasses__():
        found |= _tree(child)
    return found


def from_code(code: str, message: str) -> FaucetError:
    """The error that the other side meant; a plain FaucetError if `code` is not known here."""
    return _tree(FaucetError).get(code, FaucetError)(message)
