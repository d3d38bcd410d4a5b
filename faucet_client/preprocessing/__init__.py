"""Preprocessing: what becomes of each feature, as inert data, and a torch module that does it.

    columns → fit (statistics → identify) → PreprocessingSpec → preprocessor() → float32

Usable with no daemon and none of its dependencies: NumPy for fitting, torch for the module alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from faucet_client.preprocessing.fit import (
    fit,
    fit_as_in_2020,
    merged,
    spec_of,
    statistics_of,
)
from faucet_client.preprocessing.identify import FitOptions
from faucet_client.preprocessing.spec import Difference, Feature, PreprocessingSpec
from faucet_client.preprocessing.statistics import ColumnStatistics
from faucet_client.preprocessing.summary import BoxCoxTrial, Summary
from faucet_client.preprocessing.transforms import (
    TRANSFORMS,
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

if TYPE_CHECKING:
    from faucet_client.preprocessing.module import Preprocessor

__all__ = [
    "TRANSFORMS",
    "Binary",
    "BoxCox",
    "BoxCoxTrial",
    "ColumnStatistics",
    "Continuous",
    "ContinuousAction",
    "Difference",
    "DoNotPreprocess",
    "Enumeration",
    "Feature",
    "FitOptions",
    "PreprocessingSpec",
    "Preprocessor",
    "Probability",
    "Quantile",
    "Summary",
    "Transform",
    "fit",
    "fit_as_in_2020",
    "merged",
    "spec_of",
    "statistics_of",
]


def __getattr__(name: str) -> Any:
    """Imports torch when the module that needs it is first asked for (PEP 562)."""
    if name != "Preprocessor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from faucet_client.preprocessing.module import Preprocessor

    return Preprocessor
