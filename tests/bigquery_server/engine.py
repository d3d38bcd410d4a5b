"""Answers queries: DuckDB, over the Arrow rows of table versions, a fresh database for each.

DuckDB sees only what a statement's translation names: no files, no network, no Python variables.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import duckdb
import farmhash
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from duckdb.func import PythonUDFType
from sqlglot import exp

from tests.bigquery_server.catalog import Catalog, TableRef, Version
from tests.bigquery_server.errors import ApiError, access_denied, invalid_query
from tests.bigquery_server.faults import FaultBook
from tests.bigquery_server.schema import as_bigquery
from tests.bigquery_server.sql import (
    FoundTable,
    Translation,
    generate,
    position,
    rewrite,
    translate,
)

_THREADS = 2

_MACROS = """
    farm_fingerprint(x) AS bq_farm_fingerprint(CASE typeof(x)
        WHEN 'BLOB' THEN CAST(x AS BLOB)
        WHEN 'VARCHAR' THEN encode(CAST(x AS VARCHAR))
        WHEN '"NULL"' THEN NULL
        ELSE CAST(error('No matching signature for function FARM_FINGERPRINT for argument types: '
                        || typeof(x)) AS BLOB) END);
    bq_string(x) AS CASE
        WHEN x IS NULL THEN NULL
        WHEN typeof(x) IN ('BIGINT', 'INTEGER', 'HUGEINT', 'VARCHAR', 'DATE', 'BOOLEAN', '"NULL"')
        THEN CAST(x AS VARCHAR)
        WHEN typeof(x) = 'BLOB' THEN decode(CAST(x AS BLOB))
        WHEN typeof(x) = 'DOUBLE' AND abs(CAST(x AS DOUBLE)) BETWEEN 0.001 AND 1e15
             AND CAST(x AS DOUBLE) <> trunc(CAST(x AS DOUBLE))
        THEN CAST(x AS VARCHAR)
        ELSE CAST(error('Not supported by the local server: CAST to STRING of ' || typeof(x))
                  AS VARCHAR) END;
    bq_bytes(x) AS CASE typeof(x)
        WHEN 'VARCHAR' THEN encode(CAST(x AS VARCHAR))
        WHEN 'BLOB' THEN CAST(x AS BLOB)
        ELSE CAST(error('Invalid cast to BYTES of ' || typeof(x)) AS BLOB) END;
    bq_is_int64(x) AS regexp_full_match(CAST(x AS VARCHAR), '\\s*[+-]?[0-9]+\\s*');
    bq_int64(x) AS CASE
        WHEN typeof(x) = 'DOUBLE' THEN CAST(round(CAST(x AS DOUBLE)) AS BIGINT)
        WHEN typeof(x) = 'VARCHAR' AND NOT bq_is_int64(x)
        THEN CAST(error('Bad int64 value: ' || CAST(x AS VARCHAR)) AS BIGINT)
        ELSE CAST(x AS BIGINT) END;
    bq_safe_int64(x) AS CASE
        WHEN typeof(x) = 'DOUBLE' THEN TRY_CAST(round(CAST(x AS DOUBLE)) AS BIGINT)
        WHEN typeof(x) = 'VARCHAR' AND NOT bq_is_int64(x) THEN NULL
        ELSE TRY_CAST(x AS BIGINT) END;
    bq_divide(a, b) AS CASE
        WHEN b = 0 THEN CAST(error('division by zero: ' || CAST(a AS VARCHAR) || ' / 0') AS DOUBLE)
        ELSE a / b END;
    bq_only_date(x) AS CASE WHEN typeof(x) IN ('DATE', 'VARCHAR') THEN CAST(x AS DATE)
        ELSE CAST(error('Not supported by the local server: DATE functions of ' || typeof(x))
                  AS DATE) END;
    bq_date_trunc(unit, x) AS CAST(date_trunc(unit, bq_only_date(x)) AS DATE);
    bq_json(x) AS CAST(to_json(x) AS VARCHAR);
    bq_to_json_string(x) AS CASE
        WHEN x IS NULL THEN 'null'
        WHEN typeof(x) = 'DOUBLE' THEN bq_json_float64(TRY_CAST(x AS DOUBLE))
        WHEN typeof(x) = 'TIMESTAMP WITH TIME ZONE'
        THEN bq_json_timestamp(epoch_us(TRY_CAST(x AS TIMESTAMPTZ)))
        WHEN typeof(x) IN ('BIGINT', 'INTEGER')
        THEN CASE WHEN abs(TRY_CAST(x AS HUGEINT)) > 9007199254740992
             THEN '"' || CAST(x AS VARCHAR) || '"' ELSE CAST(x AS VARCHAR) END
        WHEN typeof(x) IN ('VARCHAR', 'DATE', 'BOOLEAN') THEN bq_json(x)
        WHEN typeof(x) = 'DOUBLE[]' THEN bq_json_float64s(TRY_CAST(x AS DOUBLE[]))
        WHEN typeof(x) = 'BIGINT[]' THEN bq_json_int64s(TRY_CAST(x AS BIGINT[]))
        WHEN regexp_matches(typeof(x), 'DOUBLE|BLOB|TIME|DECIMAL|HUGEINT')
             OR regexp_matches(bq_json(x), '[0-9]{16}')
        THEN bq_no_json(typeof(x) || left(bq_json(x), 0))
        ELSE coalesce(bq_json(x), 'null') END
