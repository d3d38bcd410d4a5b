"""What the daemon and its workers say to each other, as typed JSON (msgspec).

A task goes down, one at a time; progress and one final reply come up. File descriptors of sealed
segments travel beside `Loaded`, in the order of its segments.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import msgspec

from faucet_client.layout import SegmentLayout
from faucet_client.preprocessing.options_json import options_from_json, options_to_json
from faucet_client.preprocessing.spec import PreprocessingSpec
from faucet_client.spec import (
    PREPROCESSINGS,
    BigQuerySource,
    DatasetSpec,
    DuckDBSource,
    ParquetSource,
    Split,
)
from faucetd.fetch.bigquery.settings import BigQuerySettings
from faucetd.fetch.pieces import PlannedChunk

_SOURCES = {"parquet": ParquetSource, "duckdb": DuckDBSource, "bigquery": BigQuerySource}


def describe_spec(spec: DatasetSpec) -> dict[str, Any]:
    """The spec as plain data; also what the dataset's key is made from."""
    kind = next(kind for kind, source in _SOURCES.items() if type(spec.source) is source)
    given = spec.preprocessing
    return {each.name: getattr(spec, each.name) for each in fields(spec)} | {
        "source": {"kind": kind} | asdict(spec.source),
        "preprocessing": given if isinstance(given, str) else given.to_json(),
        "fit": options_to_json(spec.fit),
    }


def read_spec(described: dict[str, Any]) -> DatasetSpec:
    """The inverse of `describe_spec`."""
    source = dict(described["source"])
    given = described["preprocessing"]
    return DatasetSpec(
        **described
        | {
            "source": _SOURCES[source.pop("kind")](**source),
            "preprocessing": given
            if given in PREPROCESSINGS
            else PreprocessingSpec.from_json(given),
            "fit": options_from_json(described["fit"]),
        }
    )


class Access(msgspec.Struct, frozen=True):
    """What a worker may read, and how it reaches it.

    `scratch_dir` goes with the daemon; `specs_dir`, where fitted preprocessing specs are, stays, as
    does `dealt_dir`, where dealt rows are, in `dealt_budget` bytes: what was not used since
    `dealt_since` (seconds since 1970, when the daemon started) no dataset of this daemon uses.
    """

    allowed_roots: tuple[str, ...]
    scratch_dir: str
    bigquery: BigQuerySettings
    specs_dir: str = ""
    dealt_dir: str = ""
    dealt_budget: int = 0
    dealt_since: float = 0.0


class Open(msgspec.Struct, frozen=True, tag=True):
    """Resolve a spec against its source: columns, plan, exact counts, key.

    `workers` is how many chunks can be read at a time, `budget_bytes` what prepared ones may take.
    """

    spec: dict[str, Any]
    access: Access
    uid: int
    workers: int
    budget_bytes: int


class CheckSnapshot(msgspec.Struct, frozen=True, tag=True):
    """Say which snapshot the source, files, is at now."""

    spec: dict[str, Any]
    access: Access


class LoadChunk(msgspec.Struct, frozen=True, tag=True):
    """Make one chunk; `splits` become segments, other rows are read and dropped.

    `ticket` is of a warehouse, `dealt` names the folder of dealt rows; both are "" where files are
    read themselves. `chunk_rows` are those of the dataset.
    """

    dataset: str
    spec: dict[str, Any]
    snapshot: str
    ticket: str
    access: Access
    number: int
    chunk: PlannedChunk
    chunk_rows: int
    splits: tuple[Split, ...]
    reserved_bytes: int
    preprocessing: str = ""
    dealt: str = ""


class Allow(msgspec.Struct, frozen=True, tag=True):
    """The answer to `ExtraBytes`: the bytes are yours, or drop the chunk."""

    allowed: bool


