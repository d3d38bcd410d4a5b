"""What happens a second, by the difference of two statuses. Pure.

Clients tell how far they are whenever they go on to their next chunk, so that counters move in
steps; the two statuses should be some seconds apart.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from faucet_client.status import ReaderStatus, Status

WINDOW_S = 10.0
"""How far the two statuses are apart that rates are made of, once there are such."""

ReaderName = tuple[str, str, int, int, str, int]


@dataclass(frozen=True)
class Look:
    """A status, and when it was taken, in monotonic seconds."""

    status: Status
    at_s: float


@dataclass(frozen=True)
class SourceRate:
    """What passes over a dataset's source read, a second."""

    rows_per_s: float
    bytes_per_s: float


@dataclass(frozen=True)
class ReaderRate:
    """What a reader takes.

    Attributes:
        rows_per_s: Rows that its trainer took as batches, a second.
        waited_share: Of the time, how much its `next()` waited for data; 0 to 1.
    """

    rows_per_s: float
    waited_share: float


@dataclass(frozen=True)
class Rates:
    """All that can be told; what is new since the earlier status has no rate yet."""

    sources: dict[str, SourceRate] = field(default_factory=dict)
    readers: dict[ReaderName, ReaderRate] = field(default_factory=dict)


class History:
    """The statuses of the last seconds."""

    def __init__(self) -> None:
        self._looks: deque[Look] = deque()

    def __len__(self) -> int:
        return len(self._looks)

    def add(self, look: Look) -> Rates:
        """One more status; the rates of now, each over as much of the window as there is."""
        self._looks.append(look)
        # The one before the window's begin stays, so that the window is whole.
        while len(self._looks) > 2 and look.at_s - self._looks[1].at_s >= WINDOW_S:
            self._looks.popleft()
        found = Rates()
        for earlier in self._looks:  # what is newer than the window is compared over its own time
            more = rates(earlier, look)
            found = Rates(more.sources | found.sources, more.readers | found.readers)
        return found


def same_daemon(before: Look, now: Look) -> bool:
    """Whether both statuses are of one daemon, not of one that was started in between."""
    return before.status.pid == now.status.pid and before.status.uptime_s <= now.status.uptime_s


def rates(before: Look, now: Look) -> Rates:
    """What happened a second between two statuses of one daemon."""
    seconds = now.at_s - before.at_s
    if seconds <= 0 or not same_daemon(before, now):
        return Rates()
    sources = {dataset.key: dataset for dataset in before.status.datasets}
    readers = {name_of(reader): reader for reader in before.status.readers}
    return Rates(
        sources={
            dataset.key: SourceRate(
                (dataset.source_rows_read - earlier.source_rows_read) / seconds,
                (dataset.source_bytes_read - earlier.source_bytes_read) / seconds,
            )
            for dataset in now.status.datasets
            if (earlier := sources.get(dataset.key)) is not None
            and earlier.source_rows_read <= dataset.source_rows_read  # else it was opened anew
        },
        readers={
            name: _reader_rate(old, reader, seconds)
            for reader in now.status.readers
            if (old := readers.get(name := name_of(reader))) is not None
            and old.rows_consumed <= reader.rows_consumed  # else it is another iterator of the same
        },
    )


def name_of(reader: ReaderStatus) -> ReaderName:
    """What tells a reader from others."""
    return (
        reader.dataset_key,
        reader.job,
        reader.rank,
        reader.worker,
        reader.split,
        reader.pid,
    )


def _reader_rate(before: ReaderStatus, now: ReaderStatus, seconds: float) -> ReaderRate:
    waited = (now.seconds_waited - before.seconds_waited) / seconds
    return ReaderRate(
        (now.rows_consumed - before.rows_consumed) / seconds, min(max(waited, 0.0), 1.0)
    )
