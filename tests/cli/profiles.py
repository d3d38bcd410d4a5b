"""Profiles to look at: the flights of the demo, and a wide table; as pages and as screenshots.

    python -m tests.cli.profiles FOLDER

writes both pages into FOLDER, and where Chromium is installed what they look like.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from faucet_client.preprocessing import FitOptions, fit
from faucet_client.profile import Profile, profile_of
from faucet_client.report import render
from faucetd.demo import table

ROWS = 40_000


def of_flights(rows: int = ROWS) -> Profile:
    """Twelve features of the demo's flights, two of them text, with drift put into one."""
    with tempfile.TemporaryDirectory(prefix="profile-") as folder:
        database = Path(folder) / "flights.duckdb"
        total = table.make_table(database, rows)
        with duckdb.connect(str(database), read_only=True) as connection:
            flat = connection.execute("SELECT row_id, features.* FROM flights").fetchnumpy()
    columns: dict[str, Any] = {
        name: column if name in table.TEXTS else _floats(column)
        for name, column in flat.items()
        if name not in ("row_id", "destination")
    }
    columns["scheduled"] = _departures(flat)
    held_out = np.ma.getdata(flat["row_id"]) % 5 == 0
    train = {name: column[~held_out] for name, column in columns.items()}
    evaluation = {name: column[held_out] for name, column in columns.items()}
    # As if the eval rows were of a year in which flights were later.
    evaluation["departure_delay"] = evaluation["departure_delay"] + 6.0
    spec = fit(train, FitOptions(skip_quantiles=False))
    split = {"train": int((~held_out).sum()), "eval": int(held_out.sum())}
    return profile_of(
        spec,
        train,
        evaluation,
        source="DuckDB flights.duckdb, table flights",
        key="9f2c41d07be85a63f1b09c7724e6d8a5",
        rows=split,
        bytes_read=total * 96,
        policies={
            "plane_age": {"imputed with the median": int(np.isnan(train["plane_age"]).sum())}
        },
    )


def of_wide_table(features: int = 500, rows: int = 3_000) -> Profile:
    """A table of as many columns of every kind that has some nulls and some drift."""
    random = np.random.default_rng(20200120)
    train: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}
    for number in range(features):
        shift = float(number % 37 == 5) * random.uniform(0.3, 1.2)
        name = f"{_OWNERS[number % 4]}_{_KINDS[number % 6]}_{number:03d}"
        train[name] = _wide_column(random, number, rows, 0.0)
        evaluation[name] = _wide_column(random, number, rows // 3, shift)
    return profile_of(
        fit(train, FitOptions(skip_quantiles=False)),
        train,
        evaluation,
        source="BigQuery shop-analytics.training.impressions, 2020-01-20",
        key="41d07be85a63f1b09c7724e6d8a59f2c",
        rows={"train": 48_210_377, "eval": 12_049_118},
        bytes_read=183_500_000_000,
    )


_OWNERS = ("user", "item", "session", "context")
_KINDS = ("score", "count", "rate", "level", "flag", "amount")


def _wide_column(
    random: np.random.Generator, number: int, rows: int, shift: float
) -> NDArray[np.float64]:
    kind = number % 6
    made: NDArray[np.float64] = (
        random.normal(number % 11, 1 + number % 7, rows) + shift * (1 + number % 7),
        np.floor(random.lognormal(2 + shift, 1, rows)),
        random.beta(2, 5 - min(3 * shift, 4), rows),
        random.integers(0, 4 + number % 9, rows).astype(np.float64),
        (random.random(rows) < 0.2 + shift / 3).astype(np.float64),
        random.lognormal(1 + shift, 0.8, rows),
    )[kind]
    if number % 5 == 0:
        made[random.random(rows) < (number % 50) / 60] = np.nan
    if number % 90 == 11:
        made[:2] = np.inf
    return made


def _departures(flat: dict[str, Any]) -> NDArray[Any]:
    month, day, minute = (
        np.ma.getdata(flat[name]).astype(np.int64) for name in ("month", "day", "departure_minute")
    )
    months = np.datetime64("2013-01", "M") + (month - 1)
    return months.astype("datetime64[D]").astype("datetime64[m]") + (day - 1) * 1440 + minute


def _floats(column: Any) -> NDArray[np.float64]:
    return np.ma.filled(np.ma.asarray(column).astype(np.float64), np.nan)


def main(folder: Path) -> None:
    """Writes pages and screenshots."""
    from tests.cli.browser import chromium, running_page

    folder.mkdir(parents=True, exist_ok=True)
    pages = {"flights": of_flights(), "wide": of_wide_table()}
    for name, profile in pages.items():
        (folder / f"{name}.html").write_text(render(profile), encoding="utf-8")
    if chromium() is None:
        return
    with (
        tempfile.TemporaryDirectory(prefix="chromium-") as browser,
        running_page(Path(browser)) as page,
    ):
        for name in pages:
            for dark in (False, True):
                page.open(folder / f"{name}.html", dark=dark, height=1000)
                page.wait_for("document.querySelectorAll('.small canvas').length > 12")
                colours = "dark" if dark else "light"
                page.screenshot(folder / f"{name}-{colours}.png")
                page.evaluate("document.querySelector('.toggle').click()")
                page.wait_for("document.querySelectorAll('.large canvas').length > 0")
                page.screenshot(folder / f"{name}-{colours}-open.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
