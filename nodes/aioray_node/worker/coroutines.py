"""The calls of an async actor: many at once, on the worker's event loop."""

from __future__ import annotations

import asyncio
import collections
import functools
import time
from typing import TYPE_CHECKING, Any

from aioray.exceptions import TaskCancelledError
from aioray_node.worker.runtime import RunningCall, running

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.runtime.connection import Connection
    from aioray.runtime.reactor import Reactor
    from aioray.wire.calls import Call
    from aioray_node.worker.replies import Replier

Item = tuple["Connection", "Call"]
Key = tuple[int, int]


class Coroutines:
    """Begins calls in the order in which they came, `limit` of them at a time. All in the loop's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        reactor: Reactor,
        replier: Replier,
        methods: dict[str, tuple[Any, bool]],
        arguments: Callable[[Call], tuple[Any, dict[str, Any]]],
        call_over: Callable[[RunningCall], None],
        on_exit: Callable[[SystemExit | KeyboardInterrupt], None],
        *,
        limit: int,
    ) -> None:
        self._loop = loop
        self._reactor = reactor
        self._replier = replier
        self._methods = methods  # name -> (bound method, whether it is a coroutine function)
        self._arguments = arguments
        self._call_over = call_over
        self._on_exit = on_exit
        self._limit = limit
        self._backlog: collections.deque[Item] = collections.deque()
        self._tasks: dict[Key, asyncio.Task[None]] = {}

    def take(self, item: Item) -> None:
        """A call has come."""
        if len(self._tasks) < self._limit:
            self._begin(item)
        else:
            self._backlog.append(item)

    def _begin(self, item: Item) -> None:
        key = (id(item[0]), item[1].seq)
        self._tasks[key] = self._loop.create_task(self._run(item, key))

    async def _run(self, item: Item, key: Key) -> None:
        connection, call = item
        caller: bytes = connection.tag.process_id
        running_call = RunningCall(call, caller)
        running.set(running_call)
        started = time.perf_counter()
        try:
            method, is_coroutine = self._methods[call.fn]
            args, kwargs = self._arguments(call)
            if is_coroutine:
                result = await method(*args, **kwargs)
            else:
                # A sync method would stall every other call of the actor.
                result = await asyncio.to_thread(method, *args, **kwargs)
            del args, kwargs
        except asyncio.CancelledError:
            self._replier.error(connection, call, TaskCancelledError(f"{call.seq:x}"), 0)
        except (SystemExit, KeyboardInterrupt) as exc:
            self._on_exit(exc)
        except BaseException as exc:  # whatever user code raises is its caller's
            self._replier.error(connection, call, exc, _us_since(started))
        else:
            self._replier.result(connection, caller, call, result, _us_since(started))
        self._call_over(running_call)
        self._over(key)

    def _over(self, key: Key) -> None:
        del self._tasks[key]
        if self._backlog:
            self._begin(self._backlog.popleft())
        elif not self._tasks:
            self._reactor.flush()  # nothing else runs: the answer need not wait for the end of the turn
            self._loop.call_soon(self._linger)

    def _linger(self) -> None:
        if not self._tasks:
            self._reactor.linger()

    async def finish(self) -> None:
        """Wait until all calls that have come are through."""
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    def cancel(self, connection: Connection, seq: int) -> bool:
        """Cancel a call; False when it is not here."""
        for item in self._backlog:
            if item[0] is connection and item[1].seq == seq:
                self._backlog.remove(item)
                self._replier.error(connection, item[1], TaskCancelledError(f"{seq:x}"), 0)
                return True
        key = (id(connection), seq)
        task = self._tasks.get(key)
        if task is None:
            return False
        task.cancel()
        task.add_done_callback(functools.partial(self._cancelled_unstarted, connection, seq))
        return True

    def _cancelled_unstarted(self, connection: Connection, seq: int, task: asyncio.Task[None]) -> None:
        """A task that is cancelled before its first step never runs any of its code: do what that would have done."""
        key = (id(connection), seq)
        if self._tasks.get(key) is task:
            self._replier.cancelled(connection, seq)
            self._over(key)


def _us_since(started: float) -> int:
    return int((time.perf_counter() - started) * 1e6)
