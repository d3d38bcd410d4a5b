"""An open dataset, as the daemon's main process knows it: its plan, and what became of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from msgspec import structs

from faucet_client.spec import SPLITS, BigQuerySource, DatasetSpec, Split
from faucet_client.status import ColumnCounts, CostStatus, DatasetStatus, LabelStatus
from faucetd.errors import SourceChanged
from faucetd.fetch.bigquery.settings import BigQuerySettings
from faucetd.fetch.pieces import PlannedChunk
from faucetd.publish.spill import Mark
from faucetd.schedule import events
from faucetd.schedule.instructions import SegmentId
from faucetd.serve.backend import DatasetInfo
from faucetd.spread import LabelSpread
from faucetd.worker.messages import Counts, FoundChunk, Loaded, Opened, describe_spec

EXPIRY_MARGIN_S = 600.0
"""A dataset whose warehouse will not let it be read for longer is not joined any more."""


class OpenDataset:
    """A dataset and its plan.

    Args:
        spec: What was asked for.
        opened: What a worker made of it.
        opened_at: When, in seconds since 1970.

    Attributes:
        chunks: By number.
        broken: Why the plan cannot be used any more, or "".
        failures: Why chunks could not be made, by chunk, until they are.
        rows_served: Rows of each split that readers were given, in all, who have left.
        warning: What trainers should be told of the order of the rows, or "".
        used_at: When it was last opened, or a reader of it was over; monotonic seconds.
    """

    def __init__(self, spec: DatasetSpec, opened: Opened, opened_at: float) -> None:
        self.spec = spec
        self.opened = opened
        self.opened_at = opened_at
        self.chunks: list[PlannedChunk] = list(opened.chunks)
        self.broken = ""
        self.failures: dict[int, str] = {}
        self.rows_served: Counter[Split] = Counter()
        self.warning = ""
        self.used_at = time.monotonic()
        self._chunks_made = 0
        self._made: set[int] = set()
        self._rows_read = 0
        self._bytes_read = 0
        self._counts: dict[str, Counts] = {}
        self._found_rows: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        self._spreads: dict[tuple[Split, str], LabelSpread] = {}
        self._spread_of: set[tuple[Split, int]] = set()  # chunks whose labels are counted
        self._spread_rows = 0  # of the train split, in these

    @property
    def key(self) -> str:
        """The hash that names it."""
        return self.opened.key

    @cached_property
    def described(self) -> dict[str, Any]:
        """The spec as workers are told it; kept, since a given preprocessing may be long."""
        return describe_spec(self.spec)

    @property
    def ticket(self) -> str:
        """What workers need to read a warehouse; "" for files."""
        return "" if self.opened.warehouse is None else self.opened.warehouse.ticket

    @property
    def mark(self) -> Mark:
        """What its spill files need to be of use to a later daemon."""
        return Mark(lasting=self.opened.lasting, planned=bool(self.opened.totals))

    @property
    def dealt(self) -> str:
        """The folder of its dealt rows; "" if it has none."""
        return "" if self.opened.dealt is None else self.opened.dealt.folder

    @property
    def source_snapshot(self) -> str:
        """What its source was at: of files, their state, from wherever the rows are read now."""
        opened = self.opened
        return opened.snapshot if opened.dealt is None else opened.dealt.source_snapshot

    @property
    def complete(self) -> bool:
        """Whether no chunk is open."""
        return not any(chunk.open for chunk in self.chunks)

    @property
    def reproducible(self) -> bool:
        """Whether its chunks have the same rows whoever opens it, and reads it when."""
        return not self.opened.totals

    def describes(self, spec: DatasetSpec) -> bool:
        """Whether `spec` is what was asked for, at whichever moment."""
        theirs, ours = spec.source, self.spec.source
        if isinstance(theirs, BigQuerySource) and isinstance(ours, BigQuerySource):
            theirs = replace(theirs, snapshot=ours.snapshot)
        return replace(spec, source=theirs) == self.spec

    def rows(self, split: Split) -> int:
        """Rows of the split, exact."""
        if self.opened.totals:
            total = self.opened.totals.get(split)
            return 0 if total is None else total.rows
        return sum(rows_of(chunk, split) for chunk in self.chunks)

    def added(self) -> events.DatasetAdded:
        """What the scheduler is told of it, as it was opened."""
        opened = self.opened
        return events.DatasetAdded(
            opened.key,
            tuple(
                _info(chunk, {split: opened.segment_bytes[split][number] for split in SPLITS})
                for number, chunk in enumerate(opened.chunks)
            ),
            {
                split: events.Totals(total.rows, total.nbytes)
                for split, total in opened.totals.items()
            },
        )

    def check(self, number: int, found: FoundChunk) -> None:
        """Refuses what cannot be true of an open chunk. Changes nothing.

        Raises:
            SourceChanged: the pass has more or fewer rows than were counted; or the chunk is not
                open.
        """
        if not (0 <= number < len(self.chunks) and self.chunks[number].open):
            raise SourceChanged(f"{self.spec.source}: chunk {number} was found, and is not open")
        rows = self._rows_with(found)
        last = found.following is None and not any(
            chunk.open for other, chunk in enumerate(self.chunks) if other != number
        )
        for split in SPLITS:
            counted = self.rows(split)
            if rows[split] > counted or (last and rows[split] < counted):
                more = "more than" if rows[split] > counted else "only"
                raise SourceChanged(
                    f"{self.spec.source}: the {split} split was counted to have {counted:,} rows, "
                    f"and reading it has given {more} {min(rows[split], counted):,}. No epoch "
                    "would be exact, so it ends here; open the dataset again, which counts anew"
                )

    def find(self, number: int, found: FoundChunk) -> events.Found:
        """An open chunk was read, and is what `check` has let pass; what the scheduler is told."""
        self._found_rows = self._rows_with(found)
        self.chunks[number] = found.chunk
        if found.following is not None:
            self.chunks.append(found.following)
        return events.Found(
            _info(found.chunk, found.chunk_bytes),
            None if found.following is None else _info(found.following, found.following_bytes),
        )

    def _rows_with(self, found: FoundChunk) -> dict[Split, int]:
        return {split: self._found_rows[split] + rows_of(found.chunk, split) for split in SPLITS}

    def renew(self, opened: Opened, opened_at: float) -> None:
        """The dataset was opened once more, with the same chunks: they can be read again."""
        assert (opened.key, opened.chunks) == (self.key, self.opened.chunks), "keys tell plans"
        # A spec that was saved and is given back leads to the same key, and says of no fit.
        self.opened = structs.replace(opened, fit_key=opened.fit_key or self.opened.fit_key)
        self.opened_at = opened_at
        self.used_at = time.monotonic()
        self.broken = ""
        self.failures.clear()

    def made(self, chunk: int, loaded: Loaded) -> None:
        """A chunk was made, perhaps again."""
        self.failures.pop(chunk, None)
        self._made.add(chunk)
        self._chunks_made += 1
        self._rows_read += loaded.rows_read
        self._bytes_read += loaded.bytes_read
        for column, counts in loaded.counts.items():
            self._counts[column] = _add(self._counts.get(column), counts)
        for split, labels in loaded.labels.items():
            if (split, chunk) not in self._spread_of:
                self._spread_of.add((split, chunk))
                for label, moments in labels.items():
                    self._spreads.setdefault((split, label), LabelSpread()).add(moments)
                if split == "train":
                    self._spread_rows += rows_of(self.chunks[chunk], split)
                    self.warning = self._sorted_by()

    def _sorted_by(self) -> str:
        """What to do about labels that differ from chunk to chunk, once half the rows say so."""
        if self._spread_rows < self.rows("train") / 2:
            return ""
        found = [
            f"{label!r} ({spread.share:.0%})"
            for (split, label), spread in self._spreads.items()
            if split == "train" and spread.is_sorted
        ]
        if not found:
            return ""
        return (
            f"the rows of {self.spec.source} are sorted by something that tells the label: of the "
            f"variance of {', '.join(found)} so much lies between chunks, and batches are rows of "
            'one chunk. Training suffers; open it with chunking="hash", or iterate with '
            'shuffle="rows"'
        )

    def why_again(self, chunk: int, nbytes: int, memory_budget: int, spill_budget: int) -> str:
        """Why a chunk had to be read that cannot be read any more, and what would have avoided it.

        Args:
            chunk: Its number.
            nbytes: What the dataset takes as a whole.
            memory_budget: The daemon's, in bytes.
            spill_budget: The same; 0 without a spill tier.

        Returns:
            A sentence or two to append; "" where it had not been read before.
        """
        found = bool(self.opened.totals) and not self.chunks[chunk].open
        if not (found or chunk in self._made):
            return ""
        disk = f"spill_budget={spill_budget:,}" if spill_budget else "there is no spill_dir"
        return (
            f". Chunk {chunk} had been read before, and was not kept: the dataset takes about "
            f"{nbytes:,} bytes, memory_budget={memory_budget:,}, and {disk}. With a spill_dir and "
            f"a spill_budget of {nbytes:,} bytes or more it is read once; and with "
            'chunking="hash" its chunks can be read again'
        )

    def joinable(self, *, being_read: bool, all_held: bool, max_age_s: float) -> bool:
        """Whether who asks for the same spec of a warehouse shall share it.

        That it is in memory is no reason: a job that starts every night would get the rows of its
        first night for as long as the daemon lives.

        Args:
            being_read: A live reader reads it.
            all_held: Memory or disk has all of it, so it need not be read again.
            max_age_s: How long a snapshot that nobody reads is shared.
        """
        facts = self.opened.warehouse
        assert facts is not None, "files are asked for their snapshot"
        if self.broken:
            return False
        age_s = max(time.time() - self.opened_at, 0.0)
        if age_s > facts.lifetime_s - EXPIRY_MARGIN_S and not all_held:
            return False
        return being_read or age_s < max_age_s

    def info(self) -> DatasetInfo:
        """What clients are told."""
        opened = self.opened
        facts = opened.warehouse
        return DatasetInfo(
            key=opened.key,
            rows={split: self.rows(split) for split in SPLITS},
            features=opened.features,
            labels=opened.labels,
            passthrough=opened.passthrough,
            weighted=opened.weighted,
            chunks=len(self.chunks) if self.complete else 0,
            passthrough_paths=opened.passthrough_paths,
            principal="" if facts is None else facts.principal,
            query_bytes_billed=0 if facts is None else facts.query_bytes,
            read_bytes_estimated=0 if facts is None else facts.pass_bytes,
            preprocessing=opened.preprocessing,
        )

    def status(
        self,
        resident: Mapping[SegmentId, int],
        spilled: Mapping[SegmentId, int],
        restored: int,
        chunk_map: Mapping[Split, bytes],
        rows_served: Mapping[Split, int],
        settings: BigQuerySettings,
    ) -> DatasetStatus:
        """What a status says.

        Args:
            resident: Its segments in memory, with their bytes.
            spilled: Its segments on disk, with their bytes.
            restored: How many of them were read back.
            chunk_map: The states of its chunks.
            rows_served: Rows of each split that readers were given, those of now included.
            settings: The prices.
        """
        failure = self.broken or next(iter(self.failures.values()), "")
        return DatasetStatus(
            key=self.opened.key,
            source=str(self.spec.source),
            state="failed" if failure else "ready",
            error=failure,
            train_rows=self.rows("train"),
            eval_rows=self.rows("eval"),
            chunks=len(self.chunks),
            chunks_resident=len({segment.chunk for segment in resident}),
            chunks_made=self._chunks_made,
            resident_bytes=sum(resident.values()),
            source_rows_read=self._rows_read,
            source_bytes_read=self._bytes_read,
            count_rows_read=self.opened.count_rows_read,
            count_bytes_read=self.opened.count_bytes_read,
            counts=tuple(
                ColumnCounts(column, *structs.astuple(counts))
                for column, counts in sorted(self._counts.items())
            ),
            cost=self._cost(rows_served, settings),
            notes=self._notes(),
            finding_chunks=not self.complete,
            chunks_spilled=len({segment.chunk for segment in spilled}),
            spilled_bytes=sum(spilled.values()),
            chunks_restored=restored,
            rows_served=sum(rows_served.values()),
            source_bytes_saved=self._bytes_saved(sum(rows_served.values())),
            train_chunk_map=chunk_map["train"],
            eval_chunk_map=chunk_map["eval"],
            labels=tuple(
                LabelStatus(
                    split, label, spread.share, spread.random_share, spread.chunks, spread.rows
                )
                for (split, label), spread in sorted(self._spreads.items())
            ),
        )

    def _notes(self) -> tuple[str, ...]:
        facts = self.opened.warehouse
        notes = self.opened.notes if facts is None else facts.notes
        return (*notes, *([self.warning] if self.warning else ()))

    def _bytes_saved(self, rows_served: int) -> int:
        """What reading each row for each of its readers would have taken, beyond what was read."""
        if not self._rows_read:
            return 0
        rows_spared = max(rows_served - self._rows_read, 0)
        return round(self._bytes_read * rows_spared / self._rows_read)

    def _cost(
        self, rows_served: Mapping[Split, int], settings: BigQuerySettings
    ) -> CostStatus | None:
        facts = self.opened.warehouse
        if facts is None:
            return None
        total = sum(self.rows(split) for split in SPLITS)
        return CostStatus(
            query_bytes=facts.query_bytes - facts.count_read_bytes,
            read_bytes=facts.count_read_bytes + round(facts.pass_bytes * self._rows_read / total),
            pass_bytes=facts.pass_bytes,
            passes_served=sum(
                rows / self.rows(split) for split, rows in rows_served.items() if rows
            ),
            query_price_per_tib=settings.query_price_per_tib or 0.0,
            read_price_per_tib=settings.read_price_per_tib or 0.0,
        )


def rows_of(chunk: PlannedChunk, split: Split) -> int:
    """The chunk's rows of a split."""
    return chunk.train_rows if split == "train" else chunk.eval_rows


def _info(chunk: PlannedChunk, nbytes: dict[Split, int]) -> events.ChunkInfo:
    splits = [split for split in SPLITS if rows_of(chunk, split)]
    return events.ChunkInfo(
        lane=chunk.lane,
        rows={split: rows_of(chunk, split) for split in splits},
        nbytes={split: nbytes[split] for split in splits},
        open=chunk.open,
    )


def _add(total: Counts | None, more: Counts) -> Counts:
    if total is None:
        return more
    return Counts(
        *(a + b for a, b in zip(structs.astuple(total), structs.astuple(more), strict=True))
    )
