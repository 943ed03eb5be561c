"""What all functions of util that block have in common."""

from __future__ import annotations

import asyncio
import contextlib
import math
import numbers
from typing import TYPE_CHECKING, Any

from aioray import current
from aioray.exceptions import BlockingCallError, InvalidOptionError
from aioray.runtime.blocking import wait_for_any

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable

    from aioray.runtime.runtime import Runtime


def refuse_in_loop(call: str, instead: str) -> None:
    """Raises BlockingCallError in the event loop that does a cluster's I/O, even if the call would not have to wait."""
    if current.find_in_this_loop() is not None:
        raise BlockingCallError(call, instead)


def check_timeout(timeout: Any, name: str = "timeout") -> None:
    """Raises InvalidOptionError unless `timeout` is None, or seconds, 0 or more."""
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 <= timeout < math.inf:
        raise InvalidOptionError(name, timeout, "None, or seconds, 0 or more")


def check_count(value: Any, name: str, least: int = 1) -> None:
    """Raises InvalidOptionError unless `value` is a whole number, `least` or more."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or int(value) < least:
        raise InvalidOptionError(name, value, f"a whole number, {least} or more")


def check_flag(value: Any, name: str) -> None:
    """Raises InvalidOptionError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise InvalidOptionError(name, value, "True or False")


class _Condition:
    """A condition, as the runtime waits for things: a task that waits lends its CPU to others meanwhile."""

    def __init__(self, holds: Callable[[], bool]) -> None:
        self.any = holds


def wait_until(runtime: Runtime, holds: Callable[[], bool], timeout_s: float | None) -> bool:
    """Block until `holds()`; False when time is up first. Who makes it hold, in another thread, nudges the reactor.

    Not a threading.Event: this thread does the cluster's I/O itself where nobody else does.
    """
    if holds():
        return True
    return wait_for_any(runtime, _Condition(holds), timeout_s)  # type: ignore[arg-type] # all it asks for is any()


async def until_done(*futures: concurrent.futures.Future[Any]) -> None:
    """Wait until one of `futures`, which another thread completes, is done. Cancelling this cancels none of them."""
    loop = asyncio.get_running_loop()
    some = asyncio.Event()

    def tell(_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop that waited is closed
            loop.call_soon_threadsafe(some.set)

    for future in futures:
        future.add_done_callback(tell)
    await some.wait()
