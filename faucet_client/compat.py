"""The interface of 2020 over datasets of now, so that a training script of then runs again.

    from faucet_client import get_client

    fml = get_client("bigquery", "bq_creds.json", "project.dataset.table", test_split_percent=20)
    fml.prep_for_epoch()
    batch = fml.get_batch()
    while batch is not None:
        train(batch)                        # {"features": DataFrame, "labels": DataFrame, …}
        batch = fml.get_batch()

A table of 2020 has a column `hash_on`, which decides the split, and two STRUCT columns, `features`
and `labels`, whose leaves are the columns of the frames. All else a `DatasetSpec` can say better.

What the frames hold, and in which dtypes, _frames.py says. Preprocessing comes with a later
release; until then all that needs it raises `NotYetAvailable`.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from faucet_client._frames import Column, columns_of, frame, import_pandas, joined
from faucet_client.batches import BatchIterator, batches_in
from faucet_client.channel import DatasetInfo
from faucet_client.dataset import Dataset, FaucetClient, Share, Wish
from faucet_client.errors import (
    AccessDenied,
    ColumnError,
    DatasetInUse,
    DatasetNotFound,
    FaucetError,
    IteratorError,
    NotYetAvailable,
    SpecError,
)
from faucet_client.spec import BigQuerySource, DatasetSpec, Source, Split, whole_number

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)

__all__ = ["DataReader", "get_batch_reader", "get_client", "get_data_reader"]

_LARGEST_CHUNK_ROWS = 1024 * 100
"""The old default of `chunk_size`. From here on the daemon knows better: it goes by bytes."""

_SMALLEST_CHUNK_ROWS = 8 * 1024
"""Smaller chunks cost more to hand around than they save, and there can only be so many."""

_ADHOC_BATCH_ROWS = 64 * 1024

_DROP_S = 0.5
"""So long the dataset of a query is given to come free, after which the daemon forgets it later."""


def get_client(
    datastore: str,
    credential_path: str | os.PathLike[str] | None,
    table_name: str,
    ds: str | None = None,
    epochs: int = 1,
    batch_size: int = 1024,
    chunk_size: int = 1024 * 100,
    exclude_features: Sequence[str] | None = None,
    table_sample_percent: float | None = None,
    test_split_percent: float | None = None,
    skip_small_batches: bool = True,
    faucet_core_url: str | None = None,
    faucet_batch_serving_url: str | None = None,
    faucet_project: str | None = None,
) -> DataReader:
    """Opens a table of 2020's shape through the daemon at FAUCET_ADDRESS, or at its default.

    Args:
        datastore: "bigquery"; for other sources see `FaucetClient.open`.
        credential_path: A key file, of which only the `client_email` is looked at: rows are read
            with the daemon's credentials, and this must be theirs. A file that does not exist is
            no error.
        table_name: `project.dataset.table`.
        ds: The partition to read, of a table partitioned by ingestion time: "2020-01-20".
        epochs: How many epochs the caller means to train; for the log alone.
        batch_size: Rows a batch.
        chunk_size: Rows of a chunk, the daemon's unit of reading and caching, as an upper hint:
            102,400 and more lets the daemon choose, and fewer than 8,192 is taken for 8,192. It
            need not be a multiple of `batch_size`.
        exclude_features: Leaves of `features` to leave out.
        table_sample_percent: How much of the table to use at all; None for 100.
        test_split_percent: How much of the sample is for evaluation; None for 0.
        skip_small_batches: Leave out a last batch that would be short.
        faucet_core_url: Of a feature store, which is not supported yet; so are the next two.
        faucet_batch_serving_url: See `faucet_core_url`.
        faucet_project: See `faucet_core_url`.

    Raises:
        SpecError: an argument is out of its range, or no batch can be made.
        NotYetAvailable: a feature store was asked for.
        ColumnError: the table is not of 2020's shape, or has a column that cannot be handed over.
        AccessDenied: the daemon reads as somebody else than `credential_path` says.
        FaucetError: see `FaucetClient` and `FaucetClient.open`.
        ImportError: pandas is not installed.
    """
    import_pandas()
    if datastore != "bigquery":
        raise SpecError(
            f'datastore must be "bigquery", not {datastore!r}. Parquet files and DuckDB databases '
            "are opened with FaucetClient().open(DatasetSpec(ParquetSource(...), ...))"
        )
    if not (faucet_core_url is faucet_batch_serving_url is faucet_project is None):
        raise NotYetAvailable(
            "faucet_core_url, faucet_batch_serving_url and faucet_project name a feature store "
            "(Feast), which is to come; until then leave them out, and name a table that has the "
            "features"
        )
    pace = _Pace(epochs, batch_size, skip_small_batches)
    whole_number("chunk_size", chunk_size, 1, 2**48)
    eval_percent = _percent("test_split_percent", test_split_percent, 0.0)
    sample_percent = _percent("table_sample_percent", table_sample_percent, 100.0)
    if not 0 <= eval_percent < 100:
        raise SpecError(f"test_split_percent must be from 0 to below 100, not {eval_percent}")
    if not 0 < sample_percent <= 100:
        raise SpecError(
            f"table_sample_percent must be above 0 and at most 100, not {sample_percent}"
        )
    spec = DatasetSpec(
        source=_table(table_name, None if ds is None else str(ds)),
        features=(),
        passthrough=("features", "labels"),
        hash_column=None if (sample_percent, eval_percent) == (100, 0) else "hash_on",
        sample_percent=sample_percent,
        eval_percent=eval_percent,
        exclude_features=_feature_paths(exclude_features),
        chunk_rows=(
            max(chunk_size, _SMALLEST_CHUNK_ROWS) if chunk_size < _LARGEST_CHUNK_ROWS else None
        ),
    )
    client = FaucetClient()
    try:
        dataset = _open(client, spec)
        _check_principal(credential_path, dataset)
        return DataReader(client, dataset, pace)
    except BaseException:
        client.close()
        raise


get_batch_reader = get_client
"""What `get_client` was called before."""

get_data_reader = get_client
"""What `get_client` was called before."""


@dataclass(frozen=True)
class _Pace:
    """How the caller wants to read."""

    epochs: int
    batch_size: int
    skip_small_batches: bool

    def __post_init__(self) -> None:
        whole_number("epochs", self.epochs, 1, 2**48)
        whole_number("batch_size", self.batch_size, 1, 2**48)

    def batches_of(self, rows: int) -> int:
        """How many batches a split of so many rows makes."""
        return batches_in(rows, self.batch_size, self.skip_small_batches)


class DataReader:
    """What `get_client` returns: epochs and evaluations of one table, batch by batch.

    `prep_for_epoch()` or `prep_for_eval()` begins a pass and gives up the one before, wherever that
    was; `get_batch()` gives its batches, then None. Not safe for threads. A context manager; one
    that is dropped without `close()` ends as well.

    Attributes:
        dataset: The open dataset, for all that this interface does not have.
    """

    def __init__(self, client: FaucetClient, dataset: Dataset, pace: _Pace) -> None:
        """Takes over the client.

        Raises:
            SpecError: the training split does not make one batch.
        """
        self.dataset = dataset
        self._client = client
        self._pace = pace
        self._features, self._labels = _names_of(dataset.info)
        self._epoch = 0
        self._pass: _Pass | None = None
        self._closed = False
        rows = dataset.info.rows["train"]
        if rows == 0:
            raise SpecError(
                f"{dataset.spec.source} has no training rows: test_split_percent="
                f"{dataset.spec.eval_percent}, table_sample_percent={dataset.spec.sample_percent}"
            )
        if pace.batches_of(rows) == 0:
            raise SpecError(
                f"{dataset.spec.source} has {rows:,} training rows, fewer than one batch of "
                f"{pace.batch_size:,}; use a smaller batch_size, or skip_small_batches=False"
            )

    def prep_for_epoch(self) -> None:
        """Begins the next epoch of training, each in another order, in each every row once.

        Raises:
            FaucetError: see `Dataset.epochs`.
        """
        self._begin("train", self._epoch + 1)
        self._epoch += 1
        _log.info(
            "Epoch %d/%d: %d training rows",
            self._epoch,
            self._pace.epochs,
            self.dataset.info.rows["train"],
        )

    def prep_for_eval(self) -> None:
        """Begins a pass over the evaluation rows, each time in the same order.

        Where there are none, or too few for a batch, the log warns, and `get_batch()` gives None.

        Raises:
            FaucetError: see `Dataset.epochs`.
        """
        self._begin("eval", max(self._epoch, 1))
        rows = self.dataset.info.rows["eval"]
        _log.info("Evaluation after epoch %d/%d: %d rows", self._epoch, self._pace.epochs, rows)
        if self._pace.batches_of(rows) == 0:
            _log.warning(
                "there is nothing to evaluate: test_split_percent=%s leaves %d rows for it, and "
                "batch_size=%d, skip_small_batches=%s make no batch of them",
                self.dataset.spec.eval_percent,
                rows,
                self._pace.batch_size,
                self._pace.skip_small_batches,
            )

    def get_batch(
        self,
        preprocess: bool = False,
        eval: bool = False,  # noqa: A002  # its name since 2020
    ) -> dict[str, Any] | None:
        """The next batch of the pass that was begun last; None at its end, and again after it.

        Args:
            preprocess: Not available yet.
            eval: Changes nothing: what was begun last decides. The log warns where evaluation is
                expected of training rows.

        Returns:
            "features" and "labels", pandas DataFrames of the columns as they are; "batch_num",
            from 1, counting on over the epochs; "batches_per_epoch".

        Raises:
            NotYetAvailable: `preprocess` was asked for; the batch is still to come.
            IteratorError: no pass was begun, or this reader was closed.
            FaucetError: the rows cannot be read; never a None instead.
        """
        if preprocess:
            raise _no_preprocessing("get_batch(preprocess=True)")
        current = self._pass
        if current is None:
            self._check_open()
            raise IteratorError("call prep_for_epoch() or prep_for_eval() first, then get_batch()")
        if eval and current.split == "train" and not current.warned:
            current.warned = True
            _log.warning(
                "get_batch(eval=True) gives training rows, since prep_for_epoch() was called last; "
                "call prep_for_eval() first"
            )
        batch = None if current.batches is None else next(current.batches, None)
        if batch is None:
            current.batches = None
            return None
        current.taken += 1
        number = current.taken + (current.epoch - 1) * current.batches_per_epoch
        if _log.isEnabledFor(logging.DEBUG):
            self._log_batch(current, number)
        return {
            "features": frame(columns_of(batch, self._features)),
            "labels": frame(columns_of(batch, self._labels)),
            "batch_num": number,
            "batches_per_epoch": current.batches_per_epoch,
        }

    def gen_preprocess_specs_and_net(self, *_arguments: Any, **_options: Any) -> Any:
        """Comes with preprocessing.

        Raises:
            NotYetAvailable: always, so far.
        """
        raise _no_preprocessing("gen_preprocess_specs_and_net()")

    def get_num_output_features(self, *_arguments: Any, **_options: Any) -> int:
        """Comes with preprocessing.

        Raises:
            NotYetAvailable: always, so far.
        """
        raise _no_preprocessing("get_num_output_features()")

    def preprocess_batch(self, *_arguments: Any, **_options: Any) -> Any:
        """Comes with preprocessing.

        Raises:
            NotYetAvailable: always, so far.
        """
        raise _no_preprocessing("preprocess_batch()")

    def adhoc_query(self, query: str) -> pd.DataFrame:
        """The result of one SELECT statement as a DataFrame, run anew each time.

        All of it is read into this process's memory. The rows come in any order, whatever the
        query's ORDER BY; sort the frame. A leaf of a STRUCT is called as the leaf, or by its
        dotted path where another column has that name.

        Raises:
            SourceReadError: the query has an error.
            SourceEmpty: the result has no rows.
            FaucetError: see `FaucetClient.open`.
        """
        self._check_open()
        spec = DatasetSpec(source=_query(query), features=(), passthrough=("*",))
        dataset = self._client.open(spec)
        try:
            columns = _all_rows(dataset)
        except DatasetNotFound:
            # Who asked for the same at the same moment shared it, and has dropped it just now.
            dataset = self._client.open(spec)
            columns = _all_rows(dataset)
        finally:
            self._drop(dataset)
        return frame(columns)

    def close(self) -> None:
        """Ends the connection to the daemon. Frames that were handed out stay valid."""
        self._closed = True
        self._end_pass()
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _begin(self, split: Split, epoch: int) -> None:
        self._check_open()
        self._end_pass()
        rows = self.dataset.info.rows[split]
        count = self._pace.batches_of(rows)
        batches = None
        if count:
            # One epoch at a time: nothing is fetched ahead for one that may never be begun.
            wish = Wish(
                split=split,
                batch_size=min(self._pace.batch_size, rows),
                epochs=1,
                shuffle="batches" if split == "train" else "none",
                seed=0,
                job=None,
                drop_last=self._pace.skip_small_batches,
            )
            batches = BatchIterator(self.dataset.read(wish, Share(first_epoch=epoch - 1)))
        self._pass = _Pass(split, epoch, count, batches)

    def _end_pass(self) -> None:
        if self._pass is not None and self._pass.batches is not None:
            self._pass.batches.close()
        self._pass = None

    def _drop(self, dataset: Dataset) -> None:
        """Has the daemon forget a dataset that nobody will read again, unless somebody reads it."""
        deadline = time.monotonic() + _DROP_S
        while True:
            try:
                self._client.session().drop(dataset.info.key)
            except DatasetInUse:  # the end of our own leases may be under way
                if time.monotonic() > deadline:
                    return
                time.sleep(_DROP_S / 50)
            except FaucetError as error:
                _log.debug("%r was not dropped: %s", dataset, error)
                return
            else:
                return

    def _check_open(self) -> None:
        if self._closed:
            raise IteratorError("this reader was closed; make a new one with get_client(...)")

    def _log_batch(self, current: _Pass, number: int) -> None:
        done, total = current.taken, current.batches_per_epoch
        if current.split == "train":
            done, total = number, total * self._pace.epochs
        _log.debug(
            "Got batch %d/%d for epoch %d/%d (%.0f%%)",
            current.taken,
            current.batches_per_epoch,
            current.epoch,
            self._pace.epochs,
            100 * done / total,
        )


@dataclass
class _Pass:
    """A pass over a split, from a `prep_for_…` to the next.

    Attributes:
        split: What is read.
        epoch: From 1.
        batches_per_epoch: Of this split.
        batches: None where there are none, or none are left.
        taken: How many batches were handed out.
        warned: Whether the log has said that the caller seems to expect the other split.
    """

    split: Split
    epoch: int
    batches_per_epoch: int
    batches: BatchIterator | None
    taken: int = 0
    warned: bool = False


# What the arguments mean.


def _table(table_name: str, ds: str | None) -> Source:
    """Where the rows of a table are."""
    return BigQuerySource(table=table_name, partition_date=ds)


def _query(sql: str) -> Source:
    """Where the rows of a query are; of a new run of it, even if somebody has run it before."""
    return BigQuerySource(query=sql, snapshot="new")


def _percent(name: str, value: float | None, default: float) -> float:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SpecError(f"{name} must be a number or None, not {value!r}")
    return value


def _feature_paths(exclude_features: Sequence[str] | None) -> tuple[str, ...]:
    """By their paths, since a label may have the same name."""
    if isinstance(exclude_features, str):
        raise SpecError(f"exclude_features must be a list of names, not {exclude_features!r}")
    names = [str(name) for name in exclude_features or ()]
    return tuple(n if n.startswith("features.") else f"features.{n}" for n in names)


def _open(client: FaucetClient, spec: DatasetSpec) -> Dataset:
    try:
        return client.open(spec)
    except ColumnError as error:
        raise ColumnError(
            f"{error.message} (get_client reads tables that have a column hash_on and two STRUCT "
            "columns, features and labels; FaucetClient.open reads any)"
        ) from None


def _all_rows(dataset: Dataset) -> dict[str, Column]:
    """The columns of a query's result, copied, so that no lease is left."""
    info = dataset.info
    names = dict(zip(_short(info.passthrough_paths), info.passthrough, strict=True))
    size = min(info.rows["train"], _ADHOC_BATCH_ROWS)
    with dataset.batches("train", batch_size=size, shuffle="none") as batches:
        parts = [columns_of(batch, names) for batch in batches]
    return {name: joined([part[name] for part in parts]) for name in names}


