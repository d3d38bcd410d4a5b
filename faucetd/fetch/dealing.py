"""Deals the rows of a table to streams, each a fair share of it: a shuffle that is on disk.

Which stream a row comes to, and where it stands there, follows from the rows of the table alone:
never from their order, their files, the number of workers or the memory that there is. For that the
rows are put in the order of their digests (`ordering`), and are then dealt round, like cards: the
row of rank r goes to stream r mod n. So

- a stream is what a uniform draw of rows would give: digests are random, and know no label;
- all streams have the same number of rows, but for one;
- equal rows, which stand beside each other in that order, are spread over all streams;
- a key that most rows share, or that all do, is no matter: the row decides, not its key. (Chunks by
  the hash column's own hash would also be correlated with the split.)

Memory is bounded, however large the table is: rows are dealt by the first bits of their digests to
**hands**, files that are read back one by one and sorted. A hand that is too large to be sorted is
dealt once more, by the next bits; rows that share all 64 are in order as they are.

What is held at a time is BUFFER_BYTES of rows and two copies of them, and SORT_BYTES of rows and
two copies of them; on disk, the rows, twice at most.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from faucetd.fetch.fingerprint import row_digests
from faucetd.fetch.flat import joined
from faucetd.fetch.manifest import DealtStream, new_checksum
from faucetd.fetch.ordering import Digests, order_of
from faucetd.fetch.split import EVAL, TRAIN, Codes

DIGEST = "_faucet_digest"

BUFFER_BYTES = 32 << 20
"""Rows that wait to be appended to their files, of each of the two rounds."""

SORT_BYTES = 32 << 20
"""What a hand has at most to be sorted in memory."""

HAND_BITS = 8
"""A round deals to so many hands at most, as a power of two: each gets 128 KiB of a buffer."""

_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # Arrow's, of its IPC streams


@dataclass(frozen=True)
class Dealt:
    """What came of it.

    Attributes:
        content: A hash of all rows' digests, in order.
        streams: Those that have rows.
    """

    content: str
    streams: tuple[DealtStream, ...]


class Dealer:
    """Deals one table: `add` for each batch, then `finish`.

    Args:
        folder: An empty folder, where the files come to be.
        schema: Of the batches.
        nbytes: What all rows take, roughly; how well it is known decides the speed alone.
        on_write: Called when files have grown; what it raises ends the dealing.

    Raises (all methods):
        OSError: the disk is full, or fails.
    """

    def __init__(
        self,
        folder: Path,
        schema: pa.Schema,
        nbytes: int,
        on_write: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder = folder
        self._schema = schema.append(pa.field(DIGEST, pa.uint64()))
        self._on_write = on_write
        bits = max((2 * nbytes // SORT_BYTES).bit_length(), 1)
        self._bits = min(bits, HAND_BITS)
        self._round = self._new_round("hand", self._bits)
        self._rows = 0

    def add(self, batch: pa.RecordBatch, digested: pa.RecordBatch, codes: Codes) -> None:
        """Deals some rows.

        Args:
            batch: The rows, of the schema.
            digested: The values that make their digests.
            codes: The split of each; those outside the sample are left out.
        """
        digests = row_digests(digested)
        kept = (codes == TRAIN) | (codes == EVAL)
        if not kept.all():
            batch, digests = batch.filter(pa.array(kept)), digests[kept]
        if not batch.num_rows:
            return
        self._rows += batch.num_rows
        self._round.add(
            pa.RecordBatch.from_arrays([*batch.columns, pa.array(digests)], schema=self._schema),
            _first_bits(digests, 0, self._bits),
        )

    def finish(
        self,
        streams: Callable[[int], int],
        is_eval: Callable[[pa.RecordBatch], npt.NDArray[np.bool_]],
        on_rows: Callable[[int], None] = lambda _: None,
    ) -> Dealt:
        """Deals what was added to the streams.

        Args:
            streams: How many, of so many rows.
            is_eval: Which rows, of the schema, are of the eval split.
            on_rows: Is told how many rows have come to their streams.
        """
        content = hashlib.blake2b(digest_size=16)
        content.update(self._schema.serialize().to_pybytes())
        content.update(repr(count := streams(self._rows)).encode())
        files = [_StreamFile(self._folder / f"{number}.arrows") for number in range(count)]
        dealt = _Round(files, self._schema.remove(len(self._schema) - 1), self._on_write)
        rank = 0
        for batch in self._in_order(self._round, self._bits):
            digests = _digests(batch)
            content.update(digests.tobytes())
            rows = batch.remove_column(len(self._schema) - 1)
            places = (np.arange(rank, rank + rows.num_rows) % count).astype(np.int64)
            evals = np.bincount(places[is_eval(rows)], minlength=count)
            for file, all_rows, eval_rows in zip(
                files, np.bincount(places, minlength=count).tolist(), evals.tolist(), strict=True
            ):
                file.count(all_rows - eval_rows, eval_rows)
            dealt.add(rows, places)
            rank += rows.num_rows
            on_rows(rank)
        dealt.flush()
        return Dealt(content.hexdigest(), tuple(file.finish() for file in files if file.rows))

    def _new_round(self, name: str, bits: int) -> _Round:
        hands = [_HandFile(self._folder / f"{name}-{n:x}") for n in range(1 << bits)]
        return _Round(hands, self._schema, self._on_write)

    def _in_order(self, dealt: _Round, used_bits: int) -> Iterator[pa.RecordBatch]:
        """All rows of a round, sorted; whose hands are removed on the way."""
        if not dealt.flushed:  # the whole table fits into memory
            if (rows := dealt.take()) is not None:
                yield _sorted(rows)
            return
        dealt.flush()
        for hand in dealt.files:
            assert isinstance(hand, _HandFile)
            if not hand.nbytes:
                continue
            if hand.nbytes <= SORT_BYTES:
                yield _sorted(joined(list(hand.read(self._schema))))
            elif hand.low == hand.high:
                yield from hand.read(self._schema)
            else:
                bits = min(HAND_BITS, 64 - used_bits)
                again = self._new_round(hand.path.name, bits)
                for batch in hand.read(self._schema):
                    again.add(batch, _first_bits(_digests(batch), used_bits, bits))
                hand.remove()
                yield from self._in_order(again, used_bits + bits)
            hand.remove()


class _HandFile:
    """Rows whose digests begin with the same bits, as Arrow's messages, one after another."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.nbytes = 0
        self.low, self.high = 2**64, -1

    def append(self, batch: pa.RecordBatch) -> None:
        digests = _digests(batch)
        self.low = min(self.low, int(digests.min()))
        self.high = max(self.high, int(digests.max()))
        data = batch.serialize()
        append(self.path, data)
        self.nbytes += data.size

    def read(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        with pa.OSFile(str(self.path), "rb") as file:
            while file.tell() < self.nbytes:
                yield pa.ipc.read_record_batch(pa.ipc.read_message(file), schema)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


class _StreamFile:
    """The rows of a stream, as an Arrow IPC stream."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._checksum = new_checksum()
        self._nbytes = 0
        self._train_rows = self._eval_rows = 0

    @property
    def rows(self) -> int:
        return self._train_rows + self._eval_rows

    def count(self, train_rows: int, eval_rows: int) -> None:
        """So many rows more will be appended."""
        self._train_rows += train_rows
        self._eval_rows += eval_rows

    def append(self, batch: pa.RecordBatch) -> None:
        if not self._nbytes:
            self._write(batch.schema.serialize())
        self._write(batch.serialize())

    def finish(self) -> DealtStream:
        self._write(pa.py_buffer(_END_OF_STREAM))
        return DealtStream(
            self._path.name,
            self._train_rows,
            self._eval_rows,
            self._nbytes,
            self._checksum.hexdigest(),
        )

    def _write(self, data: pa.Buffer) -> None:
        append(self._path, data)
        self._checksum.update(data)
        self._nbytes += data.size


class _Round:
    """Rows on their way to files: a buffer of them is sorted by file, and appended to each.

    Files are opened for each append: there may be more than a process can have open.
    """

    def __init__(
        self,
        files: Sequence[_HandFile | _StreamFile],
        schema: pa.Schema,
        on_write: Callable[[], None],
    ) -> None:
        self.files = files
        self.flushed = False
        self._schema = schema
        self._on_write = on_write
        self._batches: list[pa.RecordBatch] = []
        self._places: list[npt.NDArray[np.int64]] = []
        self._nbytes = 0

    def add(self, batch: pa.RecordBatch, places: npt.NDArray[np.int64]) -> None:
        """Rows, and the number of the file of each."""
        self._batches.append(batch)
        self._places.append(places)
        self._nbytes += batch.nbytes
        if self._nbytes >= BUFFER_BYTES:
            self.flush()

    def take(self) -> pa.RecordBatch | None:
        """The rows in the buffer, which is then empty."""
        if not self._batches:
            return None
        batches, self._batches, self._places, self._nbytes = self._batches, [], [], 0
        return joined(batches)

    def flush(self) -> None:
        """Appends the rows in the buffer to their files, each file's in the order they came in."""
        if not self._batches:
            return
        self.flushed = True
        places = np.concatenate(self._places)
        waiting = self.take()
        assert waiting is not None
        order = np.argsort(places, kind="stable")
        rows: Any = waiting.take(pa.array(order, pa.int64()))
        del waiting
        starts = np.searchsorted(places[order], np.arange(len(self.files) + 1)).tolist()
        for file, start, stop in zip(self.files, starts[:-1], starts[1:], strict=True):
            if start < stop:
                file.append(rows.slice(start, stop - start))
        self._on_write()


def append(path: Path, data: pa.Buffer) -> None:
    """Writes at the end of a file; it is made if it is not there."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while len(view):
            view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)


def _first_bits(digests: Digests, used: int, bits: int) -> npt.NDArray[np.int64]:
    """The `bits` bits after the first `used`, as numbers."""
    places: npt.NDArray[np.int64] = (
        (digests >> np.uint64(64 - used - bits)) & np.uint64((1 << bits) - 1)
    ).astype(np.int64)
    return places


def _digests(batch: pa.RecordBatch) -> Digests:
    found: Digests = batch.column(batch.num_columns - 1).to_numpy()
    return found


def _sorted(rows: pa.RecordBatch) -> pa.RecordBatch:
    digests = _digests(rows)
    order = order_of(rows, digests)
    ordered: Any = rows.take(pa.array(order, pa.int64()))
    return ordered  # type: ignore[no-any-return]  # as take says itself
