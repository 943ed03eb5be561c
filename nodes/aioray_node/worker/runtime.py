"""A worker's runtime: what a process can do that also runs other people's calls."""

from __future__ import annotations

import contextvars
import sys
import threading
from typing import TYPE_CHECKING, Any, NoReturn

from aioray.exceptions import AsyncioActorExit
from aioray.runtime.runtime import Runtime
from aioray.wire.control import Blocked
from aioray_node.worker.exits import ActorExit

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.refs import ObjectRef
    from aioray.wire.calls import Call
    from aioray_node.worker.actor_host import ActorHost
    from aioray_node.worker.hosted_actor import HostedActor


class RunningCall:
    """The call that a thread, or a coroutine, is busy with."""

    __slots__ = ("actor", "awaiting", "call", "caller", "is_canceled")

    def __init__(self, call: Call, caller: bytes, actor: HostedActor | None = None) -> None:
        self.call = call
        self.actor = actor
        self.caller = caller  # process id
        self.is_canceled = False
        self.awaiting = 0  # refs for which its CPU is lent out


# Follows a coroutine wherever it goes; a thread that user code starts has none.
running: contextvars.ContextVar[RunningCall | None] = contextvars.ContextVar("aioray_running_call", default=None)


class WorkerRuntime(Runtime):
    """Knows when user code waits for the cluster, and lends its CPU to others meanwhile."""

    holds_cpu = True  # False in actors that run without one
    before_block: Callable[[], None] | None = None
    actor_id = b""
    actor_name = ""
    host: ActorHost

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting = 0

    def call_here(self) -> object:
        return running.get()

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
                self.host.on_exit(actor, leaving)
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

    def arguments(self, call: Call) -> tuple[Any, dict[str, Any]]:
        """What a call is given: positional arguments, and named ones."""
        objects = self.objects
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

    def add_sys_path(self, paths: list[str]) -> None:
        """Find modules where a driver finds them."""
        sys.path += [path for path in paths if path not in sys.path]
