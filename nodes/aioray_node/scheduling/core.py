"""Which lease gets this node's resources, and when.

Leases are placed in the order in which they were asked for, but a later one that fits passes a front that does not.
The front of the queue puts up with `max_overtakes` of that; then it bars the way to all who want of what it wants, so
that what comes free gathers for it. A bar lasts `bar_s` at most, and the next one comes after twice as many overtakes:
what the front waits for may be held by an actor for ever, or by a task that waits for one of those behind the bar, and
neither may hang the node.

Where there are other nodes, `policy.choose` says whether a request is for one of them: then its owner is to ask there
(`Spill`), and it is forgotten here. That is asked when it comes, and, while it waits, when another node has news. Views
are late, so two nodes may each believe that the other has room. Therefore:

- a request that was sent here stays if it fits, whatever the policy would like better;
- it counts its `hops`, and after `max_hops` of them waits where it is, if it can run there at all; when it has waited
  `rest_s` it may go on, and counts from nothing. So it moves a few times quickly, then rarely, and is never stuck;
- what was sent to a node is taken off what that node is believed to have, until it reports anew, or `echo_s` have gone
  by: nodes report changes only, and a request that was withdrawn on the way changes nothing there.
"""

import heapq
import math
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from aioray.wire.strategies import Strategy
from aioray_node.scheduling import policy
from aioray_node.scheduling.devices import Devices
from aioray_node.scheduling.resources import UNIT, NodeResources, Resources, in_words, without_zeros


class Request(msgspec.Struct, frozen=True):
    """A lease, please. Asking again for one that waits or is placed changes nothing; an id is never used twice."""

    lease_id: int
    owner: str
    demand: Resources
    name: str  # of the function or actor class: for people
    strategy: Strategy | None = None
    hops: int = 0  # how often it was sent to another node
    argument_nbytes: Mapping[str, int] = {}  # node id -> how much of what it reads lies there


class Withdraw(msgspec.Struct, frozen=True):
    """The owner has no use for it (any more), placed or not."""

    lease_id: int


class Return(msgspec.Struct, frozen=True):
    """The lease is over: its owner gave it back or its worker died."""

    lease_id: int


class Blocked(msgspec.Struct, frozen=True):
    """Its worker waits in `get` or `wait`: the CPU is for others meanwhile."""

    lease_id: int


class Unblocked(msgspec.Struct, frozen=True):
    """Its worker goes on: it takes its CPU back, whether or not there is one."""

    lease_id: int


class Shrink(msgspec.Struct, frozen=True):
    """From here on the lease holds only `demand`: an actor placed with 1 CPU that runs with 0."""

    lease_id: int
    demand: Resources


class OwnerGone(msgspec.Struct, frozen=True):
    owner: str


class NodeNews(msgspec.Struct, frozen=True):
    """Another node has joined, died, or reported what it has to spare: `State.nodes` is up to date with that."""

    node_id: str
    joined: bool = False


class Tick(msgspec.Struct, frozen=True):
    """The time of the last WakeAt has come."""


class Place(msgspec.Struct, frozen=True):
    """The resources are taken: get a worker for it."""

    lease_id: int
    gpus: tuple[int, ...] = ()  # devices that are its own, or of which it has a part


class Ended(msgspec.Struct, frozen=True):
    """Was placed and is over without its owner's word: free or kill its worker. Only OwnerGone causes it."""

    lease_id: int


class Spill(msgspec.Struct, frozen=True):
    """Another node is to be asked for it, and told of its `hops`. Here it is forgotten."""

    lease_id: int
    node_id: str
    hops: int


class Infeasible(msgspec.Struct, frozen=True):
    """No node can have it. Said once; the request stays until it is withdrawn, or a node has joined that can."""

    lease_id: int
    owner: str
    text: str


class Unschedulable(msgspec.Struct, frozen=True):
    """It is not to wait for what it would need: its owner must hear, and it is forgotten. `reason` follows its name."""

    lease_id: int
    reason: str


