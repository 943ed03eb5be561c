"""Deadlines of calls: what they follow from, and which of those under way comes next. Pure: time is an argument.

Times are on the clock of the process's reactor (s). A call is held weakly, so a long deadline keeps nothing alive.
"""

from __future__ import annotations

import heapq
import weakref
from typing import TYPE_CHECKING, NamedTuple

from aioray.runtime.calls import NO_DEADLINE

if TYPE_CHECKING:
    from aioray.options import MethodOptions, TaskOptions
    from aioray.runtime.calls import Running, UnderWay

_FEW = 64  # entries that are not worth a look at which of them are over


class Limits(NamedTuple):
    """What the options of a call say of its time."""

    timeout_s: float | None
    deadline: float | None  # as time.time()


def limits_of(options: TaskOptions | MethodOptions) -> Limits | None:
    """None where nothing is said, as a rule."""
    if options.timeout is None and options.deadline is None:
        return None
    return Limits(options.timeout, options.deadline)


def deadline_of(limits: Limits | None, parent: Running | None, now: float, wall: float) -> float:
    """When a call must be done that is made at `now`, which is `wall` by time.time(): the earliest of what limits it.

    A call that was told that it is cancelled has used up its own deadline: what it still calls to clean up is free.
    """
    deadline = NO_DEADLINE
    if parent is not None and not parent.is_canceled:
        deadline = parent.deadline
    if limits is not None:
        if limits.timeout_s is not None:
            deadline = min(deadline, now + limits.timeout_s)
        if limits.deadline is not None:
            deadline = min(deadline, now + limits.deadline - wall)
    return deadline


class Deadlines:
    """The calls of a process that have one, the next first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, weakref.ref[UnderWay]]] = []
        self._count = 0
        self._look_at = _FEW

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, call: UnderWay, when: float) -> bool:
        """Remember a call, to be due at `when`; whether it is the next one now."""
        self._count += 1
        entry = when, self._count, weakref.ref(call)
        heapq.heappush(self._heap, entry)
        is_next = self._heap[0] is entry
        if len(self._heap) > self._look_at:
            self._heap = [each for each in self._heap if each[2]() is not None]
            heapq.heapify(self._heap)
            self._look_at = max(_FEW, 2 * len(self._heap))
        return is_next

    def due(self, now: float) -> list[UnderWay]:
        """Take out those whose time is up."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            call = heapq.heappop(self._heap)[2]()
            if call is not None:
                found.append(call)
        return found

    def next(self) -> float | None:
        """When to look again; None when nothing is left."""
        while self._heap and self._heap[0][2]() is None:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None
