"""Which lease gets this node's resources, and when.

Leases are placed in the order in which they were asked for, but a later one that fits passes a front that does not.
The front of the queue puts up with `max_overtakes` of that; then it bars the way to all who want of what it wants, so
that what comes free gathers for it. A bar lasts `bar_s` at most, and the next one comes after twice as many overtakes:
what the front waits for may be held by an actor for ever, or by a task that waits for one of those behind the bar, and
neither may hang the node.

A caller with an endless stream of tasks keeps its leases, and nothing comes free. Who has waited `patience_s` beside
leases of others, or of other tasks of its own, has as many asked back as it needs (`Recall`, see `recalls.py`).

Where there are other nodes, `policy.choose` says whether a request is for one of them: then its owner is to ask there
(`Spill`), and it is forgotten here. That is asked when it comes, and, while it waits, when another node has news. Views
are late, so two nodes may each believe that the other has room. Therefore:

- a request that was sent here stays if it fits, whatever the policy would like better;
- it counts its `hops`, and after `max_hops` of them waits where it is, if it can run there at all; when it has waited
  `rest_s` it may go on, and counts from nothing. So it moves a few times quickly, then rarely, and is never stuck;
- what was sent to a node is taken off what that node is believed to have, until it reports anew, or `echo_s` have gone
  by: nodes report changes only, and a request that was withdrawn on the way changes nothing there.

A bundle of a placement group is booked by a lease of its own, which waits in the queue as others do. When the group is
there, that lease is committed: what it holds becomes resources of the group (`bundles.py`), for leases that ask for it.
Those wait without a word until then; when the group is dropped, all of them are over. Who could be in a bundle that
another node has is sent there as soon as it is known where that is (`Locate`, `GroupPlaced`; see `group_places.py`).
Only what comes from a node that has a bundle itself has made a hop then, and there are as many as there are others.
"""

import heapq
import math
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from aioray.wire.strategies import InGroup, Strategy
from aioray_node.scheduling import group_places, policy, recalls
from aioray_node.scheduling.bundles import booked, capacity, group_of, is_cpu, is_of_a_group
from aioray_node.scheduling.candidates import MANY, Candidates
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
    is_lent: bool = False  # for one task after the other: it can be asked back


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


class ManyNews(msgspec.Struct, frozen=True):
    """Of several nodes at once: no more is to be looked through than for one."""

    of: tuple[NodeNews, ...]


class ViewRefreshed(msgspec.Struct, frozen=True):
    """All that the GCS knew, when it was asked last, is in `State.nodes`."""


class CommitBundle(msgspec.Struct, frozen=True):
    """What this lease holds is a bundle from here on: leases may be in it."""

    lease_id: int
    group_id: bytes
    index: int


class GroupPlaced(msgspec.Struct, frozen=True):
    """Where bundles of a placement group are, of all that are booked now."""

    group_id: bytes
    where: dict[int, str]  # index -> node
    bundles: list[Resources]


class DropGroup(msgspec.Struct, frozen=True):
    """The placement group is removed: all leases in it end, and so do those that hold its bundles."""

    group_id: bytes


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


class Evicted(msgspec.Struct, frozen=True):
    """Was placed in a placement group, and is over with it: kill its worker, and tell its owner."""

    lease_id: int


class Recall(msgspec.Struct, frozen=True):
    """Others have waited long: its owner is to give it back when what it runs now is done."""

    lease_id: int


class Infeasible(msgspec.Struct, frozen=True):
    """No node can have it. Said once; the request stays until it is withdrawn, or a node has joined that can."""

    lease_id: int
    owner: str
    text: str


class RefreshView(msgspec.Struct, frozen=True):
    """Ask the GCS which nodes there are, and say ViewRefreshed: one was asked for that is not known here."""


class Unschedulable(msgspec.Struct, frozen=True):
    """It is not to wait for what it would need: its owner must hear, and it is forgotten. `reason` follows its name."""

    lease_id: int
    reason: str
    group_removed: bool = False  # what it waited for was a placement group that was removed


