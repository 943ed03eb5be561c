"""Threads of user code that wait for values, and give way meanwhile; and the same, awaited."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from aioray.exceptions import BlockingCallError
from aioray.refs import PENDING, READY, ObjectRef
from aioray.runtime.unseen import looked_at

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioray.runtime.arrivals import Arrivals
    from aioray.runtime.runtime import Runtime

_BROUGHT_AHEAD = 16  # values that `get` has on their way from other nodes at once


def get(runtime: Runtime, refs: Sequence[ObjectRef[Any]], timeout_s: float | None) -> list[Any]:
    """The values, blocking. Raises what was raised, and GetTimeoutError."""
    wait_all(runtime, refs, timeout_s)
    results = []
    for ref in refs:
        if ref._status == READY:
            results.append(runtime.load(ref))
        else:
            for each in refs:  # one error is raised for all of them, as by asyncio.gather
                each._when_done(looked_at)
            raise runtime.outcome_error(ref)
    return results


def wait_all(runtime: Runtime, refs: Sequence[ObjectRef[Any]], timeout_s: float | None) -> None:
    """Block until all are done, or one has an error. Raises GetTimeoutError."""
    for ref in refs:
        if ref._status == PENDING:
            break
        if ref._status != READY:
            return
    else:
        return
    check_may_block(runtime, "aioray.get(ref)", "await ref")
    for each in refs:
        runtime.objects.want(each)
    with _Blocked(runtime):
        _wait_in_turn(runtime, refs, timeout_s)


def _wait_in_turn(runtime: Runtime, refs: Sequence[ObjectRef[Any]], timeout_s: float | None) -> None:
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    for at, ref in enumerate(refs):
        if ref._status == PENDING:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            is_there = runtime.reactor.run_until(ref._is_made, left)
            if is_there and ref._status == PENDING:
                is_there = _wait_until_here(runtime, refs[at : at + _BROUGHT_AHEAD], deadline)
            if not is_there:
                runtime.require_open()
                done = sum(each._status != PENDING for each in refs)
                raise ref._late_error(f"{done} of {len(refs)} objects were there after {timeout_s} s", timeout_s)
        if ref._status != READY:
            return


def _wait_until_here(runtime: Runtime, refs: Sequence[ObjectRef[Any]], deadline: float | None) -> bool:
    """The value of the first lies on another node, and perhaps those of what comes next: wait for that one."""
    for ref in refs:
        runtime.objects.want(ref)
    left = None if deadline is None else max(0.0, deadline - time.monotonic())
    return runtime.reactor.run_until(refs[0].done, left)


def wait(
    runtime: Runtime, refs: list[ObjectRef[Any]], num_returns: int, timeout_s: float | None, *, here: bool
) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
    """Block until `num_returns` are done, and `here` if so asked, or time is up."""
    if sum(_is_there(ref, here=here) for ref in refs) < num_returns:
        check_may_block(runtime, "aioray.wait(refs)", "await aioray.wait(refs)")
        with _Blocked(runtime):
            counter = _Countdown(refs, num_returns, here=here)
            try:
                runtime.reactor.run_until(counter.reached, timeout_s)
            finally:
                counter.stop()
    return _split(refs, num_returns, here=here)


def _is_there(ref: ObjectRef[Any], *, here: bool) -> bool:
    return ref._status != PENDING or (not here and ref._is_made())


def wait_for_any(runtime: Runtime, arrivals: Arrivals, timeout_s: float | None) -> bool:
    """Block until a ref is done; False when time is up first."""
    if arrivals.any():
        return True
    check_may_block(runtime, "for ref in aioray.as_completed(refs)", "async for ref in aioray.as_completed(refs)")
    with _Blocked(runtime):
        return runtime.reactor.run_until(arrivals.any, timeout_s)


async def wait_async(
    runtime: Runtime, refs: list[ObjectRef[Any]], num_returns: int, timeout_s: float | None, *, here: bool
) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
    """The same, awaited. Cancelling it cancels no call."""
    if sum(_is_there(ref, here=here) for ref in refs) < num_returns:
        loop = asyncio.get_running_loop()
        event = asyncio.Event()
        counter = _Countdown(refs, num_returns, lambda: loop.call_soon_threadsafe(event.set), here=here)
        runtime.on_block(True)
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            pass
        finally:
            runtime.on_block(False)
            counter.stop()
    return _split(refs, num_returns, here=here)


def wait_until(runtime: Runtime, done: Callable[[], bool], timeout_s: float | None) -> bool:
    """Block until `done()`; False when time is up first. Not in an event loop."""
    with _Blocked(runtime):
        return runtime.reactor.run_until(done, timeout_s)


def check_may_block(runtime: Runtime, call: str, instead: str) -> None:
    """Raises BlockingCallError in the event loop that does the I/O."""
    if runtime.reactor.in_loop():
        raise BlockingCallError(call, instead)


class _Blocked:
    """A thread of user code waits. Interrupts of the main thread are raised by `run_until`, or when all is settled."""

    __slots__ = ("_runtime",)

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def __enter__(self) -> None:
        reactor = self._runtime.reactor
        reactor.raise_shield()
        try:
            self._runtime.on_block(True)
        except BaseException:
            reactor.lower_shield()
            raise

    def __exit__(self, *exc_info: object) -> None:
        try:
            self._runtime.on_block(False)
        finally:
            self._runtime.reactor.lower_shield()


class _Countdown:
    """Counts refs that get done."""

    __slots__ = ("_left", "_refs", "_then")

    def __init__(
        self, refs: list[ObjectRef[Any]], count: int, then: Callable[[], object] | None = None, *, here: bool
    ) -> None:
        self._left = count
        self._then = then
        self._refs = refs
        for ref in refs:
            if here:
                ref._when_done(self._one)
            else:
                with ref._runtime.reactor.lock:
                    ref._when_made(self._one)

    def _one(self, _: ObjectRef[Any]) -> None:
        self._left -= 1
        if self._left == 0 and self._then is not None:
            with contextlib.suppress(RuntimeError):  # the loop that waited is closed
                self._then()

    def reached(self) -> bool:
        return self._left <= 0

    def stop(self) -> None:
        """Nobody waits any more: take the callbacks out, or a loop of waits would pile them up."""
        for ref in self._refs:
            ref._drop_callback(self._one)


def _split(
    refs: list[ObjectRef[Any]], num_returns: int, *, here: bool
) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
    """At most `num_returns` that are done, in the order given, and all others."""
    ready: list[ObjectRef[Any]] = []
    rest: list[ObjectRef[Any]] = []
    for ref in refs:
        if len(ready) < num_returns and _is_there(ref, here=here):
            ready.append(ref)
        else:
            rest.append(ref)
    return ready, rest
