"""Preprocessing: what becomes of each feature, as inert data, and a torch module that does it.

    columns → fit (statistics → identify) → PreprocessingSpec
    columns → encode(spec, …) → numbers → spec.preprocessor() → float32 [n, width]
                              → ids of categories, int64 [n] each

Usable with no daemon and none of its dependencies: NumPy for fitting, torch for the module alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from faucet_client.preprocessing.categories import CategoryStatistics
from faucet_client.preprocessing.columns import Texts
from faucet_client.preprocessing.encode import (
    Encoded,
    Encoder,
    PolicyCounts,
    RaggedIds,
    count,
    encode,
)
from faucet_client.preprocessing.fit import (
    fit,
    fit_as_in_2020,
    merged,
    spec_of,
    statistics_of,
)
from faucet_client.preprocessing.list_statistics import ListStatistics, VectorStatistics
from faucet_client.preprocessing.lists import Lists
from faucet_client.preprocessing.options import FitOptions, FitPolicy
from faucet_client.preprocessing.policy import Policy
from faucet_client.preprocessing.spec import Difference, Feature, PreprocessingSpec
from faucet_client.preprocessing.statistics import ColumnStatistics, TimeStatistics
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

if TYPE_CHECKING:
    from faucet_client.preprocessing.module import Preprocessor

__all__ = [
    "TRANSFORMS",
    "Binary",
    "BoxCox",
    "BoxCoxTrial",
    "Categorical",
    "CategoryStatistics",
    "ColumnStatistics",
    "Continuous",
    "ContinuousAction",
    "Difference",
    "DoNotPreprocess",
    "Encoded",
    "Encoder",
    "Enumeration",
    "Feature",
    "FitOptions",
    "FitPolicy",
    "Hashed",
    "ListStatistics",
    "Lists",
    "Log1p",
    "Policy",
    "PolicyCounts",
    "PreprocessingSpec",
    "Preprocessor",
    "Probability",
    "Quantile",
    "RaggedIds",
    "Summary",
    "Texts",
    "TimeStatistics",
    "Timestamp",
    "Transform",
    "Vector",
    "VectorStatistics",
    "count",
    "encode",
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
