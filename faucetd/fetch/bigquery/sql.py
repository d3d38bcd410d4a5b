"""The statements that we send, as text: pure functions, names and texts in, GoogleSQL out.

Invariants:

- Every name is quoted here, and every value is a literal that was made here. What a user wrote, a
  filter or a query, stands between parentheses and newlines, so that a comment at its end hides
  nothing of ours. It may still close a parenthesis and begin a second statement: whoever runs a
  statement makes sure first, by a dry run, that it is one SELECT (`jobs`).
- Columns are named through an alias of ours. Else `features.age` would mean the table in
  `FROM p.d.features`, which hides its column of the same name.
- No statement depends on anything but its arguments, and the same row gets the same bucket and
  chunk whenever and wherever it is computed.

The language: https://cloud.google.com/bigquery/docs/reference/standard-sql/query-syntax
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from faucet_client.spec import SplitBuckets
from faucetd.errors import SpecError

BUCKET = "_faucet_bucket"
"""The INT64 column that a statement adds for the split's bucket of each row."""

CHUNK = "_faucet_chunk"
"""The INT64 column that a statement adds for the chunk of each row."""

MAX_CHUNKS = 4_000
"""Partitions that one job may write; a table may have 10,000.

https://cloud.google.com/bigquery/quotas#partitioned_tables
"""

ROWS = "_faucet_rows"
"""The alias of what is selected from."""

_PROJECT = re.compile(r"(?:[\w.-]+:)?[\w-]+")
_DATASET = re.compile(r"\w+", re.ASCII)
# Letters, marks, digits, connectors, dashes and spaces of any script, says the documentation of
# tables; \w has no marks, so it is told what may not be there.
_NO_TABLE = re.compile(r"[^\w\s-]", re.ASCII)
_LEGACY = re.compile(r"(?P<project>[\w-]+):(?P<rest>\w+\.[^.:]+)")
_ONLY_A_NAME = re.compile(r"`?[\w:.-]+`?\.`?[\w$*-]+`?")

# What a semicolon may hide in: strings, whose backslash keeps a quote from ending them even when
# they are raw; quoted names; comments.
_TOKENS = re.compile(
    r'''
    (?P<comment> --[^\n]* | \#[^\n]* | /\*.*?\*/ )
    | """(?:\\.|.)*?""" | \'\'\'(?:\\.|.)*?\'\'\'
    | "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | `(?:\\.|[^`\\])*`
    | (?P<semicolon> ; )
    | (?P<space> \s+ )
    | .
    ''',
    re.VERBOSE | re.DOTALL,
)


class TableName(NamedTuple):
    """A table's full name."""

    project: str
    dataset: str
    table: str

    def __str__(self) -> str:
        return ".".join(self)

    @property
    def quoted(self) -> str:
        """As it stands in a FROM clause."""
        return identifier(str(self))


def parse_table(name: str, default_project: str) -> TableName:
    """What `project.dataset.table` or `dataset.table` names.

    A project may be of a domain, as in `example.com:project`, and have dots of its own.

    Raises:
        SpecError: it is no such name; the message says how to write what was meant.
    """
    bare = name.strip().strip("`")
    parts = bare.rsplit(".", 2)
    project, dataset, table = parts if len(parts) == 3 else (default_project, *_two(parts))
    hint = ""
    if legacy := _LEGACY.fullmatch(bare):
        hint = f"; a colon is of legacy SQL: write {legacy['project']}.{legacy['rest']}"
    elif "*" in table:
        hint = '; a wildcard stands for many tables: write query="SELECT … FROM `…*`" instead'
    elif "$" in table:
        hint = "; a partition is named by partition_date="
    elif "@" in table:
        hint = "; a moment is named by snapshot="
    elif (
        _PROJECT.fullmatch(project)
        and _DATASET.fullmatch(dataset)
        and table.strip()
        and not any(_NO_TABLE.match(character) and character < "\x80" for character in table)
    ):
        return TableName(project, dataset, table)
    raise SpecError(
        f"BigQuerySource.table={name!r} names no table; write project.dataset.table, or "
        f"dataset.table for one of project {default_project}{hint}"
    )


