"""What a node knows of all nodes: fed by the GCS with deltas, read by whoever has to choose or to reach a node. Pure.

`nodes` is what `scheduling.policy.choose` takes. The node's own entry is the very state that its scheduler works on, so
it is never late; those of others are as old as the last report (`resource_report_interval_ms`, and the way here). Who
sends work to another node may take it off that entry: the next report replaces it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from aioray.wire.gcs import NodeFacts
from aioray.wire.reach import nearest, reachable
from aioray_node.scheduling.policy import NodeView
from aioray_node.scheduling.resources import NodeResources

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.wire.gcs import Delta, MemberChange


class Joined(msgspec.Struct, frozen=True):
    """A node is there that was not."""

    node_id: str


class Changed(msgspec.Struct, frozen=True):
    """Another node has more or less to spare than it had."""

    node_id: str


class Died(msgspec.Struct, frozen=True):
    """A node is gone for good: its id does not come back."""

    node_id: str
    reason: str


News = Joined | Changed | Died


class KnownNode(msgspec.Struct):
    """One node, alive or dead."""

    facts: NodeFacts
    version: int  # of the view, when it last changed
    end: str | None = None  # why it is dead; None while it is alive
    store_used_nbytes: int = 0

    @property
    def alive(self) -> bool:
        return self.end is None


class ClusterView:
    """The nodes of the cluster, as this node knows them. A node alone knows itself."""

    def __init__(self, own: NodeFacts, own_view: NodeView) -> None:
        self.own_id = own.node_id
        self.boot_id = own.boot_id
        self.nodes: dict[str, NodeView] = {own.node_id: own_view}  # those that live, by id
        self.known: dict[str, KnownNode] = {own.node_id: KnownNode(own, 0)}  # the dead as well, until forgotten
        self.epoch = ""  # of the GCS that feeds it; "" while there is none
        self.version = 0
        self._listeners: list[Callable[[News], None]] = []
        self._readers: list[Callable[[list[News]], None]] = []

    def subscribe(self, listener: Callable[[News], None]) -> None:
        """Have it called with all news from now on, when they are in the view, with the node's reactor locked."""
        self._listeners.append(listener)

    def subscribe_to_deltas(self, reader: Callable[[list[News]], None]) -> None:
        """The same, with all news of a delta at once, when the listeners have heard them one by one."""
        self._readers.append(reader)

    def address_of(self, node_id: str) -> str:
        """How to reach it, for whoever is on this machine or another one; see wire.reach.

        Raises LookupError that says why it cannot be reached.
        """
        facts = self._living(node_id)
        return self._address(facts, facts.addresses)

    def transfer_address_of(self, node_id: str) -> str:
        """Where this node pulls objects from that lie in its memory: a path, or host:port. Raises LookupError."""
        facts = self._living(node_id)
        return nearest(self._address(facts, facts.transfer_addresses), self.boot_id)

    def _living(self, node_id: str) -> NodeFacts:
        known = self.known.get(node_id)
        if known is None:
            raise LookupError(f"node {node_id} is not known here")
        if known.end is not None:
            raise LookupError(f"node {node_id} is dead: {known.end}")
        return known.facts

    def _address(self, facts: NodeFacts, addresses: tuple[str, ...]) -> str:
        path = next((each for each in addresses if _is_path(each)), "")
        tcp = next((each for each in addresses if not _is_path(each)), "")
        if not tcp and facts.boot_id != self.boot_id:
            raise LookupError(f"node {facts.node_id} is on another machine and listens only on Unix sockets")
        return reachable(path, tcp, facts.boot_id) if path else tcp

    def alive(self) -> list[NodeFacts]:
        """The facts of the nodes that live."""
        return [known.facts for known in self.known.values() if known.alive]

    def apply(self, delta: Delta) -> bool:
        """Take in what the GCS says; False when deltas in between are missing, and the whole view is needed.

        Deltas may come twice, or late: what is known already changes nothing.
        """
        whole = delta.since == 0
        if delta.epoch != self.epoch:
            if not whole:
                return False
        elif delta.since > self.version:
            return False
        elif delta.version <= self.version:
            return True
        news: list[News] = []
        fresh = delta.epoch != self.epoch
        if whole:
            news += self._keep_only({change.node_id for change in delta.changes})
        for change in delta.changes:
            known = self.known.get(change.node_id)
            if fresh or known is None or change.version > known.version:
                news += self._take(change, known)
        self.epoch, self.version = delta.epoch, delta.version
        for each in news:
            for listener in self._listeners:
                listener(each)
        if news:
            for reader in self._readers:
                reader(news)
        return True

    def _keep_only(self, node_ids: set[str]) -> list[News]:
        """Forget all others but this node."""
        news: list[News] = []
        for node_id in [*self.known.keys() - node_ids - {self.own_id}]:
            if self.known.pop(node_id).alive:
                del self.nodes[node_id]
                news.append(Died(node_id, "the GCS does not know it any more"))
        return news

    def _take(self, change: MemberChange, known: KnownNode | None) -> list[News]:
        node_id = change.node_id
        facts = change.facts or (known.facts if known else None)
        assert facts is not None, f"a delta tells of node {node_id}, of which nothing is known: {change}"
        was_alive = known is not None and known.alive
        used_nbytes = change.store_used_nbytes
        if used_nbytes is None:
            used_nbytes = known.store_used_nbytes if known else 0
        self.known[node_id] = KnownNode(facts, change.version, change.end, used_nbytes)
        if node_id == self.own_id:
            return []  # `nodes` has the truth, and that we are dead is for others to believe
        if change.end is not None:
            self.nodes.pop(node_id, None)
            return [Died(node_id, change.end)] if was_alive else []
        view = self.nodes.get(node_id)
        if view is None or view.resources.total != facts.total:
            view = self.nodes[node_id] = NodeView(NodeResources(facts.total), facts.labels)
        if change.available is not None:
            view.resources.available = {name: change.available.get(name, 0) for name in view.resources.total}
        return [Changed(node_id) if was_alive else Joined(node_id)]


def _is_path(address: str) -> bool:
    return address.startswith("/")
