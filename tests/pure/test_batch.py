"""Batches of a mapped segment: shapes, and what they say of names that they have not."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from faucet_client.batch import Batch, Block
from faucet_client.layout import ColumnLayout, Role, SegmentLayout
from faucet_client.mapping import Columns, Ragged, copy_rows, map_segment

ROWS = 10
NAMES = (
    (Role.LABEL, "clicked"),
    (Role.LABEL, "bought"),
    (Role.PASSTHROUGH, "row_id"),
)


def mapped(columns: tuple[tuple[Role, str], ...]) -> Columns:
    """Columns of zeros."""
    layouts = tuple(
        ColumnLayout(
            role=role, name=name, dtype="float32", width=1, offset=4096 * number,
            text_offset=0, text_nbytes=0, valid_offset=None,
        )
        for number, (role, name) in enumerate(columns)
    )  # fmt: skip
    layout = SegmentLayout(rows=ROWS, nbytes=4096 * len(columns), columns=layouts)
    fd = os.memfd_create("test")
    try:
        os.ftruncate(fd, layout.nbytes)
        # The mapping stays until this process ends.
        return map_segment(fd, layout, lambda _address, _nbytes: None)
    finally:
        os.close(fd)


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    block = Block(mapped(NAMES), (0, ROWS), 4, (0, 0, 3))
    return [Batch(block, index) for index in range(block.batches)]


def test_without_features_the_matrix_has_a_row_a_row_and_no_column(batches: list[Batch]) -> None:
    for batch, rows in zip(batches, (4, 4, 2), strict=True):
        assert tuple(batch.features.shape) == (rows, 0)
        assert tuple(batch.clone().features.shape) == (rows, 0)
        assert tuple(pickle.loads(pickle.dumps(batch)).features.shape) == (rows, 0)


def of(batch: Batch, name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = getattr(batch, name)
    return found


@pytest.mark.parametrize(
    ("where", "near", "names"),
    [
        ("labels", "clicked", ["clicked", "bought"]),
        ("passthrough", "row_id", ["row_id"]),
        ("valid", "clicked", ["clicked", "bought", "row_id"]),
    ],
)
def test_a_name_that_is_not_there_is_told_with_those_that_are(
    batches: list[Batch], where: str, near: str, names: list[str]
) -> None:
    wrong = near[:-1] + "x"
    mapping = of(batches[0], where)
    with pytest.raises(KeyError) as error:
        mapping[wrong]
    listed = ", ".join(map(repr, names))
    assert str(error.value).startswith(
        f"batch.{where} has no {wrong!r}. Did you mean {near!r}? There are {listed}"
    )
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)
    assert wrong not in mapping
    assert mapping.get(wrong) is None


def test_an_empty_mapping_says_why_it_is(batches: list[Batch]) -> None:
    columns = mapped(((Role.PASSTHROUGH, "row_id"),))
    batch = Batch(Block(columns, (0, ROWS), ROWS, (0, 0, 1)), 0)
    with pytest.raises(KeyError) as error:
        batch.labels["clicked"]
    assert str(error.value).startswith("batch.labels has no 'clicked': it is empty")


def test_where_a_feature_is_to_be_found_is_told_to_who_looks_for_it_elsewhere(
    batches: list[Batch],
) -> None:
    with pytest.raises(KeyError, match=r"it is empty, and .* are columns of batch.features"):
        batches[0].ids["age"]
    with pytest.raises(KeyError, match=r"There are .*'row_id'; and for a feature .*missing_flag"):
        batches[0].valid["age"]


def test_of_many_names_some_are_listed() -> None:
    columns = mapped(tuple((Role.PASSTHROUGH, f"c{n}") for n in range(60)))
    batch = Batch(Block(columns, (0, ROWS), ROWS, (0, 0, 1)), 0)
    with pytest.raises(KeyError) as error:
        batch.passthrough["zzz"]
    assert str(error.value).endswith("'c49', and 10 more")


def ragged(*lists: list[int]) -> Ragged:
    ids = [one for each in lists for one in each]
    ends = np.cumsum([0, *(len(each) for each in lists)])
    return Ragged(torch.tensor(ids, dtype=torch.int64), torch.from_numpy(ends))


def lists_of(found: Ragged) -> list[list[int]]:
    assert found.offsets[0] == 0
    return [found.values[a:b].tolist() for a, b in pairwise(found.offsets.tolist())]


LISTS = [[3, 1], [], [], [4], [1, 1, 2], []]


@pytest.mark.parametrize(("first", "stop"), [(0, 6), (0, 3), (1, 3), (2, 6), (5, 6)])
def test_rows_of_lists_are_views_with_offsets_of_their_own(first: int, stop: int) -> None:
    whole = ragged(*LISTS)
    rows = whole.rows(first, stop)
    assert lists_of(rows) == LISTS[first:stop]
    assert len(rows) == stop - first
    storage = whole.values.untyped_storage().data_ptr()
    assert rows.values.untyped_storage().data_ptr() == storage
    assert lists_of(whole) == LISTS


def test_lists_of_several_pieces_are_joined_in_their_order() -> None:
    whole = ragged(*LISTS)
    pieces = [Columns(6, torch.empty(6, 0), ragged={"tags": whole}) for _ in range(2)]
    joined = copy_rows([(pieces[0], 3, 6), (pieces[1], 0, 1), (pieces[0], 1, 3)])
    assert lists_of(joined.ragged["tags"]) == [*LISTS[3:], LISTS[0], *LISTS[1:3]]
    (one,) = copy_rows([(pieces[0], 0, 2)]).ragged.values()
    assert one.values.untyped_storage().nbytes() == one.values.nbytes  # it keeps no chunk
    assert one.offsets.untyped_storage().nbytes() == one.offsets.nbytes


def test_a_batch_without_lists_says_which_names_there_are() -> None:
    columns = Columns(6, torch.empty(6, 0), ragged={"tags": ragged(*LISTS)})
    batch = Batch(Block(columns, (0, 6), 4, (0, 0, 2)), 1)
    assert lists_of(batch.ragged["tags"]) == LISTS[4:]
    for same in (batch.clone(), pickle.loads(pickle.dumps(batch))):
        assert lists_of(same.ragged["tags"]) == LISTS[4:]
    with pytest.raises(KeyError, match="Did you mean 'tags'"):
        batch.ragged["tag"]


def test_batches_are_joined_by_the_calling_thread_alone() -> None:
    """In a process of its own, since torch keeps the threads that it has once waken."""
    script = (
        "import os, numpy as np, torch\n"
        "from faucet_client.mapping import Columns, copy_rows\n"
        "torch.set_num_threads(4)\n"
        "features = torch.from_numpy(np.zeros((30_000, 8), np.float32))\n"
        "rows = Columns(30_000, features)\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "assert copy_rows([(rows, 0, 9_000), (rows, 5, 9_005)]).rows == 18_000\n"
        "print(len(os.listdir('/proc/self/task')) - before)\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
