"""The statements for BigQuery: names that are quoted, splits and chunks that hold every row once.

DuckDB runs what sqlglot makes of them, with FarmHash as FARM_FINGERPRINT.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import duckdb
import farmhash
import numpy as np
import pyarrow as pa
import pytest
import sqlglot
from hypothesis import given
from hypothesis import strategies as st

from faucet_client.spec import SplitBuckets
from faucetd.errors import SpecError
from faucetd.fetch.bigquery import sql
from faucetd.fetch.split import buckets_of

SPLIT = SplitBuckets(1_000, 600, 800)
TABLE = sql.TableName("p", "d", "features")


def fingerprint(data: bytes) -> int:
    return int(np.uint64(farmhash.fingerprint64(data)).astype(np.int64))


def answer(statement: str, rows: pa.Table) -> list[dict[str, Any]]:
    """The statement's rows, with `rows` as its table p.d.features."""
    with duckdb.connect() as connection:
        connection.create_function(
            "farm_fingerprint", lambda text: fingerprint(text.encode()), ["VARCHAR"], "BIGINT"
        )
        connection.register("given", rows)
        connection.execute("ATTACH ':memory:' AS p; CREATE SCHEMA p.d")
        connection.execute("CREATE TABLE p.d.features AS SELECT * FROM given")
        translated = sqlglot.transpile(statement, read="bigquery", write="duckdb")
        assert len(translated) == 1
        found: list[dict[str, Any]] = connection.sql(translated[0]).to_arrow_table().to_pylist()
        return found


def nested(rows: int) -> pa.Table:
    return pa.table(
        {
            "id": pa.array(range(rows), pa.int64()),
            "features": pa.array(
                [{"age": n % 3, "home": {"floor": n % 2, "size": 1.5}} for n in range(rows)]
            ),
            "labels": pa.array([{"age": n % 5} if n % 7 else None for n in range(rows)]),
        }
    )


# Names.


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("p.d.t", ("p", "d", "t")),
        ("d.t", ("home", "d", "t")),
        (" `my-project.d_1.t` ", ("my-project", "d_1", "t")),
        ("example.com:my-project.d.t", ("example.com:my-project", "d", "t")),
        ("p.d.größe 2020-01", ("p", "d", "größe 2020-01")),
        ("p.d.表", ("p", "d", "表")),
    ],
)
def test_a_table_is_named_with_or_without_its_project(
    text: str, name: tuple[str, str, str]
) -> None:
    parsed = sql.parse_table(text, "home")
    assert parsed == name
    assert str(parsed) == ".".join(name)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("t", "project.dataset.table, or dataset.table for one of project home"),
        ("", "project.dataset.table"),
        ("a.b.c.d", "project.dataset.table"),
        ("p.d.", "project.dataset.table"),
        (".d.t", "project.dataset.table"),
        ("p.d t.t", "project.dataset.table"),
        ("p.d.t;DROP", "project.dataset.table"),
        ("p.d.t`x", "project.dataset.table"),
        ("p.d.t/x", "project.dataset.table"),
        ("example.com:p.d", "project.dataset.table"),
        ("p:d.t", "write p.d.t"),
        ("p.d.events_*", "wildcard"),
        ("p.d.t$20200120", "partition_date="),
        ("p.d.t@-3600000", "snapshot="),
    ],
)
def test_what_names_no_table_is_refused_with_how_to_write_it(text: str, hint: str) -> None:
    with pytest.raises(SpecError) as error:
        sql.parse_table(text, "home")
    assert repr(text) in error.value.message
    assert hint in error.value.message


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda t: "." not in t))
def test_whatever_a_column_is_called_its_quoted_name_is_one_name(name: str) -> None:
    quoted = sql.identifier(name)
    (token,) = (t.group() for t in sql._TOKENS.finditer(quoted))
    assert token == quoted
    assert quoted.isprintable()
    assert unescaped(quoted) == name


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_whatever_a_text_holds_its_literal_is_one_text(text: str) -> None:
    literal = sql.literal(text)
    assert [t.group() for t in sql._TOKENS.finditer(literal)] == [literal]
    assert unescaped(literal) == text


