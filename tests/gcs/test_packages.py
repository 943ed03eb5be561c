from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aioray_node.gcs.packages import (
    Asked,
    Command,
    Event,
    NodeGone,
    NotAlone,
    Offered,
    Remove,
    Send,
    Sent,
    State,
    Tell,
    Used,
    UserGone,
    begin,
    check,
    handle,
    takes,
)

A, B, C = b"nodA", b"nodB", b"nodC"
JOB, OTHER_JOB, ACTOR = b"job-one-", b"job-two-", b"actor-----------"


def run(state: State, event: Event) -> list[Command]:
    commands = handle(state, event)
    check(state)
    return commands


def test_on_one_machine_nothing_is_stored_until_a_node_asks() -> None:
    """
    1. two jobs have a package on a node; nobody needs it elsewhere
    2. two nodes ask, one while it is sent: both are told when it is there, and who asks later is told at once
    3. both jobs end: it is removed
    """
    state = State()
    assert run(state, Offered("p", JOB, A)) == []
    assert run(state, Offered("p", OTHER_JOB, A)) == []
    assert run(state, Asked("p", B)) == [Send(A, "p", "1")]
    assert run(state, Asked("p", C)) == []
    assert run(state, Sent("p", "1", 3)) == [Tell(B, "p", "1", 3), Tell(C, "p", "1", 3)]
    assert run(state, Asked("p", B)) == [Tell(B, "p", "1", 3)]
    assert run(state, UserGone(JOB)) == []
    assert run(state, UserGone(OTHER_JOB)) == [Remove("p", "1")]
    assert state == State(uploads=1)


def test_with_several_machines_it_is_stored_at_once() -> None:
    state = State()
    assert run(state, Offered("p", JOB, A)) == []
    assert run(state, NotAlone()) == [Send(A, "p", "1")]
    assert run(state, NotAlone()) == []
    assert run(state, Offered("q", JOB, A)) == [Send(A, "q", "2")]
    assert run(state, Sent("p", "1", 1)) == []
    assert run(state, Asked("p", B)) == [Tell(B, "p", "1", 1)]


def test_a_node_that_dies_while_it_sends_is_replaced_by_another_that_has_it() -> None:
    """
    1. a and b have it, c asks, a sends; a dies: what it sent is removed, and b sends
    2. b dies, too: c is told; it is tried again when there is somebody who has it
    """
    state = State()
    run(state, Offered("p", JOB, A))
    run(state, Offered("p", JOB, B))
    assert run(state, Asked("p", C)) == [Send(A, "p", "1")]
    assert run(state, NodeGone(A)) == [Remove("p", "1"), Send(B, "p", "2")]
    assert run(state, Sent("p", "1", 3)) == []
    (removed, told) = run(state, NodeGone(B))
    assert removed == Remove("p", "2")
    assert told == Tell(C, "p", error="no node that has it is there any more")
    run(state, Offered("p", JOB, C))
    assert run(state, Asked("p", B)) == [Send(C, "p", "3")]


def test_what_is_stored_outlives_the_node_that_sent_it_and_with_an_actor_its_job() -> None:
    state = State()
    run(state, NotAlone())
    run(state, Offered("p", JOB, A))
    run(state, Sent("p", "1", 2))
    run(state, Used("p", ACTOR))
    assert run(state, NodeGone(A)) == []
    assert run(state, UserGone(JOB)) == []
    assert run(state, Asked("p", B)) == [Tell(B, "p", "1", 2)]
    assert run(state, UserGone(ACTOR)) == [Remove("p", "1")]


def test_what_cannot_be_stored_is_told_and_tried_again_for_who_asks_next() -> None:
    state = State()
    run(state, Offered("p", JOB, A))
    run(state, Asked("p", B))
    assert run(state, Sent("p", "1", 0, "no room")) == [Remove("p", "1"), Tell(B, "p", error="no room")]
    assert run(state, NotAlone()) == []
    assert run(state, Asked("p", B)) == [Send(A, "p", "2")]