def identifier(name: str) -> str:
    """A name, or a table's dotted name, in backquotes."""
    return f"`{_escaped(name, '`')}`"


def path(leaf: str, alias: str | None = None) -> str:
    """The dotted path of a leaf, each part in backquotes, of the table called `alias`."""
    parts = [identifier(part) for part in leaf.split(".")]
    return ".".join(parts if alias is None else [alias, *parts])


def literal(text: str) -> str:
    """A STRING."""
    return f"'{_escaped(text, chr(39))}'"


def single_statement(query: str) -> str:
    """The query without the semicolon and the comments that may follow its end.

    Raises:
        SpecError: another statement follows, there is none, or it is a table's name.
    """
    end = 0
    ended = False
    for token in _TOKENS.finditer(query):
        if token["comment"] or token["space"]:
            continue
        if token["semicolon"]:
            ended = True
            continue
        if ended:
            raise SpecError(
                "BigQuerySource.query must be exactly one SELECT statement; another one follows "
                f"a semicolon, at character {token.start() + 1:,}"
            )
        end = token.end()
    if not end:
        raise SpecError("BigQuerySource.query must be exactly one SELECT statement; it has none")
    if _ONLY_A_NAME.fullmatch(name := query[:end].strip()):
        raise SpecError(
            f"BigQuerySource.query must be a SELECT statement, and {name} is the name of a table: "
            f"write table={name.replace('`', '')!r} instead of query="
        )
    return query[:end]


def all_of(*conditions: str | None) -> str:
    """The conditions, those that are none left out, joined by AND; "" if there is none."""
    given = [condition for condition in conditions if condition]
    return " AND ".join(given)


def user_filter(condition: str | None) -> str:
    """A user's filter as one term, whatever it holds."""
    return f"(\n{condition}\n)" if condition else ""


def bucket(
    hash_column: str, buckets: int, *, kind: str = "STRING", alias: str | None = None
) -> str:
    """The bucket of a row, in [0, buckets).

    BYTES are hashed as they are: their CAST to STRING fails where they are no UTF-8, and where
    they are, their hash is that of the text. Null hashes as the empty text. The MOD comes before
    the ABS, which would overflow on the smallest INT64.

    Args:
        hash_column: The dotted path of a leaf.
        buckets: How many there are.
        kind: Its type, in BigQuery's words.
        alias: The table that it is of.
    """
    column = path(hash_column, alias)
    if kind == "BYTES":
        text = f"COALESCE({column}, b'')"
    else:
        text = f"COALESCE(CAST({column} AS STRING), '')"
    return f"ABS(MOD(FARM_FINGERPRINT({text}), {buckets:d}))"


def sample_filter(hash_column: str | None, split: SplitBuckets, *, kind: str = "STRING") -> str:
    """That a row is in the train or eval split; "" if every row is. For queries and sessions."""
    if hash_column is None or split.eval_end >= split.buckets:
        return ""
    return f"{bucket(hash_column, split.buckets, kind=kind)} < {split.eval_end:d}"


def chunk_filter(chunk: int) -> str:
    """That a row of a table that was chunked is in this chunk: simple, and of one partition."""
    return f"{CHUNK} = {chunk:d}"


