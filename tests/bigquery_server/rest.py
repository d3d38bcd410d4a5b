"""BigQuery v2 over HTTP, as far as google-cloud-bigquery asks: datasets, tables, query jobs.

Paths are at https://cloud.google.com/bigquery/docs/reference/rest. `_ROUTES` at the end says which
method answers which.
"""

from __future__ import annotations

import functools
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tests.bigquery_server.catalog import PARTITION_TYPE, Catalog, Dataset, Table, TableRef, now_ms
from tests.bigquery_server.engine import Engine, Query
from tests.bigquery_server.errors import ApiError, access_denied, invalid
from tests.bigquery_server.faults import FaultBook
from tests.bigquery_server.jobs import Job, Jobs
from tests.bigquery_server.rows import rows_json
from tests.bigquery_server.schema import fields_json, from_json
from tests.bigquery_server.settings import Settings

Json = dict[str, Any]

_PAGE_ROWS = 10_000
_LONGEST_WAIT_S = 10.0
_LONG_TERM_MS = 90 * 24 * 3600 * 1000


@dataclass(frozen=True)
class Request:
    """One request; `query` are the parameters behind the path's question mark."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Json


@dataclass
class Rest:
    """Answers requests. `settings` may be replaced at any time."""

    catalog: Catalog
    engine: Engine
    jobs: Jobs
    faults: FaultBook
    settings: Settings

    def route(self, request: Request) -> tuple[str, Callable[[], Json]]:
        """The name of the method that is asked for, and how to answer.

        Raises:
            ApiError: there is no such path.
        """
        for method, pattern, name in _ROUTES:
            found = re.fullmatch(pattern, request.path)
            if method == request.method and found:
                return name, functools.partial(_METHODS[name], self, request, *found.groups())
        raise ApiError("NOT_FOUND", "notFound", f"Not found: {request.method} {request.path}")

    def list_projects(self, request: Request) -> Json:
        return {"kind": "bigquery#projectList", "projects": [], "totalItems": 0}

    def list_datasets(self, request: Request, project: str) -> Json:
        return {
            "kind": "bigquery#datasetList",
            "datasets": [_dataset_json(dataset) for dataset in self.catalog.datasets(project)],
        }

    def insert_dataset(self, request: Request, project: str) -> Json:
        body = request.body
        dataset = Dataset(
            project,
            body["datasetReference"]["datasetId"],
            body.get("location") or self.settings.location,
            now_ms(),
        )
        _change_dataset(dataset, body)
        return _dataset_json(self.catalog.add_dataset(dataset))

    def get_dataset(self, request: Request, project: str, dataset: str) -> Json:
        return _dataset_json(self.catalog.dataset(project, dataset))

    def patch_dataset(self, request: Request, project: str, dataset: str) -> Json:
        found = self.catalog.dataset(project, dataset)
        _change_dataset(found, request.body)
        return _dataset_json(found)

    def delete_dataset(self, request: Request, project: str, dataset: str) -> Json:
        with_tables = request.query.get("deleteContents") == "true"
        self.catalog.remove_dataset(project, dataset, with_tables)
        return {}

    def list_tables(self, request: Request, project: str, dataset: str) -> Json:
        self.catalog.dataset(project, dataset)
        tables = self.catalog.tables(project, dataset)
        return {
            "kind": "bigquery#tableList",
            "tables": [
                {
                    "kind": "bigquery#table",
                    "id": str(table.ref),
                    "tableReference": table.ref.json(),
                    "type": table.kind,
                    "creationTime": str(table.created_ms),
                }
                for table in tables
            ],
            "totalItems": len(tables),
        }

    def insert_table(self, request: Request, project: str, dataset: str) -> Json:
        body = request.body
        ref = TableRef(project, dataset, body["tableReference"]["tableId"])
        if self.faults.is_denied("bigquery.tables.create"):
            raise access_denied(
                f"Dataset {project}:{dataset}: Permission bigquery.tables.create denied on dataset "
                f"{project}:{dataset} (or it may not exist)."
            )
        view = body.get("view")
        if view:
            query = Query(view["query"], project)
            schema_rows = self.engine.schema(query, self.engine.translate(query))
            table = self.catalog.create(ref, "VIEW", self.settings.location)
            table.view_sql = view["query"]
        else:
            fields = (body.get("schema") or {}).get("fields") or []
            schema_rows = from_json(fields).empty_table()
            table = self.catalog.create(ref, "TABLE", self.settings.location)
        _change_table(table, body)
        times = None
        if table.is_ingestion_partitioned:
            times = pa.chunked_array([], type=PARTITION_TYPE)
        table.add_version(schema_rows, times, now_ms())
        return self._table_json(table)

    def get_table(self, request: Request, project: str, dataset: str, table: str) -> Json:
        ref = TableRef(project, dataset, table)
        if self.faults.is_denied("bigquery.tables.get"):
            raise access_denied(
                f"Table {ref}: Permission bigquery.tables.get denied on table {ref} (or it may not "
                "exist)."
            )
        self.catalog.dataset(project, dataset)
        return self._table_json(self.catalog.table(ref))

    def patch_table(self, request: Request, project: str, dataset: str, table: str) -> Json:
        found = self.catalog.table(TableRef(project, dataset, table))
        _change_table(found, request.body)
        found.touch(now_ms())
        return self._table_json(found)

    def delete_table(self, request: Request, project: str, dataset: str, table: str) -> Json:
        self.catalog.remove(TableRef(project, dataset, table))
        return {}

    def list_rows(self, request: Request, project: str, dataset: str, table: str) -> Json:
        found = self.catalog.table(TableRef(project, dataset, table))
        if self.faults.is_denied("bigquery.tables.getData"):
            raise access_denied(
                f"Table {found.ref}: Permission bigquery.tables.getData denied on table "
                f"{found.ref} (or it may not exist)."
            )
        if found.view_sql is not None:
            raise invalid(f"Cannot list a table of type VIEW: {found.ref}")
        rows = found.last.rows
        fields = request.query.get("selectedFields")
        if fields:
            rows = rows.select([name for name in rows.column_names if name in fields.split(",")])
        made = _page(rows, request.query)
        return {"kind": "bigquery#tableDataList", "totalRows": str(rows.num_rows), **made}

    def list_jobs(self, request: Request, project: str) -> Json:
        return {
            "kind": "bigquery#jobList",
            "jobs": [job.json() for job in self.jobs.jobs(project)],
        }

    def insert_job(self, request: Request, project: str) -> Json:
        job = self.jobs.insert(project, request.body, self.settings.location)
        made = job.json()  # before it starts: what clients are told must not be a matter of luck
        if not job.is_dry:
            self.jobs.start(job)
        return made

    def get_job(self, request: Request, project: str, job: str) -> Json:
        return self.jobs.job(project, job).json()

    def cancel_job(self, request: Request, project: str, job: str) -> Json:
        found = self.jobs.job(project, job)
        found.interrupt.stop()
        return {"kind": "bigquery#jobCancelResponse", "job": found.json()}

    def get_query_results(self, request: Request, project: str, job: str) -> Json:
        return _results(self.jobs.job(project, job), request.query, request.query)

    def query(self, request: Request, project: str) -> Json:
        body = request.body
        known = ("query", "defaultDataset", "queryParameters", "parameterMode", "useLegacySql")
        query = {name: body[name] for name in (*known, "maximumBytesBilled") if name in body}
        configuration = {
            "query": query,
            "dryRun": bool(body.get("dryRun")),
            "labels": body.get("labels") or {},
        }
        reference = {"location": body.get("location")}
        job = self.jobs.insert(
            project,
            {"configuration": configuration, "jobReference": reference},
            self.settings.location,
        )
        if not job.is_dry:
            self.jobs.start(job)
        options: dict[str, str] = {
            name: str(body[name]) for name in ("maxResults", "timeoutMs") if name in body
        }
        int_timestamps = str((body.get("formatOptions") or {}).get("useInt64Timestamp", ""))
        return _results(job, options, {"formatOptions.useInt64Timestamp": int_timestamps.lower()})

    def _table_json(self, table: Table) -> Json:
        last, ref = table.last, table.ref
        made: Json = {
            "kind": "bigquery#table",
            "etag": f'"{table.changes}.{table.modified_ms}"',
            "id": str(ref),
            "tableReference": ref.json(),
            "type": table.kind,
            "location": table.location,
            "labels": table.labels,
            "creationTime": str(table.created_ms),
            "lastModifiedTime": str(table.modified_ms),
            "schema": {"fields": fields_json(last.rows.schema)},
        }
        if table.kind == "TABLE":
            stored = last.rows.num_rows - table.streaming_rows
            nbytes = last.nbytes
            is_old = now_ms() - table.modified_ms > _LONG_TERM_MS
            made |= {
                "numRows": str(stored),
                "numBytes": str(nbytes),
                "numLongTermBytes": str(nbytes if is_old else 0),
            }
            if table.streaming_rows:
                made["streamingBuffer"] = {
                    "estimatedRows": str(table.streaming_rows),
                    "estimatedBytes": str(nbytes * table.streaming_rows // last.rows.num_rows),
                    "oldestEntryTime": str(last.time_ms),
                }
        optional = {
            "description": table.description,
            "expirationTime": table.expires_ms and str(table.expires_ms),
            "timePartitioning": table.time_partitioning,
            "rangePartitioning": table.range_partitioning,
            "view": table.view_sql and {"query": table.view_sql, "useLegacySql": False},
            "externalDataConfiguration": {"sourceFormat": "PARQUET", "sourceUris": ["gs://b/f"]}
            if table.kind == "EXTERNAL"
            else None,
        }
        return made | {name: value for name, value in optional.items() if value is not None}


def _dataset_json(dataset: Dataset) -> Json:
    made: Json = {
        "kind": "bigquery#dataset",
        "etag": uuid.uuid4().hex,
        "id": f"{dataset.project}:{dataset.name}",
        "datasetReference": {"projectId": dataset.project, "datasetId": dataset.name},
        "location": dataset.location,
        "labels": dataset.labels,
        "creationTime": str(dataset.created_ms),
        "lastModifiedTime": str(dataset.created_ms),
    }
    if dataset.default_expiration_ms is not None:
        made["defaultTableExpirationMs"] = str(dataset.default_expiration_ms)
    if dataset.description is not None:
        made["description"] = dataset.description
    return made


def _change_dataset(dataset: Dataset, body: Json) -> None:
    if "labels" in body:
        dataset.labels = body["labels"] or {}
    if "description" in body:
        dataset.description = body["description"]
    if "defaultTableExpirationMs" in body:
        wanted = body["defaultTableExpirationMs"]
        dataset.default_expiration_ms = None if wanted is None else int(wanted)


def _change_table(table: Table, body: Json) -> None:
    if "labels" in body:
        table.labels = body["labels"] or {}
    if "description" in body:
        table.description = body["description"]
    if "expirationTime" in body:
        wanted = body["expirationTime"]
        table.expires_ms = None if wanted is None else int(wanted)
    if body.get("timePartitioning"):
        table.time_partitioning = body["timePartitioning"]
    if body.get("rangePartitioning"):
        table.range_partitioning = body["rangePartitioning"]


def _results(job: Job, options: Mapping[str, str], formats: Mapping[str, str]) -> Json:
    """QueryResponse, which is also GetQueryResultsResponse."""
    timeout_s = float(options.get("timeoutMs") or 10_000) / 1000
    made: Json = {"kind": "bigquery#queryResponse", "jobReference": job.reference()}
    if not job.done.wait(min(timeout_s, _LONGEST_WAIT_S)):
        return made | {"jobComplete": False}
    if job.error is not None:
        raise job.error
    made |= {
        "jobComplete": True,
        "cacheHit": False,
        "totalBytesProcessed": str(job.bytes_processed),
        "totalBytesBilled": str(job.bytes_billed),
        "creationTime": str(job.created_ms),
        "startTime": str(job.started_ms),
        "endTime": str(job.ended_ms),
        "location": job.location,
    }
    if job.schema is not None:
        made["schema"] = {"fields": fields_json(job.schema)}
    if job.rows is not None:
        made["totalRows"] = str(job.rows.num_rows)
        made |= _page(job.rows, {**formats, **options})
    return made


def _page(rows: pa.Table, options: Mapping[str, str]) -> Json:
    start = int(options.get("pageToken") or options.get("startIndex") or 0)
    wanted = options.get("maxResults")
    count = min(_PAGE_ROWS if wanted is None else int(wanted), _PAGE_ROWS)
    page = rows.slice(start, count)
    int_timestamps = options.get("formatOptions.useInt64Timestamp", "").lower() == "true"
    made: Json = {"rows": rows_json(page, int_timestamps)}
    if start + count < rows.num_rows:
        made["pageToken"] = str(start + count)
    return made


_PROJECT = r"/bigquery/v2/projects/([^/]+)"
_DATASET = _PROJECT + r"/datasets/([^/]+)"
_TABLE = _DATASET + r"/tables/([^/]+)"
_ROUTES = (
    ("GET", r"/bigquery/v2/projects", "projects.list"),
    ("GET", _PROJECT + "/datasets", "datasets.list"),
    ("POST", _PROJECT + "/datasets", "datasets.insert"),
    ("GET", _DATASET, "datasets.get"),
    ("PATCH", _DATASET, "datasets.patch"),
    ("DELETE", _DATASET, "datasets.delete"),
    ("GET", _DATASET + "/tables", "tables.list"),
    ("POST", _DATASET + "/tables", "tables.insert"),
    ("GET", _TABLE, "tables.get"),
    ("PATCH", _TABLE, "tables.patch"),
    ("DELETE", _TABLE, "tables.delete"),
    ("GET", _TABLE + "/data", "tabledata.list"),
    ("GET", _PROJECT + "/jobs", "jobs.list"),
    ("POST", _PROJECT + "/jobs", "jobs.insert"),
    ("GET", _PROJECT + "/jobs/([^/]+)", "jobs.get"),
    ("POST", _PROJECT + "/jobs/([^/]+)/cancel", "jobs.cancel"),
    ("GET", _PROJECT + "/queries/([^/]+)", "jobs.getQueryResults"),
    ("POST", _PROJECT + "/queries", "jobs.query"),
)
_METHODS: dict[str, Callable[..., Json]] = {
    "projects.list": Rest.list_projects,
    "datasets.list": Rest.list_datasets,
    "datasets.insert": Rest.insert_dataset,
    "datasets.get": Rest.get_dataset,
    "datasets.patch": Rest.patch_dataset,
    "datasets.delete": Rest.delete_dataset,
    "tables.list": Rest.list_tables,
    "tables.insert": Rest.insert_table,
    "tables.get": Rest.get_table,
    "tables.patch": Rest.patch_table,
    "tables.delete": Rest.delete_table,
    "tabledata.list": Rest.list_rows,
    "jobs.list": Rest.list_jobs,
    "jobs.insert": Rest.insert_job,
    "jobs.get": Rest.get_job,
    "jobs.cancel": Rest.cancel_job,
    "jobs.getQueryResults": Rest.get_query_results,
    "jobs.query": Rest.query,
}
