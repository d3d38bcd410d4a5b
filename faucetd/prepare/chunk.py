"""Makes the rows of one chunk: tensors, permuted, each split for itself.

Invariants:

- Rows are staged in source order, those of both splits together, in memory of this object's own
  that it reuses from chunk to chunk; then one gather a column and split puts the split's rows into
  their permuted places in the caller's arrays. Gathering float32 rows runs at 12 to 46 million rows
  a second; scattering batches into their final places would be 2 to 3 times slower.
- What a chunk is, bytes included, follows from its id and its rows in their order, whatever the
  batches they came in.
- A chunk has exactly the rows that its plan promised, or it is not made: `SourceChanged`. Where
  the plan cannot know them, its rows are those that came.
- Rows may come from several pieces at a time. Each piece has a **slot** of the staging memory, so
  that the order of a chunk's rows is that of its pieces, whichever came first; what a piece leaves
  of its slot is a gap that belongs to no split.
- Not safe for threads. The worker runs torch on one thread (`torch.set_num_threads(1)`), since two
  threads beside other busy processes are slower than one; chunks are what runs in parallel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from faucet_client.layout import Role
from faucet_client.spec import SPLITS, Split
from faucetd.errors import SourceChanged
from faucetd.prepare.columns import ColumnKey, PreparedColumns
from faucetd.prepare.counts import ColumnCounts, Tally
from faucetd.prepare.features import RawFeatures
from faucetd.prepare.fitted import FittedFeatures
from faucetd.prepare.moments import Moments, moments_of
from faucetd.prepare.permutation import ChunkId, permutation
from faucetd.prepare.values import fill_float32, fill_passthrough, null_mask, own_text

DROP = -1
"""The split code of a row that belongs to no split; 0 is train, 1 is eval, as in `SPLITS`."""

_LARGEST_VALUE_NBYTES = 8

_HOT_FROM = 5
"""A column is first copied into the cache if one in so many of its rows, or more, is gathered."""


@dataclass(frozen=True)
class Appendix:
    """What a split of a chunk has beside its columns of fixed width.

    Attributes:
        variable: The columns of variable width, [rows], permuted: text, in which nulls are nulls,
            and lists of ids, of which none is null.
        valid: uint8 [rows], permuted, 1 where there is a value: for each label, weight and
            passthrough column that has a null in this split of this chunk.
        labels: How each label varies, by its name.
    """

    variable: Mapping[ColumnKey, pa.Array[Any]]
    valid: Mapping[ColumnKey, NDArray[np.uint8]]
    labels: Mapping[str, Moments] = field(default_factory=dict)


@dataclass
class _Slot:
    """The staging rows of a piece, and the next that is free."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        self.next = self.start