def unescaped(quoted: str) -> str:
    # Python reads the escapes that we use as GoogleSQL does, but for those of backquotes.
    inner = quoted[1:-1].replace("\\`", "`").replace('"', '\\"')
    return str(eval(f'"{inner}"'))  # of our own making


def test_a_leaf_is_quoted_part_by_part() -> None:
    assert sql.path("features.age") == "`features`.`age`"
    assert sql.path("features.age", "t") == "t.`features`.`age`"
    assert TABLE.quoted == "`p.d.features`"


# Queries.


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1",
        "SELECT ';', \"a;b\", `c;d`",
        "SELECT 'it\\'s;'",
        "SELECT r'\\';' -- ;\n, 1",
        "SELECT '''a';b''', \"\"\"c\";d\"\"\"",
        "SELECT 1 # ;\n+ 2 /* ; */ + 3",
    ],
)
@pytest.mark.parametrize("after", ["", ";", " ; ", ";\n-- done", ";; # done\n", " /* done */"])
def test_a_query_loses_its_last_semicolon_and_nothing_else(query: str, after: str) -> None:
    assert sql.single_statement(query + after) == query
    assert sql.rows_of_query(query + after).startswith(f"(\n{query}\n) AS ")


@pytest.mark.parametrize("query", ["SELECT 1; SELECT 2", "SELECT 1); DROP TABLE t; (SELECT 1"])
def test_a_second_statement_is_refused(query: str) -> None:
    with pytest.raises(SpecError, match="another one follows a semicolon"):
        sql.single_statement(query)


@pytest.mark.parametrize("query", ["", " ", ";", "-- nothing"])
def test_a_query_has_a_statement(query: str) -> None:
    with pytest.raises(SpecError, match="it has none"):
        sql.single_statement(query)


# Filters.


def test_a_comment_at_the_end_of_a_filter_hides_nothing_and_its_or_stays_inside() -> None:
    where = sql.all_of("id < 4", "", None, sql.user_filter("id = 1 OR id = 9 -- really"))
    (row,) = answer(sql.count_splits(sql.rows_of(TABLE), None, SPLIT, where=where), nested(10))
    assert row == {"train_rows": 1, "eval_rows": 0}


def test_no_conditions_are_no_condition() -> None:
    assert sql.all_of("", None, sql.user_filter(None)) == ""


@pytest.mark.parametrize(
    ("unit", "date", "condition"),
    [
        ("DAY", "2020-01-20", "_PARTITIONTIME = TIMESTAMP '2020-01-20 00:00:00+00'"),
        ("MONTH", "2020-02-01", "_PARTITIONTIME = TIMESTAMP '2020-02-01 00:00:00+00'"),
        ("YEAR", "2020-01-01", "_PARTITIONTIME = TIMESTAMP '2020-01-01 00:00:00+00'"),
        (
            "HOUR",
            "9999-12-31",
            (
                "_PARTITIONTIME >= TIMESTAMP '9999-12-31 00:00:00+00' AND "
                "_PARTITIONTIME <= TIMESTAMP '9999-12-31 23:00:00+00'"
            ),
        ),
    ],
)
def test_a_partition_is_named_by_the_time_that_it_begins(
    unit: str, date: str, condition: str
) -> None:
    assert sql.partition_filter(unit, date) == condition


@pytest.mark.parametrize(("unit", "first"), [("MONTH", "2020-03-01"), ("YEAR", "2020-01-01")])
def test_a_day_within_a_larger_partition_is_refused_with_the_partition_s_date(
    unit: str, first: str
) -> None:
    with pytest.raises(SpecError, match=f'partition_date="{first}"'):
        sql.partition_filter(unit, "2020-03-20")