class Locate(msgspec.Struct, frozen=True):
    """Feed GroupPlaced as soon as it is known where the group has bundles, and whenever that changes; or DropGroup."""

    group_id: bytes


class WakeAt(msgspec.Struct, frozen=True):
    """Feed Tick at loop time `when` (s). One timer is enough: a new WakeAt replaces the one before."""

    when: float


Event = (
    Request
    | Withdraw
    | Return
    | Blocked
    | Unblocked
    | Shrink
    | OwnerGone
    | NodeNews
    | ManyNews
    | ViewRefreshed
    | CommitBundle
    | GroupPlaced
    | DropGroup
    | Tick
)
Command = Place | Ended | Evicted | Recall | RefreshView | Spill | Infeasible | Unschedulable | Locate | WakeAt

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

    demand: Resources  # as it is booked
    strategy: Strategy | None = None
    gpus: int = 0  # in ten-thousandths
    of: InGroup | None = None
    queue: OrderedDict[int, Waiting] = field(default_factory=OrderedDict)  # lease_id -> oldest first

    def first(self) -> Waiting:
        return next(iter(self.queue.values()))


@dataclass(slots=True)
class Lease:
    request: Request
    demand: Resources  # as it is booked
    pool: Devices  # that its GPUs are from: the node's, or those of a bundle
    gpus: dict[int, int] = field(default_factory=dict)  # device -> how much of it
    blocked: bool = False
    resumed: bool = False  # took its CPU back by force once: may be part of an overbooked CPU count

    def held(self) -> Resources:
        return {name: n for name, n in self.demand.items() if not is_cpu(name)} if self.blocked else self.demand


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
        wish = policy.Wish(_booked(request, request.demand), request.strategy, request.argument_nbytes)
        if self.is_alone:
            return policy.choose(wish, self.nodes, policy.Here(self.node_id))
        here = policy.Here(self.node_id, self.turns.get(_key(request), ""), self.draws)
        nodes = self.nodes if only is None else {only: self.nodes[only]}
        group = group_of(request.strategy)
        is_part = group is None and len(nodes) > MANY and (own is not None or not policy.stays_here(wish, nodes, here))
        if is_part:
            nodes = self.candidates.narrow(wish, nodes, here)
        if own is not None:
            nodes = {**nodes, self.node_id: own}
        if group is not None:
            nodes = group_places.views(nodes, self.node_id, self.places.get(group.group_id), wish.demand)
            later = group_places.after(here.spread_after, nodes, self.node_id, request.strategy)
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
            _shrink(state, lease_id, demand)
        case OwnerGone(owner):
            for lease_id in list(state.owners.get(owner, ())):
                if lease_id in state.granted:
                    commands.append(Ended(lease_id))
                _forget(state, lease_id)
        case NodeNews():
            commands += _hear(state, (event,), now)
        case ManyNews(news):
            commands += _hear(state, news, now)
        case CommitBundle():
            commands += _commit(state, event, now)
        case GroupPlaced():
            commands += _group_placed(state, event, now)
        case DropGroup(group_id):
            commands += _drop(state, group_id)
        case ViewRefreshed():
            commands += _decide_unknown(state, [*state.unknown], now)
        case Tick():
            state.wake_at = None  # timers may fire a hair early: `plan` asks again if it is not time yet
            late = [lease_id for lease_id, until in state.unknown.items() if now >= until]
            commands += _decide_unknown(state, late, now)
            commands += _look_elsewhere(state, now)
            commands += _recall(state, now)
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
        if not _fits(state, group):  # nor will the rest of its group, in this pass
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
        if group := group_of(request.strategy):
            return _awaits_group(state, request, group, decision.reason)
        return f"{request.name} can never run here: {decision.reason}"
    if not (entry := state.waiting.get(lease_id)):
        return f"lease {lease_id} is not here: it is over or was never asked for"
    ahead = sum(1 for group in state.groups.values() for _ in _before(group, entry.seq))
    free = in_words(state.resources.available)
    waits_in = state.groups[entry.key]
    demand = waits_in.demand
    asked = in_words(without_zeros(entry.request.demand))
    if group := group_of(entry.request.strategy):
        asked += f" in {'its' if group.index < 0 else f'bundle {group.index} of its'} placement group"
        there = {name: next(iter(booked({name: 0}, group))) for name in entry.request.demand}
        free = in_words({name: state.resources.available[its] for name, its in there.items()}) + " there"
    where = policy.strategy_in_words(entry.request.strategy)
    if state.resources.fits(demand) and not _fits(state, waits_in):
        free += " in parts of several devices"
    text = f"{entry.request.name} waits for {asked}{where}; free: {free}; {ahead} ahead of it"
    if state.front and state.front.lease_id != lease_id and _bars(state.front, demand):
        text += f"; {state.waiting[state.front.lease_id].request.name} was overtaken too often and goes first"
    return text


