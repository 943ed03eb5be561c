"""Which nodes there are, what each has to spare, and what each must be told of the others: a core.

A node is a member from its first Join until it leaves or dies, and its id never comes back: what ran on it has been
started elsewhere by then. It dies when its connection is gone and no other comes within a moment, or when nothing was
heard of it for too long.

Every change has a version. Who subscribes is sent deltas: all that changed since the version that it has. Loads change
all the time, so they are gathered for an interval; who joins and who dies is told sooner. Both intervals grow with the
number of nodes, since each of n nodes is told of n others.
"""

from __future__ import annotations

import math

import msgspec
from msgspec import field

from aioray.record import Record
from aioray.wire.gcs import (
    NODES_AT_BASE,
    ClusterStatus,
    Delta,
    Demand,
    Join,
    MemberChange,
    MemberStatus,
    NodeFacts,
    Report,
)


class Joined(msgspec.Struct, frozen=True):
    """A connection says which node it is of."""

    connection: int
    join: Join


class Reported(msgspec.Struct, frozen=True):
    """Something was heard of a node."""

    connection: int
    report: Report


class Left(msgspec.Struct, frozen=True):
    """A node ends on purpose."""

    connection: int
    reason: str


class Disconnected(msgspec.Struct, frozen=True):
    """A connection is gone; its node may come back over another one, if it lives."""

    connection: int
    reason: str


class ResyncAsked(msgspec.Struct, frozen=True):
    """A node misses a delta."""

    connection: int


class Tick(msgspec.Struct, frozen=True):
    """Time has passed."""


class Admit(msgspec.Struct, frozen=True):
    """Tell it that it is a member."""

    connection: int


class Refuse(msgspec.Struct, frozen=True):
    """Tell it that it is none, and close the connection."""

    connection: int
    reason: str


class Drop(msgspec.Struct, frozen=True):
    """Close a connection: its node has another one, or is dead."""

    connection: int
    reason: str


class Push(msgspec.Struct, frozen=True):
    """Send all of these the same delta."""

    connections: tuple[int, ...]
    delta: Delta


class WakeAt(msgspec.Struct, frozen=True):
    """Feed Tick at loop time `when` (s). One timer is enough: a new WakeAt replaces the one before."""

    when: float


Event = Joined | Reported | Left | Disconnected | ResyncAsked | Tick
Command = Admit | Refuse | Drop | Push | WakeAt


class Member(Record):
    facts: NodeFacts
    available: dict[str, int]
    store_used_nbytes: int
    waiting: tuple[Demand, ...]
    seq: int  # of the newest report that was heard
    connection: int | None
    heard_at: float  # loop time (s)
    version: int = 0  # of the view, when it last changed
    facts_version: int = 0  # when its facts did
    load_version: int = 0  # when what it has to spare did
    lost_at: float = 0.0  # when its connection went, if it has none
    lost_why: str = ""
    end: str | None = None  # why it is dead; None while it is alive


class State(Record):
    epoch: str
    heartbeat_timeout_s: float = 10.0
    reconnect_grace_s: float = 0.1
    load_interval_s: float = 0.1
    change_interval_s: float = 0.01  # of joins and deaths
    max_dead: int = 1000  # that are remembered; twice as many, before the oldest are forgotten
    members: dict[str, Member] = field(default_factory=dict)
    version: int = 0
    floor: int = 0  # who has an older view than this must be sent all of it
    dead: int = 0  # how many of the members
    changed: dict[str, None] = field(default_factory=dict)  # ids of all members, in the order of their versions
    subscribers: dict[int, int] = field(default_factory=dict)  # connection -> the version that it was sent
    node_of: dict[int, str] = field(default_factory=dict)  # connection -> the node that joined over it
    pushed_at: float = -math.inf
    pushed_version: int = 0  # nobody lacks anything up to here
    death_at: float = math.inf  # nobody can be dead before that: most events need not look at all members
    is_urgent: bool = False  # somebody joined or died since the last push
    awake_at: float | None = None  # when anything was last handled
    wake_at: float | None = None  # what the shell was last told


def handle(state: State, event: Event, now: float) -> list[Command]:
    """Apply `event` at loop time `now` (s); return what the shell must do, in that order.

    Events of connections that are closed, or were never joined, are late, not wrong: they do nothing.
    """
    _forgive_own_sleep(state, now)
    commands: list[Command] = []
    match event:
        case Joined(connection, join):
            commands += _join(state, connection, join, now)
        case Reported(connection, report):
            _report(state, connection, report, now)
        case Left(connection, reason):
            if member := _member_of(state, connection):
                commands += _end(state, member, reason)
        case Disconnected(connection, reason):
            _disconnect(state, connection, reason, now)
        case ResyncAsked(connection):
            if connection in state.subscribers:
                commands.append(Push((connection,), delta_since(state, 0)))
                state.subscribers[connection] = state.version
        case Tick():
            state.wake_at = None
    return commands + plan(state, now)


