"""Several nodes in this process's event loop, told of each other by hand: without a GCS, its HTTP, or its delays."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Self

import aioray
from aioray.config import Config
from aioray.runtime.reactor import Reactor
from aioray.wire.gcs import Delta, MemberChange
from aioray_node.node import Node
from aioray_node.node_options import JoinOptions, NodeOptions
from aioray_node.pool.zygote_process import ZygoteProcess

if TYPE_CHECKING:
    from aioray_node.gcs.view import ClusterView

_REPORT_EVERY_S = 0.01


class HandFedCluster:
    """`async with HandFedCluster({"num_cpus": 1}, {"num_cpus": 2}) as nodes`: the first one is the driver's.

    `tunables` go for all of them.
    """

    def __init__(self, *options: dict[str, Any], **tunables: Any) -> None:
        self._options = options
        self._tunables = tunables
        self._undo = contextlib.AsyncExitStack()
        self._reported: dict[str, dict[str, int]] = {}
        self._ended: dict[str, str] = {}
        self._version = 0
        self._open: dict[str, tuple[Node, Reactor]] = {}
        self.nodes: list[Node] = []

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as undo:
            head = await undo.enter_async_context(aioray.connect(**self._options[0], _system_config=self._tunables))
            assert head._node is not None
            self.nodes.append(head._node)
            undo.callback(self._close_all)
            for options in self._options[1:]:
                self.add(**options)
            reporting = asyncio.create_task(self._report_for_ever())
            undo.push_async_callback(_cancel, reporting)
            self.tell()
            self._undo = undo.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._undo.aclose()

    def add(self, **options: Any) -> Node:
        """One more node; the others know of it when this returns."""
        node_options = NodeOptions(config=Config(**self._tunables), join=JoinOptions(address="/by/hand"), **options)
        zygote = ZygoteProcess.spawn(node_options.config)
        reactor = Reactor("aioray-other-node")
        reactor.attach(asyncio.get_running_loop())
        node = Node(node_options, reactor, Node.session_for(node_options))
        self._open[node.node_id] = node, reactor
        node.open(zygote)
        self.nodes.append(node)
        self.tell()
        return node

    def kill(self, node: Node) -> None:
        """It is gone, with all its processes; the others hear of it as they find its connections cut."""
        node, reactor = self._open.pop(node.node_id)
        self.nodes.remove(node)
        node.close()
        reactor.close()

    def bury(self, node: Node) -> None:
        """The others are told that it is dead."""
        self._ended[node.node_id] = "it was killed"
        self.tell()

    def bury_for(self, listener: Node, node: Node) -> None:
        """Only that one is told, the others later, if at all."""
        self._version += 1
        change = MemberChange(node.node_id, self._version, end="it was killed")
        with listener._reactor.lock:
            listener.view.apply(Delta("by hand", listener.view.version, self._version, (change,)))

    def _close_all(self) -> None:
        for node, _ in list(self._open.values()):
            self.kill(node)

    async def _report_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_REPORT_EVERY_S)
            self.tell()

    def tell(self) -> None:
        """Bring all views up to date."""
        views: list[ClusterView] = [node.view for node in self.nodes]
        changes = []
        for view in views:
            available = dict(view.nodes[view.own_id].resources.available)
            if self._reported.get(view.own_id) != available:
                self._reported[view.own_id] = available
                self._version += 1
                facts = view.known[view.own_id].facts
                changes.append(MemberChange(view.own_id, self._version, facts, available))
        for node_id, why in self._ended.items():
            self._version += 1
            changes.append(MemberChange(node_id, self._version, end=why))
        self._ended.clear()
        for node in self.nodes:
            with node._reactor.lock:
                if not node.view.epoch:
                    everybody = [
                        MemberChange(
                            each.own_id, self._version, each.known[each.own_id].facts, self._reported[each.own_id]
                        )
                        for each in views
                    ]
                    node.view.apply(Delta("by hand", 0, max(1, self._version), tuple(everybody)))
                elif changes:
                    node.view.apply(Delta("by hand", node.view.version, self._version, tuple(changes)))


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
