"""The public functions, in both faces: awaitable in an event loop, blocking elsewhere."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from aioray import current
from aioray.actors import ActorClass, ActorHandle
from aioray.exceptions import InvalidOptionError
from aioray.functions import P, RemoteFunction
from aioray.generators import ObjectRefGenerator
from aioray.options import actor_options, task_options
from aioray.refs import ObjectRef
from aioray.runtime import blocking
from aioray.typed_actors import Actor, OnlyAny
from aioray.waiting import check_timeout, refs_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence

    from aioray.actors import AnyHandle

T = TypeVar("T")
R = TypeVar("R")
C = TypeVar("C")
Typed = TypeVar("Typed", bound=Actor)


# functions and classes


if TYPE_CHECKING:

    class MakeRemote(Protocol):
        """`@aioray.remote(...)`, as long as it leaves num_returns alone: as `remote` without options."""

        @overload
        def __call__(self, target: type[Typed], /) -> type[Typed]: ...  # type: ignore[overload-overlap]
        @overload
        def __call__(self, target: type[C], /) -> ActorClass[C]: ...  # type: ignore[overload-overlap]
        @overload
        def __call__(self, target: Callable[P, OnlyAny], /) -> RemoteFunction[P, Any, ObjectRef[Any]]: ...
        @overload
        def __call__(
            self, target: Callable[P, Coroutine[Any, Any, T]], /
        ) -> RemoteFunction[P, Coroutine[Any, Any, T], ObjectRef[T]]: ...
        @overload
        def __call__(  # type: ignore[overload-overlap]
            self, target: Callable[P, Iterator[T]], /
        ) -> RemoteFunction[P, Iterator[T], ObjectRefGenerator[T]]: ...
        @overload
        def __call__(  # type: ignore[overload-overlap]
            self, target: Callable[P, AsyncIterator[T]], /
        ) -> RemoteFunction[P, AsyncIterator[T], ObjectRefGenerator[T]]: ...
        @overload
        def __call__(self, target: Callable[P, R], /) -> RemoteFunction[P, R, ObjectRef[R]]: ...
        def __call__(self, target: Any, /) -> Any: ...

    class MakeRemoteOfSeveral(Protocol):
        """`@aioray.remote(num_returns=...)`: what that gives is said by a value."""

        def __call__(self, target: Callable[P, R], /) -> RemoteFunction[P, R, Any]: ...


# A class is callable, too, and every result is one of any type: the order matters.
@overload
def remote(target: type[Typed], /) -> type[Typed]: ...  # type: ignore[overload-overlap]
@overload
def remote(target: type[C], /) -> ActorClass[C]: ...  # type: ignore[overload-overlap]
@overload
def remote(target: Callable[P, OnlyAny], /) -> RemoteFunction[P, Any, ObjectRef[Any]]: ...
@overload
def remote(
    target: Callable[P, Coroutine[Any, Any, T]], /
) -> RemoteFunction[P, Coroutine[Any, Any, T], ObjectRef[T]]: ...
@overload
def remote(target: Callable[P, Iterator[T]], /) -> RemoteFunction[P, Iterator[T], ObjectRefGenerator[T]]: ...  # type: ignore[overload-overlap]
@overload
def remote(target: Callable[P, AsyncIterator[T]], /) -> RemoteFunction[P, AsyncIterator[T], ObjectRefGenerator[T]]: ...  # type: ignore[overload-overlap]
@overload
def remote(target: Callable[P, R], /) -> RemoteFunction[P, R, ObjectRef[R]]: ...
@overload
def remote(*, num_returns: int | str, **options: Any) -> MakeRemoteOfSeveral: ...
@overload
def remote(**options: Any) -> MakeRemote: ...


def remote(*args: Any, **options: Any) -> Any:
    """Make a function or a class remote: `@remote`, or `@remote(num_cpus=2, ...)`. `.options(...)` changes some.

    Where it runs, and with what:
        num_cpus (tasks 1; actors 1 to be placed and 0 to run, a given number always), num_gpus (0), memory and
        object_store_memory (bytes, 0), resources ({name: amount}); amounts in steps of 0.0001. accelerator_type.
        scheduling_strategy: "DEFAULT", "SPREAD", or an object of `aioray.util.scheduling_strategies`.
        label_selector ({"zone": "in(a,b)"}: =, !, in, !in), fallback_strategy (selectors to try after that).
        placement_group, placement_group_bundle_index (-1: any), placement_group_capture_child_tasks.
        runtime_env: see aioray.runtime_env.RuntimeEnv.
    How it is called:
        name: of a task in messages and lists; of an actor what `get_actor` takes. enable_task_events (True).
        timeout, deadline (ours; of calls): seconds from the call on; a time as of time.time(), or an aware datetime.
        What such a call begins has to end by then, too. TaskTimeoutError for whoever waits.
        num_returns (1): so many refs; "streaming" (generators: the default) or "dynamic".
        _generator_backpressure_num_objects (-1): so many values may be made before they are taken.
        _labels={"key": "value"}: tasks and actors are found by them in the lists of `aioray.util.state`. Of tasks they
        go with the task events: with enable_task_events=False there is nothing to find.
    Tasks when something fails:
        max_retries (3; -1: without end): after the death of a worker, and after an exception that retry_exceptions
        (False, True, a list of types) names. max_calls (0: never): its worker is replaced after so many.
        speculative (ours; False): a call may safely run twice, at the same time, too. A copy is made of one that has
        run for twice the median of those that have finished, and 0.1 s at least: of the same function with the same
        demands, called by this process, and three of them at least. It waits for a worker like any task. The first of
        the two that succeeds gives the result; the other is cancelled, with what it began. The copy is not retried,
        max_retries and retry_exceptions are the first attempt's; where both fail, its error is told. Cancelling the
        ref cancels both, and a deadline holds for both. Not for num_returns of 0, "streaming" and "dynamic".
    Actors:
        max_concurrency (1; 1000 with async methods), concurrency_groups ({name: so many at once}),
        allow_out_of_order_execution (True where calls run at the same time), max_pending_calls (-1: without limit).
        max_restarts (0), max_task_retries (0): -1 is without end. namespace, get_if_exists (False).
        lifetime: "detached" lives until it is killed. Any other actor ends with the last handle, and with its driver;
        in Ray also with the task or actor that created it.
        isolation (ours): "process" of its own, or "shared": a light actor, one of many in a process.

    Which of these tasks, actors and methods take is checked; so is each value.

    Raises InvalidOptionError for an unknown option or a bad value, TypeError for what is neither function nor class.
    """
    if not args:
        return lambda target: _make_remote(target, options)
    if len(args) != 1 or options:
        raise TypeError("write @remote, or @remote(option=value, ...): options are given by name")
    return _make_remote(args[0], options)


def _make_remote(target: Any, options: Mapping[str, Any]) -> Any:
    if inspect.isclass(target):
        return ActorClass(target, actor_options(options))
    if isinstance(target, (RemoteFunction, ActorClass)):
        raise TypeError(f"{target!r} is remote already; use .options(...) to change its options")
    if not callable(target):
        raise TypeError(f"@remote is for functions and classes, not for {type(target).__name__}")
    return RemoteFunction(target, task_options(options))


# objects


def put(value: Any) -> ObjectRef[Any]:
    """Store a value once and return a ref to it; works in an event loop, too (it copies, and does not wait).

    Large values lie in shared memory: whoever gets them on this machine reads them without a copy, read-only.
    Raises SerializationError naming the part that cannot be pickled, ObjectStoreFullError.
    """
    if isinstance(value, ObjectRef):
        raise TypeError("put(ref) would make a ref to a ref; pass the ref itself")
    return current.get().put(value)


@overload
def get(refs: ObjectRef[T], *, timeout: float | None = None) -> T: ...
@overload
def get(refs: Sequence[ObjectRef[T]], *, timeout: float | None = None) -> list[T]: ...
@overload
def get(refs: Sequence[ObjectRef[Any]], *, timeout: float | None = None) -> list[Any]: ...


def get(refs: Any, *, timeout: float | None = None) -> Any:
    """Block until the value, or all values of a list, are there, and return them.

    timeout: seconds; GetTimeoutError (a TimeoutError) after that. Raises what the call raised, as itself and as
    RayTaskError. In the event loop that runs the cluster it raises BlockingCallError: there, write `await ref`.
    """
    check_timeout(timeout)
    if isinstance(refs, ObjectRef):
        return blocking.get(refs._runtime, [refs], timeout)[0]
    if isinstance(refs, ObjectRefGenerator):
        return refs  # as in Ray
    items = refs_of(refs, "get")
    if not items:
        return []
    return blocking.get(items[0]._runtime, items, timeout)


def cancel(ref: ObjectRef[Any] | ObjectRefGenerator[Any], *, force: bool = False, recursive: bool = True) -> None:
    """Cancel the call that makes `ref`, whichever process made it. Does nothing when it is done.

    A call that waits, for arguments, for a worker or in line, never runs. One that runs is told: a sync function gets
    KeyboardInterrupt raised in it, a coroutine CancelledError; what runs in a thread, as sync methods of threaded and
    async actors do, cannot be interrupted, and finds `get_runtime_context().is_canceled()` true. Getting the ref then
    raises TaskCancelledError; but a call that returns all the same has returned, and its value counts.

    Of a generator, what was made before can still be taken; the next ref raises TaskCancelledError.

    force: end the worker process; only for tasks (ValueError for a call of an actor, which would end with all its
    calls). recursive: what the call began is cancelled as well, tasks and actor calls, in any depth; with False it goes
    on, unless its process ends.
    """
    if isinstance(ref, ObjectRefGenerator):
        ref = ref.completed()
    if not isinstance(ref, ObjectRef):
        raise TypeError(f"cancel takes a ref, not {type(ref).__name__}")
    ref._runtime.canceller.cancel(ref, force=force, recursive=recursive)


# actors


def kill(actor: AnyHandle, *, no_restart: bool = True) -> None:
    """End an actor now. Calls under way, and later ones, raise ActorDiedError.

    With no_restart=False it is constructed again, if it has restarts left (`max_restarts`; this one counts). Calls
    under way are sent again if they have retries left (`max_task_retries`), else they raise ActorUnavailableError.
    """
    if not isinstance(actor, ActorHandle):
        raise TypeError(f"kill takes an actor handle, not {type(actor).__name__}; a call is ended with cancel(ref)")
    if not isinstance(no_restart, bool):
        raise InvalidOptionError("no_restart", no_restart, "True, False", "not a bool")
    remote_actor = actor._actor
    reason = "it was killed with aioray.kill()"
    remote_actor.runtime.actors.kill(remote_actor.actor_id, reason, no_restart=no_restart)


def get_actor(name: str, namespace: str | None = None) -> ActorHandle:
    """A handle to the named actor. Raises ValueError when none of that name is alive in the namespace."""
    if not isinstance(name, str) or not name:
        raise InvalidOptionError("name", name, "a text that is not empty")
    runtime = current.get()
    found = runtime.ask("get_actor", namespace=runtime.namespace_here() if namespace is None else namespace, name=name)
    return ActorHandle(runtime.adopt_actor(found["actor_id"], found["cls"], found["methods"]))


# questions


def explain(ref: ObjectRef[Any]) -> str:
    """Why the value is not there yet, in a sentence: what it waits for, what was asked, what is free."""
    if not isinstance(ref, ObjectRef):
        raise TypeError(f"explain takes a ref, not {type(ref).__name__}")
    from aioray.runtime import explaining

    return explaining.explain(ref._runtime, ref)


def nodes() -> list[dict[str, Any]]:
    """The nodes: NodeID, Alive, Resources, and so on."""
    found: list[dict[str, Any]] = current.get().ask("nodes")
    return found


def cluster_resources() -> dict[str, float]:
    """What all nodes have together."""
    amounts: dict[str, float] = current.get().ask("cluster_resources")
    return amounts


def available_resources() -> dict[str, float]:
    """What of that is free now."""
    amounts: dict[str, float] = current.get().ask("available_resources")
    return amounts


def get_gpu_ids() -> list[int] | list[str]:
    """The GPUs of the task or actor that calls this, as in CUDA_VISIBLE_DEVICES; empty in a driver.

    Numbers, or texts where the node was started with such ids.
    """
    ids = current.get().accelerator_ids()["GPU"]
    return [int(each) for each in ids] if all(each.isdecimal() for each in ids) else ids
