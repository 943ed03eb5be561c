"""One attempt at having all bundles of a group, and what goes with a node that dies. Pure.

A group has all its bundles or none, in two phases: each node is asked to hold a bundle (Prepare), and when all of them
do, they are booked (Commit); when one does not, all are let go (Return) and it is tried again later. A node answers at
once, so groups that get in one another's way hold nothing while they wait, and cannot block one another.

A node that dies takes its bundles along: those are placed again, the others stay where they are.
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

from aioray_node.gcs.placement.events import Commit, Prepare, Return, Tell
from aioray_node.gcs.placement.state import leave_pending, move
from aioray_node.scheduling.bundle_policy import OnWay

if TYPE_CHECKING:
    from aioray_node.gcs.placement.events import Answered, Command
    from aioray_node.gcs.placement.state import Group, State

_FIRST_PAUSE_S = 0.01  # after a node refused: its view was late; doubles each time

_LONGEST_PAUSE_S = 1.0

_MOST_DOUBLINGS = 5  # of the time for which a group is patient


def prepare(state: State, group: Group, where: dict[int, str], now: float, *, patient: bool = False) -> list[Command]:
    group.attempt += 1
    group.where.update(where)
    group.asked = set(where)
    spec = group.spec
    state.flying.add(spec.group_id)
    if patient:
        turn_s = state.patience_s * 2.0 ** min(group.patient_turns, _MOST_DOUBLINGS)
        state.patient, group.patient_until = spec.group_id, now + turn_s
    else:
        for index, node_id in where.items():
            state.on_way.setdefault(node_id, OnWay()).add(spec.bundles[index])
    return [
        Prepare(node_id, spec.group_id, group.attempt, index, spec.bundles[index], patient)
        for index, node_id in sorted(where.items())
    ]


def arrived(state: State, group: Group, index: int) -> None:
    """It is not asked for any more."""
    group.asked.discard(index)
    node_id = group.where[index]
    if group.spec.group_id != state.patient:  # that one waits its turn: what is free is not its own
        on_way = state.on_way[node_id]
        on_way.remove(group.spec.bundles[index])
        if not on_way.amounts:
            del state.on_way[node_id]


def _took(state: State, group: Group, index: int, now: float) -> None:
    """A node holds a bundle."""
    if group.where[index] != state.own_id:
        state.echoes.took(state.nodes, group.where[index], group.spec.bundles[index], now)


def gave(state: State, group: Group, index: int, now: float) -> None:
    """It is told to let go of one. Should it still have it when it is asked for another one, it refuses."""
    if group.where[index] != state.own_id:
        state.echoes.gave(state.nodes, group.where[index], group.spec.bundles[index], now)


def let_go(state: State, group: Group, now: float) -> list[Command]:
    """End an attempt: what is held, and what is asked for."""
    spec = group.spec
    in_flight = sorted(group.asked | group.held)
    commands: list[Command] = [Return(group.where[i], spec.group_id, group.attempt, i) for i in in_flight]
    for index in sorted(group.asked):
        arrived(state, group, index)
    for index in group.held:
        gave(state, group, index, now)
    for index in in_flight:
        del group.where[index]
    group.held.clear()
    group.patient_until = None
    state.flying.discard(spec.group_id)
    if state.patient == spec.group_id:
        state.patient = b""
    return commands


def answered(state: State, event: Answered, now: float) -> list[Command]:
    node_id, group_id, index = event.node_id, event.group_id, event.index
    group = state.groups.get(group_id)
    is_asked = group is not None and group.attempt == event.attempt and index in group.asked
    if group is None or not is_asked or group.where[index] != node_id:
        # It was let go of meanwhile. The node has heard that, but before it was asked again, if a line broke.
        stale = event.held and node_id in state.nodes
        return [Return(node_id, group_id, event.attempt, index)] if stale else []
    arrived(state, group, index)
    if not event.held:
        del group.where[index]
        group.refusals += 1
        group.not_before = now + pause_s(group.refusals)
        return let_go(state, group, now)
    group.held.add(index)
    _took(state, group, index, now)
    return [] if group.asked else _book(state, group, now)


def pause_s(refusals: int) -> float:
    """How long to wait after so many refusals in a row."""
    return min(_FIRST_PAUSE_S * 2.0 ** min(refusals - 1, 32), _LONGEST_PAUSE_S)


def _book(state: State, group: Group, now: float) -> list[Command]:
    """All are held."""
    move(group, "all_booked")
    group_id = group.spec.group_id
    commands: list[Command] = [Commit(group.where[index], group_id, index) for index in sorted(group.held)]
    group.booked |= group.held
    group.held.clear()
    group.refusals, group.patient_turns, group.patient_until = 0, 0, None
    state.flying.discard(group_id)
    if state.patient == group_id:
        state.patient = b""
    if group.ready_after_s is None:
        group.ready_after_s = now - group.created_at
    leave_pending(state, group)
    return commands + _tell(state, group)


def _tell(state: State, group: Group) -> list[Command]:
    watchers = sorted(state.watchers.get(group.spec.group_id, ()))
    return [Tell(process, group.update(process)) for process in watchers]


def node_gone(state: State, node_id: str, now: float) -> list[Command]:
    commands: list[Command] = []
    state.echoes.reported(node_id)
    for group in state.groups.values():
        lost = {index for index, where in group.where.items() if where == node_id}
        if not lost:
            continue
        for index in sorted(group.asked & lost):
            arrived(state, group, index)
        for bundles in (group.held, group.booked):
            bundles -= lost
        for index in lost:
            del group.where[index]
        was_created = group.state == "created"
        move(group, "node_died")
        commands += let_go(state, group, now)
        if was_created:
            bisect.insort(state.pending, (group.number, group.spec.group_id))
            commands += _tell(state, group)
    return commands