def check(state: State) -> None:
    """Assert what holds between any two events. Looks at everything: for tests and debugging."""
    _check_places(state)
    _check_resources(state)
    _check_plan(state)


def _key(request: Request) -> GroupKey:
    return frozenset(_booked(request, request.demand).items()), request.strategy


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
        if state.can_refresh and _asks_for_unknown(state, request):
            return _await_view(state, request, now)
        return [Unschedulable(lease_id, decision.reason)]
    if not isinstance(decision, policy.Infeasible) and decision.node_id != state.node_id:
        return [_send(state, request, key, decision, now)]
    _took_turn(state, request, key)
    state.owners.setdefault(request.owner, {})[lease_id] = None
    group = group_of(request.strategy)
    if group is not None:
        state.in_group.setdefault(group.group_id, {})[lease_id] = None
    if isinstance(decision, policy.Infeasible):
        state.infeasible[lease_id] = request
        # A group that is not there comes by itself, as a rule: who asks for it knows that it has to wait.
        text = f"{request.name} {decision.reason}"
        return [Infeasible(lease_id, request.owner, text)] if group is None else _locate(state, group)
    _enter_queue(state, request, now)
    could_be_elsewhere = group is not None and group.index < 0 and isinstance(decision, policy.Wait)
    return _locate(state, group) if group is not None and could_be_elsewhere else []


def _locate(state: State, group: InGroup) -> list[Command]:
    return [] if group.group_id in state.places else [Locate(group.group_id)]


def _decide(state: State, request: Request) -> policy.Decision:
    """Where a request that has come is to be."""
    if request.hops and not state.is_alone:
        decision = state.choose(request, only=state.node_id)
        can_run = not isinstance(decision, policy.Infeasible)
        if isinstance(decision, policy.Chosen) or (can_run and request.hops >= state.hops_allowed(request)):
            return decision
    return state.choose(request)


def _send(state: State, request: Request, key: GroupKey, to: policy.Chosen | policy.Wait, now: float) -> Spill:
    """Have another node asked. What it is believed to have to spare is less by that."""
    node_id = to.node_id
    group = group_of(request.strategy)
    if group is not None:  # those that are to wait count, too, so that they wait in several places
        there = state.places[group.group_id][node_id]
        there.acquire_forced(dict(key[0]))
        state.sent_to.setdefault(group.group_id, deque()).append((now, there, dict(key[0])))
        _took_turn(state, request, key, node_id)
    elif isinstance(to, policy.Chosen):
        demand = dict(key[0])
        state.nodes[node_id].resources.acquire_forced(demand)
        state.sent.setdefault(node_id, deque()).append((now, demand))
        state.echoes.append((now, node_id))
        state.candidates.changed(node_id, state.nodes[node_id])
        _took_turn(state, request, key, node_id)
    state.draws += 1
    is_hop = group is None or group.group_id in state.bundles
    return Spill(request.lease_id, node_id, request.hops + is_hop)


def _took_turn(state: State, request: Request, key: GroupKey, node_id: str = "") -> None:
    strategy = request.strategy
    is_spread = strategy is not None and strategy.spread and not request.hops
    if (is_spread or (node_id and group_of(strategy) is not None)) and not state.is_alone:
        state.turns[key] = node_id or state.node_id
        state.turns.move_to_end(key)
        if len(state.turns) > _MAX_TURNS:
            state.turns.popitem(last=False)


