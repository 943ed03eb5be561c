"""Where a placement group stands, in a sentence for people. Pure."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

from aioray_node.gcs.placement.state import is_over
from aioray_node.scheduling.bundle_policy import Rooms, missing, place

if TYPE_CHECKING:
    from aioray_node.gcs.placement.state import Group, State


def why_over(state: State, group_id: bytes) -> str:
    """Why there is no such group any more, or never will be; "" when there is one, or may come."""
    if not is_over(state, group_id):
        return ""
    buried = state.removed.get(group_id)
    return buried.reason if buried is not None else "it was removed"


def explain(state: State, group_id: bytes) -> str:
    """Where a group stands, in a sentence: what is missing, if something is."""
    group = state.groups.get(group_id)
    if group is None:
        return why_over(state, group_id) or "word of it is on the way"
    if group.state == "created":
        return f"{title(group)} is ready"
    if group.in_flight and group_id != state.patient:
        return f"{title(group)} is about to be ready: nodes are asked whether they have room"
    if place(group.ask(), Rooms(state.nodes, whole=True)) is None:
        return f"{title(group)} {never(state, group)}"
    why = missing(group.ask(), state.nodes, whole=False)
    ahead = bisect.bisect_left(state.pending, (group.number, group_id))
    return f"{title(group)} waits: {why}; {ahead} placement group{'s' * (ahead != 1)} ahead of it"


def explain_pending(state: State, limit: int) -> tuple[str, ...]:
    """The same of those that lack a bundle, oldest first; of those beyond `limit`, how many they are."""
    told = [explain(state, group_id) for _, group_id in state.pending[:limit]]
    if len(state.pending) > limit:
        told.append(f"{len(state.pending) - limit} more placement groups wait")
    return tuple(told)


def title(group: Group) -> str:
    name = f" {group.spec.name!r}" if group.spec.name else ""
    lost = " for bundles that were lost with their node" if group.state == "rescheduling" else ""
    return f"placement group{name} {group.spec.group_id.hex()} ({group.spec.strategy}){lost}"


def never(state: State, group: Group) -> str:
    return f"fits on no nodes that there are: {missing(group.ask(), state.nodes, whole=True)}"
