"""Query jobs: each runs in a thread of its own, and its result becomes a table.

A job that fails is a job: clients are told of its error when they ask for it, or for its rows.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tests.bigquery_server.catalog import Catalog, Dataset, TableRef, now_ms
from tests.bigquery_server.engine import Engine, Interrupt, Query
from tests.bigquery_server.errors import (
    ApiError,
    access_denied,
    already_exists,
    invalid,
    invalid_query,
    not_found,
)
from tests.bigquery_server.faults import FaultBook
from tests.bigquery_server.schema import fields_json
from tests.bigquery_server.sql import Translation
from tests.bigquery_server.stats import Stats

_MIB = 1 << 20
_LEAST_BILLED = 10 * _MIB
_ANONYMOUS = "_anonymous_results"
_ANONYMOUS_LIFE_MS = 24 * 3600 * 1000
_MOST_PARTITIONS = 4_000


@dataclass
class Job:
    """A query job; `done` is set when its fields change no more."""

    project: str
    id: str
    location: str
    configuration: dict[str, Any]
    created_ms: int
    started_ms: int = 0
    ended_ms: int = 0
    bytes_processed: int = 0
    bytes_billed: int = 0
    destination: TableRef | None = None
    schema: pa.Schema | None = None
    rows: pa.Table | None = None
    referenced: list[TableRef] = field(default_factory=list)
    error: ApiError | None = None
    interrupt: Interrupt = field(default_factory=Interrupt)
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def query(self) -> dict[str, Any]:
        made: dict[str, Any] = self.configuration["query"]
        return made

    @property
    def is_dry(self) -> bool:
        return bool(self.configuration.get("dryRun"))

    def json(self) -> dict[str, Any]:
        """REST's Job."""
        status: dict[str, Any] = {"state": "DONE" if self.done.is_set() else "RUNNING"}
        if self.done.is_set() and self.error is not None:
            made = {"reason": self.error.reason, "message": self.error.message}
            status |= {"errorResult": made, "errors": [made]}
        configuration = {**self.configuration, "jobType": "QUERY"}
        if self.destination is not None:
            configuration["query"] = {**self.query, "destinationTable": self.destination.json()}
        return {
            "kind": "bigquery#job",
            "etag": uuid.uuid4().hex,
            "id": f"{self.project}:{self.location}.{self.id}",
            "selfLink": "",
            "user_email": "somebody@example.com",
            "jobReference": self.reference(),
            "configuration": configuration,
            "status": status,
            "statistics": self._statistics(),
        }

    def reference(self) -> dict[str, str]:
        return {"projectId": self.project, "jobId": self.id, "location": self.location}

    def _statistics(self) -> dict[str, Any]:
        made: dict[str, Any] = {"creationTime": str(self.created_ms)}
        if self.started_ms:
            made["startTime"] = str(self.started_ms)
        if not self.done.is_set():
            return made
        made |= {"endTime": str(self.ended_ms), "totalBytesProcessed": str(self.bytes_processed)}
        made["query"] = {
            "totalBytesProcessed": str(self.bytes_processed),
            "totalBytesBilled": str(self.bytes_billed),
            "cacheHit": False,
            "statementType": "SELECT",
            "referencedTables": [ref.json() for ref in self.referenced],
        }
        if self.schema is not None:
            made["query"]["schema"] = {"fields": fields_json(self.schema)}
        return made


