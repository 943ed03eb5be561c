from collections.abc import Mapping

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from aioray.labels import selector_of
from aioray.wire.strategies import Affinity, Strategy
from aioray_node.scheduling.core import (
    Blocked,
    Command,
    DropGroup,
    Ended,
    Event,
    Evicted,
    Infeasible,
    OwnerGone,
    Place,
    Request,
    Return,
    Shrink,
    State,
    Tick,
    Unblocked,
    Unschedulable,
    WakeAt,
    Withdraw,
    check,
    explain,
    handle,
)
from aioray_node.scheduling.resources import UNIT, NodeResources, from_floats


def node(max_overtakes: int = 64, bar_s: float = 10.0, **amounts: float) -> State:
    return State(NodeResources(from_floats(amounts)), max_overtakes, bar_s)


def request(lease_id: int, owner: str = "ann", name: str = "", **amounts: float) -> Request:
    return Request(lease_id, owner, from_floats(amounts), name or f"f{lease_id}")


def run(state: State, event: Event, now: float = 0.0) -> list[Command]:
    commands = handle(state, event, now)
    check(state)
    return commands


def test_leases_are_placed_in_order_as_cpus_come_free() -> None:
    """
    1. one CPU: the first is placed, two wait
    2. the first comes back: the second goes, not the third
    """
    state = node(CPU=1)
    assert run(state, request(1, CPU=1)) == [Place(1)]
    assert run(state, request(2, CPU=1)) == []
    assert run(state, request(3, CPU=1)) == []
    assert run(state, Return(1)) == [Place(2)]
    assert run(state, Return(2)) == [Place(3)]
    assert run(state, Return(3)) == []
    assert state.resources.available == state.resources.total


def test_one_return_places_as_many_as_now_fit() -> None:
    state = node(CPU=4)
    assert run(state, request(1, CPU=4)) == [Place(1)]
    for lease_id in range(2, 5):
        assert run(state, request(lease_id, CPU=1.5)) == []
    assert run(state, Return(1)) == [Place(2), Place(3)]


def test_a_small_request_passes_a_big_one_that_does_not_fit_now() -> None:
    state = node(CPU=2)
    assert run(state, request(1, CPU=1)) == [Place(1)]
    assert run(state, request(2, CPU=2)) == []
    assert run(state, request(3, CPU=1)) == [Place(3)]
    assert run(state, Return(1)) == []
    assert run(state, Return(3)) == [Place(2)]


def test_the_front_is_overtaken_only_so_many_times() -> None:
    """
    1. 2 waits for both CPUs; 3 and 4 pass it, which is all it puts up with
    2. 5 would fit, but waits behind it
    3. both CPUs have come free: 2 goes, then 5
    """
    state = node(max_overtakes=2, CPU=2)
    run(state, request(1, CPU=1))
    run(state, request(2, CPU=2))
    assert run(state, request(3, CPU=1)) == [Place(3)]
    assert run(state, Return(3)) == []
    assert run(state, request(4, CPU=1), now=5.0) == [Place(4), WakeAt(15.0)]
    assert run(state, Return(4)) == []
    assert run(state, request(5, CPU=1), now=6.0) == []
    assert run(state, Return(1), now=7.0) == [Place(2)]
    assert run(state, Return(2), now=8.0) == [Place(5)]


def test_a_bar_is_lifted_when_what_the_front_waits_for_does_not_come() -> None:
    """
    1. an actor keeps a CPU for life, so that 2 can never have both while it lives
    2. 4 waits behind the bar; the timer comes a hair early and is asked for again
    3. the bar is lifted: 4 goes; the next bar comes after two more, not one
    """
    state = node(max_overtakes=1, CPU=2)
    run(state, request(1, name="actor", CPU=1))
    run(state, request(2, CPU=2))
    assert run(state, request(3, CPU=1)) == [Place(3), WakeAt(10.0)]
    assert run(state, request(4, CPU=1), now=1.0) == []
    assert run(state, Return(3), now=2.0) == []
    assert run(state, Tick(), now=9.999) == [WakeAt(10.0)]
    assert run(state, Tick(), now=10.0) == [Place(4), WakeAt(20.0)]
    assert state.front is not None
    assert (state.front.overtaken, state.front.allowance) == (2, 2)
    assert run(state, Return(4), now=11.0) == []
    assert run(state, Tick(), now=20.0) == []
    for lease_id in (5, 6):
        assert run(state, request(lease_id, CPU=1), now=21.0)[0] == Place(lease_id)
        run(state, Return(lease_id), now=21.0)
    assert run(state, request(7, CPU=1), now=22.0) == []


