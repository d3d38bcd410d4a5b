"""What readers are promised of the memory, so that each of them can always go on.

A promise is the bytes of segments that a reader may hold at a time, whatever others do. Readers are
only admitted while all promises, and one load beside them, fit the budget; readers of one split
together never need more than the whole split. Arithmetic over the scheduler's state, which this
reads and never changes.
"""

from __future__ import annotations

from collections.abc import Mapping

from faucet_client.spec import Split
from faucetd.errors import BudgetError
from faucetd.schedule.state import FLOOR_SEGMENTS, UNLIMITED_BYTES, Dataset, Reader

COMFORT_SEGMENTS = 8
"""Segments beyond which a promise to a reader brings it nothing."""


class Promises:
    """The promises to the readers of now.

    Args:
        budget_bytes: Of memory.
        datasets: The scheduler's, by key.
        readers: The scheduler's, by number; those that have left count as long as they hold leases.
    """

    def __init__(
        self, budget_bytes: int, datasets: Mapping[str, Dataset], readers: Mapping[int, Reader]
    ) -> None:
        self._budget_bytes = budget_bytes
        self._datasets = datasets
        self._readers = readers
        self.orphaned_bytes = 0

    def make(self, dataset: Dataset, split: Split) -> int:
        """The bytes of leases that a new reader of the split can be promised.

        Raises:
            BudgetError: it cannot be promised the least that it needs.
        """
        segment = dataset.largest_segment_bytes[split]
        whole = dataset.split_bytes[split]
        limits = self._limits()
        mine = limits.get((dataset.key, split), 0)
        promised = self._promised_bytes()
        load = max(segment, self._largest_load_bytes())
        free = self._budget_bytes - promised - load
        counted = min(mine, whole)
        ample = free - self.orphaned_bytes  # it may be gone soon, so it keeps nobody out
        if whole - counted <= ample // 2:
            return UNLIMITED_BYTES
        floor = FLOOR_SEGMENTS * segment
        if min(mine + floor, whole) - counted > free:
            raise BudgetError(
                f"the memory budget cannot hold another reader of {dataset.key}: of "
                f"memory_budget={self._budget_bytes:,} bytes, {promised:,} are promised to "
                f"{len(self._readers)} readers and the tensors that they still hold, a load needs "
                f"{load:,}, and this reader needs {FLOOR_SEGMENTS} segments of {segment:,} = "
                f"{floor:,}. Raise memory_budget by {floor - free:,} bytes or more, open the "
                "dataset with a smaller chunk_rows, or end other readers"
            )
        return min(max(ample // 4, floor), COMFORT_SEGMENTS * segment)

    def broken(self) -> BudgetError | None:
        """Why the promises cannot all be kept: segments have proved larger than planned."""
        if self._promised_bytes() + self._largest_load_bytes() <= self._budget_bytes:
            return None
        active = [reader for reader in self._readers.values() if not reader.left]
        if not active:
            return None
        reader = active[-1]
        segment = self._datasets[reader.dataset].largest_segment_bytes[reader.split]
        return BudgetError(
            f"segments of {reader.dataset} have turned out larger than was planned (text is "
            "longer, or chunks have more rows of one split), and "
            f"memory_budget={self._budget_bytes:,} bytes cannot hold {len(active)} readers of "
            f"{FLOOR_SEGMENTS} segments of up to {segment:,} each, and one load beside them. "
            "Raise memory_budget, or open the dataset with a smaller chunk_rows"
        )

    def allow(self, reader: Reader, nbytes: int) -> bool:
        """Whether the reader may hold a segment of so many bytes beside what it holds."""
        return reader.held_leases < FLOOR_SEGMENTS or reader.held_bytes + nbytes <= self._limit(
            reader
        )

    def _promised_bytes(self) -> int:
        return sum(
            min(limit, self._datasets[key].split_bytes[split])
            for (key, split), limit in self._limits().items()
        )

    def _largest_load_bytes(self) -> int:
        return max(
            (self._datasets[key].largest_segment_bytes[split] for key, split in self._limits()),
            default=0,
        )

    def _limits(self) -> dict[tuple[str, Split], int]:
        limits: dict[tuple[str, Split], int] = {}
        for reader in self._readers.values():
            key = reader.dataset, reader.split
            limits[key] = limits.get(key, 0) + (
                reader.held_bytes if reader.left else self._limit(reader)
            )
        return limits

    def _limit(self, reader: Reader) -> int:
        segment = self._datasets[reader.dataset].largest_segment_bytes[reader.split]
        return max(reader.limit_bytes, FLOOR_SEGMENTS * segment)


def required_bytes(largest_segment_bytes: int) -> int:
    """The least budget that one reader can get on with: what it may lease, and one load."""
    return (FLOOR_SEGMENTS + 1) * largest_segment_bytes
