"""Placement groups: which there are, and how their bundles come to nodes. Pure.

A group has all its bundles or none, in two phases: each node is asked to hold a bundle (Prepare), and when all of them
do, they are booked (Commit); when one does not, all are let go (Return) and it is tried again later. A node answers at
once, so groups that get in one another's way hold nothing while they wait, and cannot block one another.

They are tried in the order in which they came; one that fits passes others that do not. So that a large one is not
passed for ever, the oldest that could fit, were enough free, is *patient*: its bundles wait in the queues of their
nodes, in turn with all else there. Only one group is, at a time and for `patience_s` (twice as long each time): what
it holds meanwhile is idle, and what it waits for may be held by an actor for ever.

A node that dies takes its bundles along: those are placed again, the others stay where they are.

What is known of other nodes is late (`echoes.py`). A group that was refused again and again, although there seemed to
be room, is patient as if there were none.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import msgspec

from aioray.wire.control import GroupSpec, GroupUpdate
from aioray.wire.values import owner_of
from aioray_node.gcs.echoes import Echoes
from aioray_node.scheduling.bundle_policy import Ask, OnWay, Rooms, missing, place
from aioray_node.scheduling.resources import Resources

if TYPE_CHECKING:
    from aioray_node.scheduling.policy import NodeView

GroupState = Literal["pending", "created", "rescheduling", "removed"]

_FIRST_PAUSE_S = 0.01  # after a node refused: its view was late; doubles each time
_LONGEST_PAUSE_S = 1.0
_MOST_DOUBLINGS = 5  # of the time for which a group is patient
_MANY_REFUSALS = 4  # in a row: views have had the time to catch up

# Each edge says why it exists. A missing one raises IllegalMove: our bug, never the user's.
MOVES: dict[tuple[GroupState, str], GroupState] = {
    ("pending", "all_booked"): "created",
    ("rescheduling", "all_booked"): "created",
    ("created", "node_died"): "rescheduling",
    ("pending", "node_died"): "pending",  # it held a bundle there: all of them are tried again
    ("rescheduling", "node_died"): "rescheduling",
    ("pending", "removed"): "removed",
    ("created", "removed"): "removed",
    ("rescheduling", "removed"): "removed",
}


class IllegalMove(AssertionError):
    """A group was told to do what it cannot do in its state."""


class Created(msgspec.Struct, frozen=True):
    spec: GroupSpec


class Removed(msgspec.Struct, frozen=True):
    """Nobody needs it any more. Repeated news do nothing. May overtake the word of its creation."""

    group_id: bytes


class OwnerGone(msgspec.Struct, frozen=True):
    """A driver, or a detached actor, is gone: with it go its groups, but detached ones."""

    owner: bytes


class ProcessGone(msgspec.Struct, frozen=True):
    """A process will make no groups any more, and hear nothing."""

    process: bytes


class Watched(msgspec.Struct, frozen=True):
    """A process wants to hear what becomes of a group, perhaps before that exists."""

    process: bytes
    group_id: bytes


class Answered(msgspec.Struct, frozen=True):
    """A node holds a bundle, or cannot. May come twice, or when the bundle is not asked for any more."""

    node_id: str
    group_id: bytes
    attempt: int
    index: int
    held: bool


class NodesChanged(msgspec.Struct, frozen=True):
    """Some node joined, or has more to spare."""


class Reported(msgspec.Struct, frozen=True):
    """What is known of a node is as it has said just now. Nothing is tried for that: see NodesChanged."""

    node_id: str


class NodeGone(msgspec.Struct, frozen=True):
    """It is dead, and not in the view any more."""

    node_id: str


class Tick(msgspec.Struct, frozen=True):
    """The time of the last WakeAt has come."""


class Prepare(msgspec.Struct, frozen=True):
    """Have the node hold a bundle, and feed Answered. Unless `patient`, it answers at once."""

    node_id: str
    group_id: bytes
    attempt: int
    index: int
    demand: Resources
    patient: bool = False


class Commit(msgspec.Struct, frozen=True):
    """What the node holds is a bundle from here on."""

    node_id: str
    group_id: bytes
    index: int


class Return(msgspec.Struct, frozen=True):
    """The node is to let go of a bundle that is not booked, held or still asked for in that attempt."""

    node_id: str
    group_id: bytes
    attempt: int
    index: int


class Drop(msgspec.Struct, frozen=True):
    """These nodes are to end what runs in the group, or waits for it, and let go of its bundles."""

    group_id: bytes
    node_ids: tuple[str, ...]


class Tell(msgspec.Struct, frozen=True):
    process: bytes
    update: GroupUpdate


class Warn(msgspec.Struct, frozen=True):
    """Whoever made the group should know: the nodes that there are can never have it. Said once."""

    group_id: bytes
    text: str


class WakeAt(msgspec.Struct, frozen=True):
    """Feed Tick at time `when` (s). One timer is enough: a new WakeAt replaces the one before."""

    when: float


Event = Created | Removed | OwnerGone | ProcessGone | Watched | Answered | NodesChanged | Reported | NodeGone | Tick
Command = Prepare | Commit | Return | Drop | Tell | Warn | WakeAt

ShapeKey = tuple[object, ...]


@dataclass(slots=True)
class Group:
    spec: GroupSpec
    number: int  # order of arrival
    created_at: float  # (s)
    state: GroupState = "pending"
    where: dict[int, str] = field(default_factory=dict)  # bundle -> node: asked for, held or booked there
    asked: set[int] = field(default_factory=set)
    held: set[int] = field(default_factory=set)
    booked: set[int] = field(default_factory=set)
    attempt: int = 0  # answers to earlier ones mean nothing
    refusals: int = 0  # in a row
    not_before: float = 0.0  # (s) next attempt
    patient_until: float | None = None  # (s)
    patient_turns: int = 0  # so many in vain
    not_patient_before: float = 0.0  # (s) next turn, if it does not fit earlier
    ready_after_s: float | None = None  # how long it took, the first time
    reason: str = ""  # why it was removed
    warned: bool = False
    whole_shape: ShapeKey = ()

    @property
    def in_flight(self) -> bool:
        return bool(self.asked or self.held)

    def waits_elsewhere(self, where: dict[int, str]) -> bool:
        """Whether it does not get this by waiting: a node gives what comes free to whoever waits there.

        What only seems to be free is no reason to give up its turn.
        """
        if not self.in_flight:
            return True
        return self.refusals < _MANY_REFUSALS and any(where[index] != self.where[index] for index in self.asked)

    def lacking(self) -> list[int]:
        return [index for index in range(len(self.spec.bundles)) if index not in self.booked]

    def ask(self) -> Ask:
        """For those of its bundles that have no place."""
        spec, near = self.spec, dict[str, int]()
        for index in self.booked:
            near[self.where[index]] = near.get(self.where[index], 0) + 1
        lacking = self.lacking()
        selectors = {index: spec.selectors[index] for index in lacking} if spec.selectors else {}
        return Ask({i: spec.bundles[i] for i in lacking}, spec.strategy, selectors, near, spec.target_node)

    def shape(self) -> ShapeKey:
        """The same for groups of which either all could be placed now, or none."""
        if self.booked:
            return (self.number,)
        if not self.whole_shape:
            spec = self.spec
            bundles = tuple(frozenset(bundle.items()) for bundle in spec.bundles)
            self.whole_shape = spec.strategy, bundles, tuple(spec.selectors)
        return self.whole_shape

    def update(self, reader: bytes, reason: str = "") -> GroupUpdate:
        """Where it stands; nodes hear where its bundles are, too: they send leases there."""
        spec = self.spec
        update = GroupUpdate(spec.group_id, self.state, reason or self.reason)
        if is_node(reader) and self.booked:
            where = {index: self.where[index] for index in sorted(self.booked)}
            return msgspec.structs.replace(update, where=where, bundles=spec.bundles)
        return update


@dataclass(slots=True)
class State:
    nodes: dict[str, NodeView]  # whoever has the view changes it, and feeds Reported, NodesChanged or NodeGone
    own_id: str = ""  # the node of which the view is never late
    patience_s: float = 10.0
    max_removed: int = 1000  # remembered, for the table
    groups: dict[bytes, Group] = field(default_factory=dict)
    names: dict[tuple[str, str], bytes] = field(default_factory=dict)  # (namespace, name) -> group
    pending: list[tuple[int, bytes]] = field(default_factory=list)  # oldest first: those that lack a bundle
    flying: set[bytes] = field(default_factory=set)  # groups that are in flight
    patient: bytes = b""  # the group that is
    on_way: dict[str, OnWay] = field(default_factory=dict)  # node -> what was asked for there, but by that group
    echoes: Echoes = field(default_factory=Echoes)  # what other nodes have not reported yet
    watchers: dict[bytes, set[bytes]] = field(default_factory=dict)  # group -> processes
    removed: OrderedDict[bytes, Group] = field(default_factory=OrderedDict)  # the last ones
    newest: dict[bytes, int] = field(default_factory=dict)  # process -> the number of its last group
    doomed: set[bytes] = field(default_factory=set)  # groups that were removed before they were created
    gone: set[bytes] = field(default_factory=set)  # processes that will create nothing any more
    next_number: int = 0
    wake_at: float | None = None  # what the shell was last told


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
            commands = _answered(state, event, now)
            if event.held and state.patient == was_patient:
                return commands + _wake(state, now, [], whole=False)  # nobody has more room than before
        case Reported(node_id):
            state.echoes.reported(node_id)
            return []
        case NodesChanged():
            commands = []
        case NodeGone(node_id):
            commands = _node_gone(state, node_id, now)
        case Tick():
            state.wake_at = None
            commands = _impatient(state, now)
    return commands + plan(state, now)


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
                commands += _let_go(state, group, now) + _prepare(state, group, where, now)
        commands += _be_patient(state, waiting, now)
    return commands + _wake(state, now, lacking, whole=some is None)


def _is_due_to_wait(state: State, group: Group, now: float) -> bool:
    """Whether it may be patient though there seems to be room."""
    was_refused = group.refusals >= _MANY_REFUSALS and not group.in_flight
    return was_refused and not state.patient and group.not_patient_before <= now


def _prepare(state: State, group: Group, where: dict[int, str], now: float, *, patient: bool = False) -> list[Command]:
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


def _arrived(state: State, group: Group, index: int) -> None:
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


def _gave(state: State, group: Group, index: int, now: float) -> None:
    """It is told to let go of one. Should it still have it when it is asked for another one, it refuses."""
    if group.where[index] != state.own_id:
        state.echoes.gave(state.nodes, group.where[index], group.spec.bundles[index], now)


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
            commands += _prepare(state, group, where, now, patient=True)
        else:
            hopeless.add(shape)
            if not group.warned:
                group.warned = True
                commands.append(Warn(group.spec.group_id, f"{_title(group)} {_never(state, group)}"))
    return commands


def _beside_groups(state: State) -> Rooms:
    """What nodes would have if all were free that is not in a group."""
    rooms = Rooms(state.nodes, whole=True)
    for group in state.groups.values():
        for index in group.booked:
            rooms.take(group.where[index], group.spec.bundles[index])
    return rooms


def _wake(state: State, now: float, groups: list[Group], *, whole: bool) -> list[Command]:
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


def _create(state: State, spec: GroupSpec, now: float) -> list[Command]:
    group_id = spec.group_id
    if group_id in state.groups or _is_over(state, group_id):
        return []  # sent twice
    state.newest[owner_of(group_id)] = _number_in(group_id)
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
        if not _is_over(state, group_id):
            state.doomed.add(group_id)
        return []
    nodes = tuple(sorted(set(group.where.values())))
    commands = _let_go(state, group, now)
    for index in group.booked:
        _gave(state, group, index, now)
    if group.spec.name:
        del state.names[group.spec.namespace, group.spec.name]
    _leave_pending(state, group)
    return [*commands, Drop(group_id, nodes), *_bury(state, group, reason)]


def _bury(state: State, group: Group, reason: str) -> list[Command]:
    """It is over, and is remembered for a while."""
    _move(group, "removed")
    group.reason = reason
    group.where.clear()
    group.booked.clear()
    group_id = group.spec.group_id
    state.removed[group_id] = group
    while len(state.removed) > state.max_removed:
        state.removed.popitem(last=False)
    watchers = state.watchers.pop(group_id, ())
    return [Tell(process, group.update(process)) for process in sorted(watchers)]


def _let_go(state: State, group: Group, now: float) -> list[Command]:
    """End an attempt: what is held, and what is asked for."""
    spec = group.spec
    in_flight = sorted(group.asked | group.held)
    commands: list[Command] = [Return(group.where[i], spec.group_id, group.attempt, i) for i in in_flight]
    for index in sorted(group.asked):
        _arrived(state, group, index)
    for index in group.held:
        _gave(state, group, index, now)
    for index in in_flight:
        del group.where[index]
    group.held.clear()
    group.patient_until = None
    state.flying.discard(spec.group_id)
    if state.patient == spec.group_id:
        state.patient = b""
    return commands


def _leave_pending(state: State, group: Group) -> None:
    entry = (group.number, group.spec.group_id)
    at = bisect.bisect_left(state.pending, entry)
    if state.pending[at : at + 1] == [entry]:
        del state.pending[at]


def _move(group: Group, why: str) -> None:
    try:
        group.state = MOVES[group.state, why]
    except KeyError:
        raise IllegalMove(f"placement group {group.spec.group_id.hex()} is {group.state}: {why}") from None


def _answered(state: State, event: Answered, now: float) -> list[Command]:
    node_id, group_id, index = event.node_id, event.group_id, event.index
    group = state.groups.get(group_id)
    is_asked = group is not None and group.attempt == event.attempt and index in group.asked
    if group is None or not is_asked or group.where[index] != node_id:
        # It was let go of meanwhile. The node has heard that, but before it was asked again, if a line broke.
        stale = event.held and node_id in state.nodes
        return [Return(node_id, group_id, event.attempt, index)] if stale else []
    _arrived(state, group, index)
    if not event.held:
        del group.where[index]
        group.refusals += 1
        group.not_before = now + pause_s(group.refusals)
        return _let_go(state, group, now)
    group.held.add(index)
    _took(state, group, index, now)
    return [] if group.asked else _book(state, group, now)


def pause_s(refusals: int) -> float:
    """How long to wait after so many refusals in a row."""
    return min(_FIRST_PAUSE_S * 2.0 ** min(refusals - 1, 32), _LONGEST_PAUSE_S)


def _book(state: State, group: Group, now: float) -> list[Command]:
    """All are held."""
    _move(group, "all_booked")
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
    _leave_pending(state, group)
    return commands + _tell(state, group)


def _tell(state: State, group: Group) -> list[Command]:
    watchers = sorted(state.watchers.get(group.spec.group_id, ()))
    return [Tell(process, group.update(process)) for process in watchers]


def _node_gone(state: State, node_id: str, now: float) -> list[Command]:
    commands: list[Command] = []
    state.echoes.reported(node_id)
    for group in state.groups.values():
        lost = {index for index, where in group.where.items() if where == node_id}
        if not lost:
            continue
        for index in sorted(group.asked & lost):
            _arrived(state, group, index)
        for bundles in (group.held, group.booked):
            bundles -= lost
        for index in lost:
            del group.where[index]
        was_created = group.state == "created"
        _move(group, "node_died")
        commands += _let_go(state, group, now)
        if was_created:
            bisect.insort(state.pending, (group.number, group.spec.group_id))
            commands += _tell(state, group)
    return commands


def _impatient(state: State, now: float) -> list[Command]:
    """What the patient group holds has been idle for long enough: others have a turn. Its own next one is longer."""
    group = state.groups.get(state.patient)
    if group is None or group.patient_until is None or now < group.patient_until:
        return []
    group.not_patient_before = now + state.patience_s
    group.patient_turns += 1
    group.refusals = 0
    return _let_go(state, group, now)


def _watch(state: State, process: bytes, group_id: bytes) -> list[Command]:
    if _is_over(state, group_id):
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


def is_node(process: bytes) -> bool:
    """Whether that is no process, but a node, which hears for its processes and for itself."""
    return process.endswith(bytes(4))


def _is_over(state: State, group_id: bytes) -> bool:
    """Whether there was such a group, or will never be: a process makes them in the order of their numbers."""
    if group_id in state.groups:
        return False
    maker = owner_of(group_id)
    return group_id in state.removed or maker in state.gone or _number_in(group_id) <= state.newest.get(maker, 0)


def _number_in(group_id: bytes) -> int:
    return int.from_bytes(group_id[len(owner_of(group_id)) :], "big")


def why_over(state: State, group_id: bytes) -> str:
    """Why there is no such group any more, or never will be; "" when there is one, or may come."""
    if not _is_over(state, group_id):
        return ""
    buried = state.removed.get(group_id)
    return buried.reason if buried is not None else "it was removed"


def explain(state: State, group_id: bytes) -> str:
    """Where a group stands, in a sentence: what is missing, if something is."""
    group = state.groups.get(group_id)
    if group is None:
        return why_over(state, group_id) or "word of it is on the way"
    if group.state == "created":
        return f"{_title(group)} is ready"
    if group.in_flight and group_id != state.patient:
        return f"{_title(group)} is about to be ready: nodes are asked whether they have room"
    if place(group.ask(), Rooms(state.nodes, whole=True)) is None:
        return f"{_title(group)} {_never(state, group)}"
    why = missing(group.ask(), state.nodes, whole=False)
    ahead = bisect.bisect_left(state.pending, (group.number, group_id))
    return f"{_title(group)} waits: {why}; {ahead} placement groups ahead of it"


def _title(group: Group) -> str:
    name = f" {group.spec.name!r}" if group.spec.name else ""
    lost = " for bundles that were lost with their node" if group.state == "rescheduling" else ""
    return f"placement group{name} {group.spec.group_id.hex()} ({group.spec.strategy}){lost}"


def _never(state: State, group: Group) -> str:
    return f"fits on no nodes that there are: {missing(group.ask(), state.nodes, whole=True)}"


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
        assert not _is_over(state, group_id), f"{group_id.hex()} is watched in vain: {state}"
    assert not state.groups.keys() & state.removed.keys(), state
    assert not any(_is_over(state, group_id) or group_id in state.groups for group_id in state.doomed), state
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
