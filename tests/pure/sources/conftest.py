from __future__ import annotations

from pathlib import Path

import pytest

from tests.pure.sources.kinds import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    found = Place(tmp_path / "data", tmp_path / "scratch")
    found.folder.mkdir()
    found.scratch.mkdir()
    return found
