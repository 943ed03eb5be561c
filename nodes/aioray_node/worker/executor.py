"""Runs calls: tasks and sync actors in the main thread, threaded actors in a pool, async actors on a loop.

The main thread runs what is short without another thread being involved: it waits for calls by doing the process's I/O
itself (`aioray/runtime/reactor.py`). While user code keeps it busy, the helper thread does the I/O, and gives what has
not begun back to its callers, so that it runs elsewhere.
"""

from __future__ import annotations

import asyncio
import collections
from typing import TYPE_CHECKING, Any

from aioray.wire.calls import Call, Cancel, CloseStream, Export, GiveBack, Greeting, Pattern, Proceed, Repeat
from aioray.wire.control import ActorSpec, EndActor, Exit
from aioray.wire.plans import Link
from aioray_node.worker.actor_host import ActorHost
from aioray_node.worker.call_log import CallLog
from aioray_node.worker.exits import is_crash, reason_of, status_of
from aioray_node.worker.lanes import Services
from aioray_node.worker.main_thread import MainThread
from aioray_node.worker.replies import Replier
from aioray_node.worker.runtime import Caller, RunningCall, id_of_call_here, running
from aioray_node.worker.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioray.runtime.connection import Connection
    from aioray_node.worker.checkpoints import Saver
    from aioray_node.worker.exits import Exiting
    from aioray_node.worker.lanes import Item
    from aioray_node.worker.runtime import WorkerRuntime

_FLUSH_EVERY_US = 500  # replies of short calls are written together, but not later than that


class MainLane:
    """Calls one at a time in the main thread: the queue of the executor, which also cancels what is in it."""

    def __init__(self, queue: collections.deque[Item]) -> None:
        self._queue = queue

    def take(self, item: Item) -> None:
        self._queue.append(item)

    def cancel(self, connection: Connection, seq: int, *, recursive: bool) -> bool:
        return False


