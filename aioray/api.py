"""The public functions, in both faces: awaitable in an event loop, blocking elsewhere."""

from __future__ import annotations

import atexit
import inspect
import logging
import os
import threading
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from aioray import current
from aioray.actors import ActorClass, ActorHandle
from aioray.cluster import Cluster, SyncCluster
from aioray.context import InitContext
from aioray.exceptions import BlockingCallError, InvalidOptionError, RaySystemError
from aioray.functions import P, RemoteFunction
from aioray.generators import ObjectRefGenerator
from aioray.options import actor_options, task_options
from aioray.refs import ObjectRef
from aioray.runtime import blocking, explaining
from aioray.start_options import ADDRESS_VARIABLE, check_joining, check_later_options, check_options
from aioray.typed_actors import Actor, OnlyAny
from aioray.waiting import check_timeout, refs_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence

    from aioray.actors import AnyHandle
    from aioray.job_config import JobConfig
    from aioray.logging_config import LoggingConfig
    from aioray.runtime.runtime import Runtime

T = TypeVar("T")
R = TypeVar("R")
C = TypeVar("C")
Typed = TypeVar("Typed", bound=Actor)

_init_lock = threading.Lock()
_sync_clusters: list[SyncCluster] = []  # at most one: what `init` started


# starting and ending


def init(
    address: str | None = None,
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: Mapping[str, float] | None = None,
    labels: Mapping[str, str] | None = None,
    object_store_memory: int | None = None,
    ignore_reinit_error: bool = False,
    include_dashboard: bool | None = None,
    configure_logging: bool = True,
    logging_level: int | str = logging.INFO,
    logging_format: str | None = None,
    logging_config: LoggingConfig | None = None,
    log_to_driver: bool = True,
    namespace: str | None = None,
    runtime_env: Mapping[str, Any] | None = None,
    job_config: JobConfig | Mapping[str, Any] | None = None,
    _system_config: Mapping[str, Any] | None = None,
    _temp_dir: str | None = None,
    **not_yet: Any,
) -> InitContext:
    """Start a cluster for a program without an event loop: a head process, with its workers, beside this one; or join
    one that runs.

    address: None or "local" to start one. "auto": join the cluster that was started last on this machine; HOST:PORT:
    that one, through a node of it on this machine (`aioray start --address=HOST:PORT`), or, if there is none here and
    the environment has the cluster's token, through its head: large values go over the network then. Where it is None,
    the variable
    AIORAY_ADDRESS may say which. Options of nodes can only be given where one is started.
    num_cpus: default the CPUs this process may use. num_gpus: default those found that CUDA_VISIBLE_DEVICES leaves.
    resources: more of what the node has, names and amounts, for tasks and actors that ask for it. `_temp_dir`: where
    the session's files go.
    labels: of the node, such as {"region": "us"}, for `label_selector` and the like.
    object_store_memory: bytes, default 30 % of the machine's memory, never more than /dev/shm has. log_to_driver: show
    here what workers print. configure_logging, logging_level, logging_format: of the logger "aioray".
    logging_config: of root loggers, here and in workers, see aioray.LoggingConfig. namespace: of named actors.
    runtime_env: of all tasks and actors, see aioray.runtime_env.RuntimeEnv. job_config: the last three in one, see
    aioray.job_config.JobConfig. `_system_config`: see aioray.config.Config.

    Returns a context that can be used with `with`. Raises RuntimeError when there is a cluster already (unless
    ignore_reinit_error), InvalidOptionError for an option that is not known, or not there yet, ConnectionError when
    there is no such cluster to join.
    """
    check_later_options(init, include_dashboard, not_yet)
    if current.find_in_this_loop() is not None:
        raise BlockingCallError("aioray.init()", "async with aioray.connect()")
    options = check_options(
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        resources=resources,
        labels=labels,
        object_store_memory=object_store_memory,
        temp_dir=_temp_dir,
        namespace=namespace,
        log_to_driver=log_to_driver,
        runtime_env=runtime_env,
        job_config=job_config,
        system_config=_system_config,
        logging_config=logging_config,
    )
    node_address = _node_to_join(
        address,
        _temp_dir,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        resources=resources,
        labels=labels,
        object_store_memory=object_store_memory,
        _system_config=_system_config,
    )
    with _init_lock:
        if _sync_clusters:
            if not ignore_reinit_error:
                raise RuntimeError(
                    "aioray.init() was called already; call aioray.shutdown() first, or pass ignore_reinit_error=True"
                )
            return InitContext(_sync_clusters[0], shutdown)
        if configure_logging:
            _configure_logger(logging_level, logging_format)
        cluster = SyncCluster(options, node_address)
        _sync_clusters.append(cluster)
        atexit.register(shutdown)
        return InitContext(cluster, shutdown)


