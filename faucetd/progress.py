"""Where the trainers are: how far each is behind the first of those that read the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from faucet_client.status import ReaderStatus


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
