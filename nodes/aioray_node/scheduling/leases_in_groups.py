"""Leases in placement groups: what begins when a bundle is there, and ends when its group is dropped. Pure.

A bundle of a placement group is booked by a lease of its own, which waits in the queue as others do. When the group is
there, that lease is committed: what it holds becomes resources of the group (`bundles.py`), for leases that ask for it.
Those wait without a word until then; when the group is dropped, all of them are over. Who could be in a bundle that
another node has is sent there as soon as it is known where that is (`Locate`, `GroupPlaced`; see `group_places.py`).
Only what comes from a node that has a bundle itself has made a hop then, and there are as many as there are others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioray_node.scheduling import group_places, policy
from aioray_node.scheduling.bundles import capacity
from aioray_node.scheduling.devices import Devices
from aioray_node.scheduling.events import Evicted, Unschedulable
from aioray_node.scheduling.spilling import look_elsewhere, send_on
from aioray_node.scheduling.state import enter_queue, forget, key_of

if TYPE_CHECKING:
    from aioray_node.scheduling.events import Command, CommitBundle, GroupPlaced
    from aioray_node.scheduling.state import State


def commit(state: State, event: CommitBundle, now: float) -> list[Command]:
    lease = state.granted.get(event.lease_id)
    held = state.bundles.setdefault(event.group_id, {})
    if lease is None or event.index in held:
        if not held:
            del state.bundles[event.group_id]
        return []  # late, or told twice
    held[event.index] = event.lease_id
    state.resources.grow(capacity(lease.demand, event.group_id, event.index))
    pools = state.pools.setdefault(event.group_id, {})
    pools[event.index] = Devices.of(lease.gpus, state.devices.count)
    for lease_id in state.in_group.get(event.group_id, ()):
        request = state.infeasible.get(lease_id)
        if request is not None and not isinstance(state.choose(request), policy.Infeasible):
            del state.infeasible[lease_id]
            enter_queue(state, request, now)
    return []


def group_placed(state: State, event: GroupPlaced, now: float) -> list[Command]:
    """Send on what is to be in a bundle that another node has."""
    commands: list[Command] = []
    group_id = event.group_id
    state.places[group_id] = group_places.learn(group_id, event.where, event.bundles, state.node_id)
    state.sent_to.pop(group_id, None)
    for lease_id in list(state.in_group.get(group_id, ())):
        request = state.infeasible.get(lease_id)
        decision = None if request is None else state.choose(request)
        if request is not None and isinstance(decision, (policy.Chosen, policy.Wait)):
            forget(state, lease_id)
            commands.append(send_on(state, request, key_of(request), decision, now))
    return commands + (look_elsewhere(state, now, group_id=group_id) if group_id in state.in_group else [])


def drop(state: State, group_id: bytes) -> list[Command]:
    commands: list[Command] = []
    state.places.pop(group_id, None)
    state.sent_to.pop(group_id, None)
    for lease_id in list(state.in_group.get(group_id, ())):
        if lease_id in state.granted:
            commands.append(Evicted(lease_id))
        else:
            reason = "was to run in a placement group, which was removed"
            commands.append(Unschedulable(lease_id, reason, group_removed=True))
        forget(state, lease_id)
    for index, lease_id in state.bundles.pop(group_id, {}).items():
        state.resources.drop(capacity(state.granted[lease_id].demand, group_id, index))
        forget(state, lease_id)
    state.pools.pop(group_id, None)
    return commands
