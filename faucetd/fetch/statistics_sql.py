"""The statements that fit a preprocessing spec where the rows are: text in, SQL out, none is run.

Invariants:

- No name and no text of a user stands here: columns come as expressions that whoever knows their
  engine has quoted, and all else is numbers and names of ours.
- A statement reads each row once, however many features there are: an entry a feature is made of it
  (UNNEST), and aggregates are by entry. So a result has a row a feature, not a column.
- What is added up is whole numbers and decimals, so that a result does not depend on the order in
  which an engine comes upon the rows.

The powers are summed of y = (x · h − c) · t, c near the mean, and t a power of two such that y is
within ±1: so nothing overflows, and the moments lose no digits where the mean is large. y is
computed in float64, each power with at most 4 roundings of a relative 2^-53, and then taken in
units of 2^-50 · 1e-9, below 1e-24: a sum of powers of y is therefore within 1e-15 of the sum of
their magnitudes, plus 1e-24 a row, however many rows there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import pyarrow as pa

from faucet_client.preprocessing.checks import EXACT_INTEGER
from faucet_client.preprocessing.moments import PowerSums
from faucet_client.preprocessing.transforms import LONGEST_VALUE

KEY = "key"
"""The column of `finite_rows` that tells a row from another, where an engine knows such a thing."""

_SUM_SCALE = 2.0**50
_CENTRE_SCALE = 2.0**-64
"""What values are multiplied by before their mean is taken, whose sum would overflow else."""
_LARGEST = 2.0**1000
_GRID_BITS = 16


@dataclass(frozen=True)
class Words:
    """What SQL engines call differently.

    Attributes:
        double: The type of float64.
        integer: Of whole numbers.
        decimal: Of numbers with 29 digits before the point and 9 after it.
        text: Of text.
        try_cast: A cast that is NULL where it fails.
        is_nan: Of a float64.
        is_inf: The same.
        all_true: The aggregate.
        any_distinct: About how many different values there are, to some percent.
        length: Of a text, in characters.
        entries: What follows UNNEST(…), so that an element is called `entry`.
        struct: Writes a STRUCT of named expressions.
        micros: Writes a time's microseconds since 1970, by the time's expression and type.
    """

    double: str
    integer: str
    decimal: str
    text: str
    try_cast: str
    is_nan: str
    is_inf: str
    all_true: str
    any_distinct: str
    length: str
    entries: str
    struct: Callable[[Mapping[str, str]], str]
    micros: Callable[[str, pa.DataType], str]


@dataclass(frozen=True)
class Rows:
    """What is aggregated over: the train split.

    Attributes:
        source: What stands after FROM.
        where: What a row of it must meet; "" for all.
    """

    source: str
    where: str


@dataclass(frozen=True)
class Value:
    """A feature, as a statement has it.

    Attributes:
        place: Its number, by which results call it.
        value: Its expression over the rows: float64 or, of categories, text.
        rounded: Whether it is a whole number that float64 does not hold.
        strange: The value, as float64, where it should be a whole number up to 2^53 and is none.
        clip: Bounds that finite values are moved to.
    """

    place: int
    value: str
    rounded: str
    strange: str
    clip: tuple[float, float] | None = None


@dataclass(frozen=True)
class Centring:
    """How values become numbers within ±1: y = (x · half − centre) · scale."""

    half: float
    centre: float
    scale: float

    @classmethod
    def of(cls, low: float, high: float, mean: float, *, whole: bool) -> Centring:
        """That for values from `low` to `high` whose mean is about `mean`.

        The centre lies on a grid, so that the last digits of `mean`, which may depend on the order
        of the rows, decide nothing; of whole numbers it is one, so that differences are exact.
        """
        half = 1.0 if max(-low, high) < _LARGEST else 0.25
        low, high, mean = low * half, high * half, mean * half
        if low == high:
            return cls(half, low, 1.0)
        if not low <= mean <= high:
            mean = low / 2 + high / 2
        step = math.ldexp(1.0, max(math.frexp(high - low)[1] - _GRID_BITS, -1_000))
        if whole and half == 1:
            step = max(step, 1.0)
        centre = round(mean / step) * step if abs(mean) / step < EXACT_INTEGER else mean
        reach = max(high - centre, centre - low)
        return cls(half, centre, math.ldexp(1.0, min(-math.frexp(reach)[1], 1_000)))

    def sums(self, count: int, summed: Sequence[Decimal]) -> PowerSums:
        """The sums of the powers of x, of those of y as `sums` has them, exactly transformed."""
        moments = [Fraction(count), *(Fraction(each) / Fraction(_SUM_SCALE) for each in summed)]
        # x = start + stretch · y
        start = Fraction(self.centre) / Fraction(self.half)
        stretch = 1 / (Fraction(self.scale) * Fraction(self.half))
        found = []
        for power in range(1, 5):
            parts = (
                math.comb(power, k) * start ** (power - k) * stretch**k * moments[k]
                for k in range(power + 1)
            )
            found.append(sum(parts, Fraction(0)))
        return PowerSums.of_sums(count, found)


def number_value(
    words: Words,
    place: int,
    column: str,
    kind: pa.DataType,
    *,
    is_time: bool,
    clip: tuple[float, float] | None,
) -> Value:
    """A column that is fitted as numbers, or as times.

    Args:
        words: The engine's.
        place: The feature's number.
        column: The column's expression.
        kind: Its Arrow type.
        is_time: Whether its numbers are microseconds, which are whole.
        clip: Bounds.
    """
    types = pa.types
    double = f"CAST({column} AS {words.double})"
    if types.is_boolean(kind):
        double = f"CAST(CAST({column} AS {words.integer}) AS {words.double})"
        return Value(place, double, "FALSE", _none(words), clip)
    if types.is_floating(kind) or types.is_decimal(kind):
        if not is_time:
            return Value(place, double, "FALSE", _none(words), clip)
        value = f"IF({words.is_inf}({double}), NULL, {double})"
        return Value(place, value, "FALSE", _strange(words, double), clip)
    if not types.is_integer(kind):
        column = words.micros(column, kind)
        double = f"CAST({column} AS {words.double})"
    # 2^63 is a float64, and no INT64: whatever is rounded to it was another number.
    back = f"{words.try_cast}({double} AS {words.integer})"
    rounded = f"COALESCE({back} <> {column}, {column} IS NOT NULL)"
    return Value(place, double, rounded, _none(words), clip)


def category_value(words: Words, place: int, column: str, kind: pa.DataType) -> Value:
    """A column that is fitted as categories: of text, or of whole numbers.

    The arguments are those of `number_value`.
    """
    types = pa.types
    if types.is_floating(kind) or types.is_decimal(kind):
        double = f"CAST({column} AS {words.double})"
        strange = _strange(words, double)
        whole = f"CAST({words.try_cast}({double} AS {words.integer}) AS {words.text})"
        finite = f"{double} IS NULL OR {words.is_nan}({double}) OR {words.is_inf}({double})"
        return Value(place, f"IF({finite}, NULL, {whole})", "FALSE", strange)
    if types.is_integer(kind) or types.is_boolean(kind):
        column = f"CAST({column} AS {words.integer})"
    return Value(place, f"CAST({column} AS {words.text})", "FALSE", _none(words))


def number_facts(words: Words, rows: Rows, values: Sequence[Value]) -> str:
    """A row a feature: what is counted of it, its range, and about where its mean is.

    Its columns: `feature`, `all_rows`, `missing`, `infinite`, `rounded`, `whole`, `low`, `high`,
    `centre` (the mean times 2^-64), `used` (rows with a finite value), `different` (about how many
    values there are) and `strange` (one of those, or NULL). What no row decides is NULL.
    """
    fields = {"value": "v", "x": "x", "rounded": "r", "strange": "s"}
    return (
        "SELECT entry.feature AS feature, COUNT(*) AS all_rows, "
        f"{_count_if(f'entry.value IS NULL OR {words.is_nan}(entry.value)')} AS missing, "
        f"{_count_if(f'{words.is_inf}(entry.value)')} AS infinite, "
        f"{_count_if('entry.rounded')} AS rounded, "
        f"{words.all_true}(entry.x = FLOOR(entry.x)) AS whole, "
        "MIN(entry.x) AS low, MAX(entry.x) AS high, "
        f"AVG(entry.x * {_number(_CENTRE_SCALE)}) AS centre, COUNT(entry.x) AS used, "
        f"{words.any_distinct}(entry.x) AS different, MAX(entry.strange) AS strange\n"
        f"FROM {_entries(words, rows, values, fields)}\n"
        "GROUP BY entry.feature"
    )


def mean_of(centre: float) -> float:
    """About the mean, of what `number_facts` calls the centre."""
    return centre / _CENTRE_SCALE


def power_sums(
    words: Words, rows: Rows, values: Sequence[Value], centrings: Mapping[int, Centring]
) -> str:
    """A row a feature: `feature`, and the sums of y's powers, `s1` to `s4`, in units of 2^-50."""
    entries = []
    for value in values:
        how = centrings[value.place]
        shifted = f"(x{value.place} * {_number(how.half)} - {_number(how.centre)})"
        entries.append({"feature": str(value.place), "y": f"{shifted} * {_number(how.scale)}"})
    square = "(entry.y * entry.y)"
    powers = ("entry.y", square, f"{square} * entry.y", f"{square} * {square}")
    sums = ", ".join(
        f"SUM(CAST({power} * {_number(_SUM_SCALE)} AS {words.decimal})) AS s{number}"
        for number, power in enumerate(powers, 1)
    )
    return (
        f"SELECT entry.feature AS feature, {sums}\n"
        f"FROM {_unnested(words, finite_rows(words, rows, values), entries)}\n"
        "GROUP BY entry.feature"
    )