def test_the_bar_holds_up_only_those_who_want_what_the_front_wants() -> None:
    state = node(max_overtakes=1, CPU=2, GPU=1)
    run(state, request(1, CPU=1))
    run(state, request(2, CPU=2))
    assert run(state, request(3, CPU=1)) == [Place(3), WakeAt(10.0)]
    run(state, Return(3))
    assert run(state, request(4, CPU=1)) == []
    assert run(state, request(5, GPU=1)) == [Place(5, (0,))]
    assert run(state, request(6)) == [Place(6)]


def test_the_next_front_starts_to_count_from_nothing() -> None:
    state = node(max_overtakes=1, CPU=2)
    run(state, request(1, CPU=1))
    run(state, request(2, CPU=2))
    run(state, request(3, CPU=2))
    assert run(state, request(4, CPU=1)) == [Place(4), WakeAt(10.0)]
    assert run(state, Return(4)) == []
    assert run(state, Withdraw(2)) == []
    assert run(state, request(5, CPU=1), now=1.0) == [Place(5), WakeAt(11.0)]


def test_a_request_for_labels_that_the_node_has_not_waits_and_says_so_at_once() -> None:
    """
    1. 1 selects a region that is not ours: it is said, and nobody is held up
    2. 2 selects ours, or that: it goes
    3. 3 does not fit now: what it waits for is told with where
    """
    state = State(NodeResources(from_floats({"CPU": 1})), node_id="here", labels={"region": "eu"})
    us, eu = selector_of({"region": "us"}), selector_of({"region": "eu"})
    assert run(state, Request(1, "ann", {"CPU": UNIT}, "f", Strategy(selectors=(us,)))) == [
        Infeasible(1, "ann", "f needs a node with region=us, this node has region=eu")
    ]
    assert run(state, Request(2, "ann", {"CPU": UNIT}, "f", Strategy(selectors=(us, eu)))) == [Place(2)]
    assert run(state, Request(3, "ann", {"CPU": UNIT}, "f", Strategy(selectors=(eu,)))) == []
    assert explain(state, 1) == "f can never run here: needs a node with region=us, this node has region=eu"
    assert explain(state, 3) == "f waits for 1 CPU with region=eu; free: 0 CPU; 0 ahead of it"
    assert run(state, Return(2)) == [Place(3)]


def test_a_request_for_a_node_that_is_not_there_is_turned_away() -> None:
    """
    1. a node that does not exist: its owner hears, and nothing of it is kept
    2. the same, if it may be: it goes here
    3. here, and not if it would have to wait: it would
    """
    state = State(NodeResources(from_floats({"CPU": 1})), node_id="aa")
    reason = "was to run on node bb, which does not exist, or not any more"
    assert run(state, Request(1, "ann", {"CPU": UNIT}, "f", Strategy(affinity=Affinity("bb")))) == [
        Unschedulable(1, reason)
    ]
    assert not state.owners
    soft = Strategy(affinity=Affinity("bb", soft=True))
    assert run(state, Request(2, "ann", {"CPU": UNIT}, "f", soft)) == [Place(2)]
    now = Strategy(affinity=Affinity("aa", fail_on_unavailable=True))
    reason = "was not to wait for node aa, of which not enough is free"
    assert run(state, Request(3, "ann", {"CPU": UNIT}, "f", now)) == [Unschedulable(3, reason)]
    assert run(state, Request(4, "ann", {"CPU": UNIT}, "f", Strategy(affinity=Affinity("aa")))) == []
    assert run(state, Return(2)) == [Place(4)]


def test_a_request_that_can_never_fit_is_told_once_and_holds_nobody_up() -> None:
    state = node(max_overtakes=0, CPU=2)
    assert run(state, request(1, name="train", CPU=8)) == [
        Infeasible(1, "ann", "train needs 8 CPU, this node has 2"),
    ]
    assert run(state, request(1, name="train", CPU=8)) == []
    assert run(state, request(2, CPU=2)) == [Place(2)]
    assert explain(state, 1) == "train can never run here: needs 8 CPU, this node has 2"
    assert run(state, Withdraw(1)) == []
    assert explain(state, 1) == "lease 1 is not here: it is over or was never asked for"


