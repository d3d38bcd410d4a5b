"""Which transform a column of numbers gets, by its statistics, and why.

The rules are those of the package of 2020, in this order: all values 0 or 1, or all equal: BINARY;
all in [0, 1]: PROBABILITY; whole numbers from 0 on, of at most `max_unique_enum_values` different
values: ENUM; else CONTINUOUS. CONTINUOUS becomes BOXCOX where the most likely lambda is outside 0.9
to 1.1 and the statistic K² falls tenfold and to at most `quantile_k2_threshold`; else QUANTILE, if
asked for, where K² is above that threshold.

What else may come, and is told in the feature's notes: fewer than 750 values are not refined to
BOXCOX or QUANTILE, since K² says little of so few; a column without a value becomes BINARY, whose
output then is 0; infinite values are left out of the fit; integers beyond 2^53 are rounded, and are
no ENUM; a column of whole numbers that are all different is perhaps an id. A type that is forced on
values that do not fit it is a `ColumnError`. LOG1P comes by override alone; text, times, and whole
numbers that are declared to be categories have rules of their own (`identify_others.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from faucet_client.errors import ColumnError, SpecError
from faucet_client.preprocessing.checks import EXACT_INTEGER
from faucet_client.preprocessing.likelihood import Candidate, most_likely
from faucet_client.preprocessing.moments import PowerSums
from faucet_client.preprocessing.normality import FEWEST_VALUES, k_squared
from faucet_client.preprocessing.options import FEWEST_TO_REFINE, FitOptions
from faucet_client.preprocessing.policy import NO_POLICY, Policy
from faucet_client.preprocessing.spec import Feature
from faucet_client.preprocessing.statistics import ColumnStatistics
from faucet_client.preprocessing.summary import BoxCoxTrial, Summary
from faucet_client.preprocessing.transforms import (
    TRANSFORMS,
    Binary,
    BoxCox,
    Categorical,
    Continuous,
    ContinuousAction,
    DoNotPreprocess,
    Enumeration,
    Hashed,
    Log1p,
    Probability,
    Quantile,
    Timestamp,
    Transform,
    Vector,
)

_LARGEST_CANDIDATE_STDDEV = 1e8
_SMALLEST_CANDIDATE_STDDEV = 1e-8


Trial = Callable[[ColumnStatistics], Candidate | None]
"""Finds the most likely Box-Cox transform of a column's values."""


def of_sample(statistics: ColumnStatistics) -> Candidate | None:
    """The most likely Box-Cox transform of the sampled values, in float64."""
    return most_likely(statistics.sorted_sample())


@dataclass(frozen=True)
class Rules:
    """What is decided otherwise where the package of 2020 is to be reproduced.

    Attributes:
        trial: Finds the Box-Cox transform.
        as_in_2020: A forced CONTINUOUS is refined like any other, a constant one is not
            transformed at all, and what a Box-Cox transform that was then skipped made of the
            values is what mean, stddev and quantiles are of, though the module gets the values as
            they are. That is wrong, and kept only to agree with specs of then.
    """

    trial: Trial = of_sample
    as_in_2020: bool = False


def identify(
    name: str, statistics: ColumnStatistics, options: FitOptions, rules: Rules | None = None
) -> Feature:
    """The feature that a column becomes.

    Raises:
        ColumnError: there is no row, or the type that is forced on the column does not fit it.
    """
    column = _Column(name, statistics, options, rules or Rules())
    try:
        return column.feature()
    except ColumnError:
        raise
    except SpecError as error:
        raise ColumnError(f'column "{name}": {error}') from None


