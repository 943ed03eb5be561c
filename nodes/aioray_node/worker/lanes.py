"""How calls of an actor run: some at once in threads, or many at once on the process's event loop.

An actor has one lane, and one more for each of its concurrency groups. A lane begins calls in the order in which they
came, `limit` of them at a time. (The third way, one at a time in the main thread, is the executor's own queue.)
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import functools
import inspect
import time
from typing import TYPE_CHECKING, Any, Protocol

from aioray.exceptions import AsyncioActorExit
from aioray_node.worker.in_thread import in_thread
from aioray_node.worker.methods import TERMINATE
from aioray_node.worker.plans.host import Plans
from aioray_node.worker.runtime import RunningCall, running
from aioray_node.worker.streams import Stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from aioray.runtime.connection import Connection
    from aioray.wire.calls import Call
    from aioray_node.in_flight import InFlight
    from aioray_node.worker.call_log import CallLog
    from aioray_node.worker.checkpoints import Saver
    from aioray_node.worker.exits import Exiting
    from aioray_node.worker.hosted_actor import HostedActor
    from aioray_node.worker.replies import Replier
    from aioray_node.worker.runtime import WorkerRuntime
    from aioray_node.worker.streams import Streams

Item = tuple["Connection", "Call"]
Key = tuple[int, int]


class Services:
    """What every lane of a process needs."""

    def __init__(
        self,
        runtime: WorkerRuntime,
        replier: Replier,
        main_lane: Lane,
        streams: Streams,
    ) -> None:
        self.runtime = runtime
        self.reactor = runtime.reactor
        self.replier = replier
        self.main_lane = main_lane
        self.streams = streams
        self.plans = Plans(self)
        self.log: CallLog
        self.on_exit: Callable[[HostedActor, Exiting], None]
        self.on_save_due: Callable[[Saver], None]
        self.loop: asyncio.AbstractEventLoop | None = None  # of async actors
        self.threads: concurrent.futures.ThreadPoolExecutor  # for their sync methods
        self.in_flight: InFlight | None = None  # of light actors


class Lane(Protocol):
    """Takes calls, with the reactor's lock held."""

    def take(self, item: Item) -> None:
        """A call has come."""

    def cancel(self, connection: Connection, seq: int, *, recursive: bool) -> bool:
        """Cancel a call; False when it is not here."""


