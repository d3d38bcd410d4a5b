"""A trainer under remote control: a command a line of JSON on stdin, an answer a line on stdout.

The first line is its configuration. nursery.py forks it, or `python -m` runs it; trainers.py is the
other end. An error of ours is an answer too: its class in `error`, its text in `message`.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from typing import Any

import numpy as np

from faucet_client import (
    Batch,
    FaucetClient,
    FaucetDataset,
    FaucetError,
)
from tests.processes.daemons import reader_of
from tests.processes.rows import Ids, check, ids_of
from tests.processes.specs import read_spec


class Trainer:
    """Its public methods are the commands."""

    def __init__(self, address: str, spec: dict[str, Any], patience_s: float) -> None:
        self.client = FaucetClient(address, patience_s=patience_s)
        self.dataset = self.client.open(read_spec(spec))
        self.batches: Any = None  # a BatchIterator, or the loader's
        self.loader: Any = None
        self.held: list[Batch] = []
        self.ids: list[Ids] = []
        self.rows_read = 0

    def start(self, **arguments: Any) -> dict[str, Any]:
        """Makes the iterator, and thereby the reader."""
        self.batches = self.dataset.batches(**arguments)
        return {"batches": len(self.batches)}

    def load(
        self, workers: int, state: dict[str, Any] | None = None, **arguments: Any
    ) -> dict[str, Any]:
        """Makes torchdata's loader, which may go on from a state; `iterate` begins an epoch."""
        from torchdata.stateful_dataloader import StatefulDataLoader

        rows = FaucetDataset(self.dataset, **arguments)
        self.loader = StatefulDataLoader(rows, batch_size=None, num_workers=workers)
        if state is not None:
            self.loader.load_state_dict(state)
        return {"batches": len(self.loader)}

    def iterate(self) -> dict[str, Any]:
        """Begins an epoch of the loader."""
        self.batches = iter(self.loader)
        return {}

    def loader_state(self) -> dict[str, Any]:
        """The loader's."""
        return {"state": self.loader.state_dict()}

    def place(self) -> dict[str, Any]:
        """Where the last batch that is held is."""
        return {"epoch": self.held[-1].epoch, "batch": self.held[-1].batch_num}

    def read(
        self,
        count: int | None = None,
        *,
        keep: int = 0,
        scribble: bool = False,
        pause_s: float = 0.0,
    ) -> dict[str, Any]:
        """Reads `count` batches, or all, checks every value, and holds on to the last `keep`.

        With `scribble` it then overwrites every batch in place.
        """
        assert self.batches is not None
        done = 0
        try:
            while count is None or done < count:
                batch = next(self.batches, None)
                if batch is None:
                    break
                self._take(batch)
                done += 1
                self.held.append(batch)
                if scribble:
                    batch.features.fill_(-1.0)
                    batch.labels["y"].add_(1.0)
                del batch, self.held[: max(len(self.held) - keep, 0)]
                time.sleep(pause_s)
        except FaucetError as error:
            return {"read": done, **_told(error)}
        return {"read": done}

    def crawl(self, peer: str, times: int) -> dict[str, Any]:
        """Reads `times` as slowly as the reader of job `peer` does, until that one is at its end.

        It holds on to each batch until the peer has had `times` as many rows as it has had itself.
        """
        reader = reader_of(self.client.status(), peer)
        assert reader is not None, f"{peer} does not read"
        before = reader.rows_consumed
        done, rows = 0, 0
        while reader is not None and (batch := next(self.batches, None)) is not None:
            self._take(batch)
            done += 1
            rows += len(batch)
            while reader is not None and reader.rows_consumed - before < times * rows:
                time.sleep(0.01)
                reader = reader_of(self.client.status(), peer)
            del batch
        return {"read": done}

    def check_held(self) -> dict[str, Any]:
        """Checks every value of the batches that are held, again."""
        for batch in self.held:
            check(batch)
        return {"held": len(self.held)}

    def checksum(self) -> dict[str, Any]:
        """Of all bytes of the batches that are held, in order."""
        digest = hashlib.sha256()
        for batch in self.held:
            digest.update(batch.features.numpy().tobytes())
            digest.update(batch.labels["y"].numpy().tobytes())
        return {"checksum": digest.hexdigest(), "held": len(self.held)}

    def let_go(self) -> dict[str, Any]:
        """Drops the batches that are held."""
        self.held.clear()
        return {}

    def save_ids(self, path: str) -> dict[str, Any]:
        """Writes the ids of all rows read, in order, as .npy; and forgets them."""
        np.save(path, np.concatenate(self.ids) if self.ids else np.empty(0, np.int64))
        self.ids.clear()
        return {}

    def state(self) -> dict[str, Any]:
        """The iterator's."""
        assert self.batches is not None
        return {"state": self.batches.state_dict()}

    def stats(self) -> dict[str, Any]:
        """The iterator's."""
        assert self.batches is not None
        return dict(vars(self.batches.stats()))

    def fork(self) -> dict[str, Any]:
        """Forks a child that does nothing, and keeps all sockets open."""
        pid = os.fork()
        if pid == 0:
            while True:
                signal.pause()
        return {"pid": pid}

    def close(self) -> dict[str, Any]:
        """Closes the iterator."""
        assert self.batches is not None
        self.batches.close()
        return {}

    def _take(self, batch: Batch) -> None:
        """Checks every value, and notes the ids."""
        check(batch)
        self.ids.append(ids_of(batch))
        self.rows_read += len(batch)


def _told(error: FaucetError) -> dict[str, Any]:
    return {"error": type(error).__name__, "message": str(error)}


def _say(answer: dict[str, Any]) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")


def main() -> None:
    """Until stdin ends."""
    try:
        trainer = Trainer(**json.loads(sys.stdin.readline()))
    except FaucetError as error:
        _say(_told(error))
        raise SystemExit(1) from None
    _say({"rows": dict(trainer.dataset.info.rows)})
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(trainer, command.pop("command"))(**command)
        except FaucetError as error:
            answer = _told(error)
        _say(answer)


if __name__ == "__main__":
    main()
