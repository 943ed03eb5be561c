"""A worker's runtime: what a process can do that also runs other people's calls."""

from __future__ import annotations

import asyncio
import contextvars
import pickle
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn

from aioray.exceptions import AsyncioActorExit
from aioray.runtime.calls import NO_DEADLINE
from aioray.runtime.runtime import Runtime
from aioray.wire.calls import Call
from aioray.wire.control import Blocked
from aioray.wire.values import object_id
from aioray_node.worker.exits import ActorExit

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.refs import ObjectRef
    from aioray.wire.calls import Repeat
    from aioray.wire.control import ActorSpec
    from aioray.wire.strategies import InGroup
    from aioray.wire.values import Value
    from aioray_node.worker.actor_host import ActorHost
    from aioray_node.worker.hosted_actor import HostedActor


_ONE_ARGUMENT = pickle.dumps((None,), protocol=5)


class Caller:
    """Who is at the other end of a connection; or, for constructors, who wanted the actor."""

    __slots__ = ("counts", "exports", "job_id", "namespace", "patterns", "process_id")

    def __init__(self, process_id: bytes = b"", job_id: bytes = b"", namespace: str = "") -> None:
        self.process_id = process_id
        self.job_id = job_id
        self.namespace = namespace
        self.exports: dict[str, bytes] = {}
        self.patterns: dict[int, Call] = {}
        self.counts: dict[str | tuple[str, str], int] = {}  # see CallLog

    def repeated(self, message: Repeat) -> Call:
        """The whole call that `message` stands for."""
        call: Call = self.patterns[message.pattern].__copy__()  # type: ignore[attr-defined] # copy.copy takes 3 times as long
        call.seq, call.args = message.seq, message.args
        return call


class RunningCall:
    """The call that a thread, or a coroutine, is busy with."""

    __slots__ = (
        "actor", "awaiting", "call", "caller", "function", "is_canceled", "leaves", "next_seq", "spares_children",
        "started",
    )  # fmt: skip

    def __init__(self, call: Call, caller: Caller, actor: HostedActor | None = None) -> None:
        self.call = call
        self.actor = actor
        self.caller = caller
        self.is_canceled = False
        self.next_seq = 0  # of the first call that it can have made after it was cancelled
        self.spares_children = False  # it was cancelled, and what it began was not
        self.leaves = False  # it called exit_actor(), so whatever it raises is no answer
        self.awaiting = 0  # refs for which its CPU is lent out
        self.function: Any = None  # what runs, once that is known
        self.started = time.perf_counter()

    @property
    def deadline(self) -> float:
        """On the reactor's clock (s), NO_DEADLINE if there is none."""
        return self.call.time_left_us / 1e6 if self.call.time_left_us else NO_DEADLINE

    @property
    def caller_id(self) -> bytes:
        return self.caller.process_id

    @property
    def seq(self) -> int:
        return self.call.seq

    @property
    def is_constructor(self) -> bool:
        return self.actor is not None and self.call.seq == 0  # it is part of an ActorSpec

    @property
    def task_name(self) -> str:
        if self.actor is None or self.call.name:
            return self.call.name
        return f"{self.actor.spec.cls}.{self.call.fn}"

    @property
    def function_name(self) -> str:
        """As it is written in its module."""
        return getattr(self.function, "__qualname__", "") or self.task_name

    def cancel(self, next_seq: int, *, recursive: bool) -> None:
        """It is told that it is cancelled. The lock is held."""
        self.is_canceled = True
        self.next_seq = next_seq
        self.spares_children = not recursive


# Follows a coroutine wherever it goes; a thread that user code starts has none.
running: contextvars.ContextVar[RunningCall | None] = contextvars.ContextVar("aioray_running_call", default=None)


def id_of_call_here() -> bytes:
    """The call that this thread, or this coroutine, is, as the id of its result; b"" where it is none."""
    call = running.get()
    return b"" if call is None or call.is_constructor else object_id(call.caller_id, call.seq)


