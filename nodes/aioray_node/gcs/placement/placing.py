"""Which groups are tried, in which order, and which is patient. Pure.

They are tried in the order in which they came; one that fits passes others that do not. So that a large one is not
passed for ever, the oldest that could fit, were enough free, is *patient*: its bundles wait in the queues of their
nodes, in turn with all else there. Only one group is, at a time and for `patience_s` (twice as long each time): what
it holds meanwhile is idle, and what it waits for may be held by an actor for ever.

What is known of other nodes is late (`echoes.py`). A group that was refused again and again, although there seemed to
be room, is patient as if there were none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioray_node.gcs.placement.attempts import let_go, prepare
from aioray_node.gcs.placement.events import WakeAt, Warn
from aioray_node.gcs.placement.explaining import never, title
from aioray_node.gcs.placement.state import MANY_REFUSALS
from aioray_node.scheduling.bundle_policy import Rooms, place

if TYPE_CHECKING:
    from aioray_node.gcs.placement.events import Command
    from aioray_node.gcs.placement.state import Group, ShapeKey, State


def plan(state: State, now: float, some: list[Group] | None = None) -> list[Command]:
    """Place what fits, oldest first; have the oldest that does not wait for it. `some`: all others were tried."""
    commands: list[Command] = []
    state.echoes.forget(state.nodes, now)
    lacking = [state.groups[group_id] for _, group_id in state.pending] if some is None else some
    movable = [group for group in lacking if not group.in_flight or group.spec.group_id == state.patient]
    if movable:
        rooms = Rooms(state.nodes, on_way=state.on_way)
        hopeless: set[ShapeKey] = set()
        waiting = []
        for group in movable:
            if group.not_before > now:
                continue
            shape = group.shape()
            where = None if shape in hopeless else place(group.ask(), rooms)
            if where is None:
                hopeless.add(shape)
                if not group.in_flight:
                    waiting.append(group)
            elif not waiting and _is_due_to_wait(state, group, now):
                waiting.append(group)
            elif group.waits_elsewhere(where):
                commands += let_go(state, group, now) + prepare(state, group, where, now)
        commands += _be_patient(state, waiting, now)
    return commands + wake(state, now, lacking, whole=some is None)


def _is_due_to_wait(state: State, group: Group, now: float) -> bool:
    """Whether it may be patient though there seems to be room."""
    was_refused = group.refusals >= MANY_REFUSALS and not group.in_flight
    return was_refused and not state.patient and group.not_patient_before <= now


def _be_patient(state: State, waiting: list[Group], now: float) -> list[Command]:
    """Have the oldest of those that do not fit now wait at nodes where it could, if nobody else does."""
    commands: list[Command] = []
    hopeless: set[ShapeKey] = set()
    for group in waiting:
        if state.patient:
            break
        if group.not_patient_before > now:
            continue
        shape = group.shape()
        where = None
        if shape not in hopeless:
            # Where groups leave room, else where it could ever be: they may go.
            where = place(group.ask(), _beside_groups(state)) or place(group.ask(), Rooms(state.nodes, whole=True))
        if where is not None:
            commands += prepare(state, group, where, now, patient=True)
        else:
            hopeless.add(shape)
            if not group.warned:
                group.warned = True
                commands.append(Warn(group.spec.group_id, f"{title(group)} {never(state, group)}"))
    return commands


def _beside_groups(state: State) -> Rooms:
    """What nodes would have if all were free that is not in a group."""
    rooms = Rooms(state.nodes, whole=True)
    for group in state.groups.values():
        for index in group.booked:
            rooms.take(group.where[index], group.spec.bundles[index])
    return rooms


def wake(state: State, now: float, groups: list[Group], *, whole: bool) -> list[Command]:
    """For the end of patience, of pauses, and of what is believed of nodes. `whole`: these are all that wait."""
    someone_waits = len(state.pending) > len(state.flying)
    times = state.echoes.times() if someone_waits else []
    for group in groups:
        if group.patient_until is not None:
            times.append(group.patient_until)
        elif not group.in_flight:
            times += [when for when in (group.not_before, group.not_patient_before) if when > now]
    if not whole and state.wake_at is not None:
        times.append(state.wake_at)
    when = min(times, default=None)
    if when is None or when == state.wake_at:
        return []
    state.wake_at = when
    return [WakeAt(when)]


def impatient(state: State, now: float) -> list[Command]:
    """What the patient group holds has been idle for long enough: others have a turn. Its own next one is longer."""
    group = state.groups.get(state.patient)
    if group is None or group.patient_until is None or now < group.patient_until:
        return []
    group.not_patient_before = now + state.patience_s
    group.patient_turns += 1
    group.refusals = 0
    return let_go(state, group, now)
