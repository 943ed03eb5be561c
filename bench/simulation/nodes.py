"""Nodes and their GCS: the real cores, their membership and its desk; messages are encoded and decoded.

Views of n nodes on n nodes are more than fits into one process. So `watched` nodes have all that a node has, and their
costs stand for all; the others share one view, apart from what they know of themselves. Callers are at watched nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, cast

import msgspec

from aioray.config import Config
from aioray.wire.control import LeaseGrant, LeaseRequest, LeaseReturn, Spill
from aioray.wire.gcs import NodeFacts, gcs_frame_decoder, node_frame_decoder
from aioray_node.gcs.events.desks import TaskTableDesk
from aioray_node.gcs.member_desk import MemberDesk
from aioray_node.gcs.membership import Membership, NodeLoad
from aioray_node.gcs.metrics.desks import MetricTableDesk
from aioray_node.gcs.view import ClusterView, Joined, KnownNode
from aioray_node.scheduling import core
from aioray_node.scheduling.candidates import Candidates
from aioray_node.scheduling.resources import UNIT, NodeResources

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.runtime.reactor import Reactor
    from aioray.wire.gcs import AnyNodeFrame, Delta, Demand
    from aioray_node.gcs.member_desk import Packet
    from aioray_node.gcs.view import News
    from aioray_node.scheduling.policy import Here, NodeView, Wish
    from bench.simulation.callers import Caller
    from bench.simulation.timeline import Meter, Timeline

GCS_DELAY_S = 0.0005  # one way
LOCAL_DELAY_S = 0.00005
REMOTE_DELAY_S = 0.0003
_WORKER_S = 0.0001  # a worker is there: nothing is forked here

_from_caller: msgspec.msgpack.Decoder[LeaseRequest | LeaseReturn] = msgspec.msgpack.Decoder(LeaseRequest | LeaseReturn)
to_caller: msgspec.msgpack.Decoder[LeaseGrant | Spill] = msgspec.msgpack.Decoder(LeaseGrant | Spill)


class World:
    """What all parts share."""

    def __init__(self, timeline: Timeline, meter: Meter) -> None:
        self.timeline = timeline
        self.meter = meter
        self.config = Config()
        self.messages: Counter[str] = Counter()
        self.nbytes: Counter[str] = Counter()
        self.node_at: dict[str, Node] = {}  # by address
        self.address_of: dict[str, str] = {}
        self.gcs = Gcs(self)

    @property
    def reactor(self) -> Reactor:
        return cast("Reactor", self.timeline)

    def count(self, what: str, nbytes: int) -> None:
        self.messages[what] += 1
        self.nbytes[what] += nbytes


class Gcs:
    """The members' table, with a WebSocket to each node."""

    def __init__(self, world: World) -> None:
        self._world = world
        tables = TaskTableDesk(world.reactor, world.config), MetricTableDesk(world.reactor, world.config)
        self._desk = MemberDesk(world.reactor, world.config, "epoch", *tables)
        # Its timer is the desk's work, too.
        timeline, meter = world.timeline, world.meter

        class Metered:
            time = timeline.time

            @staticmethod
            def call_later(delay_s: float, then: Callable[[], object]) -> object:
                return timeline.call_later(delay_s, lambda: meter.run("gcs", then))

        self._desk._reactor = cast("Reactor", Metered)

    def connect(self, node: Node) -> int:
        return self._desk.connect(_Outlet(self._world, node))

    def hear(self, connection: int, data: bytes) -> None:
        self._world.meter.run("gcs", self._hear, connection, data)

    def _hear(self, connection: int, data: bytes) -> None:
        self._desk.hear(connection, node_frame_decoder.decode(data))


class _Outlet:
    def __init__(self, world: World, node: Node) -> None:
        self._world = world
        self._node = node

    def send(self, packet: Packet) -> None:
        world = self._world
        world.count("gcs out", len(packet.data))
        world.timeline.in_order(world.gcs, self._node, GCS_DELAY_S, self._node.hear, packet)

    def close(self, reason: str) -> None:
        raise AssertionError(f"the GCS hung up: {reason}")


class _Shared(Mapping[str, "NodeView"]):
    """Another node's view, but for what a node knows of itself."""

    def __init__(self, own_id: str, own: NodeView, others: Mapping[str, NodeView]) -> None:
        self._own_id, self._own, self._others = own_id, own, others

    def __getitem__(self, node_id: str) -> NodeView:
        return self._own if node_id == self._own_id else self._others[node_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._others)

    def __len__(self) -> int:
        return len(self._others)


class _Bystander:
    """The view of a node that is not watched: it hears as much, and keeps only how far it has heard."""

    def __init__(self, facts: NodeFacts, nodes: Mapping[str, NodeView]) -> None:
        self.own_id = facts.node_id
        self.known = {facts.node_id: KnownNode(facts, 0)}
        self.nodes = nodes
        self.epoch, self.version = "", 0

    def apply(self, delta: Delta) -> bool:
        self.epoch, self.version = delta.epoch, delta.version
        return True


class _Borrowed(Candidates, kw_only=True):
    """Another node's, which has heard the news already."""

    lender: Candidates

    def changed(self, node_id: str, node: NodeView | None) -> None:
        """Known."""

    def narrow(self, wish: Wish, nodes: Mapping[str, NodeView], here: Here) -> dict[str, NodeView]:
        return self.lender.narrow(wish, nodes, here)


