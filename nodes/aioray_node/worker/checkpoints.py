"""Checkpoints of one actor of this process: when one is due, and how it gets to the node."""

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import TYPE_CHECKING, Any

from aioray.checkpoints import RESTORE, SAVE
from aioray.wire.control import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray_node.worker.hosted_actor import HostedActor
    from aioray_node.worker.lanes import Services


class Acknowledgement:
    """That the newest checkpoint is in the journal. With the lock held throughout."""

    __slots__ = ("_waiting", "done")

    def __init__(self) -> None:
        self.done = False
        self._waiting: list[Callable[[], None]] = []

    def when_done(self, then: Callable[[], None]) -> None:
        if self.done:
            then()
        else:
            self._waiting.append(then)

    def settle(self) -> None:
        """It is, or nobody can say any more."""
        self.done = True
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            then()


class Saver:
    """Takes checkpoints. Made only for actors that may be constructed again."""

    def __init__(self, services: Services, actor: HostedActor, every_calls: int | None, every_s: float | None) -> None:
        self._services = services
        self._actor = actor
        self._every_calls = every_calls
        self._every_s = every_s
        self._unsaved = 0  # calls since the newest one was begun
        self._time_is_up = False
        self._counting = threading.Lock()
        self._saving = threading.Lock()
        self._saving_on_loop = asyncio.Lock()
        self._newest: Acknowledgement | None = None

    @property
    def unacknowledged(self) -> Acknowledgement | None:
        """What an answer must wait for that goes now; None when all is in the journal."""
        newest = self._newest
        return None if newest is None or newest.done else newest

    def call_done(self) -> bool:
        """A call is through, and not answered yet; whether a checkpoint is due before that."""
        with self._counting:
            self._unsaved += 1
            if self._every_s is not None and self._unsaved == 1:
                self._services.reactor.call_later(self._every_s, self._due)
            return self._time_is_up or (self._every_calls is not None and self._unsaved >= self._every_calls)

    def _due(self) -> None:
        self._time_is_up = True
        if self._unsaved and self._actor.is_up:
            self._services.on_save_due(self)

    def _begin(self) -> bool:
        """Whether there is anything to save: somebody else's checkpoint may have it by now."""
        with self._counting:
            unsaved, self._unsaved = self._unsaved, 0
            self._time_is_up = False
            return unsaved > 0

    def save(self) -> None:
        """Take one here and now."""
        with self._saving:
            if self._begin():
                try:
                    self._keep(getattr(self._actor.instance, SAVE)())
                except BaseException:  # whatever user code raises: the actor goes on, the one before is as good
                    self._failed()

    def save_last(self) -> None:
        """Take one as the actor leaves, in the middle of a call that may have changed something."""
        self.call_done()
        self.save()

    async def save_last_on_loop(self) -> None:
        """The same in its event loop."""
        self.call_done()
        await self.save_on_loop()

    async def save_on_loop(self) -> None:
        """Take one in the actor's event loop. A cancel ends it, not who called."""
        try:
            async with self._saving_on_loop:
                if not self._begin():
                    return
                hook = getattr(self._actor.instance, SAVE)
                if self._actor.kind.on_loop or inspect.iscoroutinefunction(hook):
                    state = hook()
                    if inspect.isawaitable(state):
                        state = await state
                else:  # as its methods, it may block
                    state = await asyncio.to_thread(hook)
                self._keep(state)
        except asyncio.CancelledError:  # a call was, which waited for it: the next one will have it
            with self._counting:
                self._unsaved += 1
        except BaseException:  # as in `save`
            self._failed()

    def _failed(self) -> None:
        self._services.runtime.log.exception(
            "a checkpoint of actor %s failed; the one before, if any, stays", self._actor.spec.cls
        )

    def _keep(self, state: Any) -> None:
        """Have the node keep it, and write it down."""
        runtime, spec = self._services.runtime, self._actor.spec
        ref = runtime.put(state)
        with runtime.reactor.lock:
            runtime.objects.share(ref)
            req, reply = runtime.link.expect()
            newest = self._newest = Acknowledgement()
            reply.then = lambda _: newest.settle()
            if reply.done:  # the node is gone
                newest.settle()
            runtime.link.send(Checkpoint(spec.actor_id, ref.binary(), ref._value, spec.restarts, req))
            runtime.reactor.flush()


def restore(services: Services, actor: HostedActor) -> Any:
    """Give a new instance the state of the old one; what the hook returns: to be awaited, if it is a coroutine."""
    checkpoint = actor.spec.checkpoint
    if checkpoint is None:
        return None
    (state,), _ = services.runtime.arguments(services.runtime.as_argument(checkpoint))  # the actor's id holds it
    return getattr(actor.instance, RESTORE)(state)


async def restore_on_loop(services: Services, actor: HostedActor) -> Any:
    """The same where the state may have to come from another node first, and nothing may wait for that but this."""
    checkpoint, runtime = actor.spec.checkpoint, services.runtime
    if checkpoint is None or runtime.objects.bringing.is_here(checkpoint):
        return restore(services, actor)
    call = runtime.as_argument(checkpoint)
    await runtime.bring_arguments(call)
    (state,), _ = runtime.arguments(call)
    return getattr(actor.instance, RESTORE)(state)