def test_a_partition_that_is_no_date_is_refused() -> None:
    with pytest.raises(SpecError, match="2020-01-20"):
        sql.partition_filter("DAY", "yesterday' OR TRUE")


# Splits.


@pytest.mark.parametrize(
    "values",
    [
        pa.array([*range(500), -(2**63), 2**63 - 1, None]),
        pa.array([*map(str, range(300)), "øæ", "", "it's", None]),
        pa.array([True, False, None]),
        pa.array(range(18_000, 18_300), pa.int32()).cast(pa.date32()),
    ],
    ids=["INT64", "STRING", "BOOL", "DATE"],
)
def test_the_warehouse_s_buckets_are_the_worker_s(values: pa.Array[Any]) -> None:
    rows = pa.table({"n": range(len(values)), "h": values})
    chosen = sql.bucket("h", 1_000, alias=sql.ROWS)
    statement = sql.select(sql.rows_of(TABLE), ["n"], bucket_of=chosen)
    found = sorted(answer(statement, rows), key=lambda row: int(row["n"]))
    assert [row[sql.BUCKET] for row in found] == buckets_of(values, 1_000).tolist()

    codes = buckets_of(values, 1_000)
    (counted,) = answer(sql.count_splits(sql.rows_of(TABLE), "h", SPLIT), rows)
    assert counted == {
        "train_rows": int((codes < 600).sum()),
        "eval_rows": int(((codes >= 600) & (codes < 800)).sum()),
    }


def test_bytes_are_hashed_without_a_cast_that_could_fail() -> None:
    assert sql.bucket("b", 10, kind="BYTES") == (
        "ABS(MOD(FARM_FINGERPRINT(COALESCE(`b`, b'')), 10))"
    )


def test_a_sample_of_all_rows_needs_no_filter() -> None:
    assert sql.sample_filter("h", SplitBuckets(1_000, 800, 1_000)) == ""
    assert sql.sample_filter(None, SPLIT) == ""
    sample = sql.sample_filter("s.h", SPLIT)
    assert sample == f"{sql.bucket('s.h', 1_000)} < 800"


def test_rows_are_those_of_a_moment() -> None:
    text = sql.count_splits(sql.rows_of(TABLE, 1_579_482_123_456), "id", SPLIT)
    assert "`p.d.features` AS _faucet_rows FOR SYSTEM_TIME AS OF TIMESTAMP_MILLIS(15794" in text
    sqlglot.parse_one(text, read="bigquery")


# Rows.


def test_leaves_come_back_under_their_paths_and_null_structs_as_null_leaves() -> None:
    # The table is called as its column is, which must not matter.
    leaves = ["features.home.floor", "id", "features.age", "labels.age"]
    statement = sql.select(sql.rows_of(TABLE), leaves, where=sql.user_filter("features.age < 2"))
    rows = nested(30)
    found = sorted(answer(statement, rows), key=lambda row: int(row["id"]))
    expected = [
        {
            "features": {"home": {"floor": row["features"]["home"]["floor"]}}
            | {"age": row["features"]["age"]},
            "id": row["id"],
            "labels": row["labels"] or {"age": None},
        }
        for row in rows.to_pylist()
        if row["features"]["age"] < 2
    ]
    assert found == expected


def test_a_query_s_rows_are_selected_from() -> None:
    query = "WITH x AS (SELECT id, id * 2 AS `twice` FROM p.d.features) SELECT * FROM x; -- done"
    found = answer(sql.select(sql.rows_of_query(query), ["twice"]), nested(3))
    assert sorted(row["twice"] for row in found) == [0, 2, 4]


@pytest.mark.parametrize("column", [sql.BUCKET, "_FAUCET_CHUNK", f"{sql.CHUNK}.x"])
def test_columns_called_like_ours_are_refused(column: str) -> None:
    with pytest.raises(SpecError, match="in the way"):
        sql.select(sql.rows_of(TABLE), [column])


