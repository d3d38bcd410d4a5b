"""Where the trainers are: how far each is in its epochs, and behind the first of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from faucet_client.status import ReaderStatus


class Progress:
    """One reader's, as its client tells it.

    Args:
        first_epoch: The epoch that it begins with.

    Attributes:
        rows_consumed: Rows that its trainer has taken as batches, over all epochs so far.
        seconds_waited: Time that its `next()` waited for data.
    """

    def __init__(self, first_epoch: int) -> None:
        self.rows_consumed = 0
        self.seconds_waited = 0.0
        self._epoch = first_epoch
        self._rows_before_epoch = 0

    def advance(self, epoch: int) -> None:
        """It goes on to this epoch, having read the one before to its end or not."""
        self._epoch = epoch
        self._rows_before_epoch = self.rows_consumed

    def position_epochs(self, rows_per_epoch: int) -> float:
        """Where it is: 2.25 is a quarter into epoch 2."""
        rows = self.rows_consumed - self._rows_before_epoch
        return self._epoch + (rows / rows_per_epoch if rows_per_epoch else 0.0)


def with_lag(readers: Iterable[ReaderStatus]) -> tuple[ReaderStatus, ...]:
    """The same readers, of which each knows how far the first of its dataset's split is ahead."""
    found = tuple(readers)
    first: dict[tuple[str, str], float] = {}
    for reader in found:
        place = reader.dataset_key, reader.split
        first[place] = max(first.get(place, 0.0), reader.position_epochs)
    return tuple(
        replace(reader, lag_epochs=first[reader.dataset_key, reader.split] - reader.position_epochs)
        for reader in found
    )
