"""Virtual time, and real CPU time: when something happens, and what it costs to decide."""

from __future__ import annotations

import collections
import heapq
import itertools
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Entry = tuple[float, int, Callable[..., object], tuple[Any, ...]]

_JITTER = 0.3  # of each delay
_CALIBRATIONS = 2000


class Timer:
    """As of a reactor."""

    __slots__ = ("then",)

    def __init__(self, then: Callable[[], object]) -> None:
        self.then: Callable[[], object] | None = then

    def cancel(self) -> None:
        self.then = None

    def fire(self) -> None:
        if self.then is not None:
            self.then()


class Timeline:
    """What happens when. To the shells that run in it, it is the reactor: `time` and `call_later`."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self._entries: list[Entry] = []
        self._numbers = itertools.count()
        self._random = random.Random(seed)
        self._latest: dict[tuple[int, int], float] = {}  # when the last message of a line arrives

    def time(self) -> float:
        return self.now

    def call_later(self, delay_s: float, then: Callable[[], object]) -> Timer:
        timer = Timer(then)
        self.after(delay_s, timer.fire)
        return timer

    def after(self, delay_s: float, then: Callable[..., object], *args: Any) -> None:
        heapq.heappush(self._entries, (self.now + delay_s, next(self._numbers), then, args))

    def in_order(
        self, sender: object, receiver: object, delay_s: float, then: Callable[..., object], *args: Any
    ) -> None:
        """The same for a message: no two take equally long, and none overtakes another one of its sender."""
        line = (id(sender), id(receiver))
        due = self.now + delay_s * (1.0 + _JITTER * self._random.random())
        due = self._latest[line] = max(due, self._latest.get(line, 0.0))
        heapq.heappush(self._entries, (due, next(self._numbers), then, args))

    def run(self, until: float) -> None:
        """Everything up to that moment (s)."""
        entries = self._entries
        while entries and entries[0][0] <= until:
            self.now, _, then, args = heapq.heappop(entries)
            then(*args)
        self.now = until


@dataclass(slots=True)
class Meter:
    """CPU seconds of this thread by who needed them, less what it takes to look; and how often it did."""

    seconds: dict[str, float] = field(default_factory=lambda: collections.defaultdict(float))
    calls: collections.Counter[str] = field(default_factory=collections.Counter)
    overhead_s: float = 0.0  # of a look

    @classmethod
    def calibrated(cls) -> Meter:
        meter = cls()
        for _ in range(_CALIBRATIONS):
            meter.run("nothing", int)
        return cls(overhead_s=meter.seconds["nothing"] / _CALIBRATIONS)

    def run(self, who: str, what: Callable[..., Any], *args: Any) -> Any:
        """Do it, on that account."""
        start = time.thread_time()
        result = what(*args)
        self.seconds[who] += time.thread_time() - start - self.overhead_s
        self.calls[who] += 1
        return result

    def clear(self) -> None:
        """Begin anew."""
        self.seconds.clear()
        self.calls.clear()
