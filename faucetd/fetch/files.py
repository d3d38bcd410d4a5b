"""What a file looked like when it was opened, and whether it still does.

The embedded sources have no snapshots of their own, so the files' size, time of change and inode
stand in for one. A reader compares them after each batch, not before: the kernel stamps a file
before it changes its bytes, so an unchanged stamp afterwards vouches for what was read. What
escapes is a change in place, of the same size, within one tick of the filesystem's clock.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass

from faucetd.errors import SourceChanged, SourceError, SourceForbidden, SourceNotFound


@dataclass(frozen=True)
class FileState:
    """A file's identity and version; `size` is -1 for a file that does not exist."""

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int  # nobody can put it back, as tools do with the other one
    inode: int
    device: int

    @classmethod
    def of(cls, path: str, *, may_be_missing: bool = False) -> FileState:
        """The state of the file at `path` now.

        Raises:
            SourceNotFound: there is no such file, unless it `may_be_missing`.
            SourceForbidden: the daemon's user may not look at it.
        """
        try:
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            if may_be_missing:
                return cls(path, -1, 0, 0, 0, 0)
            raise SourceNotFound(f"there is no file {path} on the daemon's filesystem") from None
        except PermissionError:
            raise forbidden(path) from None
        return cls(
            path,
            found.st_size,
            found.st_mtime_ns,
            found.st_ctime_ns,
            found.st_ino,
            found.st_dev,
        )

    def check_unchanged(self) -> None:
        """Compares the file with this state.

        Raises:
            SourceChanged: the file was written to, replaced or removed since.
        """
        try:
            now = FileState.of(self.path, may_be_missing=True)
        except SourceError as error:
            raise SourceChanged(f"{self.path} can no longer be read: {error}") from error
        if now == self:
            return
        if now.size < 0:
            how = "was removed"
        elif now.inode != self.inode:
            how = "was replaced by another file"
        else:
            how = f"was written to (it had {self.size:,} bytes, and now has {now.size:,})"
        raise SourceChanged(
            f"{self.path} {how} since the dataset was opened; "
            "open the dataset again to train on what it holds now"
        )


def snapshot_of(states: Iterable[FileState]) -> str:
    """A snapshot's name: a hash over the states and their order, which is that of the rows."""
    digest = hashlib.sha256()
    for state in states:
        digest.update(
            f"{state.path}\0{state.size} {state.mtime_ns} {state.ctime_ns} "
            f"{state.inode} {state.device}\n".encode(errors="surrogateescape")
        )
    return digest.hexdigest()[:32]


def forbidden(path: str) -> SourceForbidden:
    """The error for a file that the permissions of its filesystem keep from the daemon."""
    return SourceForbidden(
        f"the daemon's user (uid {os.geteuid()}) has no permission to read {path}; "
        "change the file's permissions, or run the daemon as a user who may read it"
    )
