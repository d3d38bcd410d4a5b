"""Spill files: copies of segments on local disk, which outlive the daemon.

    FOLDER/DATASET'S KEY/index              a header, then one line a file that was written
    FOLDER/DATASET'S KEY/17-train.arrow     the bytes of a segment: an Arrow file

Invariants:

- A file has its name once it is whole, and a line in the index after that. What has no line, is not
  of the size that its line says, or is called `.part`, is of a write that never ended.
- The bytes are what the checksum in the line says, or `read` refuses them: files are not flushed,
  so a machine that crashes may keep their names and lose their content.
- A key stands for all that decides the bytes of a dataset, so a file is valid for whoever opens a
  dataset of that key. Where that needs more than the key, the header says so.
- One thread writes and removes; `read` may run in any other at the same time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import xxhash

from faucet_client._memory import page_rounded
from faucet_client._version import __version__
from faucet_client.layout import SegmentLayout
from faucet_client.spec import Split
from faucetd.publish.pages import WritablePages

_log = logging.getLogger(__name__)

BLOCK_NBYTES = 1 << 20
"""Copied, and its checksum taken, at a time: few enough bytes to stay in the processor's cache."""

FORMAT = 1
"""Raised when files of an older daemon can no longer be read."""

_INDEX = "index"
_PART = ".part"
_KEY = re.compile(r"[0-9a-f]{32}")


class SpillCorrupt(Exception):
    """A file is not what was written."""


class SpillCancelled(Exception):
    """The daemon ends before the file was written."""


class Mark(msgspec.Struct, frozen=True):
    """What a dataset's files need, beside its key, to be of use to a later daemon.

    Attributes:
        lasting: Whether the key alone tells the rows: not so of a query that may give others.
        planned: Whether they need the plan journal, which alone knows the rows of each chunk.
    """

    lasting: bool
    planned: bool


class _Header(msgspec.Struct, frozen=True):
    format: int
    version: str
    uid: int
    mark: Mark


class SpillFile(msgspec.Struct, frozen=True):
    """One whole file.

    Attributes:
        size: Its bytes, which end with Arrow's footer; `layout.nbytes` in memory.
        checksum: XXH3, 128 bits, hexadecimal.
    """

    chunk: int
    split: Split
    size: int
    checksum: str
    layout: SegmentLayout

    @property
    def name(self) -> str:
        """What it is called in its dataset's folder."""
        return f"{self.chunk}-{self.split}.arrow"


@dataclass(frozen=True)
class Leftover:
    """What an earlier daemon has left of a dataset: its valid files, and when the last was written.

    `used_at` is in seconds since 1970.
    """

    dataset: str
    files: tuple[SpillFile, ...]
    used_at: float


