"""What `fetch.statistics_sql` needs of GoogleSQL, and the sample, which is chosen by FarmHash.

The invariants are those of `sql`: names are quoted, and nothing else of a user stands here.

https://cloud.google.com/bigquery/docs/reference/standard-sql/functions-all
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from faucet_client.spec import SplitBuckets
from faucetd.fetch.bigquery import sql
from faucetd.fetch.statistics_sql import Rows, Value, Words, finite_rows

HASH = "hashed"
"""The column of a sample's hashes, INT64."""


def _struct(fields: Mapping[str, str]) -> str:
    return f"STRUCT({', '.join(f'{value} AS {name}' for name, value in fields.items())})"


def _micros(column: str, kind: pa.DataType) -> str:
    """Of a TIMESTAMP, DATETIME or DATE; the last two are of UTC."""
    is_timestamp = pa.types.is_timestamp(kind) and kind.tz is not None
    return f"UNIX_MICROS({column if is_timestamp else f'TIMESTAMP({column})'})"


WORDS = Words(
    double="FLOAT64",
    integer="INT64",
    decimal="NUMERIC",
    text="STRING",
    try_cast="SAFE_CAST",
    is_nan="IS_NAN",
    is_inf="IS_INF",
    all_true="LOGICAL_AND",
    any_distinct="APPROX_COUNT_DISTINCT",
    length="CHAR_LENGTH",
    entries="AS entry",
    struct=_struct,
    micros=_micros,
)


def train_rows(
    rows: str, where: str, split: SplitBuckets, hash_column: str | None, *, kind: str
) -> Rows:
    """The train split of rows.

    Args:
        rows: Of `sql.rows_of`.
        where: Which of them there are, in SQL.
        split: Which buckets are whose.
        hash_column: The leaf that decides; `sql.BUCKET` if the rows have that; None for all.
        kind: The hash column's type.
    """
    chosen = ""
    if hash_column == sql.BUCKET:
        chosen = f"{sql.path(sql.BUCKET, sql.ROWS)} < {split.train_end:d}"
    elif hash_column is not None and split.train_end < split.buckets:
        bucket = sql.bucket(hash_column, split.buckets, kind=kind, alias=sql.ROWS)
        chosen = f"{bucket} < {split.train_end:d}"
    return Rows(rows, sql.all_of(where, chosen))


def sample(rows: Rows, values: Sequence[Value], share: float) -> str:
    """A row a chosen row: HASH, and the features' finite values, `x` and their place.

    Rows are chosen by the hash of their features' values. Equal rows are numbered, and the number
    is hashed too: else all rows of a frequent value would be chosen, or none. As with the chunks of
    `sql.select`, that costs a shuffle, and no bytes billed; and as there, nobody can tell equal
    rows apart, so that the sample is the same whenever it is taken.

    Args:
        rows: Of what.
        values: The features.
        share: Which share of the rows, from 0 to 1.
    """
    named = [f"x{value.place}" for value in values]
    row = f"TO_JSON_STRING({_struct({name: name for name in named})})"
    of_rows = f"SELECT FARM_FINGERPRINT({row}) AS row_hash, {', '.join(named)}"
    number = "ROW_NUMBER() OVER (PARTITION BY row_hash)"
    numbered = f"CONCAT(CAST(row_hash AS STRING), '#', CAST({number} AS STRING))"
    condition = ""
    if share < 1:
        condition = f"\nWHERE {HASH} < {int(share * 2.0**64) - 2**63:d}"
    return (
        f"SELECT {HASH}, {', '.join(named)}\n"
        f"FROM (SELECT FARM_FINGERPRINT({numbered}) AS {HASH}, {', '.join(named)}\n"
        f"FROM ({of_rows}\nFROM ({finite_rows(WORDS, rows, values)}))){condition}"
    )
