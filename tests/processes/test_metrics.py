"""A real daemon's metrics, scraped while a trainer reads."""

from __future__ import annotations

import re
import socket
import stat
import urllib.error
import urllib.request
from http.client import HTTPConnection
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from faucet_client.status import Status
from tests.processes.daemons import StartDaemon, WatchedDaemon, reader_of
from tests.processes.tables import MakeTable
from tests.processes.trainers import StartTrainer
from tests.processes.waiting import eventually

Samples = dict[tuple[str, ...], float]


def samples(text: str) -> Samples:
    """Each sample by its name and the values of its labels, in the order of the labels' names."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def url_of(daemon: WatchedDaemon) -> str:
    found = re.search(r"metrics are at (http://\S+)", daemon.log)
    assert found is not None
    return found[1]


def scrape(url: str) -> Samples:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return samples(answer.read().decode())


def test_what_is_scraped_agrees_with_the_status_while_a_trainer_reads(
    start_daemon: StartDaemon, start_trainer: StartTrainer, make_table: MakeTable
) -> None:
    daemon = start_daemon(metrics="127.0.0.1:0")
    url = url_of(daemon)
    assert not any("reader" in name for name, *_ in scrape(url))
    trainer = start_trainer(daemon, make_table())
    trainer.start(batch_size=500, epochs=2)
    trainer.send("read", pause_s=0.002)
    while not trainer.has_answered():
        scrape(url)  # at every moment of the reading
    trainer.answer()
    client = daemon.client()

    def agreed() -> Status | None:
        before, found, after = client.status(), scrape(url), client.status()
        return after if before.readers == after.readers and agree(found, after) else None

    def agree(found: Samples, status: Status) -> bool:
        (dataset,) = status.datasets
        reader = reader_of(status, trainer.name)
        name = (dataset.key, trainer.name, "0", "train", "0")
        return (
            found["faucet_source_rows_read_total", dataset.key] == dataset.source_rows_read
            and found["faucet_source_bytes_read_total", dataset.key] == dataset.source_bytes_read
            and found["faucet_rows_served_total", dataset.key] == dataset.rows_served > 0
            and found["faucet_memory_used_bytes",] == status.memory.used_bytes > 0
            and (
                (reader is None and ("faucet_reader_rows_total", *name) not in found)
                or (
                    reader is not None
                    and found[("faucet_reader_rows_total", *name)] == reader.rows_consumed
                    and found[("faucet_reader_wait_seconds_total", *name)] == reader.seconds_waited
                )
            )
        )

    eventually(agreed)


def test_a_live_reader_has_its_rows_and_ends_with_them(
    start_daemon: StartDaemon, make_table: MakeTable
) -> None:
    daemon = start_daemon(metrics="[::1]:0")
    url = url_of(daemon)
    dataset = daemon.client().open(make_table(rows=4_000, chunk_rows=500).spec(eval_percent=0))
    name = ("faucet_reader_rows_total", dataset.info.key, "mine", "0", "train", "0")
    with dataset.batches("train", batch_size=100, job="mine") as batches:
        for _ in range(20):
            next(batches)
        eventually(lambda: scrape(url).get(name, 0.0) >= 1_000)
        chunks = ("faucet_dataset_chunks", dataset.info.key, "train", "leased")
        assert scrape(url)[chunks] >= 1
    eventually(lambda: name not in scrape(url))


def test_a_unix_socket_serves_them_and_is_removed(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    path = tmp_path / "metrics.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))  # of a daemon that was killed
    dead.close()
    daemon = start_daemon(metrics=f"unix://{path}")
    assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0
    connection = HTTPConnection("localhost", timeout=20)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    assert answer.status == 200
    assert ("faucet_build_info", "0.1.0") in samples(answer.read().decode())
    connection.close()
    daemon.stop()
    assert not path.exists()


def test_a_port_that_is_taken_is_said_to_be(start_daemon: StartDaemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Exception, match=f"metrics: cannot listen at {address}") as refusal:
            start_daemon(metrics=address)
    assert "ended with 78" in str(refusal.value)


def test_one_who_asks_nothing_holds_up_neither_rpcs_nor_the_end(
    start_daemon: StartDaemon,
) -> None:
    daemon = start_daemon(metrics="127.0.0.1:0")
    port = int(url_of(daemon).rsplit(":", 1)[1].removesuffix("/metrics"))
    with socket.create_connection(("127.0.0.1", port)):
        client = daemon.client()
        assert client.status().memory.used_bytes == 0
        assert daemon.stop() == 0


def test_other_methods_are_refused(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(metrics="127.0.0.1:0")
    with pytest.raises(urllib.error.HTTPError, match="405"):
        urllib.request.urlopen(urllib.request.Request(url_of(daemon), data=b"x"), timeout=20)
