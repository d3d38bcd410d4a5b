"""Bars and maps of chunks, as text in which glyphs say what colours say. Pure."""

from __future__ import annotations

from rich.text import Text

from faucet_client import chunk_map

FULL, EMPTY = "█", "░"

_SHADES = "░▒▓"  # of a cell of several chunks: fewer than a third in memory, two thirds, all

STYLES = {
    "·": "bright_black",
    "~": "magenta",
    "+": "bold yellow",
    "█": "blue",
    "1": "bold green",
}
"""The glyph of each kind of cell; all that say how many readers there are look like "1"."""

LEGEND = (
    ("·", "absent"),
    ("~", "on disk"),
    ("+", "loading"),
    ("█", "in memory"),
    ("1", "leased"),
)


def bar(shares: list[tuple[float, str, str]], cells: int) -> Text:
    """A bar of `cells` cells.

    Args:
        shares: Parts from the left: share of the whole (0 to 1), glyph, style. What is not zero
            has a cell, if there are any left.
        cells: Its width.
    """
    text = Text()
    begun = 0.0
    for share, glyph, style in shares:
        begun += share
        until = min(round(begun * cells), cells)
        if share > 0:
            until = min(max(until, len(text) + 1), cells)
        text.append(glyph * (until - len(text)), style)
    text.append(EMPTY * (cells - len(text)), "bright_black")
    return text


def chunks_a_cell(chunks: int, cells: int) -> int:
    """How many chunks stand in a cell, so that all of them fit."""
    return max(-(-chunks // max(cells, 1)), 1)


def draw_map(states: bytes, width: int, lines: int) -> list[Text]:
    """The map of a split's chunks, in at most so many lines of at most so many cells.

    A cell of several chunks says how many readers lease the busiest of them; if nobody does,
    whether one is loading; if none is, which share is in memory.
    """
    each = chunks_a_cell(len(states), width * lines)
    glyphs = [_glyph(states[at : at + each]) for at in range(0, len(states), each)]
    drawn = []
    for at in range(0, len(glyphs), width):
        text = Text()
        for glyph in glyphs[at : at + width]:
            text.append(glyph, _style(glyph))
        drawn.append(text)
    return drawn


def _glyph(states: bytes) -> str:
    readers = chunk_map.readers_of(max(states))
    if readers:
        return str(readers) if readers < 10 else "*"
    if chunk_map.LOADING in states:
        return "+"
    in_memory = states.count(chunk_map.RESIDENT)
    with_rows = len(states) - states.count(chunk_map.NO_ROWS)
    if in_memory:
        share = in_memory / with_rows
        return FULL if share == 1 else _SHADES[int(share * len(_SHADES))]
    if chunk_map.SPILLED in states:
        return "~"
    return "·" if with_rows else " "


def _style(glyph: str) -> str:
    if glyph in _SHADES:
        return STYLES[FULL]
    return STYLES.get(glyph, STYLES["1"] if glyph != " " else "")
