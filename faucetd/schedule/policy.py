"""Who gets what next: the choices of `order="shared"`. Pure functions of the state.

The scheduler knows what every reader still wants, so it needs no guess about the future
(cooperative scans, Zukowski et al., VLDB 2007; predictive buffer management, Świtakowski et al.,
VLDB 2012): a reader takes resident chunks that it has not had, first those that the fewest others
still want; the chunk that most readers want is loaded next, for whoever has waited longest where
somebody has nothing to do; what fewest want is evicted first. So what is in memory is used up
before it must go, and what is read is read for many: docs/sharing.md has figures.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping

from faucet_client.spec import SPLITS, Split
from faucetd.schedule.instructions import SegmentId
from faucetd.schedule.orders import EvictionOrder
from faucetd.schedule.state import Dataset, Reader, Segment

READ_AHEAD_CHUNKS = 8
"""Chunks ready for a reader beyond which nothing is loaded just for it: a job that is stopped
after a few steps should not have read a whole table."""


def next_grant(
    reader: Reader, dataset: Dataset, resident: Mapping[SegmentId, Segment]
) -> Segment | None:
    """The resident segment that the reader should have now, if there is one.

    It is what fewest others want, or nearly so.

    While a chunk is open, nobody is given the last rows of an epoch: a trainer that has all that
    were counted would end, and nobody would notice that the source has more.
    """
    if reader.in_order:
        chunk = reader.next_in_order()
    else:
        chunk = reader.ready.best(len(reader.pending), dataset.wanted[reader.split])
    segment = None if chunk is None else resident.get(reader.segment(chunk))
    if segment is not None and dataset.open and reader.completes_epoch(segment.id.chunk):
        return None
    return segment


def has_grant(reader: Reader, dataset: Dataset, resident: Mapping[SegmentId, Segment]) -> bool:
    """Whether there is a resident segment that the reader should have now."""
    if reader.in_order or dataset.open:
        return next_grant(reader, dataset, resident) is not None
    return bool(reader.ready)


def next_load(
    datasets: Mapping[str, Dataset],
    readers: Iterable[Reader],
    best: Callable[[Dataset, Reader], int | None],
    following: Callable[[Dataset, Reader], int | None] = lambda *_: None,
) -> tuple[Dataset, int, Reader] | None:
    """The chunk to load next, and the reader for whose sake.

    Wanted by most, then cheapest, then soonest.

    Args:
        datasets: All datasets, by key.
        readers: Those that may need one: first those that wait and for which no load is under way,
            longest wait first, then those that could be granted few chunks more.
        best: Of the absent chunks that a reader wants, and that may be loaded now, the first in its
            order (orders.py).
        following: The cheapest of them, if one is.
    """
    for reader in readers:
        dataset = datasets[reader.dataset]
        chunk = best(dataset, reader)
        if chunk is None:
            continue
        cheapest = following(dataset, reader)
        if cheapest is None:
            return dataset, chunk, reader
        if reader.in_order:
            # The chunk that is needed now, by whoever is free; until then each worker keeps its
            # lane.
            chosen = chunk if chunk == reader.next_in_order() else cheapest
        else:
            wanted = dataset.wanted[reader.split]
            chosen = cheapest if wanted[cheapest] == wanted[chunk] else chunk
        return dataset, chosen, reader
    return None


def victims(
    resident: Mapping[SegmentId, Segment], datasets: Mapping[str, Dataset], *, wanted_too: bool
) -> Iterator[tuple[Segment, bool]]:
    """The order to evict in: what costs least to have again, then wanted by nobody, then by fewest.

    What nobody wants costs nothing, and what is on disk little; what is in memory alone and wanted,
    be it in a later epoch, would have to be read from the source again.

    Args:
        resident: All segments in memory.
        datasets: All datasets, by key.
        wanted_too: Whether a segment that somebody wants in this epoch may go.

    Returns:
        Each segment, and whether it would have to be read from the source again.
    """
    orders = [
        _victims_of(resident, dataset, split, order, wanted_too)
        for dataset in datasets.values()
        for split in SPLITS
        for order in dataset.evictable[split]
        if order
    ]
    cheapest = heapq.merge(*orders, key=lambda segment: _keep_for(segment, datasets))
    for segment in orders[0] if len(orders) == 1 else cheapest:
        yield segment, _is_dear(segment, datasets)


def _victims_of(
    resident: Mapping[SegmentId, Segment],
    dataset: Dataset,
    split: Split,
    order: EvictionOrder,
    wanted_too: bool,
) -> Iterator[Segment]:
    for chunk in order.chunks(0 if wanted_too else dataset.begun[split]):
        yield resident[SegmentId(dataset.key, chunk, split)]


def _keep_for(segment: Segment, datasets: Mapping[str, Dataset]) -> tuple[bool, int, bool, int]:
    """How much a segment is worth keeping, beside those of other splits and datasets."""
    key, chunk, split = segment.id
    dataset = datasets[key]
    later = dataset.wanted_later(split)
    return _is_dear(segment, datasets), dataset.wanted[split][chunk], later, segment.last_used


def _is_dear(segment: Segment, datasets: Mapping[str, Dataset]) -> bool:
    """Whether a segment would have to be read from the source again."""
    key, chunk, split = segment.id
    dataset = datasets[key]
    return not segment.spilled and (dataset.wanted[split][chunk] > 0 or dataset.wanted_later(split))
