"""An order of rows that follows from the rows alone, whatever order they came in.

A row's **digest** is a hash of its values (`fingerprint.row_digests`). Rows are ordered by digest;
those that share one, by a second hash of another kind, so that rows that are still alike are the
same for all that 128 bits can tell, and their order is no matter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from faucetd.fetch.fingerprint import row_fingerprints

Digests = npt.NDArray[np.uint64]


def order_of(batch: pa.RecordBatch, digests: Digests) -> npt.NDArray[np.int64]:
    """The indices that put the rows in order, int64 [rows].

    Args:
        batch: The rows.
        digests: Of these rows, and perhaps of more values than are in `batch`.
    """
    order = np.argsort(digests, kind="stable")
    ordered = digests[order]
    same = ordered[1:] == ordered[:-1]
    if not same.any():
        return order
    tied = np.flatnonzero(np.append(same, False) | np.insert(same, 0, False))
    rows: Any = batch.take(pa.array(order[tied], pa.int64()))
    order[tied] = order[tied][np.lexsort((row_fingerprints(rows), ordered[tied]))]
    return order