def plan(state: State, now: float) -> list[Command]:
    """Who has died, what is to be said, and when to look again."""
    commands = _bury(state, now) if now >= state.death_at else []
    _forget_oldest(state)
    when = min(state.death_at, now + state.heartbeat_timeout_s / 4)  # soon enough to notice a sleep of our own
    if state.subscribers and state.version > state.pushed_version:
        due = _push_due(state)
        if now >= due:
            commands += _push(state, now)
        else:
            when = min(when, due)
    is_needed = state.death_at < math.inf and (state.wake_at is None or when < state.wake_at)
    if is_needed:
        state.wake_at = when
        commands.append(WakeAt(when))
    return commands


def delta_since(state: State, version: int) -> Delta:
    """What brings a view of `version` up to date; all there is when that is 0, or too old."""
    since = version if version >= state.floor else 0
    changes = []
    for node_id in reversed(state.changed):
        member = state.members[node_id]
        if member.version <= since:
            break
        changes.append(_change_since(member, since))
    return Delta(state.epoch, since, state.version, tuple(reversed(changes)))


def status(state: State) -> ClusterStatus:
    """Everything, for people: those that joined first come first."""
    members = tuple(
        MemberStatus(
            facts=member.facts,
            available=member.available,
            store_used_nbytes=member.store_used_nbytes,
            waiting=member.waiting,
            end=member.end,
        )
        for member in state.members.values()
    )
    return ClusterStatus(epoch=state.epoch, version=state.version, members=members)


def check(state: State) -> None:
    """Assert what holds between any two events."""
    assert list(state.changed) == sorted(state.members, key=lambda node_id: state.members[node_id].version), state
    versions = [member.version for member in state.members.values()]
    assert len(versions) == len(set(versions)), f"two changes have one version: {state}"
    assert max(versions, default=0) <= state.version, state
    assert state.floor <= state.version, state
    assert state.dead == sum(member.end is not None for member in state.members.values()), f"the dead rose: {state}"
    for connection, node_id in state.node_of.items():
        member = state.members[node_id]
        assert member.connection == connection, f"a connection is not its node's: {state}"
        assert member.end is None, f"a dead node has a connection: {state}"
    assert state.subscribers.keys() == state.node_of.keys(), f"a subscriber is no member: {state}"
    connections = [member.connection for member in state.members.values() if member.connection is not None]
    assert sorted(connections) == sorted(state.node_of), f"a connection was lost: {state}"
    assert all(sent <= state.version for sent in state.subscribers.values()), f"sent before it happened: {state}"
    alive = [member for member in state.members.values() if member.end is None]
    assert all(state.death_at <= _death_due(state, member)[0] for member in alive), f"a death goes unseen: {state}"
    assert state.wake_at is not None or not alive, f"nobody will look again: {state}"


def _forgive_own_sleep(state: State, now: float) -> None:
    """Where this process did not run for a while, it heard nobody: that says nothing about them."""
    slept = 0.0 if state.awake_at is None else now - state.awake_at
    state.awake_at = now
    if slept > state.heartbeat_timeout_s / 2:
        for member in state.members.values():
            member.heard_at += slept
            member.lost_at += slept


def _join(state: State, connection: int, join: Join, now: float) -> list[Command]:
    node_id = join.facts.node_id
    if state.node_of.get(connection, node_id) != node_id:
        other = state.node_of[connection]
        return [Refuse(connection, f"this connection is of node {other}, not of node {node_id}")]
    member = state.members.get(node_id)
    if member is not None and member.end is not None:
        return [Refuse(connection, f"node {node_id} was declared dead ({member.end}), and its work went elsewhere")]
    commands: list[Command] = []
    is_new = member is None
    if member is None:
        member = Member(
            join.facts, join.available, join.store_used_nbytes, join.waiting, join.seq, connection, heard_at=now
        )
        state.members[node_id] = member
        state.death_at = min(state.death_at, now + state.heartbeat_timeout_s)
        _touch(state, member, facts=True, load=True)
    else:
        commands += _move(state, member, connection)
        member.heard_at = now
        if member.facts != join.facts:
            member.facts = join.facts
            _touch(state, member, facts=True)
        if join.seq > member.seq:
            member.seq, member.waiting = join.seq, join.waiting
            _load(state, member, join.available, join.store_used_nbytes)
    state.node_of[connection] = node_id
    has = join.version if join.epoch == state.epoch and join.version <= state.version else 0
    if is_new and not has and len(state.subscribers) > NODES_AT_BASE:
        state.subscribers[connection] = (
            0  # very many may join at once: all of these are sent the same view, at the next push
        )
        return [*commands, Admit(connection)]
    state.subscribers[connection] = state.version
    return [*commands, Admit(connection), Push((connection,), delta_since(state, has))]