def test_a_blocked_worker_lends_its_cpu_and_takes_it_back_by_force() -> None:
    """
    1. a parent on the only CPU waits for its child: the child runs
    2. the parent goes on before the child is done: the node is overbooked, nothing more is placed
    3. the parent ends: still nothing to give; the child ends: the next one goes
    """
    state = node(CPU=1, GPU=1)
    assert run(state, request(1, name="parent", CPU=1, GPU=1)) == [Place(1, (0,))]
    assert run(state, request(2, name="child", CPU=1)) == []
    assert run(state, Blocked(1)) == [Place(2)]
    assert run(state, Blocked(1)) == []
    assert state.resources.as_floats() == {"CPU": 0.0, "GPU": 0.0}
    assert explain(state, 1) == "parent is placed and holds 1 GPU (its CPU is lent out while it is blocked)"
    assert run(state, request(3, CPU=1)) == []
    assert run(state, Unblocked(1)) == []
    assert run(state, Unblocked(1)) == []
    assert state.resources.as_floats() == {"CPU": -1.0, "GPU": 0.0}
    assert run(state, Return(1)) == []
    assert run(state, Return(2)) == [Place(3)]


def test_a_hundred_nested_tasks_run_on_one_cpu() -> None:
    state = node(CPU=1)
    for depth in range(100):
        run(state, request(depth, CPU=1))
        assert depth in state.granted
        run(state, Blocked(depth))
    for depth in reversed(range(100)):
        run(state, Unblocked(depth))
        run(state, Return(depth))
    assert state.resources.available == state.resources.total


def test_a_blocked_lease_that_ends_gives_its_cpu_back_only_once() -> None:
    state = node(CPU=1)
    run(state, request(1, CPU=1))
    run(state, Blocked(1))
    run(state, Return(1))
    run(state, Unblocked(1))
    assert state.resources.as_floats() == {"CPU": 1.0}


def test_an_actor_placed_with_a_cpu_runs_with_none_and_makes_room() -> None:
    state = node(CPU=1, GPU=1)
    assert run(state, request(1, CPU=1, GPU=1)) == [Place(1, (0,))]
    assert run(state, request(2, CPU=1)) == []
    assert run(state, Shrink(1, from_floats({"GPU": 1}))) == [Place(2)]
    assert run(state, Shrink(1, from_floats({"GPU": 1}))) == []
    assert state.resources.as_floats() == {"CPU": 0.0, "GPU": 0.0}
    with pytest.raises(ValueError, match="lease 1 holds 1 GPU and cannot shrink to 1 CPU"):
        run(state, Shrink(1, from_floats({"CPU": 1})))
    run(state, Return(1))
    run(state, Return(2))
    assert state.resources.available == state.resources.total


def test_a_blocked_actor_that_shrinks_takes_back_only_what_is_left() -> None:
    state = node(CPU=4)
    run(state, request(1, CPU=3))
    run(state, Blocked(1))
    run(state, Shrink(1, from_floats({"CPU": 1})))
    assert state.resources.as_floats() == {"CPU": 4.0}
    run(state, Unblocked(1))
    assert state.resources.as_floats() == {"CPU": 3.0}


def test_everything_of_an_owner_that_is_gone_ends_and_others_get_its_room() -> None:
    state = node(CPU=2)
    run(state, request(1, "ann", CPU=1))
    run(state, request(2, "ann", CPU=1))
    run(state, request(3, "ann", CPU=1))
    run(state, request(4, "ann", CPU=9))
    run(state, request(5, "bob", CPU=2))
    assert run(state, OwnerGone("ann")) == [Ended(1), Ended(2), Place(5)]
    assert run(state, OwnerGone("ann")) == []
    assert state.owners == {"bob": {5: None}}


