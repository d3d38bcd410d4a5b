"""Who gets what next: the choices of `order="shared"`. Pure functions of the state.

The scheduler knows what every reader still wants, so it needs no guess about the future
(cooperative scans, Zukowski et al., VLDB 2007; predictive buffer management, Świtakowski et al.,
VLDB 2012): a reader takes resident chunks that it has not had; the chunk that most readers want is
loaded next, the one that has waited longest first where somebody has nothing to do; what is wanted
last is evicted first.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable

from faucetd.schedule.instructions import SegmentId
from faucetd.schedule.state import Dataset, Reader, Segment

READ_AHEAD_CHUNKS = 8
"""Chunks ready for a reader beyond which nothing is loaded just for it: a job that is stopped
after a few steps should not have read a whole table."""


def next_grant(reader: Reader, resident: dict[SegmentId, Segment]) -> Segment | None:
    """The resident segment that the reader should have now, if there is one."""
    if reader.in_order:
        chunk = reader.next_in_order()
        return None if chunk is None else resident.get(reader.segment(chunk))
    while reader.ready:
        chunk = reader.ready[0][1]
        segment = resident.get(reader.segment(chunk))
        if segment is not None and chunk in reader.pending:
            return segment
        heapq.heappop(reader.ready)  # granted or evicted since it was offered
    return None


def next_load(
    datasets: Iterable[Dataset],
    unserved: list[Reader],
    ready_chunks: Callable[[Reader], int],
    worker_lane: tuple[str, int, int] | None,
) -> tuple[Dataset, int, Reader] | None:
    """The chunk to load next, and the reader for whose sake.

    Args:
        datasets: All datasets.
        unserved: Readers that wait and for which no load is under way, longest wait first.
        ready_chunks: How many chunks a reader could still be granted, resident or being made.
        worker_lane: The dataset, lane and chunk that the worker loaded last.
    """
    by_key = {dataset.key: dataset for dataset in datasets}
    for reader in unserved:
        dataset = by_key[reader.dataset]
        chunk = _best_chunk(dataset, reader, worker_lane)
        if chunk is not None:
            return dataset, chunk, reader
    behind = [
        (count, reader)
        for dataset in by_key.values()
        for reader in dataset.readers.values()
        if reader.pending and (count := ready_chunks(reader)) < READ_AHEAD_CHUNKS
    ]
    for _, reader in sorted(behind, key=lambda entry: (entry[0], entry[1].id)):
        dataset = by_key[reader.dataset]
        chunk = _best_chunk(dataset, reader, worker_lane)
        if chunk is not None:
            return dataset, chunk, reader
    return None


def _best_chunk(
    dataset: Dataset, reader: Reader, worker_lane: tuple[str, int, int] | None
) -> int | None:
    """Of the absent chunks that the reader wants: wanted by most, then cheapest, then soonest."""
    candidates = dataset.missing[reader.split] & reader.pending
    if not candidates:
        return None
    if reader.in_order:
        return min(candidates)
    wanted = dataset.wanted[reader.split]

    def merit(chunk: int) -> tuple[int, bool, int]:
        follows = worker_lane == (dataset.key, dataset.chunks[chunk].lane, chunk - 1)
        return wanted[chunk], follows, -reader.rank[chunk]

    return max(candidates, key=merit)


def victim(
    resident: Iterable[Segment], datasets: dict[str, Dataset], *, wanted_too: bool
) -> Segment | None:
    """The segment to evict next: wanted by nobody, then only in later epochs, then by fewest.

    Args:
        resident: All segments in memory.
        datasets: The datasets by key.
        wanted_too: Whether a segment that somebody wants in this epoch may go.
    """
    best: tuple[int, bool, int] | None = None
    chosen = None
    for segment in resident:
        if segment.leases:
            continue
        dataset = datasets[segment.id.dataset]
        wanted = dataset.wanted[segment.id.split][segment.id.chunk]
        if wanted and not wanted_too:
            continue
        later = any(
            reader.epochs_left
            for reader in dataset.readers.values()
            if reader.split == segment.id.split
        )
        key = (wanted, later, segment.last_used)
        if best is None or key < best:
            best, chosen = key, segment
    return chosen
