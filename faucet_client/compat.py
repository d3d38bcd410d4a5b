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

Here is what the arguments mean; the object that they make is in _compat_reader.py. What the frames
hold, and in which dtypes, _frames.py says; which rows preprocessing is fitted to,
_compat_preprocessing.py.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence

from faucet_client._compat_preprocessing import NormalizationParameters
from faucet_client._compat_reader import DataReader, Pace
from faucet_client._frames import import_pandas
from faucet_client.dataset import Dataset, FaucetClient
from faucet_client.errors import AccessDenied, ColumnError, NotYetAvailable, SpecError
from faucet_client.spec import BigQuerySource, DatasetSpec, Source, whole_number

_log = logging.getLogger(__name__)

__all__ = [
    "DataReader",
    "NormalizationParameters",
    "get_batch_reader",
    "get_client",
    "get_data_reader",
]

_LARGEST_CHUNK_ROWS = 1024 * 100
"""The old default of `chunk_size`. From here on the daemon knows better: it goes by bytes."""

_SMALLEST_CHUNK_ROWS = 8 * 1024
"""Smaller chunks cost more to hand around than they save, and there can only be so many."""


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
    pace = Pace(epochs, batch_size, skip_small_batches)
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


# What the arguments mean.


def _table(table_name: str, ds: str | None) -> Source:
    """Where the rows of a table are."""
    return BigQuerySource(table=table_name, partition_date=ds)


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