def partition_filter(unit: str, date: str) -> str:
    """That a row of a table partitioned by ingestion time is of that date.

    By _PARTITIONTIME, the start of a row's partition in UTC: only tables of daily partitions have
    _PARTITIONDATE, too. A date means its day, so of larger partitions it must name the first day:
    to read a whole month where one day was asked for would be a surprise.

    Args:
        unit: "HOUR", "DAY", "MONTH" or "YEAR", the length of a partition.
        date: The date, as in "2020-01-20".

    Raises:
        SpecError: it is no date, or within a partition.
    """
    try:
        day = dt.date.fromisoformat(date)
    except ValueError as error:
        raise SpecError(
            f'partition_date must be a date such as "2020-01-20", not {date!r}'
        ) from error
    first = {"MONTH": day.replace(day=1), "YEAR": day.replace(month=1, day=1)}.get(unit, day)
    if first != day:
        raise SpecError(
            f"partition_date={date!r} is a day, and the table is partitioned by {unit.lower()}; "
            f'write partition_date="{first}" for the {unit.lower()} that begins then'
        )
    if unit != "HOUR":
        return f"_PARTITIONTIME = TIMESTAMP '{day} 00:00:00+00'"
    # The day after 9999-12-31 has no name.
    return (
        f"_PARTITIONTIME >= TIMESTAMP '{day} 00:00:00+00' AND "
        f"_PARTITIONTIME <= TIMESTAMP '{day} 23:00:00+00'"
    )


def rows_of(table: TableName, snapshot_ms: int | None = None) -> str:
    """What to select from: a table, as of a moment in milliseconds since 1970, or of now."""
    if snapshot_ms is None:
        return f"{table.quoted} AS {ROWS}"
    return f"{table.quoted} AS {ROWS} FOR SYSTEM_TIME AS OF TIMESTAMP_MILLIS({snapshot_ms:d})"


def rows_of_query(query: str) -> str:
    """What to select from: the rows of a user's query.

    Raises:
        SpecError: it is not one statement.
    """
    return f"(\n{single_statement(query)}\n) AS {ROWS}"


def count_splits(
    rows: str,
    hash_column: str | None,
    split: SplitBuckets,
    *,
    kind: str = "STRING",
    where: str = "",
) -> str:
    """One row: how many are train (`train_rows`) and how many eval (`eval_rows`).

    Reads the hash column and what `where` names, and nothing at all if there are neither.

    Args:
        rows: Of `rows_of` or `rows_of_query`.
        hash_column: The leaf that decides; BUCKET if the rows have that; None makes all train.
        split: Which buckets are whose.
        kind: The hash column's type.
        where: Which rows to count, in SQL.
    """
    condition = f"\nWHERE {where}" if where else ""
    if hash_column is None:
        return f"SELECT COUNT(*) AS train_rows, 0 AS eval_rows\nFROM {rows}{condition}"
    if hash_column == BUCKET:
        return f"SELECT {_counts(split)}\nFROM {rows}{condition}"
    chosen = bucket(hash_column, split.buckets, kind=kind, alias=ROWS)
    return f"SELECT {_counts(split)}\nFROM (SELECT {chosen} AS {BUCKET}\nFROM {rows}{condition})"


def select(
    rows: str,
    leaves: Sequence[str],
    *,
    where: str = "",
    bucket_of: str | None = None,
    chunks: int | None = None,
) -> str:
    """The leaves, in STRUCTs as they were, with a column for each row's bucket and chunk.

    Only the leaves that are named are read and billed. The result has each under its own dotted
    path; a STRUCT that was null is one whose leaves are, which is the same to whoever reads leaves.

    The chunk is a hash of all leaves, not of the split's column alone. A key of few values, or with
    one frequent value, would put most of the table into one chunk; and chunks of the bucket's own
    hash would be correlated with the split, so that some held eval rows alone. As FarmHash of
    another text it is independent of the bucket.

    Equal rows are numbered, and the number is hashed too: else they would share a chunk, and a
    table of few distinct rows would have few chunks, each of rows that are all the same. Since
    nobody can tell equal rows apart, the chunks are the same whenever they are computed. It costs a
    shuffle: time of slots, and no bytes billed. Numbering only where the chunks turned out lopsided
    would save that, and be billed for writing those tables twice.

    Args:
        rows: Of `rows_of` or `rows_of_query`.
        leaves: Dotted paths.
        where: Which rows, in SQL.
        bucket_of: What `bucket` made, with `alias=ROWS`; adds the column BUCKET.
        chunks: How many; adds the column CHUNK, in [0, chunks).

    Raises:
        SpecError: a name begins like ours, or there are too many chunks for one job.
    """
    for leaf in leaves:
        if leaf.split(".")[0].lower() in (BUCKET, CHUNK):
            raise SpecError(f"a column called {leaf} is in the way of ours; rename it")
    columns = _nested(leaves)
    if bucket_of is not None:
        columns.append(f"{bucket_of} AS {BUCKET}")
    if chunks is not None:
        columns.append(f"{_chunk(leaves, chunks)} AS {CHUNK}")
    condition = f"\nWHERE {where}" if where else ""
    listed = ",\n  ".join(columns)
    return f"SELECT\n  {listed}\nFROM {rows}{condition}"