class WakeAt(msgspec.Struct, frozen=True):
    """Feed Tick at loop time `when` (s). One timer is enough: a new WakeAt replaces the one before."""

    when: float


Event = Request | Withdraw | Return | Blocked | Unblocked | Shrink | OwnerGone | NodeNews | Tick
Command = Place | Ended | Spill | Infeasible | Unschedulable | WakeAt

GroupKey = tuple[frozenset[tuple[str, int]], Strategy | None]
_MAX_TURNS = 1000  # of kinds of requests that are spread: of so many it is known whose turn is next


@dataclass(slots=True)
class Waiting:
    request: Request
    seq: int  # order of arrival on this node
    key: GroupKey
    since: float  # loop time (s)


@dataclass(slots=True)
class Group:
    """All that wait for exactly the same: if the first does not fit, none does, and nobody need look."""

    demand: Resources
    strategy: Strategy | None = None
    queue: OrderedDict[int, Waiting] = field(default_factory=OrderedDict)  # lease_id -> oldest first

    def first(self) -> Waiting:
        return next(iter(self.queue.values()))


@dataclass(slots=True)
class Lease:
    request: Request
    demand: Resources
    gpus: dict[int, int] = field(default_factory=dict)  # device -> how much of it
    blocked: bool = False
    resumed: bool = False  # took its CPU back by force once: may be part of an overbooked CPU count

    def held(self) -> Resources:
        return {name: n for name, n in self.demand.items() if name != "CPU"} if self.blocked else self.demand


