"""How many loads nobody could have done without.

**Claim.** Take any policy, even one that knows the future, whose memory holds at most `capacity`
chunks, resident or being loaded, and is empty at first. Let it grant each reader as many chunks by
each moment as the given timeline says; which chunks, in what order, and by whose loads, is its own
choice. It loads at least `least_loads(timeline, capacity)` chunks.

**Proof.** A reader is granted a chunk at most once an epoch. So if a reader's epoch has g grants in
the window (a, b], these are g different chunks, each of them in memory at some moment of the
window. At a at most `capacity` chunks are in memory or being loaded; the others' loads begin within
the window: g - capacity at least, and g where the window begins with the empty memory. Windows that
do not overlap have different loads, so any division of time into windows yields a bound, the sum
of theirs, each by the reader's epoch that has most grants in it. The best division into windows
between given moments is found by dynamic programming; moments left out can only lower the bound. ∎

What it does not say: a policy that makes readers wait has another timeline, and may need fewer
loads; so a bound is of a run's own timeline, and waits are reported beside it. And it is a bound,
not the optimum, which may well need more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MOMENTS = 1_000


def least_loads(timeline: Sequence[Sequence[float]], capacity: int, moments: int = MOMENTS) -> int:
    """The least number of loads that any policy needs for this timeline.

    Args:
        timeline: Of each epoch of each reader: the seconds at which it was granted a chunk,
            ascending.
        capacity: Chunks that memory can hold.
        moments: Moments at which windows may begin or end, beside those at which an epoch does.
    """
    epochs = [np.asarray(times, np.float64) for times in timeline if len(times)]
    if not epochs:
        return 0
    ends = [edge for times in epochs for edge in (np.nextafter(times[0], -np.inf), times[-1])]
    grid = np.linspace(min(ends), max(ends), moments)
    when = np.unique(np.concatenate([ends, grid]))
    granted = np.stack([np.searchsorted(times, when, side="right") for times in epochs])
    least = granted.max(axis=0).astype(np.int64)  # with one window, from the beginning
    for moment in range(len(when) - 1):
        least[moment] = max(least[moment], least[moment - 1] if moment else 0)
        in_window = (granted[:, moment + 1 :] - granted[:, moment, None]).max(axis=0)
        np.maximum(
            least[moment + 1 :], least[moment] + in_window - capacity, out=least[moment + 1 :]
        )
    return int(least.max())
