"""Faucet ML's client: mini-batches from a local `faucetd`, zero-copy, as torch tensors.

    from faucet_client import DatasetSpec, FaucetClient, ParquetSource

    dataset = FaucetClient().open(DatasetSpec(source=ParquetSource("/data/clicks"), features=[…]))
    for epoch in dataset.epochs("train", count=2, batch_size=1024):
        for batch in epoch:
            loss = step(batch.features, batch.labels["clicked"])

Torch and NumPy are imported with the first name that needs them, so that descriptions, errors and
the status can be used without torch, and the errors without either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from faucet_client._version import __version__
from faucet_client.errors import (
    AccessDenied,
    BudgetError,
    ChunkFailed,
    ColumnError,
    ConfigError,
    DaemonError,
    DaemonLost,
    DaemonUnreachable,
    DatasetInUse,
    DatasetNotFound,
    DeviceError,
    FaucetError,
    InternalError,
    IteratorError,
    LockHeld,
    NotYetAvailable,
    ReaderConflict,
    SourceChanged,
    SourceEmpty,
    SourceError,
    SourceForbidden,
    SourceNotFound,
    SourceReadError,
    SpecError,
    StateError,
    VersionMismatch,
)

if TYPE_CHECKING:
    from faucet_client.batch import Batch
    from faucet_client.batches import BatchIterator, Epoch, EpochIterator, Stats
    from faucet_client.compat import get_batch_reader, get_client, get_data_reader
    from faucet_client.dataset import Dataset, FaucetClient
    from faucet_client.device import Transfer
    from faucet_client.mapping import Ragged
    from faucet_client.preprocessing.spec import PreprocessingSpec
    from faucet_client.spec import BigQuerySource, DatasetSpec, DuckDBSource, ParquetSource
    from faucet_client.status import Status
    from faucet_client.torch_dataset import FaucetDataset
    from faucet_client.wire.values import DatasetInfo, OpenProgress

_LAZY = {
    "Batch": "batch",
    "BatchIterator": "batches",
    "BigQuerySource": "spec",
    "Dataset": "dataset",
    "DatasetSpec": "spec",
    "DuckDBSource": "spec",
    "ParquetSource": "spec",
    "DatasetInfo": "wire.values",
    "Epoch": "batches",
    "EpochIterator": "batches",
    "FaucetClient": "dataset",
    "FaucetDataset": "torch_dataset",
    "OpenProgress": "wire.values",
    "PreprocessingSpec": "preprocessing.spec",
    "Ragged": "mapping",
    "Stats": "batches",
    "Status": "status",
    "Transfer": "device",
    "get_batch_reader": "compat",
    "get_client": "compat",
    "get_data_reader": "compat",
}

__all__ = [
    "AccessDenied",
    "Batch",
    "BatchIterator",
    "BigQuerySource",
    "BudgetError",
    "ChunkFailed",
    "ColumnError",
    "ConfigError",
    "DaemonError",
    "DaemonLost",
    "DaemonUnreachable",
    "Dataset",
    "DatasetInUse",
    "DatasetInfo",
    "DatasetNotFound",
    "DatasetSpec",
    "DeviceError",
    "DuckDBSource",
    "Epoch",
    "EpochIterator",
    "FaucetClient",
    "FaucetDataset",
    "FaucetError",
    "InternalError",
    "IteratorError",
    "LockHeld",
    "NotYetAvailable",
    "OpenProgress",
    "ParquetSource",
    "PreprocessingSpec",
    "Ragged",
    "ReaderConflict",
    "SourceChanged",
    "SourceEmpty",
    "SourceError",
    "SourceForbidden",
    "SourceNotFound",
    "SourceReadError",
    "SpecError",
    "StateError",
    "Stats",
    "Status",
    "Transfer",
    "VersionMismatch",
    "__version__",
    "get_batch_reader",
    "get_client",
    "get_data_reader",
]


def __getattr__(name: str) -> Any:
    """Imports what needs torch or gRPC when it is first asked for (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value
