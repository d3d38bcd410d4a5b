"""Who gets what next: the choices of `order="shared"`. Pure functions of the state.

The scheduler knows what every reader still wants, so it needs no guess about the future
(cooperative scans, Zukowski et al., VLDB 2007; predictive buffer management, Świtakowski et al.,
VLDB 2012): a reader takes resident chunks that it has not had; the chunk that most readers want is
loaded next, the one that has waited longest first where somebody has nothing to do; what is wanted
last is evicted first.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping

from faucetd.schedule.instructions import SegmentId
from faucetd.schedule.state import Dataset, Reader, Segment

READ_AHEAD_CHUNKS = 8
"""Chunks ready for a reader beyond which nothing is loaded just for it: a job that is stopped
after a few steps should not have read a whole table."""


def next_grant(
    reader: Reader, dataset: Dataset, resident: dict[SegmentId, Segment]
) -> Segment | None:
    """The resident segment that the reader should have now, if there is one.

    While a chunk is open, nobody is given the last rows of an epoch: a trainer that has all that
    were counted would end, and nobody would notice that the source has more.
    """
    segment = _first_ready(reader, resident)
    if segment is not None and dataset.open and reader.completes_epoch(segment.id.chunk):
        return None
    return segment


def _first_ready(reader: Reader, resident: dict[SegmentId, Segment]) -> Segment | None:
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
    worker_last: tuple[str, int] | None,
    candidates: Callable[[Dataset, Reader], set[int]],
) -> tuple[Dataset, int, Reader] | None:
    """The chunk to load next, and the reader for whose sake.

    Args:
        datasets: All datasets.
        unserved: Readers that wait and for which no load is under way, longest wait first.
        ready_chunks: How many chunks a reader could still be granted, resident or being made.
        worker_last: The dataset and chunk that the worker loaded last.
        candidates: Of the absent chunks that a reader wants, those that may be loaded now.
    """
    by_key = {dataset.key: dataset for dataset in datasets}
    for reader in unserved:
        dataset = by_key[reader.dataset]
        chunk = _best_chunk(dataset, reader, worker_last, candidates(dataset, reader))
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
        chunk = _best_chunk(dataset, reader, worker_last, candidates(dataset, reader))
        if chunk is not None:
            return dataset, chunk, reader
    return None


def _best_chunk(
    dataset: Dataset,
    reader: Reader,
    worker_last: tuple[str, int] | None,
    candidates: set[int],
) -> int | None:
    """Of `candidates`: wanted by most, then cheapest, then soonest."""
    if not candidates:
        return None
    following = None
    if worker_last is not None and worker_last[0] == dataset.key:
        following = dataset.successor.get(worker_last[1])
    if reader.in_order:
        # The chunk that is needed now, by whoever is free; until then each worker keeps its lane.
        soonest = min(candidates)
        return (
            following if following in candidates and soonest != reader.next_in_order() else soonest
        )
    wanted = dataset.wanted[reader.split]

    most = max(map(wanted.__getitem__, candidates))
    best = [chunk for chunk in candidates if wanted[chunk] == most]
    if following in candidates and wanted[following] == most:
        return following
    return min(best, key=reader.rank.__getitem__)


def victims(
    resident: Iterable[Segment], datasets: Mapping[str, Dataset], *, wanted_too: bool
) -> list[tuple[Segment, bool]]:
    """The order to evict in: what costs least to have again, then wanted by nobody, then by fewest.

    What nobody wants costs nothing, and what is on disk little; what is in memory alone and wanted,
    be it in a later epoch, would have to be read from the source again.

    Args:
        resident: All segments in memory.
        datasets: The datasets by key.
        wanted_too: Whether a segment that somebody wants in this epoch may go.

    Returns:
        Each segment, and whether it would have to be read from the source again.
    """
    wanted_later = {
        (dataset.key, reader.split)
        for dataset in datasets.values()
        for reader in dataset.readers.values()
        if reader.epochs_left
    }
    found = []
    for segment in resident:
        key, chunk, split = segment.id
        wanted = datasets[key].wanted[split][chunk]
        if not (segment.leases or segment.spilling) and (wanted_too or not wanted):
            later = (key, split) in wanted_later
            dear = not segment.spilled and (wanted > 0 or later)
            found.append((dear, wanted, later, segment.last_used, segment))
    found.sort(key=lambda entry: entry[:4])
    return [(segment, dear) for dear, *_, segment in found]
