"""preprocessing="auto" meets hostile tables and clients, and machines that fail in the middle."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faucet_protos.v1 import faucet_pb2

from faucet_client import (
    ColumnError,
    Dataset,
    DatasetSpec,
    FaucetClient,
    FaucetError,
    ParquetSource,
    PreprocessingSpec,
    SpecError,
)
from faucet_client.address import parse_address
from faucet_client.errors import ConfigError
from faucet_client.preprocessing import Categorical, Feature, FitOptions
from faucet_client.session import Session
from faucet_client.wire.channel import translated
from faucet_client.wire.translate import spec_to
from faucet_client.wire.values import OpenProgress
from tests.processes.daemons import StartDaemon, WatchedDaemon
from tests.processes.hostile import raw_stub, token_of
from tests.processes.waiting import Stopwatch, eventually

LONGEST_S = 10.0
FITTING = "fitting the preprocessing"


def write(path: Path, **columns: Any) -> Path:
    rows = len(next(iter(columns.values())))
    pq.write_table(pa.table({"id": np.arange(rows), **columns}), path)
    return path


def spec_of(path: Path, *features: str, **changes: Any) -> DatasetSpec:
    fields: dict[str, Any] = {
        "features": features,
        "passthrough": ["id"],
        "preprocessing": "auto",
    }
    return DatasetSpec(ParquetSource(str(path)), **fields | changes)


def no_utf8(rows: int) -> pa.Array[Any]:
    """A column of texts which are none."""
    offsets = pa.py_buffer((np.arange(rows + 1, dtype=np.int64) * 2).tobytes())
    return pa.Array.from_buffers(
        pa.large_string(), rows, [None, offsets, pa.py_buffer(b"\xff\xfe" * rows)]
    )


# Hostile tables.


def refused(daemon: WatchedDaemon, spec: DatasetSpec, kind: type[FaucetError], words: str) -> None:
    """The spec is refused at open, soon, by words; the daemon goes on."""
    client = daemon.client()
    with Stopwatch() as watch, pytest.raises(kind, match=words):
        client.open(spec)
    assert watch.seconds < LONGEST_S
    assert client.status().datasets == ()


def test_text_that_is_no_utf8_is_refused_by_its_column(
    daemon: WatchedDaemon, tmp_path: Path
) -> None:
    path = write(tmp_path / "bytes.parquet", city=no_utf8(1_000))
    words = r'(?s)"city".*xff.*no UTF-8.*exclude_features'
    refused(daemon, spec_of(path, "city"), ColumnError, words)


def test_text_that_is_no_utf8_where_no_fit_saw_it_ends_the_reader_by_its_column(
    daemon: WatchedDaemon, tmp_path: Path
) -> None:
    path = write(tmp_path / "bytes.parquet", city=no_utf8(1_000))
    given = PreprocessingSpec([Feature("city", Categorical(("Wien",)))])
    dataset = daemon.client().open(spec_of(path, "city", preprocessing=given))
    with pytest.raises(ColumnError, match=r'(?s)"city".*xff.*no UTF-8'):
        list(dataset.batches("train", batch_size=100))


def test_a_train_split_without_rows_is_told_of_with_the_columns_and_the_remedy(
    daemon: WatchedDaemon, tmp_path: Path
) -> None:
    path = write(tmp_path / "one.parquet", x=np.arange(100.0), same=np.zeros(100, np.int64))
    spec = spec_of(path, "x", hash_column="same", eval_percent=50)
    words = r"\"x\" cannot be fitted.*train split has no rows.*eval_percent=50.*hash_column='same'"
    refused(daemon, spec, SpecError, words)


def test_a_sample_without_rows_is_told_of_with_the_remedy(
    daemon: WatchedDaemon, tmp_path: Path
) -> None:
    # One of so many rows is chosen on average, by hash: of these tables, some have none.
    found = []
    for rows in range(1_000, 1_010):
        path = write(tmp_path / f"{rows}.parquet", x=np.arange(rows) + 0.5)
        try:
            daemon.client().open(spec_of(path, "x", fit_rows=1))
        except SpecError as error:
            found.append(str(error))
    assert found
    assert all('"x" cannot be fitted: fit_rows=1 chose none' in each for each in found)


def test_a_vocabulary_that_no_reply_can_hold_is_refused_by_its_column(
    daemon: WatchedDaemon, tmp_path: Path
) -> None:
    texts = [f"{number}-" + "z" * 1_000 for number in range(20_000)]
    path = write(tmp_path / "long.parquet", code=texts, x=np.arange(20_000.0))
    options = FitOptions(min_category_count=1, max_categories=100_000)
    words = '(?s)"code", a CATEGORICAL.*max_categories.*HASHED'
    refused(daemon, spec_of(path, "code", "x", fit=options), SpecError, words)


# Hostile clients.


def ask(daemon: WatchedDaemon, session: Session, spec: DatasetSpec, **fields: str) -> FaucetError:
    """What the daemon answers to an open with some fields as they are given."""
    message = spec_to(spec)
    for name, text in fields.items():
        setattr(message, name, text)
    with raw_stub(daemon) as stub, pytest.raises(grpc.RpcError) as caught:
        request = faucet_pb2.OpenDatasetRequest(spec=message)
        list(stub.OpenDataset(request, metadata=token_of(session, "OpenDataset"), timeout=30))
    return translated(caught.value, parse_address(daemon.address))


def fitted(features: str) -> str:
    return '{"format": "faucet-preprocessing", "version": 1, "features": [%s]}' % features  # noqa: UP031  # braces


HOSTILE: dict[str, tuple[dict[str, str], str]] = {
    "a threshold without end": ({"fit_options": '{"quantile_k2_threshold": 1e999}'}, "quantile_k2"),
    "lists as names": ({"fit_options": '{"exclude_features": [[]]}'}, "list of column names"),
    "a list as a flag": ({"fit_options": '{"skip_quantiles": []}'}, "True or False"),
    "a text as a flag": ({"fit_options": '{"skip_box_cox": "no"}'}, "True or False"),
    "options nested deep": ({"fit_options": "[" * 3_000_000}, "too deep"),
    "a spec nested deep": ({"preprocessing": '{"a":' * 1_000_000}, "too deep"),
    "half a character": (
        {
            "preprocessing": fitted(
                r'{"name": "x", "transform": {"type": "BINARY"}, "why": "\ud800"}'
            )
        },
        "why must be of valid Unicode",
    ),
    "a newer version": (
        {"preprocessing": '{"format": "faucet-preprocessing", "version": 2, "features": []}'},
        "upgrade faucetml",
    ),
    "an unknown transform": (
        {"preprocessing": fitted('{"name": "x", "transform": {"type": "MAGIC"}}')},
        "MAGIC.*is not known",
    ),
}


def test_hostile_specs_are_refused_by_what_is_wrong_and_others_are_served(
    daemon: WatchedDaemon, tmp_path: Path
) -> None:
    spec = spec_of(write(tmp_path / "x.parquet", x=np.arange(1_000) + 0.5), "x")
    dataset = daemon.client().open(spec)
    session = Session.connect(parse_address(daemon.address))
    try:
        for case, (fields, words) in HOSTILE.items():
            error = ask(daemon, session, spec, **fields)
            assert isinstance(error, SpecError), (case, error)
            assert re.search(words, str(error)), (case, error)
        error = ask(daemon, session, spec, preprocessing='{"a": "' + "x" * 100_000_000 + '"}')
        assert "larger than max" in str(error)
    finally:
        session.close()
    assert "Traceback" not in daemon.log
    assert sum(len(batch.features) for batch in dataset.batches("train", batch_size=100)) == 1_000


# Failing machines.

SLOW_ROWS = 400_000


@pytest.fixture
def slow(tmp_path: Path) -> DatasetSpec:
    """A spec whose fit takes a while, so that it can be caught in the middle."""
    texts = pa.array([f"customer {number}" for number in range(SLOW_ROWS)])
    columns = dict.fromkeys(("a", "b", "c", "d"), texts)
    path = write(tmp_path / "slow.parquet", **columns)
    options = FitOptions(min_category_count=1, max_categories=1_000)
    return spec_of(path, *columns, fit=options, fit_on="stream")


def specs_folder(daemon: WatchedDaemon) -> Path:
    (folder,) = (daemon.folder / "scratch").rglob("specs")
    return folder


def stored(daemon: WatchedDaemon) -> list[Path]:
    """The fitted specs on disk."""
    found = specs_folder(daemon).glob("*.json")
    return [path for path in found if not path.name.endswith(".profile.json")]


def while_fitting(
    daemon: WatchedDaemon,
    spec: DatasetSpec,
    act: Callable[[], object],
    client: FaucetClient | None = None,
) -> Dataset:
    """Opens; in the middle of the fit, once, `act` happens."""
    done = threading.Event()

    def look(progress: OpenProgress) -> None:
        if progress.stage == FITTING and progress.rows_done and not done.is_set():
            done.set()
            assert not stored(daemon)
            act()

    try:
        return (client or daemon.client()).open(spec, on_progress=look)
    finally:
        assert done.is_set(), "the fit was too fast to be caught"


def opening_worker(daemon: WatchedDaemon) -> int:
    status = daemon.client().status()
    return next(worker.pid for worker in status.workers if worker.state == "opening")


def test_a_killed_worker_s_fit_is_taken_over(start_daemon: StartDaemon, slow: DatasetSpec) -> None:
    daemon = start_daemon(workers=2)
    waits: list[Dataset] = []
    other = threading.Thread(target=lambda: waits.append(daemon.client().open(second)))
    second = spec_of(
        Path(slow.source.path),  # type: ignore[union-attr]
        *slow.features,
        fit=slow.fit,
        fit_on="stream",
        chunk_rows=777,
    )

    def kill() -> None:
        victim = opening_worker(daemon)
        other.start()
        os.kill(victim, signal.SIGKILL)

    try:
        first: Dataset | None = while_fitting(daemon, slow, kill)
    except FaucetError:  # told that its worker died
        first = None
    other.join(60)
    assert not other.is_alive()
    again = daemon.client().open(slow)
    assert again.preprocessing == waits[0].preprocessing
    assert first is None or first.preprocessing == again.preprocessing
    assert len(stored(daemon)) == 1


def test_a_killed_daemon_leaves_nothing_half_written(
    daemon: WatchedDaemon, slow: DatasetSpec
) -> None:
    with pytest.raises(FaucetError):
        while_fitting(daemon, slow, daemon.kill)
    assert not stored(daemon)
    daemon.restart()
    dataset = daemon.client().open(slow)
    assert len(stored(daemon)) == 1
    assert dataset.profile().features


def test_a_fit_outlives_the_client_that_asked_for_it(
    daemon: WatchedDaemon, slow: DatasetSpec
) -> None:
    leaver = daemon.client()
    with pytest.raises(FaucetError, match="the client was closed"):
        while_fitting(daemon, slow, leaver.close, leaver)
    eventually(lambda: stored(daemon), 30.0)
    assert daemon.client().open(slow).profile().features


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "no profile", "no text"])
def test_a_damaged_spec_on_disk_is_fitted_anew(
    damage: str, daemon: WatchedDaemon, tmp_path: Path
) -> None:
    spec = spec_of(write(tmp_path / "x.parquet", x=np.arange(1_000) + 0.5), "x")
    before = daemon.client().open(spec)
    profile = before.profile()
    daemon.stop()
    (path,) = stored(daemon)
    beside = path.with_name(f"{path.stem}.profile.json")
    match damage:
        case "cut":
            path.write_bytes(path.read_bytes()[:100])
        case "garbage":
            path.write_bytes(b"\x00\xff" * 1_000)
        case "empty":
            path.write_bytes(b"")
        case "no profile":
            beside.unlink()
        case _:
            beside.write_bytes(b"")
    daemon.restart()
    after = daemon.client().open(spec)
    assert (after.preprocessing, after.info.key) == (before.preprocessing, before.info.key)
    assert after.profile() == profile


def test_a_spec_on_disk_that_cannot_be_read_is_told_of_by_its_path(
    daemon: WatchedDaemon, tmp_path: Path
) -> None:
    spec = spec_of(write(tmp_path / "x.parquet", x=np.arange(1_000) + 0.5), "x")
    daemon.client().open(spec)
    daemon.stop()
    (path,) = stored(daemon)
    path.unlink()
    path.symlink_to(path)
    daemon.restart()
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        daemon.client().open(spec)
    path.unlink()
    assert daemon.client().open(spec).profile().features


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"x" * (17 << 20), "profile fewer columns at a time"),
        (b"\xff\x00" * 1_000, "(?s)no profile|not JSON|no JSON"),
    ],
)
def test_a_profile_that_cannot_be_shown_is_told_of(
    text: bytes, words: str, daemon: WatchedDaemon, tmp_path: Path
) -> None:
    dataset = daemon.client().open(
        spec_of(write(tmp_path / "x.parquet", x=np.arange(1_000) + 0.5), "x")
    )
    (path,) = stored(daemon)
    path.with_name(f"{path.stem}.profile.json").write_bytes(text)
    with pytest.raises(SpecError, match=words):
        dataset.profile()
    assert "Traceback" not in daemon.log


def test_two_daemons_that_share_a_scratch_dir_fit_once(
    start_daemon: StartDaemon, slow: DatasetSpec, tmp_path: Path
) -> None:
    shared = tmp_path / "scratch"
    shared.mkdir(mode=0o700)
    both = [start_daemon(scratch_dir=str(shared)) for _ in range(2)]
    found: list[Dataset] = []
    threads = [
        threading.Thread(target=lambda each=each: found.append(each.client().open(slow)))
        for each in both
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 2
    assert found[0].preprocessing == found[1].preprocessing
    read = sorted(each.client().status().datasets[0].count_rows_read for each in both)
    assert read == [0, SLOW_ROWS]
