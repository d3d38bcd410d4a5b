"""Jobs over a real socket: each runs once, is paid for knowingly, and leaves nothing behind.

The service here has no rows: it answers what each test has it answer, so that a job can be
accepted and its answer lost. What the statements mean, `tests/pure/bigquery/test_sql.py` says.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from faucet_client.spec import SplitBuckets
from faucetd.errors import (
    BudgetError,
    ConfigError,
    SourceForbidden,
    SourceNotFound,
    SourceReadError,
    SpecError,
)
from faucetd.fetch.bigquery import jobs, sql
from faucetd.fetch.bigquery.connection import Connection
from faucetd.fetch.bigquery.settings import BigQuerySettings

Answer = tuple[int, dict[str, Any]]
STARTED_MS = 1_579_482_123_456
SPLIT = SplitBuckets(1_000, 600, 800)
SCHEMA = {"fields": [{"name": "train_rows", "type": "INTEGER"}, {"name": "x", "type": "STRING"}]}


class LostError(Exception):
    """The answer never reaches the client."""


def refusal(status: int, reason: str, message: str) -> Answer:
    errors = [{"reason": reason, "message": message}]
    return status, {"error": {"code": status, "message": message, "errors": errors}}


class Service:
    """BigQuery's REST API, as far as jobs and tables need it.

    `before` and `after` see each request, and may answer it, before or after it has had its effect.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, Any]]] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.cancelled: list[str] = []
        self.tables: dict[str, dict[str, Any]] = {}
        self.datasets = {"p.d", "p.results"}
        self.before: Callable[[str, str, dict[str, Any]], Answer | None] = lambda *_: None
        self.after: Callable[[str, str, dict[str, Any]], Answer | None] = lambda *_: None
        self.polls = 1
        self.bytes = 1_000
        self.statement = "SELECT"
        self.dry_runs_have_times = True
        self.failures: list[dict[str, str]] = []
        self.rows: list[list[str]] = []
        self.columns = ["train_rows", "eval_rows"]

    def inserted(self) -> list[dict[str, Any]]:
        """The jobs that were sent, dry runs apart, each as often as it was."""
        return [
            body
            for method, path, body in self.requests
            if method == "POST"
            and path.endswith("/jobs")
            and not body["configuration"].get("dryRun")
        ]

    def answer(self, method: str, path: str, body: dict[str, Any]) -> Answer:
        self.requests.append((method, path, body))
        early = self.before(method, path, body)
        if early is not None:
            return early
        usual = self._answer(method, path, body)
        return self.after(method, path, body) or usual

    def _answer(self, method: str, path: str, body: dict[str, Any]) -> Answer:
        if found := re.fullmatch(r"/projects/([^/]+)/datasets/([^/]+)/tables(?:/(.+))?", path):
            project, dataset, table = found.groups()
            return self._table(method, f"{project}.{dataset}", table, body)
        if method == "POST" and path == "/projects/p/jobs":
            return self._insert(body)
        job_id = path.split("/")[4]
        if job_id not in self.jobs:
            return refusal(404, "notFound", f"Not found: Job p:US.{job_id}")
        if path.endswith("/cancel"):
            self.cancelled.append(job_id)
            return 200, {"job": self.jobs[job_id]}
        job = self.jobs[job_id]
        if "/queries/" in path:
            fields = [{"name": name, "type": "INTEGER"} for name in self.columns]
            rows = [{"f": [{"v": value} for value in row]} for row in self.rows]
            return 200, {
                "jobComplete": True,
                "jobReference": job["jobReference"],
                "schema": {"fields": fields},
                "totalRows": str(len(rows)),
                "rows": rows,
            }
        job["polls"] += 1
        if job["polls"] > self.polls:
            job["status"]["state"] = "DONE"
            if job["failure"]:
                job["status"]["errorResult"] = job["failure"]
                job["status"]["errors"] = [job["failure"]]
        return 200, job

    def _insert(self, body: dict[str, Any]) -> Answer:
        config = body["configuration"]
        reference = body.get("jobReference", {})
        location = reference.get("location", "US")
        statistics: dict[str, Any] = {
            "creationTime": str(STARTED_MS),
            "totalBytesProcessed": str(self.bytes),
            "query": {
                "totalBytesProcessed": str(self.bytes),
                "totalBytesBilled": "10485760",
                "statementType": self.statement,
                "schema": SCHEMA,
                "referencedTables": [{"projectId": "p", "datasetId": "d", "tableId": "t"}],
            },
        }
        if config.get("dryRun"):
            if not self.dry_runs_have_times:
                del statistics["creationTime"]
            made = {"jobReference": {"projectId": "p", "location": location}}
            made |= {"configuration": config, "statistics": statistics}
            return 200, made | {"status": {"state": "DONE"}}
        job_id = reference["jobId"]
        if job_id in self.jobs:
            return refusal(409, "duplicate", f"Already Exists: Job p:US.{job_id}")
        anonymous = {"projectId": "p", "datasetId": "_a", "tableId": f"anon{len(self.jobs)}"}
        config["query"].setdefault("destinationTable", anonymous)
        self.jobs[job_id] = {
            "polls": 0,
            "failure": self.failures.pop(0) if self.failures else None,
            "jobReference": {"projectId": "p", "jobId": job_id, "location": location},
            "configuration": config | {"jobType": "QUERY"},
            "status": {"state": "RUNNING"},
            "statistics": statistics | {"startTime": str(STARTED_MS + 5)},
        }
        return 200, self.jobs[job_id]

    def _table(self, method: str, dataset: str, table: str | None, body: dict[str, Any]) -> Answer:
        if dataset not in self.datasets:
            return refusal(404, "notFound", f"Not found: Dataset {dataset}")
        if method == "POST":
            name = f"{dataset}.{body['tableReference']['tableId']}"
            if name in self.tables:
                return refusal(409, "duplicate", f"Already Exists: Table {name}")
            self.tables[name] = body
            return 200, body
        if table is None:
            names = [name.rsplit(".", 1)[1] for name in self.tables if name.startswith(dataset)]
            project, bare = dataset.split(".")
            reference = {"projectId": project, "datasetId": bare}
            return 200, {"tables": [{"tableReference": reference | {"tableId": n}} for n in names]}
        name = f"{dataset}.{table}"
        if name not in self.tables:
            return refusal(404, "notFound", f"Not found: Table {name}")
        return 200, self.tables[name]


