"""From `f.remote(x)`, or `actor.method.remote(x)`, to refs and a call that is under way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioray import placement
from aioray.refs import ObjectRef
from aioray.runtime.actor_lines import ActorCallRecord
from aioray.runtime.calls import pack_arguments
from aioray.runtime.speculating import PUBLIC
from aioray.runtime.task_records import Task, TaskTarget

if TYPE_CHECKING:
    from aioray.options import TaskOptions
    from aioray.runtime.actor_lines import MethodTarget, RemoteActor
    from aioray.runtime.exports import Function
    from aioray.runtime.runtime import Runtime
    from aioray.runtime.streams import Stream
    from aioray.wire.strategies import InGroup


def task_target(
    runtime: Runtime, function: Function, options: TaskOptions, num_returns: int, group: InGroup | None = None
) -> TaskTarget:
    """A function with its options, as `submit_task` takes it; in `group`, if the options name none."""
    environment = runtime.environments.resolve(options.runtime_env)
    with runtime.reactor.lock:
        queue = runtime.tasks.leases.queue_for(
            options.demand(), environment, placement.with_group(options.strategy(), group)
        )
    types = options.retry_exceptions
    exported = (
        runtime.exports.pickled(types, f"retry_exceptions of {function.name}") if types and types is not True else None
    )
    submit = submit_speculative if options.speculative else submit_task
    return TaskTarget(runtime, function, options, queue, num_returns, submit, exported)


def submit_task(
    runtime: Runtime, target: TaskTarget, args: tuple[Any, ...], kwargs: dict[str, Any], stream: Stream | None = None
) -> tuple[ObjectRef[Any], ...]:
    """Queue one task; its refs. `stream`: where its values go, if they come one after the other."""
    if runtime.closed:
        runtime.require_open()
    arguments = pack_arguments(runtime, args, kwargs)
    seq = next(runtime.seqs)
    if target.num_returns == 1:
        refs: tuple[ObjectRef[Any], ...] = (ObjectRef(runtime, seq),)
    elif stream is not None:
        refs = (stream.numbered(seq),)
    else:
        refs = tuple(ObjectRef(runtime, seq, index) for index in range(target.num_returns))
    with runtime.reactor.lock:  # not acquire and release, which are quicker: Ctrl-C may come between them
        parent = runtime.call_here()
        task = Task(
            seq,
            target,
            arguments,
            refs,
            target.queue,
            target.function.duration,
            target.options.max_retries,
            parent,
        )
        for ref in refs:
            ref._task = task
        if stream is not None:
            runtime.streams.begin(stream, task)
        for _, dep in arguments.deps:
            runtime.objects.want(dep, here=False)
        if (target.limits is None and parent is None) or runtime.overtime.in_time(task, target.limits, parent):
            runtime.tasks.submit(task)
    return refs


def submit_speculative(
    runtime: Runtime, target: TaskTarget, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[ObjectRef[Any], ...]:
    """The same of one that may run twice; its refs, which take their values from an attempt."""
    runtime.require_open()
    arguments = pack_arguments(runtime, args, kwargs)
    seq = next(runtime.seqs)
    refs: tuple[ObjectRef[Any], ...] = tuple(
        ObjectRef(runtime, seq, PUBLIC | index) for index in range(target.num_returns)
    )
    with runtime.reactor.lock:
        parent = runtime.call_here()
        race = runtime.speculator.race(target, arguments, refs, parent)
        for ref in refs:
            ref._task = race
        for _, dep in arguments.deps:
            runtime.objects.want(dep, here=False)
        if (target.limits is None and parent is None) or runtime.overtime.in_time(race, target.limits, parent):
            runtime.speculator.begin(race, seq)
    return refs


def submit_actor_call(
    runtime: Runtime,
    actor: RemoteActor,
    target: MethodTarget,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    stream: Stream | None = None,
) -> tuple[ObjectRef[Any], ...]:
    """Queue one call of an actor; its refs. `stream`: as in `submit_task`. Raises PendingCallsLimitExceeded."""
    runtime.require_open()
    runtime.actors.require_room(actor.line, target.name)
    arguments = pack_arguments(runtime, args, kwargs)
    seq = next(runtime.seqs)
    if target.num_returns == 1:
        refs: tuple[ObjectRef[Any], ...] = (ObjectRef(runtime, seq),)
    elif stream is not None:
        refs = (stream.numbered(seq),)
    else:
        refs = tuple(ObjectRef(runtime, seq, index) for index in range(target.num_returns))
    with runtime.reactor.lock:
        parent = runtime.call_here()
        record = ActorCallRecord(actor, seq, target, arguments, refs, target.max_retries, parent)
        for ref in refs:
            ref._task = record
        if stream is not None:
            runtime.streams.begin(stream, record)
        for _, dep in arguments.deps:
            runtime.objects.want(dep, here=False)
        if (target.limits is None and parent is None) or runtime.overtime.in_time(record, target.limits, parent):
            runtime.actors.submit(actor.line, record)
    return refs
