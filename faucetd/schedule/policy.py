"""Who gets what next: the choices of `order="shared"`. Pure functions of the state.

The scheduler knows what every reader still wants, so it needs no guess about the future
(cooperative scans, Zukowski et al., VLDB 2007; predictive buffer management, Świtakowski et al.,
VLDB 2012):

- A reader is granted, of the resident chunks that it has not had, what the fewest others still
  want; and what fewest want is evicted first. So what is in memory is used up before it must go.
- Nothing is loaded until a reader waits for which memory has nothing, and then any chunk of its
  own order will do. Not the one that most others want: they are busy with what they have, most of
  them would not come to it before it must go, and whoever is fastest has it loaded some time
  anyway, as it must load all that it wants. Till then it is best left for a reader that will have
  run short.

docs/sharing.md has figures, benchmarks/NOTES.md what was tried besides.
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
    chunk = None
    ready = reader.takes_bits() & dataset.resident[reader.split].bits
    if ready:
        fewest = dataset.by_had[reader.split].had_by_most(ready)
        chunk = reader.near_order(fewest, len(reader.pending))
    segment = None if chunk is None else resident.get(reader.segment(chunk))
    if segment is not None and dataset.open and reader.completes_epoch(segment.id.chunk):
        return None
    return segment


def has_grant(reader: Reader, dataset: Dataset, resident: Mapping[SegmentId, Segment]) -> bool:
    """Whether there is a resident segment that the reader should have now."""
    if dataset.open:
        return next_grant(reader, dataset, resident) is not None
    return bool(reader.takes_bits() & dataset.resident[reader.split].bits)


def next_load(
    datasets: Mapping[str, Dataset],
    readers: Iterable[Reader],
    candidates: Callable[[Dataset, Reader], int],
    last: tuple[str, int] | None = None,
) -> tuple[Dataset, int, Reader] | None:
    """The chunk to load next, and the reader for whose sake.

    Args:
        datasets: All datasets, by key.
        readers: Those that may need one: first those that wait and for which no load is under way,
            longest wait first, then those that could be granted few chunks more.
        candidates: Of the absent chunks that a reader wants, those that may be loaded, as bits.
        last: The dataset and chunk that the worker has loaded last; the chunk that follows it in
            its lane is the cheapest.
    """
    for reader in readers:
        dataset = datasets[reader.dataset]
        chunks = candidates(dataset, reader)
        if not chunks:
            continue
        key, before = last or ("", -1)
        cheapest = dataset.successor.get(before, -1) if key == dataset.key else -1
        if reader.in_order:
            chunk = reader.first_in_order(chunks)
            if chunk is None:
                continue
            # The chunk that is needed now, by whoever is free; until then each worker keeps its
            # lane.
            needed = chunk == reader.next_in_order()
        else:
            chunk = reader.near_order(chunks, reader.absent)
            needed = False
        if cheapest >= 0 and not needed and chunks >> cheapest & 1:
            chunk = cheapest
        return dataset, chunk, reader
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
