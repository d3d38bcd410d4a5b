"""Which transform columns get that are no numbers: text, times, and categories by declaration.

Text becomes CATEGORICAL, with the values that occur `min_category_count` times or more, at most
`max_categories`; one-hot if they are at most `max_one_hot_values`. It becomes HASHED where there
are more different values than could be counted, or none occurs often enough. Whole numbers become
either by override alone. Times become TIMESTAMP, dates without an hour.
"""

from __future__ import annotations

from typing import Any

from faucet_client.errors import ColumnError, SpecError
from faucet_client.preprocessing.categories import CategoryStatistics
from faucet_client.preprocessing.identify import fitted_policy, summary_of
from faucet_client.preprocessing.options import FitOptions
from faucet_client.preprocessing.policy import NO_POLICY, Policy
from faucet_client.preprocessing.spec import Feature
from faucet_client.preprocessing.statistics import TimeStatistics
from faucet_client.preprocessing.summary import Summary
from faucet_client.preprocessing.transforms import (
    TIMESTAMP_PARTS,
    Categorical,
    Hashed,
    Timestamp,
    Transform,
    gives_ids,
)

_FEWEST_FOR_AN_ID = 100
_SHARE_OF_AN_ID = 0.9
"""Of fewer rows, or a smaller share of different values, nothing is said of ids."""


def identify_categories(name: str, known: CategoryStatistics, options: FitOptions) -> Feature:
    """The feature that a column of text, or of whole numbers declared to be categories, becomes.

    Raises:
        ColumnError: there is no row, or the type that is forced on the column does not fit it.
    """
    check_rows(name, known.rows)
    column = Categories(name, known, options)
    transform, why = column.transform()
    unlisted = unlisted_in(transform, known)
    summary = Summary(
        rows=known.rows, nulls=known.nulls, distinct=known.distinct_count(), unlisted=unlisted
    )
    column.note_oddities(transform, unlisted)
    policy = _category_policy(name, transform, options)
    return Feature(name, transform, why, summary, tuple(column.notes), policy)


def unlisted_in(transform: Transform, known: CategoryStatistics) -> int:
    """How many values a CATEGORICAL does not list."""
    if not isinstance(transform, Categorical):
        return 0
    pairs = zip(known.found.values.tolist(), known.found.counts.tolist(), strict=True)
    seen: dict[Any, int] = dict(pairs)
    return known.count - sum(seen.get(value, 0) for value in transform.values)


class Categories:
    """One column on its way to a transform. Collects notes; made and used once.

    Args:
        name: The column's name.
        known: What is known of its values.
        options: How they are fitted.
        of_lists: Whether the values are the elements of lists.
    """

    def __init__(
        self, name: str, known: CategoryStatistics, options: FitOptions, *, of_lists: bool = False
    ) -> None:
        self._name = name
        self._known = known
        self._options = options
        self._of_lists = of_lists
        self._noun = "elements" if of_lists else "rows"
        self._holds = f"{'lists of ' if of_lists else ''}{known.kind}"
        self.notes: list[str] = []

    def transform(self) -> tuple[Transform, str]:
        """The transform, and why.

        Raises:
            ColumnError: the type that is forced on the column does not fit it.
        """
        override = self._options.feature_overrides.get(self._name)
        if isinstance(override, Transform):
            return self._given(override), "given in feature_overrides"
        if override is not None and override not in (Categorical.type, Hashed.type):
            self._refuse(override, f"it holds {self._holds}")
        if override is None and self._options.skip_preprocessing:
            raise ColumnError(
                f'column "{self._name}" is {self._holds}, which cannot stay as it is in a tensor, '
                "as skip_preprocessing says: put it into exclude_features, or give it CATEGORICAL "
                "or HASHED in feature_overrides"
            )
        if override == Hashed.type:
            return self._hashed(), f"feature_overrides says {override}"
        if not self._known.count:
            self.notes.append(
                f"none of the {self._known.rows:,} {self._noun} has a value, so that its id is "
                "always 0: put it into exclude_features"
            )
            return Categorical(()), "no values"
        return self._by_rule() if override is None else self._forced()

    def note_oddities(self, transform: Transform, unlisted: int) -> None:
        """Notes what a person should look at, with what to do."""
        known = self._known
        if known.count >= _FEWEST_FOR_AN_ID and known.distinct_share() > _SHARE_OF_AN_ID:
            self.notes.append(
                f"{known.distinct_count():,} different values in {known.count:,} {self._noun}: it "
                "looks like an id, of which nothing can be learned; put it into exclude_features "
                "and passthrough"
            )
        if known.long:
            self.notes.append(
                f"{known.long:,} texts are longer than 1,024 characters, and are never listed: if "
                "it is free text, put it into exclude_features and passthrough"
            )
        if known.distinct_count() == 1 and not known.long:
            self.notes.append(
                "constant wherever there is a value: it says no more than whether there is one; "
                "put it into exclude_features"
            )
        if isinstance(transform, Categorical) and unlisted > known.count / 2:
            self.notes.append(
                f"{unlisted:,} of {known.count:,} values are not listed, and have all the id 1: "
                "lower min_category_count, raise max_categories, or choose HASHED in "
                "feature_overrides"
            )

    def _by_rule(self) -> tuple[Transform, str]:
        known, options = self._known, self._options
        if known.found.many:
            self.notes.append(
                f"about {known.distinct_count():,} different values are more than can be listed: "
                f"they share {options.hash_buckets:,} buckets (hash_buckets)"
            )
            return (
                self._hashed(),
                f"{self._holds}, more than {known.found.limit:,} different values",
            )
        listed = self._listed()
        if not listed.values:
            self.notes.append(
                f"no value occurs {options.min_category_count} times, so that none can be listed: "
                f"they share {options.hash_buckets:,} buckets (hash_buckets); to list them, lower "
                "min_category_count"
            )
            return self._hashed(), f"{self._holds}, no value {options.min_category_count} times"
        return listed, f"{self._holds}, {self._said(listed)}"

    def _forced(self) -> tuple[Transform, str]:
        known, options = self._known, self._options
        if known.found.many:
            self._refuse(
                Categorical.type,
                f"it has about {known.distinct_count():,} different values, and at most "
                f"{known.found.limit:,} (category_limit) can be counted; HASHED takes any number",
            )
        listed = self._listed()
        if not listed.values:
            self._refuse(
                Categorical.type,
                f"no value occurs {options.min_category_count} times; lower min_category_count, or "
                "choose HASHED",
            )
        return listed, f"feature_overrides says {Categorical.type}: {self._said(listed)}"

    def _listed(self) -> Categorical:
        options = self._options
        values = self._known.listed(options.min_category_count, options.max_categories)
        few = 0 < len(values) <= options.max_one_hot_values
        return Categorical(values, one_hot=few and not self._of_lists)

    def _said(self, listed: Categorical) -> str:
        return (
            f"{len(listed.values):,} of {self._known.distinct_count():,} different values are "
            f"listed, which occur {self._options.min_category_count} times or more"
        )

    def _hashed(self) -> Hashed:
        return Hashed(self._options.hash_buckets)

    def _given(self, transform: Transform) -> Transform:
        if not isinstance(transform, Categorical | Hashed):
            self._refuse(transform.type, f"it holds {self._holds}")
        if self._of_lists and not gives_ids(transform):
            self._refuse("a one-hot CATEGORICAL", f"it holds {self._holds}")
        of_text = transform.of_text if isinstance(transform, Categorical) else None
        if of_text is not None and of_text != (self._known.kind == "text"):
            lists = "text" if of_text else "whole numbers"
            self._refuse(transform.type, f"it lists {lists}, and the column holds {self._holds}")
        return transform

    def _refuse(self, kind: str, reason: str) -> None:
        raise ColumnError(
            f'column "{self._name}" cannot be {kind}, which feature_overrides says: {reason}. '
            "Take it out of feature_overrides, choose another type, or cast it in the source's "
            "query"
        )