def distinct_numbers(words: Words, rows: Rows, values: Sequence[Value]) -> str:
    """A row a feature's finite value: `feature`, `value` and `n`, how often it occurs."""
    fields = {"x": "x"}
    return (
        "SELECT entry.feature AS feature, entry.x AS value, COUNT(*) AS n\n"
        f"FROM {_entries(words, rows, values, fields)}\n"
        "WHERE entry.x IS NOT NULL\n"
        "GROUP BY entry.feature, entry.x"
    )


def category_facts(words: Words, rows: Rows, values: Sequence[Value]) -> str:
    """A row a feature: `feature`, `all_rows`, `missing`, `long`, `different` (about) and `strange`.

    `long` are texts that are too long to be listed, which are not among the different ones.
    """
    fields = {"value": "v", "strange": "s"}
    is_long = f"{words.length}(entry.value) > {LONGEST_VALUE:d}"
    return (
        "SELECT entry.feature AS feature, COUNT(*) AS all_rows, "
        f"{_count_if('entry.value IS NULL')} AS missing, "
        f"{_count_if(is_long)} AS long_ones, "
        f"{words.any_distinct}(IF({is_long}, NULL, entry.value)) AS different, "
        "MAX(entry.strange) AS strange\n"
        f"FROM {_entries(words, rows, values, fields)}\n"
        "GROUP BY entry.feature"
    )


