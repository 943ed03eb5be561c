"""Placement groups on many nodes: `gcs/placement/core.py` and `scheduling/bundle_policy.py`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aioray.labels import selector_of
from aioray.wire.control import GroupSpec, GroupUpdate
from aioray.wire.values import object_id
from aioray_node.gcs.placement import placing
from aioray_node.gcs.placement.core import (
    Answered,
    Command,
    Commit,
    Created,
    Drop,
    Event,
    NodeGone,
    NodesChanged,
    OwnerGone,
    Prepare,
    ProcessGone,
    Removed,
    Reported,
    Return,
    State,
    Tell,
    Tick,
    WakeAt,
    Warn,
    Watched,
    check,
    explain,
    explain_pending,
    handle,
    why_over,
)
from aioray_node.scheduling import core as leases
from aioray_node.scheduling.bundle_policy import Ask, Rooms, place
from aioray_node.scheduling.devices import Devices
from aioray_node.scheduling.policy import NodeView
from aioray_node.scheduling.resources import UNIT, NodeResources, from_floats

DRIVER, OTHER = b"driver--", b"another-"


def view(labels: dict[str, str] | None = None, **totals: float) -> NodeView:
    return NodeView(NodeResources(from_floats(totals)), labels or {}, Devices(int(totals.get("GPU", 0))))


def cluster(*cpus: float) -> dict[str, NodeView]:
    return {f"n{number}": view(CPU=count) for number, count in enumerate(cpus)}


def bundles_of(*cpus: float) -> list[dict[str, int]]:
    return [{"CPU": round(count * UNIT)} for count in cpus]


def spec(number: int, *cpus: float, strategy: str = "PACK", **more: Any) -> GroupSpec:
    return GroupSpec(object_id(DRIVER, number), bundles_of(*cpus), strategy, DRIVER, **more)


def group_id(number: int) -> bytes:
    return object_id(DRIVER, number)


def run(state: State, event: Event, now: float = 0.0) -> list[Command]:
    commands = handle(state, event, now)
    check(state)
    return commands


def placed(strategy: str, nodes: dict[str, NodeView], *cpus: float, **more: Any) -> dict[int, str] | None:
    return place(Ask(dict(enumerate(bundles_of(*cpus))), strategy, **more), Rooms(nodes))


# where


def test_pack_takes_as_few_nodes_as_it_goes() -> None:
    assert placed("PACK", cluster(2, 4), 1, 1, 2) == {0: "n1", 1: "n1", 2: "n1"}
    found = placed("PACK", cluster(2, 2, 2), 1, 1, 1)
    assert found is not None
    assert len(set(found.values())) == 2


def test_spread_takes_as_many_nodes_as_it_goes_and_shares_them_evenly() -> None:
    assert sorted((placed("SPREAD", cluster(4, 4), 1, 1, 1, 1) or {}).values()) == ["n0", "n0", "n1", "n1"]
    assert placed("SPREAD", cluster(4), 1, 1) == {0: "n0", 1: "n0"}


def test_strict_pack_is_one_node_or_none() -> None:
    assert placed("STRICT_PACK", cluster(2, 2), 1, 1) == {0: "n0", 1: "n0"}
    assert placed("STRICT_PACK", cluster(2, 2), 1, 1, 1) is None
    assert placed("STRICT_PACK", cluster(8, 2), 1, 1) == {0: "n1", 1: "n1"}  # large rooms stay free
    assert placed("STRICT_PACK", cluster(8, 2), 1, 1, target="n0") == {0: "n0", 1: "n0"}


def test_strict_spread_is_a_node_for_each_bundle_or_none() -> None:
    assert sorted((placed("STRICT_SPREAD", cluster(2, 2), 1, 1) or {}).values()) == ["n0", "n1"]
    assert placed("STRICT_SPREAD", cluster(4, 4), 1, 1, 1) is None
    assert placed("STRICT_SPREAD", cluster(4, 4), 1, near={"n0": 1}) == {0: "n1"}


def test_a_choice_that_leaves_no_room_for_the_rest_is_taken_back() -> None:
    """The one bundle that needs the node with the label gets it, although that was the other's first choice."""
    nodes = {"a": view({"fast": "1"}, CPU=2), "b": view(CPU=3)}
    selectors = {1: selector_of({"fast": "1"})}
    assert placed("STRICT_SPREAD", nodes, 2, 2, selectors=selectors) == {0: "b", 1: "a"}
    assert placed("PACK", nodes, 2, 2, selectors=selectors) == {0: "b", 1: "a"}


