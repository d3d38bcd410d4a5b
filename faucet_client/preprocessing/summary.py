"""What a fit saw of a feature: for people and reports. Nothing here changes a served number."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BoxCoxTrial:
    """What a Box-Cox transform would make of a feature.

    Attributes:
        exponent: The most likely lambda.
        shift: What is added to a value before.
        k2: D'Agostino and Pearson's K² of the transformed values.
        stddev: Of the transformed values.
        accepted: Whether the transform makes the feature normal enough to be worth it.
    """

    exponent: float
    shift: float
    k2: float
    stddev: float
    accepted: bool


@dataclass(frozen=True)
class Summary:
    """The statistics of one feature over the rows of a fit; of times in microseconds since 1970.

    Attributes:
        rows: All rows, also those without a value.
        nulls: Rows without a value: null or NaN.
        infinite: Rows with an infinite value, which the fit left out.
        rounded: Integers beyond 2^53, which became the nearest float64.
        unlisted: Rows with a category that the transform does not list.
        sampled: Rows that quantiles, the mode and the Box-Cox trial are from: all with a finite
            value, or fewer.
        minimum: Of the finite values; None where there is none. So are the next ones.
        maximum: Of the finite values.
        mean: Of the finite values.
        stddev: Of the finite values, with n − 1; None for fewer than 2.
        mode: The most frequent of the finite values, the smallest of several.
        distinct: How many different values there are; None where they are more than were counted,
            and of categories an estimate.
        k2: D'Agostino and Pearson's K²; None where it was not asked for.
        trial: The Box-Cox trial; None where there was none.
    """

    rows: int
    nulls: int = 0
    infinite: int = 0
    rounded: int = 0
    unlisted: int = 0
    sampled: int = 0
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    stddev: float | None = None
    mode: float | None = None
    distinct: int | None = None
    k2: float | None = None
    trial: BoxCoxTrial | None = None
