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
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping

from faucet_client.spec import SPLITS, Split
from faucetd.schedule.instructions import SegmentId
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
    unserved: Iterable[Reader],
    behind: Iterable[Reader],
    worker_last: tuple[str, int] | None,
    not_for_it: Callable[[Dataset], set[int]],
) -> tuple[Dataset, int, Reader] | None:
    """The chunk to load next, and the reader for whose sake.

    Args:
        datasets: All datasets, by key.
        unserved: Readers that wait and for which no load is under way, longest wait first.
        behind: Those that could be granted few chunks more, fewest first.
        worker_last: The dataset and chunk that the worker loaded last.
        not_for_it: Chunks of a dataset that are left to other workers, or being found out.
    """
    for reader in itertools.chain(unserved, behind):
        dataset = datasets[reader.dataset]
        chunk = _best_chunk(dataset, reader, worker_last, not_for_it(dataset))
        if chunk is not None:
            return dataset, chunk, reader
    return None


def _best_chunk(
    dataset: Dataset,
    reader: Reader,
    worker_last: tuple[str, int] | None,
    not_for_it: set[int],
) -> int | None:
    """Of the absent chunks that the reader wants: wanted by most, then cheapest, then soonest."""
    best = reader.first_absent(dataset, not_for_it)
    if best is None or worker_last is None or worker_last[0] != dataset.key:
        return best
    following = dataset.successor.get(worker_last[1])
    if (
        following is None
        or following in not_for_it
        or following not in reader.pending
        or following not in dataset.missing[reader.split]
    ):
        return best
    if reader.in_order:
        # The chunk that is needed now, by whoever is free; until then each worker keeps its lane.
        return best if best == reader.next_in_order() else following
    wanted = dataset.wanted[reader.split]
    return following if wanted[following] == wanted[best] else best


def victims(
    resident: Mapping[SegmentId, Segment], datasets: Mapping[str, Dataset], *, wanted_too: bool
) -> Iterator[Segment]:
    """The order to evict in: wanted by nobody, then only in later epochs, then by fewest.

    Args:
        resident: All segments in memory.
        datasets: All datasets, by key.
        wanted_too: Whether a segment that somebody wants in this epoch may go.
    """
    splits = [
        (dataset, split)
        for dataset in datasets.values()
        for split in SPLITS
        if dataset.unleased[split]
    ]
    orders = [_victims_of(resident, *each, wanted_too) for each in splits]
    if len(orders) == 1:
        return orders[0]
    return heapq.merge(*orders, key=lambda segment: _keep_for(segment, datasets))


def _victims_of(
    resident: Mapping[SegmentId, Segment], dataset: Dataset, split: Split, wanted_too: bool
) -> Iterator[Segment]:
    least_had = 0 if wanted_too else dataset.begun[split]
    for chunk in dataset.unleased[split].chunks(least_had):
        yield resident[SegmentId(dataset.key, chunk, split)]


def _keep_for(segment: Segment, datasets: Mapping[str, Dataset]) -> tuple[int, bool, int]:
    """How much a segment is worth keeping, beside those of other splits and datasets."""
    key, chunk, split = segment.id
    dataset = datasets[key]
    wanted_later = any(reader.epochs_left for reader in dataset.active(split))
    return dataset.wanted[split][chunk], wanted_later, segment.last_used