def test_gpus_are_counted_device_by_device() -> None:
    nodes = {"a": view(GPU=2)}
    assert place(Ask({index: {"GPU": 6_000} for index in range(3)}, "PACK"), Rooms(nodes)) is None
    assert place(Ask({index: {"GPU": 6_000} for index in range(2)}, "PACK"), Rooms(nodes)) == {0: "a", 1: "a"}


def test_what_has_no_place_takes_nothing() -> None:
    rooms = Rooms(cluster(2, 2))
    assert place(Ask(dict(enumerate(bundles_of(2, 1, 2))), "SPREAD"), rooms) is None
    assert place(Ask(dict(enumerate(bundles_of(2, 2))), "SPREAD"), rooms) is not None


def test_bundles_that_cannot_be_fitted_are_given_up_in_time() -> None:
    nodes = cluster(*[10] * 10)
    assert placed("PACK", nodes, *[6] * 9, *[5] * 9) is None


@pytest.mark.parametrize(
    ("strategy", "cpus", "words"),
    [
        ("STRICT_PACK", [1, 1], "2 CPU on one node asked, best node has 1"),
        ("PACK", [2], "2 CPU on one node asked, best node has 1"),
        ("STRICT_SPREAD", [1, 1, 1], "3 nodes asked, one for each bundle, there are 2 that have room"),
        ("SPREAD", [1, 1, 1], "3 CPU asked in all, all nodes together have 2"),
    ],
)
def test_what_is_missing_is_said_in_words(strategy: str, cpus: list[float], words: str) -> None:
    state = State(cluster(1, 1))
    (warning,) = run(state, Created(spec(1, *cpus, strategy=strategy)))
    assert isinstance(warning, Warn)
    assert warning.text.endswith(f"({strategy}) fits on no nodes that there are: {words}")
    assert explain(state, group_id(1)) == warning.text
    assert run(state, NodesChanged()) == []  # said once


def test_the_best_node_is_that_which_lacks_the_least() -> None:
    state = State(cluster(1, 3, 2))
    (warning,) = run(state, Created(spec(1, 5)))
    assert isinstance(warning, Warn)
    assert warning.text.endswith("5 CPU on one node asked, best node has 3")


def test_labels_that_no_node_has_are_said_too() -> None:
    state = State(cluster(1))
    run(state, Created(spec(1, 1, selectors=[selector_of({"region": "us"})])))
    assert explain(state, group_id(1)).endswith("a node with region=us asked, there is none")


def test_of_groups_that_wait_the_first_are_explained_and_the_others_counted() -> None:
    state = State(cluster(1))
    for number in (1, 2, 3):
        run(state, Created(spec(number, 5)))
    first, rest = explain_pending(state, limit=1)
    assert first == explain(state, group_id(1))
    assert rest == "2 more placement groups wait"
    assert explain_pending(state, limit=3) == tuple(explain(state, group_id(number)) for number in (1, 2, 3))


# all or nothing


def test_a_group_is_there_when_all_nodes_hold_their_part() -> None:
    """
    1. both nodes are asked; somebody waits
    2. one holds its bundle: nothing is booked yet
    3. the other one does, too: both are booked, and who waits hears
    """
    state = State(cluster(1, 1))
    new = spec(1, 1, 1, strategy="STRICT_SPREAD")
    assert run(state, Created(new)) == [
        Prepare("n0", new.group_id, 1, 0, {"CPU": UNIT}),
        Prepare("n1", new.group_id, 1, 1, {"CPU": UNIT}),
    ]
    (told,) = run(state, Watched(DRIVER, new.group_id))
    assert isinstance(told, Tell)
    assert told.update.state == "pending"
    assert run(state, Answered("n0", new.group_id, 1, 0, held=True)) == []
    assert run(state, Answered("n1", new.group_id, 1, 1, held=True)) == [
        Commit("n0", new.group_id, 0),
        Commit("n1", new.group_id, 1),
        Tell(DRIVER, GroupUpdate(new.group_id, "created")),
    ]
    assert run(state, Created(new)) == []  # sent twice


