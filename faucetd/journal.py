"""The plan journal: what must outlive the daemon so that its trainers can go on.

The chunks of a warehouse's table are found while they are read, and another read would deal the
rows to other chunks. So each chunk is written down before the first grant from it, in a file a
dataset; a daemon that is started again reads the same rows as the same chunks, for as long as the
warehouse keeps the read session.

A file has a header, and one line a chunk that was found. Lines are appended whole; what a crash cut
off at the end was granted to nobody. Written data survives the daemon, not the machine, whose end
no trainer survives either, so nothing waits for the disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Container, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from faucet_client._version import __version__
from faucetd.fetch.bigquery.settings import BigQuerySettings
from faucetd.worker.messages import FoundChunk, Opened

_log = logging.getLogger(__name__)

_SUFFIX = ".plan"
_PART = ".part"


class _Header(msgspec.Struct, frozen=True):
    """A dataset as it was opened, by what, and when (seconds since 1970)."""

    made_by: str
    opened_at: float
    spec: dict[str, Any]
    opened: Opened


class _Line(msgspec.Struct, frozen=True):
    """Chunk `number` was found."""

    number: int
    found: FoundChunk


class Plan(msgspec.Struct, frozen=True):
    """A dataset as a journal has it; `found` in the order in which the chunks were found."""

    spec: dict[str, Any]
    opened: Opened
    opened_at: float
    found: tuple[tuple[int, FoundChunk], ...]


class PlanJournal:
    """The journals of one daemon's datasets.

    Args:
        folder: Where they are; made when the first one is written.
        settings: How the warehouse is reached: plans that were made otherwise are not used.
    """

    def __init__(self, folder: Path, settings: BigQuerySettings) -> None:
        self._folder = folder
        who = (
            settings.project,
            settings.credentials,
            settings.api_endpoint,
            settings.storage_endpoint,
        )
        versions = (__version__, metadata.version("torch"))
        self._made_by = hashlib.sha256(repr((who, versions, os.getuid())).encode()).hexdigest()
        self._files: dict[str, BinaryIO] = {}

    def begin(self, spec: dict[str, Any], opened: Opened, opened_at: float) -> None:
        """Writes down a dataset that was opened.

        Raises:
            OSError: it cannot be written.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(opened.key)
        part = path.with_suffix(_PART)
        file = part.open("wb", buffering=0)
        file.write(msgspec.json.encode(_Header(self._made_by, opened_at, spec, opened)) + b"\n")
        part.replace(path)
        self._files[opened.key] = file

    def append(self, key: str, number: int, found: FoundChunk) -> None:
        """Writes down a chunk that was found.

        Raises:
            OSError: it cannot be written.
        """
        if key not in self._files:
            self._files[key] = _open_to_append(self._path(key))
        line = msgspec.json.encode(_Line(number, found)) + b"\n"
        if self._files[key].write(line) < len(line):
            raise OSError("no space is left for it")

    def plans(self, known: Container[str] = ()) -> Iterator[Plan]:
        """The plans that still serve, but for those of `known` keys. The others are removed."""
        for path in self._folder.glob(f"*{_PART}"):
            path.unlink(missing_ok=True)
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            if path.stem in known:
                continue
            plan = self._read(path)
            if plan is not None:
                yield plan
            elif path.stem not in self._files:
                path.unlink(missing_ok=True)

    def forget(self, key: str) -> None:
        """The dataset is gone, or its plan is of no use any more."""
        if (file := self._files.pop(key, None)) is not None:
            file.close()
        self._path(key).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._folder.rmdir()  # if it was the last

    def close(self) -> None:
        """Closes the files, which stay."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}{_SUFFIX}"

    def _read(self, path: Path) -> Plan | None:
        try:
            first, *rest = path.read_bytes().split(b"\n")
            header = msgspec.json.decode(first, type=_Header)
            # The last line is empty, or was cut off.
            lines = [msgspec.json.decode(line, type=_Line) for line in rest[:-1]]
        except (OSError, ValueError) as error:
            _log.warning("the plan journal %s cannot be read and is removed: %s", path, error)
            return None
        facts = header.opened.warehouse
        if header.made_by != self._made_by or facts is None:
            return None
        if time.time() > header.opened_at + facts.lifetime_s:
            return None
        found = tuple((line.number, line.found) for line in lines)
        return Plan(header.spec, header.opened, header.opened_at, found)


def _open_to_append(path: Path) -> BinaryIO:
    """The file, without what a crash left of its last line."""
    file = path.open("r+b", buffering=0)
    file.seek(file.readall().rfind(b"\n") + 1)
    file.truncate()
    return file