Task = Open | CheckSnapshot | LoadChunk


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The worker has started."""


class Progress(msgspec.Struct, frozen=True, tag=True):
    """How far an `Open` has come."""

    stage: str
    rows_done: int
    rows_total: int


class SplitTotal(msgspec.Struct, frozen=True):
    """A split as a whole: its exact rows, and what its segments take, rather too much."""

    rows: int
    nbytes: int


class WarehouseFacts(msgspec.Struct, frozen=True):
    """What is known of a dataset that a warehouse holds.

    `ticket` tells any worker how to read it, for `lifetime_s`. Opening was billed for
    `query_bytes`, of which `count_read_bytes` were for reading, and not for queries; a pass will be
    for `pass_bytes`. `principal` is whose rights are used, and `notes` are sentences for people.
    """

    ticket: str
    principal: str
    query_bytes: int
    pass_bytes: int
    lifetime_s: float
    notes: tuple[str, ...]
    count_read_bytes: int = 0


class DealtFacts(msgspec.Struct, frozen=True):
    """Rows that were dealt on disk: their folder, the files they came from, and their bytes."""

    folder: str
    source_snapshot: str
    nbytes: int


class Opened(msgspec.Struct, frozen=True, tag=True):
    """A dataset, resolved.

    `segment_bytes[split][n]` is what the segment of chunk n needs, an upper bound but for text.
    Where chunks are open, `totals` has each split as a whole. `preprocessing` is the JSON of the
    fitted spec, "" where features are taken as they are; `fit_key` is the fit's, if there was one.
    `lasting` is whether who opens the same again later, and gets the same key, gets the same rows.
    `notes` are sentences for people.
    """

    key: str
    snapshot: str
    chunk_rows: int
    features: tuple[str, ...]
    labels: tuple[str, ...]
    passthrough: tuple[str, ...]
    passthrough_paths: tuple[str, ...]
    weighted: bool
    chunks: tuple[PlannedChunk, ...]
    segment_bytes: dict[Split, tuple[int, ...]]
    count_rows_read: int
    count_bytes_read: int
    totals: dict[Split, SplitTotal] = {}
    warehouse: WarehouseFacts | None = None
    preprocessing: str = ""
    fit_key: str = ""
    lasting: bool = True
    dealt: DealtFacts | None = None
    notes: tuple[str, ...] = ()


class SnapshotIs(msgspec.Struct, frozen=True, tag=True):
    """The answer to `CheckSnapshot`."""

    snapshot: str


class ExtraBytes(msgspec.Struct, frozen=True, tag=True):
    """The chunk needs more than was reserved. The worker waits for `Allow`."""

    nbytes: int


class Counts(msgspec.Struct, frozen=True):
    """What preparing met in one column of one chunk; see faucetd/prepare/counts.py."""

    nulls: int = 0
    rounded: int = 0
    overflowed: int = 0
    not_finite: int = 0
    imputed: int = 0
    clipped: int = 0
    unseen: int = 0


class LabelMoments(msgspec.Struct, frozen=True):
    """How a label varies in a split of a chunk; see faucetd/prepare/moments.py."""

    rows: int
    mean: float
    squares: float


class FoundChunk(msgspec.Struct, frozen=True):
    """What an open chunk has turned out to be, and the open chunk that follows in its lane.

    `chunk_bytes` and `following_bytes` are by split, like `Opened.segment_bytes`.
    """

    chunk: PlannedChunk
    chunk_bytes: dict[Split, int]
    following: PlannedChunk | None
    following_bytes: dict[Split, int]


class StageSeconds(msgspec.Struct, frozen=True):
    """How long each stage of a chunk took.

    Fetching is waiting for rows and dealing them to splits, preparing is making tensors of them,
    publishing is waiting for memory and sealing it.
    """

    fetch: float
    prepare: float
    publish: float


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """The chunk's sealed segments; their descriptors travel beside this message.

    A chunk that was open is `found`. `labels` are the moments of each split made, by label.
    """

    segments: dict[Split, SegmentLayout]
    rows_read: int
    bytes_read: int
    counts: dict[str, Counts]
    found: FoundChunk | None = None
    labels: dict[Split, dict[str, LabelMoments]] = {}
    seconds: StageSeconds = StageSeconds(0.0, 0.0, 0.0)


class Abandoned(msgspec.Struct, frozen=True, tag=True):
    """The chunk was dropped, as told."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The task cannot be done; a code of the error tree and its message."""

    code: str
    message: str


ToWorker = Open | CheckSnapshot | LoadChunk | Allow
FromWorker = Ready | Progress | Opened | SnapshotIs | ExtraBytes | Loaded | Abandoned | Failed