class Handler(BaseHTTPRequestHandler):
    service: ClassVar[Service]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer("GET", {})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self._answer("POST", json.loads(self.rfile.read(length) or b"{}"))

    def _answer(self, method: str, body: dict[str, Any]) -> None:
        path = self.path.split("?")[0].removeprefix("/bigquery/v2")
        try:
            status, answer = self.service.answer(method, path, body)
        except LostError:
            self.close_connection = True
            self.connection.close()
            return
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its name in the base
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    handler = type("BoundHandler", (Handler,), {"service": made})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    made.endpoint = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


class Client:
    """The arguments that all calls begin with."""

    def __init__(self, service: Service, **settings: Any) -> None:
        endpoint: str = service.endpoint  # type: ignore[attr-defined]
        values: dict[str, Any] = {
            "project": "p",
            "credentials": "anonymous",
            "api_endpoint": endpoint,
            "request_timeout_s": 5.0,
            "retry_deadline_s": 5.0,
        } | settings
        self.settings = BigQuerySettings(**values)
        self.connection = Connection(self.settings)

    def run(self, statement: str = "SELECT 1", **options: Any) -> jobs.JobResult:
        options.setdefault("purpose", "test")
        return jobs.run(self.connection, self.settings, statement, **options)

    def materialize(self, statement: str = "SELECT 1", **options: Any) -> jobs.JobResult:
        return jobs.materialize(self.connection, self.settings, statement, **options)

    def describe(self, table: str) -> jobs.TableInfo:
        return jobs.describe(self.connection, self.settings, table)


