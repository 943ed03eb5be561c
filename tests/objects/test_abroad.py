"""What a node asks other nodes for, on behalf of its processes: stories, and any order of events."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aioray.wire.values import Value, object_id, process_id_of_node, worker_process_id
from aioray_node.objects.abroad import (
    OWNERS_NODE_GONE,
    Beside,
    Command,
    Event,
    FetchAtHome,
    Give,
    GiveUp,
    Held,
    HoldAtHome,
    NodeGone,
    ProcessGone,
    Pull,
    Pulled,
    PullFailed,
    ReleaseAtHome,
    State,
    StopPull,
    Told,
    Unheld,
    Wanted,
    check,
    handle,
)

HERE, THERE, FAR = "aa" * 8, "bb" * 8, "cc" * 8
ANN, BOB = worker_process_id(HERE, 1), worker_process_id(HERE, 2)
OID = object_id(worker_process_id(THERE, 1), 7)
PREFIX = process_id_of_node(THERE)[:4]
SMALL = Value(b"small")
LARGE = Value(nbytes=64, offset=640, oid=OID, node_id=FAR)
COPY = Value(nbytes=64, offset=0, oid=OID, node_id=HERE)


def node() -> State:
    return State(HERE, process_id_of_node(HERE)[:4])


def run(state: State, event: Event) -> list[Command]:
    commands = handle(state, event)
    check(state)
    return commands


def test_a_small_value_is_asked_for_once_however_many_wait() -> None:
    state = node()
    assert run(state, Wanted(ANN, OID)) == [FetchAtHome(OID)]
    assert run(state, Wanted(BOB, OID)) == []
    assert run(state, Told(OID, SMALL)) == [Give(ANN, OID, SMALL), Give(BOB, OID, SMALL)]
    assert run(state, Told(OID, SMALL)) == []


def test_a_large_value_is_pulled_once_and_held_at_home_as_long_as_somebody_here_holds_it() -> None:
    """
    1. it lies on a third node: it is pulled, for both who wait
    2. who comes later has the copy at once
    3. nobody holds it any more: its home hears
    """
    state = node()
    assert run(state, Held(OID)) == [HoldAtHome(OID)]
    assert run(state, Wanted(ANN, OID)) == [FetchAtHome(OID)]
    assert run(state, Told(OID, LARGE)) == [Pull(LARGE, True)]
    assert run(state, Wanted(BOB, OID, LARGE)) == []
    assert run(state, Pulled(OID, COPY)) == [Give(ANN, OID, COPY), Give(BOB, OID, COPY)]
    assert run(state, Wanted(ANN, OID, COPY)) == [Give(ANN, OID, COPY)]
    assert run(state, Held(OID)) == []
    assert run(state, Unheld(OID)) == [ReleaseAtHome(OID)]


def test_a_value_whose_place_is_known_is_pulled_without_asking_its_home() -> None:
    assert run(node(), Wanted(ANN, OID, LARGE)) == [Pull(LARGE, True)]


def test_what_lies_in_the_memory_of_a_node_of_this_machine_is_read_there_until_that_is_gone() -> None:
    state = node()
    run(state, Beside(FAR))
    assert run(state, Wanted(ANN, OID, LARGE)) == [Give(ANN, OID, LARGE)]
    assert run(state, Wanted(BOB, OID)) == [FetchAtHome(OID)]
    assert run(state, Told(OID, LARGE)) == [Give(BOB, OID, LARGE)]
    run(state, NodeGone(process_id_of_node(FAR)[:4]))
    assert run(state, Wanted(ANN, OID, LARGE)) == [Pull(LARGE, True)]


def test_what_cannot_be_pulled_is_given_up_by_all_who_wait() -> None:
    state = node()
    run(state, Wanted(ANN, OID, LARGE))
    run(state, Wanted(BOB, OID, LARGE))
    assert run(state, PullFailed(OID, "gone")) == [GiveUp(ANN, OID, "gone"), GiveUp(BOB, OID, "gone")]


def test_nobody_waits_any_more_so_it_is_not_pulled_any_more() -> None:
    state = node()
    run(state, Wanted(ANN, OID, LARGE))
    run(state, Wanted(BOB, OID, LARGE))
    assert run(state, ProcessGone(ANN)) == []
    assert run(state, ProcessGone(BOB)) == [StopPull(OID)]
    assert run(state, Wanted(ANN, OID, LARGE)) == [Pull(LARGE, True)]


def test_what_was_to_be_needed_later_is_hastened_once_when_somebody_waits() -> None:
    state = node()
    assert run(state, Wanted(ANN, OID, LARGE, is_urgent=False)) == [Pull(LARGE, False)]
    assert run(state, Wanted(BOB, OID, LARGE, is_urgent=False)) == []
    assert run(state, Wanted(ANN, OID, LARGE)) == [Pull(LARGE, True)]
    assert run(state, Wanted(BOB, OID, LARGE)) == []
    assert run(state, Pulled(OID, COPY)) == [Give(ANN, OID, COPY), Give(BOB, OID, COPY)]


def test_a_home_that_dies_answers_nobody_any_more() -> None:
    """
    1. one waits for its answer: it hears at once
    2. another knows where the value lies: it can have it all the same
    """
    state = node()
    run(state, Held(OID))
    run(state, Wanted(ANN, OID))
    assert run(state, NodeGone(PREFIX)) == [GiveUp(ANN, OID, OWNERS_NODE_GONE, owner_died=True)]
    assert run(state, Wanted(ANN, OID)) == [GiveUp(ANN, OID, OWNERS_NODE_GONE, owner_died=True)]
    assert run(state, Wanted(ANN, OID, LARGE)) == [Pull(LARGE, True)]
    assert run(state, Unheld(OID)) == []


PROCESSES = [worker_process_id(HERE, n) for n in range(1, 4)]
OIDS = [object_id(worker_process_id(home, 1), seq) for home in (HERE, THERE, FAR) for seq in (1, 2)]


class Abroad(RuleBasedStateMachine):
    """Whoever waits is answered once, with something that can be read here, or hears why not; no pull is left."""

    def __init__(self) -> None:
        super().__init__()
        self.state = node()
        self.waiting: dict[bytes, set[bytes]] = {oid: set() for oid in OIDS}
        self.pulling: set[bytes] = set()
        self.held: set[bytes] = set()

    def feed(self, event: Event) -> None:
        for command in handle(self.state, event):
            match command:
                case Give(process, oid, value):
                    assert process in self.waiting[oid]
                    assert self.state.is_here(value)
                    self.waiting[oid].discard(process)
                case GiveUp(process, oid):
                    assert process in self.waiting[oid]
                    self.waiting[oid].discard(process)
                case Pull(value):
                    self.pulling.add(value.oid)
                case StopPull(oid):
                    self.pulling.remove(oid)
                case HoldAtHome(oid):
                    self.held.add(oid)
                case ReleaseAtHome(oid):
                    self.held.remove(oid)

    @rule(process=st.sampled_from(PROCESSES), oid=st.sampled_from(OIDS), knows=st.booleans(), is_urgent=st.booleans())
    def want(self, process: bytes, oid: bytes, knows: bool, is_urgent: bool) -> None:
        self.waiting[oid].add(process)
        where = Value(nbytes=64, oid=oid, node_id=FAR)
        self.feed(Wanted(process, oid, where if knows or oid[:4] == self.state.prefix else None, is_urgent))

    @rule(oid=st.sampled_from(OIDS), large=st.booleans())
    def tell(self, oid: bytes, large: bool) -> None:
        if oid in self.state.asked:
            self.feed(Told(oid, Value(nbytes=64, oid=oid, node_id=FAR) if large else SMALL))

    @rule(oid=st.sampled_from(OIDS), well=st.booleans())
    def end_pull(self, oid: bytes, well: bool) -> None:
        if oid in self.pulling:
            self.pulling.remove(oid)
            self.feed(Pulled(oid, Value(nbytes=64, oid=oid, node_id=HERE)) if well else PullFailed(oid, "no"))

    @rule(oid=st.sampled_from(OIDS), held=st.booleans())
    def hold(self, oid: bytes, held: bool) -> None:
        self.feed(Held(oid) if held else Unheld(oid))

    @rule(process=st.sampled_from(PROCESSES))
    def lose_process(self, process: bytes) -> None:
        for waiting in self.waiting.values():
            waiting.discard(process)
        self.feed(ProcessGone(process))

    @rule()
    def find_beside(self) -> None:
        self.feed(Beside(FAR))

    @rule(node_id=st.sampled_from([THERE, FAR]))
    def lose_node(self, node_id: str) -> None:
        prefix = process_id_of_node(node_id)[:4]
        self.held = {oid for oid in self.held if oid[:4] != prefix}
        self.feed(NodeGone(prefix))

    @invariant()
    def the_books_agree(self) -> None:
        check(self.state)
        assert {oid: set(processes) for oid, processes in self.state.waiters.items()} == {
            oid: processes for oid, processes in self.waiting.items() if processes
        }
        assert self.state.pulling.keys() == self.pulling
        assert self.state.held == self.held

    def teardown(self) -> None:
        for node_id in (THERE, FAR):
            self.lose_node(node_id)
        for oid in OIDS:
            self.end_pull(oid, False)
            self.hold(oid, False)
        assert not any(self.waiting.values()), self.state
        assert not self.pulling


TestAbroad = Abroad.TestCase
