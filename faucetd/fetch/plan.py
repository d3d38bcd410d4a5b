"""Cuts a table into chunks, and counts their rows.

What comes out depends on the table, the split and the asked chunk size alone: never on the memory
budget or the number of workers, so that every daemon cuts the same table in the same way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise

import msgspec
import numpy as np

from faucetd.fetch.pieces import Piece, PlannedChunk, Stream
from faucetd.fetch.source import Source
from faucetd.fetch.split import EVAL, TRAIN, Splitter, read_split

CHUNK_BYTES = 64 << 20
"""What a prepared chunk has at most, unless its rows are asked for."""

MIN_CHUNKS = 16
"""How many chunks a table has at least, so that shuffling, sharing and eviction have a choice."""

MIN_CHUNK_ROWS = 1_024
"""A chunk of fewer rows costs more to hand around than it holds; this outranks MIN_CHUNKS."""

_TRIES = 64


class ChunkCut(msgspec.Struct, frozen=True):
    """What to read for one chunk, in this order.

    Chunks of one `lane` are consecutive parts of one stream, cheapest when one worker reads them
    one after another. Lanes are independent of each other.
    """

    pieces: tuple[Piece, ...]
    lane: int


class Counted(msgspec.Struct, frozen=True):
    """The chunks that have rows in a split, and what it took to count them.

    `rows_read` rows and `bytes_read` bytes of Arrow data were read from the source; none without a
    hash column.
    """

    chunks: tuple[PlannedChunk, ...]
    rows_read: int
    bytes_read: int


def choose_chunk_rows(total_rows: int, prepared_row_bytes: int, asked: int | None = None) -> int:
    """How many rows of the table a chunk shall have.

    What is asked for holds. Otherwise at most CHUNK_BYTES of prepared rows, and few enough rows for
    MIN_CHUNKS chunks, yet at least MIN_CHUNK_ROWS; the bytes outrank both.

    Args:
        total_rows: Rows of the table, at least roughly.
        prepared_row_bytes: Bytes that a row takes in a segment.
        asked: `DatasetSpec.chunk_rows`.
    """
    if asked is not None:
        return asked
    by_bytes = CHUNK_BYTES // max(prepared_row_bytes, 1)
    by_count = max(total_rows // MIN_CHUNKS, MIN_CHUNK_ROWS)
    return max(1, min(by_bytes, by_count))


def cut(streams: Sequence[Stream], chunk_rows: int) -> list[ChunkCut]:
    """Cuts the streams into chunks of at most `chunk_rows` positions, each position in one chunk.

    A stream larger than a chunk is cut evenly, and its parts make a lane. Smaller ones stay whole
    and are dealt out like cards, so that a chunk has its streams from all over the table. Chunks
    stand in the order of their first streams.

    Args:
        streams: The table's, in its order.
        chunk_rows: At least 1.
    """
    placed: list[tuple[int, tuple[Piece, ...]]] = []  # the first stream's index, and the pieces
    small: list[int] = []
    for index, stream in enumerate(streams):
        span = stream.stop - stream.start
        if span > chunk_rows:
            placed.extend((index, (piece,)) for piece in _parts(stream, -(-span // chunk_rows)))
        elif span:
            small.append(index)
    spans = [streams[index].stop - streams[index].start for index in small]
    for hand in _deal(spans, chunk_rows):
        indices = [small[card] for card in hand]
        pieces = tuple(Piece(s.id, s.start, s.stop) for s in (streams[i] for i in indices))
        placed.append((indices[0], pieces))
    placed.sort(key=lambda chunk: chunk[0])  # stable: the parts of a stream stay in order
    lanes = {index: lane for lane, index in enumerate(dict.fromkeys(index for index, _ in placed))}
    return [ChunkCut(pieces, lanes[index]) for index, pieces in placed]


def count(
    source: Source,
    cuts: Sequence[ChunkCut],
    splitter: Splitter | None,
    on_progress: Callable[[int], None] | None = None,
) -> Counted:
    """Counts the rows of each chunk and split, exactly; drops chunks that have none in either.

    One pass over the hash column alone; without a splitter nothing is read.

    Args:
        source: Where the chunks are read.
        cuts: From `cut`.
        splitter: How to split; None makes every row train.
        on_progress: Called with the number of rows counted so far, every batch; what it raises
            ends the counting.

    Raises:
        SourceChanged: the source is not the snapshot any more.
        SourceReadError: reading failed.
    """
    chunks: list[PlannedChunk] = []
    rows_counted = rows_read = bytes_read = 0
    for chunk in cuts:
        of_split = np.zeros(2, dtype=np.int64)
        if splitter is None:
            of_split[TRAIN] = sum(source.count(piece) for piece in chunk.pieces)
            rows_counted += int(of_split[TRAIN])
            if on_progress is not None:
                on_progress(rows_counted)
        else:
            for _, batch, codes, _ in read_split(
                source, chunk.pieces, [splitter.hash_column], splitter
            ):
                of_split += [np.count_nonzero(codes == code) for code in (TRAIN, EVAL)]
                rows_read += batch.num_rows
                bytes_read += batch.nbytes
                rows_counted += batch.num_rows
                if on_progress is not None:
                    on_progress(rows_counted)
        if of_split.any():
            train_rows, eval_rows = (int(rows) for rows in of_split)
            chunks.append(PlannedChunk(chunk.pieces, chunk.lane, train_rows, eval_rows))
    return Counted(tuple(chunks), rows_read, bytes_read)


def open_lanes(streams: Sequence[Stream], lanes: int, chunk_rows: int) -> list[tuple[Piece, ...]]:
    """The pieces of the first chunk of each lane, of streams whose length only reading can tell.

    Args:
        streams: Those of a warehouse's read session.
        lanes: How many chunks can be read at a time; each lane has streams of its own.
        chunk_rows: Rows a chunk at most, shared evenly by the streams of its lane.
    """
    hands = [streams[lane::lanes] for lane in range(min(lanes, len(streams)))]
    return [_share([(stream.id, stream.start) for stream in hand], chunk_rows) for hand in hands]


def following(
    asked: Sequence[Piece], positions: Sequence[int], chunk_rows: int
) -> tuple[Piece, ...]:
    """The pieces of the chunk after one that has been read; none if the lane has ended.

    Args:
        asked: The pieces of the chunk before, as it was open.
        positions: Where reading each of them ended. Short of its stop, the stream has ended.
        chunk_rows: As for `open_lanes`.
    """
    alive = [
        (piece.stream, stop)
        for piece, stop in zip(asked, positions, strict=True)
        if stop == piece.stop
    ]
    return _share(alive, chunk_rows)


def _share(streams: Sequence[tuple[str, int]], chunk_rows: int) -> tuple[Piece, ...]:
    if not streams:
        return ()
    quota = max(chunk_rows // len(streams), 1)
    return tuple(Piece(stream, start, start + quota, open=True) for stream, start in streams)


def _parts(stream: Stream, parts: int) -> list[Piece]:
    span = stream.stop - stream.start
    bounds = [stream.start + span * part // parts for part in range(parts + 1)]
    return [Piece(stream.id, start, stop) for start, stop in pairwise(bounds)]


def _deal(spans: Sequence[int], chunk_rows: int) -> list[list[int]]:
    """Deals cards, given by their spans, into the fewest hands that could hold them, or a few more.

    Card after card goes to the next hand in turn that has room for it. If none of the next _TRIES
    has, a new hand is begun, so that a table of very many streams is still cut at once.
    """
    if not spans:
        return []
    hands: list[list[int]] = [[] for _ in range(-(-sum(spans) // chunk_rows))]
    room = [chunk_rows] * len(hands)
    turn = deque(range(len(hands)))
    for card, span in enumerate(spans):
        for _ in range(min(_TRIES, len(turn))):
            hand = turn[0]
            turn.rotate(-1)
            if room[hand] >= span:
                break
        else:
            hand = len(hands)
            hands.append([])
            room.append(chunk_rows)
            turn.append(hand)
        hands[hand].append(card)
        room[hand] -= span
    return [hand for hand in hands if hand]
