"""The order of rows follows from the rows, also of those whose digests say nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from faucetd.fetch.fingerprint import row_digests
from faucetd.fetch.ordering import order_of


def rows_of(numbers: list[int]) -> pa.RecordBatch:
    texts = [f"w{n}" if n % 3 else None for n in numbers]
    return pa.RecordBatch.from_pydict({"n": pa.array(numbers, pa.int64()), "t": texts})


def ordered(batch: pa.RecordBatch, digests: npt.NDArray[np.uint64]) -> list[dict[str, object]]:
    rows: Any = batch
    found: list[dict[str, object]] = rows.take(pa.array(order_of(batch, digests))).to_pylist()
    return found


def test_rows_that_share_a_digest_are_ordered_by_another_hash_of_them() -> None:
    numbers = [*range(100), *range(50)]
    shuffled = np.random.default_rng(0).permutation(numbers).tolist()
    for digest_of in (lambda batch: np.zeros(batch.num_rows, np.uint64), row_digests):
        one, other = rows_of(numbers), rows_of(shuffled)
        assert ordered(one, digest_of(one)) == ordered(other, digest_of(other))


def test_digests_tell_values_nulls_types_and_columns_apart() -> None:
    def digest(**columns: pa.Array) -> int:  # type: ignore[type-arg]  # of any type
        return int(row_digests(pa.RecordBatch.from_pydict(columns))[0])

    number, text = pa.array([1], pa.int64()), pa.array(["1"])
    found = [
        digest(a=number, b=text),
        digest(a=text, b=number),
        digest(a=pa.array([2], pa.int64()), b=text),
        digest(a=pa.array([None], pa.int64()), b=text),
        digest(a=pa.array([0.0]), b=text),
        digest(a=pa.array([-0.0]), b=text),
        digest(a=pa.array([[1, 2]]), b=text),
        digest(a=pa.array([[2, 1]]), b=text),
        digest(a=pa.array([1], pa.timestamp("us")), b=pa.array([True])),
        digest(a=pa.array([1], pa.timestamp("us")), b=pa.array([False])),
    ]
    assert len(set(found)) == len(found)