def _node_to_join(address: str | None, temp_dir: str | None, **of_nodes: Any) -> str:
    """Where a node of the cluster listens, if possible on this machine; "" where a cluster is to be started."""
    if address is None:
        address = os.environ.get(ADDRESS_VARIABLE) or None
    if address is None or address == "local":
        return ""
    from aioray.addresses import find_node, is_elsewhere

    check_joining(address, **of_nodes)
    try:
        found: str = find_node(address, temp_dir)["address"]
    except ConnectionError:
        if not is_elsewhere(address, os.environ):
            raise
        from aioray.far_cluster import head_of

        return head_of(address, os.environ)
    return found


def _configure_logger(level: int | str, fmt: str | None) -> None:
    logger = logging.getLogger("aioray")
    try:
        logger.setLevel(level)
    except (ValueError, TypeError) as exc:
        raise InvalidOptionError("logging_level", level, "a level of logging, by number or name", str(exc)) from None
    if fmt is not None:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(fmt))
        logger.handlers[:] = [handler]
        logger.propagate = False


def connect(
    address: str | None = None,
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: Mapping[str, float] | None = None,
    labels: Mapping[str, str] | None = None,
    object_store_memory: int | None = None,
    log_to_driver: bool = True,
    namespace: str | None = None,
    runtime_env: Mapping[str, Any] | None = None,
    job_config: JobConfig | Mapping[str, Any] | None = None,
    logging_config: LoggingConfig | None = None,
    _system_config: Mapping[str, Any] | None = None,
    _temp_dir: str | None = None,
    **not_yet: Any,
) -> Cluster:
    """Start a cluster in the running event loop, or join one: `async with connect() as cluster`, or `await connect()`.

    The options are those of `init`. The loop does the I/O; nothing else of the process is touched, but the root logger
    where logging_config asks for it, until the cluster ends. Several may run in
    one process; the innermost `async with` (or `with cluster.use()`) around a call decides for which one it is.
    """
    check_later_options(connect, None, not_yet)
    options = check_options(
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        resources=resources,
        labels=labels,
        object_store_memory=object_store_memory,
        temp_dir=_temp_dir,
        namespace=namespace,
        log_to_driver=log_to_driver,
        runtime_env=runtime_env,
        job_config=job_config,
        system_config=_system_config,
        logging_config=logging_config,
    )
    node_address = _node_to_join(
        address,
        _temp_dir,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        resources=resources,
        labels=labels,
        object_store_memory=object_store_memory,
        _system_config=_system_config,
    )
    return Cluster(options, node_address)


def shutdown(_exiting_interpreter: bool = False) -> None:
    """End what `init` started: when this returns, its processes, sockets and shared memory are gone.

    Does nothing when there is nothing to end. Raises RaySystemError where it could only be meant for a cluster that
    `connect` started: ending that must be awaited.
    """
    if not _sync_clusters and not _exiting_interpreter and current.find_connected() is not None:
        raise RaySystemError(
            "this cluster is not one of aioray.init(): it ends when its `async with aioray.connect()` block is left, or"
            " with `await aioray.disconnect()`"
        )
    with _init_lock:
        while _sync_clusters:
            _sync_clusters.pop().shutdown()
    atexit.unregister(shutdown)


def _forget_in_child() -> None:
    """In a forked child: what `init` started is its parent's."""
    for cluster in _sync_clusters:
        cluster.disown()
    _sync_clusters.clear()


os.register_at_fork(after_in_child=_forget_in_child)


def is_initialized() -> bool:
    """Whether calls made here have a cluster to go to."""
    try:
        return current.find() is not None
    except RaySystemError:
        return True


def set_process_runtime(runtime: Runtime) -> None:
    """For workers: this process belongs to one cluster, from the start to the end."""
    current.add(runtime)


current.start_with(lambda: init(ignore_reinit_error=True))  # another thread may be faster


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
    """Make a function or a class remote: `@remote`, or `@remote(num_cpus=2, ...)`.

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


async def disconnect() -> None:
    """End the cluster that `await connect()` started. Raises RaySystemError when there is none in this loop."""
    runtime = current.find()
    if runtime is None or runtime.shutdown is None:
        raise RaySystemError("no cluster was started here with connect()")
    await runtime.shutdown()