"""
"""BigQuery's meaning of what DuckDB understands otherwise; sql.py writes calls of these."""


@dataclass
class Query:
    """A statement and what it is asked with.

    Args:
        sql: In BigQuery's dialect.
        project: Of tables that are named without one.
        default_dataset: (project, dataset) of tables that are named alone.
        parameters: REST's QueryParameters.
    """

    sql: str
    project: str
    default_dataset: tuple[str, str] | None = None
    parameters: Sequence[Mapping[str, Any]] = ()


@dataclass
class Interrupt:
    """Stops a running query, from another thread."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _connection: duckdb.DuckDBPyConnection | None = None
    wanted: bool = False

    def stop(self) -> None:
        with self._lock:
            self.wanted = True
            if self._connection is not None:
                self._connection.interrupt()

    @contextlib.contextmanager
    def over(self, connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
        with self._lock:
            if self.wanted:
                raise _stopped()
            self._connection = connection
        try:
            yield
        finally:
            with self._lock:
                self._connection = None


class Engine:
    """See the module's docstring. Any thread."""

    def __init__(self, catalog: Catalog, faults: FaultBook) -> None:
        self._catalog = catalog
        self._faults = faults
        self.location = "US"

    def translate(self, query: Query) -> Translation:
        """The statement, with the rows that it is to be answered from.

        Raises:
            ApiError: invalidQuery, notFound, accessDenied.
        """
        return translate(
            query.sql, lambda parts, moment: self._look_up(query, parts, moment), query.parameters
        )

    def schema(self, query: Query, translation: Translation) -> pa.Table:
        """The result's columns, without rows."""
        return self._run(f"SELECT * FROM ({translation.sql}) LIMIT 0", query.sql, translation, None)

    def answer(self, query: Query, translation: Translation, interrupt: Interrupt) -> pa.Table:
        """The result, with BigQuery's types."""
        return self._run(translation.sql, query.sql, translation, interrupt)

    def keep(self, version: Version, ref: TableRef, restriction: str) -> pa.ChunkedArray[Any]:
        """Whether each row passes a row_restriction, in the rows' order.

        Raises:
            ApiError: it is no predicate over the table's columns.
        """
        sql = f"SELECT ({restriction}) AS keep FROM `{ref.dotted}`"
        translation = translate(sql, lambda *_: FoundTable(ref, version))
        if translation.sql.count("SELECT") != 1 or translation.sql.count(" FROM ") != 1:
            raise invalid_query("row_restriction must be a predicate over the table's columns")
        kept = self._run(translation.sql, sql, translation, None)
        is_predicate = kept.num_columns == 1 and pa.types.is_boolean(kept.column(0).type)
        if not is_predicate or kept.num_rows != version.rows.num_rows:
            raise invalid_query("row_restriction must be a predicate over the table's columns")
        nothing: Any = False  # as a scalar; the stubs know arrays only
        return pc.fill_null(kept.column(0), nothing)

    def _look_up(self, query: Query, parts: Sequence[str], moment: exp.Expr | None) -> FoundTable:
        if len(parts) == 1 and query.default_dataset is None:
            raise invalid_query(
                f'Table "{parts[0]}" must be qualified with a dataset (e.g. dataset.table).'
            )
        full = (*(query.default_dataset or ()), *parts)[-3:] if len(parts) == 1 else parts
        ref = TableRef(*full) if len(full) == 3 else TableRef(query.project, *full)
        if len(full) > 3:
            raise invalid_query(f"Not supported by the local server: the table {'.'.join(parts)}")
        if self._faults.is_denied("bigquery.tables.getData"):
            raise access_denied(
                f"Table {ref}: User does not have permission to query table {ref}, or perhaps it "
                "does not exist."
            )
        try:
            self._catalog.dataset(ref.project, ref.dataset)
            table = self._catalog.table(ref)
        except ApiError as error:
            where = f" was not found in location {self.location}"
            raise ApiError(error.code, error.reason, error.message + where) from error
        if table.view_sql is not None:
            return FoundTable(ref, None, table.view_sql)
        return FoundTable(ref, table.at(None if moment is None else self._milliseconds(moment)))

    def _milliseconds(self, moment: exp.Expr) -> int:
        sql = generate(rewrite(exp.select(exp.alias_(moment.copy(), "moment"))))
        made = self._run(
            f"SELECT epoch_ms(CAST(moment AS TIMESTAMPTZ)) AS ms FROM ({sql})",
            moment.sql("bigquery"),
            Translation(""),
            None,
        )
        return int(made.column(0)[0].as_py())

    def _run(
        self, sql: str, original: str, translation: Translation, interrupt: Interrupt | None
    ) -> pa.Table:
        with _connection() as connection:
            for name, rows in translation.relations.items():
                connection.register(name, rows)
            try:
                with (interrupt or Interrupt()).over(connection):
                    relation = connection.sql(sql)
                    if relation is None:
                        raise invalid_query("The statement has no result")
                    names, types = relation.columns, [str(kind) for kind in relation.types]
                    _check_names(names)
                    result = relation.to_arrow_table()
            except duckdb.Error as error:
                _refuse(error, original)
            return as_bigquery(_narrow(result, types))