def identify_times(name: str, known: TimeStatistics, options: FitOptions) -> Feature:
    """The feature that a column of times becomes.

    Raises:
        ColumnError: there is no row, or the type that is forced on the column does not fit it.
    """
    times = known.microseconds
    check_rows(name, times.rows)
    override = options.feature_overrides.get(name)
    noun = "dates" if known.dates else "timestamps"
    if options.type_of(name) not in (None, Timestamp.type):
        raise ColumnError(
            f'column "{name}" cannot be {options.type_of(name)}, which feature_overrides says: it '
            f"holds {noun}. Take it out of feature_overrides, or make it a number or text in the "
            "source's query"
        )
    if override is None and options.skip_preprocessing:
        raise ColumnError(
            f'column "{name}" holds {noun}, which cannot stay as they are in a tensor of float32, '
            "as skip_preprocessing says: put it into exclude_features, or give it TIMESTAMP in "
            "feature_overrides"
        )
    notes = []
    parts = tuple(part for part in TIMESTAMP_PARTS if part != "hour" or not known.dates)
    if isinstance(override, Timestamp):
        transform, why = override, "given in feature_overrides"
    elif not times.count:
        notes.append(
            f"none of the {times.rows:,} rows has a value, so that its output is 0: put it into "
            "exclude_features"
        )
        transform, why = Timestamp(parts, 0.0, 1.0), f"{noun}, no values"
    else:
        stddev = times.powers.stddev / 1e6 if times.count > 1 else 0.0
        transform = Timestamp(parts, times.powers.mean / 1e6, max(stddev, 1.0))
        why = noun if override is None else f"feature_overrides says {override}"
    if times.count and times.minimum == times.maximum:
        notes.append(
            "constant wherever there is a value: it says no more than whether there is one; put it "
            "into exclude_features"
        )
    if times.rounded:
        notes.append(
            f"{times.rounded:,} times are after the year 2255, or as long before 1970, and rounded "
            'to float64, in which the last of them are exact to 32 µs: if they stand for "never", '
            "make them null in the source's query"
        )
    try:
        policy = fitted_policy(name, times, options)
        return Feature(name, transform, why, summary_of(times), tuple(notes), policy)
    except ColumnError:
        raise
    except SpecError as error:
        raise ColumnError(f'column "{name}": {error}') from None


def _category_policy(name: str, transform: Transform, options: FitOptions) -> Policy:
    given = options.policies.get(name)
    if given is None:
        return NO_POLICY
    for field in ("impute", "clip"):
        if getattr(given, field) is not None:
            raise ColumnError(
                f'column "{name}": policies says {field}, which is for numbers and times, and it '
                f"is {transform.type}: a missing value has the id 0, and one that is not listed 1; "
                "use missing_flag"
            )
    return Policy(missing_flag=given.missing_flag)


def check_rows(name: str, rows: int) -> None:
    """Refuses a column without rows.

    Raises:
        ColumnError: there is none.
    """
    if not rows:
        raise ColumnError(f'column "{name}" has no rows to fit a transform to')
