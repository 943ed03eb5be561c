"""Cancelling what computes a ref, whoever began it and whatever it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioray.exceptions import TaskCancelledError
from aioray.refs import CANCELLED, PENDING, RAISED
from aioray.runtime.actor_lines import ActorCallRecord
from aioray.runtime.groups import Wait
from aioray.runtime.passes import Pass
from aioray.runtime.speculating import Race
from aioray.runtime.task_records import Task
from aioray.wire.control import CancelCall
from aioray.wire.values import owner_of

if TYPE_CHECKING:
    from aioray.refs import ObjectRef
    from aioray.runtime.runtime import Runtime


class Canceller:
    """Knows who is to be told: the part of this process that has the call, or the process that made it."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def cancel(self, ref: ObjectRef[Any], *, force: bool, recursive: bool = True) -> None:
        """aioray.cancel."""
        with self._runtime.reactor.lock:
            if owner_of(ref.binary()) != self._runtime.process_id:
                self.ask_owner(ref, force=force, recursive=recursive)
            elif ref._status == PENDING and ref._task is not None:
                if force and isinstance(ref._task, ActorCallRecord):
                    raise ValueError(
                        "force=True is for tasks: the process of an actor is ended with aioray.kill(actor)"
                    )
                self.cancel_call(ref._task, ref, force=force, recursive=recursive)
        self._runtime.reactor.nudge()

    def cancel_call(
        self, task: Any, ref: ObjectRef[Any] | None = None, *, force: bool = False, recursive: bool = True
    ) -> None:
        """Cancel whatever computes `ref`. The lock is held."""
        if isinstance(task, Task):
            self._runtime.tasks.cancel(task, force=force, recursive=recursive)
        elif isinstance(task, ActorCallRecord):
            self._runtime.actors.cancel(task, recursive=recursive)
        elif isinstance(task, Wait):
            self._runtime.groups.cancel(task)
            task.ref._complete(RAISED, TaskCancelledError(task.ref.task_id().hex(), name=task.name))
        elif isinstance(task, Pass):
            task.cancel()
        elif isinstance(task, Race):
            task.cancel(force=force, recursive=recursive)

    def ask_owner(self, ref: ObjectRef[Any], *, force: bool = False, recursive: bool = True) -> None:
        """Cancel a call that another process made. The lock is held."""
        if ref._status in (PENDING, CANCELLED):
            self._runtime.link.send(CancelCall(ref.binary(), force, recursive))

    def for_borrower(self, message: CancelCall) -> None:
        """Another process wants a call of ours cancelled. The lock is held."""
        ref = self._runtime.objects.known_ref(message.oid)
        if ref is not None and ref._status == PENDING and ref._task is not None:
            self.cancel_call(ref._task, ref, force=message.force, recursive=message.recursive)
