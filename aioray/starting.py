"""Starting a cluster, or joining one, and ending that."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from typing import TYPE_CHECKING, Any

from aioray import current
from aioray.context import InitContext, OfWorker
from aioray.exceptions import BlockingCallError, InvalidOptionError, RaySystemError
from aioray.start_options import ADDRESS_VARIABLE, check_joining, check_later_options, check_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aioray.cluster import Cluster, SyncCluster
    from aioray.job_config import JobConfig
    from aioray.logging_config import LoggingConfig
    from aioray.runtime.runtime import Runtime
    from aioray.start_options import ClusterOptions

_OF_NODES = ("num_cpus", "num_gpus", "resources", "labels", "object_store_memory")  # options of what is started
_init_lock = threading.Lock()
_sync_clusters: list[SyncCluster] = []  # at most one: what `init` started


def init(
    address: str | None = None,
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: Mapping[str, float] | None = None,
    labels: Mapping[str, str] | None = None,
    object_store_memory: float | None = None,
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
    _node_ip_address: str | None = None,
    inline: bool = False,
    **not_yet: Any,
) -> InitContext:
    """Start a cluster for a program without an event loop: a head process, with its workers, beside this one (or, if
    asked for, a head inside of it); or join one that runs.

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
    logging_config: of root loggers, here and in workers, see aioray.LoggingConfig. namespace: of named actors and
    placement groups; default one that no other program has, which begins with "anonymous-".
    runtime_env: of all tasks and actors, see aioray.runtime_env.RuntimeEnv. job_config: the last three in one, see
    aioray.job_config.JobConfig. `_system_config`: see aioray.config.Config.
    `_node_ip_address`: of this machine; the head listens there, at a port that is free, for nodes and programs of other
    machines that have its token. Without it the cluster is for this machine and this program.
    inline (ours): True has the head in this process, in a thread with an event loop of its own; workers are processes
    all the same, and every other option means what it means otherwise. For short scripts, tests and tools: there is
    one process less to start, to keep and to end. The price: the head shares Python's GIL with the program. While that
    runs Python, the head is slower (up to 5 ms an answer, see sys.setswitchinterval); while it is in one long call into
    C that does not let go of the GIL, what asks the head for something waits: leases of workers, actors to be made,
    shared memory, lines that workers print. Either way the cluster ends with this process.

    Returns a context that can be used with `with`. Raises RuntimeError when there is a cluster already, as there is in
    tasks and actors (unless ignore_reinit_error: nothing is done then), InvalidOptionError for an option that is not
    known, or not there yet, ConnectionError when there is no such cluster to join.
    """
    check_later_options(init, {"include_dashboard": include_dashboard, **not_yet})
    worker = current.find_as_worker()
    if worker is not None:
        if not ignore_reinit_error:
            raise RuntimeError(
                "a task or actor has a cluster: leave aioray.init() out here, or pass ignore_reinit_error=True"
            )
        return InitContext(OfWorker(worker), shutdown)
    if current.find_in_this_loop() is not None:
        raise BlockingCallError("aioray.init()", "async with aioray.connect()")
    options, node_address = _told(
        address,
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
        node_ip_address=_node_ip_address,
        inline=inline,
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
        from aioray.cluster import SyncCluster  # late, as in `connect`: who only imports aioray needs no runtime

        cluster = SyncCluster(options, node_address)
        _sync_clusters.append(cluster)
        atexit.register(shutdown)
        return InitContext(cluster, shutdown)


def _told(address: str | None, **given: Any) -> tuple[ClusterOptions, str]:
    """The options, checked, and where a node of the cluster to be joined listens; "" where one is to be started."""
    options = check_options(**given)
    of_nodes = {name: given[name] for name in _OF_NODES}
    of_nodes |= {"_system_config": given["system_config"], "_node_ip_address": given["node_ip_address"]}
    of_nodes["inline"] = options.inline or None
    return options, _node_to_join(address, given["temp_dir"], **of_nodes)


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
    else:
        return found
    from aioray.far_cluster import head_of

    return head_of(address, os.environ)


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
    object_store_memory: float | None = None,
    log_to_driver: bool = True,
    namespace: str | None = None,
    runtime_env: Mapping[str, Any] | None = None,
    job_config: JobConfig | Mapping[str, Any] | None = None,
    logging_config: LoggingConfig | None = None,
    _system_config: Mapping[str, Any] | None = None,
    _temp_dir: str | None = None,
    _node_ip_address: str | None = None,
    **not_yet: Any,
) -> Cluster:
    """Start a cluster in the running event loop, or join one: `async with connect() as cluster`, or `await connect()`.

    The options are those of `init`. The loop does the I/O; nothing else of the process is touched, but the root logger
    where logging_config asks for it, until the cluster ends. Several may run in
    one process; the innermost `async with` (or `with cluster.use()`) around a call decides for which one it is.
    """
    check_later_options(connect, not_yet)
    options, node_address = _told(
        address,
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
        node_ip_address=_node_ip_address,
    )
    from aioray.cluster import Cluster

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


async def disconnect() -> None:
    """End the cluster that `await connect()` started. Raises RaySystemError when there is none in this loop."""
    runtime = current.find()
    if runtime is None or runtime.shutdown is None:
        raise RaySystemError("no cluster was started here with connect()")
    await runtime.shutdown()


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
