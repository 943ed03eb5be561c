"""What holds of placement groups between any two events. For tests and debugging. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioray_node.gcs.placement.state import is_over
from aioray_node.scheduling.bundle_policy import OnWay

if TYPE_CHECKING:
    from aioray_node.gcs.placement.state import Group, State
    from aioray_node.scheduling.policy import NodeView


def check(state: State) -> None:
    """Assert what holds between any two events."""
    assert state.pending == sorted(state.pending), state
    lacking = {group_id for group_id, group in state.groups.items() if group.state != "created"}
    assert {group_id for _, group_id in state.pending} == lacking, f"somebody waits in vain: {state}"
    assert {group_id for group_id, group in state.groups.items() if group.in_flight} == state.flying, state
    patient = {group_id for group_id, group in state.groups.items() if group.patient_until is not None}
    assert patient == ({state.patient} if state.patient else set()), f"several are patient: {state}"
    for group in state.groups.values():
        _check_group(group, state.nodes)
    _check_on_way(state)
    for (namespace, name), group_id in state.names.items():
        spec = state.groups[group_id].spec
        assert (spec.namespace, spec.name) == (namespace, name), f"a name of a group that is gone: {state}"
    for group_id in state.watchers:
        assert state.watchers[group_id], f"{group_id.hex()} is watched by nobody: {state}"
        assert not is_over(state, group_id), f"{group_id.hex()} is watched in vain: {state}"
    assert not state.groups.keys() & state.removed.keys(), state
    assert not any(is_over(state, group_id) or group_id in state.groups for group_id in state.doomed), state
    for group_id in patient:
        until = state.groups[group_id].patient_until
        assert state.wake_at is not None, f"nobody will end its patience: {state}"
        assert until is not None, state
        assert state.wake_at <= until, f"nobody will end its patience in time: {state}"


def _check_group(group: Group, nodes: dict[str, NodeView]) -> None:
    parts = (group.asked, group.held, group.booked)
    assert group.where.keys() == set().union(*parts), f"a bundle has a node without a reason: {group}"
    assert sum(map(len, parts)) == len(group.where), f"a bundle is in two states: {group}"
    assert (group.state == "created") == (len(group.booked) == len(group.spec.bundles)), f"not all or nothing: {group}"
    assert group.state != "pending" or not group.booked, f"part of a new group is booked: {group}"
    assert not group.in_flight or group.asked, f"all is held, and not booked: {group}"
    assert all(where in nodes for where in group.where.values()), f"a bundle is on a node that is gone: {group}"
    if group.spec.strategy == "STRICT_SPREAD":
        assert len(set(group.where.values())) == len(group.where), f"two on one node: {group}"
    if group.spec.strategy == "STRICT_PACK":
        assert len(set(group.where.values())) <= 1, f"not on one node: {group}"


def _check_on_way(state: State) -> None:
    on_way: dict[str, OnWay] = {}
    for group_id, group in state.groups.items():
        for index in group.asked if group_id != state.patient else ():
            on_way.setdefault(group.where[index], OnWay()).add(group.spec.bundles[index])
    assert {node_id: each.amounts for node_id, each in on_way.items()} == {
        node_id: each.amounts for node_id, each in state.on_way.items()
    }, f"what is on its way was counted wrong: {state}"