@pytest.fixture
def client(service: Service) -> Iterator[Callable[..., Client]]:
    made: list[Client] = []

    def make(**settings: Any) -> Client:
        made.append(Client(service, **settings))
        return made[-1]

    yield make
    for one in made:
        one.connection.close()


def once(answer: Answer | Exception, method: str, fragment: str) -> Callable[..., Answer | None]:
    """What answers the first request of this kind, and no other."""
    left = [answer]

    def hook(asked: str, path: str, body: dict[str, Any]) -> Answer | None:
        is_dry_run = bool(body.get("configuration", {}).get("dryRun"))
        if left and asked == method and fragment in path and not is_dry_run:
            given = left.pop()
            if isinstance(given, Exception):
                raise given
            return given
        return None

    return hook


# Running.


def test_a_job_carries_our_labels_and_every_limit(
    service: Service, client: Callable[..., Client]
) -> None:
    labels = (("team", "search"),)
    result = client(labels=labels, max_bytes_billed=5_000, job_timeout_s=90.0).run(
        "SELECT 2", purpose="count"
    )
    (sent,) = service.inserted()
    assert sent["configuration"]["labels"] == {"team": "search", "faucetml": "count"}
    assert sent["configuration"]["jobTimeoutMs"] == "90000"
    assert sent["configuration"]["query"]["maximumBytesBilled"] == "5000"
    assert sent["configuration"]["query"]["useLegacySql"] is False
    assert sent["configuration"]["query"]["query"] == "SELECT 2"
    assert result.job_id == sent["jobReference"]["jobId"]
    assert result.job_id.startswith("faucetml_count_")
    assert str(result.destination) == "p._a.anon0"
    assert (result.bytes_billed, result.bytes_processed) == (10_485_760, 1_000)
    assert result.started_ms == STARTED_MS + 5
    assert (result.location, result.cache_hit, result.rows) == ("US", False, 0)
    dry = [body for _, _, body in service.requests if body.get("configuration", {}).get("dryRun")]
    assert dry[0]["configuration"]["labels"]["team"] == "search"


def test_a_job_whose_answer_was_lost_is_found_again_and_runs_once(
    service: Service, client: Callable[..., Client]
) -> None:
    service.after = once(LostError(), "POST", "/jobs")
    result = client().run()
    assert list(service.jobs) == [result.job_id]
    ids = [body["jobReference"]["jobId"] for body in service.inserted()]
    assert ids == [result.job_id] * 2


def test_a_job_that_is_not_known_yet_is_looked_for_again(
    service: Service, client: Callable[..., Client]
) -> None:
    service.before = once(refusal(404, "notFound", "Not found: Job"), "GET", "/jobs/")
    client().run()
    assert len(service.jobs) == 1


@pytest.mark.parametrize(
    ("method", "fragment"), [("POST", "/jobs"), ("GET", "/jobs/"), ("GET", "/queries/")]
)
def test_a_service_that_is_unavailable_for_a_moment_is_asked_again(
    service: Service, client: Callable[..., Client], method: str, fragment: str
) -> None:
    service.before = once(refusal(503, "backendError", "come back"), method, fragment)
    client().run()
    assert len(service.jobs) == 1


def test_a_job_that_fails_for_a_passing_reason_runs_again_under_another_id(
    service: Service, client: Callable[..., Client]
) -> None:
    service.failures = [{"reason": "backendError", "message": "out of luck"}]
    result = client().run()
    assert len(service.jobs) == 2
    assert list(service.jobs)[1] == result.job_id