def test_saying_it_twice_or_too_late_changes_nothing() -> None:
    state = node(CPU=1)
    assert run(state, request(1, CPU=1)) == [Place(1)]
    assert run(state, request(1, CPU=1)) == []
    assert run(state, request(2, CPU=1)) == []
    assert run(state, request(2, CPU=1)) == []
    assert run(state, Withdraw(2)) == []
    assert run(state, Withdraw(2)) == []
    assert run(state, Withdraw(1)) == []
    assert run(state, Return(1)) == []
    for event in (Blocked(1), Unblocked(1), Shrink(1, {}), Blocked(99)):
        assert run(state, event) == []
    assert state.resources.as_floats() == {"CPU": 1.0}


def test_a_negative_demand_is_refused_with_nothing_changed() -> None:
    state = node(CPU=1)
    with pytest.raises(ValueError, match="CPU=-1"):
        run(state, Request(1, "ann", {"CPU": -1}, "f"))
    check(state)
    assert not state.owners


def test_explain_says_what_was_asked_what_is_free_and_who_is_ahead() -> None:
    state = node(max_overtakes=1, CPU=2, GPU=1)
    run(state, request(1, name="serve", CPU=1.5))
    run(state, request(2, name="train", CPU=2))
    run(state, request(3, name="f", CPU=0.5))
    run(state, request(4, name="g", CPU=0.5))
    run(state, request(5, name="h", CPU=0.5, GPU=1))
    assert explain(state, 1) == "serve is placed and holds 1.5 CPU"
    assert explain(state, 2) == "train waits for 2 CPU; free: 0 CPU; 0 ahead of it"
    assert explain(state, 5) == (
        "h waits for 0.5 CPU, 1 GPU; free: 0 CPU, 1 GPU; 2 ahead of it; train was overtaken too often and goes first"
    )


def test_parts_share_a_gpu_and_whole_ones_are_nobody_elses() -> None:
    """
    1. two halves go on one device, so that the other is whole for 3
    2. 4 wants a whole one: two halves that come free on different devices would not do, and there is none
    3. both halves of device 0 are back: 4 has it
    """
    state = node(GPU=2)
    assert run(state, request(1, GPU=0.5)) == [Place(1, (0,))]
    assert run(state, request(2, GPU=0.5)) == [Place(2, (0,))]
    assert run(state, request(3, GPU=1)) == [Place(3, (1,))]
    assert run(state, request(4, GPU=1)) == []
    assert run(state, Return(1)) == []
    assert run(state, Return(2)) == [Place(4, (0,))]


def test_parts_of_two_gpus_are_not_a_whole_one() -> None:
    state = node(GPU=2)
    run(state, request(1, GPU=0.6))
    assert run(state, request(2, GPU=0.6)) == [Place(2, (1,))]
    assert run(state, request(3, GPU=0.4)) == [Place(3, (0,))]
    run(state, Return(3))
    run(state, request(4, name="train", GPU=0.8))
    assert run(state, request(5, GPU=0.4)) == [Place(5, (0,))]
    assert explain(state, 4) == "train waits for 0.8 GPU; free: 0.4 GPU; 0 ahead of it"
    run(state, Return(5))
    assert explain(state, 4).startswith("train waits for 0.8 GPU; free: 0.8 GPU in parts of several devices")


def test_several_gpus_are_different_ones_and_come_back() -> None:
    state = node(GPU=3)
    assert run(state, request(1, GPU=2)) == [Place(1, (0, 1))]
    assert run(state, request(2, GPU=2)) == []
    assert run(state, Shrink(1, from_floats({"GPU": 1}))) == [Place(2, (1, 2))]


gpus = st.sampled_from([UNIT, 2 * UNIT, 5_000, 7_000])


class CountsLooks(NodeResources):
    looks = 0

    def fits(self, demand: Mapping[str, int]) -> bool:
        self.looks += 1
        return super().fits(demand)


def test_an_event_looks_at_a_few_requests_however_many_wait() -> None:
    resources = CountsLooks({"CPU": UNIT})
    state = State(resources)
    for lease_id in range(20_000):
        handle(state, request(lease_id, CPU=1), now=0.0)
    resources.looks = 0
    for lease_id in range(10_000):
        assert handle(state, Return(lease_id), now=0.0) == [Place(lease_id + 1)]
    assert resources.looks <= 3 * 10_000
    check(state)


