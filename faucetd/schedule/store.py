"""The tiers of the store, as the scheduler knows them: memory, and disk behind it.

Invariants:

- Resident segments and what is reserved (for loads, and for segments that are read back) never
  exceed the memory budget; spill files, whole and being written, never exceed theirs.
- Nothing is reserved beyond what orphaned memory leaves of the budget. It comes unasked, so it may
  exceed the budget together with what is leased by then.
- A segment is evicted only if nobody leases it and its file is not just being written.
- A segment is being read back only from a whole file, which stays meanwhile, unless its dataset is
  removed.

It decides what makes room for what (by policy.py and spilled.py), and says so in instructions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from faucet_client.spec import SPLITS, Split
from faucetd.schedule import policy
from faucetd.schedule.instructions import (
    DropSpilled,
    Evict,
    Instruction,
    RestoreSegment,
    SegmentId,
    Spill,
)
from faucetd.schedule.spilled import SpillTier
from faucetd.schedule.state import Dataset, Restore, Segment

MOST_RESTORES = 2
"""Segments that are read back at a time: one is copied while the next one waits for the disk."""


@dataclass(frozen=True)
class MemoryView:
    """Bytes of the budget, now."""

    budget_bytes: int
    used_bytes: int
    leased_bytes: int
    peak_bytes: int
    orphaned_bytes: int


class Store:
    """What is where.

    Args:
        budget_bytes: Of memory.
        most_segments: That may be resident or in the making: each is an open descriptor.
        spill_budget_bytes: Of disk; 0 where there is no spill tier.
        datasets: The scheduler's, by key.
        emit: Takes instructions.
        require: Raises with a reason unless something is true.
    """

    def __init__(
        self,
        budget_bytes: int,
        most_segments: int,
        spill_budget_bytes: int,
        datasets: Mapping[str, Dataset],
        emit: Callable[[Instruction], None],
        require: Callable[[bool, str], None],
    ) -> None:
        self._budget_bytes = budget_bytes
        self._most_segments = most_segments
        self._datasets = datasets
        self._emit = emit
        self._require = require
        self._used_bytes = 0
        self._leased_bytes = 0
        self._peak_bytes = 0
        self.orphaned_bytes = 0
        self._restores: dict[int, Restore] = {}
        self._next_restore = 1
        self.clock = 0
        self.resident: dict[SegmentId, Segment] = {}
        self.disk = SpillTier(spill_budget_bytes)

    def memory(self) -> MemoryView:
        """The memory budget's use, now."""
        return MemoryView(
            self._budget_bytes,
            self._used_bytes,
            self._leased_bytes,
            self._peak_bytes,
            self.orphaned_bytes,
        )

    def resident_of(self, dataset: str) -> dict[SegmentId, int]:
        """The dataset's segments in memory, with their bytes."""
        return {
            segment.id: segment.nbytes
            for segment in self.resident.values()
            if segment.id.dataset == dataset
        }

    @property
    def will_free(self) -> bool:
        """Whether memory will be given back by itself: of what is leased, or is being moved."""
        return bool(self._leased_bytes or self.orphaned_bytes or self.is_moving)

    def remove_dataset(self, key: str) -> None:
        """Neither tier has anything of the dataset any more."""
        for spilled in self.disk.of(key):
            self._drop(spilled)
        for segment in [s for s in self.resident.values() if s.id.dataset == key]:
            self._evict(segment)

    # Memory.

    def reserve(self, nbytes: int) -> None:
        """Takes bytes for which there is room."""
        self._used_bytes += nbytes
        self._peak_bytes = max(self._peak_bytes, self._used_bytes)
        self._require(self._used_bytes <= self._budget_bytes, "the budget is exceeded")

    def give_back(self, nbytes: int) -> None:
        """Ends a reservation."""
        self._used_bytes -= nbytes

    def make_room(self, nbytes: int, loads: int, *, wanted_too: bool, evict: bool = True) -> bool:
        """Evicts until `nbytes` are free, or evicts nothing and says that it cannot be done.

        Args:
            nbytes: To be free.
            loads: How many chunks are being loaded.
            wanted_too: Whether segments that somebody wants in this epoch may go.
            evict: Whether any may.
        """
        short = self._used_bytes + self.orphaned_bytes + nbytes - self._budget_bytes
        # A load makes two segments at most.
        coming = 2 * (loads + 1) + len(self._restores)
        too_many = len(self.resident) + coming - self._most_segments
        if (short > 0 or too_many > 0) and not evict:
            return False
        chosen: list[Segment] = []
        if short > 0 or too_many > 0:
            for segment, dear in policy.victims(
                self.resident, self._datasets, wanted_too=wanted_too
            ):
                if dear and self.disk.writing:
                    return False  # what is being written may go soon, and costs less
                chosen.append(segment)
                short -= segment.nbytes
                too_many -= 1
                if short <= 0 and too_many <= 0:
                    break
            else:
                return False
        for segment in chosen:
            self._evict(segment)
        return True

    def take_up_orphaned(self, nbytes: int) -> None:
        """So much memory of earlier daemons is mapped; what nobody leases makes room for it."""
        self.orphaned_bytes = nbytes
        short = self._used_bytes + nbytes - self._budget_bytes
        chosen: list[Segment] = []
        for segment, _ in policy.victims(self.resident, self._datasets, wanted_too=True):
            if short <= 0:
                break
            chosen.append(segment)
            short -= segment.nbytes
        for segment in chosen:
            self._evict(segment)

    @property
    def is_moving(self) -> bool:
        """Whether something is being read back, or written to disk."""
        return bool(self._restores or self.disk.writing)

    def has_room_ahead(self) -> bool:
        """Whether there may be room for a segment, without evicting what somebody wants."""
        free = self._budget_bytes - self._used_bytes - self.orphaned_bytes
        for dataset in self._datasets.values():
            for split in SPLITS:
                if dataset.active(split) and dataset.largest_segment_bytes[split] <= free:
                    return True
                if any(order.has(dataset.begun[split]) for order in dataset.evictable[split]):
                    return True
        return False

    def publish(self, segment: SegmentId, nbytes: int) -> list[int]:
        """The segment stands in memory from now on; the readers that may be granted it now."""
        dataset = self._datasets.get(segment.dataset)
        if dataset is None:  # removed while it was being made
            self._emit(Evict(segment))
            return []
        self._require(segment not in self.resident, "the segment is resident already")
        self.reserve(nbytes)
        self.resident[segment] = Segment(
            segment, nbytes, last_used=self.clock, spilled=self.disk.is_whole(segment)
        )
        _, chunk, split = segment
        dataset.resident[split].add(chunk)
        dataset.end_missing(chunk, split)
        self._settle(self.resident[segment])
        return [
            reader.id
            for reader in dataset.active(split)
            if reader.credits and chunk in reader.pending
        ]

    def _settle(self, segment: Segment) -> None:
        """Notes whether the segment may be evicted, after something of it has changed."""
        key, chunk, split = segment.id
        dataset = self._datasets[key]
        if segment.leases or segment.spilling:
            dataset.may_not_evict(chunk, split)
        else:
            dataset.may_evict(chunk, split, spilled=segment.spilled)

    def lease(self, segment: Segment) -> None:
        """One more reader holds it."""
        if not segment.leases:
            self._leased_bytes += segment.nbytes
            self._datasets[segment.id.dataset].may_not_evict(segment.id.chunk, segment.id.split)
        segment.leases += 1
        segment.last_used = self.clock

    def release(self, segment: SegmentId) -> None:
        """One reader less holds it."""
        held = self.resident[segment]
        held.leases -= 1
        if not held.leases:
            self._leased_bytes -= held.nbytes
            self._settle(held)

    def _evict(self, segment: Segment) -> None:
        self._require(not segment.leases, f"{segment.id} is leased")
        self._require(not segment.spilling, f"{segment.id} is being written to disk")
        del self.resident[segment.id]
        self._used_bytes -= segment.nbytes
        dataset = self._datasets[segment.id.dataset]
        _, chunk, split = segment.id
        dataset.resident[split].discard(chunk)
        dataset.may_not_evict(chunk, split)
        if dataset.wanted[split][chunk]:
            dataset.add_missing(chunk, split)
        self._emit(Evict(segment.id))

    # To disk.

    def take_up(self, files: Mapping[SegmentId, int]) -> None:
        """Disk has these of an earlier daemon, of datasets that nobody has opened yet."""
        for segment, nbytes in files.items():
            self._require(segment.dataset not in self._datasets, "the dataset is open")
            self._require(segment not in self.disk, "the file is known")
            self.disk.add(segment, nbytes, whole=True)
            self.disk.touch(segment.dataset, self.clock)
        for segment in self.disk.make_room(0, self._datasets) or []:
            self._drop(segment)

    def write_behind(self, dataset: Dataset, segment: SegmentId) -> None:
        """Has a segment that was just made written to disk, if there is room."""
        if segment in self.disk:  # it was made again because its chunk was open
            self._drop(segment)
        if self.disk.stopped:
            return
        resident = self.resident[segment]
        dropped = self.disk.make_room(
            resident.nbytes, self._datasets, dataset.key, own=dataset.wanted_later(segment.split)
        )
        if dropped is None:
            return
        for file in dropped:
            self._drop(file)
        self.disk.add(segment, resident.nbytes, whole=False)
        self.disk.touch(dataset.key, self.clock)
        resident.spilling = True
        self._settle(resident)
        self._emit(Spill(segment))

    def spilled(self, segment: SegmentId) -> None:
        """The segment's file is whole."""
        self._require(self._is_spilling(segment), "the segment is not being written")
        self.disk.complete(segment)
        resident = self.resident[segment]
        resident.spilling, resident.spilled = False, True
        self._settle(resident)

    def spill_failed(self, segment: SegmentId) -> None:
        """The segment's file could not be written, and nothing more is."""
        self._require(self._is_spilling(segment), "the segment is not being written")
        self.disk.stop()
        self._drop(segment)

    def _is_spilling(self, segment: SegmentId) -> bool:
        return segment in self.resident and self.resident[segment].spilling

    def _drop(self, segment: SegmentId) -> None:
        self.disk.remove(segment)
        if segment in self.resident:
            resident = self.resident[segment]
            resident.spilling = resident.spilled = False
            self._settle(resident)
        self._emit(DropSpilled(segment))

    # From disk.

    def on_disk(self, dataset: Dataset, split: Split) -> int:
        """The chunks whose split can be read back, as bits.

        Not an open one: to read it back would not tell what follows it.
        """
        return self.disk.chunks(dataset.key, split).bits & ~dataset.open.bits

    def coming_back(self, dataset: str, split: Split) -> set[int]:
        """The chunks whose split is being read back."""
        return {
            restore.segment.chunk
            for restore in self._restores.values()
            if (restore.segment.dataset, restore.segment.split) == (dataset, split)
        }

    @property
    def may_restore(self) -> bool:
        """Whether one more segment may be read back now."""
        return self.disk.used_bytes > 0 and len(self._restores) < MOST_RESTORES

    def restore(self, dataset: Dataset, segment: SegmentId) -> None:
        """Has a segment read back, for which there is room."""
        nbytes = self.disk.nbytes(segment)
        self.reserve(nbytes)
        dataset.end_missing(segment.chunk, segment.split)
        number = self._next_restore
        self._next_restore += 1
        self._restores[number] = Restore(segment, nbytes)
        self.disk.restoring(segment, True)
        self._emit(RestoreSegment(number, segment, nbytes))

    def restored(self, number: int) -> list[int]:
        """It was read back; the readers that may be granted it."""
        restore = self._end_restore(number)
        return self.publish(restore.segment, restore.nbytes)

    def restore_failed(self, number: int) -> None:
        """Its file is of no use; who wants it gets it from the source."""
        segment = self._end_restore(number).segment
        if segment in self.disk:
            self._drop(segment)
        dataset = self._datasets.get(segment.dataset)
        if dataset is not None and dataset.wanted[segment.split][segment.chunk]:
            dataset.add_missing(segment.chunk, segment.split)

    def _end_restore(self, number: int) -> Restore:
        self._require(number in self._restores, f"no restore {number}")
        restore = self._restores.pop(number)
        self.give_back(restore.nbytes)
        self.disk.restoring(restore.segment, False)
        return restore
