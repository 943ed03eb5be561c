"""How calls of an actor run: some at once in threads, or many at once on the process's event loop.

An actor has one lane, and one more for each of its concurrency groups. A lane begins calls in the order in which they
came, `limit` of them at a time. (The third way, one at a time in the main thread, is the executor's own queue.)
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextvars
import functools
import inspect
import time
from typing import TYPE_CHECKING, Any, Protocol

from aioray.exceptions import AsyncioActorExit
from aioray_node.worker.methods import TERMINATE
from aioray_node.worker.runtime import RunningCall, running

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.runtime.connection import Connection
    from aioray.wire.calls import Call
    from aioray_node.worker.checkpoints import Saver
    from aioray_node.worker.exits import Exiting
    from aioray_node.worker.hosted_actor import HostedActor
    from aioray_node.worker.replies import Replier
    from aioray_node.worker.runtime import WorkerRuntime

Item = tuple["Connection", "Call"]
Key = tuple[int, int]


class Services:
    """What every lane of a process needs."""

    def __init__(
        self,
        runtime: WorkerRuntime,
        replier: Replier,
        main_lane: Lane,
    ) -> None:
        self.runtime = runtime
        self.reactor = runtime.reactor
        self.replier = replier
        self.main_lane = main_lane
        self.on_exit: Callable[[HostedActor, Exiting], None]
        self.on_save_due: Callable[[Saver], None]
        self.loop: asyncio.AbstractEventLoop | None = None  # of async actors


class Lane(Protocol):
    """Takes calls, with the reactor's lock held."""

    def take(self, item: Item) -> None:
        """A call has come."""

    def cancel(self, connection: Connection, seq: int) -> bool:
        """Cancel a call; False when it is not here."""


class ThreadLane:
    """Calls in threads of a pool. One that runs cannot be cancelled, as threads cannot."""

    def __init__(self, services: Services, actor: HostedActor, *, limit: int) -> None:
        self._services = services
        self._actor = actor
        self._pool = concurrent.futures.ThreadPoolExecutor(limit, "actor")
        self._under_way: dict[Key, tuple[Item, concurrent.futures.Future[None]]] = {}

    def take(self, item: Item) -> None:
        key = (id(item[0]), item[1].seq)
        try:
            self._under_way[key] = item, self._pool.submit(self._run, item, key)
        except RuntimeError:  # it is leaving: who calls hears of its end from the node
            return

    def cancel(self, connection: Connection, seq: int) -> bool:
        item, future = self._under_way.get((id(connection), seq), (None, None))
        if item is None or future is None or not future.cancel():
            return False
        del self._under_way[id(connection), seq]
        self._services.replier.cancelled(item)
        return True

    def under_way(self) -> list[concurrent.futures.Future[None]]:
        """All that has come and is not through, but for those that wait for the others themselves."""
        with self._services.reactor.lock:
            return [future for item, future in self._under_way.values() if item[1].fn != TERMINATE]

    def join(self) -> None:
        """Wait until all that has come is done."""
        self._pool.shutdown()

    def _run(self, item: Item, key: Key) -> None:
        connection, call = item
        services = self._services
        caller: bytes = connection.tag.process_id
        token = running.set(RunningCall(call, caller, self._actor))
        started = time.perf_counter()
        try:
            method = self._actor.method(call.fn)
            args, kwargs = services.runtime.arguments(call)
            result = method(*args, **kwargs)
            del args, kwargs
        except SystemExit as exc:
            services.on_exit(self._actor, exc)
        except BaseException as exc:  # whatever user code raises is its caller's
            self._save_if_due()
            services.replier.error(connection, call, exc, us_since(started))
        else:
            self._save_if_due()
            services.replier.result(connection, caller, call, result, us_since(started))
            del result
        finally:
            running.reset(token)
            with services.reactor.lock:  # `take` may not have noted it before
                self._under_way.pop(key, None)
        if services.reactor.loop is None:
            services.reactor.flush()

    def _save_if_due(self) -> None:
        saver = self._actor.saver
        if saver is not None and saver.call_done():
            saver.save()