class _Column:
    """One column on its way to a feature. Collects notes; made and used once."""

    def __init__(
        self, name: str, statistics: ColumnStatistics, options: FitOptions, rules: Rules
    ) -> None:
        self._name = name
        self._known = statistics
        self._options = options
        self._rules = rules
        self._notes: list[str] = []
        self._k2: float | None = None
        self._trial: BoxCoxTrial | None = None
        self._candidate: Candidate | None = None

    def feature(self) -> Feature:
        known = self._known
        if not known.rows:
            raise ColumnError(f'column "{self._name}" has no rows to fit a transform to')
        override = self._options.feature_overrides.get(self._name)
        if isinstance(override, Transform):
            self._check_numeric(type(override))
            transform, why = override, "given in feature_overrides"
        elif not known.count:
            transform, why = self._without_values()
        elif override is not None:
            transform, why = self._forced(override)
        elif self._options.skip_preprocessing:
            transform, why = DoNotPreprocess(), "skip_preprocessing"
        else:
            transform, why = self._by_rule()
        self._note_oddities(transform)
        policy = fitted_policy(self._name, known, self._options)
        summary = summary_of(known, self._k2, self._trial)
        return Feature(self._name, transform, why, summary, tuple(self._notes), policy)

    # The rules ----------------------------------------------------------------------------------

    def _by_rule(self) -> tuple[Transform, str]:
        known = self._known
        if known.minimum == known.maximum:
            return Binary(), f"all values are {known.minimum:g}"
        if known.minimum >= 0 and known.maximum <= 1:
            if known.whole:
                return Binary(), "all values are 0 or 1"
            return Probability(), "all values are in [0, 1]"
        different = None if known.distinct.values is None else len(known.distinct.values)
        few = different is not None and different <= self._options.max_unique_enum_values
        exact = known.maximum <= EXACT_INTEGER and not known.rounded
        if known.whole and known.minimum >= 0 and few and exact:
            return self._enumeration(), (
                f"{different} different whole numbers from 0 on, at most "
                f"{self._options.max_unique_enum_values}"
            )
        return self._refined()

    def _refined(self) -> tuple[Transform, str]:
        known, options = self._known, self._options
        if known.count < FEWEST_TO_REFINE:
            self._notes.append(
                f"only {known.count:,} values, and {FEWEST_TO_REFINE} are needed to tell how they "
                "are distributed: fit on more rows, or set the type in feature_overrides"
            )
            return self._continuous(), f"numbers, fewer than {FEWEST_TO_REFINE}"
        self._measure()
        limit = options.quantile_k2_threshold
        numbers = f"K² {self._k2:.4g}"
        if self._trial is not None:
            numbers += f", and {self._trial.k2:.4g} for lambda {self._trial.exponent:.4g}"
            if self._trial.accepted and not options.skip_box_cox:
                return self._box_cox(), f"Box-Cox makes it much more normal: {numbers}"
        if self._k2 is not None and self._k2 > limit and not options.skip_quantiles:
            return self._quantile(), f"not normal, with or without Box-Cox: {numbers}"
        skipped = self._trial is not None and self._trial.accepted
        return self._continuous(), f"{'skip_box_cox' if skipped else 'no better type'}: {numbers}"

    def _measure(self) -> None:
        """K² of the values, and of what the most likely Box-Cox transform makes of them."""
        known = self._known
        if known.count < FEWEST_VALUES or known.minimum == known.maximum:
            return
        self._k2 = k_squared(known.powers)
        candidate = self._rules.trial(known)
        if candidate is None or not np.isfinite(candidate.values).all():
            return
        sums = PowerSums.of(candidate.values.astype(np.float64))
        if sums.count < FEWEST_VALUES or not sums.stddev:
            return
        k2, stddev = k_squared(sums), sums.stddev
        accepted = (
            not 0.9 <= candidate.exponent <= 1.1
            and self._k2 > 10 * k2
            and k2 <= self._options.quantile_k2_threshold
            and _SMALLEST_CANDIDATE_STDDEV < stddev < _LARGEST_CANDIDATE_STDDEV
        )
        self._candidate = candidate
        self._trial = BoxCoxTrial(candidate.exponent, candidate.shift, k2, stddev, accepted)

    # What is forced, or has no values -----------------------------------------------------------

    def _forced(self, kind: str) -> tuple[Transform, str]:
        if kind == Continuous.type and self._rules.as_in_2020:
            if self._known.minimum == self._known.maximum:
                return Continuous(0.0, 1.0), "a constant"
            return self._refined()
        self._check_numeric(TRANSFORMS[kind])
        makers: dict[str, Callable[[], Transform]] = {
            Binary.type: Binary,
            Probability.type: self._probability,
            Continuous.type: self._continuous,
            BoxCox.type: self._forced_box_cox,
            Enumeration.type: self._enumeration,
            Quantile.type: self._quantile,
            ContinuousAction.type: self._action,
            DoNotPreprocess.type: DoNotPreprocess,
            Log1p.type: self._log1p,
        }
        return makers[kind](), f"feature_overrides says {kind}"

    def _without_values(self) -> tuple[Transform, str]:
        asked = self._options.type_of(self._name)
        unmet = "" if asked in (None, Binary.type) else f", and it cannot be fitted as {asked}"
        self._notes.append(
            f"none of the {self._known.rows:,} rows has a finite value, so that its output is 0"
            f"{unmet}: put it into exclude_features"
        )
        return Binary(), "no values"

    def _probability(self) -> Probability:
        known = self._known
        if known.minimum < 0 or known.maximum > 1:
            self._refuse(Probability, f"its values are from {known.minimum:g} to {known.maximum:g}")
        return Probability()

    def _action(self) -> ContinuousAction:
        known = self._known
        if known.minimum == known.maximum:
            self._refuse(ContinuousAction, f"all its values are {known.minimum:g}")
        return ContinuousAction(known.minimum, known.maximum)

    def _forced_box_cox(self) -> BoxCox:
        self._measure()
        if self._trial is None:
            self._refuse(
                BoxCox, "no lambda is most likely for its values, which are few or hardly vary"
            )
        return self._box_cox()

    def _check_numeric(self, kind: type[Transform]) -> None:
        # Other statistics are needed for these, so that only those of numbers taken before the
        # override was known come here.
        if issubclass(kind, Categorical | Hashed | Timestamp | Vector):
            self._refuse(kind, "its statistics were taken as those of a column of numbers")

    def _log1p(self) -> Log1p:
        if self._known.minimum < 0:
            self._refuse(Log1p, f"it has values below 0, down to {self._known.minimum:g}")
        sums = PowerSums.of(np.log1p(self._known.sorted_sample()))
        return Log1p(sums.mean, max(sums.stddev if sums.count > 1 else 0.0, 1.0))

    def _refuse(self, kind: type[Transform], reason: str) -> None:
        raise ColumnError(
            f'column "{self._name}" cannot be {kind.type}, which feature_overrides says: {reason}. '
            "Take it out of feature_overrides, or choose another type"
        )

    # Fitting one type ---------------------------------------------------------------------------

    def _continuous(self) -> Continuous:
        of = self._left_over()
        sums = self._known.powers if of is None else PowerSums.of(of)
        return Continuous(sums.mean, max(sums.stddev if sums.count > 1 else 0.0, 1.0))

    def _box_cox(self) -> BoxCox:
        assert self._candidate is not None
        sums = PowerSums.of(self._candidate.values.astype(np.float64))
        exponent, shift = self._candidate.exponent, self._candidate.shift
        return BoxCox(exponent, shift, sums.mean, max(sums.stddev, 1.0))

    def _enumeration(self) -> Enumeration:
        known = self._known
        values = known.distinct.values
        if not known.whole:
            self._refuse(Enumeration, "its values are not whole numbers")
        if values is None:
            self._refuse(Enumeration, f"it has more than {known.distinct.limit:,} different values")
        if max(-known.minimum, known.maximum) > EXACT_INTEGER or known.rounded:
            self._refuse(Enumeration, "it has values beyond 2^53, which float64 rounds")
        assert values is not None
        return Enumeration(tuple(int(value) for value in values.tolist()))

    def _quantile(self) -> Quantile:
        of = self._left_over()
        values = self._known.sorted_sample() if of is None else np.sort(of)
        found = np.unique(quantiles(values, self._options.quantile_size)).tolist()
        if len(found) < 2:
            self._refuse(Quantile, f"all its quantiles are {found[0]:g}")
        return Quantile(tuple(found))

    def _left_over(self) -> NDArray[np.float64] | None:
        """What the package of 2020 took for the values after it had skipped a Box-Cox transform."""
        skipped = self._trial is not None and self._trial.accepted
        if not (self._rules.as_in_2020 and skipped and self._candidate is not None):
            return None
        return self._candidate.values.astype(np.float64)

    # What a person should know ------------------------------------------------------------------

    def _note_oddities(self, transform: Transform) -> None:
        known = self._known
        if known.infinite:
            self._notes.append(
                f"{known.infinite:,} of {known.rows:,} values are infinite: they were left out of "
                "the fit, and count as missing when served; make them null in the source's query"
            )
        if known.rounded:
            self._notes.append(
                f"{known.rounded:,} integers beyond 2^53 were rounded to float64: if it is an id, "
                "put it into exclude_features and passthrough, or cast it to text"
            )
        if known.count and known.minimum == known.maximum:
            self._notes.append(
                f"constant, {known.minimum:g} wherever there is a value: it says no more than "
                "whether there is one; put it into exclude_features"
            )
        plain = isinstance(transform, Continuous | BoxCox | Quantile)
        if plain and known.whole and known.distinct_count() == known.count >= FEWEST_TO_REFINE:
            self._notes.append(
                f"{known.count:,} whole numbers, no two equal: if it is an id, put it into "
                "exclude_features and passthrough"
            )


