"""Ray's `Cluster`: nodes on this machine, added and removed one by one. `aioray.testing.LocalCluster` is ours."""

from __future__ import annotations

import asyncio
import atexit
import time
from typing import TYPE_CHECKING, Any

from aioray.exceptions import BlockingCallError, GetTimeoutError, InvalidOptionError, RaySystemError
from aioray.runtime.link import ask_node
from aioray.start_options import check_options
from aioray.starting import init, shutdown
from aioray.testing.process_nodes import LocalNode, ProcessNodes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aioray.context import InitContext
    from aioray.start_options import ClusterOptions

_STORE_NBYTES = 150 << 20
_LOOK_AGAIN_S = 0.002
_WAIT_TIMEOUT_S = 30.0
_NODE_OPTIONS = (
    "num_cpus", "num_gpus", "memory", "resources", "labels", "object_store_memory", "_system_config", "env_vars",
)  # fmt: skip


class Cluster:
    """A cluster of processes on this machine. The first node is the head.

    initialize_head: start it at once, with head_node_args. connect: and `init` this program with it.
    shutdown_at_exit: end all when this program does; they end with this process in any case.
    """

    def __init__(
        self,
        initialize_head: bool = False,
        connect: bool = False,
        head_node_args: Mapping[str, Any] | None = None,
        shutdown_at_exit: bool = True,
    ) -> None:
        if connect and not initialize_head:
            raise InvalidOptionError(
                "connect", connect, "False without initialize_head: there is nothing to connect to"
            )
        if head_node_args and not initialize_head:
            raise InvalidOptionError("head_node_args", dict(head_node_args), "None without initialize_head")
        self._nodes: ProcessNodes | None = ProcessNodes(None)
        self._connected = False
        if shutdown_at_exit:
            atexit.register(self.shutdown)
        if initialize_head:
            self.add_node(**(head_node_args or {}))
            if connect:
                self.connect()

    @property
    def address(self) -> str:
        """What `aioray.init(address=...)` takes."""
        return self._open().gcs_address

    gcs_address = address

    @property
    def head_node(self) -> LocalNode | None:
        """None before the first node is added."""
        return next((node for node in self._open().nodes if node.is_head), None)

    @property
    def worker_nodes(self) -> set[LocalNode]:
        return {node for node in self._open().nodes if not node.is_head}

    def list_all_nodes(self) -> list[LocalNode]:
        """The head first; each has a node_id."""
        return list(self._open().nodes)

    def connect(self, namespace: str | None = None) -> InitContext:
        """`aioray.init` for this program, with this cluster."""
        if self.head_node is None:
            raise RaySystemError("this cluster has no node yet: add_node() comes first")
        context = init(address=self.address, namespace=namespace)
        self._connected = True
        return context

    def add_node(self, wait: bool = True, **node_args: Any) -> LocalNode:
        """Start a node: num_cpus (1), num_gpus (0), memory, resources, labels, object_store_memory, `_system_config`,
        env_vars. wait: until the head knows it.
        """
        options, env_vars = _checked(node_args)
        (node,) = self._open().start([options], env_vars)
        if wait:
            self._wait_until_none(lambda alive: {node.node_id} - alive, _WAIT_TIMEOUT_S)
        return node

    def remove_node(self, node: LocalNode, allow_graceful: bool = True) -> None:
        """End a node; without allow_graceful it is killed. The head can only be ended last."""
        nodes = self._open()
        if node not in nodes.nodes:
            raise ValueError(f"{node!r} is none of this cluster's nodes, or not any more")
        if node.is_head and len(nodes.nodes) > 1:
            raise ValueError("the head has the GCS: remove the other nodes first, or shut the cluster down")
        if node.is_head:
            self._disconnect()
        nodes.remove(node, kill=not allow_graceful)

    def wait_for_nodes(self, timeout: float = _WAIT_TIMEOUT_S) -> None:
        """Until the head knows which nodes are there, and which are not any more. Raises GetTimeoutError."""
        nodes = self._open()
        expected = {node.node_id for node in nodes.nodes}
        self._wait_until_none(lambda alive: alive ^ expected, timeout)

    def _wait_until_none(self, differing: Callable[[set[str]], set[str]], timeout_s: float) -> None:
        head = self.head_node
        if head is None:
            return
        deadline = time.monotonic() + timeout_s
        while differ := differing(_alive(head)):
            if time.monotonic() > deadline:
                raise GetTimeoutError(f"after {timeout_s:g} s these nodes differ: {', '.join(sorted(differ))}")
            time.sleep(_LOOK_AGAIN_S)

    def shutdown(self) -> None:
        """End all nodes; they are gone when this returns. Safe to call twice."""
        nodes, self._nodes = self._nodes, None
        atexit.unregister(self.shutdown)
        if nodes is not None:
            self._disconnect()
            nodes.close()

    def _disconnect(self) -> None:
        if self._connected:
            self._connected = False
            shutdown()

    def _open(self) -> ProcessNodes:
        if asyncio._get_running_loop() is not None:
            raise BlockingCallError("a Cluster", "async with aioray.testing.LocalCluster()")
        if self._nodes is None:
            raise RaySystemError("this cluster was shut down")
        return self._nodes


def _alive(head: LocalNode) -> set[str]:
    return {node["NodeID"] for node in ask_node(head.address, "nodes") if node["Alive"]}


def _checked(given: Mapping[str, Any]) -> tuple[ClusterOptions, Mapping[str, str] | None]:
    for name, value in given.items():
        if name not in _NODE_OPTIONS:
            raise InvalidOptionError(name, value, ", ".join(_NODE_OPTIONS), "a node has no such option")
    options = check_options(
        num_cpus=given.get("num_cpus", 1),
        num_gpus=given.get("num_gpus", 0),
        memory=given.get("memory"),
        resources=given.get("resources"),
        labels=given.get("labels"),
        object_store_memory=given.get("object_store_memory", _STORE_NBYTES),
        temp_dir=None,
        namespace=None,
        log_to_driver=True,
        runtime_env=None,
        job_config=None,
        system_config=given.get("_system_config"),
    )
    return options, given.get("env_vars")
