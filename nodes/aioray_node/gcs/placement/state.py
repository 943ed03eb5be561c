"""Which placement groups there are, where their bundles are, and who wants to hear of them. Pure."""

from __future__ import annotations

import bisect
from collections import OrderedDict
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import field

from aioray.record import Record
from aioray.wire.control import GroupSpec, GroupUpdate
from aioray.wire.values import owner_of
from aioray_node.gcs.placement.echoes import Echoes
from aioray_node.scheduling.bundle_policy import Ask, OnWay

if TYPE_CHECKING:
    from aioray_node.scheduling.policy import NodeView

GroupState = Literal["pending", "created", "rescheduling", "removed"]

ShapeKey = tuple[object, ...]

MANY_REFUSALS = 4  # in a row: views have had the time to catch up


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


class Group(Record):
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
        return self.refusals < MANY_REFUSALS and any(where[index] != self.where[index] for index in self.asked)

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


class State(Record):
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


def move(group: Group, why: str) -> None:
    try:
        group.state = MOVES[group.state, why]
    except KeyError:
        raise IllegalMove(f"placement group {group.spec.group_id.hex()} is {group.state}: {why}") from None


def leave_pending(state: State, group: Group) -> None:
    entry = (group.number, group.spec.group_id)
    at = bisect.bisect_left(state.pending, entry)
    if state.pending[at : at + 1] == [entry]:
        del state.pending[at]


def is_node(process: bytes) -> bool:
    """Whether that is no process, but a node, which hears for its processes and for itself."""
    return process.endswith(bytes(4))


def is_over(state: State, group_id: bytes) -> bool:
    """Whether there was such a group, or will never be: a process makes them in the order of their numbers."""
    if group_id in state.groups:
        return False
    maker = owner_of(group_id)
    return group_id in state.removed or maker in state.gone or number_in(group_id) <= state.newest.get(maker, 0)


def number_in(group_id: bytes) -> int:
    return int.from_bytes(group_id[len(owner_of(group_id)) :], "big")
