"""A cluster of several nodes on this machine, for tests and for trying things out."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

from aioray import current
from aioray.cluster import Cluster, SyncCluster
from aioray.exceptions import BlockingCallError, GetTimeoutError, InvalidOptionError, RaySystemError
from aioray.start_options import check_options
from aioray.testing.loop_nodes import LoopNodes
from aioray.testing.process_nodes import LocalNode, ProcessNodes

if TYPE_CHECKING:
    import contextlib
    import contextvars
    from collections.abc import Callable

    from aioray.logging_config import LoggingConfig
    from aioray.runtime.runtime import Runtime
    from aioray.start_options import ClusterOptions

T = TypeVar("T")
STORE_NBYTES = 256 << 20
_WAIT_TIMEOUT_S = 30.0
_LOOK_AGAIN_S = 0.002
_OPTION_OF = {"CPU": "num_cpus", "GPU": "num_gpus"}
_NODE_OPTIONS = {"num_cpus", "num_gpus", "memory", "object_store_memory"}


class ThreadedNodes:
    """Processes, for who must not block: a thread waits for them."""

    def __init__(self, nodes: ProcessNodes) -> None:
        self._nodes = nodes
        self.gcs_address = nodes.gcs_address

    @property
    def nodes(self) -> list[LocalNode]:
        return self._nodes.nodes

    async def start(self, specs: Sequence[ClusterOptions], environ: Mapping[str, str] | None = None) -> list[LocalNode]:
        """See ProcessNodes. Cancelled, it ends what it has started; `close` must follow."""
        return await self._in_thread(lambda: self._nodes.start(specs, environ))

    async def remove(self, node: LocalNode, *, kill: bool) -> None:
        await self._in_thread(lambda: self._nodes.remove(node, kill=kill))

    async def close(self) -> None:
        await self._in_thread(self._nodes.close)

    async def _in_thread(self, fn: Callable[[], T]) -> T:
        pool = concurrent.futures.ThreadPoolExecutor(1, "aioray-local-cluster")  # the loop's own would stay
        try:
            work = asyncio.get_running_loop().run_in_executor(pool, fn)
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                self._nodes.hang_up()  # so that the thread has nothing to wait for
                await asyncio.wait([work])
                work.cancelled() or work.exception()
                raise
        finally:
            pool.shutdown()


class LocalCluster:
    """`async with LocalCluster(nodes=3) as cluster`, or `with` where there is no event loop.

    nodes: how many; the first one is the head. num_cpus: of each node. resources: what each node has, one mapping for
    all or one for each, such as [{"CPU": 2}, {"GPU": 1, "disk": 4}]. labels: likewise. object_store_memory: bytes, of
    each node. in_process: nodes in this event loop instead of processes; their workers are processes in any case.
    The rest is as in `aioray.init`.

    Inside the block, calls go to this cluster. Nodes may be added, removed and killed. Leaving it, or the end of this
    process, however it comes, ends all of them. They use Unix sockets only, so any number runs side by side.
    """

    def __init__(
        self,
        nodes: int = 1,
        *,
        num_cpus: float = 1,
        resources: Mapping[str, float] | Sequence[Mapping[str, float]] | None = None,
        labels: Mapping[str, str] | Sequence[Mapping[str, str]] | None = None,
        object_store_memory: int = STORE_NBYTES,
        in_process: bool = False,
        namespace: str | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        log_to_driver: bool = True,
        logging_config: LoggingConfig | None = None,
        _system_config: Mapping[str, Any] | None = None,
        _temp_dir: str | None = None,
    ) -> None:
        if isinstance(nodes, bool) or not isinstance(nodes, int) or nodes < 1:
            raise InvalidOptionError("nodes", nodes, "a whole number from 1 on")
        self._shared: dict[str, Any] = {
            "namespace": namespace,
            "runtime_env": runtime_env,
            "log_to_driver": log_to_driver,
            "logging_config": logging_config,
            "system_config": _system_config,
            "temp_dir": _temp_dir,
            "job_config": None,
        }
        self._defaults = {"num_cpus": num_cpus, "object_store_memory": object_store_memory}
        self._specs = [
            self._options(resources=has, labels=labelled)
            for has, labelled in zip(
                _for_each("resources", resources, nodes), _for_each("labels", labels, nodes), strict=True
            )
        ]
        self._in_process = in_process
        self._blocking: ProcessNodes | None = None  # in the synchronous face
        self._nodes: ThreadedNodes | LoopNodes | None = None  # in the asynchronous one
        self._driver: SyncCluster | Cluster | None = None
        self._chosen: tuple[Runtime, contextvars.Token[Runtime | None]] | None = None

    def _options(
        self,
        *,
        resources: Mapping[str, float] | None = None,
        labels: Mapping[str, str] | None = None,
        **others: Any,
    ) -> ClusterOptions:
        for name in set(others) - _NODE_OPTIONS:
            raise InvalidOptionError(
                name,
                others[name],
                f"env_vars, labels, resources, {', '.join(sorted(_NODE_OPTIONS))}",
                "a node has no such option",
            )
        amounts = dict(resources or {})
        named = {_OPTION_OF[name]: amounts.pop(name) for name in _OPTION_OF if name in amounts}
        given = {"num_gpus": 0, **self._defaults, **named, **others}
        return check_options(**given, **self._shared, resources=amounts, labels=labels)

    # what is there

    @property
    def nodes(self) -> list[LocalNode]:
        """Those that were started and not ended, in that order."""
        return list(self._started.nodes)

    @property
    def head(self) -> LocalNode:
        """The node that this program's calls go to first."""
        return self._started.nodes[0]

    @property
    def address(self) -> str:
        """Of the GCS: what `aioray.init(address=...)` takes. "" if all nodes run in this event loop."""
        return self._started.gcs_address

    @property
    def runtime(self) -> Runtime:
        if self._driver is None:
            raise RaySystemError("this cluster is not running")
        return self._driver.runtime

    @property
    def _started(self) -> ProcessNodes | ThreadedNodes | LoopNodes:
        started = self._blocking or self._nodes
        if started is None:
            raise RaySystemError("this cluster is not running")
        return started

    def __repr__(self) -> str:
        if self._driver is None:
            return "<aioray.testing.LocalCluster, not running>"
        return f"<aioray.testing.LocalCluster of {len(self.nodes)} nodes, head {self.head.node_id}>"

    def use(self) -> contextlib.AbstractContextManager[Any]:
        """Make calls in this block go to this cluster, as inside of its own."""
        import contextlib

        @contextlib.contextmanager
        def using() -> Any:
            runtime = self.runtime
            token = current.choose(runtime)
            try:
                yield self
            finally:
                current.unchoose(runtime, token)

        return using()

    # without an event loop

    def __enter__(self) -> Self:
        self._check_face("with LocalCluster()", "async with LocalCluster()")
        if self._in_process:
            raise InvalidOptionError("in_process", True, "False where there is no event loop for the nodes to run in")
        self._blocking = ProcessNodes(self._shared["temp_dir"])
        try:
            self._blocking.start(self._specs)
            driver = self._driver = SyncCluster(self._specs[0], self.head.address)
            self._chosen = (driver.runtime, current.choose(driver.runtime))
            self.wait_for_nodes()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._leave()

    def _leave(self) -> None:
        self._unchoose()
        driver, self._driver = self._driver, None
        blocking, self._blocking = self._blocking, None
        try:
            if isinstance(driver, SyncCluster):
                driver.shutdown()
        finally:
            if blocking is not None:
                blocking.close()

    def add_node(self, *, env_vars: Mapping[str, str] | None = None, **options: Any) -> LocalNode:
        """One more node; options as those of the cluster: num_cpus, num_gpus, resources, labels, object_store_memory.

        When this returns the others know of it.
        """
        nodes = self._started_blocking("add_node")
        (node,) = nodes.start([self._options(**options)], env_vars)
        self.wait_for_nodes()
        return node

    def remove_node(self, node: LocalNode) -> None:
        """Have it leave; when this returns it is gone, and the others know that."""
        self._started_blocking("remove_node").remove(self._checked(node), kill=False)
        self._wait_for_death(node)

    def kill_node(self, node: LocalNode) -> None:
        """End it as if its machine had lost power; when this returns the others have noticed."""
        self._started_blocking("kill_node").remove(self._checked(node), kill=True)
        self._wait_for_death(node)

    def wait_for_nodes(self, timeout: float = _WAIT_TIMEOUT_S) -> None:
        """Until the head knows all nodes that were started. Raises GetTimeoutError (a TimeoutError)."""
        self._check_face("wait_for_nodes()", "await cluster.wait_for_nodes_async()")
        deadline = time.monotonic() + timeout
        while lacking := self._unknown():
            if time.monotonic() > deadline:
                raise _not_in_time(lacking, timeout)
            time.sleep(_LOOK_AGAIN_S)

    def _wait_for_death(self, node: LocalNode) -> None:
        deadline = time.monotonic() + _WAIT_TIMEOUT_S
        while node.node_id in self._alive():
            if time.monotonic() > deadline:
                raise _still_there(node)
            time.sleep(_LOOK_AGAIN_S)

    # in an event loop

    async def __aenter__(self) -> Self:
        self._nodes = LoopNodes() if self._in_process else ThreadedNodes(ProcessNodes(self._shared["temp_dir"]))
        try:
            await self._nodes.start(self._specs)
            host = self.head.part if self._in_process else None
            self._driver = driver = Cluster(self._specs[0], self.head.address, host=host)
            await driver.start()
            self._chosen = (driver.runtime, current.choose(driver.runtime))
            await self.wait_for_nodes_async()
        except BaseException:
            await self._leave_async()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._leave_async()

    async def _leave_async(self) -> None:
        self._unchoose()
        driver, self._driver = self._driver, None
        nodes, self._nodes = self._nodes, None
        try:
            if isinstance(driver, Cluster):
                await driver.shutdown()
        finally:
            if nodes is not None:
                await nodes.close()

    async def add_node_async(self, *, env_vars: Mapping[str, str] | None = None, **options: Any) -> LocalNode:
        """See `add_node`."""
        (node,) = await self._started_in_loop().start([self._options(**options)], env_vars)
        await self.wait_for_nodes_async()
        return node

    async def remove_node_async(self, node: LocalNode) -> None:
        """See `remove_node`."""
        await self._started_in_loop().remove(self._checked(node), kill=False)
        await self._wait_for_death_async(node)

    async def kill_node_async(self, node: LocalNode) -> None:
        """See `kill_node`."""
        await self._started_in_loop().remove(self._checked(node), kill=True)
        await self._wait_for_death_async(node)

    async def wait_for_nodes_async(self, timeout: float = _WAIT_TIMEOUT_S) -> None:  # noqa: ASYNC109 # as `wait_for_nodes`
        """See `wait_for_nodes`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while lacking := self._unknown():
            if loop.time() > deadline:
                raise _not_in_time(lacking, timeout)
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def _wait_for_death_async(self, node: LocalNode) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _WAIT_TIMEOUT_S
        while node.node_id in self._alive():
            if loop.time() > deadline:
                raise _still_there(node)
            await asyncio.sleep(_LOOK_AGAIN_S)

    # both

    def _alive(self) -> set[str]:
        return {node["NodeID"] for node in self.runtime.ask("nodes") if node["Alive"]}

    def _unknown(self) -> list[str]:
        known = {node["NodeID"] for node in self.runtime.ask("nodes")}  # one that a test has killed by itself, too
        return [node.node_id for node in self._started.nodes if node.node_id not in known]

    def _checked(self, node: LocalNode) -> LocalNode:
        if node not in self._started.nodes:
            raise ValueError(f"{node!r} is none of this cluster's nodes, or not any more")
        if node is self.head:
            raise ValueError("the head has the GCS, and this program's calls go there: it ends with the cluster")
        return node

    def _started_blocking(self, name: str) -> ProcessNodes:
        self._check_face(f"{name}()", f"await cluster.{name}_async()")
        if self._blocking is None:
            raise RaySystemError("this cluster is not running")
        return self._blocking

    def _started_in_loop(self) -> ThreadedNodes | LoopNodes:
        if self._nodes is None:
            raise RaySystemError("this cluster does not run in an event loop")
        return self._nodes

    def _check_face(self, call: str, instead: str) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        raise BlockingCallError(call, instead)

    def _unchoose(self) -> None:
        if self._chosen is not None:
            current.unchoose(*self._chosen)
            self._chosen = None


def _for_each(option: str, given: Any, nodes: int) -> Sequence[Any]:
    if given is None or isinstance(given, Mapping):
        return [given] * nodes
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != nodes:
        raise InvalidOptionError(option, given, f"a dict for all nodes, or a list of {nodes}, one for each")
    return given


def _not_in_time(lacking: Sequence[str], timeout_s: float) -> GetTimeoutError:
    return GetTimeoutError(f"after {timeout_s:g} s the head does not know node {', '.join(lacking)}")


def _still_there(node: LocalNode) -> GetTimeoutError:
    return GetTimeoutError(f"node {node.node_id} was ended, but is still taken for alive")
