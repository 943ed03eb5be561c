"""Where the bundles of placement groups are, for leases that are to be in one that another node has. Pure.

The head tells a node that asks. What is free in such bundles is not reported, only what they have: so all of it is
believed to be free but what was sent there lately. Who finds a bundle full waits there, or is sent to another one, to
each in turn: two nodes that are full would else send it to each other for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioray_node.scheduling.bundles import capacity
from aioray_node.scheduling.policy import NodeView
from aioray_node.scheduling.resources import NodeResources, Resources

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from aioray.wire.strategies import Strategy

Places = dict[str, NodeResources]  # of one group: node -> what its bundles have, by the names of such resources


def learn(group_id: bytes, where: Mapping[int, str], bundles: Sequence[Mapping[str, int]], own_id: str) -> Places:
    """What other nodes have of a group."""
    totals: dict[str, Resources] = {}
    for index, node_id in where.items():
        if node_id != own_id:
            total = totals.setdefault(node_id, {})
            for name, amount in capacity(bundles[index], group_id, index).items():
                total[name] = total.get(name, 0) + amount
    return {node_id: NodeResources(total) for node_id, total in totals.items()}


def views(
    nodes: Mapping[str, NodeView], own_id: str, places: Places | None, names: Iterable[str]
) -> dict[str, NodeView]:
    """Those of the nodes that have bundles of a group, as if they had nothing else; this one in any case."""
    own = nodes[own_id]
    part = NodeResources({name: own.resources.total.get(name, 0) for name in names})
    part.available = {name: own.resources.available.get(name, 0) for name in part.total}
    found = {own_id: NodeView(part, own.labels)}
    for node_id, resources in (places or {}).items():
        if node_id in nodes:
            found[node_id] = NodeView(resources, nodes[node_id].labels)
    return found


def after(
    last: str, nodes: Mapping[str, NodeView], own_id: str, strategy: Strategy | None, *, has_waited: bool
) -> Mapping[str, NodeView]:
    """Those whose turn it is when `last` had its turn, by id.

    All of them for who comes and likes some better than others; not if it `has_waited` here: those were full, too.
    """
    if strategy is None or (not has_waited and (strategy.preferred or strategy.selectors)):
        return nodes
    return {node_id: node for node_id, node in nodes.items() if node_id > last or node_id == own_id}