def test_a_job_with_a_mistake_fails_at_once_with_bigquery_s_message_and_place(
    service: Service, client: Callable[..., Client]
) -> None:
    message = "Unrecognized name: agee; Did you mean age? at [1:8]"
    service.failures = [{"reason": "invalidQuery", "message": message, "location": "query"}]
    with pytest.raises(SourceReadError) as error:
        client().run(resource="p.d.view")
    assert error.value.message.count(message) == 1
    assert "p.d.view" in error.value.message
    assert len(service.jobs) == 1


def test_what_a_query_is_billed_for_is_known_before_it_runs(
    service: Service, client: Callable[..., Client]
) -> None:
    service.bytes = 7_000_000
    with pytest.raises(BudgetError) as error:
        client(max_bytes_billed=6_999_999).run(resource="p.d.t")
    for words in ("p.d.t", "7,000,000", "6,999,999", "max_bytes_billed", "fewer columns"):
        assert words in error.value.message
    assert service.inserted() == []
    client(max_bytes_billed=7_000_000).run()
    with pytest.raises(BudgetError, match="6,000,000"):
        client(max_bytes_billed=7_000_000).run(max_bytes_billed=6_000_000)


@pytest.mark.parametrize(
    "failure",
    [
        {"reason": "bytesBilledLimitExceeded", "message": "Query exceeded limit"},
        {"reason": "invalid", "message": "Query exceeded limit for bytes billed: 5000."},
    ],
)
def test_a_job_that_bigquery_finds_too_expensive_says_so_in_the_same_words(
    service: Service, client: Callable[..., Client], failure: dict[str, str]
) -> None:
    service.failures = [failure]
    with pytest.raises(BudgetError, match="max_bytes_billed"):
        client(max_bytes_billed=5_000).run()
    assert len(service.jobs) == 1


@pytest.mark.parametrize("statement", ["SCRIPT", "DELETE", "CREATE_TABLE_AS_SELECT"])
def test_what_is_no_select_does_not_run(
    service: Service, client: Callable[..., Client], statement: str
) -> None:
    service.statement = statement
    with pytest.raises(SpecError, match=statement):
        client().run()
    assert service.inserted() == []


def test_who_may_not_run_jobs_is_told_apart_from_who_may_not_read(
    service: Service, client: Callable[..., Client]
) -> None:
    message = "Access Denied: Project p: User does not have bigquery.jobs.create permission"
    one = client()
    service.before = lambda method, path, _: (
        refusal(403, "accessDenied", message) if path.endswith("/jobs") else None
    )
    calls: list[Callable[[], object]] = [
        one.run,
        one.materialize,
        lambda: jobs.server_now_ms(one.connection, one.settings),
        lambda: jobs.count_splits(one.connection, one.settings, "`p.d.t` AS x", SPLIT),
    ]
    for call in calls:
        with pytest.raises(jobs.JobsForbidden) as error:
            call()
        assert isinstance(error.value.explained, SourceForbidden)
        assert "bigquery.jobs.create" in error.value.explained.message
    service.before = lambda method, path, _: refusal(403, "accessDenied", "no bigquery.tables.get")
    with pytest.raises(SourceForbidden):
        one.run()