def categories(words: Words, rows: Rows, values: Sequence[Value], most: int) -> str:
    """A row a feature's category: `feature`, `value` and `n`, how often it occurs.

    Args:
        words: The engine's.
        rows: Of what.
        values: The features.
        most: How many categories of a feature to list, the most frequent ones.
    """
    fields = {"value": "v"}
    return (
        "SELECT entry.feature AS feature, entry.value AS value, COUNT(*) AS n\n"
        f"FROM {_entries(words, rows, values, fields)}\n"
        f"WHERE entry.value IS NOT NULL AND {words.length}(entry.value) <= {LONGEST_VALUE:d}\n"
        "GROUP BY entry.feature, entry.value\n"
        "QUALIFY ROW_NUMBER() OVER "
        f"(PARTITION BY entry.feature ORDER BY COUNT(*) DESC, entry.value) <= {most:d}"
    )


def finite_rows(words: Words, rows: Rows, values: Sequence[Value], key: str = "") -> str:
    """A SELECT of each feature's value `v`, `x`, clipped and NULL where it is not finite, `r`, `s`.

    Each is followed by the feature's place, as in `x0`.

    Args:
        words: The engine's.
        rows: Of what.
        values: The features, of numbers.
        key: An expression over the rows that becomes a column of this name, too; "" for none.
    """
    outer = [f"{_finite(words, value)} AS x{value.place}" for value in values]
    every = [f"{letter}{value.place}" for value in values for letter in "vrs"]
    named = [KEY] if key else []
    return f"SELECT {', '.join([*named, *every, *outer])}\nFROM ({_base(rows, values, key)})"


def _finite(words: Words, value: Value) -> str:
    name = f"v{value.place}"
    moved = name
    if value.clip is not None:
        low, high = value.clip
        moved = f"LEAST(GREATEST({name}, {_number(low)}), {_number(high)})"
    absent = f"{name} IS NULL OR {words.is_nan}({name}) OR {words.is_inf}({name})"
    return f"IF({absent}, NULL, {moved})"


def _base(rows: Rows, values: Sequence[Value], key: str = "") -> str:
    columns = [f"{key} AS {KEY}"] if key else []
    for value in values:
        columns.append(f"{value.value} AS v{value.place}")
        columns.append(f"{value.rounded} AS r{value.place}")
        columns.append(f"{value.strange} AS s{value.place}")
    listed = ",\n  ".join(columns)
    condition = f"\nWHERE {rows.where}" if rows.where else ""
    return f"SELECT\n  {listed}\nFROM {rows.source}{condition}"


def _entries(words: Words, rows: Rows, values: Sequence[Value], fields: Mapping[str, str]) -> str:
    """An entry a row and feature, with these fields of it."""
    entries = [
        {"feature": str(value.place)}
        | {name: f"{letter}{value.place}" for name, letter in fields.items()}
        for value in values
    ]
    base = finite_rows(words, rows, values) if "x" in fields else _base(rows, values)
    return _unnested(words, base, entries)


def _unnested(words: Words, base: str, entries: Sequence[Mapping[str, str]]) -> str:
    listed = ",\n  ".join(words.struct(entry) for entry in entries)
    return f"({base}),\nUNNEST([\n  {listed}]) {words.entries}"


def _strange(words: Words, double: str) -> str:
    limit = _number(EXACT_INTEGER)
    odd = f"{double} <> FLOOR({double}) OR ABS({double}) > {limit}"
    absent = f"{words.is_nan}({double}) OR {words.is_inf}({double})"
    return f"IF({double} IS NULL OR {absent}, NULL, IF({odd}, {double}, NULL))"


def _count_if(condition: str) -> str:
    """Not COUNTIF, which DuckDB has as NULL where the condition is."""
    return f"COUNT(IF({condition}, 1, NULL))"


def _none(words: Words) -> str:
    return f"CAST(NULL AS {words.double})"


def _number(value: float) -> str:
    """A float64, in digits that every engine reads as that very one."""
    text = repr(float(value))
    return f"({text if 'e' in text else f'{text}e0'})"