def _hear(state: State, news: tuple[NodeNews, ...], now: float) -> list[Command]:
    commands: list[Command] = []
    for each in news:
        state.sent.pop(each.node_id, None)
        state.candidates.changed(each.node_id, state.nodes.get(each.node_id))
    if state.infeasible:
        for each in news:
            if each.joined and each.node_id in state.nodes:
                commands += _ask_again(state, each.node_id, now)
    return commands + _look_elsewhere(state, now, tuple(each.node_id for each in news))


def _recall(state: State, now: float) -> list[Command]:
    """Have leases asked back for one who has waited long; that one goes first then."""
    state.recalls_at = now
    found = recalls.due(state, now)
    if found is None:
        return []
    entry, lease_ids = found
    group = state.groups[entry.key]
    state.first_seq -= 1
    entry.seq = state.first_seq
    group.queue.move_to_end(entry.request.lease_id, last=False)
    state.front = Front(
        entry.request.lease_id, group.demand, state.max_overtakes, state.max_overtakes, now + state.bar_s
    )
    state.recalled_for = entry.request.lease_id
    state.recalled.update(dict.fromkeys(lease_ids))
    return [Recall(lease_id) for lease_id in lease_ids]


def _asks_for_unknown(state: State, request: Request) -> bool:
    affinity = None if request.strategy is None else request.strategy.affinity
    return affinity is not None and affinity.node_id not in state.nodes


def _await_view(state: State, request: Request, now: float) -> list[Command]:
    """Its node may have joined just now: who asks for it may have heard of it before this node has."""
    is_asked = bool(state.unknown)
    state.unknown[request.lease_id] = now + state.refresh_s
    state.infeasible[request.lease_id] = request
    state.owners.setdefault(request.owner, {})[request.lease_id] = None
    if group := group_of(request.strategy):
        state.in_group.setdefault(group.group_id, {})[request.lease_id] = None
    return [] if is_asked else [RefreshView()]


def _decide_unknown(state: State, lease_ids: list[int], now: float) -> list[Command]:
    commands: list[Command] = []
    for lease_id in lease_ids:
        request = state.infeasible[lease_id]
        decision = state.choose(request)
        _forget(state, lease_id)
        if isinstance(decision, policy.Infeasible) and decision.for_good:
            commands.append(Unschedulable(lease_id, decision.reason))
        else:
            commands += _request(state, request, now)
    return commands


def _ask_again(state: State, node_id: str, now: float) -> list[Command]:
    """A node has joined: perhaps it can have what no other could."""
    commands: list[Command] = []
    for lease_id, request in list(state.infeasible.items()):
        if group_of(request.strategy) is None and isinstance(state.choose(request, only=node_id), policy.Infeasible):
            continue
        decision = state.choose(request)
        if not isinstance(decision, policy.Infeasible):
            _forget(state, lease_id)
            commands.append(_send(state, request, _key(request), decision, now))
    return commands


def _look_elsewhere(
    state: State, now: float, node_ids: tuple[str, ...] | None = None, group_id: bytes | None = None
) -> list[Command]:
    """Send on what waits and could go to another node by now.

    `node_ids`: it is news of these only. `group_id`: only what is to be in this placement group.
    """
    commands: list[Command] = []
    if state.is_alone or not state.groups:
        return commands
    _forget_sent(state, now)
    state.looked_at = now if node_ids is None and group_id is None else state.looked_at
    for key, group in sorted(state.groups.items(), key=lambda item: item[1].first().seq):
        if group_id is not None and (group.of is None or group.of.group_id != group_id):
            continue
        while group.queue and (node_ids is None or _have_room(state, node_ids, group.demand)):
            entry = group.first()
            decision = state.choose(entry.request, own=_as_if_full(state))
            if not isinstance(decision, policy.Chosen) or decision.node_id == state.node_id:
                break
            rested = now >= entry.since + state.rest_s
            if entry.request.hops >= state.hops_allowed(entry.request) and not rested:
                break
            request = entry.request if not rested else msgspec.structs.replace(entry.request, hops=0)
            _forget(state, request.lease_id)
            commands.append(_send(state, request, key, decision, now))
    return commands