class ChunkPreparer:
    """Prepares chunks of one dataset, one after another.

    For each: `start`, `add` for each batch, `finish`, `fill` for each split; then `counts`.

    Args:
        columns: What the dataset is made of. Without features it has no matrix.
    """

    def __init__(self, columns: PreparedColumns) -> None:
        self._columns = columns
        self._features: RawFeatures | None = None
        self._fitted: FittedFeatures | None = None
        if columns.fitted is not None:
            self._fitted = FittedFeatures(columns.features, columns.fitted)
        elif columns.features:
            self._features = RawFeatures(columns.features)
        self._kept = list(columns.kept_columns)
        self._capacity_rows = -1  # nothing is allocated yet, not even for no rows
        self._codes = np.empty(0, np.int8)
        self._hot = np.empty(0, np.uint8)
        self._matrix = self._empty_matrix(0)
        self._staged: dict[ColumnKey, NDArray[Any]] = {}
        self._valid: dict[ColumnKey, NDArray[np.uint8]] = {}
        self._variable: dict[ColumnKey, list[list[pa.Array[Any]]]] = {}  # by slot
        self._with_nulls: set[ColumnKey] = set()
        self._tally = Tally()
        self._chunk: ChunkId | None = None
        self._expected: tuple[int, ...] | None = (0, 0)
        self._rows = 0
        self._slots: list[_Slot] = []
        self._found: dict[Split, int] = {}

    def start(
        self,
        chunk: ChunkId,
        expected: Mapping[Split, int] | None,
        slots: Sequence[int] | None = None,
    ) -> None:
        """Begins a chunk, and forgets the one before, finished or not.

        Args:
            chunk: Decides the order of its rows.
            expected: The exact rows of each split, of which a split that is left out has none; or
                None, if only reading can tell.
            slots: The rows that each piece has at most; by default all rows come in order, as of
                one piece.
        """
        self._chunk = chunk
        self._expected = None
        if expected is not None:
            self._expected = tuple(expected.get(split, 0) for split in SPLITS)
        if slots is None:
            if self._expected is None:
                raise ValueError("a chunk of unknown rows needs to know how many at most")
            slots = [sum(self._expected)]
        self._rows = 0
        bounds = list(accumulate(slots, initial=0))
        self._slots = [_Slot(start, stop) for start, stop in pairwise(bounds)]
        self._with_nulls.clear()
        self._variable = {key: [[] for _ in slots] for key in self._columns.variable_columns()}
        self._tally = Tally()
        self._make_room(bounds[-1])

    def add(self, batch: pa.RecordBatch, codes: NDArray[np.int8], piece: int = 0) -> None:
        """Stages the next rows of a piece.

        Args:
            batch: At least the columns `PreparedColumns.source_columns`.
            codes: int8 [rows]: each row's split, 0 train, 1 eval, or DROP.
            piece: Which slot they belong to.

        Raises:
            SourceChanged: there are more rows than were expected.
            ColumnError: a value cannot be stored, as its column's type is.
        """
        if len(codes) != batch.num_rows:
            raise ValueError(f"{len(codes)} split codes for {batch.num_rows} rows")
        wanted = codes != DROP
        if not wanted.all():
            batch, codes = batch.select(self._kept).filter(pa.array(wanted)), codes[wanted]
        # Once: an array is made for each column that is asked for, which small batches notice.
        columns = {path: batch.column(path) for path in self._kept}
        slot = self._slots[piece]
        start, stop = slot.next, slot.next + batch.num_rows
        if stop > slot.stop:
            if self._expected is None:
                raise ValueError(f"piece {piece} has more rows than its slot")
            raise self._changed(f"at least {self._rows + batch.num_rows}")
        self._codes[start:stop] = codes
        if self._features is not None:
            self._features.apply(columns, self._matrix[start:stop], self._tally)
        if self._fitted is not None:
            ids = {
                name: self._staged[Role.IDS, name][start:stop] for name in self._columns.id_names
            }
            ragged = {
                name: self._variable[Role.RAGGED, name][piece]
                for name in self._columns.ragged_names
            }
            self._fitted.apply(batch, self._matrix[start:stop], ids, ragged, self._tally)
        self._add_numbers(columns, start, stop)
        self._add_passthrough(columns, start, stop, piece)
        for path, array in columns.items():
            if nulls := array.null_count:
                self._tally.add(path, ColumnCounts(nulls=nulls))
        slot.next = stop
        self._rows += batch.num_rows

    def finish(self) -> dict[Split, int]:
        """The rows of each split, after all batches were added.

        Raises:
            SourceChanged: others than were expected.
        """
        for slot in self._slots:
            self._codes[slot.next : slot.stop] = DROP
        codes = self._codes[: self._extent]
        found = tuple(int(np.count_nonzero(codes == code)) for code in range(len(SPLITS)))
        if self._expected is not None and found != self._expected:
            raise self._changed(" and ".join(map(str, found)))
        self._found = dict(zip(SPLITS, found, strict=True))
        return self._found

    def fill(self, split: Split, arrays: Mapping[ColumnKey, NDArray[Any]]) -> Appendix:
        """Writes the split's rows, permuted, after `finish`.

        Args:
            split: One that has rows in this chunk.
            arrays: Where to write each of `PreparedColumns.fixed_columns`, of its dtype: the matrix
                [rows, width], all else [rows].
        """
        if self._chunk is None:
            raise ValueError("no chunk was started")
        codes = self._codes[: self._extent]
        code = SPLITS.index(split)
        index = permutation(self._chunk, split, self._found[split])
        if self._found[split] < self._extent:
            index = torch.from_numpy(np.flatnonzero(codes == code))[index]
        staged = dict(self._staged)
        if self._matrix.shape[1]:
            staged[Role.FEATURES, "features"] = self._matrix
        for key, values in staged.items():
            self._gather(values[: self._extent], index, arrays[key])
        return Appendix(
            variable=self._gathered_variable(index),
            valid=self._gathered_valid(index),
            labels={
                name: moments_of(arrays[role, name])
                for role, name in self._staged
                if role is Role.LABEL
            },
        )

    def counts(self) -> dict[str, ColumnCounts]:
        """What this chunk's rows, those of no split apart, lost on the way, by source column."""
        return self._tally.result()

    def _add_numbers(self, columns: Mapping[str, pa.Array[Any]], start: int, stop: int) -> None:
        """Stages labels and the weight."""
        in_matrix = {feature.source for feature in self._columns.features}
        for key, column in self._columns.targets():
            array = columns[column.source]
            counts = fill_float32(array, self._staged[key][start:stop])
            if column.source not in in_matrix:  # or it was counted there
                self._tally.add(column.source, counts)
            self._note_nulls(key, array, start, stop)

    def _add_passthrough(
        self, columns: Mapping[str, pa.Array[Any]], start: int, stop: int, piece: int
    ) -> None:
        targets = [target for _, target in self._columns.targets()]
        counted = {column.source for column in (*self._columns.features, *targets)}
        for column in self._columns.passthrough:
            key = (Role.PASSTHROUGH, column.name)
            array = columns[column.source]
            if key in self._variable:
                self._variable[key][piece].append(own_text(array))
            else:
                counts = fill_passthrough(array, column.source, self._staged[key][start:stop])
                if column.source not in counted:  # as a float32, which holds even less
                    self._tally.add(column.source, counts)
                    counted.add(column.source)
            self._note_nulls(key, array, start, stop)

    def _note_nulls(self, key: ColumnKey, array: pa.Array[Any], start: int, stop: int) -> None:
        nulls = null_mask(array)
        if nulls is None:
            return
        valid = self._valid.setdefault(key, np.empty(self._capacity_rows, np.uint8))
        if key not in self._with_nulls:
            self._with_nulls.add(key)
            valid[:] = 1
        np.logical_not(nulls, out=valid[start:stop], casting="unsafe")

    def _gather(self, staged: NDArray[Any], index: torch.Tensor, out: NDArray[Any]) -> None:
        """`out[i] = staged[index[i]]`, in place."""
        shape = (len(index), *staged.shape[1:])
        if out.shape != shape or out.dtype != staged.dtype:  # torch would silently write elsewhere
            raise ValueError(f"{out.dtype} {out.shape} was given for {staged.dtype} {shape}")
        if staged.ndim == 2:
            # Of whole rows faster than torch, up to 3 times where they are narrow. "clip", since
            # "raise" writes into a buffer first; no index is out of bounds.
            np.take(staged, index.numpy(), axis=0, out=out, mode="clip")
            return
        if _HOT_FROM * len(index) >= len(staged):
            hot = self._hot[: staged.nbytes].view(staged.dtype)
            np.copyto(hot, staged)
            staged = hot
        torch.index_select(torch.from_numpy(staged), 0, index, out=torch.from_numpy(out))

    def _gathered_variable(self, index: torch.Tensor) -> dict[ColumnKey, pa.Array[Any]]:
        found = {}
        rows = index.numpy()
        if self._rows < self._extent:  # these have no gaps, so a row's place is another there
            rows = (np.cumsum(self._codes[: self._extent] != DROP) - 1)[rows]
        for key, slots in self._variable.items():
            whole = pa.concat_arrays([part for parts in slots for part in parts])
            self._variable[key] = [[whole]]  # the other split need not join them again
            found[key] = whole.take(pa.array(rows))
        return found

    def _gathered_valid(self, index: torch.Tensor) -> dict[ColumnKey, NDArray[np.uint8]]:
        gathered = {key: self._valid[key][index.numpy()] for key in self._with_nulls}
        return {key: valid for key, valid in gathered.items() if not valid.all()}

    @property
    def _extent(self) -> int:
        """Rows of the staging memory that the chunk takes, gaps included."""
        return self._slots[-1].stop if self._slots else 0

    def _make_room(self, rows: int) -> None:
        if rows <= self._capacity_rows:
            return
        self._capacity_rows = rows
        self._codes = np.empty(rows, np.int8)
        self._hot = np.empty(rows * _LARGEST_VALUE_NBYTES, np.uint8)
        self._matrix = self._empty_matrix(rows)
        self._valid = {}
        self._staged = {
            (column.role, column.name): np.empty(rows, column.dtype)
            for column in self._columns.fixed_columns()
            if column.role is not Role.FEATURES
        }

    def _empty_matrix(self, rows: int) -> NDArray[np.float32]:
        return np.empty((rows, self._columns.matrix_width), np.float32)

    def _changed(self, found: str) -> SourceChanged:
        assert self._expected is not None, "what was not expected cannot be missed"
        train, evaluation = self._expected
        number = None if self._chunk is None else self._chunk.number
        return SourceChanged(
            f"chunk {number} was planned with {train} train and {evaluation} eval rows, but the "
            f"source now has {found}: it changed since the dataset was opened. Open it again"
        )
