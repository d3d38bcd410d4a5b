"""What a daemon says of chunks and readers, while trainers read."""

from __future__ import annotations

from faucet_client import chunk_map
from faucet_client.status import Status
from tests.processes.daemons import WatchedDaemon, reader_of, wait_idle
from tests.processes.tables import MakeTable
from tests.processes.trainers import StartTrainer
from tests.processes.waiting import eventually

ROWS = 20_000
CHUNK_ROWS = 1_000


def counts(status: Status) -> dict[str, int]:
    (dataset,) = status.datasets
    return chunk_map.counts(dataset.train_chunk_map)


def test_the_status_tells_where_readers_are_and_what_became_of_the_chunks(
    daemon: WatchedDaemon, start_trainer: StartTrainer, make_table: MakeTable
) -> None:
    table = make_table(rows=ROWS, chunk_rows=CHUNK_ROWS)
    client = daemon.client()
    first, second = (start_trainer(daemon, table, eval_percent=0) for _ in range(2))
    first.start(batch_size=500, epochs=2)
    second.start(batch_size=500, epochs=2)
    assert first.ask("read", count=ROWS // 500)["read"] == ROWS // 500

    def first_has_advanced() -> Status | None:
        status = client.status()
        reader = reader_of(status, first.name)
        return status if reader is not None and reader.position_epochs >= 0.8 else None

    status = eventually(first_has_advanced)
    assert status is not None
    ahead, behind = reader_of(status, first.name), reader_of(status, second.name)
    assert ahead is not None
    assert behind is not None
    assert (ahead.first_epoch, ahead.epochs, ahead.lag_epochs) == (0, 2, 0.0)
    assert behind.position_epochs == 0.0
    assert behind.lag_epochs == ahead.position_epochs
    found = counts(status)
    assert found["resident"] + found["leased"] == ROWS // CHUNK_ROWS
    assert found["leased"] >= 1
    (dataset,) = status.datasets
    assert chunk_map.counts(dataset.eval_chunk_map)["no_rows"] == ROWS // CHUNK_ROWS

    assert first.ask("read")["read"] == second.ask("read")["read"] // 2
    for trainer in (first, second):
        trainer.ask("close")
    wait_idle(client.status)
    (dataset,) = client.status().datasets
    assert dataset.source_rows_read == ROWS
    assert dataset.rows_served == 4 * ROWS
    assert dataset.source_bytes_saved == 3 * dataset.source_bytes_read


def test_an_epoch_that_is_read_to_its_end_is_told_to_its_last_row(
    daemon: WatchedDaemon, make_table: MakeTable
) -> None:
    table = make_table(rows=ROWS, chunk_rows=CHUNK_ROWS)
    client = daemon.client()
    dataset = client.open(table.spec(eval_percent=0))
    with dataset.epochs("train", count=2, batch_size=500, job="exact") as epochs:
        for _ in next(epochs):
            pass
        second = iter(next(epochs))
        next(second)

        def begins_its_second() -> bool:
            reader = reader_of(client.status(), "exact")
            return reader is not None and reader.position_epochs == 1.0

        eventually(begins_its_second)
        del second