class WorkerRuntime(Runtime):
    """Knows when user code waits for the cluster, and lends its CPU to others meanwhile."""

    is_worker = True
    holds_cpu = True  # False in actors that run without one
    before_block: Callable[[], None] | None = None
    actor_spec: ActorSpec | None = None  # of the actor that has this process to itself
    host: ActorHost

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting = 0
        self._brought: dict[int, list[Value]] = {}  # arguments that came from other nodes, until they are loaded
        self._sparing = False

    def call_here(self) -> RunningCall | None:
        return running.get()

    def spares_children(self) -> bool:
        call = running.get()
        return self._sparing or (call is not None and call.spares_children)

    def cancel_loop_task(self, task: asyncio.Task[Any], call: RunningCall) -> None:
        """Cancel the asyncio task of a call, and what it awaits unless that is spared. In the loop's thread."""
        self._sparing = call.spares_children  # asyncio goes all the way down to the refs before this returns
        try:
            task.cancel()
        finally:
            self._sparing = False
        if not call.spares_children:
            self.tasks.cancel_children(call)

    def actor_here(self) -> ActorSpec | None:
        call = running.get()
        if call is None:
            return self.actor_spec
        return None if call.actor is None else call.actor.spec

    def light_actor_here(self) -> int:
        spec = self.actor_here()
        return 0 if spec is None else spec.slot

    def at_end_of_light_actor_here(self, then: Callable[[], None]) -> None:
        self.host.at_end(self.light_actor_here(), then)

    def namespace_here(self) -> str:
        call = running.get()
        if call is None:
            return self.namespace
        return call.caller.namespace if call.actor is None else call.actor.spec.namespace

    def job_here(self) -> bytes:
        call = running.get()
        if call is None:
            return self.job_id
        return call.caller.job_id if call.actor is None else call.actor.spec.job_id

    def group_here(self) -> InGroup | None:
        call = running.get()
        if call is not None and call.actor is None:
            return call.call.placement
        spec = self.actor_here()
        return None if spec is None or spec.strategy is None else spec.strategy.group

    def in_call(self) -> bool:
        return running.get() is not None

    def exit_actor(self) -> NoReturn:
        call = running.get()
        actor = self.host.current()
        if actor is None and (call is None or call.actor is None):
            super().exit_actor()
        if self.host.on_loop:
            # On the loop, or in a thread on its behalf: a SystemExit would tear the loop down.
            leaving = AsyncioActorExit("exit_actor() was called")
            if actor is not None:  # in a constructor there is none yet: that fails
                self.host.leave(actor, call, leaving)
            raise leaving
        if actor is not None and call is None:  # in a thread of the user's own, where nobody would hear of it
            self.host.on_exit(actor, ActorExit())
            raise SystemExit  # that very type ends a thread in silence
        raise ActorExit

    def on_block(self, blocked: bool) -> None:
        if blocked and self.before_block is not None and threading.current_thread() is threading.main_thread():
            self.before_block()
        if not self.holds_cpu:
            return
        with self.reactor.lock:
            before, self._waiting = self._waiting, self._waiting + (1 if blocked else -1)
            if (before == 0) == blocked and (before == 0 or self._waiting == 0):
                self.link.send(Blocked(blocked))

    def awaited(self, ref: ObjectRef[Any]) -> None:
        super().awaited(ref)
        call = running.get()
        if self.holds_cpu and call is not None:
            with self.reactor.lock:
                call.awaiting += 1
                self.on_block(True)
            ref._when_done(lambda _: self._awaited_no_more(call))

    def _awaited_no_more(self, call: RunningCall) -> None:
        with self.reactor.lock:
            if call.awaiting:
                call.awaiting -= 1
                self.on_block(False)

    def call_over(self, call: RunningCall) -> None:
        """It waits for nothing any more, whether or not what it awaited has come."""
        while call.awaiting:
            self._awaited_no_more(call)

    def must_bring(self, call: Call) -> bool:
        """Whether an argument lies on another node."""
        return bool(call.deps) and not all(self.objects.bringing.is_here(value) for _, value in call.deps)

    def as_argument(self, value: Value) -> Call:
        """A call with just that argument, so that it is brought, loaded, and let go of as those are."""
        return Call(0, "", _ONE_ARGUMENT, deps=[(0, value)])

    def _bring_arguments(self, call: Call, then: Callable[[], None]) -> None:
        """Have `then` called when all arguments are here; each is held until it was loaded."""

        def brought(values: dict[bytes, Value]) -> None:
            call.deps = [(at, values.get(value.oid, value)) for at, value in call.deps]
            for value in values.values():
                self.objects.keep(value)
            self._brought[id(call)] = list(values.values())
            then()

        with self.reactor.lock:
            self.objects.bringing.all([value for _, value in call.deps], brought)

    async def bring_arguments(self, call: Call) -> None:
        """Wait in an event loop until all arguments of a call are on this node."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        is_wanted = True

        def brought() -> None:
            if is_wanted:
                loop.call_soon_threadsafe(done.set)
            else:
                self.let_go_of_arguments(call)

        self._bring_arguments(call, brought)
        try:
            await done.wait()
        except asyncio.CancelledError:
            with self.reactor.lock:
                is_wanted = False
                self.let_go_of_arguments(call)
            raise

    def wait_for_arguments(self, call: Call) -> None:
        """The same, blocking: in threads."""
        done = threading.Event()
        self._bring_arguments(call, done.set)
        self.reactor.run_until(done.is_set)

    def let_go_of_arguments(self, call: Call) -> None:
        """They are loaded, or nobody wants them: what was brought need not be kept for the call."""
        for value in self._brought.pop(id(call), ()):
            self.objects.let_go(value)

    def arguments(self, call: Call) -> tuple[Any, dict[str, Any]]:
        """What a call is given: positional arguments, and named ones. Waits for those that lie on another node."""
        objects = self.objects
        values = objects.load_arguments(call.args) if not call.deps else self._with_dependencies(call)
        names = call.kwnames
        if not names:
            return values, {}
        split = len(values) - len(names)
        return values[:split], dict(zip(names, values[split:], strict=True))

    def _with_dependencies(self, call: Call) -> list[Any]:
        if self.must_bring(call):
            self.wait_for_arguments(call)
        try:
            values = list(self.objects.load_arguments(call.args))
            for at, value in call.deps:
                values[at] = self.objects.load(value, argument=True)
                if value.is_error:  # it could not be brought
                    raise values[at]
            return values
        finally:
            self.let_go_of_arguments(call)

    def add_sys_path(self, paths: list[str]) -> None:
        """Find modules where a driver finds them."""
        sys.path += [path for path in paths if path not in sys.path]