def test_when_one_node_refuses_the_other_gets_its_part_back() -> None:
    """
    1. n1's view was late: it refuses, and n0 is to let go of what it holds
    2. after a pause it is tried again; a late answer to the first attempt means nothing, but that n0 is told once more
    """
    state = State(cluster(1, 1))
    new = spec(1, 1, 1, strategy="STRICT_SPREAD")
    run(state, Created(new))
    run(state, Answered("n0", new.group_id, 1, 0, held=True))
    assert run(state, Answered("n1", new.group_id, 1, 1, held=False)) == [
        Return("n0", new.group_id, 1, 0),
        WakeAt(0.01),
    ]
    assert run(state, NodesChanged()) == []
    again = run(state, Tick(), now=0.01)
    assert [type(each) for each in again] == [Prepare, Prepare]
    assert run(state, Answered("n0", new.group_id, 1, 0, held=True), now=0.01) == [Return("n0", new.group_id, 1, 0)]
    assert state.groups[new.group_id].held == set()


def test_a_group_that_is_removed_on_its_way_holds_nothing() -> None:
    state = State(cluster(1, 1))
    new = spec(1, 1, 1, strategy="STRICT_SPREAD")
    run(state, Created(new))
    run(state, Watched(OTHER, new.group_id))
    run(state, Answered("n0", new.group_id, 1, 0, held=True))
    assert run(state, Removed(new.group_id)) == [
        Return("n0", new.group_id, 1, 0),
        Return("n1", new.group_id, 1, 1),
        Drop(new.group_id, ("n0", "n1")),
        Tell(OTHER, GroupUpdate(new.group_id, "removed", "it was removed")),
    ]
    assert run(state, Answered("n1", new.group_id, 1, 1, held=True)) == [Return("n1", new.group_id, 1, 1)]
    assert run(state, Removed(new.group_id)) == []
    assert why_over(state, new.group_id) == "it was removed"


def test_two_groups_that_want_the_same_are_served_one_after_the_other() -> None:
    """What is on its way to the first is not planned for the second, which waits for its turn at the nodes."""
    state = State(cluster(1, 1))
    run(state, Created(spec(1, 1, 1)))
    second = run(state, Created(spec(2, 1, 1)))
    assert [(each.group_id, each.patient) for each in second if isinstance(each, Prepare)] == [
        (group_id(2), True),
        (group_id(2), True),
    ]
    third = run(state, Created(spec(3, 1, 1)))
    assert third == []


def test_who_is_patient_lets_go_when_its_time_is_over() -> None:
    """
    1. one of two CPUs is in use for good; the first group holds the other one, and waits for the rest
    2. its time is over: what it held is free, and the second group, which needs just that, has it
    """
    nodes = cluster(1, 1)
    nodes["n1"].resources.acquire({"CPU": UNIT})
    state = State(nodes, patience_s=10.0)
    first, second = spec(1, 1, 1), spec(2, 1)
    commands = run(state, Created(first))
    assert [each.patient for each in commands if isinstance(each, Prepare)] == [True, True]
    assert commands[-1] == WakeAt(10.0)
    run(state, Answered("n0", first.group_id, 1, 0, held=True))
    run(state, Reported("n0"))
    assert run(state, Created(second)) == []
    given_up = run(state, Tick(), now=10.0)
    assert given_up[:2] == [Return("n0", first.group_id, 1, 0), Return("n1", first.group_id, 1, 1)]
    assert Prepare("n0", second.group_id, 1, 0, {"CPU": UNIT}) in given_up
    run(state, Answered("n0", second.group_id, 1, 0, held=True), now=10.0)
    nodes["n1"].resources.release({"CPU": UNIT})
    # And the first one is tried as soon as it fits, turn or not.
    again = run(state, Removed(second.group_id), now=11.0)
    assert [each.node_id for each in again if isinstance(each, Prepare)] == ["n0", "n1"]


