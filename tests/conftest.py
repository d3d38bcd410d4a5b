"""What holds for all tests: how hypothesis tries, and a collection of garbage that stays quick."""

from __future__ import annotations

import gc

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes depends on the machine, and on who else uses it; it proves nothing.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Keeps what was imported and collected out of the garbage collections to come.

    Many tests collect, to see that nothing is left of what they did. To look through the millions
    of objects of the libraries and of pytest each time took longer than the tests.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """The libraries complain of what the end of the interpreter does not find."""
    gc.unfreeze()
