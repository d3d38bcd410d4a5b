"""Fits a preprocessing spec where the rows are: queries count, and here is made of it what rules
and formulas are of, the same statistics as those of rows that were read (`prepare.fitting`).

What agrees with the fit of all rows (`fit_on="stream"`), on the same rows:

- exactly: how many rows, nulls, infinite, rounded and long values there are, ranges, and the values
  and counts of categories and of columns of few different values, so also the types that follow of
  them, and the quantiles, the mode and the Box-Cox transform of a column of few values in few rows;
- within 1e-9, relative to itself or the standard deviation: the mean; relative to itself: that;
  within 1e-9 relative: K². (The sums are good to about 1e-15: `fetch.statistics_sql`.)
- as well as one sample with another: quantiles, the mode and the Box-Cox transform of columns of
  many values, which both take from `FitOptions.sample_rows` rows chosen by a hash, here another
  one. A quantile's rank is off by about 1 / (2 √sample_rows) at most, one standard deviation.

Columns of few different values need no sample: as many values as it would have are taken at equal
distances from all of them in order.
"""  # noqa: D205  # one sentence

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from faucet_client.preprocessing import (
    CategoryStatistics,
    ColumnStatistics,
    FitOptions,
    TimeStatistics,
    spec_of,
    statistics_of,
)
from faucet_client.preprocessing.categories import ValueCounts
from faucet_client.preprocessing.columns import integers
from faucet_client.preprocessing.hashing import hashes_of_integers, hashes_of_texts
from faucet_client.preprocessing.spec import PreprocessingSpec
from faucet_client.preprocessing.statistics import Distinct, Sample
from faucet_client.preprocessing.transforms import Categorical
from faucetd.fetch import statistics_sql
from faucetd.fetch.statistics_sql import Centring, Rows, Value, Words
from faucetd.prepare.columns import SourceColumn
from faucetd.prepare.raw import raw_column

_SURELY_MANY = 2
"""A column that is said to have so many times the limit of different values has more than it: the
estimates of engines are good to some percent."""

_SAMPLE_CELLS = 1 << 26
"""How many values a sample may have, of all features together."""

Scans = Sequence[tuple[str, int]]
"""Statements, each with the number of queries that read at most what it does."""

Statistics = ColumnStatistics | CategoryStatistics | TimeStatistics


class Engine(Protocol):
    """Runs queries over the rows of the train split."""

    @property
    def words(self) -> Words:
        """How it writes them."""
        ...

    @property
    def rows(self) -> Rows:
        """The rows."""
        ...

    def column(self, path: str) -> str:
        """A leaf's expression."""
        ...

    def sample(self, values: Sequence[Value], share: float) -> str:
        """A SELECT of `hashed` and the features' `x0`, `x1`, … of about this share of rows."""
        ...

    def run(self, statement: str) -> pa.Table:
        """The rows of a SELECT."""
        ...


