"""A node that is asked for by its id, and of which this node has not heard yet."""

from __future__ import annotations

from aioray.wire.strategies import Affinity, Strategy
from aioray_node.scheduling.core import (
    Command,
    Event,
    NodeNews,
    OwnerGone,
    Place,
    RefreshView,
    Request,
    Spill,
    State,
    Tick,
    Unschedulable,
    ViewRefreshed,
    WakeAt,
    Withdraw,
    check,
    handle,
)
from aioray_node.scheduling.policy import NodeView
from aioray_node.scheduling.resources import NodeResources, from_floats

THERE = Strategy(affinity=Affinity("bb"))


def node(**amounts: float) -> State:
    state = State(NodeResources(from_floats(amounts)), node_id="aa", can_refresh=True)
    state.nodes = {"aa": state.own}
    return state


def request(lease_id: int, strategy: Strategy | None = THERE) -> Request:
    return Request(lease_id, "ann", from_floats({"CPU": 1}), f"f{lease_id}", strategy)


def run(state: State, event: Event, now: float = 0.0) -> list[Command]:
    commands = handle(state, event, now)
    check(state)
    return [command for command in commands if not isinstance(command, WakeAt)]


def join(state: State, node_id: str) -> None:
    assert isinstance(state.nodes, dict)
    state.nodes[node_id] = NodeView(NodeResources(from_floats({"CPU": 1})))


def test_the_gcs_is_asked_once_and_what_it_knows_decides() -> None:
    """
    1. two ask for a node that is not known: the GCS is asked, once, and both wait
    2. it knows that node: the first goes there; it has one CPU, so the second waits there
    """
    state = node(CPU=1)
    assert run(state, request(1)) == [RefreshView()]
    assert run(state, request(2)) == []
    join(state, "bb")
    assert run(state, NodeNews("bb", joined=True)) == [Spill(1, "bb", 1), Spill(2, "bb", 1)]
    assert run(state, ViewRefreshed()) == []


def test_a_node_that_the_gcs_does_not_know_does_not_exist() -> None:
    state = node(CPU=1)
    run(state, request(1))
    assert run(state, request(2, None)) == [Place(2)]
    reason = "was to run on node bb, which does not exist, or not any more"
    assert run(state, ViewRefreshed()) == [Unschedulable(1, reason)]
    assert run(state, request(3)) == [RefreshView()]


def test_a_gcs_that_does_not_answer_is_not_waited_for_long() -> None:
    state = node(CPU=1)
    assert WakeAt(1.0) in handle(state, request(1), 0.0)
    (said,) = run(state, Tick(), 1.0)
    assert isinstance(said, Unschedulable)
    assert not state.owners


def test_who_is_gone_meanwhile_is_told_nothing() -> None:
    state = node(CPU=1)
    for lease_id, event in ((1, Withdraw(1)), (2, OwnerGone("ann"))):
        run(state, request(lease_id))
        assert run(state, event) == []
        assert run(state, ViewRefreshed()) == []
