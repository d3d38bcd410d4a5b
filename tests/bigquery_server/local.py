"""The server as tests use it: a process that is started, loaded, broken, watched and stopped."""

from __future__ import annotations

import http.client
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, date, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import pyarrow as pa

from tests.bigquery_server.faults import Faults, ReadFault, RestFault, SessionFault
from tests.bigquery_server.settings import Settings

Kind = Literal["TABLE", "VIEW", "EXTERNAL"]
Partitions = str | Mapping[str, pa.Table] | Mapping[date, pa.Table]

_ROOT = Path(__file__).parents[2]
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 5.0
_PARTITION_TIME = "_PARTITIONTIME"


class LocalBigQueryError(Exception):
    """The server refused what the wrapper asked, or did not start."""


class LocalBigQuery:
    """A BigQuery server of one's own, for the time of a `with` block, or until `stop`.

    Start it in a thread that lives as long as it: the process dies with the thread that started it,
    whatever becomes of that.

    Args:
        folder: Where tables are kept while the server runs, and its log, `server.log`; by default a
            temporary folder, which `stop` removes.
        settings: As `configure` takes them.
    """

    def __init__(self, folder: str | Path | None = None, **settings: Any) -> None:
        self._owns_folder = folder is None
        self.folder = Path(folder or tempfile.mkdtemp(prefix="bigquery-server-"))
        self._settings = Settings()
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.bigquery_server",
                f"--folder={self.folder}",
                f"--parent={os.getpid()}",
            ],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            address = self._read_address()
            self.rest: str = address["rest"]
            """Of BigQuery v2, as in http://127.0.0.1:1234: an `api_endpoint`."""
            self.grpc: str = address["grpc"]
            """Of the Storage Read API, as in 127.0.0.1:1235, in plain text."""
            if settings:
                self.configure(**settings)
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> LocalBigQuery:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the process; a second time it does nothing."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        if self._owns_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def load(
        self,
        table: str,
        rows: pa.Table | None = None,
        kind: Kind = "TABLE",
        *,
        partitions: Partitions | None = None,
        **fields: Any,
    ) -> int:
        """Makes a table, and its dataset; or gives it new rows, as a new version.

        Args:
            table: "project.dataset.table".
            rows: Of any types that BigQuery has.
            kind: VIEW and EXTERNAL answer queries, and cannot be read as they are.
            partitions: Makes it an ingestion-time partitioned table: the rows of each date, or the
                name of a column of `rows` that holds each row's date and is no column of the table.
            fields: time_partitioning, range_partitioning (REST's), labels, description,
                expires_ms, streaming_rows (the last so many are in the streaming buffer).

        Returns:
            The moment from which the version holds, in milliseconds since 1970.
        """
        path = self.folder / f"{uuid.uuid4().hex}.arrow"
        with pa.OSFile(str(path), "wb") as sink:
            made = _with_partition_times(rows, partitions)
            with pa.ipc.new_file(sink, made.schema) as writer:
                writer.write_table(made)
        return self.load_file(table, path, kind, **fields)

    def load_file(self, table: str, path: str | Path, kind: Kind = "TABLE", **fields: Any) -> int:
        """As `load`, of an Arrow IPC file, which is mapped, or a Parquet file (`.parquet`)."""
        body = {"table": table, "path": str(path), "kind": kind, "fields": fields}
        return int(self._control("load", body)["time_ms"])

    def view(self, table: str, sql: str) -> None:
        """Makes or replaces a view."""
        self._control("view", {"table": table, "sql": sql})

    def dataset(self, name: str, location: str | None = None) -> None:
        """Makes a dataset, "project.dataset", as for destination tables."""
        self._control("dataset", {"name": name, "location": location})

    def configure(self, **changes: Any) -> None:
        """Changes `Settings`; others stay as they are."""
        self._settings = replace(self._settings, **changes)
        self._control("configure", asdict(self._settings))

    def faults(self, *faults: ReadFault | SessionFault | RestFault | Faults, **fields: Any) -> None:
        """From now on exactly this goes wrong; without arguments nothing does.

        Args:
            faults: Single ones; or one `Faults` alone.
            fields: Of `Faults`.
        """
        wanted = next((one for one in faults if isinstance(one, Faults)), Faults(**fields))
        lists: dict[str, tuple[Any, ...]] = {
            "reads": (*wanted.reads, *(one for one in faults if isinstance(one, ReadFault))),
            "sessions": (
                *wanted.sessions,
                *(one for one in faults if isinstance(one, SessionFault)),
            ),
            "rest": (*wanted.rest, *(one for one in faults if isinstance(one, RestFault))),
        }
        self._control(
            "faults", asdict(wanted) | {n: [asdict(x) for x in v] for n, v in lists.items()}
        )

    def stats(self, clear: bool = False) -> dict[str, Any]:
        """What was asked of the server since it was started, or cleared.

        Returns:
            calls, authorized_calls and last_headers by method ("ReadRows", "jobs.insert", …);
            errors by method and code; streams: {name: {messages, rows, bytes}}; rows_sent,
            bytes_sent; jobs: [{id, sql, dry, destination, bytes_processed, error, …}]; sessions:
            [{name, table, selected_fields, row_restriction, streams, rows, snapshot_ms}];
            open_read_rows, most_open_read_rows; injected: how many faults of each kind.
        """
        return self._control("stats", {"clear": clear})

    def key_file(
        self, path: str | Path, email: str = "reader@project.iam.gserviceaccount.com"
    ) -> Path:
        """Writes a service account's key file, which has this server's token endpoint in it."""
        project = email.partition("@")[2].partition(".")[0]
        body = {"email": email, "project": project, "token_uri": f"{self.rest}/token"}
        path = Path(path)
        path.write_text(json.dumps(self._control("key_file", body), indent=2))
        return path

    def token(self, email: str = "reader@example.com", life_s: float | None = None) -> str:
        """A bearer token, without any key."""
        return str(self._control("token", {"email": email, "life_s": life_s})["token"])

    def revoke_tokens(self) -> None:
        """No token that was issued so far is valid any more."""
        self._control("revoke", {})

    def _control(self, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        connection = http.client.HTTPConnection(self.rest.removeprefix("http://"), timeout=120)
        try:
            connection.request("POST", f"/_control/{name}", json.dumps(body))
            response = connection.getresponse()
            made: dict[str, Any] = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise LocalBigQueryError(f"{name}: {made['error']['message']}")
        return made

    def _read_address(self) -> dict[str, str]:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], _START_TIMEOUT_S)
        line = self.process.stdout.readline() if ready else b""
        if not line:
            raise LocalBigQueryError(f"the server did not start: {self._last_words()}")
        address: dict[str, str] = json.loads(line)
        return address

    def _last_words(self) -> str:
        log = self.folder / "server.log"
        return log.read_text()[-2_000:] if log.exists() else "see its standard error"


def _with_partition_times(rows: pa.Table | None, partitions: Partitions | None) -> pa.Table:
    kind = pa.timestamp("us", "UTC")
    if isinstance(partitions, str):
        assert rows is not None, "partitions name a column of rows"
        times: Any = rows.column(partitions)
        if pa.types.is_string(times.type):
            times = times.cast(pa.date32())
        rest = rows.drop([partitions])
        return rest.append_column(_PARTITION_TIME, times.cast(pa.timestamp("us")).cast(kind))
    if partitions is None:
        assert rows is not None, "there are no rows"
        return rows
    assert rows is None, "the rows are those of the partitions"
    parts = []
    for day, part in partitions.items():
        named = date.fromisoformat(day) if isinstance(day, str) else day
        moment = datetime(named.year, named.month, named.day, tzinfo=UTC)
        times = pa.array([moment] * part.num_rows, kind)
        parts.append(part.append_column(_PARTITION_TIME, times))
    return pa.concat_tables(parts)
