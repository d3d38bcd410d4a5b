"""How this daemon reaches BigQuery, as plain data that travels to the workers."""

from __future__ import annotations

import msgspec


class BigQuerySettings(msgspec.Struct, frozen=True):
    """The table `[bigquery]` of the daemon's settings; config.py describes each key for users.

    Attributes:
        project: The project that jobs and read sessions are billed to; None for the credentials'.
        credentials: "default", "anonymous", or the path of a key file.
        api_endpoint: URL of the REST API; None for Google's.
        storage_endpoint: "host:port" of the Storage Read API; None for Google's.
        storage_insecure: Whether the storage endpoint speaks plain HTTP/2, as local servers do.
        max_streams: Streams of a read session at most; None for four a worker.
        compression: Of the Arrow data on the wire: "none", "lz4" or "zstd".
        max_bytes_billed: Bytes that the queries of one open may be billed for together, and that
            reading the rows once may, each at most; None for no limit.
        labels: Labels of our jobs, as (key, value).
        result_dataset: "project.dataset" or "dataset" for results of queries; None for BigQuery's
            own temporary ones.
        result_expiry_s: Seconds until tables in `result_dataset` expire.
        stall_timeout_s: Seconds without a message after which a stream is opened anew.
        retry_deadline_s: Seconds of failed attempts, without a row in between, after which a
            stream or request has failed.
        request_timeout_s: Seconds that one attempt of a short request may take.
        job_timeout_s: Seconds that a query may run.
        query_price_per_tib: Money for 2^40 bytes that a query is billed for, in whatever
            currency; None if not known.
        read_price_per_tib: The same for bytes read by the Storage Read API.
        snapshot_max_age_s: Seconds for which later opens join a snapshot.
    """

    project: str | None = None
    credentials: str = "default"
    api_endpoint: str | None = None
    storage_endpoint: str | None = None
    storage_insecure: bool = False
    max_streams: int | None = None
    compression: str = "none"
    max_bytes_billed: int | None = None
    labels: tuple[tuple[str, str], ...] = ()
    result_dataset: str | None = None
    result_expiry_s: float = 86_400.0
    stall_timeout_s: float = 60.0
    retry_deadline_s: float = 600.0
    request_timeout_s: float = 60.0
    job_timeout_s: float = 3_600.0
    query_price_per_tib: float | None = None
    read_price_per_tib: float | None = None
    snapshot_max_age_s: float = 3_600.0
