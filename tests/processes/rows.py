"""The rows of the tests' tables: every value follows from the row's id, so a torn row shows.

Imported by the trainers too, so it imports nothing that they do not need anyway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from faucet_client import Batch

MODULUS = 251
"""Few values, so that Parquet's dictionaries make small files and quick ones."""

LABELS = 7

Ids = NDArray[np.int64]


def feature_names(features: int) -> list[str]:
    """The feature columns of a table of so many."""
    return [f"f{number}" for number in range(features)]


def feature(ids: Ids, number: int) -> NDArray[np.float32]:
    """The values of feature `number`."""
    return ((ids * (number + 1)) % MODULUS).astype(np.float32)


def label(ids: Ids) -> NDArray[np.float32]:
    """The values of the label, y."""
    return (ids % LABELS).astype(np.float32)


def ids_of(batch: Batch) -> Ids:
    """The batch's row ids, in memory of their own."""
    return np.array(np.asarray(batch.passthrough["id"]))


def check(batch: Batch) -> None:
    """Every value of every row is the one that its id calls for."""
    ids = ids_of(batch)
    features = batch.features.numpy()
    for number in range(features.shape[1]):
        wrong = np.flatnonzero(features[:, number] != feature(ids, number))
        assert not len(wrong), f"{batch}: feature {number} of row {ids[wrong[0]]} is another's"
    assert np.array_equal(batch.labels["y"].numpy()[:, 0], label(ids)), f"{batch}: labels differ"


def assert_exact(ids: Ids, rows: int, first: int = 0) -> None:
    """`ids` is each of `first` to `first + rows - 1`, once, in any order."""
    found = np.sort(ids)
    assert len(found) == rows, f"{len(found)} rows instead of {rows}"
    assert np.array_equal(found, np.arange(first, first + rows)), "rows are missing or repeated"
