import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Case = dict[str, Any]


@pytest.fixture(scope="session")
def reference() -> dict[str, Any]:
    """Columns, settings, specs and outputs of the package of 2020."""
    text = (Path(__file__).parent / "reference.json").read_text()
    loaded: dict[str, Any] = json.loads(text)
    return loaded


@pytest.fixture(params=range(5))
def case(request: pytest.FixtureRequest, reference: dict[str, Any]) -> Case:
    """One of the five settings."""
    of_setting: Case = reference["cases"][request.param]
    return of_setting


@pytest.fixture
def probe(case: Case) -> NDArray[np.float64]:
    """The rows that the setting's output is of, NaN for null, in the order of its features."""
    columns = [case["probe"][name] for name in case["sorted_features"]]
    return np.array([[math.nan if x is None else x for x in column] for column in columns]).T
