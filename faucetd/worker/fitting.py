"""The preprocessing spec of a dataset that is being opened: given, found on disk, or fitted now.

A fitted spec is kept under its **request key**: a hash of all that decides it. Who asks for the
same fit while it is under way waits for it (a lock on the file beside), in whichever worker; later
daemons find it too. Specs are small, and one that was not asked for in a month is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faucet_client.preprocessing.hashing import mixed
from faucet_client.preprocessing.options_json import options_to_json
from faucet_client.preprocessing.spec import PreprocessingSpec
from faucet_client.spec import DatasetSpec
from faucetd.errors import SpecError
from faucetd.fetch.fingerprint import row_fingerprints
from faucetd.fetch.pieces import Piece
from faucetd.fetch.source import Source
from faucetd.fetch.split import Splitter, read_split
from faucetd.prepare.columns import PreparedColumns
from faucetd.prepare.fitting import Fitter, share_of
from faucetd.worker.by_query import Engine, QueryFit, Scans
from faucetd.worker.messages import Open

_log = logging.getLogger(__name__)

FIT_VERSION = 1
"""Part of every request key: raised when the same rows would give another spec."""

KEPT_S = 30 * 86_400.0

OnProgress = Callable[[int], None]

SAMPLE, STREAM, WAREHOUSE = "sample", "stream", "warehouse"
"""Where a spec is fitted: to a sample that is read, to all rows, or by queries."""


class SpecStore:
    """Fitted specs on disk, by request key."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def get(self, key: str, fit: Callable[[], PreprocessingSpec]) -> PreprocessingSpec:
        """The spec of that key; `fit` makes it where it is not there, once for all who ask."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked(key):
            found = self._read(key)
            if found is None:
                found = fit()
                found.save(self._path(key))
                self._remove_old()
            return found

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
        os.utime(path)
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


class Fitting:
    """The fit of one dataset that is being opened.

    Args:
        task: What is opened.
        spec: The same, read.
        columns: What it is made of, not preprocessed yet.

    Attributes:
        columns: The same, preprocessed from when that is known.
        rows_read: Rows that fitting has read of the source, beside what passes read.
        bytes_read: Of these, the bytes.
    """

    def __init__(self, task: Open, spec: DatasetSpec, columns: PreparedColumns) -> None:
        """Takes a spec that was given.

        Raises:
            ColumnError: it is for other columns.
        """
        self._task = task
        self._spec = spec
        self.columns = columns
        self.rows_read = self.bytes_read = 0
        if isinstance(spec.preprocessing, PreprocessingSpec):
            self.columns = columns.with_spec(spec.preprocessing)

    @property
    def needed(self) -> bool:
        """Whether rows must be looked at, by `fit`."""
        return self._spec.preprocessing == "auto" and bool(self.columns.features)

    @property
    def source_columns(self) -> tuple[str, ...]:
        """The columns that `fit` looks at, by path."""
        return tuple(dict.fromkeys(feature.source for feature in self.columns.features))

    def fit(
        self,
        source: Source,
        splitter: Splitter | None,
        snapshot: str,
        train_rows: int,
        on_progress: OnProgress,
    ) -> bool:
        """Finds the spec, on disk or by reading; whether it has read.

        Args:
            source: Where the rows are.
            splitter: Tells which are of the train split; None if all are.
            snapshot: Identifies the rows.
            train_rows: How many are of the train split, at least roughly, but always the same for
                a snapshot: it decides which rows are chosen.
            on_progress: Is told how many rows were read.

        Raises:
            ColumnError: a column cannot be fitted.
            FaucetError: see `fetch`.
        """

        def read_and_fit() -> PreprocessingSpec:
            return self._read(source, splitter, train_rows, on_progress)

        self._get(snapshot, STREAM if self._spec.fit_on == STREAM else SAMPLE, read_and_fit)
        return self.rows_read > 0

    def fit_by_query(self, engine: Engine, snapshot: str, before: Callable[[Scans], None]) -> int:
        """Finds the spec, on disk or by queries; how many were run.

        Args:
            engine: Where the rows of the train split are.
            snapshot: Identifies the rows.
            before: Is told what the queries are, if any are to be run.

        Raises:
            ColumnError: a column cannot be fitted.
            FaucetError: see `fetch`.
            Exception: whatever `engine` and `before` raise where another place must be taken.
        """
        fit = QueryFit(self.columns.features, self._spec.fit, engine)

        def query_and_fit() -> PreprocessingSpec:
            before(fit.scans())
            return fit.spec()

        self._get(snapshot, WAREHOUSE, query_and_fit)
        return fit.queries

    def _get(self, snapshot: str, place: str, fit: Callable[[], PreprocessingSpec]) -> None:
        key = _request_key(self._spec, self.columns, snapshot, str(self._task.uid), place)
        found = SpecStore(self._task.access.specs_dir).get(key, fit)
        self.columns = self.columns.with_spec(found)

    def _read(
        self,
        source: Source,
        splitter: Splitter | None,
        train_rows: int,
        on_progress: OnProgress,
    ) -> PreprocessingSpec:
        spec = self._spec
        share = 1.0 if spec.fit_on == STREAM else share_of(spec.fit_rows, train_rows)
        fitter = Fitter(self.columns.features, spec.fit, share)
        wanted = list(self.source_columns)
        if splitter is not None and splitter.hash_column not in wanted:
            wanted.append(splitter.hash_column)
        # Of a warehouse, only the values tell a row from another, whichever stream it comes in.
        pieces = [[Piece(stream.id, stream.start, stream.stop)] for stream in source.streams()]
        if source.interleaves:
            pieces = [[piece for (piece,) in pieces]]
        for together in pieces:
            salt = _salt(together[0].stream)
            for _, batch, codes, position in read_split(source, together, wanted, splitter):
                keys = (
                    row_fingerprints(batch)
                    if source.interleaves
                    else _row_keys(position - batch.num_rows, position, salt)
                )
                fitter.add(batch, codes, keys)
                self.rows_read += batch.num_rows
                self.bytes_read += batch.nbytes
                on_progress(self.rows_read)
        return fitter.spec()


def _row_keys(first: int, stop: int, salt: np.uint64) -> NDArray[np.uint64]:
    """A hash of where each row stands in its stream, which is the same at one snapshot."""
    return mixed(np.arange(first, stop, dtype=np.uint64) ^ salt)


def _salt(stream: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=8).digest()))


def _request_key(
    spec: DatasetSpec, columns: PreparedColumns, snapshot: str, principal: str, place: str
) -> str:
    buckets = spec.split_buckets()
    decides = {
        "source": str(spec.source),
        "described": sorted((key, str(value)) for key, value in vars(spec.source).items()),
        "snapshot": snapshot,
        "principal": principal,
        "features": [(f.name, f.source, str(f.type)) for f in columns.features],
        "hash_column": columns.hash_column,
        "train": (buckets.buckets, buckets.train_end),
        "options": options_to_json(spec.fit),
        "fit_on": place,
        "fit_rows": spec.fit_rows,
        "version": FIT_VERSION,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]