def summary_of(
    known: ColumnStatistics, k2: float | None = None, trial: BoxCoxTrial | None = None
) -> Summary:
    """What is told of a column's statistics."""
    summary = Summary(
        rows=known.rows,
        nulls=known.nulls,
        infinite=known.infinite,
        rounded=known.rounded,
        sampled=len(known.sample.values),
        distinct=known.distinct_count(),
        k2=k2,
        trial=trial,
    )
    if not known.count:
        return summary
    return replace(
        summary,
        minimum=known.minimum,
        maximum=known.maximum,
        mean=known.powers.mean,
        stddev=_finite(known.powers.stddev) if known.count > 1 else None,
        mode=known.mode(),
    )


def fitted_policy(name: str, known: ColumnStatistics, options: FitOptions) -> Policy:
    """The policy of a column, with the number that it imputes.

    Raises:
        ColumnError: a mean or median was asked for, and there is no value to take it of.
    """
    given = options.policies.get(name)
    if given is None:
        return NO_POLICY
    impute = given.impute
    if isinstance(impute, str):
        if not known.count:
            raise ColumnError(
                f'column "{name}" has no value to take the {impute} of, which policies says to '
                "impute: give a number instead, or put it into exclude_features"
            )
        impute = known.powers.mean if impute == "mean" else known.median()
    return Policy(impute, given.missing_flag, given.clip)


def quantiles(values: NDArray[np.float64], parts: int) -> NDArray[np.float64]:
    """The boundaries that divide values into parts of equal size, by the rule of 2020.

    Linear interpolation of the empirical distribution: definition 4 of R. J. Hyndman and Y. Fan,
    "Sample quantiles in statistical packages", The American Statistician 50 (1996).

    Args:
        values: float64 [n], ascending, n > 0.
        parts: How many.

    Returns:
        float64 [parts + 1], from the smallest value to the largest.
    """
    place = len(values) * (np.arange(parts + 1) / parts)
    below = np.clip(np.floor(place), 1, max(len(values) - 1, 1)).astype(np.int64)
    part = np.clip(place - below, 0, 1)
    next_one = np.minimum(below, len(values) - 1)
    # The sum of products, not x + part (y - x): y - x may overflow.
    return (1 - part) * values[below - 1] + part * values[next_one]


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