class SpillFolder:
    """The files under one folder, which is this daemon's alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begun: set[str] = set()  # keys whose index is there

    def sweep(self, of_use: Callable[[str, Mark], bool]) -> list[Leftover]:
        """Removes what is not valid or not `of_use`; what is left, the longest unused first.

        Only looks at names and sizes: content is checked when it is read. Folders that are not
        called like a dataset are not touched.

        Raises:
            OSError: the folder cannot be read or written.
        """
        found = []
        for folder in self.path.iterdir():
            if not (_KEY.fullmatch(folder.name) and folder.is_dir()):
                continue
            leftover = self._sweep_dataset(folder, of_use)
            if leftover is None:
                shutil.rmtree(folder)
            else:
                self._begun.add(folder.name)
                found.append(leftover)
        return sorted(found, key=lambda leftover: leftover.used_at)

    def write(
        self, dataset: str, mark: Mark, chunk: int, split: Split, fd: int, layout: SegmentLayout,
        cancelled: threading.Event,
    ) -> SpillFile:  # fmt: skip
        """Copies a sealed segment to disk.

        Raises:
            OSError: the disk is full or broken; nothing is left of the file.
            SpillCancelled: `cancelled` was set meanwhile; neither.
        """
        folder = self.path / dataset
        part = folder / f"{chunk}-{split}{_PART}"
        try:
            if dataset not in self._begun:
                folder.mkdir(mode=0o700, exist_ok=True)
                header = _Header(FORMAT, __version__, os.getuid(), mark)
                _append(folder / _INDEX, msgspec.json.encode(header) + b"\n")
                self._begun.add(dataset)
            size, checksum = _copy_to(part, fd, cancelled)
            file = SpillFile(chunk, split, size, checksum, layout)
            part.replace(folder / file.name)
            _append(folder / _INDEX, msgspec.json.encode(file) + b"\n")
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise
        return file

    def read(self, dataset: str, file: SpillFile) -> int:
        """The segment in fresh sealed memory; its descriptor is the caller's.

        Raises:
            SpillCorrupt: it is not what was written.
            OSError: it cannot be read, or there is no memory.
        """
        path = self.path / dataset / file.name
        pages = WritablePages(page_rounded(file.size))
        try:
            checksum = _copy_from(path, pages.view().data[: file.size])
            if checksum != file.checksum:
                raise SpillCorrupt(
                    f"the spill file {path} is not what was written: its checksum is {checksum} "
                    f"instead of {file.checksum}"
                )
            os.ftruncate(pages.fd, file.size)
            return pages.seal()
        finally:
            pages.drop()

    def remove(self, dataset: str, chunk: int, split: Split) -> None:
        """Removes one file, if it is there; its line is no harm."""
        (self.path / dataset / f"{chunk}-{split}.arrow").unlink(missing_ok=True)

    def remove_dataset(self, dataset: str) -> None:
        """Removes all files of a dataset."""
        self._begun.discard(dataset)
        shutil.rmtree(self.path / dataset, ignore_errors=True)

    def _sweep_dataset(self, folder: Path, of_use: Callable[[str, Mark], bool]) -> Leftover | None:
        index = _read_index(folder / _INDEX)
        if index is None:
            return None
        header, lines = index
        ours = (header.format, header.version, header.uid) == (FORMAT, __version__, os.getuid())
        if not (ours and header.mark.lasting and of_use(folder.name, header.mark)):
            return None
        by_name = {file.name: file for file in lines}
        files = []
        used_at = 0.0
        for entry in os.scandir(folder):
            if entry.name == _INDEX:
                continue
            file = by_name.get(entry.name)
            info = entry.stat(follow_symlinks=False)
            if (
                file is None
                or not entry.is_file(follow_symlinks=False)
                or info.st_size != file.size
            ):
                _remove(entry)
                continue
            files.append(file)
            used_at = max(used_at, info.st_mtime)
        if not files:
            return None
        files.sort(key=lambda file: (file.chunk, file.split))
        # In any case: what comes after a line that was cut off would be part of it.
        _rewrite(folder / _INDEX, header, files)
        return Leftover(folder.name, tuple(files), used_at)


def _read_index(path: Path) -> tuple[_Header, list[SpillFile]] | None:
    """None if it cannot be read; the last line may have been cut off."""
    try:
        first, *rest = path.read_bytes().split(b"\n")[:-1]
        header = msgspec.json.decode(first, type=_Header)
        return header, [msgspec.json.decode(line, type=SpillFile) for line in rest]
    except (OSError, ValueError) as error:
        _log.warning("the spill files of %s are removed: their index: %s", path.parent, error)
        return None


def _rewrite(path: Path, header: _Header, files: list[SpillFile]) -> None:
    part = path.with_suffix(_PART)
    part.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in [header, *files]))
    part.replace(path)


def _remove(entry: os.DirEntry[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path)
    else:
        os.unlink(entry.path)


def _copy_to(path: Path, fd: int, cancelled: threading.Event) -> tuple[int, str]:
    """Copies all of `fd` to a new file; how many bytes, and their checksum."""
    digest = xxhash.xxh3_128()
    block = memoryview(bytearray(BLOCK_NBYTES))
    position = 0
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        while count := os.preadv(fd, [block], position):
            if cancelled.is_set():
                raise SpillCancelled
            digest.update(block[:count])
            _write_all(target, block[:count])
            position += count
    finally:
        os.close(target)
    return position, digest.hexdigest()


def _copy_from(path: Path, memory: memoryview) -> str:
    """Fills `memory` from a file of just so many bytes; their checksum.

    Raises:
        SpillCorrupt: the file is shorter.
    """
    digest = xxhash.xxh3_128()
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        position = 0
        while position < len(memory):
            block = memory[position : position + BLOCK_NBYTES]
            count = os.readv(source, [block])
            if not count:
                raise SpillCorrupt(
                    f"the spill file {path} has {position:,} bytes instead of {len(memory):,}"
                )
            digest.update(block[:count])
            position += count
    finally:
        os.close(source)
    return digest.hexdigest()


def _append(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        _write_all(fd, memoryview(data))
    finally:
        os.close(fd)


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]
