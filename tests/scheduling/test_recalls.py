"""Leases that are kept for one task after the other are asked back when somebody has waited long beside them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from aioray_node.scheduling.core import (
    Blocked,
    Command,
    Event,
    Place,
    Recall,
    Request,
    Return,
    State,
    Tick,
    WakeAt,
    Withdraw,
    check,
    handle,
)
from aioray_node.scheduling.resources import NodeResources, from_floats


def node(**amounts: float) -> State:
    return State(NodeResources(from_floats(amounts)))


def request(lease_id: int, owner: str, *, is_lent: bool = True, **amounts: float) -> Request:
    return Request(lease_id, owner, from_floats(amounts), f"f{lease_id}", is_lent=is_lent)


def run(state: State, event: Event, now: float = 0.0) -> list[Command]:
    commands = handle(state, event, now)
    check(state)
    return [command for command in commands if not isinstance(command, WakeAt)]


def test_another_callers_task_gets_a_lease_of_who_has_all() -> None:
    """
    1. ann's stream has both CPUs and wants more; bob's task comes after that
    2. when it has waited a moment, one of ann's is asked back; it goes to bob, though ann asked before
    """
    state = node(CPU=2)
    for lease_id in (1, 2, 3, 4):
        run(state, request(lease_id, "ann", CPU=1))
    run(state, request(5, "bob", CPU=1))
    assert state.wake_at == 0.1
    assert run(state, Tick(), 0.1) == [Recall(1)]
    assert run(state, Tick(), 0.3) == []
    assert run(state, Return(1), 0.4) == [Place(5)]


def test_a_placement_group_or_a_larger_task_has_as_many_asked_back_as_it_needs() -> None:
    """
    1. four of six CPUs are wanted: four leases are asked back, not six
    2. what comes free gathers, and goes to nobody else
    """
    state = node(CPU=6)
    for lease_id in range(1, 9):
        run(state, request(lease_id, "ann", CPU=1))
    run(state, request(20, "group:ab", is_lent=False, CPU=4))
    assert run(state, Tick(), 0.1) == [Recall(lease_id) for lease_id in (1, 2, 3, 4)]
    assert [run(state, Return(lease_id), 0.2) for lease_id in (1, 2, 3)] == [[], [], []]
    assert run(state, Return(4), 0.2) == [Place(20)]


def test_a_callers_own_larger_task_is_not_kept_from_running_by_its_small_ones() -> None:
    state = node(CPU=2)
    for lease_id in (1, 2, 3):
        run(state, request(lease_id, "ann", CPU=1))
    run(state, request(4, "ann", CPU=2))
    assert run(state, Tick(), 0.1) == [Recall(1), Recall(2)]
    run(state, Return(1), 0.2)
    assert run(state, Return(2), 0.2) == [Place(4)]


def test_nobody_gives_for_more_of_the_same_or_for_who_has_as_many() -> None:
    """
    1. more of ann's own
    2. bob has one, as ann has: neither takes the other's last one
    """
    state = node(CPU=2)
    for lease_id, owner in ((1, "ann"), (2, "bob"), (3, "ann"), (4, "bob")):
        run(state, request(lease_id, owner, CPU=1))
    assert run(state, Tick(), 0.1) == []
    assert run(state, Tick(), 5.0) == []


def test_actors_and_those_whose_cpu_is_lent_out_already_are_left_alone() -> None:
    state = node(CPU=2)
    run(state, request(1, "actor:1", is_lent=False, CPU=1))
    run(state, request(2, "ann", CPU=1))
    run(state, request(3, "ann", CPU=1))
    run(state, Blocked(2))
    run(state, request(4, "bob", CPU=2))
    assert run(state, Tick(), 0.2) == []


def test_when_that_one_gives_up_the_next_is_seen_to() -> None:
    """
    1. bob's is to have the first that comes free, and is withdrawn
    2. cat has waited as long: one lease is coming already, which will do
    """
    state = node(CPU=2)
    for lease_id in (1, 2):
        run(state, request(lease_id, "ann", CPU=1))
    run(state, request(3, "bob", CPU=1))
    run(state, request(4, "cat", CPU=1))
    assert run(state, Tick(), 0.1) == [Recall(1)]
    assert run(state, Withdraw(3), 0.15) == []
    assert run(state, Tick(), 0.3) == []
    assert run(state, Return(1), 0.4) == [Place(4)]


@given(st.lists(st.tuples(st.sampled_from(["ann", "bob", "cat"]), st.sampled_from([1, 1, 2, 4])), max_size=30))
@settings(max_examples=100, deadline=None)
def test_nobody_waits_for_ever_beside_streams_without_an_end(asked: list[tuple[str, int]]) -> None:
    """Owners keep what they have until it is asked back; who is a stranger to all of them runs all the same."""
    state = node(CPU=4)
    for lease_id, (owner, cpus) in enumerate(asked, 1):
        run(state, request(lease_id, owner, CPU=cpus))
    run(state, request(100, "dan", CPU=2))
    now = 0.0
    for _ in range(200):
        if 100 in state.granted:
            return
        now += 0.1
        for command in run(state, Tick(), now):
            if isinstance(command, Recall):
                run(state, Return(command.lease_id), now)
    raise AssertionError(f"it waits for ever: {state}")
