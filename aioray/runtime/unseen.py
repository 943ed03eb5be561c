"""Errors that nobody looks at: told once, when the last ref to them goes, as asyncio does for its futures."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from aioray.runtime.errors import one_line
from aioray.wire.values import Value

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from aioray.refs import ObjectRef
    from aioray.runtime.runtime import Runtime


class Unseen:
    """The error of one call, held by all its refs. When it goes and nobody has looked, it logs one line.

    Made for errors only, so results cost nothing.
    """

    __slots__ = ("_log", "_pid", "_summary", "keeps", "name", "seen")

    def __init__(self, log: logging.Logger, name: str, summary: str, *, seen: bool = False) -> None:
        self._log = log
        self.name = name
        self._summary = summary
        self._pid = os.getpid()
        self.seen = seen
        self.keeps: Any = None  # what must live as long as the error: the ref that got it first

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # At the end of a program everything goes, looked at or not; and a forked child has copies of its parent's.
        if not self.seen and not is_finalizing() and os.getpid() == self._pid:
            self._log.error("nobody looked at the error of %s: %s", self.name, self._summary)


def unseen(runtime: Runtime, name: str, error: Value | BaseException) -> Unseen | None:
    """What a call called `name` leaves behind when it fails; None where nobody would want to hear of it.

    That is: for a cancelled one, and for all that the end of the cluster takes along.
    """
    if runtime.closed:
        return None
    summary = error.summary if isinstance(error, Value) else one_line(error)
    return Unseen(runtime.log, name, summary) if summary else None


def looked_at(ref: ObjectRef[Any]) -> None:
    """Somebody gets the error of `ref`, if it has one, or may get it elsewhere."""
    left = ref._task
    if type(left) is Unseen:
        left.seen = True
