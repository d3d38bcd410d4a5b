"""The minimum of a function of one number, by Brent's method.

R. P. Brent, "Algorithms for Minimization without Derivatives" (1973), chapter 5: a parabola through
the three best points where that makes progress, else a golden section. The bracket before it grows
by the golden ratio, and by parabolas too (W. H. Press et al., "Numerical Recipes", section 10.1).
The constants are the customary ones, so that a likelihood with rounding noise is searched along the
same points as in other implementations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Function = Callable[[float], float]

_GOLDEN = 1.618034
_SECTION = 0.3819660
_FARTHEST = 110.0
_TINY = 1e-21
_RELATIVE = 1.48e-8
_ABSOLUTE = 1e-11
_MOST_STEPS = 500


@dataclass(frozen=True)
class _Point:
    x: float
    y: float


def minimum(function: Function, start: float, stop: float) -> float | None:
    """Where `function` has a local minimum, searched from two points downhill.

    Returns:
        The place, to about 1.5e-8 relative; None where it goes on downhill for ever.
    """

    def at(x: float) -> _Point:
        return _Point(x, function(x))

    bracket = _bracket(at, at(start), at(stop))
    return None if bracket is None else _brent(at, *bracket)


def _bracket(
    at: Callable[[float], _Point], a: _Point, b: _Point
) -> tuple[float, _Point, float] | None:
    """A low point between two higher ones: (one end, the point, the other end)."""
    if a.y < b.y:
        a, b = b, a
    c = at(b.x + _GOLDEN * (b.x - a.x))
    for _ in range(_MOST_STEPS):
        if not c.y < b.y:
            return a.x, b, c.x
        left, right = (b.x - a.x) * (b.y - c.y), (b.x - c.x) * (b.y - a.y)
        bend = right - left
        bend = 2 * (_TINY if abs(bend) < _TINY else bend)
        vertex = b.x - ((b.x - c.x) * right - (b.x - a.x) * left) / bend
        limit = b.x + _FARTHEST * (c.x - b.x)
        if (vertex - c.x) * (b.x - vertex) > 0:  # between b and c
            point = at(vertex)
            if point.y < c.y:
                return b.x, point, c.x
            if point.y > b.y:
                return a.x, b, point.x
            point = at(c.x + _GOLDEN * (c.x - b.x))
        elif (vertex - limit) * (limit - c.x) >= 0:  # beyond the limit
            point = at(limit)
        elif (vertex - limit) * (c.x - vertex) > 0:  # between c and the limit
            point = at(vertex)
            if point.y < c.y:
                b, c = c, point
                point = at(c.x + _GOLDEN * (c.x - b.x))
        else:
            point = at(c.x + _GOLDEN * (c.x - b.x))
        a, b, c = b, c, point
    return None


def _brent(at: Callable[[float], _Point], one: float, best: _Point, other: float) -> float:
    low, high = min(one, other), max(one, other)
    second = third = best
    step = before = 0.0
    for _ in range(_MOST_STEPS):
        middle = (low + high) / 2
        tolerance = _RELATIVE * abs(best.x) + _ABSOLUTE
        if abs(best.x - middle) < 2 * tolerance - (high - low) / 2:
            break
        parabola = None
        if abs(before) > tolerance:
            parabola = _vertex(best, second, third, low, high, before)
            before = step
        if parabola is None:
            before = (low if best.x >= middle else high) - best.x
            step = _SECTION * before
        else:
            step = parabola
            near_end = min(best.x + step - low, high - (best.x + step)) < 2 * tolerance
            if near_end:
                step = tolerance if middle >= best.x else -tolerance
        if abs(step) < tolerance:
            point = at(best.x + (tolerance if step >= 0 else -tolerance))
        else:
            point = at(best.x + step)
        if point.y > best.y:
            low, high = (point.x, high) if point.x < best.x else (low, point.x)
            if point.y <= second.y or second.x == best.x:
                second, third = point, second
            elif point.y <= third.y or third.x in (best.x, second.x):
                third = point
        else:
            low, high = (best.x, high) if point.x >= best.x else (low, best.x)
            best, second, third = point, best, second
    return best.x


def _vertex(
    best: _Point, second: _Point, third: _Point, low: float, high: float, before: float
) -> float | None:
    """The step to the lowest point of the parabola through three; None if it is no good."""
    one = (best.x - second.x) * (best.y - third.y)
    two = (best.x - third.x) * (best.y - second.y)
    p = (best.x - third.x) * two - (best.x - second.x) * one
    q = 2 * (two - one)
    if q > 0:
        p = -p
    q = abs(q)
    inside = q * (low - best.x) < p < q * (high - best.x)
    return p / q if inside and abs(p) < abs(q * before / 2) else None
