"""What a person needs to judge a dataset's features and their preprocessing, as inert data.

    columns in memory + PreprocessingSpec → profile_of → Profile → JSON, or report.render → HTML

Usable with no daemon and none of its dependencies: NumPy alone, and torch for the outputs.
"""

from faucet_client.profile.data import (
    Applied,
    FeatureProfile,
    Histogram,
    Profile,
)
from faucet_client.profile.making import Outputs, outputs_by_module, profile_of

__all__ = [
    "Applied",
    "FeatureProfile",
    "Histogram",
    "Outputs",
    "Profile",
    "outputs_by_module",
    "profile_of",
]
