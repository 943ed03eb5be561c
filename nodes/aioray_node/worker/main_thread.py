"""One call at a time in the main thread, user code and all, and how it is interrupted when it is cancelled."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from aioray.exceptions import TaskCancelledError
from aioray.runtime.task_records import RETRY_ALL
from aioray_node.worker.functions import FunctionCache
from aioray_node.worker.runtime import running
from aioray_node.worker.streams import Stopped
from aioray_node.worker.threads import ThreadLimit

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import FrameType

    from aioray.runtime.connection import Connection
    from aioray.wire.calls import Call, Cancel
    from aioray_node.worker.hosted_actor import HostedActor
    from aioray_node.worker.lanes import Item
    from aioray_node.worker.replies import Replier
    from aioray_node.worker.runtime import Caller, RunningCall, WorkerRuntime
    from aioray_node.worker.streams import Streams

_INTERRUPT_AGAIN_S = 0.01
_IMPORT_S = 5.0  # which an import has to end, when its call is cancelled


class Interrupted(KeyboardInterrupt):
    """Raised in the main thread, in the middle of user code, when its call is cancelled."""


class MainThread:
    """`on_exit(exc)`: user code ends the worker. `on_long()`: a call on the loop takes long."""

    def __init__(
        self,
        runtime: WorkerRuntime,
        replier: Replier,
        streams: Streams,
        *,
        on_exit: Callable[[SystemExit], None],
        on_long: Callable[[], None],
    ) -> None:
        self._runtime = runtime
        self._reactor = runtime.reactor
        self._replier = replier
        self._streams = streams
        self._on_exit = on_exit
        self._on_long = on_long
        self._functions = FunctionCache(runtime.config.worker_functions_kept)
        self.threads = ThreadLimit()
        self.actor: HostedActor | None = None  # whose calls these are
        self.current: Item | None = None
        self.current_call: RunningCall | None = None
        self.busy = False  # the current call takes long, or waits: nothing may queue behind it
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_task: asyncio.Task[Any] | None = None
        self._interruptible = False  # user code runs, or is about to
        self._interrupting: Item | None = None
        self._handed_over = False  # the interrupt is for the reactor to raise
        self._spares_imports_until = 0.0  # on the clock of `time.monotonic`

    def run(self, item: Item, running_call: RunningCall) -> int:
        """Run one call in the main thread; how long it took, in microseconds."""
        connection, call = item
        caller: Caller = connection.tag
        token = running.set(running_call)
        started = running_call.started
        exec_us = 0
        try:
            try:
                self._interruptible = True
                if running_call.is_canceled:  # before it began
                    raise Interrupted
                turn = None if self.actor is None else self.actor.turn
                if turn is None:
                    result = self._invoke(item, running_call)
                else:
                    with turn:
                        result = self._invoke(item, running_call)
            finally:
                self._interruptible = False
                self.current = self.current_call = None
                self.busy = False
                exec_us = int((time.perf_counter() - started) * 1e6)
        except (Interrupted, Stopped, asyncio.CancelledError):
            self._interruptible = False
            self.current = self.current_call = None  # the interrupt may have come right before that
            self.busy = False
            self._stopped_call(item, running_call)
        except SystemExit as exc:
            self._on_exit(exc)
        except BaseException as exc:  # whatever user code raises is its caller's
            if self._interrupting is item and isinstance(exc, KeyboardInterrupt):
                self._stopped_call(item, running_call)  # user code has put a handler of its own in place of ours
            else:
                retry = self._is_worth_a_retry(caller, call, exc)
                self._replier.error(connection, call, exc, exec_us, retry=retry, actor=self._saved())
        else:
            self._replier.result(connection, caller.process_id, call, result, exec_us, self._saved())
            del result
        running.reset(token)
        self._runtime.call_over(running_call)
        if self._interrupting is item:  # it ended by itself before the interrupt came through
            self._interrupting = None
            self._reactor.forget_interrupt()
        return exec_us

    def _saved(self) -> HostedActor | None:
        """The actor, with its checkpoint taken if that is due."""
        saver = None if self.actor is None else self.actor.saver
        if saver is not None and saver.call_done():
            saver.save()
        return self.actor

    def _is_worth_a_retry(self, caller: Caller, call: Call, exc: BaseException) -> bool:
        """Whether the options of the call name this error."""
        if not call.retry or isinstance(exc, TaskCancelledError):
            return False
        if call.retry == RETRY_ALL:
            return isinstance(exc, Exception)
        try:
            return isinstance(exc, self._exported(call.retry, caller))
        except Exception:  # a type that cannot be had here is not what was raised here
            return False

    def _exported(self, fn: str, caller: Caller) -> Any:
        return self._functions.get(fn, caller.exports, self._runtime.objects.load_arguments)

    def _invoke(self, item: Item, running_call: RunningCall) -> Any:
        connection, call = item
        caller: Caller = connection.tag
        if self.actor is None:
            function = self._exported(call.fn, caller)
            self.threads.apply(call.num_cpus)
        else:
            function = self.actor.method(call.fn)
        running_call.function = function
        args, kwargs = self._runtime.arguments(call)
        result = function(*args, **kwargs)
        if inspect.iscoroutine(result):
            args, kwargs = (), {}
            result = self._run_coroutine(result, running_call)
        elif inspect.isasyncgen(result):
            del args, kwargs
            finishing = self._streams.finish_async(item, result)
            try:
                return self._run_coroutine(finishing, running_call)
            finally:
                finishing.close()  # interrupted before it began, it would complain
        if self._streams.is_asked(item, result):
            args, kwargs = (), {}  # from here on the generator has them
            return self._streams.finish(item, result, in_main=True)
        return result

    def _run_coroutine(self, coroutine: Coroutine[Any, Any, Any], call: RunningCall) -> Any:
        """An async task: the main thread becomes its event loop, which does the I/O meanwhile."""
        import uvloop

        self._interruptible = False  # from here on a cancel cancels the asyncio task, once there is one
        if self._loop is None:
            self._loop = uvloop.new_event_loop()
        loop = self._loop
        self._reactor.attach(loop)
        busy = loop.call_later(0.01, self._on_long)
        try:
            with self._reactor.lock:
                task = self._loop_task = loop.create_task(coroutine)
                self._interrupting = None
                self._reactor.forget_interrupt()
                if call.is_canceled:  # before it could be told
                    self._runtime.cancel_loop_task(task, call)
            return loop.run_until_complete(task)
        finally:
            busy.cancel()
            self._loop_task = None
            self._reactor.detach()

    # cancelling

    def cancel(self, connection: Connection, message: Cancel, *, may_end: bool) -> None:
        """Cancel the call that runs, if it is that one. `may_end`: with this process, where that is asked for."""
        current, call = self.current, self.current_call
        if current is None or call is None or current[0] is not connection or current[1].seq != message.seq:
            return
        call.cancel(self._runtime.next_seq(), recursive=message.recursive)
        if message.force and may_end:
            self._end_by_force(call)
        elif self._loop_task is not None:
            self._runtime.cancel_loop_task(self._loop_task, call)
        else:
            self._interrupting, self._handed_over = current, False
            self._spares_imports_until = time.monotonic() + _IMPORT_S
            self._interrupt()

    def _end_by_force(self, call: RunningCall) -> None:
        """The call is to end with this process; what it has others do ends first."""
        if not call.spares_children:
            self._runtime.tasks.cancel_children(call)
        self._reactor.flush()
        os._exit(1)

    def _interrupt(self) -> None:
        """Interrupt the main thread, again and again until it is through: it may be busy with what must not be torn."""
        if self._interrupting is None or self._interrupting is not self.current:
            return
        if self._handed_over and not self._reactor.is_interrupting:
            self._interrupted()
            return
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        self._reactor.call_later(_INTERRUPT_AGAIN_S, self._interrupt)

    def _interrupted(self) -> None:
        """The current call has its interrupt: once is enough. What it has begun before goes with it.

        Not earlier, or it would see its children fail, and have the interrupt in the middle of what it does then.
        """
        self._interrupting = None
        self._reactor.forget_interrupt()
        call = self.current_call
        if call is not None and not call.spares_children:
            with self._reactor.lock:
                self._runtime.tasks.cancel_children(call, call.next_seq)

    def _stopped_call(self, item: Item, call: RunningCall) -> None:
        """It was cancelled while it ran: what it submitted goes with it."""
        if not call.spares_children:
            with self._reactor.lock:
                self._runtime.tasks.cancel_children(call)
        self._replier.cancelled(item, self.actor)

    def on_signal(self, _: int, frame: FrameType | None) -> None:
        """SIGINT, which only `cancel` sends: raise in user code, but never in the middle of our own."""
        item = self._interrupting
        if item is None or item is not self.current or not self._interruptible:
            return
        if self._handed_over and not self._reactor.is_interrupting:
            return  # it was raised while this signal was on its way
        if time.monotonic() < self._spares_imports_until and _is_importing(frame):
            return  # torn, it would fail in all later calls here, too: much of what has C in it is loaded once only
        if self._reactor.in_our_hands() or self._runtime.memory.is_being_changed or self._streams.is_between_values:
            self._handed_over = True
            self._reactor.interrupt(Interrupted())
        else:
            self._interrupted()
            raise Interrupted


def _is_importing(frame: FrameType | None) -> bool:
    """Whether the code in `frame` was called by an import."""
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            return True
        frame = frame.f_back
    return False