@contextlib.contextmanager
def _connection() -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect(":memory:", config={"threads": _THREADS})
    try:
        connection.create_function(
            "bq_farm_fingerprint", _fingerprints, ["BLOB"], "BIGINT", type=PythonUDFType.ARROW
        )
        for name, function, kind in (
            ("bq_no_json", _refuse_json, "VARCHAR"),
            ("bq_json_float64", _json_floats, "DOUBLE"),
            ("bq_json_float64s", _json_float_lists, "DOUBLE[]"),
            ("bq_json_int64s", _json_integer_lists, "BIGINT[]"),
            ("bq_json_timestamp", _json_timestamps, "BIGINT"),
        ):
            connection.create_function(name, function, [kind], "VARCHAR", type=PythonUDFType.ARROW)
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET python_enable_replacements = false")
        connection.execute("SET enable_external_access = false")
        for macro in _MACROS.split(";"):
            connection.execute(f"CREATE TEMP MACRO {macro}")
        yield connection
    finally:
        connection.close()


def _fingerprints(values: Any) -> Any:  # DuckDB evaluates annotations, and pyarrow's cannot be
    """FARM_FINGERPRINT: FarmHash's Fingerprint64, read as a signed number."""
    hashes = np.fromiter(map(farmhash.fingerprint64, values.to_pylist()), np.uint64, len(values))
    return pa.array(hashes.view(np.int64))


def _refuse_json(values: Any) -> Any:
    """Fails, if there is a value; DuckDB's own `error` may not stand in a PARTITION BY."""
    if len(values):
        raise ValueError(f"Not supported by the local server: TO_JSON_STRING of {values[0]}")
    return values


def _json_floats(values: Any) -> Any:  # unannotated as _fingerprints is
    """FLOAT64 in JSON: the shorter of 15 and 17 digits that is the number; text if it is none."""
    texts = [None if one is None else _json_float(one) for one in values.to_pylist()]
    return pa.array(texts, pa.string())


