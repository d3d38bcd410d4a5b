"""The folders of dealt rows, as the daemon's main process looks after them: it removes them.

Workers make them (worker/dealing.py). A folder goes when no open dataset uses it any more; at the
daemon's start, those that nobody has finished, and those whose source has changed, since nobody can
ask for them again. Others are left, for whoever asks for the same again.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Container
from pathlib import Path

from faucetd.fetch.manifest import read_manifest

_log = logging.getLogger(__name__)


class DealtFolders:
    """All folders of dealt rows of one daemon; to be made before any worker has started.

    Args:
        folder: Where they are; need not exist. What is of no use there is removed.
        budget_bytes: What they may take; by default half of what is free beside them.

    Attributes:
        folder: The same.
        budget_bytes: What they may take.
        since: What was not used since then is used by no dataset of this daemon; seconds since
            1970.
    """

    def __init__(self, folder: Path, budget_bytes: int | None) -> None:
        self.folder = folder
        self.since = time.time()
        self._left: set[str] = set()
        self._clean()
        self.budget_bytes = _half_of_free(folder) if budget_bytes is None else budget_bytes

    def _clean(self) -> None:
        entries = list(self.folder.iterdir()) if self.folder.exists() else []
        for entry in entries:
            if not entry.is_dir():
                entry.unlink(missing_ok=True)  # a lock, which nobody holds now
                continue
            manifest = read_manifest(entry)
            if manifest is None or not manifest.source_unchanged():
                _log.info("%s is removed: no dataset can use it", entry)
                shutil.rmtree(entry, ignore_errors=True)

    def leave(self, name: str) -> None:
        """A dataset does not use the folder any more; `sweep` removes it."""
        self._left.add(name)

    def sweep(self, in_use: Container[str]) -> None:
        """Removes folders that were left, unless they are in use; while no dataset is opened."""
        for name in self._left:
            if name not in in_use:
                shutil.rmtree(self.folder / name, ignore_errors=True)
        self._left.clear()


def _half_of_free(folder: Path) -> int:
    taken = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return (shutil.disk_usage(place).free + taken) // 2
