"""The plan journal: what must outlive the daemon so that its trainers can go on.

The chunks of a warehouse's table are found while they are read, and another read would deal the
rows to other chunks. So each chunk is written down before the first grant from it, in a file a
dataset; a daemon that is started again reads the same rows as the same chunks, for as long as the
warehouse keeps the read session.

A file has a header, and one line a chunk that was found. Lines are appended whole; what a crash cut
off at the end was granted to nobody. Written data survives the daemon, not the machine, whose end
no trainer survives either, so nothing waits for the disk. No file is kept open: there may be many.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable, Container, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

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
        self._whole: set[str] = set()  # keys of files that are known to end with a whole line
        self._specs: dict[str, dict[str, Any]] = {}  # by key: of files of earlier daemons

    def begin(self, spec: dict[str, Any], opened: Opened, opened_at: float) -> None:
        """Writes down a dataset that was opened.

        Raises:
            OSError: it cannot be written.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(opened.key)
        part = path.with_suffix(_PART)
        header = _Header(self._made_by, opened_at, spec, opened)
        try:
            _append(part, msgspec.json.encode(header) + b"\n")
            part.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise
        self._whole.add(opened.key)

    def append(self, key: str, number: int, found: FoundChunk) -> None:
        """Writes down a chunk that was found.

        Raises:
            OSError: it cannot be written; then the plan must be forgotten.
        """
        path = self._path(key)
        if key not in self._whole:
            _cut_off_last_line(path)
            self._whole.add(key)
        try:
            _append(path, msgspec.json.encode(_Line(number, found)) + b"\n", os.O_WRONLY)
        except OSError:
            self._whole.discard(key)
            raise

    def plans(
        self,
        wanted: Callable[[dict[str, Any]], bool],
        known: Container[str] = (),
        held: Callable[[str], bool] = lambda _key: False,
    ) -> Iterator[Plan]:
        """The plans whose spec is `wanted`, but for those of `known` keys.

        One that the warehouse will let nobody read any more is of use as long as disk has what was
        made by it, which `held` says of a key.

        Files that serve nobody any more are removed. Of the others the header alone is read, and
        that once: a plan may have many thousand lines, and whoever asks is kept waiting.
        """
        for path in self._folder.glob(f"*{_PART}"):
            path.unlink(missing_ok=True)
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            if path.stem in known:
                continue
            if path.stem in self._specs and not wanted(self._specs[path.stem]):
                continue
            header = self._read_header(path, expires=not held(path.stem))
            plan = None
            if header is not None:
                self._specs[path.stem] = header.spec
                if not wanted(header.spec):
                    continue
                plan = _read_plan(path, header)
            if plan is not None:
                yield plan
            else:
                self.forget(path.stem)

    def has(self, key: str) -> bool:
        """Whether there is a plan of this key; it may prove useless."""
        return self._path(key).exists()

    def forget(self, key: str) -> None:
        """The dataset is gone, or its plan is of no use any more."""
        self._whole.discard(key)
        self._specs.pop(key, None)
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as error:
            _log.warning("the plan journal %s cannot be removed: %s", self._path(key), error)
        with contextlib.suppress(OSError):
            self._folder.rmdir()  # if it was the last

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}{_SUFFIX}"

    def _read_header(self, path: Path, *, expires: bool) -> _Header | None:
        """None if the plan is of no use any more."""
        try:
            with path.open("rb") as file:
                header = msgspec.json.decode(file.readline(), type=_Header)
        except (OSError, ValueError) as error:
            _log.warning("the plan journal %s cannot be read and is removed: %s", path, error)
            return None
        facts = header.opened.warehouse
        if header.made_by != self._made_by or facts is None:
            return None
        if expires and time.time() > header.opened_at + facts.lifetime_s:
            return None
        return header


def _read_plan(path: Path, header: _Header) -> Plan | None:
    """None if it cannot be read."""
    try:
        # The last line is empty, or was cut off.
        rest = path.read_bytes().split(b"\n")[1:-1]
        lines = [msgspec.json.decode(line, type=_Line) for line in rest]
    except (OSError, ValueError) as error:
        _log.warning("the plan journal %s cannot be read and is removed: %s", path, error)
        return None
    found = tuple((line.number, line.found) for line in lines)
    return Plan(header.spec, header.opened, header.opened_at, found)


def _append(path: Path, data: bytes, flags: int = os.O_WRONLY | os.O_CREAT | os.O_TRUNC) -> None:
    """Writes at the end of a file, all or an OSError.

    A full disk takes what still fits of a write, and says so by the count alone.
    """
    fd = os.open(path, flags | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        if (written := os.write(fd, data)) < len(data):
            raise OSError(f"of {len(data):,} bytes, {written:,} could be written: no space is left")
    finally:
        os.close(fd)


def _cut_off_last_line(path: Path) -> None:
    """Removes what a crash left of the file's last line."""
    with path.open("r+b", buffering=0) as file:
        file.truncate(file.readall().rfind(b"\n") + 1)
