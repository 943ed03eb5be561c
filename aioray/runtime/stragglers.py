"""Which calls run for so long that a second attempt is worth its price, and when to look again. Pure.

The idea is the *backup task* of MapReduce (Dean and Ghemawat, OSDI 2004, section 3.6); the rule is in the manner of
Spark's speculation: longer than a multiple of the median of those that have finished, and than a least time. Spark also
waits until a share of a stage is done; here nobody knows how many calls are to come, so it takes a number of them.

Times are on the clock of the process's reactor (s).
"""

from __future__ import annotations

import statistics
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

LEAST_FINISHED = 3  # of fewer, one that was an exception may be the median
MULTIPLIER = 2.0  # calls that take twice as long as others are common, and a copy saves less than it costs
FLOOR_S = 0.1  # as long as it may take to get a worker; as in Spark
_REMEMBERED = 101  # of the last calls that have finished
# How often to look. What has begun is noticed by a look, so this is how late a copy may come: a tenth of how long the
# newest of them has run, within these.
_LEAST_STEP_S, _MOST_STEP_S, _STEP = 0.05, 1.0, 0.1


class Durations:
    """How long calls of one kind took, those that succeeded: the newest of them."""

    def __init__(self) -> None:
        self._newest: deque[float] = deque(maxlen=_REMEMBERED)
        self._too_long_s: float | None = None

    def add(self, duration_s: float) -> None:
        """One has finished."""
        self._newest.append(duration_s)
        self._too_long_s = None

    def too_long_s(self) -> float | None:
        """How long a call may run before a copy is made of it; None while too few have finished to tell."""
        if self._too_long_s is None and len(self._newest) >= LEAST_FINISHED:
            self._too_long_s = max(FLOOR_S, MULTIPLIER * statistics.median(self._newest))
        return self._too_long_s


class Seen(NamedTuple):
    """A call that runs now, and has no copy."""

    seq: int
    place: int  # its lease: on another worker it begins anew
    durations: Durations


class Look(NamedTuple):
    """What follows from a look."""

    copy: list[int]  # the calls of which copies are to be made, those that have run for longest first
    again_at: float


class Stragglers:
    """Since when calls run, as far as looks at them tell: so they may have run for longer, never for less."""

    def __init__(self) -> None:
        self._since: dict[int, tuple[float, int]] = {}
        self._changed = 0.0  # when the newest of them began, or the last of them was gone

    def begin(self, now: float) -> None:
        """There are calls again, none of which may run yet."""
        self._since.clear()
        self._changed = now

    def look(self, running: Iterable[Seen], now: float) -> Look:
        """`running`: all that run now and have no copy. What is in the answer is not to come again."""
        since: dict[int, tuple[float, int]] = {}
        copy = []
        again_at = now + _MOST_STEP_S
        for seq, place, durations in running:
            begun, before = self._since.get(seq, (now, place))
            if before != place:
                begun = now
            too_long_s = durations.too_long_s()
            if too_long_s is not None and now >= begun + too_long_s:
                copy.append((begun, seq))
                continue
            since[seq] = begun, place
            if too_long_s is not None:
                again_at = min(again_at, begun + too_long_s)
        if since:
            self._changed = max(begun for begun, _ in since.values())
        elif self._since:
            self._changed = now
        self._since = since
        again_at = min(again_at, now + max(_LEAST_STEP_S, _STEP * (now - self._changed)))
        return Look([seq for _, seq in sorted(copy)], again_at)
