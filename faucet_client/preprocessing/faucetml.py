"""Specs of the 2020 package, to and from: its `NormalizationParameters`, as dicts.

It had one class with a field for every type's parameters, filled with defaults where they mean
nothing. Reading takes what the type needs and keeps the rest as a summary; writing fills the
defaults in again, as the package did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from faucet_client.errors import SpecError
from faucet_client.preprocessing.checks import finite_number
from faucet_client.preprocessing.policy import NO_POLICY, Policy
from faucet_client.preprocessing.summary import Summary
from faucet_client.preprocessing.transforms import (
    Binary,
    BoxCox,
    Continuous,
    ContinuousAction,
    DoNotPreprocess,
    Enumeration,
    Probability,
    Quantile,
    Transform,
)

FIELDS = (
    "feature_type",
    "boxcox_lambda",
    "boxcox_shift",
    "mean",
    "stddev",
    "mode",
    "possible_values",
    "quantiles",
    "min_value",
    "max_value",
)

_TYPES: dict[str, Callable[[Mapping[str, Any]], Transform]] = {
    Binary.type: lambda _: Binary(),
    Probability.type: lambda _: Probability(),
    Continuous.type: lambda old: Continuous(old["mean"], old["stddev"]),
    BoxCox.type: lambda old: BoxCox(
        old["boxcox_lambda"], old["boxcox_shift"], old["mean"], old["stddev"]
    ),
    Enumeration.type: lambda old: Enumeration(old["possible_values"]),
    Quantile.type: lambda old: Quantile(old["quantiles"]),
    ContinuousAction.type: lambda old: ContinuousAction(old["min_value"], old["max_value"]),
    DoNotPreprocess.type: lambda _: DoNotPreprocess(),
}


def read(name: str, given: object) -> tuple[str, Transform, str, Summary | None]:
    """Name, transform, why and summary of one feature.

    Raises:
        SpecError: naming the feature and the rule.
    """
    where = f'feature "{name[:80]}"'
    old: object = given
    if is_dataclass(given) and not isinstance(given, type):
        old = asdict(given)
    if not isinstance(old, Mapping):
        raise SpecError(f"{where} must have a dict of parameters, not {str(given)[:80]!r}")
    unknown = [key for key in old if key not in FIELDS]
    if unknown:
        raise SpecError(f"{where} has {unknown[0]!r}, which the 2020 package did not know")
    filled = {field: old.get(field) for field in FIELDS}
    kind = filled["feature_type"]
    if not isinstance(kind, str) or kind not in _TYPES:
        raise SpecError(f"{where}: feature_type must be one of {', '.join(_TYPES)}, not {kind!r}")
    try:
        return name, _TYPES[kind](filled), "as in the spec of 2020", _summary(filled)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None


def check(name: str, transform: Transform, policy: Policy) -> None:
    """Refuses what the 2020 package did not know.

    Raises:
        SpecError: naming the feature.
    """
    if transform.type not in _TYPES or policy != NO_POLICY:
        what = transform.type if transform.type not in _TYPES else "a policy"
        raise SpecError(
            f'feature "{name[:80]}" has {what}, which the 2020 package did not know: take it out '
            "with spec.exclude([...]), or override it"
        )


def write(transform: Transform, summary: Summary | None) -> dict[str, Any]:
    """A feature's parameters, as `dataclasses.asdict` of the 2020 package's class gave them."""
    summary = summary or Summary(0)
    old: dict[str, Any] = dict.fromkeys(FIELDS)
    old |= {"feature_type": transform.type, "boxcox_shift": 0.0, "mean": 0.0, "stddev": 1.0}
    old |= {
        "mode": summary.mode,
        "min_value": summary.minimum,
        "max_value": summary.maximum,
    }
    match transform:
        case Continuous(mean, stddev):
            old |= {"boxcox_shift": None, "mean": mean, "stddev": stddev}
        case BoxCox(exponent, shift, mean, stddev):
            old |= {"boxcox_lambda": exponent, "boxcox_shift": shift}
            old |= {"mean": mean, "stddev": stddev}
        case Enumeration(values):
            old["possible_values"] = list(values)
        case Quantile(boundaries):
            old |= {"boxcox_shift": None, "quantiles": list(boundaries)}
            if summary.trial is not None and summary.trial.accepted:
                old["stddev"] = summary.trial.stddev  # left there by a Box-Cox that was skipped
        case ContinuousAction(low, high):
            old |= {"min_value": low, "max_value": high}
            old |= _moments(summary)
        case DoNotPreprocess():
            old |= _moments(summary)
        case _:
            pass
    return old


def _moments(summary: Summary) -> dict[str, float]:
    return {"mean": summary.mean or 0.0, "stddev": max(summary.stddev or 1.0, 1.0)}


def _summary(old: Mapping[str, Any]) -> Summary | None:
    def number(field: str) -> float | None:
        return None if old[field] is None else finite_number(field, old[field])

    of_values = old["feature_type"] in (
        DoNotPreprocess.type,
        ContinuousAction.type,
        Continuous.type,
    )
    found = Summary(
        rows=0,
        minimum=number("min_value"),
        maximum=number("max_value"),
        mean=number("mean") if of_values else None,
        stddev=number("stddev") if of_values else None,
        mode=number("mode"),
    )
    return None if found == Summary(rows=0) else found