class Jobs:
    """All jobs. Any thread."""

    def __init__(self, catalog: Catalog, engine: Engine, faults: FaultBook, stats: Stats) -> None:
        self._catalog = catalog
        self._engine = engine
        self._faults = faults
        self._stats = stats
        self._lock = threading.Lock()
        self._jobs: dict[tuple[str, str], Job] = {}

    def insert(self, project: str, body: Mapping[str, Any], location: str) -> Job:
        """Makes a job, which is still to be started; a dry run is done when this returns.

        Raises:
            ApiError: there may be no such job, or it is a dry run and fails.
        """
        if self._faults.is_denied("bigquery.jobs.create"):
            raise access_denied(
                f"Project {project}: User does not have bigquery.jobs.create permission in "
                f"project {project}."
            )
        configuration = dict(body.get("configuration") or {})
        query = configuration.get("query")
        if query is None:
            raise invalid("Not supported by the local server: jobs that are no queries")
        if query.get("useLegacySql", True):
            raise invalid("Not supported by the local server: legacy SQL")
        job = Job(
            project,
            (body.get("jobReference") or {}).get("jobId") or f"job_{uuid.uuid4().hex}",
            (body.get("jobReference") or {}).get("location") or location,
            configuration,
            now_ms(),
        )
        if job.is_dry:
            self._run(job)
            if job.error is not None:
                raise job.error
            return job
        with self._lock:
            if (project, job.id) in self._jobs:
                raise already_exists(f"Job {project}:{location}.{job.id}")
            self._jobs[project, job.id] = job
        return job

    def start(self, job: Job) -> None:
        """Runs a job that is no dry run."""
        threading.Thread(target=self._run, args=(job,), name=f"job {job.id}", daemon=True).start()

    def job(self, project: str, job_id: str) -> Job:
        with self._lock:
            found = self._jobs.get((project, job_id))
        if found is None:
            raise not_found(f"Job {project}:{job_id}")
        return found

    def jobs(self, project: str) -> list[Job]:
        with self._lock:
            return [job for (owner, _), job in reversed(self._jobs.items()) if owner == project]

    def _run(self, job: Job) -> None:
        job.started_ms = now_ms()
        sql = job.query.get("query", "")
        try:
            self._answer(job, sql)
        except ApiError as error:
            job.error = error
        except Exception as error:
            job.error = ApiError("INTERNAL", "internalError", f"local server: {error!r}")
            raise
        finally:
            job.ended_ms = now_ms()
            self._stats.job(
                id=job.id,
                project=job.project,
                sql=sql,
                dry=job.is_dry,
                labels=job.configuration.get("labels") or {},
                destination=job.destination.dotted if job.destination else None,
                bytes_processed=job.bytes_processed,
                bytes_billed=job.bytes_billed,
                maximum_bytes_billed=job.query.get("maximumBytesBilled"),
                rows=None if job.rows is None else job.rows.num_rows,
                error=None if job.error is None else job.error.reason,
            )
            job.done.set()

    def _answer(self, job: Job, sql: str) -> None:
        default = job.query.get("defaultDataset")
        query = Query(
            sql,
            job.project,
            default and (default.get("projectId", job.project), default["datasetId"]),
            job.query.get("queryParameters") or (),
        )
        translation = self._engine.translate(query)
        job.referenced = list(translation.bytes_by_table)
        job.bytes_processed = sum(translation.bytes_by_table.values())
        if job.is_dry:
            job.schema = self._engine.schema(query, translation).schema
            return
        billed = sum(_billed(nbytes) for nbytes in translation.bytes_by_table.values())
        most = job.query.get("maximumBytesBilled")
        if most is not None and billed > int(most):
            raise ApiError(
                "INVALID_ARGUMENT",
                "bytesBilledLimitExceeded",
                f"Query exceeded limit for bytes billed: {most}. {billed} or higher required.",
            )
        rows = self._engine.answer(query, translation, job.interrupt)
        rows = self._miscounted(rows, translation)
        job.schema = rows.schema
        self._write(job, rows)
        job.bytes_billed = billed
        job.rows = rows

    def _miscounted(self, rows: pa.Table, translation: Translation) -> pa.Table:
        wrong = self._faults.current.count_error
        if wrong:
            for place in translation.count_columns:
                column = pc.add(rows.column(place), pa.scalar(wrong, pa.int64()))
                rows = rows.set_column(place, rows.schema.field(place), column)
        return rows

    def _write(self, job: Job, rows: pa.Table) -> None:
        wanted = job.query.get("destinationTable")
        if wanted is None:
            dataset = Dataset(job.project, _ANONYMOUS, job.location, now_ms())
            self._catalog.add_dataset(dataset, exists_ok=True)
            ref = TableRef(job.project, _ANONYMOUS, f"anon{uuid.uuid4().hex}")
            expires_ms = now_ms() + _ANONYMOUS_LIFE_MS
            self._catalog.load(ref, rows, "TABLE", job.location, expires_ms=expires_ms)
            job.destination = ref
            return
        ref = TableRef.of({"projectId": job.project} | wanted)
        if self._faults.is_denied("bigquery.tables.create"):
            raise access_denied(
                f"Dataset {ref.project}:{ref.dataset}: Permission bigquery.tables.create denied on "
                f"dataset {ref.project}:{ref.dataset} (or it may not exist)."
            )
        self._catalog.dataset(ref.project, ref.dataset)
        partitioning = job.query.get("rangePartitioning")
        if partitioning:
            _check_partitions(rows, partitioning)
        found = self._catalog.find(ref)
        disposition = job.query.get("writeDisposition") or "WRITE_EMPTY"
        if found is None and job.query.get("createDisposition") == "CREATE_NEVER":
            raise not_found(f"Table {ref}")
        if found is not None and found.versions and found.last.rows.num_rows:
            if disposition == "WRITE_EMPTY":
                raise already_exists(f"Table {ref}")
            if disposition == "WRITE_APPEND":
                if found.last.rows.schema.names != rows.schema.names:
                    raise invalid("Provided Schema does not match Table " + str(ref))
                rows = pa.concat_tables([found.last.rows, rows.cast(found.last.rows.schema)])
        fields = {"range_partitioning": partitioning} if partitioning else {}
        time_partitioning = job.query.get("timePartitioning")
        if time_partitioning:
            if "field" not in time_partitioning:
                raise invalid("Not supported by the local server: destinations by ingestion time")
            fields["time_partitioning"] = time_partitioning
        self._catalog.load(ref, rows, "TABLE", job.location, **fields)
        job.destination = ref


def _billed(nbytes: int) -> int:
    """What reading a table costs: whole megabytes, and ten at least, as documented."""
    return max(_LEAST_BILLED, -(-nbytes // _MIB) * _MIB)


def _check_partitions(rows: pa.Table, partitioning: Mapping[str, Any]) -> None:
    name, span = partitioning["field"], partitioning["range"]
    if name not in rows.column_names or rows.schema.field(name).type != pa.int64():
        raise invalid_query(
            f"The field specified for partitioning cannot be found in the schema or is of the "
            f"wrong type: {name}"
        )
    start, end, interval = (int(span[key]) for key in ("start", "end", "interval"))
    if interval <= 0 or -(-(end - start) // interval) > 10_000:
        raise invalid("A table may have 10000 partitions at most")
    values = rows.column(name).drop_null().to_numpy()
    inside = values[(values >= start) & (values < end)]
    produced = len(np.unique((inside - start) // interval))
    if produced > _MOST_PARTITIONS:
        raise ApiError(
            "INVALID_ARGUMENT",
            "invalidQuery",
            f"Too many partitions produced by query, allowed {_MOST_PARTITIONS}, query produces at "
            f"least {produced} partitions",
        )
