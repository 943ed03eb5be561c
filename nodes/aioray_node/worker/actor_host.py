"""The actors of one worker process: one, as a rule, or many light ones that share the process and its event loop.

The node says which (`ActorSpec`), and numbers those that share a process: their slot. Slot 0 is an actor with a process
of its own.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import functools
import inspect
import itertools
import time
import weakref
from typing import TYPE_CHECKING, Any

from aioray.runtime.errors import constructor_error, error_value
from aioray.wire.control import ActorExit, ActorStarted
from aioray.wire.one_call import decode_call
from aioray_node.in_flight import InFlight, path_of
from aioray_node.worker.checkpoints import restore, restore_on_loop
from aioray_node.worker.exits import is_crash, reason_of
from aioray_node.worker.hosted_actor import ASYNC_CONCURRENCY, ActorKind, HostedActor
from aioray_node.worker.runtime import Caller, RunningCall, id_of_call_here, running

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from aioray.exceptions import AsyncioActorExit
    from aioray.wire.control import ActorSpec
    from aioray.wire.values import Value
    from aioray_node.worker.checkpoints import Saver
    from aioray_node.worker.exits import Exiting
    from aioray_node.worker.lanes import Services

_SPARE_THREADS = 32  # beyond those for sync methods of async actors: user code has to_thread, too
_SHARED_THREADS = 64  # for sync methods of all light actors of a process
_ACTORS_LOOKED_AT = 1000  # for calls that run
_CONSTRUCT_FOR_S = 0.005  # how long constructors of light actors may go on before calls of others have a turn


class ActorHost:
    """Constructs actors, knows them by slot, ends them."""

    def __init__(
        self,
        services: Services,
        on_process_exit: Callable[[Exiting], None],
        on_save_due: Callable[[Saver], None],
    ) -> None:
        self._services = services
        self._runtime = services.runtime
        self._on_process_exit = on_process_exit
        self._on_save_due = on_save_due
        self.by_slot: dict[int, HostedActor] = {}
        self.expected: collections.deque[ActorSpec] = collections.deque()
        self._kinds: weakref.WeakValueDictionary[bytes, ActorKind] = weakref.WeakValueDictionary()
        self._constructing: dict[int, asyncio.Task[None]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._at_end: dict[int, list[Callable[[], None]]] = {}  # of few light actors: what is to be called
        self._works_for: tuple[bytes, str] | None = None  # job id and namespace of the first light actor
        self._woken = False
        services.on_exit = self.on_exit
        services.on_save_due = self._save_due

    # what the node says, with the lock held

    def expect(self, spec: ActorSpec) -> None:
        """Construct this, soon."""
        self.expected.append(spec)
        if spec.slot:
            self._work_for(spec.job_id, spec.namespace)
        if self._services.loop is not None and not self._woken:
            self._woken = True
            self._services.loop.call_soon(self._construct_expected)

    def _work_for(self, job_id: bytes, namespace: str) -> None:
        """Threads that user code starts are part of no call: they are of the job that all light actors here are of."""
        runtime = self._runtime
        if self._works_for is None:
            runtime.job_id, runtime.namespace = self._works_for = job_id, namespace
        elif self._works_for != (job_id, namespace):  # from here on nobody can tell
            runtime.job_id, runtime.namespace = runtime.process_id, ""

    def end(self, slot: int, *, now: bool) -> None:
        """A light actor is over; unless it is to be `now`, calls that have come are done first."""
        constructing = self._constructing.pop(slot, None)
        if constructing is not None:
            constructing.cancel()
            self._over(slot)
        for spec in self.expected:
            if spec.slot == slot:
                self.expected.remove(spec)
                return
        actor = self.by_slot.pop(slot, None)
        if actor is None:
            return
        self._services.plans.actor_gone(slot)
        if now:
            actor.abort()
            self._over(slot)
        else:
            loop = self._services.loop
            assert loop is not None
            task = loop.create_task(actor.join())
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
            task.add_done_callback(lambda _: self._over(slot))

    def at_end(self, slot: int, then: Callable[[], None]) -> None:
        """Have `then` called on the loop when a light actor is over, and what it had to do is done."""
        self._at_end.setdefault(slot, []).append(then)

    def _over(self, slot: int) -> None:
        for then in self._at_end.pop(slot, ()):
            assert self._services.loop is not None
            self._services.loop.call_soon(then)  # outside of the lock

    # constructing

    def prepare(self, spec: ActorSpec) -> HostedActor | None:
        """The actor without its object; None, and the node is told, when its class cannot be had."""
        kind = self._kinds.get(spec.cls_data)
        if kind is None:
            try:
                cls = self._runtime.objects.load_arguments(spec.cls_data)
                kind = self._kinds[spec.cls_data] = ActorKind(cls, spec.methods)
            except BaseException as exc:  # whatever importing user code raises goes to who calls the actor
                self._report(spec, error_value(constructor_error(exc, spec.cls, spec.actor_id)))
                return None
        return HostedActor(spec, kind)

    def construct(self, actor: HostedActor) -> bool:
        """Run the constructor here and now, and restore; whether there is an actor so far.

        The node is told, unless there is more to do that must be awaited.
        """
        call = decode_call(actor.spec.call)
        token = running.set(RunningCall(call, _creator_of(actor.spec), actor))
        try:
            args, kwargs = self._runtime.arguments(call)
            actor.instance = actor.kind.cls(*args, **kwargs)
            del args, kwargs
            if not actor.kind.restore_is_coroutine:
                restore(self._services, actor)
        except BaseException as exc:  # whatever it raises goes to who calls the actor
            self._failed(actor, exc)
            return False
        finally:
            running.reset(token)
        if not _must_await(actor):
            self._up(actor)
        return True

    async def construct_async(self, actor: HostedActor) -> None:
        """What of it must be awaited, and all of it if nothing has been done yet."""
        call = decode_call(actor.spec.call)
        running.set(RunningCall(call, _creator_of(actor.spec), actor))
        cls: Any = actor.kind.cls
        try:
            if actor.instance is None:
                if self._runtime.must_bring(call):
                    await self._runtime.bring_arguments(call)
                args, kwargs = self._runtime.arguments(call)
                if actor.kind.constructor_is_coroutine:
                    instance = cls.__new__(cls, *args, **kwargs)
                    await instance.__init__(*args, **kwargs)
                else:
                    instance = cls(*args, **kwargs)
                actor.instance = instance
                del args, kwargs
            restoring = await restore_on_loop(self._services, actor)
            if inspect.isawaitable(restoring):
                await restoring
        except BaseException as exc:  # whatever it raises goes to who calls the actor
            self._failed(actor, exc)
        else:
            # A constructor may have gone on although it was cancelled, and its slot be another's by now.
            if not actor.spec.slot or self._constructing.get(actor.spec.slot) is asyncio.current_task():
                self._up(actor)

    def _lies_elsewhere(self, actor: HostedActor) -> bool:
        """Whether what it is made of has to be brought from another node, which no loop may wait for."""
        checkpoint = actor.spec.checkpoint
        if checkpoint is not None and not self._runtime.objects.bringing.is_here(checkpoint):
            return True
        return self._runtime.must_bring(decode_call(actor.spec.call))

    def _failed(self, actor: HostedActor, exc: BaseException) -> None:
        reason = "" if actor.instance is None else "its __aioray_restore__ raised"
        spec = actor.spec
        self._over(spec.slot)
        self._report(spec, error_value(constructor_error(exc, spec.cls, spec.actor_id, reason)))

    def _up(self, actor: HostedActor) -> None:
        spec = actor.spec
        with self._services.reactor.lock:
            actor.open_lanes(self._services)
            self.by_slot[spec.slot] = actor
            self._report(spec, None)
            spec.call, spec.checkpoint = b"", None  # were for the constructor, and it is through

    def _report(self, spec: ActorSpec, error: Value | None) -> None:
        runtime = self._runtime
        with runtime.reactor.lock:
            started = ActorStarted(spec.actor_id, error, spec.restarts)
            if not runtime.objects.settle(lambda: runtime.link.send(started)):
                runtime.link.send(started)

    # on the loop

    async def serve(self, stopped: asyncio.Event) -> None:
        """Be the async actor, or the light actors, that the node wants here, until `stopped`."""
        services = self._services
        loop = services.loop = asyncio.get_running_loop()
        spec = self.expected[0]
        limit = _SHARED_THREADS
        if not spec.slot:
            limit = (spec.max_concurrency or ASYNC_CONCURRENCY) + sum(spec.concurrency_groups.values())
        services.threads = concurrent.futures.ThreadPoolExecutor(limit + _SPARE_THREADS, "actor")
        loop.set_default_executor(services.threads)
        if spec.slot:
            runtime = self._runtime
            services.in_flight = InFlight(path_of(runtime.session_dir, runtime.process_id.hex()))
            services.reactor.attach(loop)
            self._construct_expected()
        else:
            self.expected.popleft()
            actor = self.prepare(spec)
            # It may block, as nothing else runs yet: the loop does the I/O only when it is through.
            if actor is not None and not actor.kind.constructor_is_coroutine and not self.construct(actor):
                actor = None
            services.reactor.attach(loop)
            if actor is not None and _must_await(actor):
                await self.construct_async(actor)
        await stopped.wait()

    async def finish(self) -> None:
        """Wait until all calls that have come are through."""
        for actor in list(self.by_slot.values()):
            await actor.join()
        if self._leaving:
            await asyncio.wait(self._leaving)

    def _construct_expected(self) -> None:
        self._woken = False
        loop, in_flight = self._services.loop, self._services.in_flight
        assert loop is not None
        assert in_flight is not None
        until = time.perf_counter() + _CONSTRUCT_FOR_S
        while self.expected and time.perf_counter() < until:
            spec = self.expected.popleft()
            self._runtime.add_sys_path(spec.sys_path)
            in_flight.begin(spec.slot)
            actor = self.prepare(spec)
            if actor is None:
                in_flight.over(spec.slot)
            elif _must_await(actor) or self._lies_elsewhere(actor):
                task = self._constructing[spec.slot] = loop.create_task(self.construct_async(actor))
                task.add_done_callback(functools.partial(self._constructed, spec.slot))
            else:
                self.construct(actor)
                in_flight.over(spec.slot)
        if self.expected:
            self._woken = True
            loop.call_soon(self._construct_expected)

    def _constructed(self, slot: int, task: asyncio.Task[None]) -> None:
        if self._constructing.get(slot) is task:
            del self._constructing[slot]
        assert self._services.in_flight is not None
        self._services.in_flight.over(slot)

    # checkpoints

    def _save_due(self, saver: Saver) -> None:
        loop = self._services.loop
        if loop is None:
            self._on_save_due(saver)
        else:
            loop.call_soon_threadsafe(self._on_loop, saver.save_on_loop())

    def _on_loop(self, coroutine: Coroutine[Any, Any, None]) -> None:
        assert self._services.loop is not None
        task = self._services.loop.create_task(coroutine)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def save(self) -> None:
        """Take a last checkpoint of an actor whose calls run in threads."""
        for actor in self.by_slot.values():
            if actor.saver is not None:
                actor.saver.save_last()

    async def save_on_loop(self) -> None:
        """Take a last checkpoint of an async actor."""
        for actor in self.by_slot.values():
            if actor.saver is not None:
                await actor.saver.save_last_on_loop()

    # exits

    def leave(self, actor: HostedActor, call: RunningCall | None, exc: AsyncioActorExit) -> None:
        """Code of an async actor is about to raise `exc`, to end it: what that leaves cleans up first."""
        loop = self._services.loop
        assert loop is not None
        if self._services.reactor.runs_in(loop):
            self._when_left(actor, call, exc, asyncio.current_task())
            return
        # The thread of a sync method: the call ends by itself.
        is_its_own = call is not None and not actor.runs_on_loop(call.call.fn)
        loop.call_soon_threadsafe(functools.partial(self._when_left, actor, call, exc, None, is_its_own=is_its_own))

    def _when_left(
        self,
        actor: HostedActor,
        call: RunningCall | None,
        exc: AsyncioActorExit,
        here: asyncio.Task[Any] | None,
        *,
        is_its_own: bool = False,
    ) -> None:
        """End the actor when `here` is through, and the call that has begun it."""
        method = None if call is None else actor.task_of(call)
        if here is not None and here is not method:
            here.add_done_callback(lambda _: self._when_left(actor, call, exc, None))
            return
        if method is None or call is None:
            self.on_exit(actor, exc)
            return
        call.leaves = True
        method.add_done_callback(lambda _: self.on_exit(actor, exc))
        if here is None and not is_its_own:
            method.cancel()  # it may wait for ever, as it does not know

    def on_exit(self, actor: HostedActor, exc: Exiting) -> None:
        """User code of an actor ends it: with its process, if that is its own. From any thread, and more than once."""
        loop = self._services.loop
        if not actor.spec.slot:
            self._on_process_exit(exc)
        elif loop is not None and not self._services.reactor.runs_in(loop):
            loop.call_soon_threadsafe(self._exit_light, actor, exc)
        else:
            self._exit_light(actor, exc)

    def _exit_light(self, actor: HostedActor, exc: Exiting) -> None:
        if self.by_slot.get(actor.spec.slot) is not actor:
            return
        if is_crash(exc) and actor.saver is not None:
            del self.by_slot[actor.spec.slot]  # no new calls
            self._on_loop(self._save_and_exit(actor, exc))
        else:
            self._gone_light(actor, exc)

    async def _save_and_exit(self, actor: HostedActor, exc: Exiting) -> None:
        assert actor.saver is not None
        await actor.saver.save_last_on_loop()
        self.by_slot[actor.spec.slot] = actor
        self._gone_light(actor, exc)

    def _gone_light(self, actor: HostedActor, exc: Exiting) -> None:
        spec, crashed = actor.spec, is_crash(exc)
        with self._services.reactor.lock:
            leaving = ActorExit(spec.actor_id, reason_of(exc), spec.restarts, crashed, id_of_call_here())
            self._services.runtime.link.send(leaving)
            # One that will be constructed again must not answer any more.
            self.end(spec.slot, now=crashed)

    def running_calls(self) -> Iterator[RunningCall]:
        """Calls that run now, but for those in the main thread; of so many actors, not of all. The lock is held."""
        for actor in itertools.islice(list(self.by_slot.values()), _ACTORS_LOOKED_AT):
            yield from actor.running_calls()

    @property
    def on_loop(self) -> bool:
        """Whether the actors here are served on an event loop."""
        return self._services.loop is not None

    def current(self) -> HostedActor | None:
        """Whose code runs here; None when that cannot be told, or there is none yet."""
        call = running.get()
        actor = call.actor if call is not None else self.by_slot.get(0)
        return actor if actor is not None and self.by_slot.get(actor.spec.slot) is actor else None


def _creator_of(spec: ActorSpec) -> Caller:
    return Caller(spec.creator, spec.job_id, spec.namespace)


def _must_await(actor: HostedActor) -> bool:
    """Whether there is something in its construction that must be awaited."""
    kind = actor.kind
    return kind.constructor_is_coroutine or (kind.restore_is_coroutine and actor.spec.checkpoint is not None)
