"""Leases in placement groups: bundles as resources of their own, by `scheduling/core.py`."""

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, consumes, rule

from aioray.wire.strategies import InGroup, Strategy
from aioray_node.scheduling.core import (
    Command,
    CommitBundle,
    DropGroup,
    Event,
    Evicted,
    Locate,
    Place,
    Request,
    Return,
    Shrink,
    State,
    Unschedulable,
    check,
    explain,
    handle,
)
from aioray_node.scheduling.resources import UNIT, NodeResources, from_floats
from tests.scheduling.test_core import Leases

A, B = b"a" * 16, b"b" * 16
REMOVED = "was to run in a placement group, which was removed"


def node(**totals: float) -> State:
    return State(NodeResources(from_floats(totals)))


def run(state: State, event: Event) -> list[Command]:
    commands = handle(state, event, 0.0)
    check(state)
    return commands


def request(lease_id: int, group: bytes | None = None, index: int = -1, **demand: float) -> Request:
    strategy = None if group is None else Strategy(group=InGroup(group, index))
    return Request(lease_id, "ann", from_floats(demand), "f", strategy)


def test_leases_are_booked_in_their_bundle_and_nowhere_else() -> None:
    """
    1. bundle 0 holds one of two CPUs
    2. who asks for the bundle gets that CPU, a second one waits, and the rest of the node is for others
    """
    state = node(CPU=2)
    assert run(state, request(1, CPU=1)) == [Place(1)]
    assert run(state, CommitBundle(1, A, 0)) == []
    assert run(state, request(2, A, 0, CPU=1)) == [Place(2)]
    assert run(state, request(3, A, 0, CPU=1)) == []
    assert run(state, request(4, CPU=1)) == [Place(4)]
    assert explain(state, 3) == "f waits for 1 CPU in bundle 0 of its placement group; free: 0 CPU there; 0 ahead of it"
    assert run(state, Return(2)) == [Place(3)]


def test_any_bundle_is_one_of_them_and_none_is_given_twice() -> None:
    state = node(CPU=2)
    for index in (0, 1):
        run(state, request(index, CPU=1))
        run(state, CommitBundle(index, A, index))
    assert run(state, request(10, A, CPU=1)) == [Place(10)]
    assert run(state, request(11, A, 1, CPU=1)) == [Place(11)]
    assert run(state, request(12, A, 0, CPU=1)) == []
    assert run(state, Return(10)) == [Place(12)]


def test_who_asks_for_a_group_that_is_not_there_yet_waits_without_a_warning() -> None:
    state = node(CPU=1)
    assert run(state, request(1, A, CPU=1)) == [Locate(A)]
    assert explain(state, 1) == "f waits for its placement group"
    run(state, request(2, CPU=1))
    assert run(state, CommitBundle(2, A, 0)) == [Place(1)]
    assert run(state, request(3, A, 1, CPU=1)) == [Locate(A)]
    assert explain(state, 3).startswith("f waits for a bundle of its placement group")


def test_with_a_group_goes_all_that_is_in_it() -> None:
    """
    1. one lease runs in the group, one waits for room in it, one for a bundle that is not there
    2. all hear when the group is dropped, and the node has everything back
    """
    state = node(CPU=1)
    run(state, request(1, CPU=1))
    run(state, CommitBundle(1, A, 0))
    run(state, request(2, A, CPU=1))
    run(state, request(3, A, CPU=1))
    run(state, request(4, A, 5, CPU=1))
    assert run(state, DropGroup(A)) == [
        Evicted(2),
        Unschedulable(3, REMOVED, group_removed=True),
        Unschedulable(4, REMOVED, group_removed=True),
    ]
    assert state.resources.available == state.resources.total == from_floats({"CPU": 1})
    assert run(state, DropGroup(A)) == []


