"""How much of a label's variance lies between chunks."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from faucetd.prepare.moments import moments_of
from faucetd.spread import LabelSpread
from faucetd.worker.messages import LabelMoments

Values = NDArray[np.float32]


def spread_of(chunks: list[Values]) -> LabelSpread:
    spread = LabelSpread()
    for chunk in chunks:
        found = moments_of(chunk)
        spread.add(LabelMoments(found.rows, found.mean, found.squares))
    return spread


def eta_squared(chunks: list[Values]) -> float:
    """As the textbook has it: over all rows at once."""
    known = [chunk[np.isfinite(chunk)].astype(np.float64) for chunk in chunks]
    everything = np.concatenate(known)
    mean = everything.mean()
    between = sum(len(chunk) * (chunk.mean() - mean) ** 2 for chunk in known if len(chunk))
    return float(between / np.square(everything - mean).sum())


def labels(rows: int, seed: int = 0) -> Values:
    found: Values = np.random.default_rng(seed).normal(1e3, 1.0, rows).astype(np.float32)
    found[::7] = np.nan
    return found


def cut(values: Values, chunk_rows: int) -> list[Values]:
    return [values[at : at + chunk_rows] for at in range(0, len(values), chunk_rows)]


@pytest.mark.parametrize("chunk_rows", [1, 13, 1_000, 9_999])
@pytest.mark.parametrize("sort", [False, True])
def test_the_share_is_that_of_the_textbook_in_whichever_order_chunks_come(
    chunk_rows: int, sort: bool
) -> None:
    values = labels(10_000)
    chunks = cut(np.sort(values) if sort else values, chunk_rows)
    expected = eta_squared(chunks)
    assert spread_of(chunks).share == pytest.approx(expected, rel=1e-9)
    assert spread_of(chunks[::-1]).share == pytest.approx(expected, rel=1e-9)


def test_random_rows_have_the_share_that_is_expected_of_them() -> None:
    shares = [spread_of(cut(labels(2_000, seed), 100)).share for seed in range(200)]
    spread = spread_of(cut(labels(2_000), 100))
    assert spread.chunks == 20
    assert spread.rows == int(np.isfinite(labels(2_000)).sum())
    assert np.mean(shares) == pytest.approx(spread.random_share, rel=0.1)


def test_a_sorted_table_is_told_from_a_shuffled_one() -> None:
    values = (np.arange(100_000) % 10 == 0).astype(np.float32)
    assert not spread_of(cut(values, 5_000)).is_sorted
    assert spread_of(cut(np.sort(values), 5_000)).is_sorted
    assert spread_of(cut(np.sort(values), 5_000)).share > 0.9


def test_tiny_chunks_that_differ_by_chance_are_not_sorted() -> None:
    spread = spread_of(cut(labels(1_000), 5))
    assert spread.share > 0.05
    assert not spread.is_sorted


def test_what_does_not_vary_and_what_is_not_there_has_no_share() -> None:
    assert LabelSpread().share == LabelSpread().random_share == 0.0
    assert spread_of([np.full(10, np.nan, np.float32), np.full(10, np.inf, np.float32)]).rows == 0
    same = spread_of([np.full(10, 3.0, np.float32)] * 3)
    assert (same.share, same.chunks, same.rows) == (0.0, 3, 30)
    assert not same.is_sorted
