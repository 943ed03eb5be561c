"""Whether to look again for a moment before sleeping.

An answer that comes within some ten microseconds is had sooner, and cheaper, by looking again than by being put to
sleep and woken on another core: one-at-a-time calls are two to three times as fast. But a look takes CPU time from
others, so whoever looked in vain looks more rarely, up to once in `MAX_SKIPS` waits. Pure.
"""

from __future__ import annotations

MAX_SKIPS = 64


class Spinning:
    """Learns from hits and misses."""

    __slots__ = ("_misses", "_skips")

    def __init__(self) -> None:
        self._misses = 0
        self._skips = 0

    def is_worth_it(self) -> bool:
        """Whether to look before this wait."""
        if self._skips:
            self._skips -= 1
            return False
        return True

    def hit(self) -> None:
        """What was waited for came while looking."""
        self._misses = 0

    def missed(self) -> None:
        """It did not."""
        self._misses += 1
        self._skips = min(MAX_SKIPS, 1 << self._misses)

    def lost(self, waits: int) -> None:
        """Looking has cost so much that it is not to be tried in that many waits."""
        self._skips = waits