def _names_of(info: DatasetInfo) -> tuple[dict[str, str], dict[str, str]]:
    """Of features and of labels, by the names that frames give them, the dataset's names."""
    found: dict[str, dict[str, str]] = {"features": {}, "labels": {}}
    for path, name in zip(info.passthrough_paths, info.passthrough, strict=True):
        struct, _, leaf = path.partition(".")
        if not leaf:
            raise ColumnError(
                f'column "{path}" is no STRUCT: get_client reads tables that have two STRUCT '
                "columns, features and labels; FaucetClient.open reads any"
            )
        found[struct][leaf] = name
    for struct, names in found.items():
        if not names:
            raise ColumnError(f"exclude_features leaves no column of {struct}")
    return found["features"], found["labels"]


def _short(paths: Sequence[str]) -> list[str]:
    """Paths without the STRUCTs that they begin with, where that leaves no two alike."""
    leaves = [path.rpartition(".")[2] for path in paths]
    times = Counter(leaves)
    return [leaf if times[leaf] == 1 else path for path, leaf in zip(paths, leaves, strict=True)]


def _check_principal(credential_path: str | os.PathLike[str] | None, dataset: Dataset) -> None:
    """Refuses a dataset that is read with other rights than the caller means to have.

    Raises:
        AccessDenied: naming both.
    """
    if credential_path is None:
        return
    named, ours = _client_email(credential_path), dataset.info.principal
    if not named or not ours:
        _log.info(
            "credential_path=%s is ignored, since it %s; rows are read with the daemon's "
            "credentials",
            credential_path,
            "has nothing to be compared with" if named else "is no file that names a client_email",
        )
    elif named != ours:
        raise AccessDenied(
            f"credential_path={os.fspath(credential_path)!r} is {named}, but the daemon reads "
            f"{dataset.spec.source} as {ours}. Start a daemon with the credentials of {named} "
            "([bigquery] credentials), or use credential_path=None to read as the daemon does"
        )


def _client_email(path: str | os.PathLike[str]) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            key = json.load(file)
    except (OSError, ValueError):
        return None
    email = key.get("client_email") if isinstance(key, dict) else None
    return email if isinstance(email, str) else None


def _no_preprocessing(call: str) -> NotYetAvailable:
    return NotYetAvailable(
        f"{call} needs preprocessing, which comes with a later release; until then take the "
        "columns as they are, with get_batch(preprocess=False), and prepare them yourself"
    )
