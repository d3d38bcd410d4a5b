"""torch.distributed with gloo: ranks that are killed go on, as many or others, each row once."""

from __future__ import annotations

import json
import signal
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.processes import ddp_script, forked
from tests.processes.daemons import WatchedDaemon
from tests.processes.rows import Ids
from tests.processes.tables import MakeTable, Table
from tests.processes.waiting import eventually

pytestmark = pytest.mark.usefixtures("fork_server")

ROWS, BATCH, EVERY = 1_013, 50, 5


class Job:
    """Runs of the example on one table, which share a checkpoint."""

    def __init__(self, daemon: WatchedDaemon, table: Table, folder: Path) -> None:
        self._folder = folder
        self._config = {
            "address": daemon.address,
            "spec": table.fields(),
            "checkpoint": str(folder / "checkpoint.pt"),
            "training": {"epochs": 3, "batch_size": BATCH, "every": EVERY},
        }
        self._runs = 0

    def run(self, ranks: int, kill_at: int | None = None) -> list[list[dict[str, Any]]]:
        """Trains to the end, or SIGKILLs all ranks after so many batches; what each wrote down."""
        self._runs += 1
        port = forked.free_port()
        names = [self._folder / f"run{self._runs}-{rank}" for rank in range(ranks)]
        processes = [
            forked.start(ddp_script.train, self._config_of(name, rank, ranks, port, kill_at))
            for rank, name in enumerate(names)
        ]
        if kill_at is not None:
            self._kill(processes, names, kill_at)
        for process, name in zip(processes, names, strict=True):
            expected = 0 if kill_at is None else -signal.SIGKILL
            forked.end(process, expected, name.with_suffix(".stderr"))
        return [read_lines(name) for name in names]

    def _config_of(
        self, name: Path, rank: int, ranks: int, port: int, stop_at: int | None
    ) -> dict[str, Any]:
        """What torchrun sets is in `environ`."""
        return self._config | {
            "log": str(name),
            "stderr": str(name.with_suffix(".stderr")),
            "stop_at": stop_at,
            "environ": {
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "RANK": str(rank),
                "WORLD_SIZE": str(ranks),
            },
        }

    def _kill(self, processes: list[BaseProcess], names: list[Path], kill_at: int) -> None:
        def are_there() -> bool:
            return all(len(read_lines(name)) == kill_at for name in names) or not all(
                process.is_alive() for process in processes
            )

        eventually(are_there, 60.0)
        for process in processes:
            process.kill()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The batches that a rank wrote down, those whole that it wrote wholly."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def of_epoch(epoch: int, ranks: list[list[dict[str, Any]]]) -> Ids:
    rows = [batch["ids"] for rank in ranks for batch in rank if batch["epoch"] == epoch]
    return np.concatenate([np.array(ids, np.int64) for ids in rows] or [np.empty(0, np.int64)])


def assert_distinct(ids: Ids, count: int) -> None:
    """Each row at most once, and so many of them: as rows are distinct, none is missing."""
    assert len(np.unique(ids)) == len(ids) == count


@pytest.mark.parametrize("now", [1, 2, 3])
def test_killed_ranks_go_on_from_their_checkpoint_as_many_or_others(
    now: int, daemon: WatchedDaemon, make_table: MakeTable, tmp_path: Path
) -> None:
    job = Job(daemon, make_table(rows=ROWS, chunk_rows=200), tmp_path)
    of_first_epoch = -(-(ROWS // 2) // BATCH)
    before = job.run(2, kill_at=of_first_epoch + 7)
    saved = (of_first_epoch + 7) // EVERY * EVERY
    kept = [rank[:saved] for rank in before]
    after = job.run(now)
    assert len({len(rank) for rank in after}) == 1  # or DDP would have hung
    assert_distinct(of_epoch(0, kept), ROWS - ROWS % 2)
    had = 2 * BATCH * (saved - of_first_epoch)
    assert had > 0
    assert len(of_epoch(0, after)) == 0
    assert after[0][0]["batch"] == saved - of_first_epoch
    dealt_before = ROWS - ROWS % 2 if now == 2 else ROWS  # the same ranks keep their shares
    left = (dealt_before - had) // now * now
    assert_distinct(of_epoch(1, kept + after), had + left)
    assert_distinct(of_epoch(2, after), ROWS - ROWS % now)
