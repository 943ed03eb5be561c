"""How a task of an event loop looks for its answer before it sleeps, as a thread does that waits for one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from aioray.runtime.spinning import Spinning

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from aioray.runtime.reactor import Reactor

_MOMENT_S = 5e-6  # for so long the loop's other work waits, each time


class Looking:
    """For answers of one kind, of which it learns whether looking for them pays."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._spinning = Spinning()

    def until(self, done: Callable[[], bool]) -> Generator[None, None, None]:
        """Look until `done()`, or until that has taken too long, if it is worth it; the loop has turns in between.

        For `yield from`, in a task of any loop of the thread whose loop does the I/O. It ends at once elsewhere.
        """
        reactor, spinning = self._reactor, self._spinning
        if reactor.spin_s <= 0.0 or not reactor.in_loop() or not spinning.is_worth_it():
            return
        until = time.perf_counter() + reactor.spin_s
        while reactor.in_loop() and time.perf_counter() < until:
            if reactor.look(_MOMENT_S) and done():
                spinning.hit()
                return
            yield
            if done():  # the loop has found it
                spinning.hit()
                return
        spinning.missed()
