"""The nodes of a view as `aioray.nodes()`, `cluster_resources()` and `available_resources()` show them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioray_node.scheduling.bundles import is_of_a_group
from aioray_node.scheduling.resources import to_floats

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aioray_node.gcs.view import ClusterView, KnownNode


def nodes(view: ClusterView) -> list[dict[str, Any]]:
    """All that are known, the dead ones too: those that started first come first."""
    known = sorted(view.known.values(), key=lambda each: (each.facts.started_at, each.facts.node_id))
    return [_node(view, each) for each in known]


def _node(view: ClusterView, known: KnownNode) -> dict[str, Any]:
    facts = known.facts
    alive = known.alive or facts.node_id == view.own_id
    return {
        "NodeID": facts.node_id,
        "Alive": alive,
        "NodeManagerHostname": facts.hostname,
        "NodeManagerAddress": facts.ip_address,
        "Resources": to_floats(facts.total) if alive else {},
        "Labels": dict(facts.labels),
        "DeathReason": "" if alive else known.end,
        "IsHead": facts.is_head,
    }


def totals(view: ClusterView) -> dict[str, float]:
    """What all nodes that live have together, and the bundles of placement groups here."""
    bundles = {name: n for name, n in view.nodes[view.own_id].resources.total.items() if is_of_a_group(name)}
    return _sum([to_floats(bundles), *(to_floats(facts.total) for facts in view.alive())])


def available(view: ClusterView, own_used_nbytes: int) -> dict[str, float]:
    """What of that is free: here now, elsewhere when it was last reported."""
    parts = []
    for node_id, node in view.nodes.items():
        known = view.known[node_id]
        used_nbytes = own_used_nbytes if node_id == view.own_id else known.store_used_nbytes
        free = to_floats({name: max(0, amount) for name, amount in node.resources.available.items()})
        # What is reserved need not be used, and what is used need not have been reserved.
        free["object_store_memory"] = min(free["object_store_memory"], float(known.facts.store_nbytes - used_nbytes))
        parts.append(free)
    return _sum(parts)


def _sum(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    together: dict[str, float] = {}
    for part in parts:
        for name, amount in part.items():
            together[name] = together.get(name, 0.0) + amount
    return together