def _as_if_full(state: State) -> policy.NodeView:
    """This node, if nothing were free: what could be had here, `plan` gives."""
    full = NodeResources(state.resources.total)
    full.available = dict.fromkeys(full.total, 0)
    return policy.NodeView(full, state.labels)


def _have_room(state: State, node_ids: tuple[str, ...], demand: Resources) -> bool:
    return any(node_id in state.nodes and state.nodes[node_id].fits(demand) for node_id in node_ids)


def _forget_sent(state: State, now: float) -> None:
    """What was sent long ago and never reported was not taken there, or is over."""
    while state.echoes and now >= state.echoes[0][0] + state.echo_s:  # as in `_next_time`, to the last bit
        when, node_id = state.echoes.popleft()
        sent = state.sent.get(node_id)
        if not sent or sent[0][0] > when:
            continue  # it has reported since
        _, demand = sent.popleft()
        if not sent:
            del state.sent[node_id]
        if node_id in state.nodes:
            resources = state.nodes[node_id].resources
            for name, amount in demand.items():
                resources.available[name] = min(resources.available[name] + amount, resources.total[name])
            state.candidates.changed(node_id, state.nodes[node_id])
    for group_id, sent_to in list(state.sent_to.items()):
        while sent_to and now >= sent_to[0][0] + state.echo_s:
            _, there, demand = sent_to.popleft()
            there.release(demand)
        if not sent_to:
            del state.sent_to[group_id]


def _next_time(state: State, now: float) -> float | None:
    """When something has to be looked at again though nothing happens (s)."""
    times = []
    if state.front and state.front.barred_until is not None:
        times.append(state.front.barred_until)
    times += state.unknown.values()
    if state.waiting and recalls.could_be(state):
        times.append(max(recalls.oldest(state).since, state.recalls_at) + state.patience_s)
    if not state.is_alone and state.waiting:
        while state.echoes and state.echoes[0][1] not in state.sent:
            state.echoes.popleft()
        if state.echoes:  # gathered for a while: there may be as many as there are nodes
            times.append(max(state.echoes[0][0] + state.echo_s, state.looked_at + state.echo_s / 10))
        times += [sent_to[0][0] + state.echo_s for sent_to in state.sent_to.values()]
        firsts = [group.first() for group in state.groups.values()]
        tired = [entry for entry in firsts if entry.request.hops >= state.hops_allowed(entry.request)]
        times += [entry.since + state.rest_s for entry in tired if entry.since + state.rest_s > state.looked_at]
    return max(now, min(times)) if times else None


def _enter_queue(state: State, request: Request, now: float) -> None:
    key = _key(request)
    entry = state.waiting[request.lease_id] = Waiting(request, state.next_seq, key, now)
    state.next_seq += 1
    if key not in state.groups:
        demand = _booked(request, request.demand)
        gpus = request.demand.get("GPU", 0)
        state.groups[key] = Group(demand, request.strategy, gpus, group_of(request.strategy))
    state.groups[key].queue[request.lease_id] = entry


def _booked(request: Request, demand: Mapping[str, int]) -> Resources:
    """A demand of its, by the names of what it takes."""
    return booked(without_zeros(demand), group_of(request.strategy))


def _commit(state: State, event: CommitBundle, now: float) -> list[Command]:
    lease = state.granted.get(event.lease_id)
    held = state.bundles.setdefault(event.group_id, {})
    if lease is None or event.index in held:
        if not held:
            del state.bundles[event.group_id]
        return []  # late, or told twice
    held[event.index] = event.lease_id
    state.resources.grow(capacity(lease.demand, event.group_id, event.index))
    pools = state.pools.setdefault(event.group_id, {})
    pools[event.index] = Devices.of(lease.gpus, state.devices.count)
    for lease_id in state.in_group.get(event.group_id, ()):
        request = state.infeasible.get(lease_id)
        if request is not None and not isinstance(state.choose(request), policy.Infeasible):
            del state.infeasible[lease_id]
            _enter_queue(state, request, now)
    return []


