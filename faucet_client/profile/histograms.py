"""Which bins show a distribution best, and the rows in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from faucet_client.profile.data import Histogram

BINS = 30
SHOWN_VALUES = 20
"""So many of the most frequent values of a text are bins of their own."""
LONGEST_LABEL = 80

_TAIL = 0.005
_FAR = 0.5
"""A tail is left out where it is longer than so many times what lies between both."""
_LARGEST = float(np.finfo(np.float64).max)


def of_numbers(
    kind: str, train: NDArray[np.float64], evaluation: NDArray[np.float64] | None = None
) -> Histogram | None:
    """Of numbers or times; None where there is no value.

    Args:
        kind: "numbers" or "times".
        train: float64 [n], finite.
        evaluation: float64 [m], finite; None where there are no evaluation rows.
    """
    parts = (train,) if evaluation is None else (train, evaluation)
    both = np.concatenate(parts)
    if not len(both):
        return None
    edges = _edges(both)
    tallies = [_tally(part, edges) for part in parts]
    empty: tuple[list[int], int, int] = ([], 0, 0)
    (first, below, above), (second, below_2, above_2) = (*tallies, empty)[:2]
    return Histogram(
        kind,
        train=tuple(first),
        evaluation=tuple(second),
        edges=tuple(edges.tolist()),
        below=(below, below_2),
        above=(above, above_2),
    )


def of_texts(train: Counter[str], evaluation: Counter[str] | None = None) -> Histogram | None:
    """Of text: the most frequent values of both, and all others; None where there is no value."""
    both = train if evaluation is None else train + evaluation
    if not both:
        return None
    shown = sorted(both, key=lambda text: (-both[text], text))[:SHOWN_VALUES]
    return Histogram(
        "values",
        train=_of_each(train, shown),
        evaluation=() if evaluation is None else _of_each(evaluation, shown),
        values=tuple(_label(text) for text in shown),
    )


def of_outputs(names: Sequence[str], outputs: NDArray[np.float32]) -> Histogram | None:
    """Of what a transform made: of one column its numbers, of more how many rows are not 0 in each.

    Args:
        names: Of the columns.
        outputs: float32 [n, width], finite.
    """
    if outputs.shape[1] == 1:
        return of_numbers("numbers", outputs[:, 0].astype(np.float64))
    rows = (outputs != 0).sum(axis=0)
    if not rows.any():
        return None
    # In the order of the columns, which is that of an ENUM's values.
    shown = sorted(np.argsort(-rows, kind="stable")[:SHOWN_VALUES].tolist())
    each = [int(rows[column]) for column in shown]
    return Histogram(
        "values",
        train=(*each, int(rows.sum()) - sum(each)),
        values=tuple(_label(names[column]) for column in shown),
    )


def _edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = float(values.min()), float(values.max())
    whole = bool((values == np.floor(values)).all()) and max(-low, high) < 2**52
    if not whole or high - low > 2 * BINS:
        # Halved, so that no difference overflows.
        first, last = np.quantile(values, [_TAIL, 1 - _TAIL], method="inverted_cdf").tolist()
        if last > first:
            low = first if first / 2 - low / 2 > _FAR * (last / 2 - first / 2) else low
            high = last if high / 2 - last / 2 > _FAR * (last / 2 - first / 2) else high
    if whole:
        # Bins of equally many whole numbers: else some bars would be twice as high by chance.
        step = max(1, -(-int(high - low + 1) // BINS)) if high - low > 2 * BINS else 1
        bins = -(-int(high - low + 1) // step)
        steps: NDArray[np.float64] = low - 0.5 + step * np.arange(bins + 1, dtype=np.float64)
        return steps
    part = np.linspace(0.0, 1.0, BINS + 1)
    edges: NDArray[np.float64] = np.unique(low * (1 - part) + high * part)
    if len(edges) > 1:
        return edges
    width = max(0.5, abs(low) * 1e-6)
    around = [max(low - width, -_LARGEST), min(low + width, _LARGEST)]
    return np.array(around, np.float64)


def _tally(values: NDArray[np.float64], edges: NDArray[np.float64]) -> tuple[list[int], int, int]:
    """Rows a bin, below the first edge and above the last one."""
    inside = values[(values >= edges[0]) & (values <= edges[-1])]
    places = np.minimum(np.searchsorted(edges, inside, side="right") - 1, len(edges) - 2)
    found = np.bincount(places, minlength=len(edges) - 1)
    return found.tolist(), int((values < edges[0]).sum()), int((values > edges[-1]).sum())


def _of_each(counts: Counter[str], shown: Sequence[str]) -> tuple[int, ...]:
    each = [counts[text] for text in shown]
    return (*each, counts.total() - sum(each))


def _label(text: str) -> str:
    # What is no valid Unicode cannot be written into a file.
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"