# Chunks.


def chunked(rows: pa.Table, leaves: list[str], chunks: int, **options: Any) -> list[dict[str, Any]]:
    chosen = sql.bucket("id", 1_000, alias=sql.ROWS)
    return answer(
        sql.select(sql.rows_of(TABLE), leaves, bucket_of=chosen, chunks=chunks, **options), rows
    )


def test_chunks_are_of_like_size_even_where_the_key_has_one_value() -> None:
    rows = pa.table({"id": pa.array([7] * 4_000), "x": range(4_000)})
    sizes = Counter(row[sql.CHUNK] for row in chunked(rows, ["id", "x"], 16))
    assert sorted(sizes) == list(range(16))
    assert max(sizes.values()) < 1.5 * 4_000 / 16


def test_chunks_have_nothing_to_do_with_the_split() -> None:
    rows = pa.table({"id": range(8_000)})
    for chunks in (8, 10):  # divisors of the number of buckets, were it one hash
        made = chunked(rows, ["id"], chunks)
        for chunk in range(chunks):
            buckets = [row[sql.BUCKET] for row in made if row[sql.CHUNK] == chunk]
            assert np.mean(np.array(buckets) < 600) == pytest.approx(0.6, abs=0.08)


def test_leaves_of_one_name_do_not_hide_each_other_from_the_chunks_hash() -> None:
    rows = pa.table(
        {
            "id": [0] * 200,
            "features": [{"x": 1}] * 200,
            "labels": [{"x": n} for n in range(200)],
        }
    )
    made = chunked(rows, ["features.x", "labels.x"], 4)
    assert len({row[sql.CHUNK] for row in made}) == 4


def test_equal_rows_are_spread_over_the_chunks() -> None:
    rows = pa.table({"id": [1] * 1_000})
    assert max(Counter(row[sql.CHUNK] for row in chunked(rows, ["id"], 4)).values()) < 350


@pytest.mark.parametrize("name", ["p.d.t", "d.t", "`p.d.t`", "my-project:d.t"])
def test_a_table_s_name_is_no_query(name: str) -> None:
    with pytest.raises(SpecError, match="write table='"):
        sql.single_statement(name)


def test_a_row_has_the_same_chunk_whenever_it_is_computed() -> None:
    rows = pa.table({"id": [*range(300), *range(200)]})
    first, again = (
        Counter(json.dumps(row) for row in chunked(given, ["id"], 8))
        for given in (rows, rows.take(list(range(499, -1, -1))))
    )
    assert first == again


@pytest.mark.parametrize("chunks", [0, 4_001])
def test_one_job_writes_so_many_partitions_and_no_more(chunks: int) -> None:
    sql.select(sql.rows_of(TABLE), ["id"], chunks=4_000)
    with pytest.raises(SpecError, match="4,000"):
        sql.select(sql.rows_of(TABLE), ["id"], chunks=chunks)


@pytest.mark.parametrize("hash_column", [None, "id", sql.BUCKET])
def test_the_rows_of_each_chunk_are_counted_by_split(hash_column: str | None) -> None:
    written = pa.Table.from_pylist(chunked(pa.table({"id": range(2_000)}), ["id"], 8))
    counted = answer(sql.count_chunks(TABLE, SPLIT, hash_column=hash_column), written)
    expected = []
    for chunk in range(8):
        rows = [row for row in written.to_pylist() if row[sql.CHUNK] == chunk]
        train = sum(hash_column is None or row[sql.BUCKET] < 600 for row in rows)
        evaluation = sum(hash_column is not None and 600 <= row[sql.BUCKET] < 800 for row in rows)
        expected.append({"chunk": chunk, "train_rows": train, "eval_rows": evaluation})
    assert counted == expected


def test_one_chunk_is_one_partition() -> None:
    assert sql.chunk_filter(3) == "_faucet_chunk = 3"
