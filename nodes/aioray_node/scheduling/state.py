"""What the scheduler of a node knows: who waits, who was placed, what is believed of other nodes. Pure.

Each lease is in one place, and whoever moves it keeps the indexes in step: `enter_queue`, `leave_queue`, `forget`.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from aioray.record import Record
from aioray.wire.strategies import InGroup, Strategy
from aioray_node.scheduling import group_places, policy
from aioray_node.scheduling.bundles import booked, group_of, is_cpu
from aioray_node.scheduling.candidates import MANY, Candidates
from aioray_node.scheduling.devices import Devices
from aioray_node.scheduling.resources import UNIT, NodeResources, Resources, without_zeros

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aioray_node.scheduling.events import Request

GroupKey = tuple[frozenset[tuple[str, int]], Strategy | None]


class Waiting(Record):
    request: Request
    seq: int  # order of arrival on this node
    key: GroupKey
    since: float  # loop time (s)


class Group(Record):
    """All that wait for exactly the same: if the first does not fit, none does, and nobody need look."""

    demand: Resources  # as it is booked
    strategy: Strategy | None = None
    gpus: int = 0  # in ten-thousandths
    of: InGroup | None = None
    queue: OrderedDict[int, Waiting] = msgspec.field(default_factory=OrderedDict)  # lease_id -> oldest first

    def first(self) -> Waiting:
        return next(iter(self.queue.values()))


class Lease(Record):
    request: Request
    demand: Resources  # as it is booked
    pool: Devices  # that its GPUs are from: the node's, or those of a bundle
    gpus: dict[int, int] = msgspec.field(default_factory=dict)  # device -> how much of it
    blocked: bool = False
    resumed: bool = False  # took its CPU back by force once: may be part of an overbooked CPU count

    def held(self) -> Resources:
        return {name: n for name, n in self.demand.items() if not is_cpu(name)} if self.blocked else self.demand


class Front(Record):
    """The oldest waiting request, while it does not fit."""

    lease_id: int
    demand: Resources
    allowance: int  # overtakes until the next bar
    overtaken: int = 0
    barred_until: float | None = None  # loop time (s)


@dataclass(slots=True)
class State:
    resources: NodeResources
    max_overtakes: int = 64
    bar_s: float = 10.0
    node_id: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    max_hops: int = 3
    rest_s: float = 1.0
    echo_s: float = 1.0
    patience_s: float = 0.1
    can_refresh: bool = False  # there is a GCS that knows more
    refresh_s: float = 1.0  # for which its answer is waited for
    waiting: dict[int, Waiting] = field(default_factory=dict)
    groups: dict[GroupKey, Group] = field(default_factory=dict)  # `waiting` by what they ask for; no empty group
    infeasible: dict[int, Request] = field(default_factory=dict)  # apart from `waiting`: never anybody's front
    unknown: dict[int, float] = field(default_factory=dict)  # of those, who asks for a node not known yet; until when
    granted: dict[int, Lease] = field(default_factory=dict)
    owners: dict[str, dict[int, None]] = field(default_factory=dict)  # owner -> all its lease ids, oldest first
    front: Front | None = None
    lent: int = 0  # how many of the leases can be asked back
    recalled: dict[int, None] = field(default_factory=dict)  # leases that were asked back
    recalled_for: int | None = None  # which request
    recalls_at: float = -math.inf  # when it was last seen whether any should be, loop time (s)
    first_seq: int = 0
    next_seq: int = 0
    wake_at: float | None = None  # what the shell was last told
    sent: dict[str, deque[tuple[float, Resources]]] = field(default_factory=dict)  # node id -> when, what; see `echo_s`
    echoes: deque[tuple[float, str]] = field(default_factory=deque)  # when what was sent to which node: all of `sent`
    turns: OrderedDict[GroupKey, str] = field(default_factory=OrderedDict)  # where the last one went that was spread
    draws: int = 0
    looked_at: float = -math.inf  # when it was last seen who could go elsewhere, loop time (s)
    devices: Devices = field(init=False)
    own: policy.NodeView = field(init=False)
    candidates: Candidates = field(init=False)
    nodes: Mapping[str, policy.NodeView] = field(init=False)  # all that live, this one as well: not ours to fill
    bundles: dict[bytes, dict[int, int]] = field(default_factory=dict)  # group -> index -> the lease that holds it
    pools: dict[bytes, dict[int, Devices]] = field(default_factory=dict)  # the same -> its GPUs
    places: dict[bytes, group_places.Places] = field(default_factory=dict)  # group -> bundles elsewhere, where known
    sent_to: dict[bytes, deque[tuple[float, NodeResources, Resources]]] = field(default_factory=dict)  # `sent`, there
    in_group: dict[bytes, dict[int, None]] = field(default_factory=dict)  # group -> leases that ask for it, in order

    def __post_init__(self) -> None:
        self.devices = Devices(self.resources.total.get("GPU", 0) // UNIT)
        self.own = policy.NodeView(self.resources, self.labels, self.devices)
        self.nodes = {self.node_id: self.own}
        self.candidates = Candidates(self.node_id)

    @property
    def is_alone(self) -> bool:
        return len(self.nodes) == 1

    def choose(
        self, request: Request, *, own: policy.NodeView | None = None, only: str | None = None
    ) -> policy.Decision:
        """Where it goes, of all nodes. `own`: as if this node were like that. `only`: as if there were one node."""
        wish = policy.Wish(as_booked(request, request.demand), request.strategy, request.argument_nbytes)
        if self.is_alone:
            return policy.choose(wish, self.nodes, policy.Here(self.node_id))
        here = policy.Here(self.node_id, self.turns.get(key_of(request), ""), self.draws, request.hops > 0)
        nodes = self.nodes if only is None else {only: self.nodes[only]}
        group = group_of(request.strategy)
        is_part = group is None and len(nodes) > MANY and (own is not None or not policy.stays_here(wish, nodes, here))
        if is_part:
            nodes = self.candidates.narrow(wish, nodes, here)
        if own is not None:
            nodes = {**nodes, self.node_id: own}
        if group is not None:
            nodes = group_places.views(nodes, self.node_id, self.places.get(group.group_id), wish.demand)
            later = group_places.after(
                here.spread_after, nodes, self.node_id, request.strategy, has_waited=own is not None
            )
            decision = policy.choose(wish, later, here)
            if isinstance(decision, policy.Chosen):
                return decision
        decision = policy.choose(wish, nodes, here)
        if is_part and isinstance(decision, policy.Infeasible):
            return policy.choose(wish, self.nodes, here)  # it is to say what the best of all nodes lacks
        return decision

    def hops_allowed(self, request: Request) -> int:
        """After so many it waits where it is."""
        group = group_of(request.strategy)
        return self.max_hops if group is None else min(self.max_hops, len(self.places.get(group.group_id, ())))


def key_of(request: Request) -> GroupKey:
    return frozenset(as_booked(request, request.demand).items()), request.strategy


def as_booked(request: Request, demand: Mapping[str, int]) -> Resources:
    """A demand of its, by the names of what it takes."""
    return booked(without_zeros(demand), group_of(request.strategy))


def enter_queue(state: State, request: Request, now: float) -> None:
    key = key_of(request)
    entry = state.waiting[request.lease_id] = Waiting(request, state.next_seq, key, now)
    state.next_seq += 1
    if key not in state.groups:
        demand = as_booked(request, request.demand)
        gpus = request.demand.get("GPU", 0)
        state.groups[key] = Group(demand, request.strategy, gpus, group_of(request.strategy))
    state.groups[key].queue[request.lease_id] = entry


def leave_queue(state: State, lease_id: int) -> Request:
    entry = state.waiting.pop(lease_id)
    group = state.groups[entry.key]
    del group.queue[lease_id]
    if not group.queue:
        del state.groups[entry.key]
    return entry.request


def forget(state: State, lease_id: int) -> None:
    if lease_id in state.waiting:
        request = leave_queue(state, lease_id)
    elif lease := state.granted.pop(lease_id, None):
        state.recalled.pop(lease_id, None)
        state.lent -= lease.request.is_lent
        state.resources.release(lease.held())
        lease.pool.release(lease.gpus)
        request = lease.request
    elif lease_id in state.infeasible:
        request = state.infeasible.pop(lease_id)
        state.unknown.pop(lease_id, None)
    else:
        return
    if group := group_of(request.strategy):
        in_group = state.in_group[group.group_id]
        del in_group[lease_id]
        if not in_group:
            del state.in_group[group.group_id]
    leases = state.owners[request.owner]
    del leases[lease_id]
    if not leases:
        del state.owners[request.owner]
