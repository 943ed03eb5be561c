"""What all functions of util that block have in common."""

from __future__ import annotations

import math
import numbers
from typing import TYPE_CHECKING, Any

from aioray import current
from aioray.exceptions import BlockingCallError, InvalidOptionError

if TYPE_CHECKING:
    import concurrent.futures

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


class _WhenDone:
    """A future, as the runtime waits for things: a task that waits lends its CPU to others meanwhile."""

    def __init__(self, future: concurrent.futures.Future[Any]) -> None:
        self.done = future.done
        self.any = future.done


def wait_for(runtime: Runtime, future: concurrent.futures.Future[Any], timeout_s: float | None) -> bool:
    """Block until `future`, which another thread completes, is done; False when time is up first.

    Not `future.result()`: this thread does the cluster's I/O itself where nobody else does.
    """
    if future.done():
        return True
    future.add_done_callback(lambda _: runtime.reactor.nudge())
    return runtime.wait_for_any(_WhenDone(future), timeout_s)  # type: ignore[arg-type] # all it asks for is any()
