"""Which lease gets this node's resources, and when.

Leases are placed in the order in which they were asked for, but a later one that fits passes a front that does not.
The front of the queue puts up with `max_overtakes` of that; then it bars the way to all who want of what it wants, so
that what comes free gathers for it. A bar lasts `bar_s` at most, and the next one comes after twice as many overtakes:
what the front waits for may be held by an actor for ever, or by a task that waits for one of those behind the bar, and
neither may hang the node.
"""

import heapq
from collections import OrderedDict
from collections.abc import Iterator
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


class Tick(msgspec.Struct, frozen=True):
    """The time of the last WakeAt has come."""


class Place(msgspec.Struct, frozen=True):
    """The resources are taken: get a worker for it."""

    lease_id: int
    gpus: tuple[int, ...] = ()  # devices that are its own, or of which it has a part


class Ended(msgspec.Struct, frozen=True):
    """Was placed and is over without its owner's word: free or kill its worker. Only OwnerGone causes it."""

    lease_id: int


class Infeasible(msgspec.Struct, frozen=True):
    """This node is too small for it, for good. Said once; the request stays until it is withdrawn."""

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


Event = Request | Withdraw | Return | Blocked | Unblocked | Shrink | OwnerGone | Tick
Command = Place | Ended | Infeasible | Unschedulable | WakeAt

DemandKey = frozenset[tuple[str, int]]


@dataclass(slots=True)
class Waiting:
    request: Request
    seq: int  # order of arrival on this node
    key: DemandKey


@dataclass(slots=True)
class Group:
    """All that wait for exactly the same demand: if the first does not fit, none does, and nobody need look."""

    demand: Resources
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
    waiting: dict[int, Waiting] = field(default_factory=dict)
    groups: dict[DemandKey, Group] = field(default_factory=dict)  # `waiting` by demand; no empty group
    infeasible: dict[int, Request] = field(default_factory=dict)  # apart from `waiting`: never anybody's front
    granted: dict[int, Lease] = field(default_factory=dict)
    owners: dict[str, dict[int, None]] = field(default_factory=dict)  # owner -> all its lease ids, oldest first
    front: Front | None = None
    next_seq: int = 0
    wake_at: float | None = None  # what the shell was last told
    devices: Devices = field(init=False)

    def __post_init__(self) -> None:
        self.devices = Devices(self.resources.total.get("GPU", 0) // UNIT)

    def choose(self, request: Request) -> policy.Decision:
        """Where it goes, of the nodes that are known: this one."""
        view = policy.NodeView(self.resources, self.labels, self.devices)
        wish = policy.Wish(without_zeros(request.demand), request.strategy)
        return policy.choose(wish, {self.node_id: view}, policy.Here(self.node_id))


def handle(state: State, event: Event, now: float) -> list[Command]:
    """Apply `event` at loop time `now` (s); return what the shell must do, in that order.

    Events about leases that are over are late, not wrong: they do nothing. Raises ValueError, with nothing changed, for
    a negative demand and for a Shrink that asks for more.
    """
    commands: list[Command] = []
    match event:
        case Request():
            commands += _request(state, event)
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
        case Tick():
            state.wake_at = None  # timers may fire a hair early: `plan` asks again if it is not time yet
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
    if front and front.barred_until is not None and front.barred_until != state.wake_at:
        state.wake_at = front.barred_until
        commands.append(WakeAt(front.barred_until))
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


def _request(state: State, request: Request) -> list[Command]:
    lease_id = request.lease_id
    if lease_id in state.waiting or lease_id in state.granted or lease_id in state.infeasible:
        return []
    demand = without_zeros(request.demand)
    decision = state.choose(request)
    if isinstance(decision, policy.Infeasible) and decision.for_good:
        return [Unschedulable(lease_id, decision.reason)]
    state.owners.setdefault(request.owner, {})[lease_id] = None
    if isinstance(decision, policy.Infeasible):
        state.infeasible[lease_id] = request
        return [Infeasible(lease_id, request.owner, f"{request.name} {decision.reason}")]
    key = frozenset(demand.items())
    entry = state.waiting[lease_id] = Waiting(request, state.next_seq, key)
    state.next_seq += 1
    if key not in state.groups:
        state.groups[key] = Group(demand)
    state.groups[key].queue[lease_id] = entry
    return []


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
        assert key == frozenset(group.demand.items()), f"a group has another's demand: {state}"
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
        assert state.wake_at == front.barred_until, f"nobody will lift the bar: {state}"
