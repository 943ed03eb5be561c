"""Runs calls: tasks and sync actors in the main thread, threaded actors in a pool, async actors on a loop.

The main thread runs what is short without another thread being involved: it waits for calls by doing the process's I/O
itself (`aioray/runtime/reactor.py`). While user code keeps it busy, the helper thread does the I/O, and gives what has
not begun back to its callers, so that it runs elsewhere.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import inspect
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from aioray.exceptions import TaskCancelledError
from aioray.runtime.errors import constructor_error, error_value
from aioray.wire.calls import Call, Cancel, Export, GiveBack, Greeting
from aioray.wire.control import ActorSpec, ActorStarted, Exit
from aioray.wire.framing import decode_call
from aioray.wire.values import object_id
from aioray_node.worker.coroutines import Coroutines
from aioray_node.worker.methods import READY, method_of
from aioray_node.worker.replies import Replier
from aioray_node.worker.runtime import RunningCall, running
from aioray_node.worker.threads import ThreadLimit

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from aioray.runtime.connection import Connection
    from aioray_node.worker.runtime import WorkerRuntime

_FLUSH_EVERY_US = 500  # replies of short calls are written together, but not later than that
_ASYNC_CONCURRENCY = 1000
_SPARE_THREADS = 32  # of an async actor, beyond those for its sync methods: user code has to_thread, too


_INTERRUPT_AGAIN_S = 0.01


class Interrupted(KeyboardInterrupt):
    """Raised in the main thread, in the middle of user code, when its call is cancelled."""


class Caller:
    """Who is at the other end of a connection."""

    __slots__ = ("exports", "process_id")

    def __init__(self) -> None:
        self.process_id = b""
        self.exports: dict[str, bytes] = {}


Item = tuple["Connection", Call]


class Executor:
    """One worker's calls. What arrives is queued under the reactor's lock; `run` is the main thread's life."""

    def __init__(self, runtime: WorkerRuntime, address: str) -> None:
        self._runtime = runtime
        self._reactor = runtime.reactor
        self._replier = Replier(runtime)
        self._address = address
        self._queue: collections.deque[Item] = collections.deque()
        self._functions: dict[str, Any] = {}
        self._threads = ThreadLimit()
        self._current: Item | None = None  # in the main thread
        self._current_loop_task: asyncio.Task[Any] | None = None
        self._in_loop = False  # the main thread runs, or is about to run, an async task
        self._busy = False  # the current call takes long, or waits: nothing may queue behind it
        self._interrupting: Item | None = None
        self._spec: ActorSpec | None = None
        self._instance: Any = None
        self._pool: concurrent.futures.ThreadPoolExecutor | None = None
        self._coroutines: Coroutines | None = None
        self._in_threads: set[tuple[int, int]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._label = ""
        self._leaving = False  # asked to go: what was begun, and what has come already, is done first
        self._exit_with: SystemExit | None = None
        self.stopping = False

    @property
    def label(self) -> str:
        """What runs here, for the log."""
        call = running.get()
        if self._spec is None and call is not None:
            return call.call.name
        return self._label

    # arrivals, with the lock held

    def on_messages(self, connection: Connection, messages: list[Any]) -> None:
        caller: Caller = connection.tag
        queue = self._queue
        for message in messages:
            match message:
                case Call():
                    if self._spec is None or self._direct is None:
                        queue.append((connection, message))
                    else:
                        self._direct((connection, message))
                case Export(fn, data):
                    caller.exports[fn] = data
                case Cancel(seq):
                    self._cancel(connection, seq)
                case Greeting(process_id, sys_path):
                    caller.process_id = process_id
                    sys.path += [path for path in sys_path if path not in sys.path]
        if self._busy and queue and self._spec is None:
            self.give_back()

    _direct: Callable[[Item], None] | None = None

    def on_actor(self, spec: ActorSpec) -> None:
        """This worker becomes an actor."""
        self._spec = spec
        self._reactor.wake()

    def leave(self) -> None:
        """The node needs this worker no more."""
        self._leaving = True
        self._wake()

    def give_back(self) -> None:
        """Return what has not begun to its callers."""
        if self._spec is not None:
            return
        self._busy = self._current is not None
        given: dict[Connection, list[int]] = {}
        while self._queue:
            connection, call = self._queue.popleft()
            given.setdefault(connection, []).append(call.seq)
        for connection, seqs in given.items():
            connection.send(GiveBack(seqs))

    def helper_leads(self) -> None:
        """Nobody has waited for the cluster for a while: the current call takes long."""
        if self._current is not None:
            self.give_back()

    def before_block(self) -> None:
        """The main thread is about to wait inside a call."""
        with self._reactor.lock:
            self.give_back()

    # cancelling

    def _cancel(self, connection: Connection, seq: int) -> None:
        for item in self._queue:
            if item[0] is connection and item[1].seq == seq:
                self._queue.remove(item)
                self._cancelled(item)
                return
        if self._coroutines is not None and self._coroutines.cancel(connection, seq):
            return
        current = self._current
        if current is not None and current[0] is connection and current[1].seq == seq:
            if self._current_loop_task is not None:
                self._current_loop_task.cancel()
                return
            self._interrupting = current
            self._interrupt()

    def _interrupt(self) -> None:
        """Interrupt the main thread, again and again until it is through: it may be busy with what must not be torn."""
        if self._interrupting is None or self._interrupting is not self._current:
            return
        if self._current_loop_task is not None:
            self._interrupting = None
            self._reactor.forget_interrupt()
            self._current_loop_task.cancel()
            return
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        self._reactor.call_later(_INTERRUPT_AGAIN_S, self._interrupt)

    def _cancelled(self, item: Item) -> None:
        connection, call = item
        task_id = object_id(connection.tag.process_id, call.seq)[:14].hex()
        self._replier.error(connection, call, TaskCancelledError(task_id), 0)

    def _stopped_call(self, item: Item, call: RunningCall) -> None:
        """It was cancelled while it ran: what it submitted goes with it."""
        with self._reactor.lock:
            self._runtime.tasks.cancel_children(call)
        self._cancelled(item)

    def on_signal(self, *_: Any) -> None:
        """SIGINT, which only `_cancel` sends: raise in user code, but never in the middle of our own."""
        item = self._interrupting
        if item is None or item is not self._current or self._in_loop:
            return
        if self._reactor.in_our_hands() or self._runtime.memory.is_being_changed:
            self._reactor.interrupt(Interrupted())
        else:
            self._interrupting = None
            self._reactor.forget_interrupt()
            raise Interrupted

    # the main thread

    def run(self) -> None:
        """Run calls until the node is gone or says to stop. Raises SystemExit when user code did."""
        queue = self._queue
        reactor = self._reactor

        def ready() -> bool:
            return bool(queue) or self._leaving or self.stopping or (self._spec is not None and self._instance is None)

        while not self.stopping:
            if not queue:
                reactor.run_until(ready)
            if self._spec is not None and self._instance is None:
                self._become_actor(self._spec)
            elif queue:
                self._run_queue()
            elif self._leaving:
                self._finish()
        if self._exit_with is not None:
            raise self._exit_with

    def _finish(self) -> None:
        """Do what others still wait for; whatever user code has left running is its own to end at exit."""
        if self._pool is not None:
            self._pool.shutdown()
        self._reactor.run_until(lambda: self._runtime.link.lost or not self._runtime.objects.owes())
        self._reactor.flush()
        self.stopping = True

    def _run_queue(self) -> None:
        queue = self._queue
        unflushed_us = 0
        after_once = False
        while queue and not self.stopping:
            try:
                if after_once or queue[0][1].once:  # with an older answer unsent, it would seem not to have begun
                    self._reactor.run_until(lambda: not self._replier.unsent)
                    self._reactor.flush()
                item = queue.popleft()
            except IndexError:  # given back meanwhile
                return
            after_once = item[1].once
            unflushed_us += self._run_one(item)
            if unflushed_us >= _FLUSH_EVERY_US or item[1].once:  # nor may its own answer be lost with the next one
                self._reactor.flush()
                unflushed_us = 0

    def _run_one(self, item: Item) -> int:
        """Run one call in the main thread; how long it took, in microseconds."""
        connection, call = item
        caller: Caller = connection.tag
        running_call = RunningCall(call, caller.process_id)
        token = running.set(running_call)
        started = time.perf_counter()
        exec_us = 0
        try:
            self._current = item
            try:
                result = self._invoke(caller, call)
            finally:
                self._current = None
                self._busy = False
                exec_us = int((time.perf_counter() - started) * 1e6)
        except (Interrupted, asyncio.CancelledError):
            self._current = None  # the interrupt may have come right before that
            self._busy = False
            self._stopped_call(item, running_call)
        except SystemExit as exc:
            self._exit(exc)
        except BaseException as exc:  # whatever user code raises is its caller's
            self._replier.error(connection, call, exc, exec_us)
        else:
            self._replier.result(connection, caller.process_id, call, result, exec_us)
            del result
        running.reset(token)
        self._runtime.call_over(running_call)
        if self._interrupting is item:  # it ended by itself before the interrupt came through
            self._interrupting = None
            self._reactor.forget_interrupt()
        return exec_us

    def _invoke(self, caller: Caller, call: Call) -> Any:
        if self._spec is None:
            function = self._functions.get(call.fn)
            if function is None:
                function = self._functions[call.fn] = self._runtime.objects.load_arguments(caller.exports[call.fn])
            self._threads.apply(call.num_cpus)
        else:
            function = method_of(self._instance, call.fn)
        args, kwargs = self._arguments(call)
        result = function(*args, **kwargs)
        if inspect.iscoroutine(result):
            del args, kwargs
            return self._run_coroutine(result)
        return result

    def _arguments(self, call: Call) -> tuple[Any, dict[str, Any]]:
        objects = self._runtime.objects
        values = objects.load_arguments(call.args)
        if call.deps:
            values = list(values)
            for at, value in call.deps:
                values[at] = objects.load(value, argument=True)
        names = call.kwnames
        if not names:
            return values, {}
        split = len(values) - len(names)
        return values[:split], dict(zip(names, values[split:], strict=True))

    def _run_coroutine(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """An async task: the main thread becomes its event loop, which does the I/O meanwhile."""
        import uvloop

        self._in_loop = True  # from here on a cancel cancels the asyncio task, once there is one
        try:
            if self._loop is None:
                self._loop = uvloop.new_event_loop()
            loop = self._loop
            self._reactor.attach(loop)
            busy = loop.call_later(0.01, self._async_is_long)
            try:
                self._current_loop_task = loop.create_task(coroutine)
                return loop.run_until_complete(self._current_loop_task)
            finally:
                busy.cancel()
                self._current_loop_task = None
                self._reactor.detach()
        finally:
            self._in_loop = False

    def _async_is_long(self) -> None:
        with self._reactor.lock:
            self.give_back()

    def _exit(self, exc: SystemExit | KeyboardInterrupt) -> None:
        """User code called sys.exit: this worker ends, with that status, whichever thread it was in."""
        self._exit_with = exc if isinstance(exc, SystemExit) else SystemExit(128 + signal.SIGINT)
        code = self._exit_with.code
        with self._reactor.lock:
            self._runtime.link.send(Exit(f"it called sys.exit({'' if code is None else repr(code)})"))
            self._reactor.flush()
        self.stop()

    # actors

    def _become_actor(self, spec: ActorSpec) -> None:
        runtime = self._runtime
        runtime.actor_id, runtime.actor_name, runtime.namespace = spec.actor_id, spec.name, spec.namespace
        runtime.holds_cpu = bool(spec.running.get("CPU"))
        self._label = spec.cls
        sys.path += [path for path in spec.sys_path if path not in sys.path]
        if spec.is_async:
            self._run_async_actor(spec)
            return
        self._threads.apply(max(1.0, spec.num_cpus))
        if self._construct(spec) and spec.max_concurrency > 1:
            self._pool = concurrent.futures.ThreadPoolExecutor(spec.max_concurrency, "actor")
            self._go_direct(self._to_thread)
        if self._instance is None:
            self._spec = None
            self._reactor.run_until(lambda: self.stopping)  # the node ends this process

    def _go_direct(self, direct: Callable[[Item], None]) -> None:
        """From here on calls go to `direct` when they arrive, those that wait already first."""
        with self._reactor.lock:
            while self._queue:
                direct(self._queue.popleft())
            self._direct = direct

    def _construct(self, spec: ActorSpec) -> bool:
        """Run the constructor and report; whether there is an actor now."""
        call = decode_call(spec.call)
        token = running.set(RunningCall(call, spec.creator))
        error = None
        try:
            cls = self._runtime.objects.load_arguments(spec.cls_data)
            self._runtime.actor_class = cls
            args, kwargs = self._arguments(call)
            self._instance = cls(*args, **kwargs)
            del args, kwargs
        except BaseException as exc:  # whatever it raises goes to who calls the actor
            error = error_value(constructor_error(exc, spec.cls, spec.actor_id))
        finally:
            running.reset(token)
        self._report_started(spec, error)
        return error is None

    def _report_started(self, spec: ActorSpec, error: Any) -> None:
        runtime = self._runtime
        with runtime.reactor.lock:
            started = ActorStarted(spec.actor_id, error)
            if not runtime.objects.settle(lambda: runtime.link.send(started)):
                runtime.link.send(started)

    # threaded actors

    def _to_thread(self, item: Item) -> None:
        assert self._pool is not None
        key = (id(item[0]), item[1].seq)
        self._in_threads.add(key)
        try:
            self._pool.submit(self._run_in_thread, item, key)
        except RuntimeError:  # it is leaving: who calls hears of its end from the node
            self._in_threads.discard(key)

    def _run_in_thread(self, item: Item, key: tuple[int, int]) -> None:
        connection, call = item
        caller: Caller = connection.tag
        token = running.set(RunningCall(call, caller.process_id))
        started = time.perf_counter()
        try:
            args, kwargs = self._arguments(call)
            result = method_of(self._instance, call.fn)(*args, **kwargs)
            del args, kwargs
        except SystemExit as exc:
            self._exit(exc)
        except BaseException as exc:  # whatever user code raises is its caller's
            self._replier.error(connection, call, exc, _us_since(started))
        else:
            self._replier.result(connection, caller.process_id, call, result, _us_since(started))
            del result
        finally:
            running.reset(token)
            self._in_threads.discard(key)
        if self._reactor.loop is None:
            self._reactor.flush()

    # async actors

    def _run_async_actor(self, spec: ActorSpec) -> None:
        import uvloop

        loop = self._loop = uvloop.new_event_loop()
        asyncio.set_event_loop(loop)
        limit = spec.max_concurrency or _ASYNC_CONCURRENCY

        async def serve() -> None:
            stopped = self._stopped = asyncio.Event()
            # The constructor may block, as nothing else runs yet: the loop does the I/O only when it is through.
            constructed = self._construct(spec)
            self._reactor.attach(loop)
            if not constructed:
                await stopped.wait()
                return
            loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(limit + _SPARE_THREADS, "actor"))
            methods = {name: method_of(self._instance, name) for name in (*spec.methods, READY)}
            self._coroutines = Coroutines(
                loop,
                self._reactor,
                self._replier,
                {name: (method, inspect.iscoroutinefunction(method)) for name, method in methods.items()},
                self._arguments,
                self._runtime.call_over,
                self._exit,
                limit=limit,
            )
            self._go_direct(self._coroutines.take)
            if self._leaving:
                stopped.set()
            await stopped.wait()
            if not self.stopping:
                await self._coroutines.finish()

        try:
            loop.run_until_complete(serve())
            if not self.stopping:
                _end_tasks(loop)
        finally:
            self._reactor.detach()
        if not self.stopping:
            self._finish()

    _stopped: asyncio.Event | None = None

    def stop(self) -> None:
        """Have `run` return soon. From any thread."""
        self.stopping = True
        self._wake()

    def _wake(self) -> None:
        if self._stopped is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopped.set)
        self._reactor.wake()


def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what user code has left running, and let it clean up."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.wait(left))


def _us_since(started: float) -> int:
    return int((time.perf_counter() - started) * 1e6)