def test_who_is_patient_moves_to_where_there_is_room_meanwhile() -> None:
    """It waits where it could ever be; room on another node is its own at once, and what it held is free."""
    nodes = cluster(2, 2)
    for node in nodes.values():
        node.resources.acquire({"CPU": UNIT})
    state = State(nodes)
    first = spec(1, 2)
    (waiting, _) = run(state, Created(first))
    assert isinstance(waiting, Prepare)
    assert waiting.patient
    other = "n1" if waiting.node_id == "n0" else "n0"
    nodes[other].resources.release({"CPU": UNIT})
    moved = run(state, NodesChanged(), now=1.0)
    assert moved == [
        Return(waiting.node_id, first.group_id, 1, 0),
        Prepare(other, first.group_id, 2, 0, {"CPU": 2 * UNIT}, patient=False),
    ]
    late = Answered(waiting.node_id, first.group_id, 1, 0, held=True)
    assert run(state, late, now=1.0) == [Return(waiting.node_id, first.group_id, 1, 0)]
    assert Commit(other, first.group_id, 0) in run(state, Answered(other, first.group_id, 2, 0, held=True), now=1.0)


def test_who_is_patient_stays_where_the_node_will_give_it_what_is_free() -> None:
    nodes = cluster(2)
    nodes["n0"].resources.acquire({"CPU": UNIT})
    state = State(nodes)
    run(state, Created(spec(1, 2)))
    nodes["n0"].resources.release({"CPU": UNIT})
    assert run(state, NodesChanged(), now=1.0) == []


# views that are late


def test_what_other_nodes_hold_counts_before_they_report_it() -> None:
    """
    1. n0 holds a bundle, and has reported nothing yet: the next group goes to n1
    2. the first is removed: n0 has room again, for all we know
    """
    state = State(cluster(1, 1))
    assert Prepare("n0", group_id(1), 1, 0, {"CPU": UNIT}) in run(state, Created(spec(1, 1)))
    run(state, Answered("n0", group_id(1), 1, 0, held=True))
    assert Prepare("n1", group_id(2), 1, 0, {"CPU": UNIT}) in run(state, Created(spec(2, 1)))
    run(state, Removed(group_id(1)))
    assert Prepare("n0", group_id(3), 1, 0, {"CPU": UNIT}) in run(state, Created(spec(3, 1)))


def test_what_was_counted_twice_is_believed_for_a_second_only() -> None:
    """n0 reported that it holds a bundle before its answer came, and has nothing more to report."""
    nodes = cluster(2)
    state = State(nodes)
    run(state, Created(spec(1, 1)))
    nodes["n0"].resources.acquire({"CPU": UNIT})
    run(state, Reported("n0"))
    run(state, Answered("n0", group_id(1), 1, 0, held=True))
    (patient, wake) = run(state, Created(spec(2, 1)))
    assert isinstance(patient, Prepare)
    assert patient.patient
    assert wake == WakeAt(10.0)
    assert Prepare("n0", group_id(3), 1, 0, {"CPU": UNIT}) not in run(state, Created(spec(3, 1)))
    assert state.wake_at == 1.0
    assert Prepare("n0", group_id(2), 2, 0, {"CPU": UNIT}) not in run(state, Tick(), now=1.0)
    assert nodes["n0"].resources.available == {"CPU": UNIT}


def test_a_group_that_is_refused_again_and_again_waits_in_turn_at_the_node() -> None:
    """Each view shows room, and each time somebody smaller was there first."""
    state = State(cluster(2))
    (prepare,) = run(state, Created(spec(1, 2)))
    now = 0.0
    for attempt in range(1, 5):
        assert isinstance(prepare, Prepare)
        assert not prepare.patient
        run(state, Answered("n0", group_id(1), attempt, 0, held=False), now)
        now += 1.0
        prepare = run(state, Tick(), now)[0]
    assert prepare == Prepare("n0", group_id(1), 5, 0, {"CPU": 2 * UNIT}, patient=True)


# deaths


def test_bundles_are_placed_again_when_their_node_dies_and_the_others_stay() -> None:
    """
    1. bundles on n0 and n1; n1 dies: there is no third node, so one bundle waits
    2. n2 joins: the lost bundle goes there, and not where the other one is
    """
    nodes = cluster(2, 2)
    state = State(nodes)
    new = spec(1, 1, 1, strategy="STRICT_SPREAD")
    run(state, Created(new))
    run(state, Watched(DRIVER, new.group_id))
    for index in (0, 1):
        run(state, Answered(f"n{index}", new.group_id, 1, index, held=True))
    del nodes["n1"]
    commands = run(state, NodeGone("n1"))
    assert commands[0] == Tell(DRIVER, GroupUpdate(new.group_id, "rescheduling"))
    assert "for bundles that were lost with their node" in explain(state, new.group_id)
    nodes["n2"] = view(CPU=1)
    assert run(state, NodesChanged()) == [Prepare("n2", new.group_id, 2, 1, {"CPU": UNIT})]
    assert run(state, Answered("n2", new.group_id, 2, 1, held=True)) == [
        Commit("n2", new.group_id, 1),
        Tell(DRIVER, GroupUpdate(new.group_id, "created")),
    ]


