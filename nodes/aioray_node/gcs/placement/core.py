"""Placement groups: which there are, who hears of them, and what is decided about each event. Pure.

- `attempts.py`: how the bundles of a group come to nodes: all of them, or none;
- `placing.py`: which groups are tried, in which order, and which waits for what it needs;
- `echoes.py`: what other nodes have not reported yet.

What is told and done is in `events.py`, what is known in `state.py`; both are to be had from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioray.wire.control import GroupUpdate
from aioray.wire.values import owner_of
from aioray_node.gcs.placement.attempts import answered, gave, let_go, node_gone
from aioray_node.gcs.placement.checks import check
from aioray_node.gcs.placement.events import (
    Answered,
    Command,
    Commit,
    Created,
    Drop,
    Event,
    NodeGone,
    NodesChanged,
    OwnerGone,
    Prepare,
    ProcessGone,
    Removed,
    Reported,
    Return,
    Tell,
    Tick,
    WakeAt,
    Warn,
    Watched,
)
from aioray_node.gcs.placement.explaining import explain, explain_pending, why_over
from aioray_node.gcs.placement.placing import impatient, plan, wake
from aioray_node.gcs.placement.state import Group, State, is_over, leave_pending, move, number_in

if TYPE_CHECKING:
    from aioray.wire.control import GroupSpec

__all__ = [
    "Answered",
    "Command",
    "Commit",
    "Created",
    "Drop",
    "Event",
    "NodeGone",
    "NodesChanged",
    "OwnerGone",
    "Prepare",
    "ProcessGone",
    "Removed",
    "Reported",
    "Return",
    "State",
    "Tell",
    "Tick",
    "WakeAt",
    "Warn",
    "Watched",
    "check",
    "explain",
    "explain_pending",
    "handle",
    "why_over",
]


def handle(state: State, event: Event, now: float) -> list[Command]:
    """Apply `event` at time `now` (s); return what the shell must do, in that order."""
    match event:
        case Created(spec):
            commands = _create(state, spec, now)
            group = state.groups.get(spec.group_id)
            # For others there is no more room than before.
            return commands if group is None or group.attempt else plan(state, now, [group])
        case Removed(group_id):
            commands = _remove(state, group_id, "it was removed", now)
        case OwnerGone(owner):
            commands = []
            for group in list(state.groups.values()):
                if group.spec.owner == owner and not group.spec.detached:
                    commands += _remove(state, group.spec.group_id, "who made it is gone", now)
        case ProcessGone(process):
            return _process_gone(state, process)
        case Watched(process, group_id):
            return _watch(state, process, group_id)
        case Answered():
            was_patient = state.patient
            commands = answered(state, event, now)
            if event.held and state.patient == was_patient:
                return commands + wake(state, now, [], whole=False)  # nobody has more room than before
        case Reported(node_id):
            state.echoes.reported(node_id)
            return []
        case NodesChanged():
            commands = []
        case NodeGone(node_id):
            commands = node_gone(state, node_id, now)
        case Tick():
            state.wake_at = None
            commands = impatient(state, now)
    return commands + plan(state, now)


def _create(state: State, spec: GroupSpec, now: float) -> list[Command]:
    group_id = spec.group_id
    if group_id in state.groups or is_over(state, group_id):
        return []  # sent twice
    state.newest[owner_of(group_id)] = number_in(group_id)
    group = Group(spec, state.next_number, now)
    state.next_number += 1
    if group_id in state.doomed:
        state.doomed.discard(group_id)
        return _bury(state, group, "it was removed")
    if spec.name and state.names.setdefault((spec.namespace, spec.name), group_id) != group_id:
        return _bury(state, group, f"the name {spec.name!r} is taken by another placement group")
    state.groups[group_id] = group
    state.pending.append((group.number, group_id))
    return []


def _remove(state: State, group_id: bytes, reason: str, now: float) -> list[Command]:
    group = state.groups.pop(group_id, None)
    if group is None:
        if not is_over(state, group_id):
            state.doomed.add(group_id)
        return []
    nodes = tuple(sorted(set(group.where.values())))
    commands = let_go(state, group, now)
    for index in group.booked:
        gave(state, group, index, now)
    if group.spec.name:
        del state.names[group.spec.namespace, group.spec.name]
    leave_pending(state, group)
    return [*commands, Drop(group_id, nodes), *_bury(state, group, reason)]


def _bury(state: State, group: Group, reason: str) -> list[Command]:
    """It is over, and is remembered for a while."""
    move(group, "removed")
    group.reason = reason
    group.where.clear()
    group.booked.clear()
    group_id = group.spec.group_id
    state.removed[group_id] = group
    while len(state.removed) > state.max_removed:
        state.removed.popitem(last=False)
    watchers = state.watchers.pop(group_id, ())
    return [Tell(process, group.update(process)) for process in sorted(watchers)]


def _watch(state: State, process: bytes, group_id: bytes) -> list[Command]:
    if is_over(state, group_id):
        buried = state.removed.get(group_id)
        reason = buried.reason if buried is not None else "it was removed"
        return [Tell(process, GroupUpdate(group_id, "removed", reason))]
    state.watchers.setdefault(group_id, set()).add(process)
    group = state.groups.get(group_id)
    if group is None:
        return []  # word of it is on the way
    return [Tell(process, group.update(process, "" if group.state == "created" else explain(state, group_id)))]


def _process_gone(state: State, process: bytes) -> list[Command]:
    state.gone.add(process)
    state.newest.pop(process, None)
    state.doomed = {group_id for group_id in state.doomed if owner_of(group_id) != process}
    commands: list[Command] = []
    for group_id, watchers in list(state.watchers.items()):
        watchers.discard(process)
        if owner_of(group_id) == process and group_id not in state.groups:
            update = GroupUpdate(group_id, "removed", "the process that was to create it is gone")
            commands += [Tell(watcher, update) for watcher in sorted(watchers)]
            watchers.clear()
        if not watchers:
            del state.watchers[group_id]
    return commands
