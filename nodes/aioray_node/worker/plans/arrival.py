"""What a task awaits that lives on values: it goes on inside of the callback that brings them.

A Future would have the task go on in the loop's next turn. A task asks what it awaits to call it back; so what is
awaited can do that at once, and the task runs as it always does: it is the current one, and can be cancelled.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Generator


class Arrival:
    """`await arrival`, in one task at a time, until somebody calls `tell()`, again and again."""

    __slots__ = ("_asyncio_future_blocking", "_cancelled", "_context", "_loop", "_then")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._then: Callable[[Any], object] | None = None
        self._context: contextvars.Context | None = None
        self._cancelled = False
        self._asyncio_future_blocking = False

    def tell(self) -> None:
        """Something has come: who awaits it goes on now. In a callback of the loop, in no task."""
        then, context = self._then, self._context
        if then is not None and context is not None:
            self._then = None
            context.run(then, self)

    def __await__(self) -> Generator[Any, None, None]:
        self._asyncio_future_blocking = True
        yield self

    # the part of a Future that a task asks for

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, fn: Callable[[Any], object], *, context: contextvars.Context) -> None:
        self._then, self._context, self._cancelled = fn, context, False

    def cancel(self, msg: Any = None) -> bool:
        then, self._then = self._then, None
        if then is None:
            return False
        self._cancelled = True
        self._loop.call_soon(then, self, context=self._context)
        return True

    def result(self) -> None:
        if self._cancelled:
            raise asyncio.CancelledError
