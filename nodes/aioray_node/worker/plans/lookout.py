"""How the thread of the actor that a driver feeds looks for the next pass before it sleeps.

A driver that gets what it is answered, and executes again, is back before this thread would be asleep on an idle core,
and to be woken from there is the slowest of a pass's hops. But where there are as few cores as two, the driver has one,
looking for its answer, and the other is for all actors: so who else can run goes first.
"""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING

from aioray.runtime.spinning import Spinning

if TYPE_CHECKING:
    import socket

_CROWDED_S = 100e-6  # who else needs this core needs it for longer than a graph's other actors would
_LOSS_S = 5e-6  # that such times may cost on average, of each wait: less than what the others gain


class Lookout:
    """Looks for what comes over one socket, most_s (s) at a time, and learns whether that pays."""

    def __init__(self, sock: socket.socket, most_s: float) -> None:
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        self._ready = poll.poll
        self._most_s = most_s
        self._spinning = Spinning()

    def look(self) -> None:
        """Until something has come, or that has taken too long, or not at all."""
        spinning = self._spinning
        if not spinning.is_worth_it():
            return
        ready, now, let_others = self._ready, time.perf_counter, os.sched_yield
        at = now()
        until = at + self._most_s
        while not ready(0):
            let_others()
            before, at = at, now()
            if at - before > _CROWDED_S:  # a thread that had slept would have had its turn sooner
                spinning.lost(int((at - before) / _LOSS_S))
                return
            if at >= until:
                spinning.missed()
                return
        spinning.hit()