def count_chunks(
    table: TableName, split: SplitBuckets, *, hash_column: str | None = None, kind: str = "STRING"
) -> str:
    """The rows of each chunk that has any: `chunk`, `train_rows`, `eval_rows`, in chunks' order.

    Args:
        table: One that was written with the column CHUNK.
        split: Which buckets are whose.
        hash_column: The leaf that decides; BUCKET if the table has that; None makes all train.
        kind: The hash column's type.
    """
    if hash_column is None:
        counts, chosen = "COUNT(*) AS train_rows, 0 AS eval_rows", ""
    elif hash_column == BUCKET:
        counts, chosen = _counts(split), f", {BUCKET}"
    else:
        counts = _counts(split)
        chosen = f", {bucket(hash_column, split.buckets, kind=kind, alias=ROWS)} AS {BUCKET}"
    return (
        f"SELECT {CHUNK} AS chunk, {counts}\n"
        f"FROM (SELECT {CHUNK}{chosen} FROM {rows_of(table)})\n"
        "GROUP BY chunk ORDER BY chunk"
    )


def _counts(split: SplitBuckets) -> str:
    return (
        f"COUNTIF({BUCKET} < {split.train_end:d}) AS train_rows, "
        f"COUNTIF({BUCKET} >= {split.train_end:d} AND {BUCKET} < {split.eval_end:d}) AS eval_rows"
    )


def _chunk(leaves: Sequence[str], chunks: int) -> str:
    if not 1 <= chunks <= MAX_CHUNKS:
        raise SpecError(
            f"{chunks:,} chunks: one job can write 1 to {MAX_CHUNKS:,} partitions; raise chunk_rows"
        )
    row = f"TO_JSON_STRING(STRUCT({', '.join(_nested(leaves))}))"
    numbered = f"CONCAT({row}, CAST(ROW_NUMBER() OVER (PARTITION BY {row}) AS STRING))"
    return f"ABS(MOD(FARM_FINGERPRINT({numbered}), {chunks:d}))"


_Tree = Mapping[str, "_Tree"]


def _nested(leaves: Sequence[str]) -> list[str]:
    """Expressions that select the leaves, one for each column at the top, in order."""
    tree: dict[str, _Tree] = {}
    for leaf in leaves:
        below = tree
        for part in leaf.split("."):
            below = below.setdefault(part, {})  # type: ignore[assignment] # made here, so a dict
    return [_expression((name,), below) for name, below in tree.items()]


def _expression(parts: tuple[str, ...], below: _Tree) -> str:
    name = identifier(parts[-1])
    if not below:
        return f"{path('.'.join(parts), ROWS)} AS {name}"
    fields = ", ".join(_expression((*parts, field), under) for field, under in below.items())
    return f"STRUCT({fields}) AS {name}"


def _escaped(text: str, quote: str) -> str:
    """With the escapes that strings and quoted names have in common."""
    escaped = text.replace("\\", "\\\\").replace(quote, f"\\{quote}")
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped)


def _two(parts: Sequence[str]) -> tuple[str, str]:
    return (parts[0], parts[1]) if len(parts) == 2 else ("", parts[0])
