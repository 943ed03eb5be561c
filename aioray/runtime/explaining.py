"""Why a value is not there yet, in words: what this process knows of it, and what the node adds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioray.refs import CANCELLED, RAISED, READY
from aioray.runtime.actor_lines import ActorCallRecord
from aioray.runtime.errors import one_line
from aioray.runtime.groups import Wait
from aioray.runtime.passes import Pass
from aioray.runtime.speculating import Race
from aioray.runtime.task_records import Task
from aioray.wire.values import Value

if TYPE_CHECKING:
    from aioray.refs import ObjectRef
    from aioray.runtime.runtime import Runtime


def explain(runtime: Runtime, ref: ObjectRef[Any]) -> str:
    """See aioray.explain."""
    state, lease_id = _state(runtime, ref)
    if lease_id is not None:
        state = f"{state}: {runtime.ask('explain', lease_id=lease_id)}"
    elif actor_id := _actor_awaited_by(runtime, ref):
        why = runtime.ask("explain_actor", actor_id=actor_id)
        state = f"{state}: {why}" if why else state
    elif group_id := _group_awaited_by(runtime, ref):
        state = f"{state}: {runtime.ask('explain_group', group_id=group_id)}"
    return f"{ref!r} {state}"


def _state(runtime: Runtime, ref: ObjectRef[Any]) -> tuple[str, int | None]:
    """What is known here of where a ref is; and the lease request to ask the node about."""
    with runtime.reactor.lock:
        if ref._status == READY:
            return "is ready", None
        if ref._status == RAISED:
            error = ref._value
            summary = error.summary if isinstance(error, Value) else one_line(error)
            return f"has failed: {summary or 'it was cancelled'}", None
        if ref._status == CANCELLED:
            left = runtime.tasks.after_its_cancel(ref._seq) or runtime.actors.after_its_cancel(ref._seq)
            return f"was cancelled, and still {left}" if left else "was cancelled", None
        if isinstance(ref._task, Task):
            return runtime.tasks.state_of(ref._task)
        if isinstance(ref._task, ActorCallRecord):
            return runtime.actors.state_of(ref._task), None
        if isinstance(ref._task, Wait):
            return "waits for its placement group", None
        if isinstance(ref._task, Pass):
            return ref._task.state(), None
        if isinstance(ref._task, Race):
            return ref._task.state()
        return "is being computed for another process", None


def _group_awaited_by(runtime: Runtime, ref: ObjectRef[Any]) -> bytes:
    """The placement group for which a ref of its `ready()` waits; b"" when it is no such ref."""
    with runtime.reactor.lock:
        return ref._task.group_id if isinstance(ref._task, Wait) else b""


def _actor_awaited_by(runtime: Runtime, ref: ObjectRef[Any]) -> bytes:
    """The actor that is not there yet for the call that a ref is of; b"" when it waits for none."""
    with runtime.reactor.lock:
        record = ref._task
        if not isinstance(record, ActorCallRecord) or record.actor.line.state not in ("pending", "restarting"):
            return b""
        return record.actor.actor_id
