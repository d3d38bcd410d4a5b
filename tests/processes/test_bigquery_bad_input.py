"""What is wrong with a BigQuery source, a credential or a quota is said within ten seconds."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from faucet_client import (
    Batch,
    BigQuerySource,
    BudgetError,
    ColumnError,
    ConfigError,
    DatasetSpec,
    FaucetError,
    SourceEmpty,
    SourceForbidden,
    SourceNotFound,
    SourceReadError,
    SpecError,
)
from faucet_client.batches import BatchIterator
from faucet_client.dataset import Dataset
from faucet_client.spec import Split
from faucet_client.testing import LocalDaemon
from faucetd.fetch.bigquery import faults, jobs, opening, session
from faucetd.fetch.bigquery.settings import BigQuerySettings
from faucetd.worker import messages
from faucetd.worker.opening import open_dataset
from tests.bigquery_server import LocalBigQuery, ReadFault, RestFault, SessionFault
from tests.processes.daemons import wait_idle
from tests.processes.rows import assert_exact
from tests.processes.tls import TlsFront
from tests.processes.waiting import Stopwatch, eventually

LONGEST_S = 10.0
ROWS = 4_000
EMAIL = "reader@project.iam.gserviceaccount.com"

StartDaemon = Callable[..., LocalDaemon]


def rows(count: int = ROWS) -> pa.Table:
    ids = np.arange(count)
    return pa.table(
        {
            "id": pa.array(ids),
            "x": pa.array(ids / 2),
            "text": [f"t{n}" for n in range(count)],
            "tags": pa.array([[n] for n in range(count)], pa.list_(pa.int64())),
        }
    )


@pytest.fixture(scope="module")
def shared_server() -> Iterator[LocalBigQuery]:
    with LocalBigQuery(message_rows=100) as server:
        server.load("p.d.rows", rows())
        server.load("p.d.empty", rows(0))
        server.load("p.d.parts", partitions={"2020-01-20": rows(100), "2020-01-21": rows(50)})
        server.load("p.d.days", rows(), time_partitioning={"type": "DAY", "field": "day"})
        server.load("p.d.external", rows(10), "EXTERNAL")
        server.view("p.d.view", "SELECT id, x FROM d.rows WHERE id < 10")
        server.dataset("p.bare")
        yield server


@pytest.fixture
def server(shared_server: LocalBigQuery) -> Iterator[LocalBigQuery]:
    shared_server.stats(clear=True)
    yield shared_server
    shared_server.faults()
    shared_server.configure(require_token=False, clock_skew_s=0, token_life_s=3600)


@pytest.fixture(scope="module")
def start(shared_server: LocalBigQuery) -> Iterator[StartDaemon]:
    """Starts daemons of one worker, by their settings, which has imported Google's libraries."""
    started: dict[tuple[tuple[str, str], ...], LocalDaemon] = {}

    def start(**changes: str) -> LocalDaemon:
        settings = {
            "bigquery_project": "p",
            "bigquery_credentials": "anonymous",
            "bigquery_api_endpoint": shared_server.rest,
            "bigquery_storage_endpoint": shared_server.grpc,
            "bigquery_storage_insecure": "true",
        } | {f"bigquery_{name}": value for name, value in changes.items()}
        key = tuple(sorted(settings.items()))
        if key not in started:
            started[key] = LocalDaemon(workers=1, memory_budget="16MiB", settings=settings)
            with pytest.raises(SpecError, match="names no table"):
                started[key].client().open(spec(table="no:table"))
        return started[key]

    yield start
    for daemon in started.values():
        with daemon:
            pass


@pytest.fixture
def daemon(start: StartDaemon) -> LocalDaemon:
    """A daemon of the server's."""
    return start()


def spec(features: Any = ("id", "x"), **source: Any) -> DatasetSpec:
    wishes = source.pop("wishes", {})
    if "query" not in source:
        source.setdefault("table", "p.d.rows")
    return DatasetSpec(BigQuerySource(**source), features, **{"preprocessing": "none"} | wishes)