def _move(state: State, member: Member, connection: int) -> list[Command]:
    """A node that is known has connected again."""
    old, member.connection = member.connection, connection
    if old is None or old == connection:
        return []
    del state.node_of[old], state.subscribers[old]
    return [Drop(old, "its node has connected again")]


def _report(state: State, connection: int, report: Report, now: float) -> None:
    member = _member_of(state, connection)
    if member is None:
        return
    member.heard_at = now
    if report.seq <= member.seq:
        return  # sent twice, or overtaken
    member.seq = report.seq
    if report.waiting is not None:
        member.waiting = report.waiting
    used_nbytes = member.store_used_nbytes if report.store_used_nbytes is None else report.store_used_nbytes
    _load(state, member, {**member.available, **report.available}, used_nbytes)


def _load(state: State, member: Member, available: dict[str, int], store_used_nbytes: int) -> None:
    if (available, store_used_nbytes) != (member.available, member.store_used_nbytes):
        member.available, member.store_used_nbytes = available, store_used_nbytes
        _touch(state, member, load=True)


def _touch(state: State, member: Member, *, facts: bool = False, load: bool = False) -> None:
    """It has changed."""
    state.version += 1
    member.version = state.version
    if facts:
        member.facts_version = state.version
    if load:
        member.load_version = state.version
    state.is_urgent = state.is_urgent or not load or facts
    state.changed.pop(member.facts.node_id, None)
    state.changed[member.facts.node_id] = None


def _disconnect(state: State, connection: int, reason: str, now: float) -> None:
    member = _member_of(state, connection)
    if member is not None:
        del state.node_of[connection], state.subscribers[connection]
        member.connection, member.lost_at, member.lost_why = None, now, reason
        state.death_at = min(state.death_at, _death_due(state, member)[0])


def _end(state: State, member: Member, reason: str) -> list[Command]:
    """It is dead, whatever it may say from now on."""
    connection, member.connection = member.connection, None
    member.end, member.available, member.waiting, member.store_used_nbytes = reason, {}, (), 0
    state.dead += 1
    _touch(state, member)
    if connection is None:
        return []
    del state.node_of[connection], state.subscribers[connection]
    return [Drop(connection, reason)]


def _bury(state: State, now: float) -> list[Command]:
    """Those of which nothing was heard for too long are dead."""
    commands: list[Command] = []
    state.death_at = math.inf
    for member in [member for member in state.members.values() if member.end is None]:
        due, reason = _death_due(state, member)
        if now >= due:
            commands += _end(state, member, reason)
        else:
            state.death_at = min(state.death_at, due)
    return commands


def _death_due(state: State, member: Member) -> tuple[float, str]:
    """When it counts as dead if nothing is heard of it till then, and why."""
    silent_until = member.heard_at + state.heartbeat_timeout_s
    gone_until = member.lost_at + state.reconnect_grace_s
    if member.connection is None and gone_until < silent_until:
        return gone_until, f"its connection was lost: {member.lost_why}"
    return silent_until, f"nothing was heard of it for {state.heartbeat_timeout_s:g} s"


def _forget_oldest(state: State) -> None:
    """Not one by one: who missed it is sent the whole view."""
    if state.dead <= 2 * state.max_dead:
        return
    dead = [node_id for node_id in state.changed if state.members[node_id].end is not None]
    for node_id in dead[: state.dead - state.max_dead]:
        del state.members[node_id], state.changed[node_id]
        state.dead -= 1
    state.version += 1
    state.floor = state.version


def _push_due(state: State) -> float:
    interval_s = state.change_interval_s if state.is_urgent else state.load_interval_s
    return state.pushed_at + interval_s * max(1.0, len(state.subscribers) / NODES_AT_BASE)


def _push(state: State, now: float) -> list[Command]:
    """Bring everybody up to date. Most have the same version, and are sent the same bytes."""
    by_version: dict[int, list[int]] = {}
    for connection, version in state.subscribers.items():
        if version < state.version:
            by_version.setdefault(version, []).append(connection)
    for connections in by_version.values():
        state.subscribers.update(dict.fromkeys(connections, state.version))
    state.pushed_at, state.pushed_version, state.is_urgent = now, state.version, False
    return [Push(tuple(connections), delta_since(state, version)) for version, connections in by_version.items()]


def _change_since(member: Member, since: int) -> MemberChange:
    has_load = member.load_version > since and member.end is None
    return MemberChange(
        member.facts.node_id,
        member.version,
        member.facts if member.facts_version > since else None,
        member.available if has_load else None,
        member.end,
        member.store_used_nbytes if has_load else None,
    )


def _member_of(state: State, connection: int) -> Member | None:
    node_id = state.node_of.get(connection)
    return None if node_id is None else state.members[node_id]