def test_gpus_of_a_bundle_are_those_that_its_leases_get() -> None:
    state = node(GPU=4)
    assert run(state, request(1, GPU=1)) == [Place(1, (0,))]
    assert run(state, request(2, GPU=2)) == [Place(2, (1, 2))]
    run(state, CommitBundle(2, A, 0))
    assert run(state, request(3, A, 0, GPU=1)) == [Place(3, (1,))]
    assert run(state, request(4, A, GPU=0.5)) == [Place(4, (2,))]
    assert run(state, request(5, A, GPU=0.5)) == [Place(5, (2,))]
    assert run(state, request(6, GPU=1)) == [Place(6, (3,))]


def test_an_actor_that_runs_with_nothing_stays_in_its_group() -> None:
    state = node(CPU=1)
    run(state, request(1, CPU=1))
    run(state, CommitBundle(1, A, 0))
    run(state, request(2, A, CPU=1))
    assert run(state, Shrink(2, {})) == []
    assert run(state, request(3, A, CPU=1)) == [Place(3)]
    assert run(state, DropGroup(A)) == [Evicted(2), Evicted(3)]


def test_what_comes_late_for_a_bundle_does_nothing() -> None:
    state = node(CPU=1)
    assert run(state, CommitBundle(1, A, 0)) == []
    run(state, request(1, CPU=1))
    run(state, CommitBundle(1, A, 0))
    assert run(state, CommitBundle(1, A, 0)) == []
    assert state.resources.total[f"CPU_group_{A.hex()}"] == UNIT


def test_a_bundle_that_waits_in_the_queue_is_not_passed_for_ever_by_small_leases() -> None:
    """A bundle of two CPUs waits, while small leases come and go so that one of them is always in use."""
    state = node(CPU=2)
    run(state, request(1, CPU=1))
    run(state, request(2, CPU=2))  # the bundle
    newest = 1
    for lease_id in range(3, 200):
        run(state, request(lease_id, CPU=1))
        run(state, Return(newest))
        if lease_id not in state.granted:
            break
        newest = lease_id
    assert 2 in state.granted


class LeasesInGroups(Leases):
    """The same, with bundles that come and go."""

    reservations = Bundle("reservations")

    @rule(
        target=Leases.leases,
        group=st.sampled_from([A, B]),
        index=st.sampled_from([-1, 0, 1]),
        demand=st.fixed_dictionaries(
            {},
            optional={"CPU": st.sampled_from([0, 5_000, UNIT]), "GPU": st.sampled_from([UNIT, 5_000, 7_000])},
        ),
    )
    def ask_in_group(self, group: bytes, index: int, demand: dict[str, int]) -> int:
        self.next_lease_id += 1
        self.feed(Request(self.next_lease_id, "ann", demand, "f", Strategy(group=InGroup(group, index))))
        return self.next_lease_id

    @rule(
        target=reservations,
        demand=st.sampled_from([{"CPU": UNIT}, {"CPU": 2 * UNIT, "GPU": UNIT}, {"GPU": 5_000}, {"GPU": 2 * UNIT}]),
    )
    def reserve(self, demand: dict[str, int]) -> int:
        self.next_lease_id += 1
        self.feed(Request(self.next_lease_id, "group", demand, "a bundle"))
        return self.next_lease_id

    @rule(lease_id=consumes(reservations), group=st.sampled_from([A, B]), index=st.sampled_from([0, 1]))
    def commit(self, lease_id: int, group: bytes, index: int) -> None:
        if lease_id in self.state.granted and index not in self.state.bundles.get(group, {}):
            self.feed(CommitBundle(lease_id, group, index))
        else:  # the whole of it could not be had
            self.over.add(lease_id)
            self.feed(Return(lease_id))

    @rule(group=st.sampled_from([A, B]))
    def drop(self, group: bytes) -> None:
        self.over |= set(self.state.bundles.get(group, {}).values())
        self.feed(DropGroup(group))

    def teardown(self) -> None:
        for group in (A, B):
            self.drop(group)
        super().teardown()


TestLeasesInGroups = LeasesInGroups.TestCase
