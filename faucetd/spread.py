"""How much of a label's variance lies between chunks: whether shuffling within chunks is enough.

A batch is rows of one chunk, mostly. Where chunks differ in their labels, as in a table that is
sorted by one, batch means vary more than those of random rows, and training is worse for it. With
a share s between chunks the mean of a batch of B rows has the variance s + (1 - s) / B, in units of
the label's own, and 1 / B where rows are drawn at random: at s = 0.05 and B = 1,024 that is 52
times as much.

The share is eta squared of the one-way analysis of variance, between-group sum of squares by total
(R. A. Fisher, Statistical Methods for Research Workers, chapter VII). Of n rows dealt to k chunks
at random it is (k - 1) / (n - 1) on average, the expectation over all permutations. Sums of squares
are merged as in Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing
Sample Variances" (1979), whose correction term is the between-chunk part itself.
"""

from __future__ import annotations

from faucetd.worker.messages import LabelMoments

BOUND_SHARE = 0.05
"""A share that is worth a warning (see above); what drifts a little from day to day is below it."""

BOUND_TIMES_RANDOM = 10.0
"""And it is so many times what random rows would give: many tiny chunks differ by chance."""


class LabelSpread:
    """One label of one split, over the chunks made so far; each counts once.

    Attributes:
        rows: Rows that have a number.
        chunks: Chunks that have such rows.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.chunks = 0
        self._mean = 0.0
        self._within = 0.0
        self._between = 0.0

    def add(self, chunk: LabelMoments) -> None:
        """One more chunk."""
        if not chunk.rows:
            return
        rows = self.rows + chunk.rows
        apart = chunk.mean - self._mean
        self._within += chunk.squares
        self._between += apart * apart * self.rows * chunk.rows / rows
        self._mean += apart * chunk.rows / rows
        self.rows = rows
        self.chunks += 1

    @property
    def share(self) -> float:
        """Of the variance, what lies between chunks: 0 to 1; 0 for a label of one value."""
        total = self._between + self._within
        return self._between / total if total > 0 else 0.0

    @property
    def random_share(self) -> float:
        """What the share would be on average, were rows dealt to chunks at random."""
        return (self.chunks - 1) / (self.rows - 1) if self.rows > 1 else 0.0

    @property
    def is_sorted(self) -> bool:
        """Whether chunks differ so much that training on them one after another suffers."""
        return self.share > max(BOUND_SHARE, BOUND_TIMES_RANDOM * self.random_share)