def test_what_nobody_uses_any_more_is_refused_while_it_is_sent_and_to_who_asks() -> None:
    state = State()
    run(state, Offered("p", JOB, A))
    run(state, Asked("p", B))
    assert takes(state, "p", "1")
    assert run(state, UserGone(JOB)) == [Tell(B, "p", error="nobody uses it any more"), Remove("p", "1")]
    assert not takes(state, "p", "1")
    assert run(state, Sent("p", "1", 3)) == []
    assert run(state, Asked("p", B)) == [Tell(B, "p", error="nobody who uses it is there any more")]
    assert run(state, Used("p", ACTOR)) == []


def test_of_two_drivers_without_a_node_the_faster_one_is_taken() -> None:
    """
    1. both begin; the first that ends counts, and the other's pieces go; a third need not send
    2. one that dies in the middle leaves nothing
    """
    state = State()
    assert begin(state, "p", JOB) == "1"
    assert begin(state, "p", OTHER_JOB) == "2"
    assert run(state, Asked("p", B)) == []
    assert run(state, Sent("p", "2", 4)) == [Tell(B, "p", "2", 4)]
    assert run(state, Sent("p", "1", 4)) == [Remove("p", "1")]
    assert begin(state, "p", b"job-tre-") == ""
    assert begin(state, "q", JOB) == "3"
    assert run(state, UserGone(JOB)) == [Remove("q", "3")]


class Packages(RuleBasedStateMachine):
    """Any order of events: who asks hears once, and the store has just what somebody uses."""

    nodes = st.sampled_from([A, B, C])
    users = st.sampled_from([JOB, OTHER_JOB, ACTOR])
    names = st.sampled_from("pq")

    def __init__(self) -> None:
        super().__init__()
        self.state = State()
        self.asking: list[tuple[bytes, str]] = []
        self.sending: dict[tuple[str, str], bytes] = {}
        self.stored: set[tuple[str, str]] = set()

    def feed(self, event: Event) -> None:
        for command in handle(self.state, event):
            match command:
                case Send(node, name, upload):
                    assert not any(each == name for each, _ in self.sending), "it is sent already"
                    self.sending[name, upload] = node
                case Tell(node, name, upload, _, error):
                    self.asking.remove((node, name))
                    assert error or (name, upload) in self.stored
                case Remove(name, upload):
                    self.sending.pop((name, upload), None)
                    self.stored.discard((name, upload))
        check(self.state)

    @rule(name=names, user=users, node=nodes)
    def offer(self, name: str, user: bytes, node: bytes) -> None:
        self.feed(Offered(name, user, node))

    @rule(name=names, user=users)
    def use(self, name: str, user: bytes) -> None:
        self.feed(Used(name, user))

    @rule(user=users)
    def user_goes(self, user: bytes) -> None:
        self.feed(UserGone(user))
        self.sending = {key: who for key, who in self.sending.items() if who != user}

    @rule(name=names, node=nodes)
    def ask(self, name: str, node: bytes) -> None:
        if (node, name) not in self.asking:  # a node asks again when it was told
            self.asking.append((node, name))
            self.feed(Asked(name, node))

    @rule(name=names, user=users)
    def driver_begins(self, name: str, user: bytes) -> None:
        upload = begin(self.state, name, user)
        check(self.state)
        if upload:
            self.sending[name, upload] = user
        else:
            assert any(each == name for each, _ in self.stored)

    @rule(works=st.booleans(), data=st.data())
    def sent(self, works: bool, data: st.DataObject) -> None:
        if self.sending:
            name, upload = data.draw(st.sampled_from(sorted(self.sending)))
            del self.sending[name, upload]
            self.stored.add((name, upload))
            self.feed(Sent(name, upload, 1, "" if works else "no room"))
            assert works or (name, upload) not in self.stored

    @rule(node=nodes)
    def node_dies(self, node: bytes) -> None:
        self.asking = [each for each in self.asking if each[0] != node]
        self.feed(NodeGone(node))

    @rule()
    def machine_joins(self) -> None:
        self.feed(NotAlone())

    @invariant()
    def store_has_what_is_used(self) -> None:
        packages = self.state.packages
        assert self.stored == {(name, package.stored[0]) for name, package in packages.items() if package.stored}
        assert self.sending.keys() == {
            (name, upload) for name, package in packages.items() for upload in package.uploads
        }
        assert sorted(self.asking) == sorted((node, name) for name, each in packages.items() for node in each.askers)


TestPackages = Packages.TestCase
