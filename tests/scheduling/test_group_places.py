"""Leases in placement groups of which other nodes have bundles: `scheduling/core.py` with `group_places.py`."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aioray.wire.strategies import Affinity, InGroup, LabelTerm, Strategy
from aioray_node.scheduling.core import (
    Command,
    CommitBundle,
    DropGroup,
    Event,
    Evicted,
    GroupPlaced,
    Locate,
    NodeNews,
    Place,
    Request,
    Return,
    Spill,
    State,
    Tick,
    Unschedulable,
    WakeAt,
    check,
    explain,
    handle,
)
from aioray_node.scheduling.policy import NodeView
from aioray_node.scheduling.resources import UNIT, NodeResources, from_floats

A = b"a" * 16
ONE = {"CPU": UNIT}
SSD = (LabelTerm("disk", "in", ("ssd",)),)


def node(node_id: str = "aa", *others: str, cpus: float = 4) -> State:
    state = State(NodeResources(from_floats({"CPU": cpus})), node_id=node_id)
    views = {each: NodeView(NodeResources(from_floats({"CPU": cpus}))) for each in others}
    state.nodes = {node_id: state.own, **views}
    return state


def request(lease_id: int, index: int = -1, hops: int = 0, cpus: float = 1, group: bytes = A) -> Request:
    return Request(lease_id, "ann", from_floats({"CPU": cpus}), "f", Strategy(group=InGroup(group, index)), hops)


def run(state: State, event: Event, now: float = 0.0) -> list[Command]:
    commands = handle(state, event, now)
    check(state)
    return [command for command in commands if not isinstance(command, WakeAt)]


def book(state: State, lease_id: int, index: int, cpus: float = 1) -> None:
    """A bundle here."""
    run(state, Request(lease_id, "gcs", from_floats({"CPU": cpus}), "a bundle"))
    run(state, CommitBundle(lease_id, A, index))


def test_who_asks_for_a_bundle_elsewhere_goes_there_as_soon_as_that_is_known() -> None:
    """
    1. nobody here knows the group: the first that asks for it has it looked for
    2. it is on bb and cc: both requests go to their bundle, and so do later ones at once
    """
    state = node("aa", "bb", "cc")
    assert run(state, request(1, 0)) == [Locate(A)]
    assert run(state, request(2, 1)) == [Locate(A)]
    assert run(state, GroupPlaced(A, {0: "bb", 1: "cc"}, [ONE, ONE])) == [Spill(1, "bb", 0), Spill(2, "cc", 0)]
    assert run(state, request(3, 1)) == [Spill(3, "cc", 0)]


def test_those_for_any_bundle_are_shared_out_this_node_first() -> None:
    """Two here, two there: what was sent there lately counts as taken."""
    state = node("aa", "bb")
    book(state, 100, 0, 2)
    run(state, GroupPlaced(A, {0: "aa", 1: "bb"}, [{"CPU": 2 * UNIT}, {"CPU": 2 * UNIT}]))
    assert run(state, request(1)) == [Place(1)]
    sent = [run(state, request(lease_id)) for lease_id in (2, 3, 4)]
    assert sorted(type(commands[0]).__name__ for commands in sent) == ["Place", "Spill", "Spill"]
    assert run(state, request(5)) == []
    assert run(state, Tick(), now=1.0) == [Spill(5, "bb", 1)]  # by now there may be room


def test_who_comes_to_a_full_bundle_waits_there_if_all_others_were_tried() -> None:
    """Of two places it was at the other one before; it moves again when it has waited for a second."""
    state = node("bb", "aa")
    book(state, 100, 1)
    run(state, GroupPlaced(A, {0: "aa", 1: "bb"}, [ONE, ONE]))
    run(state, request(1, hops=1))
    assert run(state, request(2, hops=1)) == []
    assert explain(state, 2).startswith("f waits for 1 CPU in its placement group; free: 0 CPU there")
    assert run(state, Tick(), now=0.5) == []
    assert run(state, Tick(), now=1.0) == [Spill(2, "aa", 1)]


def test_who_waits_is_sent_to_each_of_the_other_places_in_turn() -> None:
    """Whom aa sends back, as it is full, is not sent there again: cc may have room."""
    state = node("bb", "aa", "cc")
    book(state, 100, 1)
    run(state, GroupPlaced(A, {0: "aa", 1: "bb", 2: "cc"}, [ONE, ONE, ONE]))
    assert run(state, request(1, hops=1)) == [Place(1)]
    sent = []
    for turn in range(4):
        assert run(state, request(2 + turn, hops=2), now=turn) == []
        (spill,) = run(state, Tick(), now=turn + 1.0)
        assert isinstance(spill, Spill)
        sent.append(spill.node_id)
    assert sent == ["aa", "cc", "aa", "cc"]


def test_who_waits_for_a_place_that_it_likes_is_sent_to_the_others_in_their_turn() -> None:
    """Two that it likes are full. They would send it to each other for ever, though the third has room."""
    state = node("bb", "aa", "cc")
    state.nodes = {**state.nodes, "aa": NodeView(state.nodes["aa"].resources, {"disk": "ssd"})}
    book(state, 100, 1)
    run(state, GroupPlaced(A, {0: "aa", 1: "bb", 2: "cc"}, [ONE, ONE, ONE]))
    assert run(state, request(1, hops=1)) == [Place(1)]
    for kind, liking in enumerate(
        (Strategy(group=InGroup(A), preferred=SSD), Strategy(group=InGroup(A), selectors=(SSD, ())))
    ):
        sent = []
        for turn in range(4):
            lease_id, now = 2 + 4 * kind + turn, 10.0 * kind + turn
            assert run(state, Request(lease_id, "ann", ONE, "f", liking, 2), now) == []
            (spill,) = run(state, Tick(), now + 1.0)
            assert isinstance(spill, Spill)
            sent.append(spill.node_id)
        assert sent == ["aa", "cc", "aa", "cc"]


def test_who_comes_before_the_bundle_waits_for_it() -> None:
    """Word that the group is there came to the caller sooner than to the node that has the bundle."""
    state = node("bb", "aa")
    run(state, Request(100, "gcs", ONE, "a bundle"))
    assert run(state, request(1, 1)) == [Locate(A)]
    assert run(state, GroupPlaced(A, {0: "aa", 1: "bb"}, [ONE, ONE])) == []
    assert run(state, CommitBundle(100, A, 1)) == [Place(1)]


def test_a_bundle_that_was_lost_is_waited_for_until_it_is_somewhere_else() -> None:
    """
    1. bb has died with the bundle, and the group is not placed again yet
    2. the bundle is on cc, of which this node hears only then
    """
    state = node("aa", "bb")
    run(state, GroupPlaced(A, {0: "bb"}, [ONE]))
    assert isinstance(state.nodes, dict)
    del state.nodes["bb"]
    run(state, NodeNews("bb"))
    assert run(state, request(1, 0)) == []
    assert run(state, GroupPlaced(A, {0: "cc"}, [ONE])) == []
    state.nodes["cc"] = NodeView(NodeResources(dict(ONE)))
    assert run(state, NodeNews("cc", joined=True)) == [Spill(1, "cc", 0)]


def test_what_waits_for_a_group_that_is_removed_is_over_and_nothing_is_remembered() -> None:
    state = node("aa", "bb")
    run(state, request(1))
    (over,) = run(state, DropGroup(A))
    assert isinstance(over, Unschedulable)
    assert over.group_removed
    run(state, GroupPlaced(A, {0: "bb"}, [ONE]))
    run(state, request(2))
    run(state, DropGroup(A))
    assert not state.places
    assert not state.sent_to


class Places(RuleBasedStateMachine):
    """Leases of groups wander among three nodes, which hear late of groups: each is in one place, all of them run."""

    NODES = ("aa", "bb", "cc")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.states = {each: node(each, *(set(self.NODES) - {each}), cpus=1000) for each in self.NODES}
        self.lines: dict[str, list[Event]] = {each: [] for each in self.NODES}  # from the head, in order
        self.groups: dict[bytes, GroupPlaced] = {}
        self.dropped: set[bytes] = set()
        self.watchers: dict[bytes, set[str]] = {}
        self.next_id = 0
        self.seen: dict[int, Request] = {}
        self.where: dict[int, str] = {}  # of leases that are not over
        self.running: dict[int, str] = {}
        self.on_the_way: list[tuple[str, Request]] = []

    def feed(self, node_id: str, event: Event) -> None:
        state = self.states[node_id]
        for command in handle(state, event, self.now):
            match command:
                case Place(lease_id):
                    if lease_id in self.seen:
                        assert lease_id not in self.running
                        self.running[lease_id] = node_id
                case Spill(lease_id, to, hops):
                    assert to != node_id
                    self.where[lease_id] = to
                    before = self.seen[lease_id]
                    assert before.strategy is not None
                    assert before.strategy.group is not None
                    index, group = before.strategy.group.index, before.strategy.group.group_id
                    self.on_the_way.append((to, request(lease_id, index, hops, before.demand["CPU"] / UNIT, group)))
                case Unschedulable(lease_id) | Evicted(lease_id):
                    group_id = self.group_of(lease_id)
                    assert group_id in self.dropped
                    self.running.pop(lease_id, None)
                    del self.where[lease_id]
                case Locate(group_id):
                    self.watchers.setdefault(group_id, set()).add(node_id)
                    if group_id in self.dropped:
                        self.lines[node_id].append(DropGroup(group_id))
                    elif group_id in self.groups:
                        self.lines[node_id].append(self.groups[group_id])
                case WakeAt():
                    pass
                case _:
                    raise AssertionError(command)
        check(state)

    def group_of(self, lease_id: int) -> bytes:
        strategy = self.seen[lease_id].strategy
        assert strategy is not None
        assert strategy.group is not None
        return strategy.group.group_id

    @rule(number=st.integers(0, 3), nodes=st.lists(st.sampled_from(NODES), min_size=1, max_size=4))
    def create(self, number: int, nodes: list[str]) -> None:
        group_id = bytes([number]) * 16
        if group_id in self.groups or group_id in self.dropped:
            return
        bundles = [{"CPU": (1 + at % 2) * UNIT} for at in range(len(nodes))]
        for index, node_id in enumerate(nodes):
            self.next_id += 1
            hold = Request(self.next_id, "gcs", bundles[index], "a bundle", Strategy(affinity=Affinity(node_id)))
            self.feed(node_id, hold)
            self.lines[node_id].append(CommitBundle(self.next_id, group_id, index))
        placed = self.groups[group_id] = GroupPlaced(group_id, dict(enumerate(nodes)), bundles)
        for watcher in self.watchers.get(group_id, ()):
            self.lines[watcher].append(placed)

    @precondition(lambda self: self.groups)
    @rule(which=st.integers(0, 3))
    def drop(self, which: int) -> None:
        group_id = sorted(self.groups)[which % len(self.groups)]
        placed = self.groups.pop(group_id)
        self.dropped.add(group_id)
        for node_id in {*placed.where.values(), *self.watchers.get(group_id, ())}:
            self.lines[node_id].append(DropGroup(group_id))

    @rule(
        home=st.sampled_from(NODES),
        number=st.integers(0, 3),
        index=st.sampled_from([-1, -1, 0, 1]),
        cpus=st.sampled_from([0.5, 1, 2]),
        times=st.integers(1, 4),
    )
    def ask(self, home: str, number: int, index: int, cpus: float, times: int) -> None:
        for _ in range(times):
            self.next_id += 1
            self.seen[self.next_id] = request(self.next_id, index, 0, cpus, bytes([number]) * 16)
            self.where[self.next_id] = home
            self.feed(home, self.seen[self.next_id])

    @rule(node_id=st.sampled_from(NODES))
    def hear(self, node_id: str) -> None:
        if self.lines[node_id]:
            self.feed(node_id, self.lines[node_id].pop(0))

    @rule()
    def deliver(self) -> None:
        if self.on_the_way:
            to, moved = self.on_the_way.pop(0)
            self.feed(to, moved)

    @rule(which=st.integers(0, 100))
    def finish(self, which: int) -> None:
        if self.running:
            lease_id = sorted(self.running)[which % len(self.running)]
            node_id = self.running.pop(lease_id)
            del self.where[lease_id]
            self.feed(node_id, Return(lease_id))

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for node_id, state in self.states.items():
            if state.wake_at is not None and state.wake_at <= self.now:
                self.feed(node_id, Tick())

    @invariant()
    def each_lease_is_in_one_place(self) -> None:
        travelling = {moved.lease_id for _, moved in self.on_the_way}
        for lease_id, node_id in self.where.items():
            state = self.states[node_id]
            here = lease_id in state.waiting or lease_id in state.granted or lease_id in state.infeasible
            assert here != (lease_id in travelling), lease_id

    def settle(self) -> None:
        """All is heard, and time goes by."""
        for _ in range(8):
            while self.on_the_way or any(self.lines.values()):
                self.deliver()
                for node_id in self.NODES:
                    self.hear(node_id)
            self.pass_time(1.0)

    def teardown(self) -> None:
        """
        1. nothing new happens: none waits for any bundle beside one that is free
        2. everybody ends what it has: all that fits in a bundle has run; those of removed groups are over
        3. the groups are removed: nothing is left of them
        """
        self.settle()
        for state in self.states.values():
            for lease_id in state.waiting:
                wanted = self.seen[lease_id]
                group = state.groups[state.waiting[lease_id].key]
                for other in self.states.values():
                    free = other.resources.fits(group.demand) and not other.waiting
                    assert not free, f"{wanted} waits at {self.where[lease_id]}, and {other.node_id} is free"
        while self.running:
            while self.running:
                self.finish(0)
            self.settle()
        for lease_id in self.where:
            group_id, strategy = self.group_of(lease_id), self.seen[lease_id].strategy
            assert group_id not in self.dropped, lease_id
            assert strategy is not None
            assert strategy.group is not None
            placed = self.groups.get(group_id)
            index = strategy.group.index
            some = [] if placed is None else placed.bundles if index < 0 else placed.bundles[index : index + 1]
            fits = any(self.seen[lease_id].demand["CPU"] <= bundle["CPU"] for bundle in some)
            assert not fits, f"{self.seen[lease_id]} has not run"
        while self.groups:
            self.drop(0)
        self.settle()
        for state in self.states.values():
            assert not state.places
            assert state.resources.available == state.resources.total


TestPlaces = Places.TestCase
TestPlaces.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
