"""What is said over the wire, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from faucet_client.errors import ColumnError
from faucet_client.layout import SegmentLayout
from faucet_client.preprocessing.spec import PreprocessingSpec
from faucet_client.spec import Split
from faucet_client.state import Ranges


@dataclass(frozen=True)
class OpenProgress:
    """How far the daemon has come with opening a dataset."""

    stage: str
    rows_done: int
    rows_total: int


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of an open dataset.

    Attributes:
        key: Hash of all that decides its bytes, hexadecimal.
        rows: Rows of each split, exact.
        features: Names of the features, in the order of the DatasetSpec.
        labels: Names of the labels.
        passthrough: Names of the passthrough columns.
        weighted: Whether batches have weights.
        chunks: Chunks that the table is cut into; 0 while a first pass still finds them.
        passthrough_paths: The source's columns behind `passthrough`, as dotted paths, in the same
            order.
        principal: Whose rights the rows are read with; empty for files.
        query_bytes_billed: Bytes that opening was billed for by a warehouse.
        read_bytes_estimated: Bytes that a pass over the rows is billed for, by its estimate.
        preprocessing: What becomes of the features; None where they are taken as they are.
    """

    key: str
    rows: Mapping[Split, int]
    features: tuple[str, ...]
    labels: tuple[str, ...]
    passthrough: tuple[str, ...]
    weighted: bool
    chunks: int
    passthrough_paths: tuple[str, ...] = ()
    principal: str = ""
    query_bytes_billed: int = 0
    read_bytes_estimated: int = 0
    preprocessing: PreprocessingSpec | None = field(default=None, repr=False)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the columns of `batch.features`, in order."""
        return self.features if self.preprocessing is None else self.preprocessing.output_names

    def outputs_of(self, feature: str) -> range:
        """Which columns of `batch.features` are of a feature; none of one that gives ids.

        Raises:
            ColumnError: there is no such feature.
        """
        if self.preprocessing is not None:
            return self.preprocessing.outputs_of(feature)
        if feature not in self.features:
            raise ColumnError(
                f'there is no feature "{feature}"; there are {", ".join(self.features[:30])}'
            )
        place = self.features.index(feature)
        return range(place, place + 1)


@dataclass(frozen=True)
class EarlierReader:
    """What a reader had when its job had another number of ranks; see ReaderRequest."""

    rank: int
    world_size: int
    remainder: str
    part: int
    parts: int
    stripe_rows: int
    had: frozenset[int]
    partly: Mapping[int, Ranges]


@dataclass(frozen=True)
class ReaderRequest:
    """One reader, as the daemon is asked for it (protos/faucet/v1/faucet.proto: StartReader)."""

    dataset_key: str
    split: Split
    job: str
    rank: int
    worker: int
    first_epoch: int
    epochs: int
    part: int
    parts: int
    stripe_rows: int
    shuffle: str
    seed: int
    credits: int
    order: str = "shared"
    world_size: int = 1
    remainder: str = "drop"
    had: frozenset[int] = frozenset()
    before: Mapping[int, Ranges] = field(default_factory=dict)
    earlier: tuple[EarlierReader, ...] = ()


class Told(NamedTuple):
    """How far a reader is: totals of its rows and waits, and 2.25 for a quarter into epoch 2."""

    rows_consumed: int
    seconds_waited: float
    position_epochs: float


@dataclass(frozen=True)
class Started:
    """The reader may read.

    Attributes:
        rows_per_epoch: Its rows of an epoch.
        lease_limit_bytes: Bytes of segments that it may hold at most.
        first_epoch_rows: Its rows of the first epoch, those included that it had.
        before: Rows of chunks that are nobody's in the first epoch.
        ticket: What attaches its conduit.
    """

    rows_per_epoch: int
    lease_limit_bytes: int
    first_epoch_rows: int
    before: Mapping[int, Ranges]
    ticket: bytes


@dataclass(frozen=True)
class Grant:
    """The reader's rows of a segment. Its memory's descriptor comes beside it."""

    lease: int
    epoch: int
    chunk: int
    ranges: Ranges
    layout: SegmentLayout
    note: str = ""