def test_a_group_whose_node_dies_while_it_is_prepared_starts_afresh() -> None:
    nodes = cluster(1, 1, 1)
    state = State(nodes)
    new = spec(1, 1, 1, strategy="STRICT_SPREAD")
    run(state, Created(new))
    run(state, Answered("n0", new.group_id, 1, 0, held=True))
    del nodes["n1"]
    commands = run(state, NodeGone("n1"))
    assert commands[0] == Return("n0", new.group_id, 1, 0)
    assert {each.node_id for each in commands if isinstance(each, Prepare)} == {"n0", "n2"}


# names and owners


def test_a_name_is_one_groups_and_free_when_that_is_removed() -> None:
    state = State(cluster(1))
    run(state, Created(spec(1, 1, name="x", namespace="a")))
    assert run(state, Created(spec(2, 1, name="x", namespace="a"))) == []
    assert why_over(state, group_id(2)) == "the name 'x' is taken by another placement group"
    run(state, Created(spec(3, 1, name="x", namespace="b")))
    assert state.names == {("a", "x"): group_id(1), ("b", "x"): group_id(3)}
    run(state, Removed(group_id(1)))
    run(state, Created(spec(4, 1, name="x", namespace="a")))
    assert state.names["a", "x"] == group_id(4)


def test_with_an_owner_go_its_groups_but_not_detached_ones() -> None:
    state = State(cluster(4))
    run(state, Created(spec(1, 1)))
    run(state, Created(spec(2, 1, detached=True, name="d")))
    assert Drop(group_id(1), ("n0",)) in run(state, OwnerGone(DRIVER))
    run(state, ProcessGone(DRIVER))
    assert list(state.groups) == [group_id(2)]


def test_who_asks_before_word_of_the_group_has_come_hears_when_it_is_there() -> None:
    """
    1. somebody watches a group that is not there yet: that may be
    2. it is created and ready
    3. its maker is gone: groups of that maker that nobody has heard of will never be
    """
    state = State(cluster(1))
    assert run(state, Watched(OTHER, group_id(1))) == []
    assert why_over(state, group_id(1)) == ""
    run(state, Created(spec(1, 1)))
    assert run(state, Answered("n0", group_id(1), 1, 0, held=True))[-1] == Tell(
        OTHER, GroupUpdate(group_id(1), "created")
    )
    run(state, Watched(OTHER, group_id(7)))
    (told,) = run(state, ProcessGone(DRIVER))
    assert told == Tell(OTHER, GroupUpdate(group_id(7), "removed", "the process that was to create it is gone"))
    assert why_over(state, group_id(8)) == "it was removed"


def test_a_group_may_be_removed_before_word_of_it_has_come() -> None:
    """From another node: it never has a bundle, and who waits for it hears why."""
    state = State(cluster(1))
    run(state, Watched(OTHER, group_id(1)))
    assert run(state, Removed(group_id(1))) == []
    assert run(state, Created(spec(1, 1))) == [Tell(OTHER, GroupUpdate(group_id(1), "removed", "it was removed"))]
    assert run(state, Removed(group_id(2))) == []
    run(state, ProcessGone(DRIVER))
    assert not state.doomed


def test_removed_groups_are_remembered_for_a_while_and_known_to_be_gone_for_ever() -> None:
    state = State(cluster(1), max_removed=2)
    for number in range(1, 6):
        run(state, Created(spec(number, 1)))
        run(state, Removed(group_id(number)))
    assert list(state.removed) == [group_id(4), group_id(5)]
    assert all(why_over(state, group_id(number)) for number in range(1, 6))
    assert why_over(state, group_id(6)) == ""


# many


