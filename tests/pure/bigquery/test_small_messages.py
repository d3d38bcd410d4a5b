"""Small messages of a stream are joined, and no row is asked for beyond what is wanted."""

from __future__ import annotations

from typing import Any, cast

import pyarrow as pa
import pytest

from faucetd.fetch.bigquery.stream import StreamReader
from faucetd.fetch.bigquery.table import JOINED_ROWS, _Cursor


class Messages:
    """A StreamReader of messages of so many rows, which are numbered from 0."""

    position = 0

    def __init__(self, rows: int, messages: int) -> None:
        self._left = [
            pa.RecordBatch.from_pydict({"n": list(range(at * rows, (at + 1) * rows))})
            for at in range(messages)
        ]
        self.asked = 0

    def next(self) -> tuple[pa.RecordBatch, int] | None:
        self.asked += 1
        if not self._left:
            return None
        batch = self._left.pop(0)
        self.position += batch.num_rows
        return batch, self.position

    def close(self) -> None:
        pass


def cursor_over(messages: Any) -> _Cursor:
    return _Cursor(cast(StreamReader, messages))


def numbers_of(batches: list[pa.RecordBatch]) -> list[Any]:
    return [number for batch in batches for number in batch.column(0).to_pylist()]


def test_small_messages_are_joined() -> None:
    cursor = cursor_over(Messages(1_000, 20))
    found: list[Any] = []
    sizes = []
    while batches := cursor.next_some(100_000):
        found += numbers_of(batches)
        sizes.append(sum(batch.num_rows for batch in batches))
    assert found == list(range(20_000))
    assert sizes == [9_000, 9_000, 2_000]


@pytest.mark.parametrize("wanted", [1, 999, 1_000, 2_500])
def test_no_message_is_asked_for_beyond_the_wanted_rows(wanted: int) -> None:
    messages = Messages(1_000, 20)
    cursor = cursor_over(messages)
    assert numbers_of(cursor.next_some(wanted)) == list(range(wanted))
    assert cursor.position == wanted
    assert messages.asked == -(-wanted // 1_000)
    assert numbers_of(cursor.next_some(10)) == list(range(wanted, wanted + 10))


def test_a_large_message_comes_alone() -> None:
    messages = Messages(JOINED_ROWS, 3)
    batches = cursor_over(messages).next_some(10 * JOINED_ROWS)
    assert [batch.num_rows for batch in batches] == [JOINED_ROWS]
    assert messages.asked == 1
