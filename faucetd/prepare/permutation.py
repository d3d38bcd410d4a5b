"""The order of rows within a chunk: a function of the chunk's id and the split, and nothing else.

So a chunk that is made again, by another worker or after a restart, has its rows where it had them,
and readers can go on at the row where they stood. The seed is the first 63 bits of BLAKE2b over the
id; from it torch's CPU generator draws a permutation of the split's rows, in source order. torch
keeps that stable within one version, which is part of the dataset's key.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

import torch

from faucet_client.spec import Split


class ChunkId(NamedTuple):
    """Which chunk: of the dataset `key`, by the plan `plan`, the `number`-th."""

    key: str
    plan: str
    number: int


def permutation(chunk: ChunkId, split: Split, rows: int) -> torch.Tensor:
    """Which of the split's rows, counted in source order, comes first, second, ….

    Returns:
        int64 [rows].
    """
    text = "\0".join((chunk.key, chunk.plan, str(chunk.number), split))
    seed = int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 1
    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