def test_a_thousand_groups_find_their_places_on_ten_nodes() -> None:
    state = State(cluster(*[200] * 10))
    for number in range(1, 1001):
        for command in handle(state, Created(spec(number, 1, 1, strategy="STRICT_SPREAD")), 0.0):
            if isinstance(command, Prepare):
                handle(
                    state, Answered(command.node_id, command.group_id, command.attempt, command.index, held=True), 0.0
                )
    check(state)
    assert not state.pending
    assert all(not any(node.resources.available.values()) for node in state.nodes.values())


def test_groups_alike_are_looked_at_once_however_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of these has room: of all the waiting ones, just the first is tried."""
    nodes = cluster(1)
    nodes["n0"].resources.acquire({"CPU": UNIT})

    state = State(nodes)
    for number in range(1, 1001):
        handle(state, Created(spec(number, 1)), 0.0)
    looks = 0

    def counting(ask: Ask, rooms: Rooms) -> dict[int, str] | None:
        nonlocal looks
        looks += 1
        return place(ask, rooms)

    monkeypatch.setattr(placing, "place", counting)
    handle(state, NodesChanged(), 0.0)
    assert looks == 1


class SimulatedNode:
    """A node's real scheduling core, with what `bundle_desk.py` does about it, behind messages that take their time."""

    def __init__(self, node_id: str, cpus: float) -> None:
        self.node_id = node_id
        self.state = leases.State(NodeResources(from_floats({"CPU": cpus})))
        self.inbox: list[Command] = []
        self.outbox: list[Answered] = []
        self.held: dict[tuple[bytes, int], tuple[int, int]] = {}  # -> attempt, lease
        self.patient: dict[int, Answered] = {}  # by lease
        self.next_lease = 0

    def feed(self, event: leases.Event) -> None:
        for command in leases.handle(self.state, event, 0.0):
            if isinstance(command, leases.Place) and command.lease_id in self.patient:
                self.outbox.append(self.patient.pop(command.lease_id))
        leases.check(self.state)

    def view(self) -> NodeView:
        """As the GCS gets it: of this moment, and soon of the past."""
        resources = NodeResources(dict(self.state.resources.total))
        resources.available = dict(self.state.resources.available)
        return NodeView(resources)

    def step(self) -> None:
        match self.inbox.pop(0):
            case Prepare(_, group_id, attempt, index, demand, patient):
                self.next_lease += 1
                lease = self.next_lease
                self.held[group_id, index] = attempt, lease
                self.patient[lease] = Answered(self.node_id, group_id, attempt, index, held=True)
                self.feed(leases.Request(lease, "group", demand, "a bundle"))
                if lease not in self.state.granted and not patient:
                    del self.held[group_id, index], self.patient[lease]
                    self.feed(leases.Return(lease))
                    self.outbox.append(Answered(self.node_id, group_id, attempt, index, held=False))
            case Commit(_, group_id, index):
                self.feed(leases.CommitBundle(self.held.pop((group_id, index))[1], group_id, index))
            case Return(_, group_id, attempt, index):
                held = self.held.get((group_id, index))
                if held is not None and held[0] == attempt:
                    del self.held[group_id, index]
                    self.patient.pop(held[1], None)
                    self.feed(leases.Return(held[1]))
            case Drop(group_id):
                self.feed(leases.DropGroup(group_id))


