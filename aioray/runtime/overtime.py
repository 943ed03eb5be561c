"""Calls whose time is up: `deadlines.py` says which, this ends them. Called with the reactor's lock held."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from aioray.runtime.calls import NO_DEADLINE, cancelled, fail
from aioray.runtime.deadlines import Deadlines, deadline_of

if TYPE_CHECKING:
    from aioray.runtime.calls import Running, UnderWay
    from aioray.runtime.deadlines import Limits
    from aioray.runtime.poller import Timer
    from aioray.runtime.runtime import Runtime

_LATE_S = 1.0  # how long after its deadline a call is stopped whose parent, which has the same, should have ended it


class Overtime:
    """Has the calls of one process end by their deadlines."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._deadlines = Deadlines()
        self._timer: Timer | None = None

    def in_time(self, call: UnderWay, limits: Limits | None, parent: Running | None) -> bool:
        """Watch the deadline of a new call, if it has one; False when that has passed, and the call has failed."""
        now = self._runtime.reactor.time()
        call.deadline = deadline_of(limits, parent, now, time.time() if limits is not None else 0.0)
        if call.deadline == NO_DEADLINE:
            return True
        if call.deadline <= now:
            call.cancelled = call.timed_out = True
            fail(self._runtime, call, cancelled(call))
            return False
        # What only inherits it ends with its parent, which is told first. Unless nobody is left to tell that.
        inherited = parent is not None and not parent.is_canceled and parent.deadline <= call.deadline
        if self._deadlines.add(call, call.deadline + (_LATE_S if inherited else 0.0)):
            self._watch()
        return True

    def _watch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        when = self._deadlines.next()
        if when is not None:
            reactor = self._runtime.reactor
            self._timer = reactor.call_later(max(0.0, when - reactor.time()), self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        for call in self._deadlines.due(self._runtime.reactor.time()):
            self._time_out(call)
        self._watch()

    def _time_out(self, call: UnderWay) -> None:
        """Who waits for it hears at once, whatever it takes to stop it."""
        if call.cancelled or (call.refs and all(ref._is_made() for ref in call.refs)):
            return
        call.timed_out = True
        fail(self._runtime, call, cancelled(call))
        self._runtime.canceller.cancel_call(call)
