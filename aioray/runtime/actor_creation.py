"""From `A.remote(x)` to an actor that answers: the caller's side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioray import placement
from aioray.async_classes import is_async_class, needs_loop
from aioray.runtime.calls import first_failed, pack_arguments, when_ready, wire_deps
from aioray.runtime.errors import constructor_error, error_value
from aioray.runtime.unseen import looked_at
from aioray.wire.calls import Call
from aioray.wire.control import ActorSpec
from aioray.wire.one_call import encode_call
from aioray.wire.values import object_id

if TYPE_CHECKING:
    from aioray.options import ActorOptions
    from aioray.runtime.actor_lines import RemoteActor
    from aioray.runtime.calls import Arguments
    from aioray.runtime.exports import Function
    from aioray.runtime.runtime import Runtime


def create_actor(
    runtime: Runtime,
    cls: type,
    methods: dict[str, str],
    options: ActorOptions,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[RemoteActor, bool]:
    """Ask for an actor; it, and whether one of that name existed already (then it is that one)."""
    runtime.require_open()
    function = runtime.exports.function(cls, cls.__name__)
    arguments = pack_arguments(runtime, args, kwargs)
    environment = runtime.environments.resolve(options.runtime_env)
    strategy = options.strategy()
    if placement.may_follow(options):
        strategy = placement.with_group(strategy, runtime.followed_group(options))
    actor_id = object_id(runtime.process_id, runtime.next_seq())
    namespace = options.namespace or runtime.namespace_here()
    if options.name:
        wanted = {"name": options.name, "actor_id": actor_id, "cls": cls.__name__, "methods": methods}
        taken = runtime.ask("reserve_name", namespace=namespace, **wanted)
        if taken is not None:
            return runtime.adopt_actor(taken["actor_id"], taken["cls"], taken["methods"]), True
    is_async = is_async_class(cls, methods)
    spec = ActorSpec(
        actor_id,
        cls.__name__,
        function.data,
        b"",  # its constructor's call, when the arguments are there
        options.placement_demand(),
        options.running_demand(),
        runtime.process_id,
        options.name or "",
        namespace,
        options.max_concurrency or (0 if is_async else 1),
        options.lifetime == "detached",
        methods,
        is_async or needs_loop(cls),
        options.num_cpus or 0.0,
        runtime.sys_path,
        isolation=options.isolation,
        concurrency_groups=dict(options.concurrency_groups),
        job_id=runtime.job_here(),
        environment=environment,
        max_restarts=options.max_restarts,
        strategy=strategy,
        quiet=not options.enable_task_events,
        labels=dict(options._labels),
    )
    with runtime.reactor.lock:
        actor = runtime.adopt_actor(actor_id, cls.__name__, methods)
        actor.creation_pins = (arguments, function)
        for _, dep in arguments.deps:
            runtime.objects.want(dep, here=False)
        when_ready(arguments.deps, lambda: _send(actor, spec, arguments, function))
    return actor, False


def _send(actor: RemoteActor, spec: ActorSpec, arguments: Arguments, function: Function) -> None:
    """The arguments are there, or one has failed: complete `spec`, and ask for the actor."""
    runtime = actor.runtime
    failed = first_failed(arguments.deps)
    if failed is not None:
        for _, dep in arguments.deps:
            looked_at(dep)
        why, reason = runtime.outcome_error(failed), "an argument of its constructor failed"
        spec.error = error_value(constructor_error(why, spec.cls, spec.actor_id, reason))
    deps = wire_deps(runtime, arguments.deps) if failed is None else []
    # Our handle may go before it is constructed, and what we hold with it: the actor holds it till then.
    wired = dict(deps)
    pins = [dep for at, dep in arguments.deps if at in wired and (wired[at].nbytes or wired[at].refs)]
    for dep in pins:
        runtime.objects.share(dep)
    pins += [*arguments.pins, *function.pins]
    if pins:
        runtime.objects.hold_for(spec.actor_id, pins)
    spec.call = encode_call(Call(0, "__init__", arguments.data, arguments.kwnames, deps))
    runtime.link.send(spec)
