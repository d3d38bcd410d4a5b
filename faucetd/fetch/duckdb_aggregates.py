"""What `statistics_sql` needs of DuckDB: its words, its rows of the train split, and its sample.

DuckDB knows no FarmHash, so the split is a function of ours, which its queries call for vectors of
rows. The sample is chosen by the MD5 of the rows' rowids, which never change at one snapshot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from faucetd.fetch.duckdb import DuckDBTable
from faucetd.fetch.split import TRAIN, Splitter
from faucetd.fetch.statistics_sql import KEY, Rows, Value, Words, finite_rows

_ROWS = "_faucet_rows"
_IS_TRAIN = "_faucet_is_train"


def _struct(fields: Mapping[str, str]) -> str:
    entries = (f"'{name}': {value}" for name, value in fields.items())
    return f"{{{', '.join(entries)}}}"


def _micros(column: str, kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        # Downwards, as when rows are read; DuckDB cuts off towards 0.
        nanos = f"epoch_ns({column})"
        return f"({nanos} - ({nanos} % 1000 + 1000) % 1000) // 1000"
    return f"epoch_us({column})"


WORDS = Words(
    double="DOUBLE",
    integer="HUGEINT",
    decimal="DECIMAL(38, 9)",
    text="VARCHAR",
    try_cast="TRY_CAST",
    is_nan="isnan",
    is_inf="isinf",
    all_true="bool_and",
    any_distinct="approx_count_distinct",
    length="length",
    entries="AS unnested(entry)",
    struct=_struct,
    micros=_micros,
)


class DuckDBAggregates:
    """The train split's rows of a table, for queries over them (`worker.by_query.Engine`).

    Args:
        table: The table; one of these a table.
        splitter: Tells which rows are of the train split; None if all are.
    """

    words = WORDS

    def __init__(self, table: DuckDBTable, splitter: Splitter | None) -> None:
        self._table = table
        where = ""
        if splitter is not None:

            def is_train(column: Any) -> Any:  # DuckDB would evaluate annotations
                array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
                return pa.array(splitter.assign(array) == TRAIN)

            of = table.expression(splitter.hash_column, _ROWS)
            table.add_function(_IS_TRAIN, is_train, splitter.hash_column, "BOOLEAN")
            where = f"{_IS_TRAIN}({of})"
        self.rows = Rows(f"{table.relation} AS {_ROWS}", where)

    def column(self, path: str) -> str:
        """A leaf's expression."""
        return self._table.expression(path, _ROWS)

    def sample(self, values: Sequence[Value], share: float) -> str:
        """A SELECT of `hashed`, UBIGINT, and the features' finite values, `x` and their place."""
        key = f"md5_number_lower(CAST({_ROWS}.rowid AS VARCHAR))"
        named = ", ".join(f"x{value.place}" for value in values)
        condition = "" if share >= 1 else f"\nWHERE {KEY} < {int(share * 2.0**64):d}"
        base = finite_rows(WORDS, self.rows, values, key=key)
        return f"SELECT {KEY} AS hashed, {named}\nFROM ({base}){condition}"

    def run(self, statement: str) -> pa.Table:
        """The rows of a SELECT; see `DuckDBTable.query` for errors."""
        return self._table.query(statement, "fitting the preprocessing by a query")
