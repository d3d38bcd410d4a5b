"""Byte sizes and durations as people write them: `2GiB`, `512 MB`, `1_000_000`; `3 min 5 s`."""

from __future__ import annotations

import re
from fractions import Fraction

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SIZE = re.compile(r"(\d[\d_]*(?:\.\d+)?)\s*([A-Za-z]*)", re.ASCII)


def parse_size(text: str) -> int:
    """The number of bytes that `text` means.

    Units are B, kB, MB, GB, TB (powers of 1000) and KiB, MiB, GiB, TiB (powers of 1024), in upper
    or lower case; without a unit, bytes. A fraction of a byte is dropped.

    Raises:
        ValueError: it is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ValueError(
            f"{text!r} is not a size: write a number of bytes, or a number with one of the units "
            "kB, MB, GB, TB, KiB, MiB, GiB, TiB, such as 2GiB"
        )
    return int(Fraction(match[1].replace("_", "")) * unit)


def format_size(nbytes: int) -> str:
    """`nbytes` for a person, in powers of 1024 with three digits: `1.50 GiB`."""
    size = float(nbytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        # 1023.5 would be printed as 1024 of a unit: that is one of the next.
        if abs(size) < 1023.5:
            return f"{nbytes} B" if unit == "B" else f"{_three_digits(size)} {unit}"
        size /= 1024
    return f"{_three_digits(size)} TiB"


def format_duration(seconds: float) -> str:
    """A duration for a person: `5 s`, `3 min 5 s`, `2 h 3 min`."""
    minutes, seconds_left = divmod(int(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left} min"
    return f"{minutes} min {seconds_left} s" if minutes else f"{seconds_left} s"


def _three_digits(size: float) -> str:
    return f"{size:.{0 if size >= 99.95 else 1 if size >= 9.995 else 2}f}"
