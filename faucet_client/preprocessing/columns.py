"""Raw columns as they come from tables, made into what statistics and encodings are of.

A column is a NumPy array of one value a row, or what `np.asarray` makes one of:

- numbers and booleans, which are 0 and 1. DECIMAL columns come as float64. NaN is null.
- text: an object array of str, in which None and NaN are null, or an array of str, or `Texts`.
- times: datetime64 of any unit, which are UTC; NaT is null. Those whose unit is a day are dates.
- lists of numbers or text: an array [n, width], or a list or an object array whose rows are
  sequences, or None for null; or `Lists`.

A masked array's mask is null, whatever it is of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from faucet_client.errors import ColumnError, SpecError
from faucet_client.preprocessing.checks import EXACT_INTEGER
from faucet_client.preprocessing.lists import Lists, holds_lists

Kind = Literal["numbers", "text", "timestamps", "dates", "lists"]

_DATE_UNITS = ("D", "W", "M", "Y")


@dataclass(frozen=True, eq=False)
class Texts:
    """A column of text: its different values, and which of them each row has.

    Attributes:
        codes: int64 [n], a place in `values` for each row; -1 for null.
        values: The different values, each once, in any order; not all must occur.

    Raises:
        SpecError: a code is out of range, or a value is no text.
    """

    codes: NDArray[np.int64]
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.codes.dtype != np.int64 or self.codes.ndim != 1:
            raise SpecError(f"codes must be int64 [n], not {self.codes.dtype} {self.codes.shape}")
        if len(self.codes) and not -1 <= self.codes.min() <= self.codes.max() < len(self.values):
            raise SpecError(f"codes must be from -1 to {len(self.values) - 1:,}, places in values")
        if not all(isinstance(value, str) for value in self.values):
            raise SpecError("values must be texts")

    def __len__(self) -> int:
        return len(self.codes)

    def spread(self, of_values: NDArray[Any], of_null: int) -> NDArray[Any]:
        """What each row gets if each value gets `of_values`, [len(values)], and null `of_null`."""
        # Taken at -1, null finds what is appended.
        return np.append(of_values, np.array([of_null], of_values.dtype))[self.codes]


def kind_of(name: str, column: Any) -> Kind:
    """What a column holds.

    Raises:
        ColumnError: it is not one value a row, or of a type that cannot be preprocessed.
    """
    if isinstance(column, Texts):
        return "text"
    if holds_lists(column):
        return "lists"
    raw = _array(name, column)
    if raw.dtype.kind in "biuf":
        return "numbers"
    if raw.dtype.kind == "M":
        return "dates" if np.datetime_data(raw.dtype)[0] in _DATE_UNITS else "timestamps"
    if raw.dtype.kind in "OUT":
        return "text"
    raise _unsuitable(name, raw.dtype)


def texts(name: str, column: Any) -> Texts:
    """A column of text, by its different values.

    Raises:
        ColumnError: the column holds something else.
    """
    if isinstance(column, Texts):
        return column
    raw = _array(name, column)
    if raw.dtype.kind not in "OUT":
        raise ColumnError(f'column "{name}" is of dtype {raw.dtype}, and not text')
    # One pass with a dict: sorting texts, as np.unique would, takes ten times as long.
    places: dict[Any, int] = {}
    rows = raw.tolist()
    try:
        codes = np.fromiter((places.setdefault(row, len(places)) for row in rows), np.int64)
    except TypeError:  # a list or a dict, which has no hash
        raise _unsuitable(name, raw.dtype) from None
    values = [value for value in places if isinstance(value, str)]
    if len(values) < len(places):
        renamed, number = np.full(len(places), -1, np.int64), 0
        for value, place in places.items():
            if isinstance(value, str):
                renamed[place] = number
                number += 1
            elif value is not None and not (isinstance(value, float) and value != value):
                raise ColumnError(
                    f'column "{name}" is of dtype {raw.dtype}, with {str(value)[:80]!r} of type '
                    f"{type(value).__name__} in it; of objects, only text and None can be "
                    "preprocessed: give numbers as a numeric array, with NaN or a mask for null"
                )
        codes = renamed[codes]
    there = _there(column, len(raw))
    if there is not None:
        codes = np.where(there, codes, -1)
    return Texts(codes, tuple(map(str, values)))


def numbers(name: str, column: Any) -> tuple[NDArray[np.float64], NDArray[np.bool_], int]:
    """A column as float64, where it has a value (or NaN), and how many integers were rounded.

    Raises:
        ColumnError: the column holds no numbers.
    """
    raw = _array(name, column)
    if raw.dtype.kind not in "biuf":
        raise ColumnError(
            f'column "{name}" is of dtype {raw.dtype}, and only numbers and booleans can be used '
            "as numbers: make it a number in the source's query, exclude it, or hand it over as it "
            "is (passthrough)"
        )
    there = _there(column, len(raw))
    there = np.ones(len(raw), np.bool_) if there is None else there
    with np.errstate(over="ignore"):
        values = raw.astype(np.float64)
    rounded = 0
    if raw.dtype.kind in "iu" and raw.dtype.itemsize == 8:
        large = there & (np.abs(values) >= EXACT_INTEGER)
        pairs = zip(raw[large].tolist(), values[large].tolist(), strict=True)
        rounded = sum(exact != nearest for exact, nearest in pairs)  # Python compares exactly
    return values, there, rounded


def integers(
    name: str, column: Any, rule: str = "only whole numbers and text can be categories"
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """A column as int64, exactly, and where it has a value.

    Whole numbers may come as float64, with NaN for null, up to 2^53.

    Args:
        name: The column's.
        column: The column.
        rule: Why others will not do, for the error.

    Raises:
        ColumnError: the column holds something else than whole numbers, or some beyond int64, or
            floating-point ones of which it is not known which number they were.
    """
    raw = _array(name, column)
    masked = _there(column, len(raw))
    there = np.ones(len(raw), np.bool_) if masked is None else masked
    if raw.dtype.kind == "u" and raw.dtype.itemsize == 8:
        if (raw[there] > np.uint64(2**63 - 1)).any():
            raise ColumnError(
                f'column "{name}" has whole numbers beyond int64: cast it to text in the source'
            )
        return raw.astype(np.int64), there
    if raw.dtype.kind in "biu":
        return raw.astype(np.int64, copy=False), there
    if raw.dtype.kind != "f":
        raise ColumnError(f'column "{name}" is of dtype {raw.dtype}, and not of whole numbers')
    there = there & np.isfinite(raw)
    used = np.where(there, raw, 0)
    if (used != np.rint(used)).any():
        raise ColumnError(
            f'column "{name}" has numbers that are not whole, and {rule}: round it or cast it in '
            "the source's query, or choose another type in feature_overrides"
        )
    if (np.abs(used) > EXACT_INTEGER).any():
        raise ColumnError(
            f'column "{name}" has whole numbers beyond 2^53 in floating point, where neighbours '
            "are the same: give it as int64 with a mask, or cast it to text in the source's query"
        )
    return used.astype(np.int64), there


def microseconds(name: str, column: Any) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """A column of times as microseconds since 1970, and where it has a value.

    Integers are microseconds already. Fractions of a microsecond are cut off, downwards.

    Raises:
        ColumnError: the column holds something else, or times that int64 cannot hold.
    """
    raw = _array(name, column)
    if raw.dtype.kind in "iuf":
        return integers(name, column, "numbers are times in whole microseconds since 1970")
    if raw.dtype.kind != "M":
        raise ColumnError(
            f'column "{name}" is of dtype {raw.dtype}, and no time: cast it to a timestamp in the '
            "source's query, or choose another type in feature_overrides"
        )
    there = ~np.isnat(raw)
    masked = _there(column, len(raw))
    there = there if masked is None else there & masked
    times = raw.astype("datetime64[us]")
    fine = np.datetime_data(raw.dtype)[0] in ("us", "ns", "ps", "fs", "as")
    if not fine and (times.astype(raw.dtype) != raw)[there].any():
        raise ColumnError(
            f'column "{name}" has times that are no int64 of microseconds since 1970: make those '
            "null in the source's query"
        )
    return np.where(there, times.view(np.int64), 0), there


def vectors(name: str, lists: Lists, width: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Lists of numbers as float64 [n, width], and where they have a value (or an infinite one).

    A null list has none, and an empty one neither: BigQuery stores a NULL array as an empty one.

    Raises:
        ColumnError: a list is of another length, or not of numbers.
    """
    lengths = lists.lengths
    filled = lengths > 0
    wrong = filled & (lengths != width)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ColumnError(
            f'column "{name}" has a list of {lengths[row]:,} elements, and VECTOR takes it for '
            f"lists of {width:,}: cut or fill such lists in the source's query, or make them null"
        )
    values = np.zeros((len(lists), width))
    there = np.zeros((len(lists), width), np.bool_)
    if filled.any():
        if (kind := kind_of(name, lists.elements)) != "numbers":
            raise ColumnError(f'column "{name}" has lists of {kind}, and VECTOR is of numbers')
        elements, present, _ = numbers(name, lists.elements)
        values[filled] = elements.reshape(-1, width)
        there[filled] = (present & ~np.isnan(elements)).reshape(-1, width)
    return values, there


