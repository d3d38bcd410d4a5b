"""What a dataset is: inert descriptions that both sides of the socket share.

Nothing here acts. A `DatasetSpec` is plain, hashable data; the daemon resolves it against the
source, and reports what does not fit as a `SpecError`, `ColumnError` or `SourceError`.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, SupportsIndex, TypeVar

from faucet_client.errors import SpecError
from faucet_client.preprocessing.options import FitOptions
from faucet_client.preprocessing.spec import PreprocessingSpec

_Moment = TypeVar("_Moment", dt.date, dt.datetime)

Split = Literal["train", "eval"]
SPLITS: tuple[Split, Split] = ("train", "eval")

SHUFFLES = ("batches", "rows", "none")
ORDERS = ("shared", "deterministic")
REMAINDERS = ("drop", "pad")

CHUNKINGS = ("auto", "arrival", "hash")

PREPROCESSINGS = ("auto", "none")

FIT_ROWS = 1_000_000

FITS_ON = ("auto", "sample", "stream", "warehouse")


@dataclass(frozen=True)
class ParquetSource:
    """Rows of one or more Parquet files on the daemon's filesystem.

    Args:
        path: An absolute path: a file, a folder (its `*.parquet` files) or a glob pattern.
            Several files are one table, in the order of their sorted paths; their schemas must
            agree.
    """

    path: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", _absolute(self.path, "ParquetSource.path"))

    def __str__(self) -> str:
        return f"parquet:{self.path}"


@dataclass(frozen=True)
class DuckDBSource:
    """Rows of a table, view or query of a DuckDB database file, opened read-only.

    Args:
        path: The absolute path of the database file, on the daemon's filesystem.
        table: The name of a table or view, optionally qualified (`schema.table`); or
        query: one SELECT statement. Its result is materialized once, on the daemon's disk.
    """

    path: str
    table: str | None = None
    query: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", _absolute(self.path, "DuckDBSource.path"))
        if (self.table is None) == (self.query is None):
            raise SpecError("DuckDBSource needs exactly one of table= and query=")

    def __str__(self) -> str:
        return f"duckdb:{self.path}:{self.table or 'query'}"


@dataclass(frozen=True)
class BigQuerySource:
    """Rows of a BigQuery table, view or query, read with the daemon's credentials.

    Args:
        table: `project.dataset.table`, or `dataset.table` of the daemon's project: a table, or a
            view, which costs a query; or
        query: one SELECT statement of GoogleSQL. Its result is read, as of when it ran.
        partition_date: Of a table partitioned by ingestion time, the partition to read:
            "2020-01-20". Other forms of ISO 8601 become this one.
        filter: A predicate that rows of `table` must meet, in GoogleSQL, such as
            `country = 'DE' AND day >= '2020-01-01'`. Where the service cannot apply it while
            reading, a query does.
        snapshot: Which moment's rows. By default those of the first open, which later opens of the
            same request join; "new" for those of now; or a time within the table's time travel,
            ISO 8601, as in "2020-01-20T12:00:00Z".
    """

    table: str | None = None
    query: str | None = None
    partition_date: str | None = None
    filter: str | None = None
    snapshot: str | None = None

    def __post_init__(self) -> None:
        for field in ("table", "query", "partition_date", "filter", "snapshot"):
            value = getattr(self, field)
            if value is not None and not (isinstance(value, str) and value.strip()):
                raise SpecError(f"BigQuerySource.{field} must be a text, not {value!r}")
        if (self.table is None) == (self.query is None):
            raise SpecError("BigQuerySource needs exactly one of table= and query=")
        if self.query is not None:
            for field in ("partition_date", "filter"):
                if getattr(self, field) is not None:
                    raise SpecError(f"BigQuerySource.{field} needs table=; write it into the query")
            if self.snapshot not in (None, "new"):
                raise SpecError(
                    'BigQuerySource.snapshot of a query can only be "new"; for another time, '
                    "write FOR SYSTEM_TIME AS OF into the query"
                )
        if self.partition_date is not None:
            # One partition is one dataset, however its date is written.
            date = _iso(self.partition_date, dt.date, "partition_date", '"2020-01-20"')
            object.__setattr__(self, "partition_date", date.isoformat())
        if self.snapshot not in (None, "new"):
            time = _iso(self.snapshot, dt.datetime, "snapshot", '"new" or "2020-01-20T12:00:00Z"')
            if time.tzinfo is None:
                raise SpecError(
                    f"BigQuerySource.snapshot={self.snapshot!r} has no time zone; append Z for UTC"
                )

    def __str__(self) -> str:
        if self.query is not None:
            return f"bigquery:({_beginning(self.query)})"
        at = "" if self.partition_date is None else f"${self.partition_date}"
        where = "" if self.filter is None else f" where {_beginning(self.filter)}"
        return f"bigquery:{self.table}{at}{where}"

    def snapshot_ms(self) -> int | None:
        """The time that `snapshot` asks for, in milliseconds since 1970; None if it names none."""
        if self.snapshot in (None, "new"):
            return None
        return round(dt.datetime.fromisoformat(self.snapshot).timestamp() * 1_000)


Source = ParquetSource | DuckDBSource | BigQuerySource


@dataclass(frozen=True)
class DatasetSpec:
    """A training set: which table, which columns, which rows.

    Args:
        source: Where the rows are.
        features: Columns of numbers, booleans, text or times, of which `preprocessing` makes one
            float32 matrix, and ids: a list of column names, or the name of a STRUCT column whose
            leaves all serve. A leaf of a STRUCT is written `struct.leaf`. May be empty where
            labels or passthrough are not.
        labels: Columns of numbers or booleans, named in the same way; each becomes its own
            float32 `[n, 1]` tensor.
        hash_column: The column whose FarmHash decides the split and the sample; null hashes as the
            empty text. Without one, neither is possible. Integers, NUMERIC, BOOL, text, bytes and
            dates are dealt while the rows are read. Of BigQuery's FLOAT64, TIMESTAMP, DATETIME and
            TIME only BigQuery knows the text: there, they cost a query, and in files they are a
            ColumnError.
        sample_percent: How much of the table to use at all, 0 < s <= 100, in steps of 0.0001.
        eval_percent: How much of the sample is the eval split, 0 <= e < 100; the steps are a
            millionth of the table.
        weight_column: A numeric column that becomes `batch.weights`, float32 `[n]`.
        passthrough: Columns that are handed over as they are (numbers, booleans, dates and
            timestamps as tensors, text as objects); the name of a STRUCT stands for its leaves,
            which are then called without it, and "*" for all of the table, called by their paths.
        exclude_features: Names to leave out of `features`; where `features` is empty, out of the
            leaves of a STRUCT, or of "*", in `passthrough`.
        preprocessing: What becomes of the features. "auto": a `PreprocessingSpec` is fitted to the
            train split when the dataset is opened; a saved spec: what it says, and its features
            must be among `features`; "none": all are numbers or booleans, and are cast to float32,
            in the order of `features`, and nothing else.
        fit: How "auto" fits: types to use whatever the rules say, limits, policies. Refused, as
            are `fit_on` and `fit_rows`, where nothing is fitted.
        fit_on: How "auto" looks at the train split. "sample": it reads about `fit_rows` rows,
            chosen by a hash; "stream": it reads all; "warehouse": the source's engine looks at
            all, by queries (BigQuery, which bills each feature for up to three times its bytes;
            DuckDB). "auto": "warehouse" for BigQuery, where it can be done, else "sample".
        fit_rows: The size of the sample.
        chunk_rows: Rows of the table a chunk, the unit of reading and caching. By default it is
            chosen so that a prepared chunk has at most 64 MiB, and a table at least 16 chunks.
        chunking: How rows come to chunks. "arrival": as they come, in one pass,
            which can be repeated while the warehouse keeps the pass open (BigQuery: 6 hours).
            "hash": by a hash of each row, so that a chunk has rows from all over the table, the
            same on every run; BigQuery writes a table for it, the rows of files are dealt on the
            daemon's disk, once. "auto": of a warehouse, "hash" where the prepared rows exceed the
            daemon's memory budget and it may write such a table, else "arrival"; files are cut
            as they are, into the same chunks on every run, each with neighbouring rows.

    Raises:
        SpecError: if the description contradicts itself.
    """

    source: Source
    features: str | Sequence[str]
    labels: str | Sequence[str] = ()
    hash_column: str | None = None
    sample_percent: float = 100.0
    eval_percent: float = 0.0
    weight_column: str | None = None
    passthrough: Sequence[str] = ()
    exclude_features: Sequence[str] = ()
    preprocessing: str | PreprocessingSpec = "auto"
    fit: FitOptions = dataclasses.field(default_factory=FitOptions)
    fit_on: str = "auto"
    fit_rows: int = FIT_ROWS
    chunk_rows: int | None = None
    chunking: str = "auto"

    def __post_init__(self) -> None:  # noqa: C901  # one line a rule
        if not isinstance(self.source, Source):
            raise SpecError(
                "source must be a BigQuerySource, ParquetSource or DuckDBSource, not "
                f"{self.source!r}"
            )
        for field in ("sample_percent", "eval_percent"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise SpecError(f"{field} must be a number, such as 12.5, not {value!r}")
        for field in ("hash_column", "weight_column"):
            value = getattr(self, field)
            if value is not None and not (isinstance(value, str) and value):
                raise SpecError(f"{field} must be the name of one column, or None, not {value!r}")
        for field in ("features", "labels"):
            value = getattr(self, field)
            if not isinstance(value, str):
                object.__setattr__(self, field, _names(value, field))
        for field in ("passthrough", "exclude_features"):
            object.__setattr__(self, field, _names(getattr(self, field), field))
        if not (self.features or self.labels or self.passthrough):
            raise SpecError("features is empty: name at least one column, or a STRUCT column")
        if not 0 < self.sample_percent <= 100:
            raise SpecError(
                f"sample_percent must be above 0 and at most 100, not {self.sample_percent}"
            )
        if not 0 <= self.eval_percent < 100:
            raise SpecError(
                f"eval_percent must be at least 0 and below 100, not {self.eval_percent}"
            )
        if self.hash_column is None and (self.eval_percent != 0 or self.sample_percent != 100):
            raise SpecError(
                "eval_percent and sample_percent need a hash_column to decide which row goes "
                "where; name one, or use eval_percent=0 and sample_percent=100"
            )
        if self.chunk_rows is not None:
            whole_number("chunk_rows", self.chunk_rows, 1, 2**48)
        if self.chunking not in CHUNKINGS:
            raise SpecError(
                f"chunking must be one of {', '.join(CHUNKINGS)}, not {self.chunking!r}"
            )
        if self.chunking == "arrival" and not isinstance(self.source, BigQuerySource):
            raise SpecError(
                'chunking="arrival" is for warehouses; the rows of files are always where they '
                'are: leave it "auto", which cuts files as they are, or choose "hash"'
            )
        if not isinstance(self.preprocessing, PreprocessingSpec) and (
            self.preprocessing not in PREPROCESSINGS
        ):
            raise SpecError(
                f'preprocessing must be "auto", "none" or a PreprocessingSpec (for a saved one, '
                f"PreprocessingSpec.load(path)), not {self.preprocessing!r:.200}"
            )
        if not isinstance(self.fit, FitOptions):
            raise SpecError(f"fit must be FitOptions, not {self.fit!r:.200}")
        if self.fit_on not in FITS_ON:
            raise SpecError(f"fit_on must be one of {', '.join(FITS_ON)}, not {self.fit_on!r}")
        if self.fit_on == "warehouse" and isinstance(self.source, ParquetSource):
            raise SpecError(
                'fit_on="warehouse" needs an engine that runs queries, and Parquet files have '
                'none: use fit_on="sample" or "stream", or import them into a DuckDB database'
            )
        whole_number("fit_rows", self.fit_rows, 1, 2**40)
        self._check_fits()
        self.split_buckets()

    def split_buckets(self) -> SplitBuckets:
        """The hash buckets of each split: of a thousand where that is exact, else of a million.

        Raises:
            SpecError: a share is smaller than a bucket.
        """
        sample = Fraction(str(self.sample_percent)) / 100
        train = sample * (1 - Fraction(str(self.eval_percent)) / 100)
        buckets = 1_000
        if (sample * buckets).denominator != 1 or (train * buckets).denominator != 1:
            buckets = 1_000_000
        found = SplitBuckets(buckets, round(train * buckets), round(sample * buckets))
        self._check_shares(found)
        return found

    def _check_fits(self) -> None:
        """Refuses what is said of a fit where nothing is fitted: it would be ignored."""
        if self.preprocessing == "auto":
            return
        if self.preprocessing == "none":
            said, remedy = '"none"', ""
        else:
            said, remedy = "a saved spec", ", or change that spec, by its override() and exclude()"
        defaults = {"fit": FitOptions(), "fit_on": "auto", "fit_rows": FIT_ROWS}
        for field, default in defaults.items():
            if getattr(self, field) != default:
                raise SpecError(
                    f'{field} says how preprocessing="auto" fits, and preprocessing is {said}: '
                    f"leave {field} out{remedy}"
                )

    def _check_shares(self, found: SplitBuckets) -> None:
        """Refuses a share that was asked for and rounds to no bucket at all."""
        smallest = 100 / found.buckets
        if found.eval_end == 0:
            raise SpecError(
                f"sample_percent={self.sample_percent} is too small: rows are dealt into "
                f"{found.buckets:,} buckets, so the smallest possible is {smallest:g}"
            )
        if self.eval_percent == 0 or 0 < found.train_end < found.eval_end:
            return
        if found.eval_end == 1:
            raise SpecError(
                f"sample_percent={self.sample_percent} is one of the {found.buckets:,} buckets "
                "that rows are dealt into, and cannot be split: use eval_percent=0, or at least "
                f"sample_percent={2 * smallest:g}"
            )
        # Of the sample, one bucket is this much.
        step = Fraction(100, found.eval_end)
        possible = (
            f"the smallest possible is {_decimal(step)}"
            if found.train_end
            else f"the largest possible is {_decimal(100 - step)}"
        )
        raise SpecError(
            f"eval_percent={self.eval_percent} of sample_percent={self.sample_percent} leaves "
            f"{'the eval' if found.train_end else 'the train'} split nothing: the sample is "
            f"{found.eval_end:,} of the {found.buckets:,} buckets that rows are dealt into, so "
            f"{possible}"
        )


@dataclass(frozen=True)
class SplitBuckets:
    """Half-open ranges of hash buckets: train is [0, train_end), eval is [train_end, eval_end)."""

    buckets: int
    train_end: int
    eval_end: int


def whole_number(name: str, value: object, low: int, high: int) -> None:
    """Refuses what is no whole number from `low` to `high`.

    Raises:
        SpecError: naming the argument and what it may be.
    """
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise SpecError(f"{name} must be a whole number, not {value!r}")
    if not low <= value.__index__() <= high:
        at_most = f" to {high:,}" if high < 2**40 else ""
        raise SpecError(f"{name} must be a whole number from {low}{at_most}, not {value!r}")


def _absolute(path: str | os.PathLike[str], field: str) -> str:
    if not isinstance(path, str | os.PathLike):
        raise SpecError(f"{field} must be a path, not {path!r}")
    text = os.fspath(path)
    if not os.path.isabs(text):
        raise SpecError(
            f"{field} must be an absolute path of the daemon's filesystem, not {text!r}"
        )
    return os.path.normpath(text)


def _iso(text: str, kind: type[_Moment], field: str, example: str) -> _Moment:
    try:
        return kind.fromisoformat(text)
    except ValueError:
        raise SpecError(
            f"BigQuerySource.{field} must be written like {example}, not {text!r}"
        ) from None


def _decimal(share: Fraction) -> str:
    """A percentage to as many places as a bucket of a million needs."""
    return f"{float(share):.6f}".rstrip("0").rstrip(".")


_SHOWN_CHARACTERS = 40
"""Of a query or filter, in the status and in errors."""


def _beginning(text: str) -> str:
    """The beginning of a query or filter, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[: _SHOWN_CHARACTERS - 1]}…"


def _names(value: Sequence[str], field: str) -> tuple[str, ...]:
    if isinstance(value, str):
        raise SpecError(f"{field} must be a list of column names, not the text {value!r}")
    if not isinstance(value, Iterable):
        raise SpecError(f"{field} must be a list of column names, not {value!r}")
    names = tuple(value)
    if not all(type(name) is str and name for name in names):
        raise SpecError(f"{field} must hold names of columns, not {names!r}")
    repeated = sorted(name for name, times in Counter(names).items() if times > 1)
    if repeated:
        raise SpecError(f"{field} names {', '.join(repeated)} more than once")
    return names
