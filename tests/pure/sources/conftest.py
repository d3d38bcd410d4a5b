from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.bigquery_server.local import LocalBigQuery
from tests.pure.sources.kinds import Place


@pytest.fixture(scope="session")
def start_server() -> Iterator[Callable[[], LocalBigQuery]]:
    """A BigQuery server for all tests here, started by the first one that asks for it."""
    with ExitStack() as running:
        yield functools.cache(lambda: running.enter_context(LocalBigQuery()))


@pytest.fixture
def place(tmp_path: Path, start_server: Callable[[], LocalBigQuery]) -> Place:
    found = Place(tmp_path / "data", tmp_path / "scratch", start_server)
    found.folder.mkdir()
    found.scratch.mkdir()
    return found