@dataclass(slots=True)
class Front:
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
    waiting: dict[int, Waiting] = field(default_factory=dict)
    groups: dict[GroupKey, Group] = field(default_factory=dict)  # `waiting` by what they ask for; no empty group
    infeasible: dict[int, Request] = field(default_factory=dict)  # apart from `waiting`: never anybody's front
    granted: dict[int, Lease] = field(default_factory=dict)
    owners: dict[str, dict[int, None]] = field(default_factory=dict)  # owner -> all its lease ids, oldest first
    front: Front | None = None
    next_seq: int = 0
    wake_at: float | None = None  # what the shell was last told
    sent: dict[str, deque[tuple[float, Resources]]] = field(default_factory=dict)  # node id -> when, what; see `echo_s`
    turns: OrderedDict[GroupKey, str] = field(default_factory=OrderedDict)  # where the last one went that was spread
    draws: int = 0
    looked_at: float = -math.inf  # when it was last seen who could go elsewhere, loop time (s)
    devices: Devices = field(init=False)
    own: policy.NodeView = field(init=False)
    nodes: Mapping[str, policy.NodeView] = field(init=False)  # all that live, this one as well: not ours to fill

    def __post_init__(self) -> None:
        self.devices = Devices(self.resources.total.get("GPU", 0) // UNIT)
        self.own = policy.NodeView(self.resources, self.labels, self.devices)
        self.nodes = {self.node_id: self.own}

    @property
    def is_alone(self) -> bool:
        return len(self.nodes) == 1

    def choose(self, request: Request, nodes: Mapping[str, policy.NodeView] | None = None) -> policy.Decision:
        """Where it goes, of all nodes, or of these."""
        wish = policy.Wish(without_zeros(request.demand), request.strategy, request.argument_nbytes)
        if self.is_alone:
            return policy.choose(wish, self.nodes, policy.Here(self.node_id))
        here = policy.Here(self.node_id, self.turns.get(_key(request), ""), self.draws)
        return policy.choose(wish, self.nodes if nodes is None else nodes, here)


def handle(state: State, event: Event, now: float) -> list[Command]:
    """Apply `event` at loop time `now` (s); return what the shell must do, in that order.

    Events about leases that are over are late, not wrong: they do nothing. Raises ValueError, with nothing changed, for
    a negative demand and for a Shrink that asks for more.
    """
    commands: list[Command] = []
    match event:
        case Request():
            commands += _request(state, event, now)
        case Withdraw(lease_id) | Return(lease_id):
            _forget(state, lease_id)
        case Blocked(lease_id):
            _block(state, lease_id)
        case Unblocked(lease_id):
            _unblock(state, lease_id)
        case Shrink(lease_id, demand):
            _shrink(state, lease_id, without_zeros(demand))
        case OwnerGone(owner):
            for lease_id in list(state.owners.get(owner, ())):
                if lease_id in state.granted:
                    commands.append(Ended(lease_id))
                _forget(state, lease_id)
        case NodeNews(node_id, joined):
            state.sent.pop(node_id, None)
            if joined:
                commands += _ask_again(state, now)
            commands += _look_elsewhere(state, now, node_id)
        case Tick():
            state.wake_at = None  # timers may fire a hair early: `plan` asks again if it is not time yet
            commands += _look_elsewhere(state, now)
    return commands + plan(state, now)


def plan(state: State, now: float) -> list[Command]:
    """Place what fits, oldest first, as far as the front lets others pass."""
    commands: list[Command] = []
    heads = [(group.first().seq, key) for key, group in state.groups.items()]
    heapq.heapify(heads)
    front: Front | None = None
    while heads:
        _, key = heapq.heappop(heads)
        group = state.groups[key]
        if front and _bars(front, group.demand):
            continue
        if not _fits(state, group.demand):  # nor will the rest of its group, in this pass
            front = front or _front(state, group, now)
            continue
        commands.append(_place(state, group))
        if group.queue:
            heapq.heappush(heads, (group.first().seq, key))
        if front and _rivals(front, group.demand):
            front.overtaken += 1
            if front.overtaken >= front.allowance:
                front.barred_until = now + state.bar_s
    state.front = front
    when = _next_time(state, now)
    if when is not None and when != state.wake_at:
        state.wake_at = when
        commands.append(WakeAt(when))
    return commands


def explain(state: State, lease_id: int) -> str:
    """Where the lease stands, in a sentence: what was asked, what is free, how many are ahead."""
    if lease := state.granted.get(lease_id):
        return f"{lease.request.name} is placed and holds {in_words(lease.held())}" + (
            " (its CPU is lent out while it is blocked)" if lease.blocked else ""
        )
    if request := state.infeasible.get(lease_id):
        decision = state.choose(request)
        assert isinstance(decision, policy.Infeasible), state
        return f"{request.name} can never run here: {decision.reason}"
    if not (entry := state.waiting.get(lease_id)):
        return f"lease {lease_id} is not here: it is over or was never asked for"
    ahead = sum(1 for group in state.groups.values() for _ in _before(group, entry.seq))
    free = in_words(state.resources.available)
    demand = state.groups[entry.key].demand
    where = policy.strategy_in_words(entry.request.strategy)
    if state.resources.fits(demand) and not _fits(state, demand):
        free += " in parts of several devices"
    text = f"{entry.request.name} waits for {in_words(demand)}{where}; free: {free}; {ahead} ahead of it"
    if state.front and state.front.lease_id != lease_id and _bars(state.front, demand):
        text += f"; {state.waiting[state.front.lease_id].request.name} was overtaken too often and goes first"
    return text


def check(state: State) -> None:
    """Assert what holds between any two events. Looks at everything: for tests and debugging."""
    _check_places(state)
    _check_resources(state)
    _check_plan(state)


def _key(request: Request) -> GroupKey:
    return frozenset(without_zeros(request.demand).items()), request.strategy


def _request(state: State, request: Request, now: float) -> list[Command]:
    lease_id = request.lease_id
    if lease_id in state.waiting or lease_id in state.granted or lease_id in state.infeasible:
        return []
    key = _key(request)  # refuses what is negative
    if not state.is_alone and key in state.groups and not request.argument_nbytes:
        decision: policy.Decision = policy.Wait(state.node_id)  # as for the others: no node had room for them
    else:
        _forget_sent(state, now)
        decision = _decide(state, request)
    if isinstance(decision, policy.Infeasible) and decision.for_good:
        return [Unschedulable(lease_id, decision.reason)]
    if not isinstance(decision, policy.Infeasible) and decision.node_id != state.node_id:
        return [_send(state, request, key, decision, now)]
    _took_turn(state, request, key)
    state.owners.setdefault(request.owner, {})[lease_id] = None
    if isinstance(decision, policy.Infeasible):
        state.infeasible[lease_id] = request
        return [Infeasible(lease_id, request.owner, f"{request.name} {decision.reason}")]
    entry = state.waiting[lease_id] = Waiting(request, state.next_seq, key, now)
    state.next_seq += 1
    if key not in state.groups:
        state.groups[key] = Group(without_zeros(request.demand), request.strategy)
    state.groups[key].queue[lease_id] = entry
    return []


def _decide(state: State, request: Request) -> policy.Decision:
    """Where a request that has come is to be."""
    if request.hops and not state.is_alone:
        decision = state.choose(request, {state.node_id: state.own})
        can_run = not isinstance(decision, policy.Infeasible)
        if isinstance(decision, policy.Chosen) or (can_run and request.hops >= state.max_hops):
            return decision
    return state.choose(request)


def _send(state: State, request: Request, key: GroupKey, to: policy.Chosen | policy.Wait, now: float) -> Spill:
    """Have another node asked. What it is believed to have to spare is less by that."""
    node_id = to.node_id
    if isinstance(to, policy.Chosen):
        demand = dict(key[0])
        state.nodes[node_id].resources.acquire_forced(demand)
        state.sent.setdefault(node_id, deque()).append((now, demand))
        _took_turn(state, request, key, node_id)
    state.draws += 1
    return Spill(request.lease_id, node_id, request.hops + 1)


def _took_turn(state: State, request: Request, key: GroupKey, node_id: str = "") -> None:
    if request.strategy is not None and request.strategy.spread and not request.hops and not state.is_alone:
        state.turns[key] = node_id or state.node_id
        state.turns.move_to_end(key)
        if len(state.turns) > _MAX_TURNS:
            state.turns.popitem(last=False)


def _ask_again(state: State, now: float) -> list[Command]:
    """A node has joined: perhaps it can have what no other could."""
    commands: list[Command] = []
    for lease_id, request in list(state.infeasible.items()):
        decision = state.choose(request)
        if not isinstance(decision, policy.Infeasible):
            _forget(state, lease_id)
            commands.append(_send(state, request, _key(request), decision, now))
    return commands


def _look_elsewhere(state: State, now: float, node_id: str | None = None) -> list[Command]:
    """Send on what waits and could go to another node by now; `node_id`: it is news of this one only."""
    commands: list[Command] = []
    if state.is_alone:
        return commands
    _forget_sent(state, now)
    state.looked_at = now if node_id is None else state.looked_at
    # As if nothing were free here: what could be had here, `plan` gives.
    full = NodeResources(state.resources.total)
    full.available = dict.fromkeys(full.total, 0)
    nodes = {**state.nodes, state.node_id: policy.NodeView(full, state.labels)}
    for key, group in sorted(state.groups.items(), key=lambda item: item[1].first().seq):
        while group.queue and (node_id is None or _has_room(state, node_id, group.demand)):
            entry = group.first()
            decision = state.choose(entry.request, nodes)
            if not isinstance(decision, policy.Chosen) or decision.node_id == state.node_id:
                break
            rested = now - entry.since >= state.rest_s
            if entry.request.hops >= state.max_hops and not rested:
                break
            request = entry.request if not rested else msgspec.structs.replace(entry.request, hops=0)
            _forget(state, request.lease_id)
            commands.append(_send(state, request, key, decision, now))
    return commands


def _has_room(state: State, node_id: str, demand: Resources) -> bool:
    return node_id in state.nodes and state.nodes[node_id].fits(demand)


def _forget_sent(state: State, now: float) -> None:
    """What was sent long ago and never reported was not taken there, or is over."""
    for node_id, sent in list(state.sent.items()):
        while sent and now - sent[0][0] >= state.echo_s:
            _, demand = sent.popleft()
            if node_id in state.nodes:
                resources = state.nodes[node_id].resources
                for name, amount in demand.items():
                    resources.available[name] = min(resources.available[name] + amount, resources.total[name])
        if not sent:
            del state.sent[node_id]


def _next_time(state: State, now: float) -> float | None:
    """When something has to be looked at again though nothing happens (s)."""
    times = []
    if state.front and state.front.barred_until is not None:
        times.append(state.front.barred_until)
    if not state.is_alone and state.waiting:
        times += [sent[0][0] + state.echo_s for sent in state.sent.values()]
        tired = [group.first() for group in state.groups.values() if group.first().request.hops >= state.max_hops]
        times += [entry.since + state.rest_s for entry in tired if entry.since + state.rest_s > state.looked_at]
    return max(now, min(times)) if times else None


def _place(state: State, group: Group) -> Place:
    lease_id, entry = next(iter(group.queue.items()))
    _leave_queue(state, lease_id)
    state.resources.acquire(group.demand)
    gpus = state.devices.acquire(group.demand.get("GPU", 0))
    state.granted[lease_id] = Lease(entry.request, group.demand, gpus)
    return Place(lease_id, tuple(gpus))


def _fits(state: State, demand: Resources) -> bool:
    return state.resources.fits(demand) and state.devices.fits(demand.get("GPU", 0))


def _leave_queue(state: State, lease_id: int) -> Request:
    entry = state.waiting.pop(lease_id)
    group = state.groups[entry.key]
    del group.queue[lease_id]
    if not group.queue:
        del state.groups[entry.key]
    return entry.request


def _forget(state: State, lease_id: int) -> None:
    if lease_id in state.waiting:
        request = _leave_queue(state, lease_id)
    elif lease := state.granted.pop(lease_id, None):
        state.resources.release(lease.held())
        state.devices.release(lease.gpus)
        request = lease.request
    elif lease_id in state.infeasible:
        request = state.infeasible.pop(lease_id)
    else:
        return
    leases = state.owners[request.owner]
    del leases[lease_id]
    if not leases:
        del state.owners[request.owner]


def _block(state: State, lease_id: int) -> None:
    lease = state.granted.get(lease_id)
    if lease and not lease.blocked:
        state.resources.release(_cpu_part(lease))
        lease.blocked = True


def _unblock(state: State, lease_id: int) -> None:
    lease = state.granted.get(lease_id)
    if lease and lease.blocked:
        state.resources.acquire_forced(_cpu_part(lease))
        lease.blocked, lease.resumed = False, True


def _cpu_part(lease: Lease) -> Resources:
    return {"CPU": lease.demand.get("CPU", 0)}


def _shrink(state: State, lease_id: int, demand: Resources) -> None:
    lease = state.granted.get(lease_id)
    if not lease:
        return
    if any(amount > lease.demand.get(name, 0) for name, amount in demand.items()):
        raise ValueError(f"lease {lease_id} holds {in_words(lease.demand)} and cannot shrink to {in_words(demand)}")
    before = lease.held()
    lease.demand = demand  # a new dict: the old one may be its group's
    after = lease.held()
    state.resources.release({name: amount - after.get(name, 0) for name, amount in before.items()})
    lease.gpus = state.devices.shrink(lease.gpus, demand.get("GPU", 0))


def _front(state: State, group: Group, now: float) -> Front:
    front, lease_id = state.front, group.first().request.lease_id
    if not front or front.lease_id != lease_id:
        return Front(lease_id, group.demand, allowance=state.max_overtakes)
    if front.barred_until is not None and now >= front.barred_until:
        front.barred_until = None
        front.allowance *= 2
    return front


def _rivals(front: Front, demand: Resources) -> bool:
    """Whether it would delay the front to let `demand` pass: it would not where they share no resource."""
    return not front.demand.keys().isdisjoint(demand)


def _bars(front: Front, demand: Resources) -> bool:
    return front.barred_until is not None and _rivals(front, demand)


def _before(group: Group, seq: int) -> Iterator[Waiting]:
    for entry in group.queue.values():
        if entry.seq >= seq:
            return
        yield entry


def _check_places(state: State) -> None:
    places = [*state.waiting, *state.granted, *state.infeasible]
    assert len(places) == len(set(places)), f"a lease is in two places: {state}"
    owned = [lease_id for leases in state.owners.values() for lease_id in leases]
    assert sorted(owned) == sorted(places), f"owners and leases disagree: {state}"
    for request in state.infeasible.values():
        assert isinstance(state.choose(request), policy.Infeasible), f"{request.name} waits in vain: {state}"
    assert all(state.owners.values()), f"an owner without leases is remembered: {state}"
    grouped = {lease_id: entry for group in state.groups.values() for lease_id, entry in group.queue.items()}
    assert grouped == state.waiting, f"groups and waiting disagree: {state}"
    for key, group in state.groups.items():
        seqs = [entry.seq for entry in group.queue.values()]
        assert seqs, f"an empty group is kept: {state}"
        assert seqs == sorted(seqs), f"a group is out of order: {state}"
        assert key == (frozenset(group.demand.items()), group.strategy), f"a group has another's demand: {state}"
        assert all(entry.key == key for entry in group.queue.values()), f"a request is in a wrong group: {state}"


def _check_resources(state: State) -> None:
    taken = dict.fromkeys(state.resources.total, 0)
    never_forced = 0
    for lease in state.granted.values():
        for name, amount in lease.held().items():
            taken[name] += amount
        never_forced += 0 if lease.resumed else lease.held().get("CPU", 0)
    for name, total in state.resources.total.items():
        available = state.resources.available[name]
        assert taken[name] + available == total, f"{name} leaked or was booked twice: {state}"
        assert available >= 0 or name == "CPU", f"{name} is overbooked: {state}"
    assert never_forced <= state.resources.total.get("CPU", 0), f"CPU is overbooked, but not by resuming: {state}"
    assert state.resources.available.keys() == state.resources.total.keys(), state
    for lease in state.granted.values():
        assert sum(lease.gpus.values()) == lease.demand.get("GPU", 0), f"a lease has not the GPUs it holds: {state}"
        assert sum(part < UNIT for part in lease.gpus.values()) <= 1, f"a lease has parts of several GPUs: {state}"
    for device, free in enumerate(state.devices.free):
        parts = sum(lease.gpus.get(device, 0) for lease in state.granted.values())
        assert 0 <= free == UNIT - parts, f"GPU {device} leaked or was booked twice: {state}"


def _check_plan(state: State) -> None:
    if not state.front:
        assert not state.waiting, f"somebody waits, but nobody is the front: {state}"
        return
    front = state.front
    oldest = min(state.waiting.values(), key=lambda entry: entry.seq)
    assert front.lease_id == oldest.request.lease_id, f"the front is not the oldest: {state}"
    assert not _fits(state, state.groups[oldest.key].demand), f"the front fits and still waits: {state}"
    assert (front.overtaken >= front.allowance) == (front.barred_until is not None), f"a bar out of turn: {state}"
    free_to_go = [group.demand for group in state.groups.values() if not _bars(front, group.demand)]
    assert not any(_fits(state, demand) for demand in free_to_go), f"a request waits that fits: {state}"
    if front.barred_until is not None:
        assert state.wake_at is not None, f"nobody will lift the bar: {state}"
        assert state.wake_at <= front.barred_until, f"the bar will be lifted late: {state}"