def _group_placed(state: State, event: GroupPlaced, now: float) -> list[Command]:
    """Send on what is to be in a bundle that another node has."""
    commands: list[Command] = []
    group_id = event.group_id
    state.places[group_id] = group_places.learn(group_id, event.where, event.bundles, state.node_id)
    state.sent_to.pop(group_id, None)
    for lease_id in list(state.in_group.get(group_id, ())):
        request = state.infeasible.get(lease_id)
        decision = None if request is None else state.choose(request)
        if request is not None and isinstance(decision, (policy.Chosen, policy.Wait)):
            _forget(state, lease_id)
            commands.append(_send(state, request, _key(request), decision, now))
    return commands + (_look_elsewhere(state, now, group_id=group_id) if group_id in state.in_group else [])


def _drop(state: State, group_id: bytes) -> list[Command]:
    commands: list[Command] = []
    state.places.pop(group_id, None)
    state.sent_to.pop(group_id, None)
    for lease_id in list(state.in_group.get(group_id, ())):
        if lease_id in state.granted:
            commands.append(Evicted(lease_id))
        else:
            reason = "was to run in a placement group, which was removed"
            commands.append(Unschedulable(lease_id, reason, group_removed=True))
        _forget(state, lease_id)
    for index, lease_id in state.bundles.pop(group_id, {}).items():
        state.resources.drop(capacity(state.granted[lease_id].demand, group_id, index))
        _forget(state, lease_id)
    state.pools.pop(group_id, None)
    return commands


def _awaits_group(state: State, request: Request, group: InGroup, reason: str) -> str:
    if group.group_id not in state.bundles:
        return f"{request.name} waits for its placement group"
    return f"{request.name} waits for a bundle of its placement group: it {reason}"


def _place(state: State, group: Group) -> Place:
    lease_id, entry = next(iter(group.queue.items()))
    _leave_queue(state, lease_id)
    state.resources.acquire(group.demand)
    pool = _pool(state, group)
    assert pool is not None, group
    gpus = pool.acquire(group.gpus)
    state.granted[lease_id] = Lease(entry.request, group.demand, pool, gpus)
    state.lent += entry.request.is_lent
    return Place(lease_id, tuple(gpus))


def _fits(state: State, group: Group) -> bool:
    return state.resources.fits(group.demand) and _pool(state, group) is not None


def _pool(state: State, group: Group) -> Devices | None:
    """Where its GPUs can be taken from now; None when nowhere."""
    if group.of is None or not group.gpus:
        return state.devices if state.devices.fits(group.gpus) else None
    pools = state.pools.get(group.of.group_id, {})
    some = pools.values() if group.of.index < 0 else [pools[group.of.index]] if group.of.index in pools else []
    return next((pool for pool in some if pool.fits(group.gpus)), None)


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
    return {name: amount for name, amount in lease.demand.items() if is_cpu(name)}


def _shrink(state: State, lease_id: int, demand: Resources) -> None:
    lease = state.granted.get(lease_id)
    if not lease:
        return
    gpus = demand.get("GPU", 0)
    demand = _booked(lease.request, demand)
    if any(amount > lease.demand.get(name, 0) for name, amount in demand.items()):
        raise ValueError(f"lease {lease_id} holds {in_words(lease.demand)} and cannot shrink to {in_words(demand)}")
    before = lease.held()
    lease.demand = demand  # a new dict: the old one may be its group's
    after = lease.held()
    state.resources.release({name: amount - after.get(name, 0) for name, amount in before.items()})
    lease.gpus = lease.pool.shrink(lease.gpus, gpus)


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
    never_forced = dict.fromkeys(filter(is_cpu, state.resources.total), 0)
    for lease in state.granted.values():
        for name, amount in lease.held().items():
            taken[name] += amount
            if name in never_forced and not lease.resumed:
                never_forced[name] += amount
    for name, total in state.resources.total.items():
        available = state.resources.available[name]
        assert taken[name] + available == total, f"{name} leaked or was booked twice: {state}"
        assert available >= 0 or is_cpu(name), f"{name} is overbooked: {state}"
    for name, amount in never_forced.items():
        assert amount <= state.resources.total[name], f"{name} is overbooked, but not by resuming: {state}"
    assert state.resources.available.keys() == state.resources.total.keys(), state
    _check_devices(state)
    _check_bundles(state)


