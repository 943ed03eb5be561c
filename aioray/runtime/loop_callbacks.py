"""Callbacks of refs, in the event loop where somebody waits: those of one turn of I/O run as one handle of the loop.

A handle of asyncio costs half a microsecond, which is much beside the rest of a small call of which 1,000 are awaited.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    import contextvars
    from collections.abc import Callable

_Due = list[tuple["Callable[[Any], object]", Any, "contextvars.Context"]]


class LoopCallbacks:
    """What is due in the loop that runs in this thread; with others, each callback is a handle."""

    __slots__ = ("_due", "_loop")

    def __init__(self) -> None:
        self._due: _Due = []
        self._loop: asyncio.AbstractEventLoop | None = None  # whose they are

    def soon(
        self,
        loop: asyncio.AbstractEventLoop,
        fn: Callable[[Any], object],
        who: Any,
        context: contextvars.Context,
    ) -> None:
        """Have `loop`, which is this thread's, call `fn(who)`, unless it is closed. The runtime's lock is held."""
        before = self._loop
        if loop is before:
            self._due.append((fn, who, context))
        elif (before is None or before.is_closed()) and not loop.get_debug():
            try:
                loop.call_soon(self._run, loop)
            except RuntimeError:  # it is closed: its program left it without leaving us
                return
            self._loop = loop
            self._due = [(fn, who, context)]
        else:  # when debugging, what takes long is to be named by its handle
            loop.call_soon(fn, who, context=context)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        due, self._due, self._loop = self._due, [], None
        begun = 0
        try:
            for fn, who, context in due:
                begun += 1
                try:
                    context.run(fn, who)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as exc:  # as asyncio does with a handle of its own
                    loop.call_exception_handler({"message": f"Exception in callback {fn!r}", "exception": exc})
        finally:
            for fn, who, context in due[begun:]:  # the loop was stopped between them
                loop.call_soon(fn, who, context=context)