class Executor:
    """One worker's calls. What arrives is queued under the reactor's lock; `run` is the main thread's life."""

    def __init__(self, runtime: WorkerRuntime, address: str) -> None:
        self._runtime = runtime
        self._reactor = runtime.reactor
        self._replier = Replier(runtime)
        self._streams = Streams(runtime)
        self._address = address
        self._queue: collections.deque[Item] = collections.deque()
        self.main_thread = MainThread(
            runtime, self._replier, self._streams, on_exit=self._exit, on_long=self._async_is_long
        )
        self._runs: collections.Counter[str] = collections.Counter()  # of functions that say how many are enough
        self._worn_out = False  # one has had enough: nothing begins here any more
        services = self._services = Services(runtime, self._replier, MainLane(self._queue), self._streams)
        self._log = CallLog(runtime.reporter, runtime.process_id, self._running_calls)
        if runtime.reporter.is_on:
            self._replier.log = self._log
        services.log = self._log
        self._host = runtime.host = ActorHost(services, self._exit, self._save_soon)
        self._save_due: Saver | None = None
        self._is_actor = False  # or has many
        self._loop: asyncio.AbstractEventLoop | None = None  # of async and light actors
        self._stopped: asyncio.Event | None = None  # while actors are served on the loop
        self._label = ""
        self._leaving = False  # asked to go: what was begun, and what has come already, is done first
        self._exit_with: SystemExit | None = None
        self._crashed = False  # not on purpose
        self.stopping = False

    @property
    def label(self) -> str:
        """What runs here, for the log."""
        call = running.get()
        if call is None:
            return self._label
        return call.call.name if call.actor is None else call.actor.spec.cls

    # arrivals, with the lock held

    def on_messages(self, connection: Connection, messages: list[Any]) -> None:
        caller: Caller = connection.tag
        queue, by_slot, main = self._queue, self._host.by_slot, self.main_thread
        for at, message in enumerate(messages):
            if type(message) is Repeat:
                message = caller.repeated(message)  # a Call like any other from here on
            match message:
                case Call(slot=slot):
                    if message.time_left_us:
                        message.time_left_us += int(self._reactor.time() * 1e6)
                    if message.placement is not None:
                        self._runtime.captures = True
                    if message.deps and not main.busy and (queue or main.current is not None):
                        self._runtime.objects.bringing.prefetch([value for _, value in message.deps])
                    if not self._is_actor:
                        queue.append((connection, message))
                    elif (actor := by_slot.get(slot)) is not None:
                        actor.take((connection, message))
                case Export(fn, data):
                    caller.exports[fn] = data
                case Pattern(number, call):
                    caller.patterns[number] = call
                    if call.placement is not None:
                        self._runtime.captures = True
                case Cancel(seq):
                    self._streams.cancel(connection, seq)
                    self._cancel(connection, message)
                case Proceed():
                    self._streams.proceed(connection, message)
                case CloseStream(seq, slot):
                    if not self._streams.close(connection, seq):
                        self._cancel(connection, Cancel(seq, slot))
                case Link():
                    self._services.plans.join(connection, message, messages[at + 1 :])
                    return
                case Greeting(process_id, sys_path, job_id, namespace):
                    caller.process_id, caller.job_id, caller.namespace = process_id, job_id, namespace
                    if not self._is_actor:
                        self._runtime.job_id, self._runtime.namespace = job_id, namespace
                    self._runtime.add_sys_path(sys_path)
        if (main.busy or self._worn_out) and queue:
            self.give_back()

    def on_caller_gone(self, connection: Connection, reason: str) -> None:
        """Its node ends its tasks; an actor goes on for others."""
        self._streams.caller_gone(connection)
        self._services.plans.caller_gone(connection.tag.process_id)

    def on_actor(self, spec: ActorSpec) -> None:
        """This worker becomes an actor, or gets one more light one."""
        self._is_actor = True
        if spec.strategy is not None and spec.strategy.group is not None:
            self._runtime.captures = True
        self._host.expect(spec)
        self._reactor.wake()

    def end_actor(self, message: EndActor) -> None:
        """A light actor is over."""
        self._host.end(message.slot, now=message.now)

    def leave(self) -> None:
        """The node needs this worker no more."""
        self._leaving = True
        self._wake()

    def give_back(self) -> None:
        """Return what has not begun to its callers."""
        if self._is_actor:
            return
        self.main_thread.busy = self.main_thread.current is not None
        given: dict[Connection, list[int]] = {}
        while self._queue:
            connection, call = self._queue.popleft()
            given.setdefault(connection, []).append(call.seq)
        for connection, seqs in given.items():
            connection.send(GiveBack(seqs))

    def helper_leads(self) -> None:
        """Nobody has waited for the cluster for a while: the current call takes long."""
        if self.main_thread.current is not None:
            self._log.begun()
            self.give_back()

    def before_block(self) -> None:
        """The main thread is about to wait inside a call."""
        with self._reactor.lock:
            self._log.begun()
            self.give_back()

    def _running_calls(self) -> Iterator[RunningCall]:
        if self.main_thread.current_call is not None:
            yield self.main_thread.current_call
        yield from self._host.running_calls()

    # cancelling

    def _cancel(self, connection: Connection, message: Cancel) -> None:
        seq, recursive = message.seq, message.recursive
        for item in self._queue:
            if item[0] is connection and item[1].seq == seq:
                self._queue.remove(item)
                self._replier.cancelled(item, self.main_thread.actor)
                return
        actor = self._host.by_slot.get(message.slot)
        if actor is not None and actor.cancel(connection, seq, recursive=recursive):
            return
        self.main_thread.cancel(connection, message, may_end=not self._is_actor)

    # the main thread

    def run(self) -> None:
        """Run calls until the node is gone or says to stop. Raises SystemExit when user code did."""
        queue, expected = self._queue, self._host.expected
        reactor = self._reactor

        def ready() -> bool:
            return bool(queue or expected or self._save_due) or self._leaving or self.stopping

        while not self.stopping:
            if not queue:
                reactor.run_until(ready)
            if expected:
                self._become_actor(expected[0])
            elif self._save_due is not None:
                saver, self._save_due = self._save_due, None
                saver.save()
            elif queue:
                self._run_queue()
            elif self._leaving:
                self._finish()
        if self._exit_with is not None:
            if self._crashed:
                self._host.save()
            raise self._exit_with

    def _save_soon(self, saver: Saver) -> None:
        self._save_due = saver
        self._reactor.wake()

    def _finish(self) -> None:
        """Do what others still wait for; whatever user code has left running is its own to end at exit."""
        if self.main_thread.actor is not None:
            self.main_thread.actor.join_threads()
        with self._reactor.lock:
            self._runtime.tell_all()
        self._reactor.run_until(lambda: self._runtime.link.lost or not self._runtime.objects.owes())
        self._reactor.flush()
        self.stopping = True

    def _run_queue(self) -> None:
        queue, main, lock = self._queue, self.main_thread, self._reactor.lock
        unflushed_us = 0
        after_once = False
        while queue and not self.stopping:
            try:
                if after_once or queue[0][1].once:  # with an older answer unsent, it would seem not to have begun
                    self._reactor.run_until(lambda: not self._replier.unsent)
                    self._reactor.flush()
                lock.acquire()  # a cancel finds it in the queue, or here; `with` takes twice as long
                try:
                    item = queue.popleft()
                    running_call = RunningCall(item[1], item[0].tag, main.actor)
                    main.current, main.current_call = item, running_call
                finally:
                    lock.release()
            except IndexError:  # given back meanwhile
                return
            after_once = item[1].once
            unflushed_us += main.run(item, running_call)
            if item[1].max_calls and main.actor is None and self._is_enough(item):
                return
            if unflushed_us >= _FLUSH_EVERY_US or item[1].once:  # nor may its own answer be lost with the next one
                self._reactor.flush()
                unflushed_us = 0

    def _is_enough(self, item: Item) -> bool:
        """Count a run of a function that wears its worker out; True when this worker is to be let go."""
        connection, call = item
        self._runs[call.fn] += 1
        if self._runs[call.fn] < call.max_calls:
            return False
        self._reactor.run_until(lambda: not self._replier.unsent)  # its results first
        with self._reactor.lock:
            self._worn_out = True
            connection.send(GiveBack([], leaving=True))  # so that who has the lease ends it
            self._queue.clear()
            self._runtime.tell_all()
        self._reactor.flush()
        return True

    def _async_is_long(self) -> None:
        with self._reactor.lock:
            self._log.begun()
            self.give_back()

    def _exit(self, exc: Exiting) -> None:
        """User code ends this worker, with a status, whichever thread it was in."""
        with self._reactor.lock:
            if self._exit_with is not None:
                return
            self._exit_with = exc if isinstance(exc, SystemExit) else SystemExit(status_of(exc))
            self._crashed = is_crash(exc)
            self._runtime.tell_all()
            self._runtime.link.send(Exit(reason_of(exc), self._crashed, id_of_call_here()))
            self._reactor.flush()
        self.stop()

    # actors

    def _become_actor(self, spec: ActorSpec) -> None:
        runtime = self._runtime
        runtime.add_sys_path(spec.sys_path)
        runtime.holds_cpu = bool(spec.running.get("CPU")) and not spec.slot
        if not spec.slot:
            runtime.actor_spec, runtime.namespace, runtime.job_id = spec, spec.namespace, spec.job_id
            self._label = spec.cls
        if spec.is_async or spec.slot:
            self._serve_on_loop()
            return
        self.main_thread.threads.apply(max(1.0, spec.num_cpus))
        self._host.expected.popleft()
        actor = self.main_thread.actor = self._host.prepare(spec)
        if actor is None or not self._host.construct(actor):
            self.main_thread.actor = None
            self._reactor.run_until(lambda: self.stopping)  # the node ends this process

    def _serve_on_loop(self) -> None:
        import uvloop

        loop = self._loop = uvloop.new_event_loop()
        asyncio.set_event_loop(loop)

        async def serve() -> None:
            stopped = self._stopped = asyncio.Event()
            if self._leaving or self.stopping:
                stopped.set()
            await self._host.serve(stopped)
            if not self.stopping:
                await self._host.finish()
            elif self._crashed:
                await self._host.save_on_loop()
                self._crashed = False  # it is saved

        try:
            loop.run_until_complete(serve())
            if not self.stopping:
                _end_tasks(loop)
        finally:
            self._reactor.detach()
        if not self.stopping:
            self._finish()

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