class _Load:
    """Each report has something new, as of a node at work: objects are made and freed all the time."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._made = 0

    def available(self) -> dict[str, int]:
        return {name: max(0, amount) for name, amount in self._node.state.resources.available.items()}

    def store_used_nbytes(self) -> int:
        self._made += 1
        return self._made * 1000

    def waiting_counts(self) -> list[tuple[dict[str, int], int]]:
        return []

    def waiting(self) -> tuple[Demand, ...]:
        return ()


class Node:
    """A node without workers: leases are granted as soon as they are placed."""

    def __init__(self, world: World, index: int, num_cpus: int, *, like: Node | None = None) -> None:
        self._world = world
        self.node_id = f"{index * 2654435761 % (1 << 32):08x}{index:020x}"
        self.address = f"/tmp/aioray-0/session-{index}/node.sock"
        total = {"CPU": num_cpus * UNIT, "memory": 16 * UNIT << 30, "object_store_memory": 4 * UNIT << 30}
        self.state = core.State(NodeResources(total), node_id=self.node_id)
        self.is_watched = like is None
        self.owners: dict[int, tuple[Caller, int]] = {}  # lease id -> whose it is, as what
        self._by_owner: dict[tuple[int, int], int] = {}
        self._next_lease_id = 0
        facts = NodeFacts(self.node_id, (self.address, f"10.0.{index >> 8}.{index & 255}:6380"), "boot", total)
        self._view: ClusterView | _Bystander
        if like is None:
            self._view = ClusterView(facts, self.state.own)
            self._view.subscribe_to_deltas(self._on_news)
            self.bystanders: list[Node] = []
        else:
            self._view = _Bystander(facts, _Shared(self.node_id, self.state.own, like._view.nodes))
            like.bystanders.append(self)
            self.state.candidates = _Borrowed(like.node_id, lender=like.state.candidates)
        self.state.nodes = self._view.nodes
        self._membership = Membership(world.reactor, cast("ClusterView", self._view), cast("NodeLoad", _Load(self)))
        self._connection = 0
        world.node_at[self.address] = self
        world.address_of[self.node_id] = self.address

    @property
    def knows(self) -> int:
        """How many nodes it knows of."""
        return len(self.state.nodes)

    def join(self) -> None:
        self._connection = self._world.gcs.connect(self)
        self._membership.connected(self._say)

    def keep_changing(self, every_s: float) -> None:
        """Have something new to report at any time from now on, though there are no calls."""
        self._membership.load_changed()
        self._world.timeline.after(every_s, self.keep_changing, every_s)

    def _say(self, frame: AnyNodeFrame) -> None:
        data = msgspec.msgpack.encode(frame)
        self._world.count("gcs in", len(data))
        self._world.timeline.in_order(self, self._world.gcs, GCS_DELAY_S, self._world.gcs.hear, self._connection, data)

    def hear(self, packet: Packet) -> None:
        """The GCS says something."""
        if self.is_watched:
            self._world.meter.run("view", self._hear, packet.data)
        else:
            self._membership.hear(packet.frame)

    def _hear(self, data: bytes) -> None:
        self._membership.hear(gcs_frame_decoder.decode(data))

    def _on_news(self, news: list[News]) -> None:
        event = core.ManyNews(tuple(core.NodeNews(each.node_id, joined=isinstance(each, Joined)) for each in news))
        self._carry_out(core.handle(self.state, event, self._world.timeline.now))
        for node in self.bystanders:
            if node.state.waiting or node.state.sent:
                self._world.timeline.after(0.0, node.feed, event, "news of others")

    # what callers say

    def heard(self, peer: Caller, data: bytes) -> None:
        self._world.meter.run("node", self._heard, peer, data)

    def _heard(self, peer: Caller, data: bytes) -> None:
        message = _from_caller.decode(data)
        owner = (id(peer), message.lease_id)
        if isinstance(message, LeaseRequest):
            self._next_lease_id += 1
            lease_id = self._by_owner[owner] = self._next_lease_id
            self.owners[lease_id] = (peer, message.lease_id)
            event: core.Event = core.Request(
                lease_id, "caller", message.demand, message.name, message.strategy, message.hops
            )
        elif (found := self._by_owner.get(owner)) is not None:
            self._forget(found)
            event = core.Return(found)
        else:
            return
        self._carry_out(core.handle(self.state, event, self._world.timeline.now))

    def feed(self, event: core.Event, account: str = "node") -> None:
        self._world.meter.run(account, self._feed, event)

    def _feed(self, event: core.Event) -> None:
        self._carry_out(core.handle(self.state, event, self._world.timeline.now))

    def _carry_out(self, commands: list[core.Command]) -> None:
        timeline = self._world.timeline
        for command in commands:
            match command:
                case core.Place(lease_id):
                    peer, number = self.owners[lease_id]
                    grant = LeaseGrant(number, f"{lease_id:016x}", f"{self.address}.{lease_id}")
                    self._answer(peer, msgspec.msgpack.encode(grant), _WORKER_S)
                case core.Spill(lease_id, node_id, hops):
                    peer, number = self.owners[lease_id]
                    self._forget(lease_id)
                    address = self._world.address_of[node_id]
                    self._answer(peer, msgspec.msgpack.encode(Spill(number, node_id, address, hops)))
                case core.WakeAt(when):
                    timeline.after(max(0.0, when - timeline.now), self.feed, core.Tick())
                case _:
                    raise AssertionError(f"nothing here should have come to that: {command}")
        self._membership.load_changed()

    def _answer(self, peer: Caller, data: bytes, delay_s: float = 0.0) -> None:
        self._world.count("leases", len(data))
        delay_s += LOCAL_DELAY_S if peer.home is self else REMOTE_DELAY_S
        self._world.timeline.in_order(self, peer, delay_s, peer.hear, self, data)

    def _forget(self, lease_id: int) -> None:
        peer, number = self.owners.pop(lease_id)
        del self._by_owner[id(peer), number]
