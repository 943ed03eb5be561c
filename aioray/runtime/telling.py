"""Telling the node something now and then: soon after a pause, else when the interval is over."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aioray.runtime.runtime import Runtime

_AFTER_A_PAUSE_S = 0.1


class Teller(abc.ABC):
    """Called with the reactor's lock held. Its timer runs only when there is something to tell."""

    def __init__(self, runtime: Runtime, interval_s: float) -> None:
        self._runtime = runtime
        self.interval_s = interval_s  # 0: never
        self.is_on = interval_s > 0
        self.armed = not self.is_on  # then nobody arms it
        self._told_at = 0.0

    def arm(self) -> None:
        """There is something to tell."""
        self.armed = True
        reactor = self._runtime.reactor
        due = max(self._told_at + self.interval_s, reactor.time() + min(_AFTER_A_PAUSE_S, self.interval_s))
        reactor.call_later(due - reactor.time(), self._due)

    def _due(self) -> None:
        if self.armed:
            self.tell()

    def tell(self) -> None:
        """Tell all there is, now."""
        if not self.is_on:
            return
        self.armed = False
        self._told_at = self._runtime.reactor.time()
        if not (self._runtime.closed or self._runtime.link.lost):
            self._tell()

    @abc.abstractmethod
    def _tell(self) -> None:
        """Send it."""
