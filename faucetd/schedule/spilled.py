"""The spill tier, as the scheduler knows it: which segments local disk has, and what they take.

Invariants:

- Files that are written and files being written never take more than the budget.
- A segment counts as being on disk once its file is whole, and no sooner.
- Files outlive their datasets' being open: those of an earlier daemon are here before anybody opens
  theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from faucet_client.spec import SPLITS, Split
from faucetd.schedule.instructions import SegmentId
from faucetd.schedule.orders import ChunkSet
from faucetd.schedule.state import Dataset


@dataclass
class SpillFile:
    """One segment's file, whole or being written."""

    nbytes: int
    whole: bool = False
    restoring: bool = False


@dataclass(frozen=True)
class SpillView:
    """Bytes of the budget, now."""

    budget_bytes: int
    used_bytes: int


class SpillTier:
    """What is on disk.

    Args:
        budget_bytes: What files may take; 0 where there is no spill tier.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self._files: dict[SegmentId, SpillFile] = {}
        self._whole: dict[str, dict[Split, ChunkSet]] = {}
        self._writing = 0
        self._last_used: dict[str, int] = {}  # by dataset, oldest first
        self._stopped = budget_bytes == 0

    @property
    def stopped(self) -> bool:
        """Whether nothing more is written; what there is can still be read."""
        return self._stopped

    @property
    def writing(self) -> bool:
        """Whether a file is being written."""
        return self._writing > 0

    def view(self) -> SpillView:
        """The budget's use."""
        return SpillView(self.budget_bytes, self.used_bytes)

    def stop(self) -> None:
        """The disk takes no more, for now."""
        self._stopped = True

    def start(self) -> None:
        """The disk may take more again."""
        self._stopped = self.budget_bytes == 0

    def __contains__(self, segment: SegmentId) -> bool:
        """Whether the segment has a file, whole or being written."""
        return segment in self._files

    def is_whole(self, segment: SegmentId) -> bool:
        """Whether the segment can be read back."""
        file = self._files.get(segment)
        return file is not None and file.whole

    def nbytes(self, segment: SegmentId) -> int:
        """The memory that a file's segment takes."""
        return self._files[segment].nbytes

    def chunks(self, dataset: str, split: Split) -> ChunkSet:
        """The chunks of which a split can be read back. Not to be changed."""
        return self._whole.get(dataset, {}).get(split, _NONE)

    def segments(self, dataset: str) -> dict[SegmentId, int]:
        """The dataset's segments that can be read back, with their bytes."""
        return {
            segment: self._files[segment].nbytes
            for split in SPLITS
            for chunk in self.chunks(dataset, split)
            for segment in [SegmentId(dataset, chunk, split)]
        }

    def add(self, segment: SegmentId, nbytes: int, *, whole: bool) -> None:
        """A file is there, or about to be written, for which there is room."""
        self._files[segment] = SpillFile(nbytes)
        self.used_bytes += nbytes
        self._writing += 1
        self._last_used.setdefault(segment.dataset, 0)
        if whole:
            self.complete(segment)

    def complete(self, segment: SegmentId) -> None:
        """The file is written."""
        self._files[segment].whole = True
        self._writing -= 1
        splits = self._whole.setdefault(segment.dataset, {split: ChunkSet() for split in SPLITS})
        splits[segment.split].add(segment.chunk)

    def remove(self, segment: SegmentId) -> None:
        """The file is gone, or will be before the next one is written."""
        file = self._files.pop(segment)
        self.used_bytes -= file.nbytes
        if not file.whole:
            self._writing -= 1
            return
        splits = self._whole[segment.dataset]
        splits[segment.split].discard(segment.chunk)
        if not any(splits.values()):
            del self._whole[segment.dataset]

    def restoring(self, segment: SegmentId, now: bool) -> None:
        """Whether the file is being read back, and so must stay."""
        if segment in self._files:
            self._files[segment].restoring = now

    def touch(self, dataset: str, clock: int) -> None:
        """The dataset is used now."""
        if dataset in self._last_used:
            self._last_used[dataset] = clock

    def datasets(self) -> list[str]:
        """Those that have whole files."""
        return list(self._whole)

    def of(self, dataset: str) -> list[SegmentId]:
        """All segments of a dataset that have a file, whole or not."""
        return [segment for segment in self._files if segment.dataset == dataset]

    def has_room(self, nbytes: int) -> bool:
        """Whether so much more could be written, without dropping anything."""
        return not self._stopped and self.used_bytes + nbytes <= self.budget_bytes

    def make_room(
        self, nbytes: int, datasets: Mapping[str, Dataset], keep: str = "", *, own: bool = False
    ) -> list[SegmentId] | None:
        """The files to drop so that there are `nbytes` free; None if that cannot be done.

        Nobody wants those files, now or in a later epoch of theirs. Files of datasets without
        readers come first, of those the ones that were not used for longest.

        Args:
            nbytes: To be free.
            datasets: Those that are open.
            keep: The dataset that the room is for. Its own files stay: to put one in the place of
                another would bring whoever comes next nothing.
            own: But not if the new one will be wanted in a later epoch, and those will not.
        """
        short = self.used_bytes + nbytes - self.budget_bytes
        if short <= 0:
            return []
        if nbytes > self.budget_bytes:
            return None
        chosen = []
        order = sorted(
            (key for key in self._whole if key != keep or own),
            key=lambda key: (
                key in datasets and bool(datasets[key].readers),
                self._last_used.get(key, 0),
            ),
        )
        for key in order:
            dataset = datasets.get(key)
            for split, chunks in self._whole[key].items():
                if dataset is not None and dataset.wanted_later(split):
                    continue
                for chunk in sorted(chunks, reverse=True):
                    segment = SegmentId(key, chunk, split)
                    file = self._files[segment]
                    if file.restoring or (dataset is not None and dataset.wanted[split][chunk]):
                        continue
                    chosen.append(segment)
                    short -= file.nbytes
                    if short <= 0:
                        return chosen
        return None


_NONE = ChunkSet()
