"""One column in memory, whatever it holds, in the few forms that a profile counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faucet_client.errors import ColumnError


@dataclass(frozen=True, eq=False)
class Column:
    """What a column holds.

    Attributes:
        kind: "numbers", "times", "values" (text), or "other": lists, arrays and whatever else has
            rows and nulls, and no distribution to show.
        source_type: NumPy's word for it, or "text".
        there: bool [rows], whether a row has a value, and a finite one.
        nulls: Null, NaN or NaT.
        infinite: Infinite numbers.
        numbers: float64 [n], the finite values of "numbers", and of "times" in seconds since 1970.
        texts: Of "values": how many rows have each.
        whole: Integers as they were, since float64 takes neighbours beyond 2^53 for one.
    """

    kind: str
    source_type: str
    there: NDArray[np.bool_]
    nulls: int
    infinite: int
    numbers: NDArray[np.float64]
    texts: Counter[str]
    whole: NDArray[np.integer[Any]] | None = None

    @property
    def rows(self) -> int:
        """All rows, also those without a value."""
        return len(self.there)

    @property
    def distinct(self) -> int:
        """How many different finite values or texts there are."""
        if self.kind == "values":
            return len(self.texts)
        return len(np.unique(self.numbers if self.whole is None else self.whole))


def read(name: str, column: Any) -> Column:
    """A column: an array or masked array [n] of numbers, booleans, datetime64, or objects.

    Of objects None is null, and what is not all text or all numbers is "other".

    Raises:
        ColumnError: it is no array of rows.
    """
    masked = np.ma.isMaskedArray(column)
    raw = np.asarray(column.data if masked else column)
    if raw.ndim == 0:
        raise ColumnError(f'column "{name}" must have a value a row, and is a single one')
    there: NDArray[np.bool_] = np.ones(len(raw), np.bool_)
    if masked:
        hidden = np.ma.getmaskarray(column)
        there = np.logical_not(hidden.reshape(len(raw), -1).all(axis=1))
    if raw.ndim > 1:
        shape = ", ".join(str(size) for size in raw.shape[1:])
        return _other(f"{raw.dtype} [{shape}]", there)
    if raw.dtype.kind in "biuf":
        found = _numbers(str(raw.dtype), raw.astype(np.float64), there)
        return replace(found, whole=raw[there]) if raw.dtype.kind in "iu" else found
    if raw.dtype.kind == "M":
        there = there & ~np.isnat(raw)
        seconds = raw[there].astype("datetime64[us]").astype(np.int64) / 1e6
        nulls = len(raw) - len(seconds)
        return Column("times", str(raw.dtype), there, nulls, 0, seconds, Counter())
    if raw.dtype.kind not in "OU":
        return _other(str(raw.dtype), there)
    return _objects(raw.tolist(), there)


def _objects(objects: list[Any], visible: NDArray[np.bool_]) -> Column:
    seen = zip(objects, visible.tolist(), strict=True)
    there = np.array([shown and not _is_null(each) for each, shown in seen], np.bool_)
    given = [each for each, kept in zip(objects, there.tolist(), strict=True) if kept]
    nulls = len(objects) - len(given)
    if all(isinstance(each, str) for each in given):
        return Column("values", "text", there, nulls, 0, _NONE, Counter(given))
    if all(isinstance(each, int | float | Decimal | np.number) for each in given):
        numbers = np.array([float(each) for each in given], np.float64)
        infinite = int(np.isinf(numbers).sum())
        finite = numbers[np.isfinite(numbers)]
        there[there] = np.isfinite(numbers)
        of = "decimal" if any(isinstance(each, Decimal) for each in given) else "number"
        return Column("numbers", of, there, nulls, infinite, finite, Counter())
    of = type(given[0]).__name__
    return Column("other", of, there, nulls, 0, _NONE, Counter())


def _numbers(source_type: str, values: NDArray[np.float64], there: NDArray[np.bool_]) -> Column:
    nulls = int((~there | np.isnan(values)).sum())
    there = there & np.isfinite(values)
    finite = values[there]
    infinite = len(values) - nulls - len(finite)
    return Column("numbers", source_type, there, nulls, infinite, finite, Counter())


def _other(source_type: str, there: NDArray[np.bool_]) -> Column:
    nulls = len(there) - int(there.sum())
    return Column("other", source_type, there, nulls, 0, _NONE, Counter())


def _is_null(value: Any) -> bool:
    # Decimal has NaN, too, and is no float.
    return value is None or (isinstance(value, float | Decimal) and value != value)


_NONE = np.empty(0, np.float64)