def _json_float(value: float) -> str:
    if not math.isfinite(value):
        return '"NaN"' if math.isnan(value) else '"Infinity"' if value > 0 else '"-Infinity"'
    short = f"{value:.15g}"
    return short if float(short) == value else f"{value:.17g}"


def _json_float_lists(values: Any) -> Any:
    """ARRAY<FLOAT64> in JSON."""
    return _json_lists(values, _json_float)


def _json_integer_lists(values: Any) -> Any:
    """ARRAY<INT64> in JSON: those that a double cannot hold are text."""
    return _json_lists(values, lambda one: f'"{one}"' if abs(one) > 2**53 else str(one))


def _json_lists(values: Any, of_element: Callable[[Any], str]) -> Any:
    def of_list(elements: Any) -> str:
        return f"[{','.join('null' if one is None else of_element(one) for one in elements)}]"

    texts = [None if one is None else of_list(one) for one in values.to_pylist()]
    return pa.array(texts, pa.string())


def _json_timestamps(values: Any) -> Any:
    """TIMESTAMP in JSON, from microseconds since 1970: with 0, 3 or 6 digits of the second."""
    texts = [None if one is None else _json_time(one) for one in values.to_pylist()]
    return pa.array(texts, pa.string())


def _json_time(micros: int) -> str:
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=micros)
    digits = f".{moment.microsecond:06d}" if moment.microsecond else ""
    digits = digits.removesuffix("000")
    return f'"{moment:%Y-%m-%dT%H:%M:%S}{digits}Z"'


def _narrow(result: pa.Table, types: Sequence[str]) -> pa.Table:
    """SUM of INT64 is HUGEINT in DuckDB, a decimal in Arrow, and INT64 in BigQuery."""
    for place, kind in enumerate(types):
        if kind == "HUGEINT":
            try:
                column = result.column(place).cast(pa.int64())
            except pa.ArrowInvalid as error:
                raise invalid_query("int64 overflow") from error
            result = result.set_column(place, result.column_names[place], column)
        elif "HUGEINT" in kind:
            raise invalid_query("Not supported by the local server: SUM within a STRUCT or ARRAY")
    return result


def _check_names(names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            raise invalid_query(
                "Duplicate column names in the result are not supported. Found duplicate(s): "
                + name
            )
        seen.add(name.lower())
        if name.upper().startswith("_PARTITION"):
            raise invalid_query(
                f'Invalid field name "{name}". Field names are not allowed to start with the '
                "(case-insensitive) prefixes _PARTITION, _TABLE_, _FILE_, _ROW_TIMESTAMP, "
                "__ROOT__ and _COLIDENTIFIER"
            )


_ERRORS = (
    (r'Referenced column "([^"]+)" not found', "Unrecognized name: {0}"),
    (r'Referenced table "([^"]+)" not found', "Unrecognized name: {0}"),
    (r'does not have a column named "([^"]+)"', "Name {0} not found inside the table"),
    (r'Could not find key "([^"]+)" in struct', "Field name {0} does not exist in STRUCT"),
    (r"[Ff]unction with name \"?(\w+)\"? does not exist", "Function not found: {0}"),
    (
        r'column "([^"]+)" must appear in the GROUP BY',
        "SELECT list expression references column {0} which is neither grouped nor aggregated",
    ),
)


def _refuse(error: duckdb.Error, sql: str) -> NoReturn:
    """Raises DuckDB's complaint as BigQuery's."""
    text = str(error)
    if isinstance(error, duckdb.InterruptException):
        raise _stopped() from error
    for pattern, message in _ERRORS:
        found = re.search(pattern, text)
        if found:
            name = found.group(1)
            raise invalid_query(message.format(name) + position(sql, name)) from error
    first = text.splitlines()[0].partition(": ")[2] or text
    is_static = isinstance(error, duckdb.BinderException | duckdb.ParserException)
    raise invalid_query(first + (" at [1:1]" if is_static else "")) from error


def _stopped() -> ApiError:
    return ApiError("INVALID_ARGUMENT", "stopped", "Job execution was cancelled: User requested")
