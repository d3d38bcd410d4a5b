"""Where trainers are in their epochs."""

from __future__ import annotations

import dataclasses

import pytest

from faucetd.progress import with_lag
from tests.pure.test_status_wire import READER


def test_readers_lag_behind_the_first_of_their_split_alone() -> None:
    def reader(key: str, split: str, position: float) -> object:
        return dataclasses.replace(
            READER,
            dataset_key=key,
            split=split,  # type: ignore[arg-type]  # one of the two
            position_epochs=position,
            lag_epochs=0.0,
        )

    readers = with_lag(
        reader(*place)  # type: ignore[misc]  # a reader
        for place in [
            ("a", "train", 1.25),
            ("a", "train", 3.0),
            ("a", "eval", 5.0),
            ("b", "train", 0.5),
        ]
    )
    assert [found.lag_epochs for found in readers] == pytest.approx([1.75, 0.0, 0.0, 0.0])
