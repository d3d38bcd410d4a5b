"""What may be chosen when a spec is fitted. Inert; what comes of it stands in `identify.py`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from faucet_client.errors import SpecError
from faucet_client.preprocessing.checks import FLOAT32_MAX, MAX_VALUES, shown
from faucet_client.preprocessing.policy import Policy
from faucet_client.preprocessing.statistics import DISTINCT_VALUES
from faucet_client.preprocessing.transforms import (
    MAX_BUCKETS,
    TRANSFORMS,
    Enumeration,
    Transform,
)

FEWEST_TO_REFINE = 750
"""From fewer values the package of 2020 refused to identify anything. Here they are not refined to
BOXCOX or QUANTILE."""


@dataclass(frozen=True)
class FitPolicy:
    """A `Policy` of which a number is still to be found.

    The fit is of what is there, clipped: values that are imputed do not count in it.

    Args:
        impute: "mean" or "median" of the column, or a number; None for none.
        missing_flag: As of `Policy`.
        clip: As of `Policy`.

    Raises:
        SpecError: `impute` is something else, or as of `Policy`.
    """

    impute: float | Literal["mean", "median"] | None = None
    missing_flag: bool = False
    clip: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        impute = self.impute
        if isinstance(impute, str):
            if impute not in ("mean", "median"):
                raise SpecError(f'impute must be "mean", "median" or a number, not {impute!r:.80}')
            impute = None
        checked = Policy(impute, self.missing_flag, self.clip)
        object.__setattr__(self, "clip", checked.clip)


@dataclass(frozen=True)
class FitOptions:
    """How a spec is fitted. The names and defaults are those of 2020, from `sample_rows` on ours.

    Args:
        exclude_features: Columns that get no place in the spec.
        feature_overrides: By column, the type to use whatever the rules say, or a `Transform`.
        max_unique_enum_values: The most different values of an ENUM.
        quantile_size: Into how many parts a QUANTILE divides the values.
        quantile_k2_threshold: The K² up to which values count as normal.
        skip_box_cox: Never use BOXCOX by rule.
        skip_quantiles: Never use QUANTILE by rule.
        skip_preprocessing: Use DO_NOT_PREPROCESS for all columns without an override.
        sample_rows: How many rows quantiles, the mode and the Box-Cox transform are from, where
            rows have keys to choose them by.
        min_category_count: How often a category must occur to be listed.
        max_categories: The most categories that are listed, the most frequent ones.
        max_one_hot_values: Up to so many listed categories become one-hot columns; more become ids.
        hash_buckets: Buckets of a HASHED feature.
        category_limit: The most different categories of a column that are counted, each exactly.
        policies: By column, what is done about its values before they are transformed.

    Raises:
        SpecError: an option is out of range.
    """

    exclude_features: Sequence[str] = ()
    feature_overrides: Mapping[str, str | Transform] = field(default_factory=dict, hash=False)
    max_unique_enum_values: int = 20
    quantile_size: int = 20
    quantile_k2_threshold: float = 1000.0
    skip_box_cox: bool = False
    skip_quantiles: bool = True
    skip_preprocessing: bool = False
    sample_rows: int = 32_768
    min_category_count: int = 5
    max_categories: int = 10_000
    max_one_hot_values: int = 0
    hash_buckets: int = 65_536
    category_limit: int = 100_000
    policies: Mapping[str, FitPolicy] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "exclude_features", _names(self.exclude_features))
        object.__setattr__(
            self, "feature_overrides", _by_column("feature_overrides", self.feature_overrides)
        )
        object.__setattr__(self, "policies", _by_column("policies", self.policies))
        for name, low, high in (
            ("max_unique_enum_values", 0, MAX_VALUES),
            ("quantile_size", 1, MAX_VALUES - 1),
            ("sample_rows", FEWEST_TO_REFINE, 2**40),
            ("min_category_count", 1, 2**40),
            ("max_categories", 1, MAX_VALUES),
            ("max_one_hot_values", 0, MAX_VALUES),
            ("hash_buckets", 1, MAX_BUCKETS),
            ("category_limit", 1, 10_000_000),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise SpecError(
                    f"{name} must be a whole number from {low} to {high:,}, not {shown(value)}"
                )
        for name in ("skip_box_cox", "skip_quantiles", "skip_preprocessing"):
            if not isinstance(getattr(self, name), bool):
                raise SpecError(f"{name} must be True or False, not {shown(getattr(self, name))}")
        threshold: object = self.quantile_k2_threshold
        if (
            isinstance(threshold, bool)
            or not isinstance(threshold, int | float)
            or not 0 <= threshold <= FLOAT32_MAX
        ):
            raise SpecError(
                f"quantile_k2_threshold must be 0 or a number above it, not {shown(threshold)}"
            )
        for name, override in self.feature_overrides.items():
            if isinstance(override, Transform) or override in list(TRANSFORMS):
                continue
            near = difflib.get_close_matches(str(override).upper(), TRANSFORMS, n=1)
            meant = f'. Did you mean "{near[0]}"?' if near else ""
            raise SpecError(
                f'feature_overrides of "{name}" must be one of {", ".join(TRANSFORMS)}, or a '
                f"transform, not {override!r:.80}{meant}"
            )
        for name, policy in self.policies.items():
            if not isinstance(policy, FitPolicy):
                raise SpecError(f'policies of "{name}" must be a FitPolicy, not {policy!r:.80}')

    def type_of(self, name: str) -> str | None:
        """The type that `feature_overrides` says for a column; None if it says nothing."""
        override = self.feature_overrides.get(name)
        return override.type if isinstance(override, Transform) else override

    @property
    def distinct_values(self) -> int:
        """How many different values of a column must be counted."""
        forced = Enumeration.type in self.feature_overrides.values()
        return max(self.max_unique_enum_values, MAX_VALUES if forced else DISTINCT_VALUES)


def _by_column(field: str, given: object) -> dict[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise SpecError(f"{field} must be a dict by column, not {given!r:.80}")
    return dict(given or {})


def _names(names: object) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise SpecError(f"exclude_features must be a list of column names, not {names!r}")
    listed = tuple(names)
    for name in listed:
        if not isinstance(name, str):
            raise SpecError(
                f"exclude_features must be a list of column names, not of {shown(name)}"
            )
    return listed