class ThreadLane:
    """Calls in threads of a pool. One that runs cannot be interrupted, unless it is a
    coroutine: it is told, and what it began is cancelled."""

    def __init__(self, services: Services, actor: HostedActor, *, limit: int) -> None:
        self._services = services
        self._actor = actor
        self._pool = concurrent.futures.ThreadPoolExecutor(limit, "actor")
        self._under_way: dict[Key, tuple[Item, concurrent.futures.Future[None]]] = {}
        self._running: dict[Key, RunningCall] = {}
        self._awaited: dict[Key, tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = {}  # on loops of their threads

    def take(self, item: Item) -> None:
        key = (id(item[0]), item[1].seq)
        try:
            self._under_way[key] = item, self._pool.submit(self._run, item, key)
        except RuntimeError:  # it is leaving: who calls hears of its end from the node
            return

    def cancel(self, connection: Connection, seq: int, *, recursive: bool) -> bool:
        key = (id(connection), seq)
        item, future = self._under_way.get(key, (None, None))
        if item is None or future is None:
            return False
        if future.cancel():
            del self._under_way[key]
            self._services.replier.cancelled(item, self._actor)
            return True
        call = self._running.get(key)
        if call is None:  # its thread is about to begin
            call = self._running[key] = self._running_call(item)
        call.cancel(self._services.runtime.next_seq(), recursive=recursive)
        if key in self._awaited:
            loop, task = self._awaited[key]
            loop.call_soon_threadsafe(self._cancel_task, task, call)
            return True
        if recursive:
            self._services.runtime.tasks.cancel_children(call)
            return False
        return True

    def running_calls(self) -> list[RunningCall]:
        """Those that are in a thread now. The lock is held."""
        return list(self._running.values())

    def under_way(self) -> list[concurrent.futures.Future[None]]:
        """All that has come and is not through, but for those that wait for the others themselves."""
        with self._services.reactor.lock:
            return [future for item, future in self._under_way.values() if item[1].fn != TERMINATE]

    def _running_call(self, item: Item) -> RunningCall:
        return RunningCall(item[1], item[0].tag, self._actor)

    def join(self) -> None:
        """Wait until all that has come is done."""
        self._pool.shutdown()

    def _run(self, item: Item, key: Key) -> None:
        connection, call = item
        services = self._services
        with services.reactor.lock:  # `take` may not have noted it yet
            if self._running.pop(key, None) is not None:  # it was cancelled before it began
                del self._under_way[key]
                services.replier.cancelled(item, self._actor)
                return
            running_call = self._running[key] = self._running_call(item)
            services.log.begun()
        caller: bytes = connection.tag.process_id
        token = running.set(running_call)
        started = running_call.started
        try:
            method = running_call.function = self._actor.method(call.fn)
            args, kwargs = services.runtime.arguments(call)
            result = method(*args, **kwargs)
            del args, kwargs
            if inspect.isasyncgen(result):
                finishing = services.streams.finish_async(item, result)
                result = self._on_loop_of_its_own(key, running_call, finishing)
            else:
                if inspect.iscoroutine(result):
                    result = self._on_loop_of_its_own(key, running_call, result)
                if services.streams.is_asked(item, result):
                    result = services.streams.finish(item, result)
        except (Stopped, asyncio.CancelledError):
            services.replier.cancelled(item, self._actor)
        except SystemExit as exc:
            services.on_exit(self._actor, exc)
        except BaseException as exc:  # whatever user code raises is its caller's
            services.replier.error(connection, call, exc, us_since(started), actor=self._saved())
        else:
            services.replier.result(connection, caller, call, result, us_since(started), self._saved())
            del result
        finally:
            running.reset(token)
            with services.reactor.lock:
                del self._running[key], self._under_way[key]
        if services.reactor.loop is None:
            services.reactor.flush()

    def _on_loop_of_its_own(self, key: Key, call: RunningCall, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """What it gives: of a function that was sent along with __ray_call__, since the actor itself is not async."""
        services = self._services
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            task = loop.create_task(coroutine)
            with services.reactor.lock:
                self._awaited[key] = loop, task
                if call.is_canceled:  # before it could be told
                    task.cancel()
            try:
                return loop.run_until_complete(task)
            finally:
                with services.reactor.lock:
                    del self._awaited[key]
                if task.done() and not task.cancelled():
                    task.exception()  # it is on its way; nobody need complain that it was not looked at

    def _cancel_task(self, task: asyncio.Task[Any], call: RunningCall) -> None:
        with self._services.reactor.lock:
            self._services.runtime.cancel_loop_task(task, call)

    def _saved(self) -> HostedActor:
        """The actor, with its checkpoint taken if that is due."""
        saver = self._actor.saver
        if saver is not None and saver.call_done():
            saver.save()
        return self._actor


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
        self._tasks: dict[Key, tuple[asyncio.Task[None], Item, RunningCall]] = {}
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
        running_call = RunningCall(item[1], item[0].tag, self._actor)
        self._tasks[key] = loop.create_task(self._run(item, key, running_call)), item, running_call
        self._services.log.begun()
        in_flight = self._services.in_flight
        if in_flight is not None:
            in_flight.begin(self._actor.spec.slot)

    async def _run(self, item: Item, key: Key, running_call: RunningCall) -> None:
        connection, call = item
        services, actor = self._services, self._actor
        caller: bytes = connection.tag.process_id
        running.set(running_call)
        started = running_call.started = time.perf_counter()
        try:
            method = running_call.function = actor.method(call.fn)
            if call.deps and services.runtime.must_bring(call):
                await services.runtime.bring_arguments(call)
            args, kwargs = services.runtime.arguments(call)
            on_loop = actor.runs_on_loop(call.fn)
            if on_loop:
                result = method(*args, **kwargs)
            else:
                # A sync method would stall every other call of the actor, and so would its generator.
                result = await in_thread(
                    services.threads, functools.partial(_run_sync, services, item, method, args, kwargs)
                )
                on_loop = _is_async(result)  # of a function that was sent along with __ray_call__
            del args, kwargs
            if inspect.iscoroutine(result):
                result = await result
            if on_loop and services.streams.is_asked(item, result):
                result = await services.streams.finish_async(item, result)
        except (asyncio.CancelledError, Stopped):
            if not self._closed and not running_call.leaves:
                services.replier.cancelled(item, self._actor)
        except (SystemExit, KeyboardInterrupt, AsyncioActorExit) as exc:
            services.on_exit(actor, exc)
        except BaseException as exc:  # whatever user code raises is its caller's
            if actor.saver is not None and actor.saver.call_done():
                await actor.saver.save_on_loop()
            if not self._closed and not running_call.leaves:
                services.replier.error(connection, call, exc, us_since(started), actor=actor)
        else:
            if actor.saver is not None and actor.saver.call_done():
                await actor.saver.save_on_loop()
            if not self._closed:
                services.replier.result(connection, caller, call, result, us_since(started), actor)
        services.runtime.call_over(running_call)
        self._over(key)

    def _over(self, key: Key) -> None:
        del self._tasks[key]
        in_flight = self._services.in_flight
        if in_flight is not None:
            in_flight.over(self._actor.spec.slot)
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

    def running_calls(self) -> list[RunningCall]:
        """Those that have begun."""
        return [call for _, _, call in self._tasks.values()]

    def task_of(self, call: RunningCall) -> asyncio.Task[None] | None:
        """The one in which a call runs, if it runs here."""
        return next((task for task, _, running_call in self._tasks.values() if running_call is call), None)

    def under_way(self) -> list[asyncio.Task[None]]:
        """All that has begun and is not through, but for those that wait for the others themselves."""
        return [task for task, item, _ in self._tasks.values() if item[1].fn != TERMINATE]

    async def join(self) -> None:
        """Wait until all that has come is done."""
        while self._tasks:
            await asyncio.wait([task for task, _, _ in self._tasks.values()])

    def abort(self) -> None:
        """Cancel all that runs, and forget what waits. Nothing is answered any more: the same calls may have been sent
        to the actor's next life, under the same numbers."""
        self._closed = True
        self._backlog = None
        for task, item, call in list(self._tasks.values()):
            self._services.streams.silence(*item)
            call.cancel(self._services.runtime.next_seq(), recursive=True)
            self._services.runtime.cancel_loop_task(task, call)
            task.add_done_callback(functools.partial(self._never_began, item))

    def cancel(self, connection: Connection, seq: int, *, recursive: bool) -> bool:
        for item in self._backlog or ():
            if item[0] is connection and item[1].seq == seq:
                assert self._backlog is not None
                self._backlog.remove(item)
                self._services.replier.cancelled(item, self._actor)
                return True
        found = self._tasks.get((id(connection), seq))
        if found is None:
            return False
        task, item, call = found
        call.cancel(self._services.runtime.next_seq(), recursive=recursive)
        self._services.runtime.cancel_loop_task(task, call)
        task.add_done_callback(functools.partial(self._never_began, item))
        return True

    def _never_began(self, item: Item, task: asyncio.Task[None]) -> None:
        """A task that is cancelled before its first step never runs any of its code: do what that would have done."""
        key = (id(item[0]), item[1].seq)
        entry = self._tasks.get(key)
        if entry is not None and entry[0] is task:
            if not self._closed:
                self._services.replier.cancelled(item, self._actor)
            self._over(key)


def _run_sync(
    services: Services, item: Item, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    result = method(*args, **kwargs)
    if _is_async(result) or not services.streams.is_asked(item, result):
        return result
    return services.streams.finish(item, result)


def _is_async(result: Any) -> bool:
    """Whether it is for the event loop to finish."""
    return inspect.iscoroutine(result) or inspect.isasyncgen(result)


def us_since(started: float) -> int:
    """Microseconds since a time.perf_counter()."""
    return int((time.perf_counter() - started) * 1e6)
