"""Who was refused, and why: logged once for each, or whoever knocks could fill the disk."""

from __future__ import annotations

import logging

_log = logging.getLogger("aioray")
_MAX_REMEMBERED = 1000


class Refusals:
    """`by`: who refuses, for the log."""

    def __init__(self, by: str) -> None:
        self._by = by
        self._said: set[tuple[str, str]] = set()

    def note(self, peer: str | None, reason: str) -> None:
        """Somebody was refused. `peer`: its IP address, if it has one."""
        what = (peer or "a process on this machine", reason)
        if what not in self._said and len(self._said) < _MAX_REMEMBERED:
            self._said.add(what)
            _log.warning("aioray: %s refused %s: %s (said once)", self._by, *what)