def refusal(daemon: LocalDaemon, wanted: DatasetSpec) -> FaucetError:
    """How the daemon refuses to open it: soon, and without anything of it left."""
    client = daemon.client()
    with Stopwatch() as watch, pytest.raises(FaucetError) as refused:
        client.open(wanted)
    assert watch.seconds < LONGEST_S
    wait_idle(client.status)
    status = client.status()
    assert status.datasets == ()
    assert status.memory.used_bytes == 0
    assert "Traceback" not in daemon.log
    return refused.value


def ids_of(batch: Batch) -> Any:
    return batch.features.numpy()[:, 0].copy()


def ids_read(dataset: Dataset, split: Split = "train") -> Any:
    batches = dataset.batches(split, batch_size=min(100, dataset.info.rows[split]))
    return np.concatenate([ids_of(batch) for batch in batches])


@dataclass(frozen=True)
class Case:
    """What is asked for, of a server with these faults, and how it is refused."""

    error: type[FaucetError]
    words: tuple[str, ...]
    asked: DatasetSpec
    faults: dict[str, Any] = field(default_factory=dict)


def denied(permission: str) -> dict[str, Any]:
    return {"deny": [permission]}


CASES = {
    "no such project": Case(
        SourceNotFound, ("nobody.d.rows", "check project"), spec(table="nobody.d.rows")
    ),
    "no such dataset": Case(
        SourceNotFound, ("Dataset p:nowhere", "check project, dataset"), spec(table="p.nowhere.t")
    ),
    "no such table": Case(
        SourceNotFound, ("there is no table p.d.row,", "Did you mean rows?"), spec(table="p.d.row")
    ),
    "no table at all": Case(SourceNotFound, ("p.bare has no tables",), spec(table="bare.rows")),
    "a name of legacy SQL": Case(SpecError, ("write p.d.rows",), spec(table="p:d.rows")),
    "no such column": Case(ColumnError, ('no column "idd"', "Did you mean"), spec(["idd"])),
    "a column that is text": Case(ColumnError, ('"text"', "exclude_features"), spec(["text"])),
    "a column of lists": Case(ColumnError, ('"tags"',), spec(["tags"])),
    "a hash column of lists": Case(
        ColumnError,
        ("hash_column 'tags' is of type ARRAY of INTEGER", "integers, text or dates"),
        spec(["id"], wishes={"hash_column": "tags"}),
    ),
    "an empty table": Case(SourceEmpty, ("p.d.empty has no rows",), spec(table="p.d.empty")),
    "a filter that no row meets": Case(
        SourceEmpty, ("WHERE id < 0 has no rows",), spec(filter="id < 0")
    ),
    "a partition without rows": Case(
        SourceEmpty,
        ("p.d.parts, partition 2020-02-01, has no rows",),
        spec(table="p.d.parts", partition_date="2020-02-01"),
    ),
    "a partition of a table without": Case(
        SpecError,
        ("p.d.rows is not partitioned", "filter="),
        spec(partition_date="2020-01-20"),
    ),
    "a partition by a column": Case(
        SpecError,
        ("partitioned by its column day", "filter=\"day = '2020-01-20'\""),
        spec(table="p.d.days", partition_date="2020-01-20"),
    ),
    "a filter with an error": Case(
        SourceReadError, ("Unrecognized name: idd", "filter"), spec(filter="idd < 10")
    ),
    "a filter that is no sentence": Case(
        SourceReadError, ("correct the query, columns or filter",), spec(filter="id <")
    ),
    "a query with an error": Case(
        SourceReadError,
        ("Unrecognized name: idd", "at [2:3]"),
        spec(query="SELECT\n  idd\nFROM d.rows"),
    ),
    "a query of a table that is not there": Case(
        SourceNotFound, ("Table p:d.row was not found",), spec(query="SELECT * FROM d.row")
    ),
    "a query that is no SELECT": Case(
        SourceReadError, ("the query",), spec(query="DELETE FROM d.rows WHERE true")
    ),
    "two statements": Case(
        SpecError,
        ("exactly one SELECT", "character 26"),
        spec(query="SELECT * FROM d.rows   ; SELECT 1"),
    ),
    "a query of a comment": Case(SpecError, ("it has none",), spec(query="-- nothing")),
    "a table that may not be looked at": Case(
        SourceForbidden,
        ("anonymous lacks the permission bigquery.tables.get for table p.d.rows", "dataViewer"),
        spec(),
        denied("bigquery.tables.get"),
    ),
    "rows that may not be read": Case(
        SourceForbidden,
        ("anonymous may not read", "p.d.rows", "dataViewer"),
        spec(),
        denied("bigquery.tables.getData"),
    ),
    "sessions that may not be made": Case(
        SourceForbidden,
        ("bigquery.readsessions.create for p.d.rows", "readSessionUser on the project that pays"),
        spec(),
        denied("bigquery.readsessions.create"),
    ),
    "a query where queries are forbidden": Case(
        SourceForbidden,
        ("bigquery.jobs.create for project p", "jobUser on the project that pays"),
        spec(query="SELECT * FROM d.rows"),
        denied("bigquery.jobs.create"),
    ),
    "a view where queries are forbidden": Case(
        SourceForbidden,
        (
            "bigquery.jobs.create for project p",
            "Only a query could read this: p.d.view is of type VIEW",
        ),
        spec(table="p.d.view"),
        denied("bigquery.jobs.create"),
    ),
    "an external table where queries are forbidden": Case(
        SourceForbidden,
        (
            "bigquery.jobs.create for project p",
            "a query could read this: p.d.external is of type EXTERNAL",
        ),
        spec(table="p.d.external"),
        denied("bigquery.jobs.create"),
    ),
    "a quota of REST": Case(
        SourceReadError,
        ("a quota of BigQuery is used up", "Custom quota exceeded", "Quotas"),
        spec(),
        {"rest": [RestFault(403, "quotaExceeded", "Custom quota exceeded: a day's", None)]},
    ),
    "a rate of REST": Case(
        SourceReadError,
        ("a quota of BigQuery is used up", "too many table queries", "tried"),
        spec(),
        {"rest": [RestFault(403, "rateLimitExceeded", "too many table queries", None)]},
    ),
    "a quota of sessions": Case(
        SourceReadError,
        ("a quota of BigQuery is used up", "CreateReadSession calls per minute", "max_streams"),
        spec(),
        {
            "sessions": [
                SessionFault(
                    "RESOURCE_EXHAUSTED",
                    "Quota exceeded for 'CreateReadSession calls per minute'",
                    None,
                )
            ]
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_said_at_open_with_the_remedy(
    name: str, server: LocalBigQuery, daemon: LocalDaemon
) -> None:
    case = CASES[name]
    server.faults(**case.faults)
    refused = refusal(daemon, case.asked)
    assert type(refused) is case.error, refused
    for words in case.words:
        assert words in refused.message
    assert server.stats()["open_read_rows"] == 0


def test_a_refusal_is_never_remembered(server: LocalBigQuery, daemon: LocalDaemon) -> None:
    server.faults(deny=["bigquery.tables.getData"])
    refusal(daemon, spec())
    server.faults()
    dataset = daemon.client().open(spec())
    assert_exact(ids_read(dataset), ROWS)
    forget(daemon, dataset)


def test_who_may_not_run_queries_reads_all_the_same_and_is_told(
    server: LocalBigQuery, daemon: LocalDaemon
) -> None:
    server.faults(deny=["bigquery.jobs.create"])
    dataset = daemon.client().open(spec(wishes={"hash_column": "text", "eval_percent": 20}))
    [status] = daemon.client().status().datasets
    assert any("rows are counted by reading" in note for note in status.notes)
    read = np.concatenate([ids_read(dataset), ids_read(dataset, "eval")])
    assert_exact(read, ROWS)
    forget(daemon, dataset)


@pytest.mark.parametrize("table", ["p.d.view", "p.d.external"])
def test_what_sessions_cannot_read_is_read_by_a_query(
    table: str, server: LocalBigQuery, daemon: LocalDaemon
) -> None:
    dataset = daemon.client().open(spec(table=table))
    assert_exact(ids_read(dataset), 10)
    [status] = daemon.client().status().datasets
    assert any(f"{table} is of type" in note for note in status.notes)
    forget(daemon, dataset)


@pytest.mark.parametrize(
    ("faults", "error", "words"),
    [
        (
            {"deny": ["bigquery.readsessions.getData"]},
            SourceForbidden,
            "anonymous lacks the permission bigquery.readsessions.getData for p.d.rows",
        ),
        (
            {"reads": [ReadFault(after_messages=2, code="PERMISSION_DENIED", message="no more")]},
            SourceForbidden,
            "anonymous may not read p.d.rows",
        ),
        (
            {"reads": [ReadFault(after_messages=2, code="INVALID_ARGUMENT", message="it broke")]},
            SourceReadError,
            "it broke",
        ),
    ],
)
def test_what_is_refused_in_mid_read_fails_the_iterator_at_once_with_the_row(
    faults: dict[str, Any],
    error: type[FaucetError],
    words: str,
    server: LocalBigQuery,
    daemon: LocalDaemon,
) -> None:
    dataset = daemon.client().open(spec())
    server.faults(**faults)
    with Stopwatch() as watch, pytest.raises(FaucetError) as refused:
        ids_read(dataset)
    assert watch.seconds < LONGEST_S
    assert type(refused.value) is error, refused.value
    assert words in refused.value.message
    assert "from row" in refused.value.message
    forget(daemon, dataset)
    eventually(lambda: server.stats()["open_read_rows"] == 0)


# Credentials.


@pytest.fixture(scope="module")
def key_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "key.json"
    path.touch()  # a daemon does not start without it
    return path


@pytest.fixture
def keyed(start: StartDaemon, key_path: Path) -> LocalDaemon:
    """A daemon that reads with the key in `key_path`, whatever that is now."""
    return start(credentials=str(key_path))


def fold(key: Path) -> None:
    key.unlink()
    key.mkdir()


def lacking(key: Path, name: str) -> None:
    info = json.loads(key.read_text())
    del info[name]
    key.write_text(json.dumps(info))


BAD_KEYS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (
        lambda key: key.rename(key.with_name("elsewhere")),
        "does not exist; correct the path",
    ),
    "a folder": (fold, "cannot be read (Is a directory)"),
    "not JSON": (lambda key: key.write_text('{"type": "service_account",'), "is not JSON"),
    "empty": (lambda key: key.write_text(""), "is not JSON"),
    "no key": (lambda key: key.write_text("[]"), "its type must be one of service_account"),
    "without its key": (lambda key: lacking(key, "private_key"), "private_key"),
    "without its mail": (lambda key: lacking(key, "client_email"), "client_email"),
    "without its type": (lambda key: lacking(key, "type"), "its type must be one of"),
}


@pytest.mark.parametrize("name", BAD_KEYS)
def test_credentials_that_cannot_serve_name_the_setting_and_the_file(
    name: str, server: LocalBigQuery, keyed: LocalDaemon, key_path: Path
) -> None:
    spoil, words = BAD_KEYS[name]
    if key_path.is_dir():
        key_path.rmdir()
    server.key_file(key_path)
    spoil(key_path)
    refused = refusal(keyed, spec())
    assert type(refused) is ConfigError, refused
    assert f"[bigquery] credentials names {key_path}" in refused.message
    assert words in refused.message
    assert "PRIVATE KEY" not in keyed.log


def fresh_key(server: LocalBigQuery, key_path: Path, email: str = EMAIL) -> None:
    if key_path.is_dir():
        key_path.rmdir()
    fresh = key_path.with_name("fresh.json")
    server.key_file(fresh, email)
    fresh.replace(key_path)


def spoil_key(key_path: Path) -> None:
    """Makes it a key that the server does not know any more."""
    info = json.loads(key_path.read_text())
    key_path.write_text(json.dumps(info | {"private_key_id": "revoked"}))


def test_a_key_of_nobody_any_more_is_refused_by_name(
    server: LocalBigQuery, keyed: LocalDaemon, key_path: Path
) -> None:
    server.configure(require_token=True)
    fresh_key(server, key_path)
    spoil_key(key_path)
    refused = refusal(keyed, spec())
    assert type(refused) is ConfigError, refused
    assert f"the credentials of {EMAIL} are not valid" in refused.message
    assert "Invalid JWT Signature" in refused.message
    assert "make a new key" in refused.message


@pytest.mark.parametrize("ahead_s", [7_200, -3_600])
def test_a_clock_that_is_off_is_named(
    ahead_s: int, server: LocalBigQuery, keyed: LocalDaemon, key_path: Path
) -> None:
    server.configure(require_token=True, clock_skew_s=ahead_s)
    fresh_key(server, key_path)
    refused = refusal(keyed, spec())
    assert type(refused) is ConfigError, refused
    assert "clock may be off" in refused.message
    assert "Invalid JWT" in refused.message
    assert "set the clock" in refused.message


@pytest.fixture(scope="module")
def start_encrypted(
    shared_server: LocalBigQuery,
    start: StartDaemon,
    key_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[StartDaemon]:
    """Starts daemons that reach the storage API by TLS, since only that carries tokens."""
    certificate = tmp_path_factory.mktemp("tls") / "certificate.pem"
    with TlsFront(shared_server.grpc, certificate) as front:

        def start_encrypted() -> LocalDaemon:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", str(certificate))
                return start(
                    credentials=str(key_path),
                    storage_endpoint=front.address,
                    storage_insecure="false",
                    stall_timeout_s="1",
                )

        yield start_encrypted


def half_read(server: LocalBigQuery, dataset: Dataset) -> BatchIterator:
    """An iterator whose streams have fallen silent half way, so that they will be opened anew."""
    server.faults(reads=[ReadFault("stall", at_message=5, stream=n) for n in range(4)])
    batches = dataset.batches("train", batch_size=100)
    eventually(lambda: server.stats()["injected"].get("ReadRows stall", 0) >= 1)
    return batches


@pytest.mark.parametrize("ahead_s", [3_600.0, -3_600.0])
def test_the_moment_that_is_read_is_the_service_s_whatever_our_clock_says(
    ahead_s: float, server: LocalBigQuery, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = BigQuerySettings(
        project="p",
        credentials="anonymous",
        api_endpoint=server.rest,
        storage_endpoint=server.grpc,
        storage_insecure=True,
    )
    access = messages.Access((), "", settings)
    asked = messages.Open(messages.describe_spec(spec()), access, 0, 1, 1 << 30)
    # Ours alone: gRPC, which asks Python's clock too, would take deadlines for missed.
    wrong = SimpleNamespace(
        time=lambda: time.time() + ahead_s, monotonic=time.monotonic, sleep=time.sleep
    )
    for module in (faults, jobs, opening, session):
        monkeypatch.setattr(module, "time", wrong)
    began_ms = time.time() * 1_000
    opened = open_dataset(asked, lambda _: None)
    [made] = server.stats()["sessions"]
    assert began_ms - 1 <= made["snapshot_ms"] <= time.time() * 1_000
    assert opened.totals["train"].rows == ROWS


def test_tokens_that_expire_in_mid_read_are_fetched_by_the_key_of_now(
    server: LocalBigQuery, start_encrypted: StartDaemon, key_path: Path
) -> None:
    server.configure(require_token=True)
    fresh_key(server, key_path)
    daemon = start_encrypted()
    dataset = daemon.client().open(spec(wishes={"chunk_rows": 200}))
    assert dataset.info.principal == EMAIL
    batches = half_read(server, dataset)
    fresh_key(server, key_path)
    server.revoke_tokens()
    assert_exact(np.concatenate([ids_of(batch) for batch in batches]), ROWS)
    stats = server.stats()
    assert stats["errors"]["ReadRows UNAUTHENTICATED"] >= 1
    assert stats["authorized_calls"]["ReadRows"] == stats["calls"]["ReadRows"]
    forget(daemon, dataset)


def test_a_key_that_was_revoked_in_mid_read_fails_the_iterator_by_name(
    server: LocalBigQuery, start_encrypted: StartDaemon, key_path: Path
) -> None:
    server.configure(require_token=True)
    fresh_key(server, key_path)
    daemon = start_encrypted()
    dataset = daemon.client().open(spec(wishes={"chunk_rows": 200}))
    batches = half_read(server, dataset)
    spoil_key(key_path)
    server.revoke_tokens()
    with Stopwatch() as watch, pytest.raises(ConfigError, match=f"credentials of {EMAIL}"):
        list(batches)
    assert watch.seconds < LONGEST_S
    forget(daemon, dataset)


# Limits.


@pytest.mark.parametrize(
    "asked",
    [
        spec(query="SELECT id, x FROM d.rows"),
        spec(table="p.d.view"),
        spec(wishes={"hash_column": "text", "eval_percent": 10}),
        spec(filter="text = 't1'"),
    ],
    ids=["query", "view", "count", "filter"],
)
def test_what_costs_more_than_allowed_is_refused_with_the_figures(
    asked: DatasetSpec, server: LocalBigQuery, start: StartDaemon
) -> None:
    daemon = start(max_bytes_billed="10KB")
    refused = refusal(daemon, asked)
    assert type(refused) is BudgetError, refused
    assert "10,000" in refused.message
    assert "max_bytes_billed" in refused.message
    assert all(job["dry"] for job in server.stats()["jobs"])


@pytest.mark.parametrize(
    ("limit", "doing", "nbytes", "rows_read"),
    [("10KB", "counting the rows of", 8 * ROWS, 0), ("40KB", "reading", 2 * 8 * ROWS, ROWS)],
)
def test_a_session_that_would_read_more_than_allowed_is_refused_with_the_figures(
    limit: str, doing: str, nbytes: int, rows_read: int, server: LocalBigQuery, start: StartDaemon
) -> None:
    daemon = start(max_bytes_billed=limit)
    server.faults(deny=["bigquery.jobs.create"])
    refused = refusal(daemon, spec())
    assert type(refused) is BudgetError, refused
    assert f"{doing} p.d.rows would be billed for about {nbytes:,} bytes" in refused.message
    assert f"max_bytes_billed is {limit.removesuffix('KB')},000" in refused.message
    assert "fewer columns" in refused.message
    assert server.stats()["rows_sent"] == rows_read


def test_what_bigquery_itself_finds_too_expensive_is_the_same_error(
    server: LocalBigQuery, start: StartDaemon
) -> None:
    daemon = start(max_bytes_billed="40KB")  # a query is billed for 10 MiB at least
    refused = refusal(daemon, spec(query="SELECT id FROM d.rows", features=["id"]))
    assert type(refused) is BudgetError, refused
    assert "40,000" in refused.message


# Addresses.


@pytest.fixture(scope="module")
def nobody() -> Iterator[str]:
    """An address of this machine where nobody listens."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def test_an_api_where_nobody_listens_is_said_with_its_setting(
    nobody: str, start: StartDaemon
) -> None:
    daemon = start(api_endpoint=f"http://{nobody}")
    refused = refusal(daemon, spec())
    assert type(refused) is SourceReadError, refused
    assert "BigQuery could not be reached" in refused.message
    assert nobody.partition(":")[2] in refused.message
    assert "[bigquery] api_endpoint" in refused.message


def test_a_storage_api_where_nobody_listens_is_said_with_its_setting(
    nobody: str, server: LocalBigQuery, start: StartDaemon
) -> None:
    daemon = start(storage_endpoint=nobody)
    refused = refusal(daemon, spec())
    assert type(refused) is SourceReadError, refused
    assert "Storage Read API could not be reached" in refused.message
    assert nobody in refused.message
    assert "[bigquery] storage_endpoint" in refused.message


def test_the_two_addresses_exchanged_are_said(server: LocalBigQuery, start: StartDaemon) -> None:
    rest = server.rest.removeprefix("http://")
    daemon = start(storage_endpoint=rest)
    assert "[bigquery] storage_endpoint" in refusal(daemon, spec()).message
    daemon = start(api_endpoint=f"http://{server.grpc}")
    assert "[bigquery] api_endpoint" in refusal(daemon, spec()).message


def forget(daemon: LocalDaemon, dataset: Dataset) -> None:
    """Has the daemon forget a dataset, as soon as nobody uses it."""
    client = daemon.client()
    wait_idle(client.status)
    client.session().drop(dataset.info.key)
