"""What has become of each chunk of a dataset, one byte a chunk and split.

A map is small enough (10 KB for 10,000 chunks) to be sent whole with every status. A state below
`RESIDENT` says why there is no segment; `RESIDENT + n` is a segment that n readers lease.
"""

from __future__ import annotations

from collections import Counter

NO_ROWS = 0
"""The chunk has no rows of this split."""

ABSENT = 1
"""Not read yet, or evicted: it would have to be read from the source."""

SPILLED = 2
"""On local disk."""

LOADING = 3
"""A worker makes it."""

RESIDENT = 4
"""In memory, and nobody leases it; `RESIDENT + n`: n readers do."""

MOST_LEASING = 255 - RESIDENT
"""Readers that a byte can tell of; it stands for this many or more."""

NAMES = ("no_rows", "absent", "spilled", "loading", "resident", "leased")

_GLYPHS = {NO_ROWS: " ", ABSENT: ".", SPILLED: "~", LOADING: "+"}
_MANY = "*"


def resident(readers: int) -> int:
    """The state of a segment that so many readers lease."""
    return RESIDENT + min(readers, MOST_LEASING)


def readers_of(state: int) -> int:
    """How many readers lease the chunk's segment."""
    return max(state - RESIDENT, 0)


def name_of(state: int) -> str:
    """The state's name, one of `NAMES`: "resident" where nobody leases the segment."""
    return NAMES[min(state, RESIDENT + 1)]


def counts(states: bytes) -> dict[str, int]:
    """How many chunks of a map are in which state, by name; those that are in none too."""
    found = dict.fromkeys(NAMES, 0)
    for state, number in Counter(states).items():
        found[name_of(state)] += number
    return found


def as_text(states: bytes) -> str:
    """A character a chunk: nothing " ", absent ".", spilled "~", loading "+", else the readers.

    A digit says how many lease the segment, and "*" ten or more.
    """
    return "".join(map(_glyph, states))


def _glyph(state: int) -> str:
    if state < RESIDENT:
        return _GLYPHS[state]
    readers = readers_of(state)
    return str(readers) if readers < 10 else _MANY