class Leases(RuleBasedStateMachine):
    """Any order of events: `check` holds, each lease is placed once, nobody waits for ever, all comes back."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.state = State(NodeResources(from_floats({"CPU": 4, "GPU": 2})), 3, node_id="aa", labels={"k": "1"})
        self.now = 0.0
        self.next_lease_id = 0
        self.placed: set[int] = set()
        self.over: set[int] = set()  # ended, withdrawn or returned

    def feed(self, event: Event) -> list[Command]:
        commands = handle(self.state, event, self.now)
        for command in commands:
            match command:
                case Place(lease_id):
                    assert lease_id not in self.placed | self.over
                    self.placed.add(lease_id)
                case Ended(lease_id):
                    assert lease_id in self.placed - self.over
                    assert isinstance(event, OwnerGone)
                    self.over.add(lease_id)
                case Unschedulable(lease_id):
                    assert isinstance(event, (Request, DropGroup))
                    self.over.add(lease_id)
                case Evicted(lease_id):
                    assert lease_id in self.placed - self.over
                    assert isinstance(event, DropGroup)
                    self.over.add(lease_id)
                case Infeasible(lease_id):
                    assert isinstance(event, Request)
                    assert lease_id == event.lease_id
                case WakeAt(when):
                    assert when > self.now
        return commands

    @rule(
        target=leases,
        owner=st.sampled_from(["ann", "bob"]),
        demand=st.fixed_dictionaries(
            {},
            optional={
                "CPU": st.sampled_from([0, 5_000, UNIT, 4 * UNIT, 5 * UNIT]),
                "GPU": st.sampled_from([UNIT, 2 * UNIT, 5_000, 7_000]),
            },
        ),
        strategy=st.sampled_from(
            [
                None,
                Strategy(spread=True),
                Strategy(affinity=Affinity("aa")),
                Strategy(affinity=Affinity("bb")),
                Strategy(affinity=Affinity("bb", soft=True)),
                Strategy(affinity=Affinity("aa", fail_on_unavailable=True)),
                Strategy(selectors=(selector_of({"k": "1"}),)),
                Strategy(selectors=(selector_of({"k": "!1"}),)),
            ]
        ),
    )
    def ask(self, owner: str, demand: dict[str, int], strategy: Strategy | None) -> int:
        self.next_lease_id += 1
        self.feed(Request(self.next_lease_id, owner, demand, "f", strategy))
        return self.next_lease_id

    @rule(lease_id=leases)
    def block(self, lease_id: int) -> None:
        self.feed(Blocked(lease_id))

    @rule(lease_id=leases)
    def unblock(self, lease_id: int) -> None:
        self.feed(Unblocked(lease_id))

    @rule(lease_id=leases, keep_gpu=st.booleans())
    def shrink(self, lease_id: int, keep_gpu: bool) -> None:
        if lease := self.state.granted.get(lease_id):
            self.feed(Shrink(lease_id, {name: n for name, n in lease.demand.items() if keep_gpu and name == "GPU"}))

    @rule(lease_id=consumes(leases), withdrawn=st.booleans(), times=st.integers(1, 2))
    def end(self, lease_id: int, withdrawn: bool, times: int) -> None:
        self.over.add(lease_id)
        for _ in range(times):
            self.feed(Withdraw(lease_id) if withdrawn else Return(lease_id))

    @rule(owner=st.sampled_from(["ann", "bob"]))
    def lose_owner(self, owner: str) -> None:
        mine = set(self.state.owners.get(owner, ()))
        self.feed(OwnerGone(owner))
        self.over |= mine

    @rule(seconds=st.sampled_from([0.5, 11.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        if self.state.wake_at is not None and self.now >= self.state.wake_at:
            self.feed(Tick())

    @invariant()
    def state_is_sound(self) -> None:
        check(self.state)
        known = self.state.granted.keys() | self.state.waiting.keys() | self.state.infeasible.keys()
        assert known == set(range(1, self.next_lease_id + 1)) - self.over
        assert self.state.granted.keys() == self.placed - self.over
        assert all(explain(self.state, lease_id) for lease_id in known)

    def teardown(self) -> None:
        while self.state.granted:  # whoever could ever fit is served in the end
            lease_id = next(iter(self.state.granted))
            self.over.add(lease_id)
            self.feed(Return(lease_id))
            check(self.state)
        assert not self.state.waiting
        assert self.state.resources.available == self.state.resources.total


TestLeases = Leases.TestCase
