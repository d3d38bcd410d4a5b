"""Where trainers are in their epochs."""

from __future__ import annotations

import dataclasses

import pytest

from faucetd.progress import Progress, with_lag
from tests.pure.test_status_wire import READER


def test_the_position_is_in_epochs_from_the_one_that_it_began_with() -> None:
    progress = Progress(first_epoch=3)
    assert progress.position_epochs(200) == 3.0
    progress.rows_consumed = 50
    assert progress.position_epochs(200) == 3.25


def test_an_epoch_that_was_given_up_early_does_not_shift_the_ones_after_it() -> None:
    progress = Progress(first_epoch=0)
    progress.rows_consumed = 20
    progress.advance(1)
    assert progress.position_epochs(200) == 1.0
    progress.rows_consumed = 120
    assert progress.position_epochs(200) == 1.5


def test_a_reader_without_rows_has_a_position() -> None:
    assert Progress(first_epoch=1).position_epochs(0) == 1.0


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
