"""The actors of one worker process: one, as a rule, or many light ones that share the process and its event loop.

The node says which (`ActorSpec`), and numbers those that share a process: their slot. Slot 0 is an actor with a process
of its own.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import functools
import time
import weakref
from typing import TYPE_CHECKING, Any

from aioray.runtime.errors import constructor_error, error_value
from aioray.wire.control import ActorExit, ActorStarted
from aioray.wire.framing import decode_call
from aioray_node.worker.hosted_actor import ASYNC_CONCURRENCY, ActorKind, HostedActor
from aioray_node.worker.runtime import Caller, RunningCall, running

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.wire.control import ActorSpec
    from aioray.wire.values import Value
    from aioray_node.worker.lanes import Services

_SPARE_THREADS = 32  # beyond those for sync methods of async actors: user code has to_thread, too
_SHARED_THREADS = 64  # for sync methods of all light actors of a process
_CONSTRUCT_FOR_S = 0.005  # how long constructors of light actors may go on before calls of others have a turn


class ActorHost:
    """Constructs actors, knows them by slot, ends them."""

    def __init__(self, services: Services, on_process_exit: Callable[[SystemExit | KeyboardInterrupt], None]) -> None:
        self._services = services
        self._runtime = services.runtime
        self._on_process_exit = on_process_exit
        self.by_slot: dict[int, HostedActor] = {}
        self.expected: collections.deque[ActorSpec] = collections.deque()
        self._kinds: weakref.WeakValueDictionary[bytes, ActorKind] = weakref.WeakValueDictionary()
        self._constructing: dict[int, asyncio.Task[None]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._woken = False
        services.on_exit = self.on_exit

    # what the node says, with the lock held

    def expect(self, spec: ActorSpec) -> None:
        """Construct this, soon."""
        self.expected.append(spec)
        if self._services.loop is not None and not self._woken:
            self._woken = True
            self._services.loop.call_soon(self._construct_expected)

    def end(self, slot: int, *, now: bool) -> None:
        """A light actor is over; unless it is to be `now`, calls that have come are done first."""
        constructing = self._constructing.pop(slot, None)
        if constructing is not None:
            constructing.cancel()
        for spec in self.expected:
            if spec.slot == slot:
                self.expected.remove(spec)
                return
        actor = self.by_slot.pop(slot, None)
        if actor is None:
            return
        if now:
            actor.abort()
        else:
            loop = self._services.loop
            assert loop is not None
            task = loop.create_task(actor.join())
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    # constructing

    def prepare(self, spec: ActorSpec) -> HostedActor | None:
        """The actor without its object; None, and the node is told, when its class cannot be had."""
        kind = self._kinds.get(spec.cls_data)
        if kind is None:
            try:
                cls = self._runtime.objects.load_arguments(spec.cls_data)
                kind = self._kinds[spec.cls_data] = ActorKind(cls, spec.methods)
            except BaseException as exc:  # whatever importing user code raises goes to who calls the actor
                self._failed(spec, exc)
                return None
        return HostedActor(spec, kind)

    def construct(self, actor: HostedActor) -> bool:
        """Run the constructor here and now, and tell the node; whether there is an actor."""
        call = decode_call(actor.spec.call)
        token = running.set(RunningCall(call, _creator_of(actor.spec), actor))
        try:
            args, kwargs = self._runtime.arguments(call)
            actor.instance = actor.kind.cls(*args, **kwargs)
            del args, kwargs
        except BaseException as exc:  # whatever it raises goes to who calls the actor
            self._failed(actor.spec, exc)
            return False
        finally:
            running.reset(token)
        self._up(actor)
        return True

    async def construct_async(self, actor: HostedActor) -> bool:
        """The same where `__init__` is a coroutine function."""
        call = decode_call(actor.spec.call)
        running.set(RunningCall(call, _creator_of(actor.spec), actor))
        cls: Any = actor.kind.cls
        try:
            args, kwargs = self._runtime.arguments(call)
            instance = cls.__new__(cls, *args, **kwargs)
            await instance.__init__(*args, **kwargs)
            actor.instance = instance
            del args, kwargs
        except BaseException as exc:  # whatever it raises goes to who calls the actor
            self._failed(actor.spec, exc)
            return False
        self._up(actor)
        return True

    def _failed(self, spec: ActorSpec, exc: BaseException) -> None:
        self._report(spec, error_value(constructor_error(exc, spec.cls, spec.actor_id)))

    def _up(self, actor: HostedActor) -> None:
        spec = actor.spec
        with self._services.reactor.lock:
            actor.open_lanes(self._services)
            self.by_slot[spec.slot] = actor
            self._report(spec, None)
            spec.call = b""  # was for the constructor, and it is through

    def _report(self, spec: ActorSpec, error: Value | None) -> None:
        runtime = self._runtime
        with runtime.reactor.lock:
            started = ActorStarted(spec.actor_id, error)
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
            services.reactor.attach(loop)
            self._construct_expected()
        else:
            self.expected.popleft()
            actor = self.prepare(spec)
            # It may block, as nothing else runs yet: the loop does the I/O only when it is through.
            if actor is not None and not actor.kind.constructor_is_coroutine:
                self.construct(actor)
            services.reactor.attach(loop)
            if actor is not None and actor.kind.constructor_is_coroutine:
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
        loop = self._services.loop
        assert loop is not None
        until = time.perf_counter() + _CONSTRUCT_FOR_S
        while self.expected and time.perf_counter() < until:
            spec = self.expected.popleft()
            self._runtime.add_sys_path(spec.sys_path)
            actor = self.prepare(spec)
            if actor is None:
                continue
            if actor.kind.constructor_is_coroutine:
                task = self._constructing[spec.slot] = loop.create_task(self._construct_light(actor))
                task.add_done_callback(functools.partial(self._constructed, spec.slot))
            else:
                self.construct(actor)
        if self.expected:
            self._woken = True
            loop.call_soon(self._construct_expected)

    def _constructed(self, slot: int, _: asyncio.Task[None]) -> None:
        self._constructing.pop(slot, None)

    async def _construct_light(self, actor: HostedActor) -> None:
        await self.construct_async(actor)

    def on_exit(self, actor: HostedActor, exc: SystemExit | KeyboardInterrupt) -> None:
        """User code of an actor called sys.exit: it ends, and with it the process if that is its own."""
        if not actor.spec.slot:
            self._on_process_exit(exc)
            return
        with self._services.reactor.lock:
            self._services.runtime.link.send(ActorExit(actor.spec.actor_id, exit_reason(exc)))
            self.end(actor.spec.slot, now=False)


def _creator_of(spec: ActorSpec) -> Caller:
    return Caller(spec.creator, spec.job_id, spec.namespace)


def exit_reason(exc: SystemExit | KeyboardInterrupt) -> str:
    """Why an actor or a worker went, in words."""
    code = exc.code if isinstance(exc, SystemExit) else None
    return f"it called sys.exit({'' if code is None else repr(code)})"
