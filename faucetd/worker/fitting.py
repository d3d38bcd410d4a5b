"""The preprocessing spec of a dataset that is being opened: given, found on disk, or fitted now.

A fitted spec is kept under its **request key**: a hash of all that decides it (specs.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from faucet_client.preprocessing import count
from faucet_client.preprocessing.hashing import mixed
from faucet_client.preprocessing.options_json import options_to_json
from faucet_client.preprocessing.spec import PreprocessingSpec
from faucet_client.profile import Profile, profile_of
from faucet_client.spec import DatasetSpec
from faucetd.errors import ColumnError, SpecError
from faucetd.fetch.fingerprint import row_fingerprints
from faucetd.fetch.pieces import Piece
from faucetd.fetch.source import Source
from faucetd.fetch.split import Splitter, read_split
from faucetd.prepare.columns import PreparedColumns, SourceColumn
from faucetd.prepare.fitting import Fitter, RowsToLookAt, share_of
from faucetd.worker.by_query import Engine, QueryFit, Scans
from faucetd.worker.messages import Open
from faucetd.worker.specs import SpecStore

FIT_VERSION = 1
"""Part of every request key: raised when the same rows would give another spec."""

MAX_FITTED_NBYTES = 15 << 20
"""The most JSON of a fitted spec: clients take replies of 16 MiB."""

PROFILE_ROWS = 20_000
"""Rows of the train split that a profile is of, about; of the eval split the same share."""

PROFILE_STREAMS = 16
"""From so many streams at most, where only the first rows are read for a profile."""

OnProgress = Callable[[int], None]

TrainRows = tuple[Source, Splitter | None, int]
"""Rows, what tells their splits, and how many are of the train split, about."""

SAMPLE, STREAM, WAREHOUSE = "sample", "stream", "warehouse"
"""Where a spec is fitted: to a sample that is read, to all rows, or by queries."""


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
        key: The request key of the fit; "" where nothing was fitted.
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
        self.key = ""
        if isinstance(spec.preprocessing, PreprocessingSpec):
            self.columns = columns.with_spec(spec.preprocessing)

    @property
    def needed(self) -> bool:
        """Whether rows must be looked at, by `fit`."""
        return self._spec.preprocessing == "auto" and bool(self.columns.features)

    @property
    def by_query(self) -> bool:
        """Whether queries can fit all features: they cannot count what is in lists.

        Raises:
            ColumnError: they are asked for, and cannot.
        """
        lists = [f.source for f in self.columns.features if pa.types.is_nested(f.type)]
        if lists and self._spec.fit_on == WAREHOUSE:
            raise ColumnError(
                f'fit_on="{WAREHOUSE}" cannot fit columns of lists, such as {lists[0]}: use '
                f'fit_on="{SAMPLE}" or "{STREAM}", or leave them out (exclude_features)'
            )
        return not lists

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
            SpecError: there is no row to fit to, or the spec is too large to be served.
            FaucetError: see `fetch`.
        """

        def read_and_fit() -> tuple[PreprocessingSpec, Profile]:
            return self._read(source, splitter, train_rows, on_progress)

        self._get(snapshot, STREAM if self._spec.fit_on == STREAM else SAMPLE, read_and_fit)
        return self.rows_read > 0

    def fit_by_query(
        self,
        engine: Engine,
        snapshot: str,
        before: Callable[[Scans], None],
        rows: Callable[[], TrainRows],
    ) -> int:
        """Finds the spec, on disk or by queries; how many were run.

        Args:
            engine: Where the rows of the train split are.
            snapshot: Identifies the rows.
            before: Is told what the queries are, if any are to be run.
            rows: Where some rows can be read, for the profile.

        Raises:
            ColumnError: a column cannot be fitted.
            FaucetError: see `fetch`.
            Exception: whatever `engine` and `before` raise where another place must be taken.
        """
        fit = QueryFit(self.columns.features, self._spec.fit, engine)

        def query_and_fit() -> tuple[PreprocessingSpec, Profile]:
            before(fit.scans())
            fitted = fit.spec()
            source, splitter, train_rows = rows()
            return fitted, self._profile(fitted, self._first_rows(source, splitter), train_rows)

        self._get(snapshot, WAREHOUSE, query_and_fit)
        return fit.queries

    def _get(
        self, snapshot: str, place: str, fit: Callable[[], tuple[PreprocessingSpec, Profile]]
    ) -> None:
        self.key = _request_key(self._spec, self.columns, snapshot, str(self._task.uid), place)
        found = SpecStore(self._task.access.specs_dir).get(self.key, fit)
        self.columns = self.columns.with_spec(found)

    def _read(
        self,
        source: Source,
        splitter: Splitter | None,
        train_rows: int,
        on_progress: OnProgress,
    ) -> tuple[PreprocessingSpec, Profile]:
        spec = self._spec
        share = 1.0 if spec.fit_on == STREAM else share_of(spec.fit_rows, train_rows)
        look_share = share_of(PROFILE_ROWS, train_rows)
        fitter = Fitter(self.columns.features, spec.fit, share, look_share)
        wanted = self._wanted(splitter)
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
        if not fitter.rows:
            raise SpecError(self._nothing_to_fit_to(share, train_rows))
        fitted = fitter.spec()
        _check_size(fitted)
        return fitted, self._profile(fitted, fitter.looked_at, train_rows)

    def _first_rows(self, source: Source, splitter: Splitter | None) -> RowsToLookAt:
        """The first rows of some streams: few bytes, and good enough to look at."""
        found = RowsToLookAt(self.columns.features, 1.0)
        streams = source.streams()
        some = streams[:: -(-len(streams) // PROFILE_STREAMS)] if streams else ()
        for stream in some:
            stop = min(stream.start - (-PROFILE_ROWS // len(some)), stream.stop)
            piece = Piece(stream.id, stream.start, stop, open=source.interleaves)
            for _, batch, codes, _ in read_split(source, [piece], self._wanted(splitter), splitter):
                found.add(batch, codes, np.zeros(batch.num_rows, np.uint64))
                self.bytes_read += batch.nbytes
        return found

    def _wanted(self, splitter: Splitter | None) -> list[str]:
        wanted = list(self.source_columns)
        if splitter is not None and splitter.hash_column not in wanted:
            wanted.append(splitter.hash_column)
        return wanted

    def _nothing_to_fit_to(self, share: float, train_rows: int) -> str:
        spec = self._spec
        what = f"the preprocessing of {_listing(self.columns.features)} cannot be fitted: "
        if share < 1:
            return what + (
                f"fit_rows={spec.fit_rows:,} chose none of about {train_rows:,} train rows; raise "
                'it, or set fit_on="stream"'
            )
        return what + (
            f"the train split has no rows. With eval_percent={spec.eval_percent:g} and "
            f"sample_percent={spec.sample_percent:g}, no value of "
            f"hash_column={spec.hash_column!r} falls into it: choose a column with more distinct "
            "values, or other percentages, or give a PreprocessingSpec that was fitted before"
        )

    def _profile(
        self, fitted: PreprocessingSpec, looked_at: RowsToLookAt, train_rows: int
    ) -> Profile:
        columns = {feature.name: feature for feature in self.columns.features}
        train = looked_at.columns("train")
        return profile_of(
            fitted,
            train or {name: np.empty(0) for name in fitted.feature_names},
            looked_at.columns("eval"),
            source=str(self._spec.source),
            key=self.key,  # clients know the dataset's, and its rows
            rows={"train": train_rows},
            bytes_read=self.bytes_read,
            source_types={name: str(columns[name].type) for name in fitted.feature_names},
            policies={} if train is None else _applied(fitted, train),
        )


def _applied(fitted: PreprocessingSpec, columns: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """What was done to how many of these rows, by feature, in words."""
    found = {}
    for name, counts in count(fitted, columns).items():
        rows = {
            "infinite, taken as missing": counts.infinite,
            "imputed": counts.imputed,
            "clipped": counts.clipped,
            "not in the vocabulary": counts.unseen,
        }
        found[name] = {policy: times for policy, times in rows.items() if times}
    return found


def _check_size(fitted: PreprocessingSpec) -> None:
    nbytes = len(fitted.to_json().encode())
    if nbytes > MAX_FITTED_NBYTES:
        largest = max(fitted.features, key=lambda feature: len(repr(feature.transform)))
        raise SpecError(
            f"the fitted preprocessing has {nbytes:,} bytes of JSON, and at most "
            f'{MAX_FITTED_NBYTES:,} can be served; column "{largest.name}", a '
            f"{largest.transform.type}, has most of them: lower max_categories, raise "
            "min_category_count, or choose HASHED for it in feature_overrides"
        )


def _listing(columns: Sequence[SourceColumn], shown: int = 5) -> str:
    more = f" and {len(columns) - shown} more columns" if len(columns) > shown else ""
    return ", ".join(f'"{column.source}"' for column in columns[:shown]) + more


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
