"""A GCS on HTTP and nodes that join it, in one event loop, without what makes a node: just its membership."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import msgspec

from aioray.config import Config
from aioray.runtime.reactor import Reactor
from aioray.wire.gcs import Demand, NodeFacts
from aioray_node.gcs.app import GcsApp
from aioray_node.gcs.client import GcsClient, NodeLine
from aioray_node.gcs.events.desks import TaskTableDesk
from aioray_node.gcs.member_desk import MemberDesk
from aioray_node.gcs.membership import Membership
from aioray_node.gcs.metrics.desks import MetricTableDesk
from aioray_node.gcs.view import ClusterView
from aioray_node.scheduling.policy import NodeView
from aioray_node.scheduling.resources import UNIT, NodeResources

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable

    from aioray_node.gcs.state_desk import StateDesk

TOKEN = "the token"
CPU = {"CPU": 2 * UNIT}


class FixedLoad:
    """What a node has to spare, as a test says."""

    def __init__(self) -> None:
        self.free = dict(CPU)
        self.demands: tuple[Demand, ...] = ()

    def available(self) -> dict[str, int]:
        return dict(self.free)

    def store_used_nbytes(self) -> int:
        return 0

    def waiting_counts(self) -> list[tuple[dict[str, int], int]]:
        return [(demand.amounts, demand.count) for demand in self.demands]

    def waiting(self) -> tuple[Demand, ...]:
        return self.demands


class StagedNode:
    """One that joins; `end` has why it was told to."""

    def __init__(self, node_id: str, reactor: Reactor) -> None:
        facts = NodeFacts(node_id, (f"/{node_id}.sock",), "boot", CPU)
        self.reactor = reactor
        self.view = ClusterView(facts, NodeView(NodeResources(CPU)))
        self.load = FixedLoad()
        self.membership = Membership(reactor, self.view, self.load)  # type: ignore[arg-type] # a fake
        self.end: asyncio.Future[str] = asyncio.get_running_loop().create_future()  # why it was told to
        self.news = asyncio.Event()
        self.view.subscribe(lambda _: self.news.set())

    async def until(self, done: Callable[[ClusterView], bool]) -> None:
        """Wait until its view is like that."""
        async with asyncio.timeout(10):
            while not done(self.view):
                self.news.clear()
                await self.news.wait()


class GcsStage:
    """The GCS; a test may close it and open another one at the same address."""

    def __init__(self, directory: Any, config: Config | None = None) -> None:
        self.config = config or Config()
        self.path = str(directory / "gcs.sock")
        self.reactor = Reactor("stage")
        self.app: GcsApp | None = None
        self.tasks = TaskTableDesk(self.reactor, self.config)
        self.metrics = MetricTableDesk(self.reactor, self.config)
        self.state: StateDesk | None = None

    async def open(self, epoch: str = "gcs", port: int | None = None, tls: ssl.SSLContext | None = None) -> GcsApp:
        self.desk = MemberDesk(self.reactor, self.config, epoch, self.tasks, self.metrics)
        questions: dict[str, Any] = {"status": lambda: msgspec.to_builtins(self.desk.status())}
        if self.state is not None:
            questions.update(self.state.questions())
        self.app = GcsApp(self.reactor, self.desk, TOKEN, questions, self.metrics.all_metrics)
        await self.app.open(path=self.path, host="127.0.0.1", port=port, tls=tls)
        return self.app

    async def close(self, farewell: str = "") -> None:
        if self.app is not None:
            await self.app.close(farewell)

    @contextlib.asynccontextmanager
    async def node(self, node_id: str) -> AsyncIterator[StagedNode]:
        """A node that is a member."""
        node = StagedNode(node_id, self.reactor)
        async with self.line(node) as line:
            await line.joined(10)
            yield node

    def line(self, node: StagedNode, token: str = TOKEN, address: str = "") -> NodeLine:
        return NodeLine(
            self.reactor,
            node.membership,
            GcsClient(address or self.path, token),
            heartbeat_timeout_s=self.config.heartbeat_timeout_ms / 1000,
            give_up_after_s=self.config.gcs_reconnect_timeout_s,
            on_end=node.end.set_result,
        )

    def members(self) -> dict[str, str | None]:
        """Node id -> why it is dead."""
        return {each.facts.node_id: each.end for each in self.desk.status().members}
