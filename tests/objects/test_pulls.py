"""What a node asks whom for: stories, and a machine that loses, refuses and cancels whatever it can."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aioray.wire.values import object_id
from aioray_node.objects.pulls import (
    Arrived,
    AskBytes,
    AskWhere,
    Command,
    Complete,
    Deliver,
    Dial,
    Event,
    Fail,
    HangUp,
    Limits,
    LinkDown,
    LinkUp,
    NoMore,
    NoRoom,
    Quit,
    Refused,
    Reserve,
    Room,
    RoomFreed,
    SentOn,
    Served,
    State,
    Tick,
    Unreserve,
    Unwanted,
    WakeAt,
    Wanted,
    check,
    handle,
)

A, B, C = "/home", "/second", "/third"
X, Y, Z = (object_id(b"owner---", seq) for seq in (1, 2, 3))
GET, PREFETCH = 0, 1


def small() -> State:
    return State(Limits(chunk_nbytes=10, window=2, active=2, attempts=2, retry_s=1.0, full_wait_s=60.0))


def run(state: State, event: Event, now: float = 0.0) -> list[Command]:
    commands = handle(state, event, now)
    check(state)
    return [command for command in commands if not isinstance(command, WakeAt)]


def flowing(state: State, oid: bytes, nbytes: int, waiter: int = 1, priority: int = GET) -> list[Command]:
    """Up to the first questions for bytes of A."""
    run(state, Wanted(waiter, oid, nbytes, A, priority))
    run(state, Room(oid))
    run(state, LinkUp(A))
    return run(state, Served(A, oid))


def test_an_object_comes_in_chunks_a_few_at_a_time() -> None:
    """
    1. there is room: its home is dialled, and asked who sends it
    2. the home does: two chunks are asked for
    3. each that comes makes room for the next; the last one is shorter
    4. all are here: the home is told, and who waits
    """
    state = small()
    assert run(state, Wanted(1, X, 25, A)) == [Reserve(X, 25)]
    assert run(state, Room(X)) == [Dial(A)]
    assert run(state, LinkUp(A)) == [AskWhere(A, X, (), False)]
    assert run(state, Served(A, X)) == [AskBytes(A, X, 0, 10), AskBytes(A, X, 10, 10)]
    assert run(state, Arrived(A, X, 10)) == [AskBytes(A, X, 20, 5)]
    assert run(state, Arrived(A, X, 0)) == []
    assert run(state, Arrived(A, X, 20)) == [Quit(A, X, True), Complete(X, A), Deliver(1, X)]
    assert run(state, Tick(), now=31.0) == [HangUp(A)]
    assert run(state, LinkDown(A, "closed")) == []
    assert (state.pulls, state.begun, state.waiters, state.links) == ({}, {}, {}, {})


def test_who_wants_what_is_on_its_way_waits_with_the_others() -> None:
    state = small()
    flowing(state, X, 10)
    assert run(state, Wanted(2, X, 10, A)) == []
    assert run(state, Arrived(A, X, 0)) == [Quit(A, X, True), Complete(X, A), Deliver(1, X), Deliver(2, X)]


def test_after_a_lost_connection_only_what_is_missing_is_asked_for() -> None:
    state = small()
    flowing(state, X, 40)
    run(state, Arrived(A, X, 0))
    assert run(state, LinkDown(A, "reset"), now=5.0) == []
    assert run(state, Tick(), now=5.5) == []
    assert run(state, Tick(), now=6.0) == [Dial(A)]
    run(state, LinkUp(A))
    assert run(state, Served(A, X)) == [AskBytes(A, X, 10, 10), AskBytes(A, X, 20, 10)]


def test_a_home_that_cannot_be_reached_is_given_up_with_the_reasons() -> None:
    state = small()
    flowing(state, X, 40)
    run(state, LinkDown(A, "reset"))
    run(state, Tick(), now=1.0)
    failed = run(state, LinkDown(A, "connection refused"), now=1.0)
    assert failed == [
        Unreserve(X, f"no node sends it ({A}: reset; {A}: connection refused)"),
        Fail(1, X, f"no node sends it ({A}: reset; {A}: connection refused)"),
    ]


def test_what_will_never_be_had_is_not_tried_again() -> None:
    state = small()
    flowing(state, X, 40)
    assert Fail(1, X, f"no node sends it ({A}: it is dead)") in run(state, LinkDown(A, "it is dead", final=True))


def test_another_node_may_send_it_and_when_that_is_lost_the_home_names_one_more() -> None:
    """
    1. the home names B, which sends the first chunk and is lost
    2. the home is asked again, for anybody but B, and names C
    3. C has let go of its copy: the home sends the rest itself; what came from B is not asked for again
    """
    state = small()
    run(state, Wanted(1, X, 30, A))
    run(state, Room(X))
    run(state, LinkUp(A))
    assert run(state, SentOn(A, X, B)) == [Dial(B)]
    assert run(state, LinkUp(B)) == [AskWhere(B, X, (), True)]
    run(state, Served(B, X))
    run(state, Arrived(B, X, 0))
    assert run(state, LinkDown(B, "reset")) == [AskWhere(A, X, (B,), False)]
    assert run(state, SentOn(A, X, C)) == [Dial(C)]
    run(state, LinkUp(C))
    assert run(state, Refused(C, X, "not here")) == [AskWhere(A, X, (B, C), False)]
    assert run(state, Served(A, X)) == [AskBytes(A, X, 10, 10), AskBytes(A, X, 20, 10)]


def test_what_get_waits_for_goes_before_what_is_prefetched() -> None:
    """
    1. X is prefetched: two of its chunks are in flight
    2. Y is waited for: the next free places are its
    3. when all of Y has been asked for X goes on
    """
    state = small()
    flowing(state, X, 50, priority=PREFETCH)
    assert run(state, Wanted(2, Y, 20, A, GET)) == [Reserve(Y, 20)]
    assert run(state, Room(Y)) == [AskWhere(A, Y, (), False)]
    assert run(state, Served(A, Y)) == []
    assert run(state, Arrived(A, X, 0)) == [AskBytes(A, Y, 0, 10)]
    assert run(state, Arrived(A, X, 10)) == [AskBytes(A, Y, 10, 10)]
    assert run(state, Arrived(A, Y, 0)) == [AskBytes(A, X, 20, 10)]


def test_a_prefetched_object_that_somebody_waits_for_now_moves_to_the_front() -> None:
    state = small()
    for waiter, oid in enumerate((X, Y, Z)):
        run(state, Wanted(waiter, oid, 10, A, PREFETCH))
    assert run(state, Wanted(9, Z, 10, A, GET)) == [Reserve(Z, 10)]


def test_what_get_waits_for_takes_the_room_of_what_is_prefetched() -> None:
    """
    1. X is prefetched; there is no room for Y, which is waited for: X makes way, and Y asks again
    2. still none: nothing else can make way, so it waits
    3. memory is freed: Y gets room, and then X does
    """
    state = small()
    flowing(state, X, 10, priority=PREFETCH)
    run(state, Wanted(2, Y, 10, A))
    made_way = run(state, NoRoom(Y))
    assert made_way[:2] == [Quit(A, X, False), Unreserve(X, "its room was needed for what goes before it")]
    assert made_way[2:] == [Reserve(Y, 10)]
    assert run(state, NoRoom(Y)) == []
    assert run(state, RoomFreed()) == [Reserve(Y, 10), Reserve(X, 10)]


def test_who_waits_for_room_too_long_is_told_so() -> None:
    state = small()
    run(state, Wanted(1, X, 10, A))
    assert handle(state, NoRoom(X), 0.0) == [WakeAt(60.0)]
    assert run(state, Tick(), now=59.0) == []
    assert run(state, Tick(), now=60.0) == [Fail(1, X, "the object store had no room for its 10 bytes for 60 s")]


def test_what_can_never_have_room_fails_at_once() -> None:
    state = small()
    run(state, Wanted(1, X, 10, A))
    assert run(state, NoRoom(X, "too large")) == [Fail(1, X, "too large")]


def test_a_pull_that_nobody_wants_any_more_ends() -> None:
    state = small()
    flowing(state, X, 40)
    assert run(state, Unwanted(1)) == [Quit(A, X, False), Unreserve(X, "nobody waits for it any more")]
    assert run(state, Arrived(A, X, 0)) == []
    assert state.begun == {}


def test_a_pull_of_what_is_freed_at_home_fails() -> None:
    state = small()
    flowing(state, X, 40)
    assert Fail(1, X, "its node has freed it") in run(state, NoMore(X))


HOMES = [A, B]
OIDS = [X, Y, Z]


class Pulls(RuleBasedStateMachine):
    """A node that pulls three objects from three others, which break whatever can break."""

    def __init__(self) -> None:
        super().__init__()
        self.state = small()
        self.now = 0.0
        self.next_waiter = 0
        self.open: dict[int, bytes] = {}  # waiters that have heard nothing
        self.room: set[bytes] = set()
        self.questions: list[Reserve] = []
        self.dialled: list[str] = []
        self.up: set[str] = set()
        self.asked: list[AskWhere] = []
        self.flying: list[AskBytes] = []
        self.have: dict[bytes, set[int]] = {oid: set() for oid in OIDS}

    def feed(self, event: Event) -> None:
        for command in handle(self.state, event, self.now):
            match command:
                case Reserve():
                    self.questions.append(command)
                case Unreserve(oid):
                    self.room.discard(oid)
                    self.have[oid] = set()
                case Dial(address):
                    assert address not in self.dialled
                    assert address not in self.up
                    self.dialled.append(address)
                case HangUp(address):
                    assert address in self.up  # it may stay: `lose` says when it does not
                case AskWhere(address):
                    assert address in self.up
                    self.asked.append(command)
                case AskBytes(address, oid, start):
                    assert address in self.up
                    assert oid in self.room
                    assert start not in self.have[oid], "what is here is asked for again"
                    assert not any((fly.oid, fly.start) == (oid, start) for fly in self.flying), "asked for twice"
                    self.flying.append(command)
                case Quit(address, oid):
                    self.flying = [fly for fly in self.flying if (fly.address, fly.oid) != (address, oid)]
                    self.asked = [ask for ask in self.asked if (ask.address, ask.oid) != (address, oid)]
                case Complete(oid):
                    assert self.have[oid] == {0, 10, 20}, "it is not all here"
                    self.room.discard(oid)  # it is the store's now
                    self.have[oid] = set()
                case Deliver(waiter, oid) | Fail(waiter, oid):
                    assert self.open.pop(waiter) == oid, "told twice, or of something else"

    @rule(oid=st.sampled_from(OIDS), priority=st.sampled_from([GET, PREFETCH]))
    def want(self, oid: bytes, priority: int) -> None:
        self.next_waiter += 1
        self.open[self.next_waiter] = oid
        self.feed(Wanted(self.next_waiter, oid, 25, HOMES[OIDS.index(oid) % 2], priority))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(sorted(self.open)))
        del self.open[waiter]
        self.feed(Unwanted(waiter))

    @precondition(lambda self: self.questions)
    @rule(there_is=st.sampled_from(["room", "room", "room", "none", "never"]))
    def answer_about_room(self, there_is: str) -> None:
        oid = self.questions.pop(0).oid
        pull = self.state.pulls.get(oid)
        if there_is == "room":
            if pull is not None and pull.phase == "reserving":
                self.room.add(oid)
            self.feed(Room(oid))
        else:
            self.feed(NoRoom(oid, "too large" if there_is == "never" else ""))

    @rule()
    def free(self) -> None:
        self.feed(RoomFreed())

    @precondition(lambda self: self.dialled)
    @rule(works=st.booleans(), final=st.booleans())
    def connect(self, works: bool, final: bool) -> None:
        address = self.dialled.pop(0)
        if works:
            self.up.add(address)
            self.feed(LinkUp(address))
        else:
            self.feed(LinkDown(address, "refused", final))

    @precondition(lambda self: self.up)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        address = data.draw(st.sampled_from(sorted(self.up)))
        self.up.discard(address)
        self.flying = [fly for fly in self.flying if fly.address != address]
        self.asked = [ask for ask in self.asked if ask.address != address]
        self.feed(LinkDown(address, "reset"))

    @precondition(lambda self: self.asked)
    @rule(answer=st.sampled_from(["serve", "serve", "send on", "refuse"]), to=st.sampled_from([B, C]))
    def answer(self, answer: str, to: str) -> None:
        ask = self.asked.pop(0)
        if answer == "send on" and not ask.placed and to not in (ask.address, *ask.without):
            self.feed(SentOn(ask.address, ask.oid, to))
        elif answer == "refuse":
            self.feed(Refused(ask.address, ask.oid, "not here"))
        else:
            self.feed(Served(ask.address, ask.oid))

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def arrive(self, data: st.DataObject) -> None:
        fly = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        self.have[fly.oid].add(fly.start)
        self.feed(Arrived(fly.address, fly.oid, fly.start))

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def refuse_bytes(self, data: st.DataObject) -> None:
        lost = data.draw(st.sampled_from(self.flying))
        self.flying = [fly for fly in self.flying if (fly.address, fly.oid) != (lost.address, lost.oid)]
        self.feed(Refused(lost.address, lost.oid, "not any more"))

    @rule(oid=st.sampled_from(OIDS))
    def freed_at_home(self, oid: bytes) -> None:
        self.feed(NoMore(oid))

    @rule(seconds=st.sampled_from([0.1, 1.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.feed(Tick())

    @invariant()
    def the_books_agree(self) -> None:
        check(self.state)
        assert self.state.waiters == self.open
        waiting = {oid for oid, pull in self.state.begun.items() if pull.phase != "reserving"}
        assert waiting == self.room

    def teardown(self) -> None:
        """When everything works, everybody hears, and nothing is left."""
        for _ in range(20):
            if not self.open:
                break
            self.now += 10.0
            self.feed(Tick())
            self.feed(RoomFreed())
            for _ in range(len(self.questions)):
                self.answer_about_room("room")
            for _ in range(len(self.dialled)):
                self.connect(True, False)
            for _ in range(len(self.asked)):
                self.answer("serve", B)
            while self.flying:
                fly = self.flying.pop()
                self.have[fly.oid].add(fly.start)
                self.feed(Arrived(fly.address, fly.oid, fly.start))
            check(self.state)
        assert self.open == {}, "somebody hears nothing"
        assert (self.state.pulls, self.state.begun, self.state.waiters, self.room) == ({}, {}, {}, set())


TestPulls = Pulls.TestCase
TestPulls.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