def test_a_job_that_does_not_end_is_cancelled(
    service: Service, client: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_GRACE_S", 0.1)
    service.polls = 1_000_000
    began = time.monotonic()
    with pytest.raises(SourceReadError, match="job_timeout"):
        client(job_timeout_s=0.2).run()
    assert time.monotonic() - began < 5
    assert service.cancelled == list(service.jobs)
    assert len(service.jobs) == 1


def test_a_job_that_the_service_stopped_is_not_run_again(
    service: Service, client: Callable[..., Client]
) -> None:
    service.failures = [{"reason": "stopped", "message": "Job timed out after 90 s"}]
    with pytest.raises(SourceReadError, match=r"Job timed out after 90 s.*job_timeout"):
        client().run()
    assert len(service.jobs) == 1


def test_a_job_runs_where_its_tables_are(service: Service, client: Callable[..., Client]) -> None:
    assert client().run(location="EU").location == "EU"
    (sent,) = service.inserted()
    assert sent["jobReference"]["location"] == "EU"


# The clock.


def test_the_time_is_the_service_s_and_costs_nothing(
    service: Service, client: Callable[..., Client]
) -> None:
    one = client()
    assert jobs.server_now_ms(one.connection, one.settings) == STARTED_MS
    assert service.inserted() == []


def test_where_dry_runs_have_no_time_a_job_tells_it(
    service: Service, client: Callable[..., Client]
) -> None:
    service.dry_runs_have_times = False
    one = client()
    assert jobs.server_now_ms(one.connection, one.settings) == STARTED_MS + 5
    (sent,) = service.inserted()
    assert sent["configuration"]["query"]["useQueryCache"] is False


def test_a_dry_run_tells_the_schema_and_the_tables_that_are_read(
    service: Service, client: Callable[..., Client]
) -> None:
    one = client()
    tried = jobs.dry_run(one.connection, one.settings, "SELECT 1")
    assert [field.name for field in tried.schema] == ["train_rows", "x"]
    assert tried.tables == ("p.d.t",)
    assert tried.bytes_processed == 1_000
    assert (tried.statement, tried.created_ms) == ("SELECT", STARTED_MS)


# Counting.


def test_the_rows_of_each_split_are_counted(
    service: Service, client: Callable[..., Client]
) -> None:
    service.rows = [["640", "160"]]
    one = client()
    rows = sql.rows_of(sql.TableName("p", "d", "t"), 17)
    counted = jobs.count_splits(
        one.connection, one.settings, rows, SPLIT, hash_column="s.h", where="x > 1"
    )
    assert counted.rows == {"train": 640, "eval": 160}
    assert counted.job.bytes_billed == 10_485_760
    (sent,) = service.inserted()
    text = sent["configuration"]["query"]["query"]
    assert text == sql.count_splits(rows, "s.h", SPLIT, where="x > 1")


def test_the_rows_of_each_chunk_are_counted(
    service: Service, client: Callable[..., Client]
) -> None:
    service.columns = ["chunk", "train_rows", "eval_rows"]
    service.rows = [["0", "6", "2"], ["3", "5", "0"]]
    one = client()
    table = sql.TableName("p", "d", "t")
    counted = jobs.count_chunks(one.connection, one.settings, table, SPLIT, hash_column=sql.BUCKET)
    assert counted.rows == {0: {"train": 6, "eval": 2}, 3: {"train": 5, "eval": 0}}


# Writing.


def test_a_query_s_rows_go_into_an_anonymous_table(
    service: Service, client: Callable[..., Client]
) -> None:
    assert str(client(result_dataset="results").materialize().destination) == "p._a.anon0"
    assert service.tables == {}


def test_a_table_of_ours_expires_by_the_service_s_clock_before_it_has_rows(
    service: Service, client: Callable[..., Client]
) -> None:
    one = client(result_dataset="p.results", result_expiry_s=60.0, labels=(("team", "x"),))
    result = one.materialize(chunks=4)
    ((name, table),) = service.tables.items()
    assert str(result.destination) == name
    assert re.fullmatch(r"p\.results\.faucetml_[0-9a-f]{16}_[0-9a-f]{12}", name)
    assert table["expirationTime"] == str(STARTED_MS + 60_000)
    assert table["labels"] == {"team": "x", "faucetml": "chunk"}
    assert [field["name"] for field in table["schema"]["fields"]] == ["train_rows", "x"]
    (sent,) = service.inserted()
    query = sent["configuration"]["query"]
    assert query["destinationTable"]["tableId"] == result.destination.table
    assert query["createDisposition"] == "CREATE_NEVER"
    assert query["writeDisposition"] == "WRITE_EMPTY"
    order = [path for method, path, _ in service.requests if method == "POST"]
    assert order.index("/projects/p/datasets/results/tables") < len(order) - 1


def test_two_writes_of_one_query_have_names_that_begin_alike(
    service: Service, client: Callable[..., Client]
) -> None:
    one = client(result_dataset="results")
    first, again = (one.materialize(chunks=4).destination.table for _ in range(2))
    other = one.materialize("SELECT 2", chunks=4).destination.table
    assert first != again
    assert first[:25] == again[:25] != other[:25]


def test_chunks_are_partitions(service: Service, client: Callable[..., Client]) -> None:
    client(result_dataset="results").materialize(chunks=16)
    (table,) = service.tables.values()
    expected = {"field": "_faucet_chunk", "range": {"start": "0", "end": "16", "interval": "1"}}
    assert as_text(table["rangePartitioning"]) == expected
    (sent,) = service.inserted()
    assert as_text(sent["configuration"]["query"]["rangePartitioning"]) == expected


def as_text(partitioning: dict[str, Any]) -> dict[str, Any]:
    return partitioning | {"range": {k: str(v) for k, v in partitioning["range"].items()}}


def test_a_table_whose_making_was_answered_by_nobody_is_used(
    service: Service, client: Callable[..., Client]
) -> None:
    service.after = once(LostError(), "POST", "/tables")
    client(result_dataset="results").materialize(chunks=4)
    assert len(service.tables) == 1
    assert len(service.jobs) == 1


def test_a_table_of_ours_needs_a_dataset(service: Service, client: Callable[..., Client]) -> None:
    with pytest.raises(ConfigError, match="result_dataset"):
        client().materialize(chunks=4)
    assert service.inserted() == []


def test_a_dataset_for_results_that_is_missing_is_a_setting_to_correct(
    service: Service, client: Callable[..., Client]
) -> None:
    with pytest.raises(ConfigError, match=r"result_dataset names p\.nowhere"):
        client(result_dataset="nowhere").materialize(chunks=4)
    assert service.inserted() == []


def test_a_dataset_for_results_that_is_elsewhere_is_a_setting_to_correct(
    service: Service, client: Callable[..., Client]
) -> None:
    message = "Not found: Dataset p:results was not found in location EU"
    service.failures = [{"reason": "notFound", "message": message}]
    with pytest.raises(ConfigError, match=r"result_dataset names p\.results.*not in EU"):
        client(result_dataset="results").materialize(chunks=4, location="EU")


def test_a_large_result_goes_into_the_dataset_for_results_at_once(
    service: Service, client: Callable[..., Client]
) -> None:
    service.bytes = 10_000_000_001
    client(result_dataset="results").materialize()
    assert len(service.tables) == len(service.jobs) == 1
    client().materialize()
    assert len(service.tables) == 1


def test_a_result_that_turns_out_too_large_goes_into_the_dataset_for_results(
    service: Service, client: Callable[..., Client]
) -> None:
    failure = {"reason": "responseTooLarge", "message": "Response too large to return"}
    service.failures = [failure]
    result = client(result_dataset="results").materialize()
    assert [str(result.destination)] == list(service.tables)
    service.failures = [failure]
    with pytest.raises(ConfigError, match=r"10 GB.*result_dataset"):
        client().materialize()


# Looking.


def table_of(**more: Any) -> dict[str, Any]:
    return {
        "tableReference": {"projectId": "p", "datasetId": "d", "tableId": "t"},
        "type": "TABLE",
        "schema": {
            "fields": [
                {"name": "id", "type": "INTEGER"},
                {
                    "name": "features",
                    "type": "RECORD",
                    "fields": [
                        {"name": "age", "type": "FLOAT"},
                        {"name": "tags", "type": "STRING", "mode": "REPEATED"},
                        {
                            "name": "home",
                            "type": "RECORD",
                            "fields": [{"name": "floor", "type": "INTEGER"}],
                        },
                    ],
                },
                {
                    "name": "visits",
                    "type": "RECORD",
                    "mode": "REPEATED",
                    "fields": [{"name": "at", "type": "TIMESTAMP"}],
                },
            ]
        },
        "numRows": "7",
        "numBytes": "700",
        "creationTime": "1000",
        "lastModifiedTime": "2000",
        "location": "EU",
    } | more


def test_a_table_is_described(service: Service, client: Callable[..., Client]) -> None:
    service.tables["p.d.t"] = table_of(expirationTime="9000")
    info = client().describe("d.t")
    assert (info.table, info.kind, info.location) == ("p.d.t", "TABLE", "EU")
    assert (info.rows, info.nbytes) == (7, 700)
    assert (info.created_ms, info.modified_ms, info.expires_ms) == (1_000, 2_000, 9_000)
    assert info.partitioning is None
    assert info.readable
    paths = [path for path, _ in jobs.leaves(info.schema)]
    assert paths == ["id", "features.age", "features.tags", "features.home.floor", "visits"]


@pytest.mark.parametrize(("kind", "readable"), [("VIEW", False), ("EXTERNAL", False)])
def test_a_view_cannot_be_read_without_a_query(
    service: Service, client: Callable[..., Client], kind: str, readable: bool
) -> None:
    service.tables["p.d.t"] = table_of(type=kind)
    assert client().describe("p.d.t").readable is readable


@pytest.mark.parametrize(
    ("more", "partitioning"),
    [
        ({"timePartitioning": {"type": "DAY"}}, jobs.Partitioning("DAY", None, False)),
        (
            {"timePartitioning": {"type": "MONTH", "field": "day"}, "requirePartitionFilter": True},
            jobs.Partitioning("MONTH", "day", True),
        ),
        (
            {
                "rangePartitioning": {
                    "field": "id",
                    "range": {"start": "0", "end": "9", "interval": "1"},
                }
            },
            jobs.Partitioning("RANGE", "id", False),
        ),
    ],
)
def test_a_table_s_partitioning_is_known(
    service: Service,
    client: Callable[..., Client],
    more: dict[str, Any],
    partitioning: jobs.Partitioning,
) -> None:
    service.tables["p.d.t"] = table_of(**more)
    assert client().describe("p.d.t").partitioning == partitioning


def test_a_missing_table_is_named_with_near_names(
    service: Service, client: Callable[..., Client]
) -> None:
    service.tables = {"p.d.USERS_2020": table_of(), "p.d.orders": table_of()}
    with pytest.raises(SourceNotFound, match=r"p\.d\.user_2020.*Did you mean USERS_2020\?"):
        client().describe("d.user_2020")


def test_a_missing_table_is_an_error_even_where_tables_may_not_be_listed(
    service: Service, client: Callable[..., Client]
) -> None:
    service.before = lambda method, path, _: (
        refusal(403, "accessDenied", "no bigquery.tables.list")
        if path.endswith("/tables")
        else None
    )
    with pytest.raises(SourceNotFound, match=r"p\.d\.users"):
        client().describe("d.users")
    with pytest.raises(SourceNotFound, match=r"p\.nowhere\.users"):
        client().describe("nowhere.users")


def test_an_empty_dataset_says_that_it_is(service: Service, client: Callable[..., Client]) -> None:
    with pytest.raises(SourceNotFound, match=r"p\.d has no tables"):
        client().describe("d.users")


def test_a_table_that_may_not_be_looked_at_is_forbidden(
    service: Service, client: Callable[..., Client]
) -> None:
    message = "Access Denied: Table p:d.t: Permission bigquery.tables.get denied"
    service.before = lambda *_: refusal(403, "accessDenied", message)
    with pytest.raises(SourceForbidden, match=r"bigquery\.tables\.get"):
        client().describe("d.t")
