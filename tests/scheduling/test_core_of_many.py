"""Lease requests among several nodes, each of which decides from its own, late, view of the others."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aioray.labels import selector_of
from aioray.wire.strategies import Affinity, Strategy
from aioray_node.scheduling.core import (
    Command,
    Ended,
    Event,
    Infeasible,
    ManyNews,
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

SPREAD = Strategy(spread=True)


def view(labels: dict[str, str] | None = None, **amounts: float) -> NodeView:
    return NodeView(NodeResources(from_floats(amounts)), labels or {})


def node(node_id: str = "aa", *, others: dict[str, NodeView] | None = None, **amounts: float) -> State:
    state = State(NodeResources(from_floats(amounts)), node_id=node_id)
    state.nodes = {node_id: state.own, **(others or {})}
    return state


def request(
    lease_id: int,
    strategy: Strategy | None = None,
    *,
    hops: int = 0,
    nbytes: dict[str, int] | None = None,
    **amounts: float,
) -> Request:
    return Request(lease_id, "ann", from_floats(amounts), f"f{lease_id}", strategy, hops, nbytes or {})


def run(state: State, event: Event, now: float = 0.0) -> list[Command]:
    commands = handle(state, event, now)
    check(state)
    return [command for command in commands if not isinstance(command, WakeAt)]


def free(state: State, node_id: str, now: float = 0.0, **amounts: float) -> list[Command]:
    """A node reports what it has to spare."""
    state.nodes[node_id].resources.available.update(from_floats(amounts))
    return run(state, NodeNews(node_id), now)


def test_what_does_not_fit_here_goes_where_it_does() -> None:
    """
    1. one CPU here, one there: the first stays, the second goes, and the third waits here
    2. there reports that it is free again: the third goes
    """
    state = node(others={"bb": view(CPU=1)}, CPU=1)
    assert run(state, request(1, CPU=1)) == [Place(1)]
    assert run(state, request(2, CPU=1)) == [Spill(2, "bb", 1)]
    assert run(state, request(3, CPU=1)) == []
    assert explain(state, 3) == "f3 waits for 1 CPU; free: 0 CPU; 0 ahead of it"
    assert free(state, "bb", CPU=1) == [Spill(3, "bb", 1)]
    assert list(state.owners["ann"]) == [1]


def test_what_this_node_can_never_run_goes_to_one_that_can_and_waits_there() -> None:
    state = node(others={"bb": view(CPU=1, cat=1)}, CPU=8)
    assert run(state, request(1, CPU=1, cat=1)) == [Spill(1, "bb", 1)]
    assert run(state, request(2, CPU=1, cat=1)) == [Spill(2, "bb", 1)]


def test_a_head_without_cpus_runs_nothing() -> None:
    state = node(others={"bb": view(CPU=1), "cc": view(CPU=1)}, CPU=0)
    commands = [run(state, request(lease_id, CPU=1)) for lease_id in (1, 2, 3)]
    assert commands[:2] == [[Spill(1, "bb", 1)], [Spill(2, "cc", 1)]]
    assert isinstance(commands[2][0], Spill)


def test_what_no_node_can_have_is_asked_for_again_when_one_joins() -> None:
    """
    1. nobody has a cat: that is said, once
    2. a node joins without one: it waits on
    3. one joins that has: it goes there
    """
    others = {"bb": view(CPU=1)}
    state = node(others=others, CPU=1)
    assert run(state, request(1, cat=1)) == [Infeasible(1, "ann", "f1 needs 1 cat, the best node, aa, has 0")]
    assert isinstance(state.nodes, dict)
    state.nodes["cc"] = view(CPU=1)
    assert run(state, NodeNews("cc", joined=True)) == []
    state.nodes["dd"] = view(cat=1)
    assert run(state, NodeNews("dd", joined=True)) == [Spill(1, "dd", 1)]
    assert not state.infeasible


def test_a_request_that_was_sent_here_stays_if_it_fits() -> None:
    """However much the policy would like another node for it."""
    state = node("bb", others={"aa": view(CPU=4), "cc": view(CPU=4)}, CPU=1)
    assert run(state, request(1, SPREAD, hops=1, CPU=1)) == [Place(1)]
    assert run(state, request(2, SPREAD, hops=1, CPU=1)) == [Spill(2, "aa", 2)]


def test_a_request_moves_a_few_times_quickly_and_then_only_when_it_has_waited() -> None:
    """
    1. it has made its hops: it waits, though there seems to be room elsewhere
    2. a report says so again: it waits on
    3. a second later it goes, with all its hops before it
    """
    state = node("bb", others={"aa": view(CPU=1)}, CPU=1)
    run(state, request(1, CPU=1))
    assert handle(state, request(2, hops=3, CPU=1), 10.0) == [WakeAt(11.0)]
    assert free(state, "aa", now=10.5, CPU=1) == []
    assert run(state, Tick(), now=11.0) == [Spill(2, "aa", 1)]


def test_who_can_never_run_it_passes_it_on_however_often_it_has_moved() -> None:
    state = node("bb", others={"aa": view(CPU=1, cat=1)}, CPU=1)
    assert run(state, request(1, hops=3, cat=1)) == [Spill(1, "aa", 4)]


def test_what_was_sent_away_counts_until_it_should_have_been_reported() -> None:
    """
    1. there is believed to be full, since one was sent there: the next waits
    2. nothing is reported for a second: nothing was taken, and so it goes, too
    """
    state = node(others={"bb": view(CPU=1)}, CPU=0)
    assert handle(state, request(1, CPU=1), 0.0) == [Spill(1, "bb", 1), WakeAt(1.0)]
    state.resources.total["CPU"] = state.resources.available["CPU"] = UNIT
    run(state, request(2, CPU=1))
    assert handle(state, request(3, CPU=1), 0.5) == [], "it will be looked then anyway"
    assert run(state, Tick(), now=1.0) == [Spill(3, "bb", 1)]


def test_what_was_sent_away_is_forgotten_in_time_where_nothing_waits() -> None:
    """What the node has to spare is read by others, too; it reports nothing of what came and went between reports."""
    state = node(others={"bb": view(CPU=2)}, CPU=0)
    assert handle(state, request(1, CPU=1), 0.0) == [Spill(1, "bb", 1), WakeAt(1.0)]
    assert handle(state, request(2, CPU=1), 0.5) == [Spill(2, "bb", 1)]
    assert handle(state, Tick(), 1.0) == [WakeAt(1.5)]
    assert handle(state, Tick(), 1.5) == []
    assert state.nodes["bb"].resources.available == state.nodes["bb"].resources.total


def test_spread_goes_round_and_takes_this_node_in_its_turn() -> None:
    state = node("bb", others={"aa": view(CPU=9), "cc": view(CPU=9)}, CPU=9)
    went = [run(state, request(lease_id, SPREAD, CPU=1))[0] for lease_id in range(1, 7)]
    assert went == [Spill(1, "aa", 1), Place(2), Spill(3, "cc", 1), Spill(4, "aa", 1), Place(5), Spill(6, "cc", 1)]


def test_spread_goes_round_where_all_are_believed_to_be_full_too() -> None:
    """
    1. each has room for one; then they wait in turn, here as well: short tasks are over before nodes say so
    2. who was sent by another node waits where it is
    """
    state = node("bb", others={"aa": view(CPU=1), "cc": view(CPU=1)}, CPU=1)
    went = [run(state, request(lease_id, SPREAD, CPU=1)) for lease_id in range(1, 7)]
    assert went == [[Spill(1, "aa", 1)], [Place(2)], [Spill(3, "cc", 1)], [Spill(4, "aa", 1)], [], [Spill(6, "cc", 1)]]
    assert run(state, request(10, SPREAD, hops=1, CPU=1)) == []
    assert run(state, Return(2)) == [Place(5)]


def test_a_request_goes_where_its_arguments_lie_unless_that_is_full() -> None:
    state = node(others={"bb": view(CPU=2)}, CPU=4)
    assert run(state, request(1, nbytes={"bb": 1 << 20, "aa": 1}, CPU=1)) == [Spill(1, "bb", 1)]
    assert run(state, request(2, nbytes={"bb": 1 << 20}, CPU=1)) == [Spill(2, "bb", 1)]
    assert run(state, request(3, nbytes={"bb": 1 << 20}, CPU=1)) == [Place(3)]


def test_an_affinity_is_waited_for_where_it_is() -> None:
    """
    1. hard or soft, it waits at that node, though this one is free
    2. to this one: it stays though others have room
    """
    state = node(others={"bb": view(CPU=1)}, CPU=1)
    free(state, "bb", CPU=0)
    assert run(state, request(1, Strategy(affinity=Affinity("bb")), CPU=1)) == [Spill(1, "bb", 1)]
    assert run(state, request(2, Strategy(affinity=Affinity("bb", soft=True)), CPU=1)) == [Spill(2, "bb", 1)]
    assert run(state, request(3, CPU=1)) == [Place(3)]
    home = Strategy(affinity=Affinity("aa", soft=True))
    assert run(state, request(4, home, CPU=1)) == []
    assert free(state, "bb", CPU=1) == []
    assert run(state, Return(3)) == [Place(4)]


def test_a_large_request_is_not_starved_by_small_ones_that_others_send() -> None:
    """Those that come by another node wait behind its bar, like all others, or go on."""
    state = node("bb", others={"aa": view(CPU=1)}, CPU=2)
    state.max_overtakes = 2
    free(state, "aa", CPU=0)
    run(state, request(1, CPU=1))
    assert run(state, request(2, CPU=2)) == []
    assert run(state, request(3, hops=1, CPU=1)) == [Place(3)]
    assert run(state, Return(3)) == []
    assert run(state, request(4, hops=1, CPU=1)) == [Place(4)]
    assert run(state, Return(4)) == []
    assert run(state, request(5, hops=1, CPU=1)) == []
    assert free(state, "aa", CPU=1) == [Spill(5, "aa", 2)]
    assert run(state, Return(1)) == [Place(2)]


def test_those_behind_a_waiting_one_of_their_kind_cost_no_look_at_other_nodes() -> None:
    looks = 0

    class Counted(NodeResources):
        def fits(self, demand: object) -> bool:
            nonlocal looks
            looks += 1
            return False

    others = {f"n{i}": NodeView(Counted({"CPU": UNIT})) for i in range(100)}
    state = node(others=others, CPU=1)
    for lease_id in range(1000):
        handle(state, request(lease_id, CPU=1), 0.0)
    assert looks < 300


class ManyNodes(RuleBasedStateMachine):
    """Requests wander among nodes whose views are late: each is in one place, and in the end all that can run have run.

    A caller does as it is told: it asks its own node, and then others. Reports are changes only.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        totals = {"aa": {"CPU": 2.0}, "bb": {"CPU": 3.0, "cat": 1.0}, "cc": {"CPU": 2.0, "GPU": 1.0}}
        self.states: dict[str, State] = {}
        for node_id, amounts in totals.items():
            state = State(NodeResources(from_floats(amounts)), 2, 3.0, node_id=node_id, labels={"k": node_id})
            others = {each: NodeView(NodeResources(from_floats(of)), {"k": each}) for each, of in totals.items()}
            state.nodes = {**others, node_id: state.own}
            self.states[node_id] = state
        self.reported: dict[str, dict[str, int]] = {each: dict(of.resources.total) for each, of in self.states.items()}
        self.where: dict[int, str] = {}  # of requests that are not over, where they were last sent
        self.running: dict[int, str] = {}
        self.moves: dict[int, list[float]] = {}
        self.over: set[int] = set()
        self.seen: dict[int, Request] = {}
        self.on_the_way: list[tuple[str, Request]] = []

    def feed(self, node_id: str, event: Event) -> None:
        for command in handle(self.states[node_id], event, self.now):
            match command:
                case Place(lease_id):
                    assert lease_id not in self.running
                    assert lease_id not in self.over
                    self.running[lease_id] = node_id
                case Spill(lease_id, to, hops):
                    assert to != node_id
                    self.where[lease_id] = to
                    self.moves.setdefault(lease_id, []).append(self.now)
                    moved = Request(
                        lease_id, "ann", self.seen[lease_id].demand, "f", self.seen[lease_id].strategy, hops
                    )
                    self.on_the_way.append((to, moved))
                case Unschedulable(lease_id) | Ended(lease_id):
                    self.over.add(lease_id)
                    self.running.pop(lease_id, None)
                    del self.where[lease_id]
                case Infeasible() | WakeAt():
                    pass
        check(self.states[node_id])

    @rule(
        home=st.sampled_from(["aa", "bb", "cc"]),
        times=st.integers(1, 4),
        demand=st.sampled_from([{"CPU": 1}, {"CPU": 1.5}, {"CPU": 3}, {"cat": 1}, {"GPU": 0.5}, {"CPU": 9}, {}]),
        strategy=st.sampled_from(
            [
                None,
                None,
                SPREAD,
                Strategy(affinity=Affinity("bb")),
                Strategy(affinity=Affinity("aa", soft=True)),
                Strategy(affinity=Affinity("cc", soft=True, spill_on_unavailable=True)),
                Strategy(affinity=Affinity("zz")),
                Strategy(selectors=(selector_of({"k": "cc"}), selector_of({"k": "in(aa, bb)"}))),
            ]
        ),
    )
    def ask(self, home: str, demand: dict[str, float], strategy: Strategy | None, times: int) -> None:
        for _ in range(times):
            lease_id = len(self.seen) + 1
            self.seen[lease_id] = Request(lease_id, "ann", from_floats(demand), "f", strategy)
            self.where[lease_id] = home
            self.feed(home, self.seen[lease_id])

    @rule()
    def deliver(self) -> None:
        if self.on_the_way:
            to, moved = self.on_the_way.pop(0)
            if moved.lease_id not in self.over:
                self.feed(to, moved)

    @rule(which=st.integers(0, 100))
    def finish(self, which: int) -> None:
        if self.running:
            lease_id = sorted(self.running)[which % len(self.running)]
            node_id = self.running.pop(lease_id)
            self.over.add(lease_id)
            del self.where[lease_id]
            self.feed(node_id, Return(lease_id))

    @rule(which=st.integers(0, 100))
    def withdraw(self, which: int) -> None:
        if self.where:
            lease_id = sorted(self.where)[which % len(self.where)]
            node_id = self.where.pop(lease_id)
            self.over.add(lease_id)
            self.running.pop(lease_id, None)
            self.on_the_way = [(to, moved) for to, moved in self.on_the_way if moved.lease_id != lease_id]
            self.feed(node_id, Return(lease_id))

    @rule(node_id=st.sampled_from(["aa", "bb", "cc"]))
    def report(self, node_id: str) -> None:
        available = dict(self.states[node_id].resources.available)
        if available != self.reported[node_id]:
            self.reported[node_id] = available
            for other, state in self.states.items():
                if other != node_id:
                    state.nodes[node_id].resources.available = dict(available)
                    self.feed(other, NodeNews(node_id))

    @rule(node_id=st.sampled_from(["aa", "bb", "cc"]))
    def hear_old_news(self, node_id: str) -> None:
        """A report from when the node was idle comes only now, and requests that follow from it arrive."""
        self.reported[node_id] = dict(self.states[node_id].resources.total)
        for other, state in self.states.items():
            if other != node_id:
                state.nodes[node_id].resources.available = dict(self.reported[node_id])
                self.feed(other, NodeNews(node_id))
        for _ in range(len(self.on_the_way)):
            self.deliver()

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for node_id, state in self.states.items():
            if state.wake_at is not None and state.wake_at <= self.now:
                self.feed(node_id, Tick())

    @invariant()
    def each_request_is_in_one_place(self) -> None:
        travelling = {moved.lease_id for _, moved in self.on_the_way}
        for lease_id, node_id in self.where.items():
            state = self.states[node_id]
            here = lease_id in state.waiting or lease_id in state.granted or lease_id in state.infeasible
            assert here != (lease_id in travelling), lease_id
        for state in self.states.values():
            assert all(lease_id in self.where for lease_id in [*state.waiting, *state.granted, *state.infeasible])

    @invariant()
    def none_goes_to_and_fro(self) -> None:
        """Three hops, after each rest, and one more from a node that can never run it."""
        for moves in self.moves.values():
            for at, when in enumerate(moves[5:], 5):
                assert when - moves[at - 5] > 0.0, moves

    def settle(self, rounds: int) -> None:
        """All is delivered and reported, and time goes by."""
        for _ in range(rounds):
            while self.on_the_way:
                self.deliver()
            for node_id in self.states:
                self.report(node_id)
            self.pass_time(1.0)

    def teardown(self) -> None:
        """
        1. nothing new happens: none waits that another node has room for
        2. everybody ends what it has: all that can ever run does
        """
        self.settle(12)
        queued = {lease_id for state in self.states.values() for lease_id in state.waiting}
        for lease_id in queued:
            request = self.seen[lease_id]
            if request.strategy is None or request.strategy.spread:
                for node_id, state in self.states.items():
                    fits = state.own.fits(request.demand) and not state.waiting
                    assert not fits, f"{request} waits at {self.where[lease_id]}, and {node_id} is free"
        for _ in range(30 + 4 * len(self.where)):
            if not any(state.waiting for state in self.states.values()) and not self.running and not self.on_the_way:
                break
            while self.running:
                self.finish(0)
            self.settle(1)
        stuck = {lease_id: explain(self.states[at], lease_id) for lease_id, at in self.where.items()}
        assert all("can never run" in text for text in stuck.values()), stuck
        for state in self.states.values():
            assert state.resources.available == state.resources.total


TestManyNodes = ManyNodes.TestCase
TestManyNodes.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


def test_news_of_several_nodes_at_once_are_as_those_of_each() -> None:
    """
    1. three wait; two nodes report a free CPU each, and a third one has joined
    2. one goes to each
    """
    state = node(others={"bb": view(CPU=1), "cc": view(CPU=1)}, CPU=1)
    for other in ("bb", "cc"):
        state.nodes[other].resources.available["CPU"] = 0
    assert run(state, request(9, CPU=1)) == [Place(9)]
    for lease_id in (1, 2, 3):
        assert run(state, request(lease_id, CPU=1)) == []
    for other in ("bb", "cc"):
        state.nodes[other].resources.available["CPU"] = UNIT
    assert isinstance(state.nodes, dict)
    state.nodes["dd"] = view(CPU=1)
    news = ManyNews((NodeNews("bb"), NodeNews("cc"), NodeNews("dd", joined=True)))
    spilled = [command for command in run(state, news, 2.0) if isinstance(command, Spill)]
    assert {command.node_id for command in spilled} == {"bb", "cc", "dd"}
