"""The profile itself: frozen, and valid if it exists.

Invariants: all numbers are finite; a histogram's counts fit its edges or values; a profile's
features have names of their own. What is computed of rows is of the rows that were looked at, never
of a guess about others, and `Profile.looked_at` says how many those were.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from faucet_client.errors import SpecError
from faucet_client.profile import document

SOME_DRIFT = 0.1
STRONG_DRIFT = 0.25
"""The customary bounds of a PSI: N. Siddiqi, "Credit Risk Scorecards", Wiley (2006)."""

KINDS = ("numbers", "times", "values")


@dataclass(frozen=True)
class Histogram:
    """How many rows have what value, train and evaluation over the same bins.

    Args:
        kind: "numbers"; "times", whose edges are seconds since 1970, UTC; or "values", which has a
            bin a value instead of edges.
        train: Rows a bin. Of "values" there is one count more than values: that of all others.
        evaluation: Likewise; empty where no evaluation rows were looked at.
        edges: Ascending, one more than bins; a bin has its lower edge, the last one its upper, too.
        values: Of "values": each bin's, cut to 80 characters.
        below: Rows under the first edge: train, evaluation. Edges leave out a long tail.
        above: Rows over the last edge, likewise.

    Raises:
        SpecError: the counts do not fit the bins.
    """

    kind: str
    train: tuple[int, ...]
    evaluation: tuple[int, ...] = ()
    edges: tuple[float, ...] = ()
    values: tuple[str, ...] = ()
    below: tuple[int, int] = (0, 0)
    above: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SpecError(f"a histogram's kind must be one of {', '.join(KINDS)}")
        counted = self.kind == "values"
        bins = len(self.values) + 1 if counted else len(self.edges) - 1
        if bins < 1 or (self.edges if counted else self.values):
            raise SpecError(f'a histogram of "{self.kind}" must have its bins, and no others')
        if len(self.train) != bins or len(self.evaluation) not in (0, bins):
            raise SpecError(f"a histogram of {bins:,} bins must have as many counts")
        if any(not low < high for low, high in itertools.pairwise(self.edges)):
            raise SpecError("a histogram's edges must ascend")


@dataclass(frozen=True)
class Applied:
    """How often a policy was applied.

    Attributes:
        policy: What was done, such as "imputed".
        rows: To how many values.
    """

    policy: str
    rows: int


@dataclass(frozen=True)
class FeatureProfile:
    """One feature, before and after its transform.

    Attributes:
        name: The column's.
        source_type: What the column holds, in the words of its source where they are known.
        type: The transform's, such as "CONTINUOUS".
        why: The rule that chose it.
        notes: What a person should look at, each with what to do.
        rows: Train rows looked at, also those without a value. What follows is of these.
        nulls: Those without a value: null or NaN.
        infinite: Those with an infinite one.
        distinct: How many different values there are.
        distinct_is_all: Whether there can be no others: all train rows were looked at.
        minimum: Of finite numbers; of times in seconds since 1970. None for others, as the next.
        maximum: Likewise.
        mean: Likewise.
        stddev: With n − 1; None for fewer than 2 values.
        evaluation_rows: Evaluation rows looked at.
        evaluation_nulls: Those without a value.
        histogram: Of the values; None where there is none to count.
        outputs: Of what the transform makes of the train rows that have a finite value; None where
            it was not computed. With one column, of its numbers; with more, how many rows are not 0
            in each. Rows without a value would be one high bar that hides all others.
        output_names: The columns of the dense output, the first 100 of them.
        width: How many columns of the dense output there are.
        policies: How often each policy was applied, where it is known.
        psi: Population stability index, train against evaluation; None without one of them.
        psi_by_chance: What it would exceed once in a thousand times if there were no drift.
        ks: The largest difference of the two cumulative distributions; None for text.
        override: The line to write for another type, or none of the feature.
    """

    name: str
    source_type: str
    type: str
    why: str
    rows: int
    nulls: int
    infinite: int
    distinct: int
    distinct_is_all: bool
    override: str
    notes: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    stddev: float | None = None
    evaluation_rows: int = 0
    evaluation_nulls: int = 0
    histogram: Histogram | None = None
    outputs: Histogram | None = None
    output_names: tuple[str, ...] = ()
    width: int = 0
    policies: tuple[Applied, ...] = ()
    psi: float | None = None
    psi_by_chance: float | None = None
    ks: float | None = None

    def __post_init__(self) -> None:
        if self.nulls + self.infinite > self.rows or self.evaluation_nulls > self.evaluation_rows:
            raise SpecError(f'feature "{self.name[:80]}" has more rows without a value than rows')

    @property
    def drift(self) -> str:
        """Either "strong", "some" or "": by the customary bounds, and more than chance explains."""
        if self.psi is None or self.psi <= (self.psi_by_chance or 0.0) or self.psi < SOME_DRIFT:
            return ""
        return "strong" if self.psi >= STRONG_DRIFT else "some"

    @property
    def null_share(self) -> float:
        """Of the train rows looked at, from 0 to 1."""
        return self.nulls / self.rows if self.rows else 0.0


@dataclass(frozen=True)
class Profile:
    """A dataset's features, what stands out first.

    Args:
        source: What was read, in words.
        key: The dataset's key.
        rows: By split, how many rows it has.
        looked_at: By split, how many of them this is of.
        width: Columns of the dense output.
        bytes_read: From the source, to fit and to look.
        features: In any order; kept with the strongest drift first, then those with notes, then
            those with the most nulls.

    Raises:
        SpecError: two features have one name.
    """

    source: str
    key: str
    rows: Mapping[str, int] = field(hash=False)
    looked_at: Mapping[str, int] = field(hash=False)
    width: int
    bytes_read: int
    features: Sequence[FeatureProfile] = field(repr=False)

    def __post_init__(self) -> None:
        names = Counter(feature.name for feature in self.features)
        if len(names) < len(self.features):
            twice = next(name for name, times in names.items() if times > 1)
            raise SpecError(f'the feature "{twice[:80]}" is in the profile more than once')
        object.__setattr__(self, "rows", dict(self.rows))
        object.__setattr__(self, "looked_at", dict(self.looked_at))
        object.__setattr__(self, "features", tuple(sorted(self.features, key=_prominence)))

    def to_json(self) -> str:
        """JSON with a version; `from_json` gives back an equal profile."""
        return document.dumps(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> Profile:
        """The profile that `to_json` wrote.

        Raises:
            SpecError: it is no such JSON; the message names the place and the rule.
            NotYetAvailable: it is of a newer version.
        """
        return document.loads(text, cls)


def _prominence(feature: FeatureProfile) -> tuple[float, int, float, str]:
    drift = feature.psi or 0.0 if feature.drift else 0.0
    return -drift, -len(feature.notes), -feature.null_share, feature.name
