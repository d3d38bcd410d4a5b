"""What the wrapper asks of the process, by `POST /_control/NAME` with a JSON body."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.bigquery_server.catalog import Catalog, Dataset, TableRef, now_ms
from tests.bigquery_server.engine import Engine, Query
from tests.bigquery_server.errors import invalid
from tests.bigquery_server.faults import FaultBook, Faults
from tests.bigquery_server.read_service import ReadService
from tests.bigquery_server.rest import Rest
from tests.bigquery_server.settings import Settings
from tests.bigquery_server.stats import Stats
from tests.bigquery_server.tokens import Tokens

Json = dict[str, Any]


@dataclass
class Control:
    """Changes the parts while they run."""

    catalog: Catalog
    engine: Engine
    faults: FaultBook
    stats: Stats
    tokens: Tokens
    rest: Rest
    reads: ReadService

    def answer(self, name: str, body: Json) -> Json:
        """Does what `name` says; the wrapper's methods document it.

        Raises:
            ApiError: it is impossible.
        """
        known: dict[str, Callable[..., Json]] = {
            "load": self._load,
            "view": self._view,
            "dataset": self._dataset,
            "faults": self._set_faults,
            "configure": self._configure,
            "stats": self._read_stats,
            "key_file": self._key_file,
            "token": self._token,
            "revoke": self._revoke,
        }
        if name not in known:
            raise invalid(f"there is no control called {name}")
        return known[name](**body)

    def _load(self, table: str, path: str, kind: str, fields: Json) -> Json:
        location = self.rest.settings.location
        made = self.catalog.load(TableRef.parse(table), _read(Path(path)), kind, location, **fields)
        return {"time_ms": made.last.time_ms, "rows": made.last.rows.num_rows}

    def _view(self, table: str, sql: str) -> Json:
        ref = TableRef.parse(table)
        query = Query(sql, ref.project, (ref.project, ref.dataset))
        rows = self.engine.schema(query, self.engine.translate(query))
        made = self.catalog.view(ref, sql, rows, self.rest.settings.location)
        return {"time_ms": made.last.time_ms}

    def _dataset(self, name: str, location: str | None) -> Json:
        project, _, dataset = name.rpartition(".")
        at = location or self.rest.settings.location
        self.catalog.add_dataset(Dataset(project, dataset, at, now_ms()), exists_ok=True)
        return {}

    def _set_faults(self, **fields: Any) -> Json:
        self.faults.replace(Faults.from_json(fields))
        return {}

    def _configure(self, **fields: Any) -> Json:
        settings = Settings(**fields)
        self.rest.settings = self.reads.settings = settings
        self.engine.location = settings.location
        self.tokens.required = settings.require_token
        self.tokens.life_s = settings.token_life_s
        self.tokens.skew_s = settings.clock_skew_s
        return {}

    def _read_stats(self, clear: bool) -> Json:
        made = self.stats.to_json() | {"injected": dict(self.faults.injected)}
        if clear:
            self.stats.clear()
            self.faults.injected.clear()
        return made

    def _key_file(self, email: str, project: str, token_uri: str) -> Json:
        return dict(self.tokens.key_file(email, project, token_uri))

    def _token(self, email: str, life_s: float | None) -> Json:
        return {"token": self.tokens.issue(email, life_s)}

    def _revoke(self) -> Json:
        self.tokens.revoke()
        return {}


def _read(path: Path) -> pa.Table:
    if path.suffix == ".parquet":
        return pq.read_table(path)
    # Mapped, not read: a benchmark's table may be larger than memory, and need not be copied.
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()
