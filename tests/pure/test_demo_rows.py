"""The check of the demo's rows: it must notice whatever goes wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from faucet_client import Batch
from faucetd.demo.rows import EpochRows, RowLog, compare, rows_given

SIZE = 10
TABLE = np.arange(100, 150)
TRAIN, EVAL = TABLE[:37], TABLE[37:]
RIGHT = EpochRows(trained=37, evaluated=13, missing=0, surplus=0, moved=0)


class OneBatch:
    """What the log wants to know of a batch."""

    def __init__(self, batch_num: int, ids: np.ndarray) -> None:
        self.batch_num = batch_num
        self.passthrough = {"row_id": torch.tensor(ids.copy())}


def write(
    folder: Path, train: np.ndarray, held_out: np.ndarray, job: str = "a", epoch: int = 0
) -> None:
    with RowLog(folder, job, (epoch, 0)) as log:
        give(log, train, epoch)
        for first in range(0, len(held_out), SIZE):
            ids = held_out[first : first + SIZE]
            log.add("eval", epoch, cast(Batch, OneBatch(first // SIZE, ids)))


def give(log: RowLog, train: np.ndarray, epoch: int = 0, first_batch: int = 0) -> None:
    for first in range(first_batch * SIZE, len(train), SIZE):
        ids = train[first : first + SIZE]
        log.add("train", epoch, cast(Batch, OneBatch(first // SIZE, ids)))


def test_each_row_once_in_its_split_is_exact_in_any_order(tmp_path: Path) -> None:
    for job, epoch in (("a", 0), ("a", 1), ("b", 0), ("b", 1)):
        order = np.random.default_rng(epoch).permutation(TRAIN)
        write(tmp_path, order, EVAL[::-1], job, epoch)
    found = compare(tmp_path, ["a", "b"], 2, TABLE)
    assert found == {"a": [RIGHT] * 2, "b": [RIGHT] * 2}
    assert RIGHT.exact


@pytest.mark.parametrize(
    ("train", "held_out", "missing", "surplus", "moved"),
    [
        (TRAIN[1:], EVAL, 1, 0, 0),
        (np.append(TRAIN, TRAIN[:2]), EVAL, 0, 2, 0),
        (np.append(TRAIN[1:], TRAIN[1]), EVAL, 1, 1, 0),  # as many rows as there should be
        (TRAIN, EVAL[:0], 13, 0, 0),
        (np.append(TRAIN, EVAL[0]), EVAL, 0, 1, 1),
        (np.append(TRAIN, EVAL[0]), EVAL[1:], 0, 0, 1),
        (np.append(TRAIN[1:], 7), EVAL, 1, 1, 1),  # a row that the table does not have
        (np.append(TRAIN[1:], EVAL[0]), np.append(EVAL[1:], TRAIN[0]), 0, 0, 2),
    ],
)
def test_what_is_not_exact_is_counted(
    tmp_path: Path,
    train: np.ndarray,
    held_out: np.ndarray,
    missing: int,
    surplus: int,
    moved: int,
) -> None:
    write(tmp_path, TRAIN, EVAL, "first")
    write(tmp_path, train, held_out, "other")
    first, other = compare(tmp_path, ["first", "other"], 1, TABLE).values()
    assert first == [RIGHT]
    assert other == [EpochRows(len(train), len(held_out), missing, surplus, moved)]
    assert not other[0].exact


def test_an_epoch_that_was_not_had_is_missing(tmp_path: Path) -> None:
    write(tmp_path, TRAIN, EVAL)
    [_, second] = compare(tmp_path, ["a"], 2, TABLE)["a"]
    assert second.missing == len(TABLE)


def test_who_goes_on_from_a_checkpoint_takes_the_place_of_what_was_given_since(
    tmp_path: Path,
) -> None:
    write(tmp_path, TRAIN, EVAL, epoch=0)
    with RowLog(tmp_path, "a", (1, 0)) as killed:
        give(killed, TRAIN[:35], epoch=1)
        assert rows_given(tmp_path, "a", 3) == 37 + 35
        # The rows after the checkpoint come in another order.
        rest = TRAIN[20:][::-1]
        with RowLog(tmp_path, "a", (1, 20)) as again:
            give(again, np.append(TRAIN[:20], rest), epoch=1, first_batch=2)
    write(tmp_path, TRAIN[:0], EVAL, epoch=1)
    assert compare(tmp_path, ["a"], 2, TABLE)["a"] == [RIGHT, RIGHT]
    with RowLog(tmp_path, "a", (1, 20)) as again:  # now one of them is lost
        give(again, np.append(TRAIN[:20], rest[1:]), epoch=1, first_batch=2)
    assert compare(tmp_path, ["a"], 2, TABLE)["a"][1].missing == 1


@pytest.mark.parametrize(("epoch", "first_batch", "surplus"), [(1, 0, 20), (1, 1, 10), (0, 0, 37)])
def test_rows_that_the_model_in_the_checkpoint_has_had_are_not_given_unnoticed(
    tmp_path: Path, epoch: int, first_batch: int, surplus: int
) -> None:
    for each in (0, 1):
        write(tmp_path, TRAIN, EVAL, epoch=each)
    with RowLog(tmp_path, "a", (1, 20)) as again:
        give(again, TRAIN, epoch, first_batch)
    assert compare(tmp_path, ["a"], 2, TABLE)["a"][epoch].surplus == surplus
