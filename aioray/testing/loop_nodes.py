"""The nodes of a local cluster in one event loop, without sockets between them; only their workers are processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from aioray.embedded_node import EmbeddedNode
from aioray.exceptions import InvalidOptionError
from aioray.testing.process_nodes import LocalNode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioray.start_options import ClusterOptions
    from aioray_node.gcs.local_line import LocalLine
    from aioray_node.gcs.member_desk import MemberDesk


class LoopNodes:
    """Starts and ends them, all in the loop that runs."""

    def __init__(self) -> None:
        self.nodes: list[LocalNode] = []
        self.gcs_address = ""  # nobody else can join
        self._desk: MemberDesk | None = None
        self._desk_reactor = None
        self._lines: dict[str, LocalLine] = {}

    async def start(self, specs: Sequence[ClusterOptions], environ: Mapping[str, str] | None = None) -> list[LocalNode]:
        """Start these; the very first one is the head, which has the GCS."""
        if environ:
            raise InvalidOptionError("env_vars", dict(environ), "None for nodes that are no processes of their own")
        return [self._start(options) for options in specs]

    def _start(self, options: ClusterOptions) -> LocalNode:
        from aioray_node.gcs.local_line import LocalLine
        from aioray_node.gcs.member_desk import MemberDesk

        part = EmbeddedNode(options, asyncio.get_running_loop(), is_head=self._desk is None)
        if self._desk is None:
            tables = part.node.state
            self._desk = MemberDesk(part.reactor, options.config, part.node_id, tables.tasks, tables.metrics)
            self._head = part
        line = self._lines[part.node_id] = LocalLine(self._desk, self._head.reactor, part.node.membership, part.reactor)
        line.open()
        session_dir = str(part.node.session.dir)
        node = LocalNode(part.node_id, part.address, session_dir, os.getpid(), part is self._head, part)
        self.nodes.append(node)
        return node

    async def remove(self, node: LocalNode, *, kill: bool) -> None:
        """End one node: it leaves, or is gone as if it had been killed."""
        self.nodes.remove(node)
        line = self._lines.pop(node.node_id)
        if kill:
            line.cut("it was killed")
            node.part.close_now()
            return
        with node.part.reactor.lock:
            node.part.node.membership.leave("it was stopped")
        await self._end([node])

    def hang_up(self) -> None:
        """Nothing is under way between two turns of the loop."""

    async def close(self) -> None:
        """End all. Safe to call twice."""
        nodes, self.nodes = self.nodes, []
        if self._desk is not None:
            with self._head.reactor.lock:
                self._desk.close()
        await self._end(nodes)

    async def _end(self, nodes: list[LocalNode]) -> None:
        with contextlib.ExitStack() as undo:
            for node in nodes:
                undo.callback(node.part.close_now)
            await asyncio.gather(*(node.part.close() for node in nodes))