class QueryFit:
    """One fit by queries.

    Args:
        features: The columns to fit, none of lists.
        options: How.
        engine: Where the rows are.

    Attributes:
        queries: How many queries were run.

    Raises:
        ColumnError: an option names no column.
        Exception: what `Engine.column` raises.
    """

    def __init__(
        self, features: Sequence[SourceColumn], options: FitOptions, engine: Engine
    ) -> None:
        self._options = options
        self._engine = engine
        self._names = [feature.name for feature in features]
        # Of no row: these tell what kind of statistics each column needs, by the one rule for it.
        none: dict[str, Any] = {
            f.name: raw_column(f.source, pa.array([], f.type)) for f in features
        }
        self._none = cast("dict[str, Statistics]", statistics_of(none, options))
        self._numbers: list[Value] = []
        self._categories: list[Value] = []
        self.queries = 0
        for place, feature in enumerate(features):
            if feature.name in self._none:
                self._add(place, feature)

    def scans(self) -> Scans:
        """What `spec` begins with, and how many queries it runs at most that read as much.

        Of a feature each query reads all rows, or none: of numbers, those of what is counted, of
        the powers, and of either the different values or the sample.
        """
        words, rows = self._engine.words, self._engine.rows
        found = []
        if self._numbers:
            found.append((statistics_sql.number_facts(words, rows, self._numbers), 4))
        if self._categories:
            found.append((statistics_sql.category_facts(words, rows, self._categories), 2))
        return found

    def spec(self) -> PreprocessingSpec:
        """The fitted spec.

        Raises:
            ColumnError: a column cannot be fitted; the message names it, the rule and the remedy.
            FaucetError: as of `Engine.run`.
        """
        found = {**self._of_numbers(), **self._of_categories()}
        return spec_of({name: found[name] for name in self._none}, self._options)

    def _add(self, place: int, feature: SourceColumn) -> None:
        words, column = self._engine.words, self._engine.column(feature.source)
        none = self._none[feature.name]
        if isinstance(none, CategoryStatistics):
            value = statistics_sql.category_value(words, place, column, feature.type)
            self._categories.append(value)
            return
        policy = self._options.policies.get(feature.name)
        self._numbers.append(
            statistics_sql.number_value(
                words,
                place,
                column,
                feature.type,
                is_time=isinstance(none, TimeStatistics),
                clip=None if policy is None else policy.clip,
            )
        )

    # Numbers and times --------------------------------------------------------------------------

    def _of_numbers(self) -> dict[str, Statistics]:
        if not self._numbers:
            return {}
        engine = self._engine
        facts = self._by_place(
            statistics_sql.number_facts(engine.words, engine.rows, self._numbers)
        )
        self._check_whole(facts)
        filled = [value for value in self._numbers if facts.get(value.place, {}).get("used")]
        centrings = {value.place: _centring(facts[value.place]) for value in filled}
        sums: dict[int, dict[str, Any]] = {}
        if filled:
            sums = self._by_place(
                statistics_sql.power_sums(engine.words, engine.rows, filled, centrings)
            )
        distinct = self._distinct([v for v in filled if self._may_be_few(facts[v.place])])
        many = [v for v in filled if distinct.get(v.place) is None]
        samples = self._samples(many, facts)
        found: dict[str, Statistics] = {}
        for place, known in ((value.place, self._unseen(value.place)) for value in self._numbers):
            if place in facts:
                known = _counted(known, facts[place], self._options.sample_rows)
            if place in centrings:
                counts = distinct.get(place) or Distinct(known.distinct.limit, None, None)
                sample = samples[place] if place in samples else _spread(counts, known.sample.limit)
                summed = [sums[place][f"s{power}"] for power in range(1, 5)]
                powers = centrings[place].sums(facts[place]["used"], summed)
                known = replace(known, powers=powers, distinct=counts, sample=sample)
            name = self._names[place]
            none = self._none[name]
            found[name] = known
            if isinstance(none, TimeStatistics):
                found[name] = TimeStatistics(none.dates, known)
        return found

    def _unseen(self, place: int) -> ColumnStatistics:
        """The statistics of no row of a feature of numbers or times."""
        none = self._none[self._names[place]]
        assert not isinstance(none, CategoryStatistics)
        return none.microseconds if isinstance(none, TimeStatistics) else none

    def _may_be_few(self, facts: Mapping[str, Any]) -> bool:
        limit = self._unseen(facts["feature"]).distinct.limit
        return int(facts["different"]) <= _SURELY_MANY * limit

    def _distinct(self, values: Sequence[Value]) -> dict[int, Distinct]:
        """How often each value occurs, of the features that have few."""
        if not values:
            return {}
        engine = self._engine
        rows = self._run(statistics_sql.distinct_numbers(engine.words, engine.rows, values))
        found = {}
        for place, (numbers, counts) in _of_each(rows).items():
            if len(numbers) <= (limit := self._unseen(place).distinct.limit):
                order = np.argsort(numbers)
                found[place] = Distinct(limit, numbers[order] + 0.0, counts[order])
        return found

    def _samples(
        self, values: Sequence[Value], facts: Mapping[int, Mapping[str, Any]]
    ) -> dict[int, Sample]:
        """The values of the rows of smallest hash, of the features that have many values.

        The share that is asked for is enough, but for one time in a billion, for the feature of
        the most missing values to have its sample full; within limits of memory.
        """
        if not values:
            return {}
        limit = self._options.sample_rows
        rows = facts[values[0].place]["all_rows"]
        fewest = min(facts[value.place]["used"] for value in values)
        wanted = (limit + 6 * math.sqrt(limit)) * rows / fewest
        wanted = min(wanted, max(_SAMPLE_CELLS / len(values), 2 * limit))
        chosen = self._run(self._engine.sample(values, min(wanted / rows, 1.0)))
        found = {}
        if not chosen.num_rows:
            return {value.place: Sample.of(np.empty(0), None, limit) for value in values}
        keys = _array(chosen, "hashed").astype(np.int64, copy=False).view(np.uint64)
        for value in values:
            column = chosen.column(f"x{value.place}").combine_chunks()
            there = column.is_valid().to_numpy(zero_copy_only=False)
            numbers = column.fill_null(0.0).to_numpy(zero_copy_only=False)[there] + 0.0
            found[value.place] = Sample.of(numbers, keys[there], limit)
        return found

    # Categories ---------------------------------------------------------------------------------

    def _of_categories(self) -> dict[str, Statistics]:
        if not self._categories:
            return {}
        engine, limit = self._engine, self._options.category_limit
        facts = self._by_place(
            statistics_sql.category_facts(engine.words, engine.rows, self._categories)
        )
        self._check_whole(facts)
        listed = [
            value
            for value in self._categories
            if facts.get(value.place, {}).get("different")
            and (
                int(facts[value.place]["different"]) <= _SURELY_MANY * limit
                or self._is_listed(value.place)
            )
        ]
        counted: dict[int, tuple[NDArray[Any], NDArray[np.int64]]] = {}
        if listed:
            # One more than the limit tells that there are more.
            statement = statistics_sql.categories(engine.words, engine.rows, listed, limit + 1)
            counted = _of_each(self._run(statement))
        found: dict[str, Statistics] = {}
        for value in self._categories:
            none = self._none[self._names[value.place]]
            assert isinstance(none, CategoryStatistics)
            if (fact := facts.get(value.place)) is not None:
                none = _categories(none, fact, counted.get(value.place), limit)
            found[self._names[value.place]] = none
        return found

    def _is_listed(self, place: int) -> bool:
        """Whether the categories are given, and it is to be told how many rows have none."""
        override = self._options.feature_overrides.get(self._names[place])
        return isinstance(override, Categorical)

    # Both ---------------------------------------------------------------------------------------

    def _run(self, statement: str) -> pa.Table:
        self.queries += 1
        return self._engine.run(statement)

    def _by_place(self, statement: str) -> dict[int, dict[str, Any]]:
        """The rows of a statement, by feature; those of no row are missing."""
        return {row["feature"]: row for row in self._run(statement).to_pylist()}

    def _check_whole(self, facts: Mapping[int, Mapping[str, Any]]) -> None:
        """Refuses numbers that should be whole, in the words of those who read rows."""
        for place, fact in facts.items():
            if fact["strange"] is not None:
                integers(self._names[place], np.array([fact["strange"]]))


