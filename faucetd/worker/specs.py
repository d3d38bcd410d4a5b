"""Fitted preprocessing specs and their profiles, on disk, by the request key of the fit.

Who asks for the same fit while it is under way waits for it (a lock on the file beside), in
whichever worker; later daemons find it too. They are small, and one that was not asked for in a
month is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from faucet_client.errors import ConfigError, SpecError
from faucet_client.preprocessing.spec import PreprocessingSpec
from faucet_client.profile import Profile

_log = logging.getLogger(__name__)

KEPT_S = 30 * 86_400.0


def profile_path(specs_dir: str | Path, key: str) -> Path:
    """Where the profile of a fit is, by its request key."""
    return Path(specs_dir) / f"{key}.profile.json"


class SpecStore:
    """Fitted specs on disk, by request key."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def get(
        self, key: str, fit: Callable[[], tuple[PreprocessingSpec, Profile]]
    ) -> PreprocessingSpec:
        """The spec of that key; `fit` makes it where it is not there, once for all who ask.

        Its profile is written first, beside it: where the spec is, the profile is.

        Raises:
            ConfigError: the folder cannot be used, or is full.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked(key):
                found = self._read(key)
                if found is None:
                    found, profile = fit()
                    profile_path(self._folder, key).write_text(profile.to_json(), encoding="utf-8")
                    found.save(self._path(key))
                    self._remove_old()
                return found
        except OSError as error:
            raise ConfigError(
                f"the fitted preprocessing cannot be kept in {self._folder}: {error}; make room "
                "there, or choose another scratch_dir"
            ) from error

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.json"

    def _read(self, key: str) -> PreprocessingSpec | None:
        path = self._path(key)
        try:
            found = PreprocessingSpec.load(path)
        except FileNotFoundError:
            return None
        except SpecError as error:
            _log.warning("a stored preprocessing spec is fitted anew: %s", error)
            return None
        profile = profile_path(self._folder, key)
        if not profile.exists() or not profile.stat().st_size:  # empty after a power failure
            _log.warning("%s is missing, and made anew with its spec", profile)
            return None
        for used in (path, profile):
            os.utime(used)
        return found

    @contextlib.contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        descriptor = os.open(
            self._folder / f"{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # the kernel lets go of it if this worker dies
            yield
        finally:
            os.close(descriptor)

    def _remove_old(self) -> None:
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another worker was faster
                if time.time() - path.stat().st_mtime > KEPT_S:
                    path.unlink()