def check_rows(rows: Mapping[str, int]) -> int:
    """How many rows all columns have; 0 if there is none.

    Raises:
        ColumnError: they have different numbers.
    """
    if len(set(rows.values())) > 1:
        least, most = min(rows, key=rows.__getitem__), max(rows, key=rows.__getitem__)
        raise ColumnError(
            f'column "{least}" has {rows[least]:,} rows and "{most}" has {rows[most]:,}: columns '
            "of one table have a value, or null, for each row"
        )
    return next(iter(rows.values()), 0)


def _array(name: str, column: Any) -> NDArray[Any]:
    raw = np.asarray(column.data if np.ma.isMaskedArray(column) else column)
    if raw.ndim != 1:
        raise ColumnError(f'column "{name}" must be one value a row, not of shape {raw.shape}')
    return raw


def _there(column: Any, rows: int) -> NDArray[np.bool_] | None:
    """Where a masked array is not masked; None for others."""
    if not np.ma.isMaskedArray(column):
        return None
    mask: NDArray[np.bool_] = np.ma.getmaskarray(column)
    assert len(mask) == rows
    return ~mask


def _unsuitable(name: str, dtype: np.dtype[Any]) -> ColumnError:
    return ColumnError(
        f'column "{name}" is of dtype {dtype}, and only numbers, booleans, text, dates and '
        "timestamps can be preprocessed: make it a number or text in the source's query, leave it "
        "out (exclude_features), or hand it over as it is (passthrough)"
    )