def _centring(fact: Mapping[str, Any]) -> Centring:
    mean = statistics_sql.mean_of(fact["centre"])
    return Centring.of(fact["low"], fact["high"], mean, whole=fact["whole"])


def _counted(
    known: ColumnStatistics, fact: Mapping[str, Any], sample_rows: int
) -> ColumnStatistics:
    used = bool(fact["used"])
    return replace(
        known,
        rows=fact["all_rows"],
        nulls=fact["missing"],
        infinite=fact["infinite"],
        rounded=fact["rounded"],
        whole=fact["whole"] if used else True,
        minimum=fact["low"] + 0.0 if used else math.inf,
        maximum=fact["high"] + 0.0 if used else -math.inf,
        sample=replace(known.sample, limit=sample_rows),
    )


def _spread(distinct: Distinct, limit: int | None) -> Sample:
    """As many values as a sample has, at equal distances from all of them in order."""
    assert distinct.values is not None
    assert distinct.counts is not None
    stops = np.cumsum(distinct.counts)
    rows = int(stops[-1])
    if limit is None or rows <= limit:
        values = np.repeat(distinct.values, distinct.counts)
    else:
        # Of the middles of `limit` parts, in whole numbers: 2 i + 1 halves of a part.
        middles = [(2 * i + 1) * rows // (2 * limit) for i in range(limit)]
        values = distinct.values[np.searchsorted(stops, middles, side="right")]
    return Sample(limit, np.zeros(len(values), np.uint64), values)


def _categories(
    none: CategoryStatistics,
    fact: Mapping[str, Any],
    counted: tuple[NDArray[Any], NDArray[np.int64]] | None,
    limit: int,
) -> CategoryStatistics:
    nulls, long = fact["missing"], fact["long_ones"]
    known = replace(none, rows=fact["all_rows"], nulls=nulls, long=long)
    if counted is None:
        if not fact["different"]:
            return known
        return replace(
            known, found=replace(none.found, many=True), different=int(fact["different"])
        )
    texts, counts = counted
    many = len(texts) > limit
    if many:
        often = np.lexsort((texts.astype(str), -counts))[:limit]
        texts, counts = texts[often], counts[often]
    values: NDArray[Any] = texts
    if none.kind == "text":
        hashes = hashes_of_texts(values.tolist())
    else:
        values = np.array([int(text) for text in texts], np.int64)
        hashes = hashes_of_integers(values)
    found = ValueCounts.of(limit, many, hashes, values, counts)
    different = max(int(fact["different"]), limit + 1) if many else None
    return replace(known, found=found, different=different)


def _of_each(rows: pa.Table) -> dict[int, tuple[NDArray[Any], NDArray[np.int64]]]:
    """The values and counts of each feature."""
    if not rows.num_rows:
        return {}
    places, values, counts = (_array(rows, name) for name in ("feature", "value", "n"))
    order = np.argsort(places, kind="stable")
    places, values, counts = places[order], values[order], counts[order]
    starts = np.flatnonzero(np.diff(places, prepend=places[0] - 1))
    stops = np.append(starts[1:], len(places))
    return {
        int(places[start]): (values[start:stop], counts[start:stop].astype(np.int64))
        for start, stop in zip(starts, stops, strict=True)
    }


def _array(rows: pa.Table, name: str) -> NDArray[Any]:
    return rows.column(name).combine_chunks().to_numpy(zero_copy_only=False)