def _check_devices(state: State) -> None:
    for lease in state.granted.values():
        wanted = sum(n for name, n in lease.demand.items() if name == "GPU")
        if group := group_of(lease.request.strategy):
            wanted = lease.demand.get(f"GPU_group_{group.group_id.hex()}", 0)
        assert sum(lease.gpus.values()) == wanted, f"a lease has not the GPUs it holds: {state}"
        assert sum(part < UNIT for part in lease.gpus.values()) <= 1, f"a lease has parts of several GPUs: {state}"
    for pool in [state.devices, *(pool for pools in state.pools.values() for pool in pools.values())]:
        for device, free in enumerate(pool.free):
            parts = sum(lease.gpus.get(device, 0) for lease in state.granted.values() if lease.pool is pool)
            assert 0 <= free == pool.capacity[device] - parts, f"GPU {device} leaked or was booked twice: {state}"


def _check_bundles(state: State) -> None:
    more: Resources = {}
    for group_id, bundles in state.bundles.items():
        assert bundles, f"a group without bundles is remembered: {state}"
        assert state.pools[group_id].keys() == bundles.keys(), state
        for index, lease_id in bundles.items():
            lease = state.granted[lease_id]
            assert state.pools[group_id][index].capacity == [
                lease.gpus.get(device, 0) for device in range(state.devices.count)
            ], f"a bundle has not the GPUs that it holds: {state}"
            for name, amount in capacity(lease.demand, group_id, index).items():
                more[name] = more.get(name, 0) + amount
    assert state.pools.keys() == state.bundles.keys(), state
    of_groups = {name: n for name, n in state.resources.total.items() if is_of_a_group(name)}
    assert of_groups == more, f"resources of groups do not match their bundles: {state}"
    assert state.unknown.keys() <= state.infeasible.keys(), f"who waits for a node is not there: {state}"
    assert state.lent == sum(lease.request.is_lent for lease in state.granted.values()), state
    assert state.recalled.keys() <= state.granted.keys(), f"what was asked back is not there: {state}"
    requests = [*(lease.request for lease in state.granted.values()), *state.infeasible.values()]
    requests += [entry.request for entry in state.waiting.values()]
    in_groups = {(group.group_id, each.lease_id) for each in requests if (group := group_of(each.strategy))}
    indexed = {(group_id, lease_id) for group_id, leases in state.in_group.items() for lease_id in leases}
    assert in_groups == indexed, f"leases and their groups disagree: {state}"


def _check_plan(state: State) -> None:
    if not state.front:
        assert not state.waiting, f"somebody waits, but nobody is the front: {state}"
        return
    front = state.front
    oldest = min(state.waiting.values(), key=lambda entry: entry.seq)
    assert front.lease_id == oldest.request.lease_id, f"the front is not the oldest: {state}"
    assert not _fits(state, state.groups[oldest.key]), f"the front fits and still waits: {state}"
    assert (front.overtaken >= front.allowance) == (front.barred_until is not None), f"a bar out of turn: {state}"
    free_to_go = [group for group in state.groups.values() if not _bars(front, group.demand)]
    assert not any(_fits(state, group) for group in free_to_go), f"a request waits that fits: {state}"
    if front.barred_until is not None:
        assert state.wake_at is not None, f"nobody will lift the bar: {state}"
        assert state.wake_at <= front.barred_until, f"the bar will be lifted late: {state}"