class LoopLane:
    """Calls as coroutines on the process's event loop. All in the loop's thread.

    Small: a process may have a hundred thousand actors.
    """

    __slots__ = ("_actor", "_backlog", "_closed", "_limit", "_services", "_tasks")

    def __init__(self, services: Services, actor: HostedActor, *, limit: int) -> None:
        self._services = services
        self._actor = actor
        self._limit = limit
        self._backlog: collections.deque[Item] | None = None
        self._tasks: dict[Key, tuple[asyncio.Task[None], Item]] = {}
        self._closed = False

    def take(self, item: Item) -> None:
        if len(self._tasks) < self._limit:
            self._begin(item)
        else:
            if self._backlog is None:
                self._backlog = collections.deque()
            self._backlog.append(item)

    def _begin(self, item: Item) -> None:
        loop = self._services.loop
        assert loop is not None
        key = (id(item[0]), item[1].seq)
        self._tasks[key] = loop.create_task(self._run(item, key)), item

    async def _run(self, item: Item, key: Key) -> None:
        connection, call = item
        services, actor = self._services, self._actor
        caller: bytes = connection.tag.process_id
        running_call = RunningCall(call, caller, actor)
        running.set(running_call)
        started = time.perf_counter()
        try:
            method = actor.method(call.fn)
            args, kwargs = services.runtime.arguments(call)
            if actor.is_coroutine(call.fn):
                result = await method(*args, **kwargs)
            else:
                # A sync method would stall every other call of the actor.
                result = await _in_thread(running_call, functools.partial(method, *args, **kwargs))
                if inspect.iscoroutine(result):  # of a function that was sent along with __ray_call__
                    result = await result
            del args, kwargs
        except asyncio.CancelledError:
            if not self._closed:
                services.replier.cancelled(item)
        except (SystemExit, KeyboardInterrupt, AsyncioActorExit) as exc:
            services.on_exit(actor, exc)
        except BaseException as exc:  # whatever user code raises is its caller's
            if actor.saver is not None and actor.saver.call_done():
                await actor.saver.save_on_loop()
            if not self._closed:
                services.replier.error(connection, call, exc, us_since(started))
        else:
            if actor.saver is not None and actor.saver.call_done():
                await actor.saver.save_on_loop()
            if not self._closed:
                services.replier.result(connection, caller, call, result, us_since(started))
        services.runtime.call_over(running_call)
        self._over(key)

    def _over(self, key: Key) -> None:
        del self._tasks[key]
        if self._backlog:
            self._begin(self._backlog.popleft())
        elif not self._tasks:
            services = self._services
            services.reactor.flush()  # nothing else runs: the answer need not wait for the end of the turn
            if services.loop is not None:
                services.loop.call_soon(self._linger)

    def _linger(self) -> None:
        if not self._tasks:
            self._services.reactor.linger()

    @property
    def idle(self) -> bool:
        return not self._tasks

    def under_way(self) -> list[asyncio.Task[None]]:
        """All that has begun and is not through, but for those that wait for the others themselves."""
        return [task for task, item in self._tasks.values() if item[1].fn != TERMINATE]

    async def join(self) -> None:
        """Wait until all that has come is done."""
        while self._tasks:
            await asyncio.wait([task for task, _ in self._tasks.values()])

    def abort(self) -> None:
        """Cancel all that runs, and forget what waits. Nothing is answered any more: the same calls may have been sent
        to the actor's next life, under the same numbers."""
        self._closed = True
        self._backlog = None
        for task, item in list(self._tasks.values()):
            task.cancel()
            task.add_done_callback(functools.partial(self._never_began, item))

    def cancel(self, connection: Connection, seq: int) -> bool:
        for item in self._backlog or ():
            if item[0] is connection and item[1].seq == seq:
                assert self._backlog is not None
                self._backlog.remove(item)
                self._services.replier.cancelled(item)
                return True
        found = self._tasks.get((id(connection), seq))
        if found is None:
            return False
        task, item = found
        task.cancel()
        task.add_done_callback(functools.partial(self._never_began, item))
        return True

    def _never_began(self, item: Item, task: asyncio.Task[None]) -> None:
        """A task that is cancelled before its first step never runs any of its code: do what that would have done."""
        key = (id(item[0]), item[1].seq)
        if self._tasks.get(key) == (task, item):
            if not self._closed:
                self._services.replier.cancelled(item)
            self._over(key)


async def _in_thread(call: RunningCall, fn: Callable[[], Any]) -> Any:
    """Run `fn` in a thread. Once begun it cannot be stopped: a cancel is told to it, and what it returns counts."""
    loop = asyncio.get_running_loop()
    future = loop.run_in_executor(None, contextvars.copy_context().run, fn)
    while True:
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if future.cancelled() or future.cancel():
                raise
            call.is_canceled = True


def us_since(started: float) -> int:
    """Microseconds since a time.perf_counter()."""
    return int((time.perf_counter() - started) * 1e6)
