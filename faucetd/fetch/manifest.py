"""What a folder of dealt rows holds, as the folder itself says: the last file to be written there.

A folder gets its name when it is whole, and not before, so whatever has a name can be read; the
sizes and checksums tell whether that is still what was written. Needs neither Arrow nor a
warehouse: the daemon's main process looks at these, too.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from faucetd.errors import SourceError
from faucetd.fetch.files import FileState

MANIFEST = "manifest.json"

PART = ".part"
"""Ends the name of a folder that is not whole yet, or that nobody has finished."""

VERSION = 1
"""Raised when the same rows would be dealt otherwise."""

_READ_BYTES = 1 << 20


class DealtStream(msgspec.Struct, frozen=True):
    """The rows that one file holds, and the file."""

    name: str
    train_rows: int
    eval_rows: int
    nbytes: int
    checksum: str

    @property
    def rows(self) -> int:
        """Of both splits."""
        return self.train_rows + self.eval_rows


class Manifest(msgspec.Struct, frozen=True):
    """A dealt table.

    Attributes:
        content: Identifies the rows and how they are dealt: equal for equal rows, whichever files
            they came from, in whichever order.
        schema: All leaves of the source, flat, as a serialized Arrow schema.
        fields: Those that were dealt.
        has_buckets: Whether the rows have the column `dealt.BUCKET`, beside `fields`.
        source_rows: Rows that the source had, those outside the sample too.
        source_bytes: What reading them took, in bytes of Arrow data.
        states: The source's files as they were.
        streams: The files of the rows.
        version: Of the way of dealing.
    """

    content: str
    schema: bytes
    fields: tuple[str, ...]
    has_buckets: bool
    source_rows: int
    source_bytes: int
    states: tuple[FileState, ...]
    streams: tuple[DealtStream, ...]
    version: int = VERSION

    @property
    def rows(self) -> int:
        """Of all streams."""
        return sum(stream.rows for stream in self.streams)

    @property
    def nbytes(self) -> int:
        """What all files of rows take on disk."""
        return sum(stream.nbytes for stream in self.streams)

    def source_unchanged(self) -> bool:
        """Whether the source's files are still the ones that the rows came from."""
        try:
            for state in self.states:
                state.check_unchanged()
        except SourceError:
            return False
        return True

    def write(self, folder: Path) -> None:
        """Writes it into the folder.

        Raises:
            OSError: it cannot be written.
        """
        (folder / MANIFEST).write_bytes(msgspec.json.encode(self))


def read_manifest(folder: Path) -> Manifest | None:
    """The folder's; None if it has none that can be read, of this version."""
    try:
        found = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError):
        return None
    return found if found.version == VERSION else None


def has_its_files(folder: Path, manifest: Manifest) -> bool:
    """Whether all files are there and of their sizes. Reads none."""
    try:
        return all(
            os.stat(folder / stream.name).st_size == stream.nbytes for stream in manifest.streams
        )
    except OSError:
        return False


def has_its_bytes(folder: Path, manifest: Manifest, on_rows: Callable[[int], None]) -> bool:
    """Whether all files hold what was written; reads them, and tells after how many rows."""
    done = 0
    for stream in manifest.streams:
        checksum = new_checksum()
        try:
            with (folder / stream.name).open("rb") as file:
                while data := file.read(_READ_BYTES):
                    checksum.update(data)
        except OSError:
            return False
        if checksum.hexdigest() != stream.checksum:
            return False
        done += stream.rows
        on_rows(done)
    return True


def new_checksum() -> hashlib.blake2b:
    """Of what is written to a file."""
    return hashlib.blake2b(digest_size=16)