class Groups(RuleBasedStateMachine):
    """Any order of messages: all or nothing, nothing twice, everybody hears, and in the end all is back at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes = {name: SimulatedNode(name, cpus) for name, cpus in (("a", 2), ("b", 2), ("c", 3))}
        self.state = State({name: node.view() for name, node in self.nodes.items()})
        self.now = 0.0
        self.number = 0
        self.made: list[bytes] = []
        self.told: dict[bytes, str] = {}
        self.next_task = 1_000_000

    def feed(self, event: Event) -> None:
        for command in handle(self.state, event, self.now):
            match command:
                case Prepare() | Commit() | Return():
                    if command.node_id in self.nodes:
                        self.nodes[command.node_id].inbox.append(command)
                case Drop(_, node_ids):
                    for node_id in node_ids:
                        self.nodes[node_id].inbox.append(command)
                case Tell(_, update):
                    self.told[update.group_id] = update.state
                case WakeAt(when):
                    assert when > self.now
        check(self.state)

    @rule(
        cpus=st.lists(st.sampled_from([0.5, 1, 2, 3, 4]), min_size=1, max_size=4),
        strategy=st.sampled_from(["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]),
    )
    def create(self, cpus: list[float], strategy: str) -> None:
        self.number += 1
        new = spec(self.number, *cpus, strategy=strategy)
        self.made.append(new.group_id)
        self.feed(Watched(OTHER, new.group_id))
        self.feed(Created(new))

    @precondition(lambda self: self.made)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        self.feed(Removed(data.draw(st.sampled_from(self.made))))

    @rule(name=st.sampled_from(["a", "b", "c"]), count=st.integers(1, 5))
    def deliver(self, name: str, count: int) -> None:
        node = self.nodes.get(name)
        for _ in range(count):
            if node and node.inbox:
                node.step()

    @rule(name=st.sampled_from(["a", "b", "c"]))
    def answer(self, name: str) -> None:
        node = self.nodes.get(name)
        if node and node.outbox:
            self.feed(node.outbox.pop(0))

    @rule(name=st.sampled_from(["a", "b", "c"]))
    def report(self, name: str) -> None:
        if node := self.nodes.get(name):
            self.state.nodes[name] = node.view()
            self.feed(Reported(name))
            self.feed(NodesChanged())

    @rule(name=st.sampled_from(["a", "b", "c"]))
    def run_a_task(self, name: str) -> None:
        if node := self.nodes.get(name):
            self.next_task += 1
            node.feed(leases.Request(self.next_task, "task", {"CPU": UNIT}, "f"))

    @rule(name=st.sampled_from(["a", "b", "c"]))
    def end_tasks(self, name: str) -> None:
        if node := self.nodes.get(name):
            node.feed(leases.OwnerGone("task"))

    @rule(name=st.sampled_from(["b", "c"]))
    def kill_node(self, name: str) -> None:
        if self.nodes.pop(name, None):
            del self.state.nodes[name]
            self.feed(NodeGone(name))

    @rule()
    def start_node(self) -> None:
        for name, cpus in (("b", 2.0), ("c", 3.0)):
            if name not in self.nodes:
                self.nodes[name] = SimulatedNode(name, cpus)
                self.state.nodes[name] = self.nodes[name].view()
                self.feed(NodesChanged())
                return

    @rule(seconds=st.sampled_from([0.02, 1.0, 11.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        if self.state.wake_at is not None and self.state.wake_at <= self.now:
            self.feed(Tick())

    @invariant()
    def everybody_hears(self) -> None:
        for group_id in self.made:
            group = self.state.groups.get(group_id)
            if group is None:
                assert self.told[group_id] == "removed"
            elif group.state == "created":
                assert self.told[group_id] == "created"
            assert explain(self.state, group_id)

    def settle(self) -> None:
        """All messages arrive, and all timers fire, until nobody has anything to say."""
        for _ in range(12):
            self.deliver_all()
            for name, node in self.nodes.items():
                self.state.nodes[name] = node.view()
                self.feed(Reported(name))
            self.feed(NodesChanged())
            self.pass_time(4.0)
        self.deliver_all()

    def deliver_all(self) -> None:
        while any(node.inbox or node.outbox for node in self.nodes.values()):
            for node in self.nodes.values():
                while node.inbox:
                    node.step()
                while node.outbox:
                    self.feed(node.outbox.pop(0))

    def teardown(self) -> None:
        for node in self.nodes.values():
            node.feed(leases.OwnerGone("task"))
        while True:
            self.settle()
            for name, node in self.nodes.items():
                booked = {
                    (group_id, index)
                    for group_id, group in self.state.groups.items()
                    for index in group.booked
                    if group.where[index] == name
                }
                held = {(group_id, index) for group_id, them in node.state.bundles.items() for index in them}
                assert held == booked, "a node and the GCS disagree"
            waiting = [group for group in self.state.groups.values() if group.state != "created"]
            fits = [group for group in waiting if place(group.ask(), Rooms(self.state.nodes)) is not None]
            assert not fits, "a group waits that fits"
            if not self.state.groups:
                break
            for group_id in list(self.state.groups)[:2]:
                self.feed(Removed(group_id))
        for node in self.nodes.values():
            assert node.state.resources.available == node.state.resources.total
            assert not node.held
            assert not node.state.granted
            assert not node.state.waiting


TestGroups = Groups.TestCase
TestGroups.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
